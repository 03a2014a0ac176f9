"""The pure parts of the command line: spans, errors, policies, locks, checks, and its help."""

import inspect
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import jsonschema
import pytest
from botocore.exceptions import (
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    ProfileNotFound,
)
from typer.main import get_command
from typer.testing import CliRunner

from broker_cli import audit, doctor
from broker_cli.api import Response
from broker_cli.audit import event_json
from broker_cli.aws import Stack
from broker_cli.console import ago, clock, parse_span, printable, span
from broker_cli.explain import Lock, callers_lock, gets_a_token, token_lock
from broker_cli.failed_runs import Report
from broker_cli.failures import ExitCode, Failure, failure_of
from broker_cli.logs import LogLine
from broker_cli.main import app
from broker_cli.principals import is_named, normalized
from broker_cli.render import GrantRow
from broker_cli.schemas import SCHEMAS
from broker_cli.token import policy_document, refusal
from broker_cli.trial import Trial
from token_broker.errors import ConfigurationError
from token_broker.grants import Grant
from token_refresher.check_grants import faults as faults_of
from token_refresher.credentials import ClientCredentials
from token_vendor.vend import GrantState

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ACCOUNT = "111122223333"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/reporting-job"


@pytest.fixture
def stack() -> Stack:
    return Stack(
        name="dev",
        session=boto3.Session(region_name="eu-west-1"),
        status="UPDATE_COMPLETE",
        outputs={
            "TokenApiUrl": "https://abc123.execute-api.eu-west-1.amazonaws.com/v1",
            "ClientSecretArn": f"arn:aws:secretsmanager:eu-west-1:{ACCOUNT}:secret:dev/x-AbCdEf",
        },
        parameters={},
        aws_time=NOW,
        asked_at=NOW,
    )


def invoke(*arguments: str, **env: str):
    return CliRunner().invoke(app, list(arguments), env=env, prog_name="broker")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0s"), (9, "9s"), (723, "12m 03s"), (3900, "1h 05m"), (90_000, "1d 01h")],
)
def test_span_in_two_units(seconds: int, text: str):
    assert span(timedelta(seconds=seconds)) == text


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), (" 1h ", 3600), ("7d", 604_800)]
)
def test_span_is_read(text: str, seconds: int):
    assert parse_span(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "1", "h", "-1h", "1.5h", "1h30m", "0s", "1w", "9999999d"])
def test_what_is_no_span_is_refused(text: str):
    with pytest.raises(ValueError, match="is not like"):
        parse_span(text)


def test_clock_has_a_date_only_on_another_day():
    assert clock(NOW, NOW) == "03:04:05Z"
    assert clock(NOW - timedelta(days=1), NOW) == "2026-01-01 03:04:05Z"


def test_printable_text_has_no_control_characters():
    assert printable("a\x1b[2Jb\n") == "a\ufffd[2Jb\ufffd"


def client_error(code: str, message: str = "") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "PutParameter")


@pytest.mark.parametrize(
    ("error", "printed"),
    [
        (NoCredentialsError(), "no AWS credentials"),
        (ProfileNotFound(profile="x"), "no such AWS profile"),
        (EndpointConnectionError(endpoint_url="https://x"), "AWS could not be reached"),
        (client_error("ExpiredTokenException"), "ExpiredTokenException"),
        (client_error("AccessDeniedException", "user/x may not"), "user/x may not"),
        (client_error("ThrottlingException"), "ThrottlingException"),
    ],
)
def test_fault_of_aws_is_a_line_and_a_next_step(error: Exception, printed: str):
    failure = failure_of(error)
    assert printed in str(failure)
    assert failure.next_step
    assert failure.code == ExitCode.AWS


def test_unexpected_fault_quotes_nothing():
    failure = failure_of(RuntimeError("the secret is hunter2"))
    assert "hunter2" not in str(failure) + failure.next_step
    assert failure.code == ExitCode.WRONG


def test_policy_allows_the_token_and_its_report_and_nothing_else(stack: Stack):
    document = policy_document(stack, "deals")
    base = f"arn:aws:execute-api:eu-west-1:{ACCOUNT}:abc123/v1"
    assert document["Statement"] == [
        {
            "Sid": "EnableToken",
            "Effect": "Allow",
            "Action": "execute-api:Invoke",
            "Resource": [f"{base}/GET/tokens/deals", f"{base}/POST/tokens/deals/rejection"],
        }
    ]


@pytest.mark.parametrize(
    ("arn", "principal"),
    [
        (ROLE, ROLE),
        (f"arn:aws:sts::{ACCOUNT}:assumed-role/reporting-job/s", ROLE),
        (f"arn:aws:iam::{ACCOUNT}:user/ops/a", f"arn:aws:iam::{ACCOUNT}:user/ops/a"),
    ],
)
def test_principal_behind_an_arn(arn: str, principal: str):
    assert normalized(arn) == principal


@pytest.mark.parametrize("arn", ["", "me", f"arn:aws:iam::{ACCOUNT}:root", "arn:aws:s3:::b\x1b[2J"])
def test_what_is_no_principal_is_refused(arn: str):
    with pytest.raises(Failure) as caught:
        normalized(arn)
    assert caught.value.code == ExitCode.USAGE
    assert "\x1b" not in str(caught.value)


def test_role_is_named_whatever_its_path():
    assert is_named(f"arn:aws:iam::{ACCOUNT}:role/jobs/reporting-job", (ROLE,))
    assert not is_named(f"arn:aws:iam::{ACCOUNT}:user/reporting-job", (ROLE,))


@pytest.mark.parametrize(
    ("grant", "verdict"),
    [
        (Grant(scope=("a",)), "passes"),
        (Grant(scope=("a",), callers=(ROLE,)), "passes"),
        (Grant(scope=("a",), callers=(f"{ROLE}-2",)), "refuses"),
        (Grant(scope=("a",), callers=(f"{ROLE}-2",), mode="audit"), "passes"),
    ],
)
def test_second_lock(grant: Grant, verdict: str):
    assert callers_lock(grant, ROLE).verdict == verdict


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (None, "refuses"),
        (GrantRow(grant="g", scope=("a",), state=GrantState.RENEWING), "passes"),
        (GrantRow(grant="g", scope=("b",), state=GrantState.LIVE), "unknown"),
        (GrantRow(grant="g", scope=("a",), state=GrantState.BLOCKED, reason="blocked"), "refuses"),
        (GrantRow(grant="g", state=GrantState.EXPIRED), "refuses"),
    ],
)
def test_token_as_a_lock(row: GrantRow | None, verdict: str):
    assert token_lock(row, Grant(scope=("a",))).verdict == verdict


@pytest.mark.parametrize(
    ("verdicts", "response"),
    [
        (["passes", "passes"], "yes"),
        (["passes", "unknown"], "unknown"),
        (["unknown", "refuses"], "no"),
    ],
)
def test_locks_together(verdicts: list[str], response: str):
    assert gets_a_token([Lock("l", v, "") for v in verdicts]) == response


@pytest.mark.parametrize(
    ("status", "error", "kind", "code"),
    [
        (400, "invalid_request", "", ExitCode.USAGE),
        (403, "access_denied", "", ExitCode.REFUSED),
        (403, "", "AccessDeniedException", ExitCode.REFUSED),
        (403, "", "InvalidSignatureException", ExitCode.AWS),
        (404, "unknown_grant", "", ExitCode.USAGE),
        (429, "", "", ExitCode.NOT_NOW),
        (503, "temporarily_unavailable", "", ExitCode.NOT_NOW),
        (502, "", "", ExitCode.WRONG),
    ],
)
def test_refusal_has_its_own_code(status: int, error: str, kind: str, code: ExitCode):
    body = {"error": error, "error_description": "x\x1b[2J"} if error else {}
    failure = refusal(
        Response(status=status, headers={"x-amzn-errortype": kind}, body=body), "deals"
    )
    assert failure.code == code
    assert "\x1b" not in str(failure)


def row(**facts: object) -> GrantRow:
    return GrantRow(**{"grant": "g", "state": GrantState.LIVE, "seen_at": NOW, **facts})


MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize(
    ("check", "verdict"),
    [
        (doctor.stack_check("s", "UPDATE_ROLLBACK_COMPLETE"), "good"),
        (doctor.stack_check("s", "DELETE_COMPLETE"), "wrong"),
        (doctor.stack_check("s", "UPDATE_ROLLBACK_FAILED"), "wrong"),
        (doctor.clock_check("c", NOW, NOW - MINUTE), "good"),
        (doctor.clock_check("c", NOW, NOW + 2 * MINUTE), "wrong"),
        (doctor.credentials_check("default", Trial(grant="g", refused={"f": "no"})), "good"),
        (doctor.credentials_check("default", Trial(grant="", refused={"f": "no"})), "wrong"),
        (doctor.runs_check([], MINUTE, NOW), "wrong"),
        (doctor.runs_check([row()], MINUTE, NOW + 3 * MINUTE), "good"),
        (doctor.runs_check([row()], MINUTE, NOW + 4 * MINUTE), "wrong"),
        (doctor.runs_check([row()], MINUTE, NOW - timedelta(seconds=5)), "good"),
        (doctor.runs_check([row()], MINUTE, NOW - 30 * MINUTE), "wrong"),
        (doctor.grant_check(row(), NOW), "good"),
        (doctor.grant_check(row(reason="timeout", cause="slow"), NOW), "wrong"),
        (doctor.grant_check(row(state=GrantState.EXPIRED), NOW), "wrong"),
        (doctor.grant_check(row(state=GrantState.BLOCKED, reason="blocked"), NOW), "wrong"),
    ],
)
def test_check(check: doctor.Check, verdict: str):
    assert check.verdict == verdict
    assert bool(check.fix) == (verdict == "wrong")


def test_refresher_that_does_not_start_is_wrong_until_it_has_started_since():
    fault = LogLine(at=NOW, record={"cause": "python/grants.toml is faulty"})
    found = doctor.start_check([row(seen_at=NOW - MINUTE)], [fault])
    assert found
    assert (found.verdict, bool(found.fix)) == ("wrong", True)
    assert "grants.toml is faulty" in found.found
    assert doctor.start_check([row(seen_at=NOW + MINUTE)], [fault]) is None
    assert doctor.start_check([], []) is None


def test_check_that_cannot_be_made_is_no_fault_of_the_broker():
    def refuse() -> doctor.Check:
        raise client_error("AccessDeniedException")

    assert doctor._guarded("alarms", refuse).verdict == "unknown"


def test_audit_event_has_the_documented_shape():
    line = LogLine(at=NOW, record={"message": "token vended", "grant": "deals", "caller": ROLE})
    jsonschema.validate({"events": [event_json(line)]}, SCHEMAS["audit"])


def test_audit_shows_who_would_be_refused():
    record = {"message": "token vended", "level": "INFO", "grant": "deals", "caller": ROLE}
    lines = [LogLine(at=NOW, record=record | {"would_be_refused": flag}) for flag in (True, None)]
    assert [event_json(line)["would_be_refused"] for line in lines] == [True, False]
    table = audit._table(lines, NOW)
    assert list(table.columns[1].cells) == ["token vended (would be refused)", "token vended"]
    assert [row.style for row in table.rows] == ["yellow", None]


REPORT = {
    "requestContext": {"condition": "RetriesExhausted", "approximateInvokeCount": 3},
    "responsePayload": {"errorType": "RenewalFailed", "errorMessage": "not renewed: a: x | b: y"},
}
TOO_OLD = {"requestContext": {"condition": "EventAgeExceeded", "approximateInvokeCount": 1}}


@pytest.mark.parametrize(
    ("body", "error", "causes", "tries"),
    [
        (json.dumps(REPORT), "RenewalFailed", ("a: x", "b: y"), 3),
        (json.dumps(TOO_OLD), "EventAgeExceeded", (), 1),
        (json.dumps({**REPORT, "responsePayload": "text"}), "Unreadable", (), 0),
        ("[]", "Unreadable", (), 0),
        ("no JSON \x1b[2J", "Unreadable", (), 0),
    ],
)
def test_report_of_a_failed_run(body: str, error: str, causes: tuple[str, ...], tries: int):
    report = Report.of({"Body": body, "Attributes": {"SentTimestamp": "1767323045678"}})
    assert (report.error, report.causes, report.tries) == (error, causes, tries)
    assert report.at.replace(microsecond=0) == NOW
    printed = json.loads(json.dumps({"reports": [report.as_json()], "is_cleared": False}))
    jsonschema.validate(printed, SCHEMAS["failures"])


def test_every_command_with_json_has_a_schema_and_no_schema_is_left_over():
    commands = [
        path
        for path in COMMANDS
        if re.search(r"^\W*--json ", invoke(*path, "--help").stdout, re.MULTILINE)
    ]
    assert {"-".join(path) for path in commands} == SCHEMAS.keys()


@pytest.mark.parametrize("name", SCHEMAS)
def test_schema_is_one_and_is_printed(name: str):
    response = invoke("schema", name)
    assert response.exit_code == 0
    jsonschema.Draft202012Validator.check_schema(json.loads(response.stdout))


def test_unknown_schema_is_a_usage_error():
    assert invoke("schema", "nonsense").exit_code == ExitCode.USAGE


def _commands(command: object, *path: str) -> Iterator[tuple[str, ...]]:
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from _commands(inner, *path, name)


COMMANDS = list(_commands(get_command(app)))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_is_plain_text_without_a_terminal(path: tuple[str, ...]):
    response = invoke(*path, "--help", COLUMNS="80")
    assert response.exit_code == 0
    assert "\x1b" not in response.stdout
    assert max(map(len, response.stdout.splitlines())) <= 80
    if path not in {("secret",), ("grants",)}:
        shown = re.split(r"Examples: *\n", response.stdout)[1]
        assert " ".join(("broker", *path)) in shown


def test_help_documents_every_exit_code():
    printed = invoke("--help").stdout
    codes = re.findall(r"^ +(\d+) +[A-Za-z]+[ ;]", printed, re.MULTILINE)
    assert set(map(int, codes)) == set(ExitCode)


def test_no_command_takes_a_secret_as_an_argument():
    printed = "".join(invoke(*path, "--help", COLUMNS="200").stdout for path in COMMANDS)
    assert not re.search(r"--(client-)?(secret|password|token)\b", printed)


def test_usage_error_is_no_traceback():
    response = invoke("status", "--nonsense")
    assert response.exit_code == ExitCode.USAGE
    assert "Traceback" not in response.output


def without_aws(tmp_path: Path, **env: str | None) -> dict[str, str | None]:
    gone = ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    return {
        **dict.fromkeys(gone),
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_REGION": None,
        "AWS_DEFAULT_REGION": None,
        **env,
    }


@pytest.mark.parametrize(
    ("env", "printed"),
    [
        ({}, "no AWS region"),
        ({"AWS_REGION": "eu-west-1"}, "no AWS credentials"),
        ({"AWS_REGION": "eu-west-1", "AWS_PROFILE": "nobody"}, "no such AWS profile"),
    ],
)
@pytest.mark.parametrize(
    "command", ["status", "doctor", "audit", "refresh", "token deals", "policy deals", "probe"]
)
def test_missing_aws_environment_is_a_line_and_a_next_step(
    tmp_path: Path, command: str, env: dict[str, str], printed: str
):
    response = CliRunner().invoke(app, command.split(), env=without_aws(tmp_path, **env))
    assert response.exit_code == ExitCode.AWS
    assert response.stdout == ""
    assert response.stderr.startswith(f"error: {printed}")
    assert response.stderr.splitlines()[1].startswith("next:  ")


def test_broken_environment_quotes_no_traceback(monkeypatch: pytest.MonkeyPatch):
    def crash(_name: str) -> None:
        raise RuntimeError("hunter2")

    monkeypatch.setattr(Stack, "open", crash)
    response = invoke("status")
    assert response.exit_code == ExitCode.WRONG
    assert "hunter2" not in response.output
    assert response.exception is None or isinstance(response.exception, SystemExit)


def test_ctrl_c_is_told_by_the_exit_code(monkeypatch: pytest.MonkeyPatch):
    def interrupt(_name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Stack, "open", interrupt)
    response = invoke("status")
    assert (response.exit_code, response.stderr) == (ExitCode.INTERRUPTED, "interrupted\n")


@pytest.mark.parametrize(
    ("text", "code", "faults"),
    [
        ('[grants.a]\nscope = ["x"]\n', 0, []),
        ("[grants.a]\nscope = []\n", 1, ["grants.a: scope is empty"]),
        ("not toml", 1, ["not TOML"]),
    ],
)
def test_grants_check(tmp_path: Path, text: str, code: int, faults: list[str]):
    file = tmp_path / "grants.toml"
    file.write_text(text)
    response = invoke("grants", "check", str(file), "--json")
    printed = json.loads(response.stdout)
    jsonschema.validate(printed, SCHEMAS["grants-check"])
    assert response.exit_code == code
    assert [
        fault[: len(start)] for fault, start in zip(printed["faults"], faults, strict=True)
    ] == faults
    assert invoke("grants", "check", str(file)).exit_code == code


def test_grants_init_writes_a_sound_file_and_overwrites_none(tmp_path: Path):
    file = tmp_path / "grants.toml"
    assert invoke("grants", "init", str(file)).exit_code == 0
    written = file.read_text()
    assert invoke("grants", "check", str(file)).exit_code == 0
    reply = invoke("grants", "init", str(file))
    assert (reply.exit_code, file.read_text()) == (ExitCode.USAGE, written)
    commented = re.sub(r"(?m)^# (?=\[|\w+ = )", "", written)
    assert "connections.uat" in commented
    assert faults_of(commented) == []  # what is only commented out is sound, too
    assert invoke("grants", "init", str(tmp_path / "none" / "x")).exit_code == ExitCode.USAGE


def test_faulty_grants_are_not_published(tmp_path: Path):
    file = tmp_path / "grants.toml"
    file.write_text("[grants.a]\nscope = []\n")
    reply = invoke("grants", "publish", str(file))
    assert (reply.exit_code, reply.stdout) == (
        ExitCode.WRONG,
        "grants.toml: grants.a: scope is empty; name at least one Enable scope\n",
    )


def test_missing_grants_file_is_a_usage_error(tmp_path: Path):
    assert invoke("grants", "check", str(tmp_path / "none")).exit_code == ExitCode.USAGE
    response = invoke("block", "deals", "--reason", "x", "--grants-file", str(tmp_path / "none"))
    assert response.exit_code == ExitCode.USAGE


@pytest.mark.parametrize("reason", ["", "  ", "two\nlines", "x" * 201])
def test_reason_of_a_block_is_one_short_line(reason: str):
    assert invoke("block", "deals", "--reason", reason).exit_code == ExitCode.USAGE


def test_commands_have_docstrings_of_whole_sentences():
    for command in get_command(app).commands.values():
        assert inspect.cleandoc(command.help or "").split("\n\n")[0].endswith((".", "`."))


def test_moment_ahead_of_this_clock_is_not_shown_as_new() -> None:
    assert ago(NOW - MINUTE, NOW) == "1m 00s ago"
    assert ago(NOW + 30 * MINUTE, NOW) == "in 30m 00s"


def test_doctor_names_white_space_at_an_end_of_a_secret_s_field_and_not_the_value() -> None:
    credentials = ClientCredentials(
        client_id="id", client_secret="s3cr3t\n", dealtrack_registration_id="registration"
    )
    check = doctor.secret_check("default", credentials)
    assert (check.check, check.verdict) == ("secret of default", "good")
    assert "client_secret begins or ends with white space" in check.found
    assert "s3cr3t" not in check.found


def test_environment_that_cannot_be_used_is_named_as_a_mistake_to_correct() -> None:
    failure = failure_of(ConfigurationError("HTTPS_PROXY is not the URL of an HTTP proxy"))
    assert str(failure) == "HTTPS_PROXY is not the URL of an HTTP proxy"
    assert failure.next_step == "correct that, then try again"
