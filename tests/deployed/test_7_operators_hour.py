"""The commands of docs/operate.md, typed one after the other as the page has them.

In a copy of the working tree, so that a `make up` of the person who runs the tests goes on.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import jsonschema
import pytest

from broker_cli.schemas import SCHEMAS
from local.broker_stack import ROOT

pytestmark = [
    pytest.mark.slow("`make up`, and every command of a page, one after the other"),
    pytest.mark.timeout(500),
    pytest.mark.skipif(sys.platform == "darwin", reason="its bash is too old for BASH_XTRACEFD"),
]

PAGE = ROOT / "docs/operate.md"
BLOCK = re.compile(
    r"^<!-- runs: (?P<when>the hour|against make up) -->\n```sh\n(?P<code>.*?)^```",
    re.DOTALL | re.MULTILINE,
)
TOKEN = re.compile(r"eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}")
MARK = "@@ block"


@dataclass(frozen=True)
class Block:
    """One block of the page, below its heading."""

    heading: str
    code: str


@dataclass(frozen=True)
class Hour:
    """What came of it.

    Attributes:
        printed: what each block printed.
        failed: the commands that did not end with 0, with their exit codes.
        typed: every command as the shell ran it, arguments expanded.
        secret: what was stored, JSON.
        token: one that was vended.
        kept: where what was looked at in between lies.
        tree: where it was typed.
    """

    printed: tuple[tuple[Block, str], ...]
    failed: tuple[str, ...]
    typed: str
    secret: str = field(repr=False)
    token: str = field(repr=False)
    kept: Path
    tree: Path

    def below(self, heading: str) -> str:
        """What the blocks below a heading printed."""
        return "".join(text for block, text in self.printed if block.heading == heading)


def blocks() -> list[Block]:
    """In the order of the page, but the end of the hour comes last."""
    page = PAGE.read_text(encoding="utf-8")
    hour, alarms = [], []
    for match in BLOCK.finditer(page):
        heading = re.findall(r"^#+ (.+)$", page[: match.start()], re.MULTILINE)[-1]
        wanted = hour if match["when"] == "the hour" else alarms
        wanted.append(Block(heading, match["code"]))
    end = [block for block in hour if block.heading == "Remove everything"]
    return [block for block in hour if block not in end] + alarms + end


LOOK = r"""
{ cat .local/enable.json > "$KEPT/enable.json"; ls -l .local > "$KEPT/files"
  (. .local/caller.env; broker token deals > "$KEPT/token")
  broker doctor --json > "$KEPT/doctor.json"; make up > "$KEPT/again"
  cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ > "$KEPT/processes"; } 2>/dev/null 7>/dev/null
"""
"""What only the test does, while everything is up."""


def _script(wanted: list[Block]) -> str:
    """All in one shell, as a person would; `7` and `8` tell what was typed and what failed."""
    lines = [
        'exec 7>"$KEPT/typed" 8>"$KEPT/failed"; BASH_XTRACEFD=7',
        "set -E; trap 'echo \"$? $BASH_COMMAND\" >&8' ERR",
    ]
    for number, block in enumerate(wanted):
        if block.heading == "Remove everything":
            lines += ["trap - ERR", LOOK, "trap 'echo \"$? $BASH_COMMAND\" >&8' ERR"]
        lines += [f"echo '{MARK} {number}'", "set -x", block.code, "{ set +x; } 2>/dev/null"]
    return "\n".join(lines)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working tree's own files and, as after `make`, an environment: this one's."""
    folder = tmp_path_factory.mktemp("operator") / "broker"
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("layers", "functions", "clients", "cli", "local", "tools", "requirements"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for name in ("template.yaml", "samconfig.toml", "Makefile", "pyproject.toml"):
        shutil.copy2(ROOT / name, folder / name)
    for name in ("README.md", "LICENSE"):
        shutil.copy2(ROOT / name, folder / name)
    (folder / ".venv").mkdir()
    for entry in Path(sys.prefix).iterdir():
        if entry.name != ".installed":
            (folder / ".venv" / entry.name).symlink_to(entry)
    (folder / ".venv/.installed").touch()  # newer than what make compares it with
    return folder


@pytest.fixture(scope="module")
def hour(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Hour:
    kept = tmp_path_factory.mktemp("kept")
    wanted = blocks()
    own = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("AWS_", "BROKER_", "SAM_", "MAKE", "MFLAGS"))
    }
    environ = own | {
        "PATH": f"{Path(sys.prefix) / 'bin'}:{own['PATH']}",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "TMPDIR": str(tree.parent),
        "LC_ALL": "C.UTF-8",
        "COLUMNS": "100",
        "KEPT": str(kept),
    }
    output = kept / "output"
    try:
        with output.open("wb") as file:
            process = subprocess.Popen(
                ["bash", "-c", _script(wanted)],  # noqa: S607 - the reader's
                cwd=tree,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                process.wait(400)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGINT)  # `make up` then ends what it has begun
                process.wait(30)
    finally:
        down = ["make", "down"]
        subprocess.run(down, cwd=tree, env=environ, check=False, capture_output=True)
    parts = re.split(rf"^{MARK} \d+\n", output.read_text(), flags=re.MULTILINE)[1:]
    return Hour(
        printed=tuple(zip(wanted, parts, strict=True)),
        failed=tuple((kept / "failed").read_text().splitlines()),
        typed=(kept / "typed").read_text(),
        secret=_taken(kept / "enable.json"),
        token=_taken(kept / "token"),
        kept=kept,
        tree=tree,
    )


def _taken(file: Path) -> str:
    """Read a file and delete it."""
    text = file.read_text()
    file.unlink()
    return text


def test_every_block_marked_as_run_is_run():
    assert len(blocks()) == PAGE.read_text(encoding="utf-8").count("<!-- runs")


def test_only_the_intended_commands_fail(hour: Hour):
    assert hour.failed == ("1 broker secret set --from-file -", "1 broker doctor"), hour.printed


def test_everything_comes_up_and_is_well(hour: Hour):
    assert "The broker is up" in hour.below("Bring it up")
    assert "Enable took it" in hour.below("Store the secret")
    look = hour.below("Look")
    assert "4 of 4 grants served" in look
    assert look.endswith("all is well\n")


def test_second_make_up_changes_nothing_and_prints_the_same(hour: Hour):
    again = (hour.kept / "again").read_text()
    assert again.startswith("It runs already.")
    assert again.removeprefix("It runs already.").strip() == hour.below("Bring it up").strip()


def test_caller_gets_a_token_uses_it_and_is_seen(hour: Hour):
    output = hour.below("Get a token")
    assert "Roof tiles" in output
    assert "user/example-caller gets the token of deals" in output
    assert "token vended" in output


def test_wrong_secret_is_refused_and_one_that_got_in_is_found(hour: Hour):
    output = hour.below("Break it")
    assert "error: not stored: the token endpoint returned invalid_client" in output
    assert "wrong: credentials of default: " in output
    assert "next:  broker secret set" in output
    assert output.count("live, ") == 4  # and nobody is refused
    (documented,) = re.findall(r"^```text\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert [line for line in documented.splitlines() if line not in output.splitlines()] == []


def test_broker_is_well_again_after_the_fix(hour: Hour):
    assert hour.below("Fix it").endswith("all is well\n")


def test_doctor_reports_in_json_too_that_all_is_well(hour: Hour):
    output = json.loads((hour.kept / "doctor.json").read_text())
    jsonschema.validate(output, SCHEMAS["doctor"])
    assert (output["is_well"], output["first"]) == (True, "")
    assert {check["verdict"] for check in output["checks"]} == {"good"}


def test_commands_of_the_alarm_pages_work(hour: Hour):
    assert "4 of 4 grants served" in hour.below("token-close-to-expiry")
    assert json.loads(hour.below("renewals-failing").partition("\n{")[2].join(["{", ""]))["events"]
    assert "no run failed for good" in hour.below("failed-runs")
    assert "deals is not blocked" in hour.below("grant-blocked")
    assert "token vended" in hour.below("vend-faults")


def test_nothing_is_left(hour: Hour):
    output = hour.below("Remove everything")
    assert "Deleted successfully" in output
    assert output.endswith("down\n")
    assert [file.name for file in (hour.tree / ".local").iterdir()] == ["up.log"]
    assert [file.name for file in hour.tree.parent.iterdir()] == ["broker"]


def test_secret_and_tokens_were_never_typed_shown_or_in_a_process_list(hour: Hour):
    secret = json.loads(hour.secret)["client_secret"]
    assert len(secret) > 30
    assert TOKEN.fullmatch(hour.token.strip())
    seen = {name: (hour.kept / name).read_bytes().decode(errors="replace") for name in SEEN}
    assert "broker token deals --header" in seen["typed"]
    assert [name for name, text in seen.items() if secret in text or TOKEN.search(text)] == []
    if sys.platform == "linux":
        assert "local.up" in seen["processes"]


SEEN = ("output", "typed", "processes")


def test_files_with_credentials_are_the_owners_alone(hour: Hour):
    listed = (hour.kept / "files").read_text().splitlines()
    modes = {line.split()[-1]: line.split()[0] for line in listed[1:]}
    for name in ("caller.env", "enable.json", "operator.env", "up.json"):
        assert modes[name].startswith("-rw-------")
