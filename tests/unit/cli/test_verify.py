"""The checks of `broker verify`, on the responses that AWS documents and the embedded AWS lacks."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber

from broker_cli.api import TokenApi
from broker_cli.aws import Stack
from broker_cli.verify import active, alarms, functions, roles, schedule, token_api
from broker_cli.verify.result import Deployment, Failed, NotChecked, Passed, Result, judge

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ACCOUNT, REGION = "111122223333", "eu-west-1"
TOPIC = f"arn:aws:sns:{REGION}:{ACCOUNT}:dev-AlarmTopic"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/dev-TokenVendorRole"
PARAMETERS = {
    "Architecture": "arm64",
    "RefreshIntervalSeconds": "60",
    "RequestsPerSecond": "0",
    "TokenCacheSeconds": "60",
    "VpcEndpointIds": "",
}


@dataclass
class StubbedSession:
    """A session of clients that return what was given to them, in that order, and nothing else."""

    region_name: str = REGION
    exits: ExitStack = field(default_factory=ExitStack)
    clients: dict[str, Any] = field(default_factory=dict)
    stubbers: dict[str, Stubber] = field(default_factory=dict)

    def client(self, service: str, **_: object) -> Any:
        if service not in self.clients:
            keys = {"aws_access_key_id": "AKIDEXAMPLE", "aws_secret_access_key": "any"}
            self.clients[service] = boto3.client(service, region_name=REGION, **keys)
            stubber = Stubber(self.clients[service])
            self.stubbers[service] = self.exits.enter_context(stubber)
        return self.clients[service]

    def returns(self, service: str, operation: str, *responses: dict) -> None:
        self.client(service)
        for response in responses:
            self.stubbers[service].add_response(operation, response)


@pytest.fixture
def aws() -> Iterator[StubbedSession]:
    session = StubbedSession()
    with session.exits:
        yield session
        for stubber in session.stubbers.values():
            stubber.assert_no_pending_responses()


@pytest.fixture
def deployment(aws: StubbedSession) -> Deployment:
    stack = Stack(
        name="dev",
        session=aws,
        status="UPDATE_COMPLETE",
        outputs={
            "TokenApiUrl": "https://a1b2c3.execute-api.eu-west-1.amazonaws.com/v1",
            "ClientSecretArn": f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:dev/x-AbCdEf",
            "TokenParameterPrefix": "/enable-tokens/dev",
        },
        parameters=dict(PARAMETERS),
        aws_time=NOW,
        asked_at=NOW,
    )
    logical_ids = ["TokenRefresherFunction", "TokenVendorFunction", "TokenApi", "BrokerKey"]
    logical_ids += ["TokenRefresherFunctionSecretChanged", "RefreshFailuresQueue"]
    resources = {name: f"dev-{name}" for name in logical_ids} | {"AlarmTopic": TOPIC}
    return Deployment(stack=stack, resources=resources, alarm_names=("dev-vend-faults",))


def refused(code: str) -> Callable[[Deployment], Result]:
    def check(_: Deployment) -> Result:
        raise ClientError({"Error": {"Code": code, "Message": "m"}}, "GetThing")

    return check


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("ResourceNotFoundException", Failed),
        ("NoSuchEntity", Failed),
        ("AccessDenied", NotChecked),
        ("NotImplemented", NotChecked),
        ("InvalidAction", NotChecked),
        ("400", NotChecked),
    ],
)
def test_error_of_aws_fails_a_check_only_if_the_resource_is_gone(
    deployment: Deployment, code: str, kind: type
):
    assert isinstance(judge(refused(code), deployment), kind)


def test_response_without_the_field_is_not_checked(deployment: Deployment):
    result = judge(lambda _: Passed({}["Policy"]), deployment)
    assert result == NotChecked("the response of AWS has no Policy")


def metric(*services: str) -> dict:
    """ListMetrics' response: a VendFault for each value of the dimension `service`."""
    found = [{"Name": "service", "Value": service} for service in services]
    name = {"Namespace": "EnableTokenBroker/dev", "MetricName": "VendFault"}
    return {"Metrics": [{**name, "Dimensions": [dimension]} for dimension in found]}


ALARM = {"AlarmName": "dev-vend-faults", **metric("token-vendor")["Metrics"][0]}
WITH_EXPRESSION = {
    "AlarmName": "dev-vend-faults",
    "Metrics": [
        {"Id": "filled", "Expression": "FILL(faults, 0)"},
        {"Id": "faults", "MetricStat": {"Metric": ALARM, "Period": 60, "Stat": "Sum"}},
    ],
}


@pytest.mark.parametrize("alarm", [ALARM, WITH_EXPRESSION], ids=["metric", "expression"])
@pytest.mark.parametrize(
    ("services", "kind"),
    [
        (["token-refresher", "token-vendor"], Passed),
        (["token-vender"], Failed),
        ([], NotChecked),
    ],
)
def test_metric_of_an_alarm_must_be_listed_with_the_same_dimensions(
    deployment: Deployment,
    aws: StubbedSession,
    alarm: dict,
    services: list[str],
    kind: type,
):
    alarm = json.loads(json.dumps(alarm))
    for part in alarm.get("Metrics", []):
        part.get("MetricStat", {}).get("Metric", {}).pop("AlarmName", None)
    aws.returns("cloudwatch", "describe_alarms", {"MetricAlarms": [alarm]})
    aws.returns("cloudwatch", "list_metrics", metric(*services))
    ((name, check),) = alarms.metric_checks(deployment)
    result = judge(check, deployment)
    assert name == "metric of vend-faults"
    assert isinstance(result, kind)
    assert ("only with service=token-vender" in str(result)) == (kind is Failed)


def test_alarm_must_tell_the_topic(deployment: Deployment, aws: StubbedSession):
    tells = {"ActionsEnabled": True, "AlarmActions": [TOPIC], "OKActions": [TOPIC]}
    for change, kind in (
        ({}, Passed),
        ({"ActionsEnabled": False}, Failed),
        ({"OKActions": []}, Failed),
        ({"AlarmActions": ["arn:aws:sns:eu-west-1:111122223333:another"]}, Failed),
    ):
        deployment.__dict__["alarms"] = {"dev-vend-faults": tells | change}
        assert isinstance(alarms.actions(deployment), kind)
    deployment.__dict__["alarms"] = {}
    assert alarms.actions(deployment) == Failed("deleted: dev-vend-faults")


@pytest.mark.parametrize(
    ("arns", "kind"),
    [
        ([f"{TOPIC}:0a1b"], Passed),
        ([f"{TOPIC}:0a1b", "PendingConfirmation"], Failed),
        ([], NotChecked),
    ],
)
def test_receiver_who_has_not_confirmed_receives_nothing(
    deployment: Deployment, aws: StubbedSession, arns: list[str], kind: type
):
    subscriptions = [{"SubscriptionArn": arn, "Protocol": "email"} for arn in arns]
    aws.returns("sns", "list_subscriptions_by_topic", {"Subscriptions": subscriptions})
    assert isinstance(alarms.receivers(deployment), kind)


@pytest.mark.parametrize(
    ("values", "services", "kind"),
    [
        ([[], []], ["token-refresher"], Passed),
        ([[], [2.0, 1.0]], None, Failed),
        ([[], []], [], NotChecked),
    ],
    ids=["no error", "errors", "no metric at all"],
)
def test_no_emf_error_counts_only_if_cloudwatch_makes_metrics_of_the_lines(
    deployment: Deployment,
    aws: StubbedSession,
    values: list[list[float]],
    services: list[str] | None,
    kind: type,
):
    results = [{"Id": str(number), "Values": found} for number, found in enumerate(values)]
    aws.returns("cloudwatch", "get_metric_data", *[{"MetricDataResults": results}] * 2)
    if services is not None:
        aws.returns("cloudwatch", "list_metrics", metric(*services))
    result = alarms.metric_lines(deployment)
    assert isinstance(result, kind)
    assert ("token-vendor: 3" in str(result)) == (kind is Failed)


def decided(aws: StubbedSession, operation: str, *decisions: tuple[str, bool]) -> None:
    for action, is_allowed in decisions:
        decision = "allowed" if is_allowed else "implicitDeny"
        result = {"EvalActionName": action, "EvalDecision": decision}
        aws.returns("iam", operation, {"EvaluationResults": [result]})


def of_the_vendor(deployment: Deployment, aws: StubbedSession, *, wrong: str = "") -> None:
    """What the simulator finds of the vendor's use of the key; one action may be found wrong."""
    for question in roles.vendor_questions(deployment):
        if question.context:
            results = [
                {
                    "EvalActionName": action,
                    "EvalDecision": "allowed"
                    if question.is_allowed != (action == wrong)
                    else "explicitDeny",
                }
                for action in question.actions
            ]
            aws.returns("iam", "simulate_principal_policy", {"EvaluationResults": results})


RIGHT = (("kms:Decrypt", True), ("kms:Decrypt", False))


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [("", Passed), ("kms:Decrypt", Failed), ("kms:Encrypt", Failed)],
    ids=["as it should be", "refused its job", "more than its job"],
)
def test_use_of_the_key_is_simulated_with_its_context(
    deployment: Deployment, aws: StubbedSession, wrong: str, kind: type
):
    deployment.__dict__["functions"] = {"TokenVendorFunction": {"Role": ROLE}}
    decided(aws, "simulate_custom_policy", *RIGHT)
    of_the_vendor(deployment, aws, wrong=wrong)
    result = roles.vendor_key(deployment)
    assert isinstance(result, kind)
    if wrong:
        assert f"{wrong} on arn:aws:kms:{REGION}:{ACCOUNT}:key/" in str(result)


@pytest.mark.parametrize("check", [roles.vendor_key, roles.vendor_role])
@pytest.mark.parametrize("known", [[True, True], [False]], ids=["yes", "no"])
def test_simulator_that_always_says_the_same_proves_nothing(
    deployment: Deployment, aws: StubbedSession, check: Callable, known: list[bool]
):
    deployment.__dict__["functions"] = {"TokenVendorFunction": {"Role": ROLE}}
    decided(aws, "simulate_custom_policy", *[("kms:Decrypt", allowed) for allowed in known])
    assert isinstance(check(deployment), NotChecked)


@pytest.mark.parametrize(
    ("results", "kind"),
    [
        ([False, True, *[True] * 4, *[False] * 4], Passed),
        ([False, True, True, True, True, False, *[False] * 0], Failed),
        ([False, True, *[True] * 4, *[True] * 4], Failed),
        ([True], NotChecked),
        ([False, False], NotChecked),
    ],
    ids=["right", "misses one", "takes another's", "always yes", "always no"],
)
def test_pattern_takes_four_events_and_none_of_another_secret(
    deployment: Deployment, aws: StubbedSession, results: list[bool], kind: type
):
    aws.returns("events", "describe_rule", {"EventPattern": "{}", "State": "ENABLED"})
    aws.returns("events", "test_event_pattern", *[{"Result": result} for result in results])
    assert isinstance(schedule.pattern(deployment), kind)


def test_four_events_name_the_secret_in_four_places():
    arn = "arn:aws-cn:secretsmanager:cn-north-1:444455556666:secret:x/connections/default-AbCdEf"
    events = schedule.secret_events(arn)
    assert len(events) == 4
    for event in events.values():
        assert (event["account"], event["region"]) == ("444455556666", "cn-north-1")
        assert json.dumps(event).count(arn) == 1


@pytest.mark.parametrize(
    ("settings", "wanted", "kind"),
    [
        ({}, "0", Passed),
        ({"*/*": {"throttlingRateLimit": 10.0, "throttlingBurstLimit": 10}}, "10", Passed),
        ({"*/*": {"throttlingRateLimit": 10.0, "throttlingBurstLimit": 10}}, "0", Failed),
        ({"*/*": {"throttlingRateLimit": 20.0, "throttlingBurstLimit": 10}}, "10", Failed),
        ({}, "10", Failed),
        ({"*/*": {"throttlingRateLimit": -1.0, "throttlingBurstLimit": -1}}, "0", Passed),
    ],
)
def test_throttling_is_what_the_parameter_says(
    deployment: Deployment, aws: StubbedSession, settings: dict, wanted: str, kind: type
):
    deployment.stack.parameters["RequestsPerSecond"] = wanted
    aws.returns("apigateway", "get_stage", {"methodSettings": settings})
    assert isinstance(token_api.throttling(deployment), kind)


@pytest.mark.parametrize(
    ("configuration", "given", "kind"),
    [
        ({"types": ["REGIONAL"]}, "", Passed),
        ({"types": ["REGIONAL"]}, "vpce-1", Failed),
        ({"types": ["PRIVATE"], "vpcEndpointIds": ["vpce-2", "vpce-1"]}, "vpce-1,vpce-2", Passed),
        ({"types": ["PRIVATE"], "vpcEndpointIds": ["vpce-2"]}, "vpce-1", Failed),
        ({}, "", NotChecked),
    ],
)
def test_endpoint_is_what_the_parameter_says(
    deployment: Deployment, aws: StubbedSession, configuration: dict, given: str, kind: type
):
    deployment.stack.parameters["VpcEndpointIds"] = given
    aws.returns("apigateway", "get_rest_api", {"endpointConfiguration": configuration})
    assert isinstance(token_api.endpoint(deployment), kind)


def test_policy_is_read_in_api_gateways_escaped_form(deployment: Deployment, aws: StubbedSession):
    wanted = json.dumps(token_api.expected_policy(ACCOUNT, PARAMETERS))
    open_policy = wanted.replace("Deny", "Allow")
    for text, kind in ((wanted, Passed), (open_policy, Failed), ("", Failed)):
        escaped = {"policy": text.replace('"', '\\"')} if text else {}
        aws.returns("apigateway", "get_rest_api", escaped)
        assert isinstance(token_api.policy(deployment), kind)


@pytest.mark.parametrize(("status", "kind"), [(403, Passed), (200, Failed), (404, Failed)])
def test_unsigned_call_that_gets_anything_but_403_fails(
    deployment: Deployment,
    aws: StubbedSession,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    kind: type,
):
    replies = {"/tokens/deals": status}
    monkeypatch.setattr(TokenApi, "unsigned", lambda _, __, path: replies.get(path, 403))
    result = token_api.unsigned(deployment)
    assert isinstance(result, kind)
    assert (f"GET /tokens/{{grant}}: {status}" in str(result)) == (kind is Failed)


@pytest.mark.parametrize(
    ("reserved", "left", "kind"),
    [({}, 990, Passed), ({}, 9, Failed), ({"ReservedConcurrentExecutions": 0}, None, Failed)],
)
def test_lambda_must_have_environments(
    deployment: Deployment, aws: StubbedSession, reserved: dict, left: int | None, kind: type
):
    aws.returns("lambda", "get_function_concurrency", reserved)
    if left is not None:
        aws.returns("lambda", "get_function_concurrency", {})
        limit = {"ConcurrentExecutions": 1000, "UnreservedConcurrentExecutions": left}
        aws.returns("lambda", "get_account_settings", {"AccountLimit": limit})
    assert isinstance(functions.concurrency(deployment), kind)


@pytest.mark.parametrize(
    ("grants", "setting", "kind"),
    [(4, "false", Passed), (300, "false", Failed), (300, "true", Passed), (4, "x", NotChecked)],
)
def test_parameter_stores_throughput_must_suffice_for_the_grants(
    deployment: Deployment,
    aws: StubbedSession,
    grants: int,
    setting: str,
    kind: type,
):
    aws.returns("ssm", "get_service_setting", {"ServiceSetting": {"SettingValue": setting}})
    if setting in functions.READS:
        stored = [
            {"Name": f"/enable-tokens/dev/grant-{n}", "LastModifiedDate": NOW, "Version": 1}
            for n in range(grants)
        ]
        aws.returns("ssm", "describe_parameters", {"Parameters": stored})
    assert isinstance(functions.throughput(deployment), kind)


@pytest.mark.parametrize(
    ("state", "rotation", "kind"),
    [("Enabled", [True], Passed), ("Enabled", [False], Failed), ("PendingDeletion", [], Failed)],
)
def test_key_must_be_usable_and_rotated(
    deployment: Deployment, aws: StubbedSession, state: str, rotation: list[bool], kind: type
):
    metadata = {"KeyId": "dev-BrokerKey", "KeyState": state}
    aws.returns("kms", "describe_key", {"KeyMetadata": metadata})
    for is_rotated in rotation:
        aws.returns("kms", "get_key_rotation_status", {"KeyRotationEnabled": is_rotated})
    assert isinstance(functions.key(deployment), kind)


@pytest.mark.parametrize(
    ("days", "name", "kind"),
    [(30, "token-vendor", Passed), (7, "token-vendor", Failed), (30, "token-vendor-2", Failed)],
)
def test_logs_must_be_there_and_kept(
    deployment: Deployment, aws: StubbedSession, days: int, name: str, kind: type
):
    for service, kept_for in (("token-refresher", 30), (name, days)):
        group = {"logGroupName": f"/enable-token-broker/dev/{service}", "retentionInDays": kept_for}
        aws.returns("logs", "describe_log_groups", {"logGroups": [group]})
    assert isinstance(functions.log_retention(deployment), kind)


def refuse(aws: StubbedSession, service: str, operation: str, code: str) -> None:
    aws.client(service)
    aws.stubbers[service].add_client_error(operation, service_error_code=code)


@pytest.mark.parametrize(
    ("stored", "kind"),
    [
        (("Advanced", "5a5a"), Passed),
        (("Advanced", "another"), Failed),
        (("Intelligent-Tiering", "5a5a"), NotChecked),
    ],
)
def test_large_token_is_read_back_and_its_parameter_removed(
    deployment: Deployment,
    aws: StubbedSession,
    monkeypatch: pytest.MonkeyPatch,
    stored: tuple[str, str],
    kind: type,
):
    tier, read_back = stored
    monkeypatch.setattr("secrets.token_hex", lambda _: "5a5a")
    aws.returns("ssm", "put_parameter", {"Version": 1, "Tier": tier})
    aws.returns("ssm", "get_parameter", {"Parameter": {"Value": read_back}})
    aws.stubbers["ssm"].add_response("delete_parameter", {}, {"Name": LARGE})
    assert isinstance(active.large_token(deployment), kind)


LARGE = "/enable-tokens/dev/verify/large"


@pytest.mark.parametrize(
    ("code", "kind"), [("ValidationException", Failed), ("AccessDeniedException", NotChecked)]
)
def test_large_token_that_is_refused_leaves_no_parameter(
    deployment: Deployment, aws: StubbedSession, code: str, kind: type
):
    aws.returns("ssm", "put_parameter", {"Version": 1, "Tier": "Advanced"})
    refuse(aws, "ssm", "get_parameter", code)
    aws.stubbers["ssm"].add_response("delete_parameter", {}, {"Name": LARGE})
    assert isinstance(judge(active.large_token, deployment), kind)


def test_parameter_that_cannot_be_removed_is_named(
    deployment: Deployment, aws: StubbedSession, capsys: pytest.CaptureFixture[str]
):
    refuse(aws, "ssm", "put_parameter", "AccessDeniedException")
    refuse(aws, "ssm", "delete_parameter", "AccessDeniedException")
    assert isinstance(judge(active.large_token, deployment), NotChecked)
    assert LARGE in capsys.readouterr().err


@pytest.mark.parametrize(
    ("summaries", "kind"),
    [
        ([f"Successfully executed action {TOPIC}"], Passed),
        ([f"Failed to execute action {TOPIC}. Received error: null"], Failed),
        (["Successfully executed action arn:aws:sns:eu-west-1:111122223333:another"], Failed),
        ([], NotChecked),
    ],
    ids=["executed", "failed", "another topic", "no history"],
)
def test_alarms_history_says_whether_its_action_reached_the_topic(
    deployment: Deployment,
    aws: StubbedSession,
    monkeypatch: pytest.MonkeyPatch,
    summaries: list[str],
    kind: type,
):
    monkeypatch.setattr(active, "ACTION_SECONDS", -1.0)
    before = {"AlarmName": "dev-vend-faults", "StateValue": "OK", "StateReason": "no data"}
    other = {"AlarmName": "dev-a", "StateValue": "ALARM", "StateReason": "x"}
    deployment.__dict__["alarms"] = {alarm["AlarmName"]: alarm for alarm in (other, before)}
    items = [{"HistoryItemType": "Action", "HistorySummary": text} for text in summaries]
    on = {"AlarmName": "dev-vend-faults", "StateValue": "ALARM", "StateReason": active._REASON}
    aws.client("cloudwatch")
    aws.stubbers["cloudwatch"].add_response("set_alarm_state", {}, on)
    aws.returns("cloudwatch", "describe_alarm_history", {"AlarmHistoryItems": items})
    aws.stubbers["cloudwatch"].add_response("set_alarm_state", {}, before)
    assert isinstance(active.alarm_action(deployment), kind)


def test_alarm_that_is_on_is_not_tried(deployment: Deployment):
    deployment.__dict__["alarms"] = {"dev-vend-faults": {"StateValue": "ALARM"}}
    assert active.alarm_action(deployment) == NotChecked("every alarm is on")


def test_report_that_does_not_come_fails(deployment: Deployment, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(active, "REPORT_SECONDS", -1.0)
    monkeypatch.setattr(Stack, "start_refresh", lambda *_: None)
    assert isinstance(active.failed_run(deployment), Failed)


def test_interrupted_trial_says_what_will_come(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Stack, "start_refresh", interrupt)
    with pytest.raises(KeyboardInterrupt):
        active.failed_run(deployment)
    assert "`broker failures --clear` removes it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("body", "mark"),
    [
        ({"requestPayload": {"broker-verify": "0a1b"}}, "0a1b"),
        ({"requestPayload": {"force": True}}, ""),
        ({"requestPayload": None}, ""),
        ([], ""),
        ("not JSON", ""),
    ],
)
def test_report_of_a_trial_is_told_from_those_of_other_runs(body: object, mark: str):
    text = body if isinstance(body, str) else json.dumps(body)
    assert active._mark({"Body": text}) == mark
