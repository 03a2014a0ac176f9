"""Logs Insights as `broker usage` uses it, on the embedded AWS's own log groups."""

import json
import time
from datetime import UTC, datetime, timedelta

import boto3
import pytest
from botocore.exceptions import ClientError

from broker_cli import insights, usage
from broker_cli.aws import Stack
from broker_cli.failures import Failure
from broker_cli.insights import LogQuery
from local.embedded_aws import EmbeddedAws
from tests.template.test_template import ROOT
from token_broker.grants import Grant
from tools import audit

ACCOUNT = "343434343434"
ROLE = f"arn:aws:sts::{ACCOUNT}:assumed-role/etl"
GROUP = "/enable-token-broker/queried/token-vendor"


@pytest.fixture(scope="module")
def session(embedded_aws: EmbeddedAws) -> boto3.Session:
    return embedded_aws.administrator(ACCOUNT)


@pytest.fixture(scope="module")
def start(session: boto3.Session) -> datetime:
    """The log's first second: in each of four, four lines, of which two are alike."""
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=10)
    logs = session.client("logs")
    logs.create_log_group(logGroupName=GROUP)
    logs.create_log_stream(logGroupName=GROUP, logStreamName="s")
    events = [
        {"timestamp": int(start.timestamp() + second) * 1000, "message": message}
        for second in range(4)
        for message in (
            line("token vended", caller=f"{ROLE}/one"),
            line("token vended", caller=f"{ROLE}/one"),
            line("token refused", caller=f"{ROLE}/{second}", reason="access_denied"),
            line("refresh run not started"),
        )
    ]
    events.append({"timestamp": events[-1]["timestamp"], "message": "no JSON"})
    logs.put_log_events(logGroupName=GROUP, logStreamName="s", logEvents=events)
    return start


def line(message: str, **fields: str) -> str:
    return json.dumps({"message": message, "grant": "deals", **fields})


def query(session: boto3.Session, lines: list[int]) -> LogQuery:
    now = datetime.now(UTC)
    stack = Stack(
        name="queried",
        session=session,
        status="",
        outputs={},
        parameters={},
        aws_time=now,
        asked_at=now,
    )
    return LogQuery(stack, "token-vendor", usage.QUERY, lines.append)


@pytest.mark.parametrize("most_rows", [10_000, 3])
def test_usage_is_counted_where_the_log_is_whatever_one_query_returns(
    session: boto3.Session, start: datetime, monkeypatch: pytest.MonkeyPatch, most_rows: int
):
    monkeypatch.setattr(insights, "MOST_ROWS", most_rows)
    monkeypatch.setattr(LogQuery, "_created_at", lambda _: 0)  # the lines are older than the group
    lines: list[int] = []
    rows = query(session, lines).rows(start - timedelta(days=30), start + timedelta(seconds=2.5))
    found = usage.usage_of(rows, {"deals": Grant(scope=("a",)), "users": Grant(scope=("b",))})
    (use,) = found.uses
    assert (use.grant, use.caller) == ("deals", f"arn:aws:iam::{ACCOUNT}:role/etl")
    assert (use.vended, use.refused) == (8, 4)
    assert use.last_vended_at == start + timedelta(seconds=3)
    assert found.idle_grants == ("users",)
    assert lines[-1] >= 17


def test_second_with_more_rows_than_a_query_returns_is_an_error(
    session: boto3.Session, start: datetime, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(insights, "MOST_ROWS", 1)
    monkeypatch.setattr(LogQuery, "_created_at", lambda _: 0)
    with pytest.raises(Failure, match="are of one second"):
        list(query(session, []).rows(start, start))


def test_time_before_the_log_group_is_not_asked_for(session: boto3.Session, start: datetime):
    created = query(session, [])._created_at()
    assert start.timestamp() < created <= datetime.now(UTC).timestamp()


def test_every_saved_query_is_one_that_runs(session: boto3.Session, start: datetime):
    template = audit.transformed((ROOT / "template.yaml").read_text("utf-8"))
    saved = {
        name: resource["Properties"]["QueryString"]
        for name, resource in template["Resources"].items()
        if resource["Type"] == "AWS::Logs::QueryDefinition"
    }
    assert saved["UsageQuery"] == usage.QUERY
    logs, times = session.client("logs"), (int(start.timestamp()), int(start.timestamp()) + 60)
    found = {}
    for name, text in saved.items():
        started = logs.start_query(
            logGroupName=GROUP, startTime=times[0], endTime=times[1], queryString=text
        )
        found[name] = logs.get_query_results(queryId=started["queryId"])["results"]
    assert {name: len(rows) for name, rows in found.items()} == {
        "UsageQuery": 5,
        "RefusalsQuery": 4,
        "RenewalsQuery": 0,
    }


def test_dashboard_names_the_grants_in_danger_soonest_expiry_first(session: boto3.Session):
    resources = audit.transformed((ROOT / "template.yaml").read_text("utf-8"))["Resources"]
    body = resources["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"]
    (widget,) = (w for w in json.loads(body)["widgets"] if w["type"] == "log")
    group, now = "/enable-token-broker/queried/token-refresher", int(time.time())
    runs = [
        {"grants": {"deals": ["failed", "", "default", "a"], "new": ["not_due", "", "", ""]}},
        renewal("deals", "failed", 900, reason="timeout"),
        renewal("users", "failed", 60, reason="invalid_scope"),
        renewal("activity", "deferred", 120),
        renewal("deals", "renewed", 3600),
        renewal("users", "waiting", 30, reason="invalid_scope", retry_at="2026-01-02T03:04:05Z"),
    ]
    logs = session.client("logs")
    logs.create_log_group(logGroupName=group)
    logs.create_log_stream(logGroupName=group, logStreamName="s")
    events = [
        {"timestamp": 1000 * now - 9 + number, "message": json.dumps(run)}
        for number, run in enumerate(runs)
    ]
    logs.put_log_events(logGroupName=group, logStreamName="s", logEvents=events)
    source, _, text = widget["properties"]["query"].partition(" | ")
    assert source == "SOURCE '/enable-token-broker/${AWS::StackName}/token-refresher'"
    started = logs.start_query(
        logGroupName=group, startTime=now - 60, endTime=now + 1, queryString=text
    )
    results = logs.get_query_results(queryId=started["queryId"])["results"]
    rows = [{cell["field"]: cell["value"] for cell in row} for row in results]
    shown = [
        (row["grant"], row["last_state"], row["last_seconds_left"], row.get("last_reason"))
        for row in rows
    ]
    assert shown == [
        ("users", "waiting", "30", "invalid_scope"),
        ("activity", "deferred", "120", None),
    ]


def renewal(grant: str, state: str, seconds_left: int, **fields: str) -> dict[str, object]:
    return {"grant": grant, "state": state, "seconds_left": seconds_left, **fields}


def test_embedded_aws_refuses_a_query_that_it_would_get_wrong(session: boto3.Session):
    with pytest.raises(ClientError, match="MalformedQueryException"):
        session.client("logs").start_query(
            logGroupName=GROUP, startTime=0, endTime=1, queryString="stats avg(x) by grant"
        )
