"""The embedded AWS as a child process; started by `local.embedded_aws`, not by hand.

Runs ministack in this process with three things changed, none of which a template can see:

- functions run in a bare interpreter, so that a package of the development environment never
  stands in for a requirement that was forgotten;
- a scheduler's minute may last fewer seconds, so that a rate(1 minute) schedule really fires
  within a demo or a test;
- the server ends with the process that started it, however that one ended.
"""

import os
import signal
import sys
import threading

from ministack import app
from ministack.services import apigateway_v1, eventbridge, scheduler


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


def _apply_resource_policies() -> None:
    # As API Gateway does with an imported definition; this server reads only the Policy property.
    import_api = apigateway_v1._import_rest_api

    def import_with_policy(definition: dict[str, object], data: dict[str, object]) -> str:
        policy = definition.get("x-amazon-apigateway-policy")
        api_id: str = import_api(definition, {**data, "policy": data.get("policy") or policy})
        return api_id

    apigateway_v1._import_rest_api = import_with_policy


def main() -> None:
    """Serve until the parent ends or SIGTERM comes: ARGV is PYTHON and MINUTE_SECONDS."""
    lambda_python, minute_seconds = sys.argv[1:]
    sys.argv = ["ministack"]
    sys.executable = lambda_python
    _shorten_minute(float(minute_seconds))
    _apply_resource_policies()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to handle: it ends us in order
    threading.Thread(target=_end_with_parent, daemon=True).start()
    app.main()


if __name__ == "__main__":
    main()
