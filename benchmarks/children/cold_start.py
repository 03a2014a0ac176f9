"""One cold start: ARGV is MODULE, EVENT_FILE and the folders that stand for /var/task and /opt.

The clock starts at the first line and stops when the handler has returned.
"""

import time

_BEGAN, _BEGAN_CPU = time.perf_counter(), time.process_time()

import importlib  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402


class Context:
    """What the handlers look at in Lambda's context."""

    function_name = "bench"
    memory_limit_in_mb = 512
    invoked_function_arn = "arn:aws:lambda:eu-west-1:111122223333:function:bench"
    aws_request_id = "8b1d5c5a-9d0e-4d3c-a7a2-4f8f0f5d2c11"

    @staticmethod
    def get_remaining_time_in_millis() -> int:
        """Enough."""
        return 50_000


module, event_file, *folders = sys.argv[1:]
sys.path[:0] = folders
handler = importlib.import_module(module).lambda_handler
with open(event_file, encoding="utf-8") as file:  # noqa: PTH123 - pathlib is an import
    response = handler(json.load(file), Context)
seconds, cpu_seconds = time.perf_counter() - _BEGAN, time.process_time() - _BEGAN_CPU
has_vended = response.get("statusCode") == 200
has_renewed = [g["state"] for g in response.get("grants", {}).values()] == ["renewed"]
if not (has_vended or has_renewed):
    raise SystemExit(f"neither a token nor a renewal: status {response.get('statusCode')}")
print()
print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "modules": len(sys.modules)}))
