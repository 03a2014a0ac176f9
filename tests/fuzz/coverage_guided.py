"""One target under atheris, which ends the process: `… coverage_guided TARGET RUNS SEED FOLDER`."""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=[
        "enable_broker_client",
        "http.client",
        "tomllib",
        "urllib3.response",
        "token_broker",
        "token_refresher",
        "token_vendor",
    ]
):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    """Fuzz; libFuzzer's own lines on standard error tell how many inputs it were."""
    name, runs, seed, folder = sys.argv[1:]
    target = TARGETS[name]
    corpus = Path(folder, "corpus")
    corpus.mkdir()
    for number, example in enumerate(target.examples):
        corpus.joinpath(f"example-{number}").write_bytes(example)

    def check(data: bytes) -> None:
        target.check(target.from_bytes(data))

    options = [f"-runs={runs}", f"-seed={seed}", f"-artifact_prefix={folder}/", "-max_len=4096"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
