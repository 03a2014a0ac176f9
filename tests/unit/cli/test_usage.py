"""`broker usage`: what the rows of its query say."""

import csv
from datetime import UTC, datetime, timedelta
from typing import Any

import jsonschema
import pytest
from typer.testing import CliRunner

from broker_cli import insights, usage
from broker_cli.aws import Stack
from broker_cli.failures import ExitCode, Failure
from broker_cli.insights import LogQuery, Row
from broker_cli.main import app
from broker_cli.schemas import SCHEMAS
from token_broker.grants import Grant

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ACCOUNT = "arn:aws:iam::111122223333"
SESSION = "arn:aws:sts::111122223333:assumed-role/etl"
DEALS = Grant(scope=("a",), callers=(f"{ACCOUNT}:role/etl", f"{ACCOUNT}:role/idle-*"))
GRANTS = {"deals": DEALS, "users": Grant(scope=("b",))}


def row(grant: str, caller: str, message: str = usage.VENDED, requests: int = 1) -> Row:
    return {
        "grant": grant,
        "caller": caller,
        "message": message,
        "requests": str(requests),
        "last_at": "2026-01-02 03:04:05.000",
    }


ROWS = [
    row("deals", f"{SESSION}/a", requests=2),
    row("deals", f"{SESSION}/b", requests=3),
    row("deals", f"{SESSION}/b", usage.REFUSED[0]),
    row("users", f"{ACCOUNT}:user/x", usage.REFUSED[1]),
    row("", f"{ACCOUNT}:user/x", "grants listed"),
    {"requests": "7", "last_at": "1767323045000"},
]


def test_sessions_of_a_role_are_one_caller_and_what_never_occurred_is_named():
    found = usage.usage_of(ROWS, GRANTS)
    first, second = found.uses
    assert (first.caller, first.vended, first.refused) == (f"{ACCOUNT}:role/etl", 5, 1)
    assert (second.grant, second.vended, second.last_vended_at) == ("users", 0, None)
    assert found.idle_grants == ("users",)
    assert found.silent_callers == (("deals", f"{ACCOUNT}:role/idle-*"),)


def test_caller_of_another_grant_is_silent_for_this_one():
    found = usage.usage_of([row("users", f"{SESSION}/a")], GRANTS)
    assert [pattern for _, pattern in found.silent_callers] == list(DEALS.callers or ())


@pytest.mark.parametrize("text", ["1767323045000", "1.767323045E12", "2026-01-02 03:04:05.000"])
def test_time_of_a_row_in_either_form_of_aws(text: str):
    assert insights.moment(text) == NOW


def test_json_has_the_documented_shape():
    times = {"stack": "dev", "since": "2026-01-01T00:00:00Z", "until": "2026-01-02T00:00:00Z"}
    jsonschema.validate(times | usage.usage_of(ROWS, GRANTS).to_json(), SCHEMAS["usage"])


def test_csv_is_one_table_and_no_formula():
    hostile = [row('=HYPERLINK("x")', f"{ACCOUNT}:user/x"), row("a\x1b[2J", f"{ACCOUNT}:user/x")]
    lines = list(csv.reader(usage.usage_of(ROWS + hostile, GRANTS).to_csv().splitlines()))
    assert lines[0] == ["grant", "caller", "vended", "refused", "last_vended_at"]
    assert lines[1] == ["deals", f"{ACCOUNT}:role/etl", "5", "1", "2026-01-02T03:04:05Z"]
    assert ["users", "", "0", "0", ""] in lines
    assert ["deals", f"{ACCOUNT}:role/idle-*", "0", "0", ""] in lines
    assert {len(cells) for cells in lines} == {5}
    assert not [cells for cells in lines if cells[0].startswith("=") or "\x1b" in cells[0]]


def test_json_and_csv_exclude_each_other():
    assert CliRunner().invoke(app, ["usage", "--json", "--csv"]).exit_code == ExitCode.USAGE


class Logs:
    """Logs Insights with a query that ends as the test says."""

    def __init__(self, end: str | type[BaseException]) -> None:
        self.end, self.stopped = end, False

    def client(self, *_: object, **__: object) -> "Logs":
        return self

    def describe_log_groups(self, **_: object) -> dict[str, Any]:
        return {"logGroups": []}

    def start_query(self, **_: object) -> dict[str, Any]:
        return {"queryId": "q"}

    def get_query_results(self, **_: object) -> dict[str, Any]:
        if isinstance(self.end, str):
            return {"status": self.end, "results": [], "statistics": {"recordsScanned": 7.0}}
        raise self.end

    def stop_query(self, **_: object) -> None:
        self.stopped = True


def run(logs: Logs) -> list[Row]:
    stack = Stack(
        name="dev",
        session=logs,
        status="",
        outputs={},
        parameters={},
        aws_time=NOW,
        asked_at=NOW,
    )
    return list(LogQuery(stack, "token-vendor", "", lambda _: None).rows(NOW - timedelta(1), NOW))


@pytest.mark.parametrize("status", ["Failed", "Cancelled", "Timeout", "Unknown"])
def test_query_that_ends_without_a_result_is_an_error(status: str):
    with pytest.raises(Failure, match=status):
        run(Logs(status))


def test_query_ends_with_the_command():
    logs = Logs(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        run(logs)
    assert logs.stopped
