"""`broker` against the deployed stack: what an operator types, sees and is spared."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jsonschema
import pytest
from botocore.credentials import Credentials
from typer.testing import CliRunner, Result

from broker_cli.failures import ExitCode
from broker_cli.main import app
from broker_cli.schemas import SCHEMAS
from broker_cli.verify import active
from local.broker_stack import ROOT, STACK_NAME, wait_until
from local.callers import create_user
from local.embedded_aws import ACCOUNT
from tests.deployed.conftest import FULL_RUN_ACCOUNT, Deployed
from token_broker.models import fingerprint
from token_refresher.connection_state import ConnectionStateStore

BROKER = Path(sys.executable).parent / "broker"


@dataclass
class Cli:
    """The command line in this process, with the environment of the deployment's operator."""

    environ: dict[str, str]
    outputs: list[str] = field(default_factory=list)

    def __call__(self, *arguments: str, stdin: str = "", **env: str) -> Result:
        result = CliRunner().invoke(
            app, arguments, input=stdin, env=self.environ | env, prog_name="broker"
        )
        assert "\x1b" not in result.output
        assert "Traceback" not in result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        if arguments[0] != "token":
            self.outputs.append(result.output)
        return result

    def json(self, command: str, *arguments: str, code: int = 0) -> dict:
        result = self(*command.split(), *arguments, "--json")
        assert result.exit_code == code, result.output
        output = json.loads(result.stdout)
        jsonschema.validate(output, SCHEMAS[command.replace(" ", "-")])
        return output


@pytest.fixture(scope="module")
def cli(renewed: Deployed, source: Path) -> Cli:
    own = renewed.stack.aws.environ(ACCOUNT)
    environ = {name: value for name, value in own.items() if name.startswith("AWS_")}
    return Cli(
        environ
        | {
            "BROKER_GRANTS_FILE": str(source / "layers/grants/grants.toml"),
            "COLUMNS": "100",
            "BROKER_TRACEBACK": "",
        }
    )


@pytest.fixture(scope="module")
def good(renewed: Deployed) -> str:
    """The connection's secret, as an operator would keep it in a file."""
    renewed.stack.refresh({"force": True})
    secret = renewed.stack.administrator.client("secretsmanager").get_secret_value(
        SecretId=renewed.stack.outputs["ClientSecretArn"]
    )
    return secret["SecretString"]


def labels(deployed: Deployed) -> dict[str, str]:
    """Each staging label's version."""
    secret = deployed.stack.administrator.client("secretsmanager").describe_secret(
        SecretId=deployed.stack.outputs["ClientSecretArn"]
    )
    return {label: v for v, found in secret["VersionIdsToStages"].items() for label in found}


def grants(output: dict) -> dict[str, dict]:
    return {grant["grant"]: grant for grant in output["grants"]}


def test_status_shows_every_grant_and_what_is_wrong(renewed: Deployed, cli: Cli):
    output: dict[str, dict] = {}

    def is_served() -> bool:
        output.update(grants(cli.json("status", code=1)))
        return output["deals"]["state"] in {"live", "renewing"}

    # Another file of this process may have ended with an outage, whose backoff still lasts.
    wait_until(is_served, seconds=60, what="a token of deals")
    assert output["deals"]["seconds_left"] > 0
    assert output["reporting"]["scope"] == ["read:deals", "read:activity", "read:users"]
    assert (output["forbidden"]["state"], output["forbidden"]["reason"]) == (
        "expired",
        "invalid_scope",
    )
    for columns in ("80", "140"):
        result = cli("status", COLUMNS=columns)
        assert result.exit_code == ExitCode.WRONG
        assert f"{STACK_NAME}: " in result.stdout
        assert "forbidden: invalid_scope: " in result.stdout.replace("\n", " ")
        assert max(map(len, result.stdout.splitlines())) <= int(columns)
        assert ("read:activity" in result.stdout) == (columns == "140")


def test_status_reads_no_token(renewed: Deployed, cli: Cli):
    """An operator who may neither read nor decrypt a parameter has the same picture."""
    actions = ["cloudformation:DescribeStacks", "ssm:DescribeParameters", "logs:FilterLogEvents"]
    statement = {"Effect": "Allow", "Action": actions, "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": statement})
    watcher = create_user(renewed.stack.administrator, "watcher", policy)
    result = cli("status", **as_user(watcher))
    assert "deals" in result.stdout
    assert result.exit_code == ExitCode.WRONG  # of `forbidden`
    refused = cli("refresh", **as_user(watcher))
    assert refused.exit_code == ExitCode.AWS
    assert refused.stderr.startswith("error: Invoke was refused by AWS: AccessDenied")


def as_user(credentials: Credentials) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": credentials.access_key,
        "AWS_SECRET_ACCESS_KEY": credentials.secret_key,
    }


def test_watch_goes_on_until_ctrl_c(cli: Cli):
    command = [BROKER, "status", "--watch", "--every", "1"]
    environ = {**os.environ, **cli.environ}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
        seen = [process.stdout.readline()]
        while sum(STACK_NAME in line for line in seen) < 2:
            seen.append(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "\x1b" not in "".join(seen) + rest
    assert len([line for line in seen if line.startswith("deals ")]) >= 1


def test_refresh_renews_and_reports_what_failed(cli: Cli):
    output = cli.json("refresh", "deals", "--force")
    assert output["grants"]["deals"]["state"] == "renewed"
    assert "renewed" in cli("refresh", "deals", "--force").stdout
    output = cli.json("refresh", "forbidden", "--force", code=1)
    assert output["causes"][0].startswith("forbidden: ")
    failed = cli("refresh", "forbidden", "--force")
    assert "forbidden: the token endpoint returned invalid_scope" in failed.stderr
    assert "no such grant: nope" in cli("refresh", "nope").stderr


def test_token_is_printed_to_an_allowed_caller(renewed: Deployed, cli: Cli):
    url = renewed.stack.outputs["TokenApiUrl"]
    cli("refresh", "deals", "--force")
    token = cli("token", "deals").stdout.strip()
    assert token in set(renewed.enable.issued_tokens())
    header = cli(
        "token", "deals", "--header", "--url", url, **as_user(renewed.callers["user for deals"])
    )
    assert header.stdout.startswith("Authorization: Bearer ey")
    assert header.stdout.split()[-1] in set(renewed.enable.issued_tokens())


@pytest.mark.parametrize(
    ("arguments", "caller", "expected"),
    [
        (["deals"], "user without policy", (ExitCode.REFUSED, "IAM does not let you")),
        (["locked"], "user for all", (ExitCode.REFUSED, "callers of locked")),
        (["forbidden"], "user for all", (ExitCode.NOT_NOW, "no token of forbidden now")),
        (["deals", "--min-ttl", "9999"], "user for all", (ExitCode.NOT_NOW, "fewer than min_ttl")),
        (["invoices"], "user for all", (ExitCode.USAGE, "no grant invoices")),
        (["../x"], "user for all", (ExitCode.USAGE, "no grant's name")),
    ],
)
def test_token_is_refused_with_the_failed_check_and_a_next_step(
    renewed: Deployed, cli: Cli, arguments: list[str], caller: str, expected: tuple[ExitCode, str]
):
    code, error = expected
    url = renewed.stack.outputs["TokenApiUrl"]
    result = cli("token", *arguments, "--url", url, **as_user(renewed.callers[caller]))
    assert result.exit_code == code
    assert result.stdout == ""
    assert error in result.stderr
    assert "next:  " in result.stderr


def test_policy_is_what_a_new_caller_needs(renewed: Deployed, cli: Cli):
    policy = cli("policy", "users").stdout
    newcomer = create_user(renewed.stack.administrator, "by-policy", policy)
    assert renewed.stack.api.get("/tokens/users", newcomer).status == 200
    assert renewed.stack.api.get("/tokens/deals", newcomer).status == 403
    report = renewed.stack.api.request(
        "/tokens/users/rejection", newcomer, method="POST", body=b'{"fingerprint": "x"}'
    )
    assert report.status == 400  # let through by IAM, and found malformed by the function


@pytest.mark.parametrize(
    ("grant", "principal", "expected"),
    [
        ("deals", "role/jobs/any", "names no callers"),
        ("locked", "role/jobs/locked-job", "name arn"),
        ("locked", "user/other", "refuses it"),
        ("tried-out", "user/other", "lets it through and logs it"),
    ],
)
def test_policy_reports_whether_callers_list_the_principal(
    cli: Cli, grant: str, principal: str, expected: str
):
    result = cli("policy", grant, "--principal", f"arn:aws:iam::{ACCOUNT}:{principal}")
    assert expected in result.stderr
    assert json.loads(result.stdout)["Statement"]


@pytest.mark.parametrize(
    ("grant", "principal", "refused_by"),
    [
        ("deals", "user/sync", []),
        ("users", "user/sync", ["IAM"]),
        ("locked", "user/everything", ["callers"]),
        ("locked", "user/sync", ["IAM", "callers"]),
        ("forbidden", "user/everything", ["token"]),
    ],
)
def test_explain_names_the_check_that_refuses(
    cli: Cli, grant: str, principal: str, refused_by: list[str]
):
    arn = f"arn:aws:iam::{ACCOUNT}:{principal}"
    output = cli.json("explain", grant, "--as", arn, code=1 if refused_by else 0)
    assert [lock["lock"] for lock in output["locks"] if lock["verdict"] == "refuses"] == refused_by
    text = cli("explain", grant, "--as", arn).stdout
    expected = f"refused by {refused_by[0]}" if refused_by else "gets the token of deals"
    assert expected in text


def test_explain_reports_that_other_accounts_are_refused(cli: Cli):
    output = cli.json("explain", "deals", "--as", "arn:aws:iam::999900001111:role/x", code=1)
    assert output["locks"][0]["verdict"] == "refuses"


def test_audit_lists_who_got_which_token(renewed: Deployed, cli: Cli):
    token = renewed.get("/tokens/deals", "user for deals").access_token
    renewed.get("/tokens/locked", "user for all")
    output = cli.json("audit", "--grant", "deals", "--caller", "user/sync", "--since", "1m")
    assert output["events"][-1]["event"] == "token vended"
    assert output["events"][-1]["fingerprint"] == fingerprint(token)
    assert {event["grant"] for event in output["events"]} == {"deals"}
    text = cli("audit", "--since", "1m").stdout
    assert "token refused" in text
    assert "access_denied" in text
    assert "grant renewed" in text
    assert cli("audit", "--caller", "nobody at all").stdout == ""


def test_usage_counts_what_each_caller_got(renewed: Deployed, cli: Cli):
    def vended() -> int:
        uses = cli.json("usage", "--since", "1h")["uses"]
        ours = [use for use in uses if use["grant"] == "deals" and "user/sync" in use["caller"]]
        return ours[0]["vended"] if ours else 0

    before = vended()
    renewed.get("/tokens/deals", "user for deals")
    wait_until(lambda: vended() == before + 1, seconds=30, what="the line of the vend")
    renewed.get("/tokens/locked", "user for all")
    output = cli.json("usage", "--since", "1h")
    elsewhere = f"arn:aws:iam::{FULL_RUN_ACCOUNT}:role/locked-*"
    assert {"grant": "locked", "pattern": elsewhere} in output["silent_callers"]
    assert "forbidden" in output["idle_grants"]
    assert f"locked,{elsewhere},0,0," in cli("usage", "--csv").stdout


def test_status_page_shows_grants_alarms_runs_and_callers(
    renewed: Deployed, cli: Cli, tmp_path: Path
):
    renewed.get("/tokens/deals", "user for deals")
    result = cli("status", "--html", str(tmp_path / "status.html"))
    assert result.exit_code == ExitCode.WRONG  # of `forbidden`
    page = (tmp_path / "status.html").read_text("utf-8")
    for expected in ("forbidden", "invalid_scope: ", "vend-crashes", "renewed", "user/sync"):
        assert expected in page, expected
    missing = cli("status", "--html", str(tmp_path / "none" / "status.html"))
    assert missing.exit_code == ExitCode.USAGE
    assert "cannot be written" in missing.stderr


def test_trace_lists_the_events_of_a_token(renewed: Deployed, cli: Cli):
    token = fingerprint(renewed.get("/tokens/deals", "user for deals").access_token)
    renewed.stack.refresh({"force": True, "grants": ["deals"]})

    def events() -> list[str]:
        return [event["event"] for event in cli.json("trace", token, "--since", "1h")["events"]]

    # A run logs what it stored when it ends, and the requests of other grants may take longer.
    expected = {"stored", "vended", "replaced"}
    wait_until(lambda: expected <= {*events()}, seconds=60, what="the run to log the token")
    assert events()[0] == "stored"
    assert "user/sync" in cli("trace", token).stdout


def test_probe_is_an_exit_code_for_a_scheduler(cli: Cli):
    assert cli.json("probe")["is_well"]
    assert not cli.json("probe", "--grant", "forbidden", code=1)["is_well"]
    assert "anonymous: forbidden returned 403" in cli("probe", "--grant", "forbidden").stdout


def test_failures_are_shown_and_stay_in_the_queue_until_they_are_cleared(
    renewed: Deployed, cli: Cli
):
    renewed.stack.administrator.client("lambda").invoke(
        FunctionName=renewed.stack.outputs["RefreshFunctionName"],
        InvocationType="Event",
        Payload=b'{"force": true, "grants": ["forbidden"]}',
    )

    def reports() -> list[dict]:
        result = cli("failures", "--json")
        output = json.loads(result.stdout)
        jsonschema.validate(output, SCHEMAS["failures"])
        assert result.exit_code == (ExitCode.WRONG if output["reports"] else 0)
        return [r for r in output["reports"] if "forbidden: " in "".join(r["causes"])]

    wait_until(lambda: bool(reports()), seconds=30, what="a report of the failed run")
    (first, *_) = reports()
    assert first["tries"] == 3
    text = cli("failures")
    assert ", tried 3 times\n  forbidden: " in text.stdout
    assert "broker failures --clear" in text.stderr
    checks = {check["check"]: check for check in cli.json("doctor", code=1)["checks"]}
    assert checks["failures queue"]["verdict"] == "wrong"
    assert "cleared" in cli("failures", "--clear").stdout
    wait_until(
        lambda: "no run failed for good" in cli("failures", "--clear").stdout,
        seconds=20,
        what="an empty queue",
    )


def test_block_stops_a_grant_and_unblock_lets_it_go_on(renewed: Deployed, cli: Cli):
    assert cli("block", "activity", "--reason", "leaked, case 7").exit_code == 0
    try:
        output = grants(cli.json("status", code=1))["activity"]
        assert (output["state"], output["reason"], output["cause"]) == (
            "blocked",
            "blocked",
            "leaked, case 7",
        )
        wait_until(
            lambda: renewed.get("/tokens/activity", "user for all").status == 503,
            seconds=30,
            what="the vend function to look again",
        )
        assert cli("refresh", "activity", "--force").exit_code == 0
        assert grants(cli.json("status", code=1))["activity"]["state"] == "blocked"
        url = renewed.stack.outputs["TokenApiUrl"]
        refused = cli("token", "activity", "--url", url)
        assert refused.exit_code == ExitCode.NOT_NOW
        assert "blocked by its operator" in refused.stderr
        checks = cli.json("doctor", code=1)["checks"]
        blocked = next(check for check in checks if check["check"] == "grant activity")
        assert blocked["fix"] == "broker unblock activity"
    finally:
        assert cli("unblock", "activity").exit_code == 0
    wait_until(
        lambda: grants(cli.json("status", code=1))["activity"]["state"] in {"live", "renewing"},
        seconds=20,
        what="a token, if another run was at it",
    )
    assert "not blocked" in cli("unblock", "activity").stdout
    assert cli("block", "nope", "--reason", "x").exit_code == ExitCode.USAGE


def test_block_outlasts_a_renewal_that_had_begun_before_it(renewed: Deployed, cli: Cli):
    ssm, prefix = (
        renewed.stack.administrator.client("ssm"),
        renewed.stack.outputs["TokenParameterPrefix"],
    )
    states = ConnectionStateStore(ssm, prefix=prefix)
    requests_before = len(renewed.enable.token_requests)
    renewed.enable.latency = timedelta(seconds=2)
    try:
        renewed.stack.administrator.client("lambda").invoke(
            FunctionName=renewed.stack.outputs["RefreshFunctionName"],
            InvocationType="Event",
            Payload=b'{"force": true, "grants": ["activity"]}',
        )
        wait_until(
            lambda: states.read("default").is_leased(datetime.now(UTC)), seconds=30, what="the run"
        )
        assert cli("block", "activity", "--reason", "overtaken").exit_code == 0
        wait_until(
            lambda: not states.read("default").is_leased(datetime.now(UTC)),
            seconds=30,
            what="the end of the run",
        )
        assert len(renewed.enable.token_requests) > requests_before
        assert grants(cli.json("status", code=1))["activity"]["state"] == "blocked"
    finally:
        renewed.enable.latency = timedelta()
        assert cli("unblock", "activity").exit_code == 0


def test_wrong_secret_changes_nothing_and_callers_are_served(
    renewed: Deployed, cli: Cli, good: str
):
    before = labels(renewed)
    wrong = json.dumps(json.loads(good) | {"client_secret": "mistyped-s3cret\n"})
    result = cli("secret", "set", "--from-file", "-", stdin=wrong)
    assert result.exit_code == ExitCode.WRONG
    assert "invalid_client" in result.stderr
    assert "white space" in result.stderr
    assert "mistyped" not in result.output
    assert labels(renewed) == before
    assert renewed.get("/tokens/deals", "user for deals").status == 200


def test_right_secret_becomes_the_current_one(
    renewed: Deployed, cli: Cli, good: str, tmp_path: Path
):
    before = labels(renewed)
    file = tmp_path / "enable.json"
    file.write_text(good)
    result = cli("secret", "set", "--from-file", str(file))
    assert result.exit_code == 0, result.stderr
    after = labels(renewed)
    assert after["AWSCURRENT"] != before["AWSCURRENT"]
    assert after["AWSPREVIOUS"] == before["AWSCURRENT"]
    assert "AWSPENDING" not in after


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("not JSON p4ssw0rd", "not valid JSON"),
        ('{"client_id": "a", "client_secret": "p4ssw0rd"}', "dealtrack_registration_id"),
        (
            '{"client_id": "a", "client_secret": "REPLACE-ME", "dealtrack_registration_id": "b"}',
            "not been filled in",
        ),
    ],
)
def test_secret_of_another_shape_is_refused_unstored(
    renewed: Deployed, cli: Cli, text: str, error: str
):
    before = labels(renewed)
    result = cli("secret", "set", "--from-file", "-", stdin=text)
    assert result.exit_code == ExitCode.USAGE
    assert error in result.stderr
    assert "p4ssw0rd" not in result.output
    assert labels(renewed) == before


def test_secret_needs_a_terminal_or_a_file_and_a_known_connection(cli: Cli):
    assert cli("secret", "set").exit_code == ExitCode.USAGE
    assert cli("secret", "set", "--from-file", "/nowhere").exit_code == ExitCode.USAGE
    unknown = cli("secret", "set", "--connection", "nope", "--from-file", "-")
    assert "no connection nope" in unknown.stderr


def test_ctrl_c_while_a_secret_is_tried_leaves_nothing_half_done(
    renewed: Deployed, cli: Cli, good: str
):
    before = labels(renewed)
    renewed.enable.latency = timedelta(seconds=4)
    try:
        with subprocess.Popen(
            [BROKER, "secret", "set", "--from-file", "-"],
            env={**os.environ, **cli.environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            process.stdin.write(good)
            process.stdin.close()
            process.stdin = None
            wait_until(
                lambda: "AWSPENDING" in labels(renewed), seconds=30, what="the pending label"
            )
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=30)
    finally:
        renewed.enable.latency = timedelta()
    assert process.returncode == ExitCode.INTERRUPTED
    assert output == "interrupted\n"
    assert labels(renewed) == before


def test_typed_secret_is_not_shown(renewed: Deployed, cli: Cli, good: str):
    """On a terminal of its own, as a person would."""
    typed = json.loads(good)
    terminal, other_end = pty.openpty()
    process = subprocess.Popen(
        [BROKER, "secret", "set"],
        env={**os.environ, **cli.environ},
        stdin=other_end,
        stdout=other_end,
        stderr=other_end,
        start_new_session=True,
    )
    os.close(other_end)
    screen = b""

    def read_until(text: bytes) -> None:
        nonlocal screen
        ends = time.monotonic() + 30
        while text not in screen and time.monotonic() < ends:
            if select.select([terminal], [], [], 0.1)[0]:
                try:
                    screen += os.read(terminal, 65_536)
                except OSError:  # the other end has closed
                    break
        assert text in screen, screen

    for name in ("client_id", "client_secret", "dealtrack_registration_id"):
        read_until(f"{name}: ".encode())
        os.write(terminal, typed[name].encode() + b"\n")
    read_until(b"has been started")
    assert process.wait(10) == 0
    os.close(terminal)
    output = screen.decode()
    assert not [value for value in typed.values() if value in output]
    cli.outputs.append(output)


@contextmanager
def stored(deployed: Deployed, cli: Cli, good: str, text: str) -> Iterator[None]:
    """Somebody has put this into the secret by hand; fixed afterwards as the doctor says."""
    deployed.stack.administrator.client("secretsmanager").put_secret_value(
        SecretId=deployed.stack.outputs["ClientSecretArn"], SecretString=text
    )
    try:
        yield
    finally:
        assert cli("secret", "set", "--from-file", "-", stdin=good).exit_code == 0


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ({"client_secret": "known to nobody"}, "credentials of default"),
        ({"client_secret": "REPLACE-ME"}, "secret of default"),
        ({"client_id": ""}, "secret of default"),
    ],
)
def test_doctor_finds_a_broken_secret_first(
    renewed: Deployed, cli: Cli, good: str, change: dict[str, str], first: str
):
    with stored(renewed, cli, good, json.dumps(json.loads(good) | change)):
        output = cli.json("doctor", code=1)
        assert output["first"] == first
        found = next(check for check in output["checks"] if check["check"] == first)
        assert "broker secret set" in found["fix"]
        text = cli("doctor").stdout
    assert f"wrong: {first}: " in text
    assert "next:  broker secret set" in text
    checks = {c["check"]: c["verdict"] for c in cli.json("doctor", code=1)["checks"]}
    assert checks["secret of default"] == checks["credentials of default"] == "good"


def test_doctor_walks_the_whole_path(renewed: Deployed, cli: Cli):
    cloudwatch = renewed.stack.administrator.client("cloudwatch")
    alarm = f"{STACK_NAME}-vend-crashes"
    cloudwatch.set_alarm_state(AlarmName=alarm, StateValue="ALARM", StateReason="a test")
    try:
        output = cli.json("doctor", code=1)
    finally:
        cloudwatch.set_alarm_state(AlarmName=alarm, StateValue="OK", StateReason="a test")
    checks = {check["check"]: check for check in output["checks"]}
    for name in ("stack", "this machine's clock", "endpoint of default", "refresher", "token API"):
        assert checks[name]["verdict"] == "good", checks[name]
    assert checks["grant forbidden"]["verdict"] == "wrong"
    assert "vend-crashes" in checks["alarms"]["found"]
    assert "failures queue" in checks


@pytest.mark.parametrize("command", ["status", "doctor", "token deals"])
def test_no_stack_and_no_network_are_a_line_and_a_next_step(cli: Cli, command: str):
    for arguments, env, error in (
        (["--stack", "nowhere"], {}, "there is no stack nowhere"),
        ([], {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "AWS could not be reached"),
    ):
        result = cli(*command.split(), *arguments, **env)
        assert result.exit_code == ExitCode.AWS
        assert result.stdout == ""
        assert result.stderr.startswith(f"error: {error}")
        assert result.stderr.splitlines()[1].startswith("next:  ")


def documented_rights() -> list[dict]:
    """The statements of docs/operator-policy.json; its account is the tests' own."""
    policy = (ROOT / "docs/operator-policy.json").read_text(encoding="utf-8")
    # The embedded IAM needs another permission for a batch, unlike AWS; all of them are simulated.
    policy = re.sub(r'"(sqs:(?:Change|Delete)\w+)"', r'"\1*"', policy)
    # It names a rule with its bus, has one permission for reading and writing a concurrency,
    # and uses "*" for calls that list targets and settings.
    policy = policy.replace(":rule/", ":rule/default/")
    policy = policy.replace("lambda:GetFunctionConcurrency", "lambda:PutFunctionConcurrency")
    by_all = '"ssm:DescribeParameters", "ssm:GetServiceSetting", "events:ListTargetsByRule"'
    policy = policy.replace('"ssm:DescribeParameters"', by_all)
    rights = json.loads(policy)["Statement"]
    for right in rights:
        if right["Sid"] == "LookAtCallersPolicies":
            right["Resource"] = "*"
    return rights


def fail_a_run(deployed: Deployed, cli: Cli) -> None:
    """Until its report is in the queue."""
    deployed.stack.administrator.client("lambda").invoke(
        FunctionName=deployed.stack.outputs["RefreshFunctionName"],
        InvocationType="Event",
        Payload=b'{"force": true, "grants": ["forbidden"]}',
    )
    wait_until(lambda: cli("failures").exit_code == ExitCode.WRONG, seconds=30, what="a failed run")


def operator(deployed: Deployed, name: str, statements: list[dict]) -> dict[str, str]:
    policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
    return as_user(create_user(deployed.stack.administrator, f"operator-{name}", policy))


CALLER = f"arn:aws:iam::{ACCOUNT}:role/jobs/reporting-job"
COMMANDS_BY_RIGHT = [
    ("LookAtTheStack", "status"),
    ("LookAtTheLogs", "audit"),
    ("LookAtTheLogs", "usage"),
    ("LookAtWhatHasNoNarrowerResource", "status"),
    ("LookAtWhatHasNoNarrowerResource", "usage"),
    ("LookAtWhatIsDeployed", "verify"),
    ("TryAnAlarm", "verify --active"),
    ("LookAtTheFailures", "failures"),
    ("LookAtCallersPolicies", f"explain reporting --as {CALLER}"),
    ("Renew", "refresh deals"),
    ("ClearTheFailures", "failures --clear"),
    ("ChangeTheSecret", "secret set --from-file -"),
    ("ChangeTheSecret", "doctor"),
    ("KeyOfTheSecret", "secret set --from-file -"),
    ("KeyOfTheSecret", "doctor"),
    ("BlockAndUnblock", "block activity --reason tried"),
    ("BlockAndUnblock", "unblock activity"),
    ("KeyOfTheTokens", "block activity --reason tried"),
    ("KeyOfTheTokens", "unblock activity"),
]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded AWS never writes an alarm's action into its history."""
    monkeypatch.setattr(active, "ACTION_SECONDS", 0.0)


@pytest.mark.slow("each command of the CLI starts a process")
@pytest.mark.usefixtures("impatient")
def test_documented_rights_are_enough_for_every_command(renewed: Deployed, cli: Cli, good: str):
    rights = documented_rights()
    assert {right["Sid"] for right in rights} == {sid for sid, _ in COMMANDS_BY_RIGHT}
    env = operator(renewed, "all", rights)
    fail_a_run(renewed, cli)
    for _, command in COMMANDS_BY_RIGHT:
        result = cli(*command.split(), stdin=good, **env)
        assert "refused by AWS" not in result.output, command
        assert "\n? " not in result.output, command
        assert result.exit_code in {ExitCode.OK, ExitCode.WRONG}, command


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("right", "command"), COMMANDS_BY_RIGHT)
def test_each_documented_right_is_needed(
    renewed: Deployed, cli: Cli, good: str, right: str, command: str
):
    if right == "ClearTheFailures":
        fail_a_run(renewed, cli)
    others = [statement for statement in documented_rights() if statement["Sid"] != right]
    env = operator(renewed, re.sub(r"\W+", "-", f"{right}-{command}")[:40], others)
    result = cli(*command.split(), stdin=good, **env)
    assert "AccessDenied" in result.output, result.output


def test_no_output_contains_a_secret_or_a_token(renewed: Deployed, cli: Cli, good: str):
    secrets = {json.loads(good)["client_secret"], "mistyped-s3cret", "known to nobody"}
    output = "".join(cli.outputs)
    assert len(cli.outputs) > 40
    assert not [s for s in secrets | set(renewed.enable.issued_tokens()) if s in output]
