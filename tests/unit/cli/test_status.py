"""What `broker status` makes of the log and of parameters' metadata, and how it draws it."""

import json
from datetime import UTC, datetime, timedelta
from io import BytesIO, TextIOWrapper

import jsonschema
import pytest
from rich.console import Console

from broker_cli.logs import LogLine, by_grant, parse
from broker_cli.render import WIDE, GrantRow, StatusView
from broker_cli.schemas import SCHEMAS
from broker_cli.status import Kept, grant_rows, row_json
from token_refresher.app import RUN
from token_vendor.vend import GrantState

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
AHEAD = timedelta(minutes=10)


def line(ago: int, grant: str = "deals", **facts: object) -> LogLine:
    record = {"grant": grant, "scope": f"read:{grant}", "connection": "default", **facts}
    return LogLine(at=NOW - timedelta(seconds=ago), record=record)


def stored(ago: int, block: str | None = None) -> Kept:
    return Kept(stored_at=NOW - timedelta(seconds=ago), version=3, block=block)


def row_of(lines: list[LogLine], parameter: Kept | None) -> GrantRow:
    parameters = {"deals": parameter} if parameter else {}
    return grant_rows(lines, parameters, now=NOW, refresh_ahead=AHEAD)[0]


IN_AN_HOUR, SOON, GONE = "2026-01-02T04:04:05Z", "2026-01-02T03:06:05Z", "2026-01-02T03:04:05Z"


@pytest.mark.parametrize(
    ("lines", "parameter", "state", "reason"),
    [
        ([line(9, state="not_due", expires_at=IN_AN_HOUR)], stored(60), "live", ""),
        ([line(9, state="not_due", expires_at=SOON)], stored(3600), "renewing", ""),
        ([line(9, state="not_due", expires_at=GONE)], stored(3600), "expired", ""),
        ([line(9, state="renewed", expires_at=IN_AN_HOUR)], None, "expired", ""),
        ([], stored(60), "expired", "no_run"),
        ([line(9, state="not_due", expires_at=IN_AN_HOUR)], stored(2, "why"), "blocked", "blocked"),
        ([line(9, state="blocked", reason="blocked", cause="x")], stored(60), "blocked", "blocked"),
        ([line(9, state="blocked", cause="x")], stored(2), "expired", ""),
        (
            [line(9, state="failed", reason="timeout", expires_at=IN_AN_HOUR)],
            stored(60),
            "live",
            "timeout",
        ),
        (
            [line(9, state="renewed", secret_stage="AWSPREVIOUS", expires_at=IN_AN_HOUR)],
            stored(9),
            "live",
            "secret_fallback",
        ),
        (
            [line(9, state="failed", reason="AccessDeniedException")],
            stored(60),
            "expired",
            "Access",
        ),
    ],
)
def test_state_of_a_grant(lines: list[LogLine], parameter: Kept | None, state: str, reason: str):
    row = row_of(lines, parameter)
    assert row.state == state
    assert row.reason.startswith(reason) if reason else not row.reason


def test_failed_read_does_not_hide_what_an_earlier_run_knew():
    lines = [
        line(60, state="not_due", expires_at=IN_AN_HOUR),
        line(9, state="failed", reason="ThrottlingException"),
    ]
    row = row_of(lines, stored(120))
    assert (row.state, row.reason) == ("live", "ThrottlingException")


def test_wait_says_until_when():
    waiting = line(9, state="waiting", reason="invalid_scope", cause="no", retry_at=SOON)
    row = row_of([waiting], None)
    assert row.retry_at == datetime(2026, 1, 2, 3, 6, 5, tzinfo=UTC)


def test_grants_are_in_the_order_of_the_log_and_due_when_their_window_begins():
    lines = [
        line(9, "users", state="not_due", expires_at=IN_AN_HOUR),
        line(9, "deals", state="not_due", expires_at=IN_AN_HOUR),
    ]
    parameters = {name: stored(0) for name in ("activity", "deals", "users")}
    rows = grant_rows(lines, parameters, now=NOW, refresh_ahead=AHEAD)
    assert [row.grant for row in rows] == ["users", "deals", "activity"]
    assert rows[0].due_at == NOW + timedelta(minutes=50)


def run_line(ago: int, grants: object) -> LogLine:
    return LogLine(at=NOW - timedelta(seconds=ago), record={"message": RUN, "grants": grants})


def test_line_of_a_run_says_of_each_grant_what_a_line_of_its_own_would():
    short = ["not_due", IN_AN_HOUR, "uat", "read:deals read:users"]
    run = run_line(9, {"deals": short, "users": ["failed", "", "default", "read:users"]})
    failed = line(9, "users", state="failed", reason="timeout", cause="no response")
    lines = list(by_grant([run, failed]))
    rows = grant_rows(
        lines, {name: stored(60) for name in ("deals", "users")}, now=NOW, refresh_ahead=AHEAD
    )
    assert [(row.grant, row.state, row.reason) for row in rows] == [
        ("deals", "live", ""),
        ("users", "expired", "timeout"),
    ]
    assert (rows[0].scope, rows[0].connection) == (("read:deals", "read:users"), "uat")
    assert rows[0].seen_at == NOW - timedelta(seconds=9)


@pytest.mark.parametrize("state", ["waiting", "failed", "blocked"])
def test_reason_of_a_state_that_lasts_stands_in_an_earlier_run(state: str):
    other = line(180, state=state, reason="timeout", cause="no response")
    own = line(120, state=state, reason="invalid_scope", cause="no", retry_at=SOON)
    run = {"deals": [state, "", "default", "read:deals"]}
    row = row_of(list(by_grant([other, own, run_line(60, run), run_line(9, run)])), stored(200))
    shown = "blocked" if state == "blocked" else "invalid_scope"
    assert (row.reason, row.cause, row.seen_at) == (shown, "no", NOW - timedelta(seconds=9))


def test_reason_of_another_state_is_not_shown():
    own = line(120, state="failed", reason="invalid_scope")
    run = {"deals": ["deferred", "", "default", "read:deals"]}
    deferred = line(60, state="deferred", reason="corrupt_parameter")
    row = row_of(list(by_grant([own, deferred, run_line(9, run)])), stored(200))
    assert row.reason == "deferred"


@pytest.mark.parametrize("grants", [None, [], "deals", {"deals": None}, {"deals": ["not_due"]}])
def test_malformed_line_of_a_run_is_passed_over(grants: object):
    assert list(by_grant([run_line(9, grants)])) == []


def test_log_line_cannot_play_with_the_terminal():
    found = parse(json.dumps({"grant": "\x1b]0;title\x07\n", "caller": None}), 0)
    assert found is not None
    assert found.text("grant") == "\ufffd]0;title\ufffd\ufffd"
    assert found.text("caller") == ""


@pytest.mark.parametrize("message", ["START RequestId", "[1]", '{"_aws": {}}', '{"half": '])
def test_what_is_no_structured_line_is_passed_over(message: str):
    assert parse(message, 0) is None


ROWS = [
    GrantRow(
        grant="deals",
        scope=("read:deals",),
        connection="default",
        state=GrantState.LIVE,
        renewed_at=NOW - timedelta(minutes=5),
        expires_at=NOW + timedelta(minutes=5),
        due_at=NOW + timedelta(minutes=1),
    ),
    GrantRow(
        grant="uat-reporting",
        scope=("read:deals", "read:activity"),
        connection="uat",
        state=GrantState.EXPIRED,
        reason="invalid_client",
        cause="the client secret is wrong",
        retry_at=NOW + timedelta(minutes=2),
    ),
    GrantRow(grant="users", state=GrantState.BLOCKED, reason="blocked", cause="leaked"),
]


def drawn(width: int, *, is_terminal: bool = False, encoding: str = "utf-8") -> str:
    out = TextIOWrapper(BytesIO(), encoding=encoding)
    colours = "standard" if is_terminal else "auto"
    console = Console(file=out, width=width, force_terminal=is_terminal, color_system=colours)
    console.print(StatusView(title="dev", rows=ROWS, now=NOW))
    out.flush()
    return out.buffer.getvalue().decode(encoding)


@pytest.mark.parametrize("width", [80, 140])
def test_picture_fits_its_width(width: int):
    lines = drawn(width).splitlines()
    assert lines[0] == "dev: 1 of 3 grants served, 03:04:05Z"
    assert max(map(len, lines)) <= width
    assert len([text for text in lines if text.startswith(("deals ", "uat-r", "users "))]) >= 3
    length = 20 if width >= WIDE else 10
    assert "█" * (length // 2) + "░" * (length // 2) + " 5m 00s" in "\n".join(lines)
    text = " ".join(" ".join(lines).split())
    assert "uat-reporting: invalid_client: the client secret is wrong" in text
    assert "tried again at 03:06:05Z" in text
    assert "users: blocked: leaked" in text
    assert ("read:activity" in text) == (width >= WIDE)


def test_picture_without_a_terminal_is_plain_text():
    assert "\x1b" not in drawn(80)
    assert "\x1b[" in drawn(80, is_terminal=True)


def test_bar_is_ascii_where_nothing_else_can_be_shown():
    assert "#####....." in drawn(80, encoding="ascii")


def test_json_has_the_documented_shape():
    output = {
        "stack": "s",
        "at": "2026-01-02T03:04:05Z",
        "grants": [row_json(r, NOW) for r in ROWS],
    }
    jsonschema.validate(output, SCHEMAS["status"])
    assert output["grants"][2]["seconds_left"] == 0
