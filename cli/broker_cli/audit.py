"""`broker audit`: who got what, and what was renewed, from the functions' logs."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import typer
from rich.table import Table

from broker_cli import logs
from broker_cli.aws import Stack
from broker_cli.console import clock, say, say_json, working
from broker_cli.logs import LogLine
from broker_cli.options import Json, Span, StackName
from broker_cli.render import plain_table
from token_broker.models import rfc3339

_VENDOR: Final = '{ $.caller = "*" }'
_REFRESHER: Final = '{ $.state = "*" && $.state != "not_due" }'


def audit(
    stack: StackName,
    grant: Annotated[str | None, typer.Option(help="Show this grant only.")] = None,
    caller: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Show only callers whose ARN contains this.")
    ] = None,
    since: Span = "1h",  # type: ignore[assignment]
    json: Json = False,
) -> None:
    """Show who got which token or was refused, and what was renewed or failed, oldest first.

    A token's fingerprint is the first 12 hex digits of its SHA-256. "Would be refused" marks a
    caller that the grant's callers do not name, while its mode is audit. The logs are kept for
    30 days. --caller omits renewals.
    """
    with working("reading the logs"):
        lines = _read(Stack.open(stack), since, caller)
        if grant:
            lines = [line for line in lines if line.text("grant") == grant]
    if json:
        say_json({"events": [event_json(line) for line in lines]})
        return
    if not lines:
        say("nothing in that time", stderr=True)
        return
    say(_table(lines, datetime.now(UTC)))


def _read(stack: Stack, since: timedelta, caller: str | None) -> list[LogLine]:
    start = datetime.now(UTC) - since
    vended = logs.read(stack, "token-vendor", _VENDOR, since=start)
    if caller is not None:
        return [line for line in vended if caller in line.text("caller")]
    found = [line for line in vended if line.text("caller")]
    return sorted(found + renewals(stack, start), key=lambda line: line.at)


def renewals(stack: Stack, since: datetime) -> list[LogLine]:
    """What the refresher renewed, put off or failed at, oldest first.

    Args:
        stack: whose log.
        since: aware.
    """
    lines = logs.read(stack, "token-refresher", _REFRESHER, since=since)
    return [line for line in lines if line.text("state") not in {"", "not_due"}]


def event_json(line: LogLine) -> dict[str, object]:
    """A log line as `broker audit --json` prints it."""
    expires_at = line.moment("expires_at")
    names = ("grant", "caller", "fingerprint", "renew_reason", "reason", "cause")
    return {
        "at": rfc3339(line.at),
        "event": line.text("message"),
        "expires_at": rfc3339(expires_at) if expires_at else None,
        **{name: line.text(name) for name in names},
        "would_be_refused": _would_be_refused(line),
    }


def _would_be_refused(line: LogLine) -> bool:
    """Whether the grant is in audit mode, and its `callers` do not name this caller."""
    return line.record.get("would_be_refused") is True


def _table(lines: list[LogLine], now: datetime) -> Table:
    table = plain_table("at", "event", "grant", "token or reason")
    table.add_column("caller", overflow="fold")
    for line in lines:
        what = line.text("reason") or line.text("fingerprint")
        would_be_refused = _would_be_refused(line)
        why = "would be refused" if would_be_refused else line.text("renew_reason")
        is_good = line.text("level") == "INFO" and not would_be_refused
        table.add_row(
            clock(line.at, now),
            f"{line.text('message')} ({why})" if why else line.text("message"),
            line.text("grant"),
            what,
            line.text("caller").removeprefix("arn:aws:"),
            style=None if is_good else "yellow",
        )
    return table
