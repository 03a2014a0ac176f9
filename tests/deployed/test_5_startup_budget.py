"""What a start-up imports and a warm vend executes, counted and not timed: a regression guard.

A budget is what was counted when it was last looked at; 10 % more fails, so that 20 % surely do.
Where more is meant (a new Python, a new botocore, a feature worth it), put the numbers that the
failure shows into BUDGET, and say in the commit what they pay for.
"""

import json
import subprocess

import pytest

from local.broker_stack import ROOT
from tests.deployed.conftest import Deployed

BUDGET = {
    "modules": 398,
    "start_calls": 249_000,
    "warm_calls": 276,
    "warm_instructions": 3_623,
}
TOLERANCE = 1.1
PACKAGES = {
    "aws_lambda_powertools",
    "botocore",
    "dateutil",
    "jmespath",
    "six",
    "token_broker",
    "token_vendor",
    "typing_extensions",
    "urllib3",
}
PROBE = """
import json, os, sys
monitoring = sys.monitoring
counted = {}

def count(events, *, during):
    total = 0
    def one(*_):
        nonlocal total
        total += 1
    for event in events:
        monitoring.register_callback(monitoring.PROFILER_ID, event, one)
    monitoring.set_events(monitoring.PROFILER_ID, sum(events))
    result = during()
    monitoring.set_events(monitoring.PROFILER_ID, 0)
    for event in events:
        monitoring.register_callback(monitoring.PROFILER_ID, event, None)
    return total, result

class Context:
    function_name = "probe"
    memory_limit_in_mb = 512
    invoked_function_arn = "arn:aws:lambda:eu-west-1:111122223333:function:probe"
    aws_request_id = "52fdfc07-2182-454f-963f-5f0f9a621d72"

EVENT = json.loads(sys.argv[1])
sys.path[:0] = sys.argv[2:]

def start():
    from token_vendor.app import lambda_handler
    return lambda_handler, lambda_handler(EVENT, Context)

before = set(sys.modules)
monitoring.use_tool_id(monitoring.PROFILER_ID, "probe")
start_calls, (handler, response) = count([monitoring.events.CALL], during=start)
modules = len(sys.modules)
folders = tuple(sys.argv[2:])
packages = sorted({
    name.partition(".")[0]
    for name, module in sys.modules.items()
    if str(getattr(module, "__file__", "") or "").startswith(folders)
})

def vend():
    return handler(EVENT, Context)

def least(event):  # of several: one of them may have read the store again
    return min(count([event], during=vend)[0] for _ in range(5))

for _ in range(20):
    vend()
warm_calls = least(monitoring.events.CALL)
warm_instructions = least(monitoring.events.INSTRUCTION)
print()
print(json.dumps({
    "status": response["statusCode"],
    "packages": packages,
    "modules": modules,
    "start_calls": start_calls,
    "warm_calls": warm_calls,
    "warm_instructions": warm_instructions,
}))
"""


@pytest.fixture(scope="module")
def found(renewed: Deployed) -> dict[str, object]:
    """What the built vend function does from its first import on, served by the deployed store."""
    stack = renewed.stack
    event = json.loads((ROOT / "events" / "get_token_by_role.json").read_text())
    event |= {"path": "/tokens/deals", "pathParameters": {"grant": "deals"}}
    build = stack.build_folder
    run = subprocess.run(
        [
            *(stack.aws.folder / "lambda-python" / "bin" / "python", "-I", "-B", "-c", PROBE),
            json.dumps(event),
            build / "TokenVendorFunction",
            *(build / layer / "python" for layer in ("SharedLayer", "GrantsLayer")),
        ],
        env=stack.aws.environ(stack.account)
        | {
            "AWS_LAMBDA_FUNCTION_NAME": "probe",
            "TOKEN_PARAMETER_PREFIX": stack.outputs["TokenParameterPrefix"],
            "TOKEN_CACHE_SECONDS": "60",
            "REFRESH_AHEAD_SECONDS": "600",
            "REFRESH_FUNCTION_NAME": stack.outputs["RefreshFunctionName"],
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_probe_got_a_token(found: dict[str, object]):
    assert found["status"] == 200


@pytest.mark.parametrize("what", BUDGET)
def test_start_and_warm_vend_keep_their_budget(found: dict[str, object], what: str):
    assert found[what] <= TOLERANCE * BUDGET[what], f"counted: {found}"


def test_start_imports_no_other_package_of_ours(found: dict[str, object]):
    assert set(found["packages"]) == PACKAGES
