"""`python -m tests.soak`: see `--help`."""

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tests.soak.checker import check
from tests.soak.record import Record
from tests.soak.soak import Stop, soak
from tools.sam import ToolFailed

ENDED_EARLY: Final = 130
"""What a shell calls a program that Ctrl-C ended."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak, check, report; the exit status."""
    options = _parser().parse_args(arguments)
    stop = Stop()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.ask())
    begun = time.monotonic()

    def tell(text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - begun), 60)
        print(f"{minutes:3}:{seconds:02}  {text}", flush=True)  # noqa: T201

    with ExitStack() as files:
        file = None
        if options.record:
            options.record.mkdir(parents=True, exist_ok=True)
            path = options.record / f"seed-{options.seed}.jsonl"
            file = files.enter_context(path.open("w", buffering=1))
            tell(f"recording to {path}")
        record = Record(file)
        try:
            soak(
                record,
                seed=options.seed,
                seconds=options.minutes * 60,
                tell=tell,
                stop=stop,
                built=options.built,
            )
        except ToolFailed:
            if not stop.is_set():
                raise
    tell("nothing is left running")
    if stop.is_set() and not record.of("header"):
        print("ended before it began")  # noqa: T201
        return ENDED_EARLY
    report = check(record.entries)
    print(report.text())  # noqa: T201
    if stop.is_set():
        print("ended early: the counts are of what was seen until then")  # noqa: T201
    if report.violations:
        return 1
    return ENDED_EARLY if stop.is_set() else int(not report.is_conclusive)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak",
        description="Soak the deployed broker in faults, on an embedded AWS, and check from the "
        "record alone that it kept what docs/guarantees.md promises. Ctrl-C ends it in order and "
        "still reports. Exit status: 0, or 1 if a promise was not kept or there was nothing to "
        "decide it from, or 130 after Ctrl-C.",
    )
    parser.add_argument(
        "--minutes", type=float, default=10, help="how long faults are injected (default: 10)"
    )
    parser.add_argument("--seed", type=int, default=1, help="decides the faults (default: 1)")
    parser.add_argument(
        "--built",
        type=Path,
        metavar="FOLDER",
        help="deploy what `sam build --build-dir FOLDER` left there (default: build)",
    )
    parser.add_argument(
        "--record",
        type=Path,
        metavar="FOLDER",
        help="keep the record there, as JSON lines; tokens appear as fingerprints only. "
        "Check it again: python -m tests.soak.checker FOLDER/seed-1.jsonl",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
