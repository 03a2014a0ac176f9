"""`broker verify` against the deployed stack: what it finds, and each fault that is put into it."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from broker_cli.failures import ExitCode
from broker_cli.verify import active
from local.broker_stack import STACK_NAME, wait_until
from tests.deployed.conftest import Deployed
from tests.deployed.test_7_cli import BROKER, Cli

type Fault = Callable[[Deployed], AbstractContextManager[None]]

NOT_CHECKED = {
    "key use of token-refresher": "takes no notice of condition keys",
    "key use of token-vendor": "takes no notice of condition keys",
    "API endpoint": "names no endpoint type",
    "alarm receivers": "nobody is notified",
    "metric lines": "has made no metric",
}
"""What the embedded AWS cannot show, and why; besides, it has no metric of the functions' own."""

COUNTED_BY_AWS = {
    f"metric of {name}" for name in ("failed-runs", "renewals-stopped", "vend-crashes")
}
"""It has these once there was something to count."""


@pytest.fixture(scope="module")
def cli(renewed: Deployed) -> Cli:
    own = renewed.stack.aws.environ(renewed.stack.account)
    return Cli({name: value for name, value in own.items() if name.startswith("AWS_")})


def verdicts(output: dict) -> dict[str, str]:
    return {check["check"]: check["verdict"] for check in output["checks"]}


def test_verify_separates_what_passed_from_what_was_not_checked(cli: Cli):
    output = cli.json("verify")
    assert output["is_kept"]
    found = {check["check"]: check for check in output["checks"]}
    unknown = {name for name, check in found.items() if check["verdict"] == "not_checked"}
    metrics = {name for name in found if name.startswith("metric of ")}
    assert len(metrics) == 9
    assert unknown | COUNTED_BY_AWS == NOT_CHECKED.keys() | metrics
    assert {n for n, why in NOT_CHECKED.items() if why not in found[n]["found"]} == set()
    assert {verdict for name, verdict in verdicts(output).items() if name not in unknown} == {
        "passed"
    }


def test_verify_prints_a_line_for_each_check(cli: Cli):
    result = cli("verify")
    lines = result.stdout.splitlines()
    assert result.exit_code == 0
    assert "✓ API authorisation: AWS_IAM on all 4 methods" in lines
    assert "- API endpoint: not checked: API Gateway names no endpoint type" in lines
    assert "✗" not in result.stdout
    assert lines[-1].startswith("nothing is broken: ")


@contextmanager
def disabled_schedule(deployed: Deployed) -> Iterator[None]:
    client = deployed.stack.administrator.client("scheduler")
    name = deployed.stack.resource("TokenRefresherFunctionSchedule").rpartition("/")[2]
    taken = {"ScheduleExpression", "FlexibleTimeWindow", "Target", "Description"}
    found = {k: v for k, v in client.get_schedule(Name=name).items() if k in taken}
    client.update_schedule(Name=name, State="DISABLED", **found)
    try:
        yield
    finally:
        client.update_schedule(Name=name, State="ENABLED", **found)


@contextmanager
def broken_pattern(deployed: Deployed) -> Iterator[None]:
    """Takes no label event any more."""
    client = deployed.stack.administrator.client("events")
    name = deployed.stack.resource("TokenRefresherFunctionSecretChanged")
    whole = client.describe_rule(Name=name)["EventPattern"]
    pattern = json.loads(whole)
    pattern["$or"] = [part for part in pattern["$or"] if "resources" not in part]
    client.put_rule(Name=name, EventPattern=json.dumps(pattern), State="ENABLED")
    try:
        yield
    finally:
        client.put_rule(Name=name, EventPattern=whole, State="ENABLED")


@contextmanager
def role_without_a_statement(deployed: Deployed) -> Iterator[None]:
    """The vendor may not start the refresher any more."""
    client = deployed.stack.administrator.client("iam")
    named = {"RoleName": deployed.stack.resource("TokenVendorRole"), "PolicyName": "vend"}
    whole = client.get_role_policy(**named)["PolicyDocument"]
    rest = [s for s in whole["Statement"] if s["Action"] != "lambda:InvokeFunction"]
    client.put_role_policy(**named, PolicyDocument=json.dumps(whole | {"Statement": rest}))
    try:
        yield
    finally:
        client.put_role_policy(**named, PolicyDocument=json.dumps(whole))


@contextmanager
def alarm_with_another_dimension(deployed: Deployed) -> Iterator[None]:
    client = deployed.stack.administrator.client("cloudwatch")
    found = client.describe_alarms(AlarmNames=[f"{STACK_NAME}-vend-faults"])["MetricAlarms"][0]
    taken = client.meta.service_model.operation_model("PutMetricAlarm").input_shape.members
    alarm = {name: value for name, value in found.items() if name in taken}
    other = [{"Name": "service", "Value": "token-vender"}]
    client.put_metric_alarm(**alarm | {"Dimensions": other})
    try:
        yield
    finally:
        client.put_metric_alarm(**alarm)


@contextmanager
def method_without_iam(deployed: Deployed) -> Iterator[None]:
    client = deployed.stack.administrator.client("apigateway")
    api = deployed.stack.resource("TokenApi")
    items = client.get_resources(restApiId=api)["items"]
    resource = next(item["id"] for item in items if item["path"] == "/grants")

    def authorise(kind: str) -> None:
        operation = {"op": "replace", "path": "/authorizationType", "value": kind}
        client.update_method(
            restApiId=api, resourceId=resource, httpMethod="GET", patchOperations=[operation]
        )
        client.create_deployment(restApiId=api, stageName="v1")

    authorise("NONE")
    try:
        yield
    finally:
        authorise("AWS_IAM")


@pytest.mark.parametrize(
    ("fault", "broken", "expected"),
    [
        (disabled_schedule, "schedule", "it is DISABLED"),
        (broken_pattern, "event pattern", "it does not take: Secret Label Updated"),
        (role_without_a_statement, "role of token-vendor", "lambda:InvokeFunction on "),
        (alarm_with_another_dimension, "metric of vend-faults", "service=token-vender"),
        (method_without_iam, "API authorisation", "no IAM on GET /grants"),
    ],
    ids=["schedule", "pattern", "role", "alarm", "method"],
)
def test_verify_names_what_is_broken_and_exits_with_1(
    renewed: Deployed, cli: Cli, fault: Fault, broken: str, expected: str
):
    with fault(renewed):
        output = cli.json("verify", code=ExitCode.WRONG)
    found = next(check for check in output["checks"] if check["check"] == broken)
    assert output["broken"] == [broken]
    assert not output["is_kept"]
    assert expected in found["found"]
    assert found["next"]


def state(deployed: Deployed) -> dict[str, object]:
    """What the active checks change: an alarm, a parameter and the failures queue."""
    administrator = deployed.stack.administrator
    alarms = administrator.client("cloudwatch").describe_alarms()["MetricAlarms"]
    found = administrator.client("ssm").describe_parameters(
        ParameterFilters=[{"Key": "Name", "Option": "Contains", "Values": ["/verify/"]}]
    )
    return {
        "alarms": {a["AlarmName"]: a["StateValue"] for a in alarms},
        "parameters": [parameter["Name"] for parameter in found["Parameters"]],
    }


def test_active_checks_restore_what_they_change(
    renewed: Deployed, cli: Cli, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(active, "ACTION_SECONDS", 1.0)
    before = state(renewed)
    output = cli.json("verify", "--active")
    found = {check["check"]: check for check in output["checks"][-3:]}
    assert "knows no tiers here" in found["large token"]["found"]
    assert "names no action" in found["alarm reaches the topic"]["found"]
    assert found["failed run reaches the queue"]["verdict"] == "passed"
    assert state(renewed) == before
    assert "broker-verify" not in cli("failures", "--json").stdout


def test_interrupted_active_check_restores_what_it_changed(renewed: Deployed, cli: Cli):
    before, alarm = state(renewed), f"{STACK_NAME}-vend-faults"
    assert before["alarms"][alarm] != "ALARM"
    with subprocess.Popen(
        [BROKER, "verify", "--active"],
        env={**os.environ, **cli.environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_until(lambda: state(renewed)["alarms"][alarm] == "ALARM", seconds=60, what="the alarm")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (ExitCode.INTERRUPTED, "interrupted\n")
    assert state(renewed) == before
