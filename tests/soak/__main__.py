"""`python -m tests.soak`: see `--help`."""

import argparse
import logging
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.soak.checker import check
from tests.soak.record import Record
from tests.soak.soak import soak


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak, check, report; the exit status."""
    options = _parser().parse_args(arguments)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    logging.getLogger("enable_broker_client").addHandler(logging.NullHandler())
    begun = time.monotonic()

    def tell(text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - begun), 60)
        print(f"{minutes:3}:{seconds:02}  {text}", flush=True)  # noqa: T201

    with ExitStack() as files:
        file = None
        if options.record:
            options.record.mkdir(parents=True, exist_ok=True)
            path = options.record / f"seed-{options.seed}.jsonl"
            file = files.enter_context(path.open("w"))
            tell(f"recording to {path}")
        record = Record(file)
        soak(record, seed=options.seed, seconds=options.minutes * 60, tell=tell, stop=stop)
    report = check(record.entries)
    print(report.text())  # noqa: T201
    if stop.is_set():
        print("ended early, as asked; the counts are of what was seen until then")  # noqa: T201
    return 1 if report.violations or not report.is_conclusive else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak",
        description="Soak the deployed broker in faults, on an embedded AWS, and check from the "
        "record alone that it kept what docs/guarantees.md promises. Ctrl-C ends it in order and "
        "still reports. Exit status 1: a promise was not kept.",
    )
    parser.add_argument(
        "--minutes", type=float, default=10, help="how long faults are injected (default: 10)"
    )
    parser.add_argument("--seed", type=int, default=1, help="decides the faults (default: 1)")
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
