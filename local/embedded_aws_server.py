"""The embedded AWS as a child process; started by `local.embedded_aws`, not by hand.

Runs ministack in this process, corrected where it differs from AWS (`local.embedded`), and with
four things changed that a template cannot see:

- functions run in a bare interpreter, so that a package of the development environment never
  stands in for a requirement that was forgotten;
- a scheduler's minute may last fewer seconds, so that a rate(1 minute) schedule really fires
  within a demo or a test;
- what each role requests, and whether IAM allows it, is written to `iam.jsonl` in its folder;
- the server ends with the process that started it, however that one ended.
"""

import os
import resource
import signal
import sys
import threading
from pathlib import Path

from ministack import app
from ministack.services import eventbridge, scheduler

from local import embedded
from local.embedded.record import record_requests_of_roles


def _end_with_parent() -> None:
    """Standard input is a pipe from the parent: it ends when the parent does."""
    while sys.stdin.buffer.read(4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _shorten_minute(seconds: float) -> None:
    # Private names of a pinned release: nothing public does it.
    parse = eventbridge._parse_rate_seconds

    def parse_scaled(expression: str) -> float | None:
        interval: int | None = parse(expression)
        return interval * seconds / 60 if interval else None

    eventbridge._parse_rate_seconds = parse_scaled
    scheduler._SCHEDULE_TICK_INTERVAL = min(1.0, seconds / 10)


def main() -> None:
    """Serve until the parent ends or SIGTERM comes: ARGV is PYTHON and MINUTE_SECONDS."""
    lambda_python, minute_seconds = sys.argv[1:]
    sys.argv = ["ministack"]
    sys.executable = lambda_python
    _shorten_minute(float(minute_seconds))
    embedded.correct()
    record_requests_of_roles(Path.home() / "iam.jsonl")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash leaves no token in a file
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to handle: it ends us in order
    threading.Thread(target=_end_with_parent, daemon=True).start()
    app.main()


if __name__ == "__main__":
    main()
