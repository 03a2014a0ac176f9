"""Alarms, dashboard, code and docs name the same things, and each alarm reaches somebody."""

import ast
import json
import re
from functools import cache

import pytest

from tests.template.test_contract import rows
from tests.template.test_template import FUNCTIONS, ROOT, template, transformed
from token_broker.metrics import HIGH_RESOLUTION, METRICS
from token_broker.metrics import NAMESPACE as OUR_NAMESPACE
from token_refresher.outcomes import State

NAMESPACE = f"{OUR_NAMESPACE}/${{AWS::StackName}}"

PACKAGES = {
    "token-refresher": "functions/token_refresher/token_refresher",
    "token-vendor": "functions/token_vendor/token_vendor",
}
AWS_METRICS = {
    "AWS/Lambda": {"Invocations", "Errors", "Throttles", "Duration"},
    "AWS/SQS": {"ApproximateNumberOfMessagesVisible"},
}
MISSING_DATA = {
    "token-close-to-expiry": "ignore",
    "renewals-failing": "notBreaching",
    "renewals-stopped": "breaching",
    "failed-runs": "notBreaching",
    "secret-fallback": "notBreaching",
    "grant-blocked": "notBreaching",
    "corrupt-tokens": "notBreaching",
    "vend-faults": "notBreaching",
    "vend-crashes": "notBreaching",
    "foreign-access": "notBreaching",
}
FILTERED = ("ForeignAccessAlarm",)
"""Its metric comes from CloudTrail's log: tests/template/test_foreign_access.py. A dashboard cannot
leave an alarm out by a condition, and one that is not there would be an error on it."""


@cache
def alarms() -> dict[str, dict]:
    """Properties by logical id."""
    return {
        name: resource["Properties"]
        for name, resource in template()["Resources"].items()
        if resource["Type"] == "AWS::CloudWatch::Alarm"
    }


def kebab(logical_id: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", logical_id.removesuffix("Alarm")).lower()


@cache
def literals(package: str) -> frozenset[str]:
    return frozenset(
        node.value
        for file in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def emitted_by(service: str) -> set[str]:
    return METRICS.keys() & literals(PACKAGES[service])


@cache
def entries() -> str:
    """What docs/operate.md says of the alarms."""
    page = (ROOT / "docs/operate.md").read_text()
    return page.partition("\n## Alarms\n")[2].partition("\n## ")[0]


@cache
def dashboard() -> list[dict]:
    body = template()["Resources"]["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"]
    return json.loads(body)["widgets"]


def dashboard_metrics() -> list[tuple[str, str, list[str]]]:
    """Namespace, name and dimensions' names of every metric that the dashboard shows."""
    found = []
    for widget in dashboard():
        for metric in widget["properties"].get("metrics", []):
            if isinstance(metric[0], str):
                namespace, name, *dimensions = [m for m in metric if isinstance(m, str)]
                found.append((namespace, name, dimensions[::2]))
                continue
            search = re.fullmatch(
                r"SEARCH\('\{\"([^\"]+)\",([^}]+)\} MetricName=\"(\w+)\"', '\w+', (\d+)\)",
                metric[0]["expression"],
            )
            assert search
            assert int(search[4]) == widget["properties"]["period"]
            found.append((search[1], search[3], search[2].split(",")))
    return found


def test_each_metric_is_emitted_by_one_service():
    emitted = [name for service in PACKAGES for name in emitted_by(service)]
    assert sorted(emitted) == sorted(METRICS)
    for service, package in PACKAGES.items():
        assert service in literals(package)


@pytest.mark.parametrize("alarm", sorted(alarms().keys() - FILTERED))
def test_alarm_uses_a_metric_that_a_function_emits(alarm: str):
    properties = alarms()[alarm]
    (dimension,) = properties["Dimensions"]
    if properties["Namespace"] == {"Fn::Sub": NAMESPACE}:
        assert (properties["Period"] == 10) == (properties["MetricName"] in HIGH_RESOLUTION)
        assert dimension["Name"] == "service"
        assert properties["MetricName"] in emitted_by(dimension["Value"])
    else:
        assert properties["MetricName"] in AWS_METRICS[properties["Namespace"]]
        (target,) = dimension["Value"].values()
        assert (target if isinstance(target, str) else target[0]) in template()["Resources"]


def test_dashboard_shows_every_alarm_and_every_metric_and_no_other():
    (status,) = (w for w in dashboard() if w["type"] == "alarm")
    assert status["properties"]["alarms"] == [
        f"${{{name}.Arn}}" for name in alarms() if name not in FILTERED
    ]
    on_dashboard = dashboard_metrics()
    assert {name for namespace, name, _ in on_dashboard if namespace == NAMESPACE} == METRICS.keys()
    for namespace, name, dimensions in on_dashboard:
        if namespace != NAMESPACE:
            assert name in AWS_METRICS[namespace]
        else:
            assert dimensions == ["service"] or (name, dimensions) in [
                ("SecondsToExpiry", ["service", "grant"]),  # these three with MetricsByGrant
                ("DueWindowLeft", ["service", "grant"]),
                ("Vended", ["service", "grant"]),
                ("VendRefused", ["service", "reason"]),
            ]


def test_dashboard_queries_the_refresher_s_log_for_grants_in_danger():
    (widget,) = (w for w in dashboard() if w["type"] == "log")
    source, *commands = widget["properties"]["query"].split(" | ")
    group = template()["Resources"]["TokenRefresherLogGroup"]["Properties"]["LogGroupName"]
    assert source == f"SOURCE '{group['Fn::Sub']}'"
    fields = set(rows("Log fields of a renewal"))
    queried = set(re.findall(r"latest\((\w+)\)", commands[1]))
    queried |= set(re.findall(r"(?:ispresent\(|by |and )(\w+)", " | ".join(commands[:2])))
    assert queried <= fields
    assert {"grant", "state", "reason", "cause", "seconds_left"} <= queried
    # A grant that was renewed after it failed is out of danger: its last line decides.
    assert commands[2] == f'filter last_state != "{State.RENEWED}"'
    assert commands[3] == "sort last_seconds_left asc"
    assert {"last_state", "last_seconds_left"} <= set(re.findall(r" as (\w+)", commands[1]))


def test_setting_of_metrics_by_grant_reaches_both_functions_and_is_off_by_default():
    parameter = template()["Parameters"]["MetricsByGrant"]
    assert (parameter["Default"], parameter["AllowedValues"]) == ("false", ["true", "false"])
    variables = template()["Globals"]["Function"]["Environment"]["Variables"]
    assert variables["METRICS_BY_GRANT"] == {"Ref": "MetricsByGrant"}


def test_dashboard_names_the_service_that_emits_the_metric():
    for widget in dashboard():
        for metric in widget["properties"].get("metrics", []):
            if metric[0] == NAMESPACE:
                assert metric[1] in emitted_by(metric[3])


@pytest.mark.parametrize("function", FUNCTIONS)
def test_dashboard_shows_duration_errors_and_throttles(function: str):
    on_dashboard = {
        metric[1]
        for widget in dashboard()
        for metric in widget["properties"].get("metrics", [])
        if f"${{{function}}}" in metric
    }
    assert on_dashboard >= {"Duration", "Errors", "Throttles"}


def test_dashboards_widgets_do_not_overlap():
    cells = [
        (x, y)
        for w in dashboard()
        for x in range(w["x"], w["x"] + w["width"])
        for y in range(w["y"], w["y"] + w["height"])
    ]
    assert len(cells) == len(set(cells))
    assert all(x < 24 for x, _ in cells)


@pytest.mark.parametrize("alarm", alarms())
def test_alarm_is_named_after_its_resource_and_its_entry_of_the_docs(alarm: str):
    properties, name = alarms()[alarm], kebab(alarm)
    assert properties["AlarmName"] == {"Fn::Sub": f"${{AWS::StackName}}-{name}"}
    meaning, _, where = properties["AlarmDescription"].rpartition(". ")
    assert where == f"See docs/operate.md#{name}"
    assert ". " not in meaning


def test_each_alarm_has_one_entry():
    assert re.findall(r"^### (.+)$", entries(), re.MULTILINE) == [kebab(name) for name in alarms()]
    for entry in re.split(r"^### ", entries(), flags=re.MULTILINE)[1:]:
        assert re.findall(r"^\*\*(\w+)\.\*\*", entry, re.MULTILINE) == ["Means", "Why", "Do"]


def test_entries_name_what_there_is():
    resources = transformed()["Resources"].keys()
    assert set(re.findall(r"\(resource (\w+)\)", entries())) <= resources
    assert set(re.findall(r"\(output (\w+)\)", entries())) <= template()["Outputs"].keys()
    assert set(re.findall(r"\$stack/(token-\w+)", entries())) == PACKAGES.keys()


def test_alarms_treat_missing_data_as_decided():
    decided = {kebab(name): p["TreatMissingData"] for name, p in alarms().items()}
    assert decided == MISSING_DATA


@pytest.mark.parametrize("alarm", alarms())
def test_alarm_notifies_the_topic_when_it_starts_and_when_it_ends(alarm: str):
    topic = [{"Ref": "AlarmTopic"}]
    assert alarms()[alarm]["AlarmActions"] == alarms()[alarm]["OKActions"] == topic
    assert "InsufficientDataActions" not in alarms()[alarm]


def test_stopped_schedule_is_noticed_in_intervals():
    alarm = alarms()["RenewalsStoppedAlarm"]
    assert (alarm["EvaluationPeriods"], alarm["DatapointsToAlarm"]) == (3, 3)
    assert alarm["Period"] == {"Ref": "RefreshIntervalSeconds"}
    interval = template()["Parameters"]["RefreshIntervalSeconds"]
    assert interval["Default"] == 60
    assert template()["Parameters"]["RefreshSchedule"]["Default"] == "rate(1 minute)"
    for seconds in interval["AllowedValues"]:  # what CloudWatch takes: minutes, a day in all
        assert seconds % 60 == 0
        assert seconds * 5 <= 86_400


def test_failures_are_counted_in_runs_so_that_one_bad_run_is_no_alarm():
    alarm = alarms()["RenewalsFailingAlarm"]
    assert alarm["Period"] == {"Ref": "RefreshIntervalSeconds"}
    assert (alarm["DatapointsToAlarm"], alarm["EvaluationPeriods"]) == (3, 5)
    assert (alarm["Statistic"], alarm["Threshold"]) == ("Sum", 1)


def test_email_is_subscribed_if_there_is_one():
    subscription = template()["Resources"]["AlarmEmailSubscription"]
    assert subscription["Condition"] == "HasAlarmEmail"
    assert subscription["Properties"] == {
        "TopicArn": {"Ref": "AlarmTopic"},
        "Protocol": "email",
        "Endpoint": {"Ref": "AlarmEmail"},
    }
    is_empty = {"Fn::Equals": [{"Ref": "AlarmEmail"}, ""]}
    assert template()["Conditions"]["HasAlarmEmail"] == {"Fn::Not": [is_empty]}
    assert template()["Parameters"]["AlarmEmail"]["Default"] == ""


@pytest.mark.parametrize(
    ("email", "is_accepted"),
    [
        ("", True),
        ("on-call+enable@ops.example", True),
        ("on-call", False),
        ("on-call@localhost", False),
        ("a@b@c.example", False),
        ("on call@ops.example", False),
    ],
)
def test_alarm_email_is_an_address_or_nothing(email: str, is_accepted: bool):  # noqa: FBT001
    pattern = template()["Parameters"]["AlarmEmail"]["AllowedPattern"]
    assert bool(re.fullmatch(pattern, email)) is is_accepted


def test_cloudwatch_may_use_the_key_for_this_stacks_alarms_alone():
    resources = template()["Resources"]
    assert resources["AlarmTopic"]["Properties"]["KmsMasterKeyId"] == {"Ref": "BrokerKey"}
    policy = resources["BrokerKey"]["Properties"]["KeyPolicy"]["Statement"]
    (publish,) = (s for s in policy if "Service" in s["Principal"])
    assert publish["Principal"] == {"Service": "cloudwatch.amazonaws.com"}
    assert publish["Action"] == ["kms:Decrypt", "kms:GenerateDataKey"]
    assert publish["Condition"] == {
        "StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}},
        "ArnLike": {
            "aws:SourceArn": {
                "Fn::Sub": "arn:${AWS::Partition}:cloudwatch:${AWS::Region}:${AWS::AccountId}:"
                "alarm:${AWS::StackName}-*"
            }
        },
    }
