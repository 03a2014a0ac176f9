"""Warm requests in one process: ARGV is MODULE, EVENT_FILE, REQUESTS and the folders.

Prints each request's time in nanoseconds, on the clock and of this thread's processor time,
and how many AWS calls were made. The handler's own lines go to a file, line by line.
"""

import importlib
import json
import sys
import tempfile
import time
from typing import Any

WARM_UP = 300
_CALL = "_make_api_call"  # private, and what every call of every client goes through


class Context:
    """What the handlers look at in Lambda's context."""

    function_name = "bench"
    memory_limit_in_mb = 512
    invoked_function_arn = "arn:aws:lambda:eu-west-1:111122223333:function:bench"
    aws_request_id = "8b1d5c5a-9d0e-4d3c-a7a2-4f8f0f5d2c11"


def main() -> None:
    """Measure."""
    module, event_file, count, *folders = sys.argv[1:]
    sys.path[:0] = folders
    from botocore.client import BaseClient  # noqa: PLC0415 - on the path since a line ago

    calls: list[str] = []
    call = getattr(BaseClient, _CALL)

    def counted(client: Any, operation: str, arguments: dict[str, Any]) -> Any:
        calls.append(operation)
        return call(client, operation, arguments)

    setattr(BaseClient, _CALL, counted)
    output = sys.stdout
    with tempfile.TemporaryFile("w", buffering=1, encoding="utf-8") as lines:
        sys.stdout = lines
        handler = importlib.import_module(module).lambda_handler
        with open(event_file, encoding="utf-8") as file:  # noqa: PTH123
            text = file.read()
        for _ in range(WARM_UP):
            if handler(json.loads(text), Context)["statusCode"] != 200:
                raise SystemExit("no token")
        calls.clear()
        clock, cpu = [], []
        for _ in range(int(count)):
            event = json.loads(text)
            began, began_cpu = time.perf_counter_ns(), time.thread_time_ns()
            handler(event, Context)
            cpu.append(time.thread_time_ns() - began_cpu)
            clock.append(time.perf_counter_ns() - began)
        sys.stdout = output
    print(json.dumps({"clock": clock, "cpu": cpu, "aws_calls": len(calls)}), flush=True)


main()
