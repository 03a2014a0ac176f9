"""`broker doctor`: walks from the stack to the caller, and names the first thing that is wrong."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final, Literal

import typer
from botocore.exceptions import ClientError

from broker_cli import logs, trial
from broker_cli.aws import CONFIG, Stack, read_all
from broker_cli.console import ago, say, say_json, span, working
from broker_cli.failures import ExitCode, Failure, failure_of
from broker_cli.logs import LogLine
from broker_cli.options import Grants, Json, StackName, read_grants
from broker_cli.render import GrantRow
from broker_cli.status import look
from token_broker.errors import ConfigurationError
from token_broker.grants import GrantsFile
from token_refresher.app import NOT_STARTED
from token_refresher.credentials import ClientCredentials, SecretVersion
from token_refresher.enable.http_client import HttpClient, NoResponse

MAX_SKEW: Final = timedelta(seconds=60)
"""Signatures of AWS allow five minutes; tokens of a few minutes do not."""

_ENDPOINT_TIMEOUT: Final = timedelta(seconds=5)
_PAGE: Final = "docs/operate.md"
_START_FAULTS: Final = {"message": NOT_STARTED}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at, and what to do if it is wrong."""

    check: str
    verdict: Literal["good", "wrong", "unknown"]
    found: str
    fix: str = ""


def doctor(stack: StackName, grants_file: Grants, json: Json = False) -> None:
    """Check everything from the stack to the alarms; name the first fault and how to fix it.

    Checks the stack, clocks, each connection's secret and endpoint (requests one token and drops
    it), the refresher's runs, each grant, the token API, alarms and the failures queue. Exits
    with 1 if anything is wrong.
    """
    with working("looking"):
        opened, file = Stack.open(stack), read_grants(grants_file)
    checks: list[Check] = []
    with working("walking the path"):
        for check in _walk(opened, file):
            checks.append(check)
            if not json:
                _show(check)
    first = next((check for check in checks if check.verdict == "wrong"), None)
    if json:
        shown = [asdict(check) for check in checks]
        name = first.check if first else ""
        say_json({"stack": stack, "is_well": first is None, "first": name, "checks": shown})
    elif first:
        say(f"\nwrong: {first.check}: {first.found}\nnext:  {first.fix}")
    else:
        say("\nall is well")
    if first:
        raise typer.Exit(ExitCode.WRONG)


def _show(check: Check) -> None:
    mark, style = {"good": ("✓", "green"), "wrong": ("✗", "red"), "unknown": ("?", "yellow")}[
        check.verdict
    ]
    say(f"{mark} {check.check}: {check.found}", style=style)


def _walk(stack: Stack, file: GrantsFile) -> Iterator[Check]:
    """All checks, from the ground up: what an earlier one finds explains the later ones."""
    yield stack_check(stack.name, stack.status)
    yield clock_check("this machine's clock", stack.asked_at, stack.aws_time)
    for connection in dict.fromkeys(grant.connection for grant in file.grants.values()):
        yield from _connection(stack, file, connection)
    rows: list[GrantRow] = []

    def look_at_runs() -> Check:
        rows.extend(look(stack))
        now = datetime.now(UTC)
        day = now - timedelta(days=1)
        faults = logs.read_matching(stack, "token-refresher", _START_FAULTS, since=day)
        return start_check(rows, list(faults)) or runs_check(rows, stack.interval, now)

    yield _guarded("refresher", look_at_runs)
    shown: set[str] = set()
    for row in rows:
        yield grant_check(row, datetime.now(UTC), is_cause_shown=row.cause in shown)
        shown.add(row.cause)
    yield _guarded("token API", lambda: _api(stack))
    yield _guarded("alarms", lambda: _alarms(stack))
    yield _guarded("failures queue", lambda: _queue(stack))


def _guarded(name: str, look_at: Callable[[], Check]) -> Check:
    """A check, or that it could not be made: that is no fault of the broker."""
    try:
        return look_at()
    except Exception as error:
        failure = failure_of(error)
        return Check(name, "unknown", str(failure), failure.next_step)


def stack_check(name: str, status: str) -> Check:
    """CloudFormation's word: anything complete runs, even after a rollback."""
    if status.endswith("_COMPLETE") and not status.startswith("DELETE"):
        return Check("stack", "good", f"{name} is {status}")
    return Check("stack", "wrong", f"{name} is {status}", "look at its events, then deploy again")


def clock_check(name: str, here: datetime, there: datetime) -> Check:
    """Two clocks side by side; the header that tells the other's has whole seconds."""
    skew = abs(here - there)
    if skew <= MAX_SKEW:
        return Check(name, "good", f"{span(skew)} apart from AWS's")
    return Check(name, "wrong", f"{span(skew)} apart from AWS's", "set it by NTP")


def _connection(stack: Stack, file: GrantsFile, connection: str) -> Iterator[Check]:
    secret = _secret(stack, connection)
    if isinstance(secret, Check):
        yield secret
    else:
        yield secret_check(connection, secret.credentials)
    url = trial.token_url(stack, file, connection)
    yield _endpoint(stack, connection, url)
    if isinstance(secret, SecretVersion):
        grants = {n: grant for n, grant in file.grants.items() if grant.connection == connection}
        tried = trial.try_out(secret.credentials, url, grants)
        yield credentials_check(connection, tried)


def secret_check(connection: str, credentials: ClientCredentials) -> Check:
    """A secret of the right shape; whether Enable takes it, another check tells."""
    found = "filled in, and of the right shape"
    if credentials.padded:
        found += f"; {trial.padding(credentials)}"
    return Check(f"secret of {connection}", "good", found)


def _secret(stack: Stack, connection: str) -> SecretVersion | Check:
    """The current secret, or why there is none to use."""
    name, fix = f"secret of {connection}", f"broker secret set --connection {connection}"
    try:
        secret = stack.secrets.read(connection)
    except ConfigurationError as error:
        return Check(name, "wrong", str(error), fix)
    except ClientError as error:
        return Check(name, "unknown", str(failure_of(error)), "ask somebody who may read it")
    return secret or Check(name, "wrong", "it has no current version", fix)


def _endpoint(stack: Stack, connection: str, url: str) -> Check:
    """Whether it responds to a request without credentials, and what time it thinks it is."""
    name = f"endpoint of {connection}"
    try:
        response = HttpClient().request("GET", url, headers={}, limit=_ENDPOINT_TIMEOUT)
    except (NoResponse, ConfigurationError) as error:
        fix = f"check the network from here, and TokenUrl ({url})"
        return Check(name, "wrong", f"it cannot be reached from this machine: {error}", fix)
    if response.status >= 500 or 300 <= response.status < 400:
        fix = f"ask Enable, and check TokenUrl ({url})"
        return Check(name, "wrong", f"it returned HTTP {response.status}", fix)
    if date := response.headers.get("Date"):
        aws_now = datetime.now(UTC) + (stack.aws_time - stack.asked_at)
        clock = clock_check(name, parsedate_to_datetime(date), aws_now)
        if clock.verdict == "wrong":
            return Check(name, "wrong", f"its clock is {clock.found}", "tell Enable")
    return Check(name, "good", "it can be reached, and its clock agrees with AWS's")


def credentials_check(connection: str, tried: trial.Trial) -> Check:
    """What Enable made of the current secret."""
    name = f"credentials of {connection}"
    if not tried.grant:
        fix = f"broker secret set --connection {connection} (or ask Enable, if it is down)"
        return Check(name, "wrong", tried.response, fix)
    return Check(name, "good", f"Enable gave a token for {tried.grant}")


def start_check(rows: list[GrantRow], faults: list[LogLine]) -> Check | None:
    """Whether a setting or the grants keep the refresher from starting; None if it started since.

    Args:
        rows: each grant's, whose log line shows that a run started.
        faults: the lines of runs that did not start, oldest first.
    """
    if not faults or any(row.seen_at and row.seen_at >= faults[-1].at for row in rows):
        return None
    found = f"it does not start: {faults[-1].text('cause')}"
    return Check("refresher", "wrong", found, "do that; the stored tokens stay meanwhile")


def runs_check(rows: list[GrantRow], interval: timedelta, now: datetime) -> Check:
    """Whether the refresher looks at the grants as often as it should."""
    seen = [row.seen_at for row in rows if row.seen_at]
    if not seen:
        fix = f"broker refresh; if that works, see {_PAGE}#renewals-stopped"
        return Check("refresher", "wrong", "it has not run for a day", fix)
    age, last_ran = now - max(seen), f"it last ran {ago(max(seen), now)}"
    if age < -MAX_SKEW:
        return Check("refresher", "wrong", last_ran, "set this machine's clock by NTP")
    if age > 3 * interval + timedelta(seconds=30):  # the log takes some seconds to be readable
        return Check("refresher", "wrong", last_ran, f"{_PAGE}#renewals-stopped")
    return Check("refresher", "good", last_ran)


def grant_check(row: GrantRow, now: datetime, *, is_cause_shown: bool = False) -> Check:
    """One grant: served, and without a trouble that will end that."""
    cause = "" if is_cause_shown else row.cause
    name, why = f"grant {row.grant}", ": ".join(filter(None, [row.reason, cause]))
    if row.reason == "blocked":
        return Check(name, "wrong", f"blocked: {row.cause}", f"broker unblock {row.grant}")
    left = f"{row.state.value}, {span(row.time_left(now))} left"
    fix = f"broker refresh {row.grant} --force, then {_PAGE}#renewals-failing"
    if not row.is_served:
        return Check(name, "wrong", f"no live token ({why or 'none was asked for yet'})", fix)
    if row.reason:
        return Check(name, "wrong", f"{left}, but {why}", fix)
    return Check(name, "good", left)


def _api(stack: Stack) -> Check:
    """Whether it is there, and refuses who signs nothing."""
    try:
        status = stack.api.get("/grants", None).status
    except Failure as error:
        return Check("token API", "unknown", str(error), error.next_step)
    if status == 403:
        return Check("token API", "good", "it responds, and refuses an unsigned call")
    return Check("token API", "wrong", f"an unsigned call got {status}, not 403", "deploy again")


def _alarms(stack: Stack) -> Check:
    client = stack.session.client("cloudwatch", config=CONFIG)
    alarms = read_all(
        client.describe_alarms,
        "MetricAlarms",
        AlarmNamePrefix=f"{stack.name}-",
        StateValue="ALARM",
    )
    found = [alarm["AlarmName"].removeprefix(f"{stack.name}-") for alarm in alarms]
    if not found:
        return Check("alarms", "good", "none is on")
    return Check("alarms", "wrong", f"on: {', '.join(found)}", f"{_PAGE}#{found[0]}")


def _queue(stack: Stack) -> Check:
    reply = stack.session.client("sqs", config=CONFIG).get_queue_attributes(
        QueueUrl=stack.resource("RefreshFailuresQueue"),
        AttributeNames=["ApproximateNumberOfMessages"],
    )
    waiting = int(reply["Attributes"]["ApproximateNumberOfMessages"])
    if not waiting:
        return Check("failures queue", "good", "empty")
    found = f"{waiting} runs failed for good, some maybe long ago"
    return Check("failures queue", "wrong", found, "`broker failures` shows them")
