"""`broker trace`: the life of one token, named by its fingerprint, from the functions' logs."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Final

import typer
from rich.table import Table

from broker_cli import logs
from broker_cli.aws import Stack
from broker_cli.console import clock, say, say_json, working
from broker_cli.failures import ExitCode, Failure
from broker_cli.logs import LogLine
from broker_cli.options import Json, Span, StackName
from broker_cli.render import plain_table
from token_broker.models import rfc3339

_FINGERPRINT: Final = re.compile(r"[0-9a-f]{12}")
_HOW: Final = 'printf %s "$TOKEN" | sha256sum | cut -c 1-12'


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to the token.

    Attributes:
        at: when, or when for the first time; aware UTC.
        event: stored, vended, rejected, replaced or expired.
        caller: ARN of the principal; empty for what the refresher did.
        reason: why it was requested or replaced: the `renew_reason` of that renewal.
        other: fingerprint of the token that replaced it.
        times: how often.
        last_at: when for the last time.
    """

    at: datetime
    event: str
    caller: str = ""
    reason: str = ""
    other: str = ""
    times: int = 1
    last_at: datetime

    def to_json(self) -> dict[str, object]:
        """As `broker trace --json` prints it."""
        return {
            "at": rfc3339(self.at),
            "event": self.event,
            "caller": self.caller,
            "reason": self.reason,
            "replaced_by": self.other,
            "times": self.times,
            "last_at": rfc3339(self.last_at),
        }


def trace(
    fingerprint: Annotated[
        str, typer.Argument(help="The first 12 hex digits of the token's SHA-256.")
    ],
    stack: StackName,
    since: Span = "30d",  # type: ignore[assignment]
    json: Json = False,
) -> None:
    """Show what happened to one token: requested and why, vended to whom, rejected, replaced.

    `broker audit` shows fingerprints; `printf %s "$TOKEN" | sha256sum | cut -c 1-12` prints that of
    your own token. The logs are kept for 30 days.
    """
    if not _FINGERPRINT.fullmatch(fingerprint):
        raise Failure(
            "what was given is not a fingerprint: 12 hex digits, lower case",  # perhaps a token
            f"give what this prints: {_HOW}",
            ExitCode.USAGE,
        )
    with working("reading the logs"):
        grant, events = _read(Stack.open(stack), fingerprint, datetime.now(UTC) - since)
    if not events:
        raise Failure(
            f"no log line names the token {fingerprint}",
            "give a longer --since (the logs are kept for 30 days), or another --stack",
        )
    if json:
        shown = [event.to_json() for event in events]
        say_json({"fingerprint": fingerprint, "grant": grant, "events": shown})
        return
    say(f"token {fingerprint} of grant {grant}")
    say(_table(events, datetime.now(UTC)))


def _read(stack: Stack, fingerprint: str, start: datetime) -> tuple[str, list[Event]]:
    token, renewed = {"fingerprint": fingerprint}, {"state": "renewed"}
    vended = list(logs.read_matching(stack, "token-vendor", token, since=start))
    stored = logs.read_matching(stack, "token-refresher", token | renewed, since=start)
    grant = next((line.text("grant") for line in [*vended, *stored]), "")
    if not grant:
        return "", []
    of_grant = renewed | {"grant": grant}
    renewals = list(logs.read_matching(stack, "token-refresher", of_grant, since=start))
    return grant, events_of(fingerprint, vended, renewals, datetime.now(UTC))


def events_of(
    fingerprint: str, vended: list[LogLine], renewals: list[LogLine], now: datetime
) -> list[Event]:
    """What happened to a token, oldest first, but its storing before all else.

    Args:
        fingerprint: of the token.
        vended: the vend function's lines that name it, oldest first.
        renewals: the refresher's lines about each renewal of its grant, oldest first.
        now: aware.
    """
    events = [*_stored_and_replaced(fingerprint, renewals), *_by_caller(vended)]
    ends = [line.moment("expires_at") for line in [*vended, *renewals] if _names(line, fingerprint)]
    expiry = max((end for end in ends if end), default=None)
    if expiry and expiry <= now:
        events.append(Event(at=expiry, event="expired", last_at=expiry))
    # A run reports what it stored when it ends: by then a caller may have the token.
    return sorted(events, key=lambda event: (event.event != "stored", event.at))


def _names(line: LogLine, fingerprint: str) -> bool:
    return line.text("fingerprint") == fingerprint


def _stored_and_replaced(fingerprint: str, renewals: list[LogLine]) -> Iterator[Event]:
    is_stored = False
    for line in renewals:
        reason = line.text("renew_reason")
        if _names(line, fingerprint):
            is_stored = True
            yield Event(at=line.at, event="stored", reason=reason, last_at=line.at)
        elif is_stored:
            other = line.text("fingerprint")
            yield Event(at=line.at, event="replaced", reason=reason, other=other, last_at=line.at)
            return


def _by_caller(vended: list[LogLine]) -> Iterator[Event]:
    """One event for each caller and what it did with the token."""
    found: dict[tuple[str, str], Event] = {}
    for line in vended:
        event = "rejected" if "rejected" in line.text("message") else "vended"
        key = (event, line.text("caller"))
        if known := found.get(key):
            found[key] = replace(known, times=known.times + 1, last_at=line.at)
        else:
            found[key] = Event(at=line.at, event=event, caller=key[1], last_at=line.at)
    yield from found.values()


def _table(events: list[Event], now: datetime) -> Table:
    table = plain_table("at", "event", "times", "last at")
    table.add_column("by, or why", overflow="fold")
    for event in events:
        why = f"{event.reason}: {event.other}" if event.other else event.reason
        table.add_row(
            clock(event.at, now),
            event.event,
            str(event.times),
            clock(event.last_at, now) if event.times > 1 else "",
            event.caller.removeprefix("arn:aws:") or why,
            style="yellow" if event.event == "rejected" else None,
        )
    return table
