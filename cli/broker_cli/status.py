"""`broker status`: what each grant is good for.

No token is read for it, so it needs no right to decrypt one: when a token was stored, and whether
a block stands in its place, is metadata of its parameter; the rest is what the refresher logs of
every grant in the one line of each run, at most a schedule's interval ago, and in lines of single
grants: what it renewed, or why it did not, which it writes again while that lasts.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.live import Live

from broker_cli import logs, page
from broker_cli.aws import CONFIG, Stack, read_all
from broker_cli.console import console, printable, say, say_json, working
from broker_cli.failures import ExitCode, Failure, failure_of
from broker_cli.logs import LogLine
from broker_cli.options import Json, StackName
from broker_cli.render import GrantRow, StatusView
from token_broker.expiry import due_window, is_due
from token_broker.models import rfc3339
from token_broker.token_store import BLOCKED
from token_refresher.app import RUN
from token_refresher.outcomes import State
from token_vendor.vend import GrantState

PATTERN: Final = f'{{ ($.message = "{RUN}") || ($.state = "*") }}'
_WINDOWS: Final = (timedelta(minutes=5), timedelta(hours=1), timedelta(days=1))
_TROUBLE: Final = {State.FAILED, State.WAITING, State.DEFERRED}
_EXPLAINED: Final = {State.FAILED, State.WAITING, State.BLOCKED}
"""The states whose reason stands in a line of the grant's own, maybe of a run before the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What a grant's parameter tells without its value.

    Attributes:
        stored_at: when it was last written.
        version: counts its writes.
        block: the reason of a block that stands there; None for a token.
    """

    stored_at: datetime
    version: int
    block: str | None


def kept(stack: Stack) -> dict[str, Kept]:
    """Every grant's parameter, by grant."""
    parameters = read_all(
        stack.session.client("ssm", config=CONFIG).describe_parameters,
        "Parameters",
        ParameterFilters=[{"Key": "Name", "Option": "BeginsWith", "Values": [f"{stack.prefix}/"]}],
    )
    found = {}
    for parameter in parameters:
        name = parameter["Name"].removeprefix(f"{stack.prefix}/")
        output = parameter.get("Description", "")
        if "/" not in name:
            found[name] = Kept(
                stored_at=parameter["LastModifiedDate"].astimezone(UTC),
                version=parameter["Version"],
                block=printable(output[len(BLOCKED) :]) if output.startswith(BLOCKED) else None,
            )
    return found


def grant_rows(
    lines: Iterable[LogLine],
    parameters: Mapping[str, Kept],
    *,
    now: datetime,
    refresh_ahead: timedelta,
) -> list[GrantRow]:
    """What each grant is good for, in the order of the refresher's log.

    Args:
        lines: the refresher's about single grants, oldest first.
        parameters: by grant.
        now: aware.
        refresh_ahead: how long before its expiry a token is due, at most.
    """
    by_grant = _by_grant(lines)
    names = [*by_grant, *(name for name in sorted(parameters) if name not in by_grant)]
    return [
        _row(name, by_grant.get(name, []), parameters.get(name), now, refresh_ahead)
        for name in names
    ]


def _by_grant(lines: Iterable[LogLine]) -> dict[str, list[LogLine]]:
    found: dict[str, list[LogLine]] = {}
    for line in lines:
        found.setdefault(line.text("grant"), []).append(line)
    return found


def _row(
    name: str,
    lines: list[LogLine],
    parameter: Kept | None,
    now: datetime,
    refresh_ahead: timedelta,
) -> GrantRow:
    """One grant's row: the parameter says whether there is a token, the log until when."""
    last = lines[-1] if lines else None
    expiries = [moment for line in lines if (moment := line.moment("expires_at"))]
    expires_at = expiries[-1] if expiries and parameter else None
    block = parameter.block if parameter else None
    if block is None and parameter and last and last.text("state") == State.BLOCKED:
        block = _why(lines).text("cause") if last.at >= parameter.stored_at else None
    state, due_at = GrantState.EXPIRED, None
    if block is not None:
        state = GrantState.BLOCKED
    elif parameter and expires_at and expires_at > now:
        issued_at = min(parameter.stored_at, expires_at)
        due_at = expires_at - due_window(expires_at - issued_at, refresh_ahead)
        due = is_due(
            issued_at=issued_at, expires_at=expires_at, now=now, refresh_ahead=refresh_ahead
        )
        state = GrantState.RENEWING if due else GrantState.LIVE
    reason, cause, retry_at = _trouble(lines, block)
    renewals = [line for line in lines if line.text("state") == State.RENEWED]
    return GrantRow(
        grant=printable(name),
        scope=tuple(last.text("scope").split()) if last else (),
        connection=last.text("connection") if last else "",
        state=state,
        renewed_at=parameter.stored_at if parameter and block is None else None,
        renew_reason=renewals[-1].text("renew_reason") if renewals and block is None else "",
        expires_at=expires_at if block is None else None,
        due_at=due_at,
        seen_at=last.at if last else None,
        reason=reason,
        cause=cause,
        retry_at=retry_at,
    )


def _trouble(lines: list[LogLine], block: str | None) -> tuple[str, str, datetime | None]:
    """What is wrong with a grant now: reason, cause and when it is tried again."""
    if block is not None:
        return "blocked", block, None
    if not lines:
        return "no_run", "the refresher has not looked at it for a day", None
    why = _why(lines)
    if why.text("state") in _TROUBLE:
        reason = why.text("reason") or why.text("state")
        return reason, why.text("cause"), why.moment("retry_at")
    renewals = [line for line in lines if line.text("state") == State.RENEWED]
    if renewals and (stage := renewals[-1].text("secret_stage")):
        cause = f"Enable refused the connection's current secret and took {stage}"
        return "secret_fallback", cause, None
    return "", "", None


def _why(lines: list[LogLine]) -> LogLine:
    """The last line that gives the reason of the state that the grant is in now."""
    state = lines[-1].text("state")
    same = (line for line in reversed(lines) if line.text("state") == state in _EXPLAINED)
    return next((line for line in same if line.text("reason")), lines[-1])


def _is_enough(lines: Iterable[LogLine], parameters: Mapping[str, Kept]) -> bool:
    """Whether the lines name every grant, and the reason of each that needs one."""
    by_grant = _by_grant(lines)
    return parameters.keys() <= by_grant.keys() and all(
        why.text("reason") or why.text("state") not in _EXPLAINED
        for why in map(_why, by_grant.values())
    )


def look(stack: Stack) -> list[GrantRow]:
    """Every grant's row now; the log is read further back only where it has to be."""
    now, parameters = datetime.now(UTC), kept(stack)
    lines: list[LogLine] = []
    for window in _WINDOWS:
        since = now - max(window, 3 * stack.interval)
        found = logs.read(stack, "token-refresher", PATTERN, since=since)
        lines = list(logs.by_grant(found))
        if lines and _is_enough(lines, parameters):
            break
    return grant_rows(lines, parameters, now=now, refresh_ahead=stack.refresh_ahead)


def row_json(row: GrantRow, now: datetime) -> dict[str, object]:
    """A row as `broker status --json` prints it."""

    def moment(value: datetime | None) -> str | None:
        return rfc3339(value) if value else None

    return {
        "grant": row.grant,
        "scope": list(row.scope),
        "connection": row.connection,
        "state": row.state.value,
        "seconds_left": int(row.time_left(now).total_seconds()),
        "expires_at": moment(row.expires_at),
        "renewed_at": moment(row.renewed_at),
        "renew_reason": row.renew_reason,
        "due_at": moment(row.due_at),
        "seen_at": moment(row.seen_at),
        "reason": row.reason,
        "cause": row.cause,
        "retry_at": moment(row.retry_at),
    }


def status(
    stack: StackName,
    watch: Annotated[bool, typer.Option("--watch", help="Repeat until Ctrl-C.")] = False,
    every: Annotated[
        int,
        typer.Option(min=1, max=3600, metavar="SECONDS", help="Seconds between repetitions."),
    ] = 5,
    json: Json = False,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write a page: grants, alarms, and a day's runs and callers."
        ),
    ] = None,
) -> None:
    """Show each grant: state, lifetime left, last renewal, what is wrong, when it is next due.

    Reads no token, only the parameters' metadata and the refresher's log, which is at most one
    interval of the schedule old. Exits with 1 if a grant is expired or blocked. The page of --html
    loads nothing and runs no script; to show it on a wall, let a scheduler write it again.
    """
    if watch + json + (html is not None) > 1:
        text = "--watch, --json and --html exclude each other"
        raise Failure(text, "give one of them", ExitCode.USAGE)
    with working("looking"):
        opened = Stack.open(stack)
        rows = look(opened)
    if watch:
        _watch(opened, rows, every)
        return
    now = datetime.now(UTC)
    if html:
        with working("reading alarms and logs"):
            text = page.status_page(opened, rows, now).html()
        _write(text, html)
    elif json:
        shown = {
            "stack": stack,
            "at": rfc3339(now),
            "grants": [row_json(row, now) for row in rows],
        }
        say_json(shown)
    else:
        say(StatusView(title=stack, rows=rows, now=now))
        if not rows:
            say("no run of the refresher yet: `broker refresh`, then look again", stderr=True)
    if not rows or not all(row.is_served for row in rows):
        raise typer.Exit(ExitCode.WRONG)


def _write(text: str, file: Path) -> None:
    try:
        page.write(text, file)
    except OSError as error:
        raise Failure(
            f"{file} cannot be written: {error.strerror}",
            "name a file in a folder that you may write to",
            ExitCode.USAGE,
        ) from None
    say(f"{file} is written", stderr=True)


def _watch(stack: Stack, rows: list[GrantRow], every: int) -> None:
    """Look again and again; what fails meanwhile is reported and does not end it."""
    here, note = console(), ""

    def view() -> StatusView:
        return StatusView(title=stack.name, rows=rows, now=datetime.now(UTC), note=note)

    try:
        if not here.is_terminal:
            while True:
                here.print(view())
                here.file.flush()
                time.sleep(every)
                rows, note = _look_again(stack, rows)
        with Live(get_renderable=view, console=here, refresh_per_second=1):
            while True:
                time.sleep(every)
                rows, note = _look_again(stack, rows)
    except KeyboardInterrupt:
        return


def _look_again(stack: Stack, rows: list[GrantRow]) -> tuple[list[GrantRow], str]:
    try:
        return look(stack), ""
    except Exception as error:
        return rows, f"not looked at again: {failure_of(error)}"
