"""Alarms of the deployed stack reach the topic, and their metrics are in the logs."""

import json

import pytest

from local.broker_stack import STACK_NAME, BrokerStack, wait_until
from local.embedded_aws import REGION
from tests.deployed.conftest import Deployed
from tests.template.test_alarms import MISSING_DATA
from token_broker.metrics import METRICS, NAMESPACE

type Emitted = set[tuple[str, tuple[str, ...]]]


def _alarms(stack: BrokerStack) -> dict[str, dict]:
    response = stack.administrator.client("cloudwatch").describe_alarms(
        AlarmNamePrefix=f"{STACK_NAME}-"
    )
    return {a["AlarmName"].removeprefix(f"{STACK_NAME}-"): a for a in response["MetricAlarms"]}


def test_alarms_are_there_and_notify_the_topic(deployed: Deployed):
    alarms = _alarms(deployed.stack)
    assert set(alarms) == set(MISSING_DATA) - {"foreign-access"}  # only with its parameter
    topic = deployed.stack.resource("AlarmTopic")
    for name, alarm in alarms.items():
        assert alarm["AlarmActions"] == alarm["OKActions"] == [topic]
        assert alarm["ActionsEnabled"]
        assert alarm["TreatMissingData"] == MISSING_DATA[name]


def test_nobody_is_subscribed_without_an_alarm_email(deployed: Deployed):
    sns = deployed.stack.administrator.client("sns")
    topic = deployed.stack.resource("AlarmTopic")
    assert sns.list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"] == []


def _let_in(topic_arn: str) -> str:
    """The policy of a queue that a topic may send to."""
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": "sns.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": "*",
        "Condition": {"ArnEquals": {"aws:SourceArn": topic_arn}},
    }
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def test_alarm_state_reaches_a_subscriber_of_the_topic(deployed: Deployed):
    administrator = deployed.stack.administrator
    sqs, sns = administrator.client("sqs"), administrator.client("sns")
    topic = deployed.stack.resource("AlarmTopic")
    url = sqs.create_queue(QueueName="alarm-messages", Attributes={"Policy": _let_in(topic)})[
        "QueueUrl"
    ]
    queue = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]
    subscription = sns.subscribe(
        TopicArn=topic,
        Protocol="sqs",
        Endpoint=queue["QueueArn"],
        ReturnSubscriptionArn=True,
    )["SubscriptionArn"]
    name = f"{STACK_NAME}-renewals-stopped"
    received: list[dict] = []

    def has_received_both() -> bool:
        response = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)
        bodies = [json.loads(message["Body"]) for message in response.get("Messages", [])]
        received.extend(json.loads(body["Message"]) for body in bodies)
        return len(received) >= 2

    try:
        for state in ("ALARM", "OK"):
            administrator.client("cloudwatch").set_alarm_state(
                AlarmName=name, StateValue=state, StateReason="a test of the wiring"
            )
        wait_until(has_received_both, seconds=30, what="the alarm's messages")
    finally:
        sns.unsubscribe(SubscriptionArn=subscription)
        sqs.delete_queue(QueueUrl=url)
    assert {m["AlarmName"] for m in received} == {name}
    assert {m["NewStateValue"] for m in received} == {"ALARM", "OK"}
    assert "docs/operate.md#renewals-stopped" in received[0]["AlarmDescription"]


def test_dashboard_is_there_with_all_names_filled_in(deployed: Deployed):
    cloudwatch = deployed.stack.administrator.client("cloudwatch")
    body = cloudwatch.get_dashboard(DashboardName=f"{STACK_NAME}-{REGION}")["DashboardBody"]
    assert "${" not in body
    widget = next(w for w in json.loads(body)["widgets"] if w["type"] == "alarm")
    assert set(widget["properties"]["alarms"]) == {
        a["AlarmArn"] for a in _alarms(deployed.stack).values()
    }


def _emitted(stack: BrokerStack, service: str) -> Emitted:
    """Each metric with each of its dimension sets, as CloudWatch reads them from the log."""
    found: Emitted = set()
    for record in stack.log_records(service):
        for directive in record.get("_aws", {}).get("CloudWatchMetrics", []):
            assert directive["Namespace"] == f"{NAMESPACE}/{STACK_NAME}"
            for metric in directive["Metrics"]:
                assert metric["Unit"] == METRICS[metric["Name"]]
                assert metric["Name"] in record
                for dimensions in directive["Dimensions"]:
                    assert record["service"] == service
                    assert all(isinstance(record[name], str) for name in dimensions)
                    found.add((metric["Name"], tuple(sorted(dimensions))))
    return found


SERVICE = ("service",)
OF_A_RUN = {
    (name, SERVICE) for name in ("SecondsToExpiry", "DueWindowLeft", "Renewed", "RenewalFailed")
}
OF_A_REFUSAL = {("VendRefused", SERVICE), ("VendRefused", ("reason", "service"))}


@pytest.mark.parametrize(
    ("service", "expected"),
    [("token-refresher", OF_A_RUN), ("token-vendor", OF_A_REFUSAL)],
)
def test_log_contains_the_metrics_of_alarms_and_dashboard(
    renewed: Deployed, service: str, expected: Emitted
):
    renewed.stack.refresh({"force": True, "grants": ["deals", "forbidden"]})
    assert renewed.get("/tokens/deals", "user for deals").status == 200
    assert renewed.get("/tokens/invoices", "user for all").status == 404
    wait_until(
        lambda: _emitted(renewed.stack, service) >= expected,
        seconds=30,
        what=f"{sorted(expected)} in the log of {service}",
    )
    by_grant = [dimensions for _, dimensions in _emitted(renewed.stack, service)]
    assert not [dimensions for dimensions in by_grant if "grant" in dimensions]


def test_vends_are_counted_from_their_audit_lines(renewed: Deployed):
    group = f"/enable-token-broker/{STACK_NAME}/token-vendor"
    logs = renewed.stack.administrator.client("logs")
    (found,) = logs.describe_metric_filters(logGroupName=group)["metricFilters"]
    (metric,) = found["metricTransformations"]
    assert (metric["metricNamespace"], metric["metricName"]) == (
        f"{NAMESPACE}/{STACK_NAME}",
        "Vended",
    )
    assert renewed.get("/tokens/deals", "user for deals").status == 200
    vended = renewed.stack.logged("token-vendor", lambda r: "expires_at" in r)
    assert {f'{{ $.message = "{r["message"]}" }}' for r in vended} == {found["filterPattern"]}
    assert metric["dimensions"] == {"service": "$.service"}
    assert {r["service"] for r in vended} == {"token-vendor"}


def test_due_window_left_is_a_percentage(renewed: Deployed):
    shares = [
        value
        for record in renewed.stack.log_records("token-refresher")
        if "_aws" in record
        for value in record.get("DueWindowLeft", [])
    ]
    assert shares
    assert all(0 <= share <= 100 for share in shares)
