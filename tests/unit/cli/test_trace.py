"""`broker trace`: what the logs say of one token."""

from datetime import UTC, datetime, timedelta

import jsonschema
import pytest
from typer.testing import CliRunner

from broker_cli import logs, trace
from broker_cli.failures import ExitCode
from broker_cli.logs import LogLine
from broker_cli.main import app
from broker_cli.schemas import SCHEMAS
from token_broker.models import rfc3339

START = datetime(2026, 1, 1, tzinfo=UTC)
TOKEN, NEXT = "0123456789ab", "ba9876543210"
SYNC, ETL = "arn:aws:iam::111122223333:user/sync", "arn:aws:iam::111122223333:role/etl"


def line(minute: int, message: str, fingerprint: str = TOKEN, **fields: str) -> LogLine:
    record = {"message": message, "grant": "deals", "fingerprint": fingerprint, **fields}
    return LogLine(at=START + timedelta(minutes=minute), record=record)


def renewed(minute: int, fingerprint: str, why: str) -> LogLine:
    expires_at = rfc3339(START + timedelta(minutes=minute + 30))
    return line(
        minute,
        "grant renewed",
        fingerprint,
        state="renewed",
        renew_reason=why,
        expires_at=expires_at,
    )


RENEWALS = [renewed(-15, NEXT, "missing"), renewed(0, TOKEN, "due"), renewed(9, NEXT, "rejected")]
VENDED = [
    line(1, "token vended", caller=SYNC),
    line(2, "token vended", caller=ETL),
    line(7, "token vended", caller=SYNC),
    line(8, "token reported as rejected", caller=ETL),
]


@pytest.mark.parametrize(("minutes", "ends"), [(29, []), (30, ["expired"])])
def test_life_of_a_token_is_told_from_its_request_to_its_end(minutes: int, ends: list[str]):
    events = trace.events_of(TOKEN, VENDED, RENEWALS, START + timedelta(minutes=minutes))
    assert [event.event for event in events] == [
        "stored",
        "vended",
        "vended",
        "rejected",
        "replaced",
        *ends,
    ]
    assert events[0].reason == "due"
    assert (events[1].caller, events[1].times) == (SYNC, 2)
    assert events[1].last_at == START + timedelta(minutes=7)
    assert (events[4].other, events[4].reason) == (NEXT, "rejected")


def test_token_that_is_vended_before_the_run_reports_it_was_stored_first():
    events = trace.events_of(TOKEN, [line(-1, "token vended", caller=SYNC)], RENEWALS, START)
    assert [event.event for event in events][:2] == ["stored", "vended"]


def test_renewals_of_other_grants_replace_nothing(monkeypatch: pytest.MonkeyPatch):
    record = {"grant": "users", "fingerprint": NEXT, "state": "renewed"}
    other = LogLine(at=START + timedelta(minutes=1), record=record)
    lines = {"token-vendor": VENDED[:1], "token-refresher": [RENEWALS[1], other]}
    monkeypatch.setattr(logs, "read", lambda _stack, function, *_, **__: iter(lines[function]))
    grant, events = trace._read(None, TOKEN, START)
    assert grant == "deals"
    assert "replaced" not in {event.event for event in events}


def test_json_has_the_documented_shape():
    events = trace.events_of(TOKEN, VENDED, RENEWALS, START + timedelta(hours=1))
    document = {"fingerprint": TOKEN, "grant": "deals", "events": [e.to_json() for e in events]}
    jsonschema.validate(document, SCHEMAS["trace"])


def test_renewal_from_before_the_logs_leaves_its_reason_out():
    events = trace.events_of(TOKEN, VENDED[:1], RENEWALS[:1], START + timedelta(hours=1))
    assert [event.event for event in events] == ["vended"]


@pytest.mark.parametrize("text", ["", "0123456789AB", "0123456789abc", TOKEN + "\n", "eyJhbGciOi"])
def test_other_text_than_a_fingerprint_is_refused_before_aws_is_asked(text: str):
    result = CliRunner().invoke(app, ["trace", "--", text])
    assert result.exit_code == ExitCode.USAGE
    assert "is not a fingerprint" in result.output
    assert "sha256sum" in result.output


def test_token_that_no_line_names_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trace.Stack, "open", lambda _name: None)
    monkeypatch.setattr(logs, "read", lambda *_, **__: iter(()))
    result = CliRunner().invoke(app, ["trace", TOKEN])
    assert result.exit_code == ExitCode.WRONG
    assert f"no log line names the token {TOKEN}" in result.output
