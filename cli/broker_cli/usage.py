"""`broker usage`: who uses which grant and how much, and what nobody uses, from the vend log."""

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Final

import typer
from rich.table import Table
from rich.text import Text

from broker_cli import insights
from broker_cli.aws import Stack
from broker_cli.console import ago, printable, say, say_json, working
from broker_cli.failures import ExitCode, Failure
from broker_cli.insights import LogQuery, Row
from broker_cli.options import Grants, Json, Span, StackName, read_grants
from broker_cli.principals import is_named
from broker_cli.render import plain_table
from token_broker.callers import principal_arn
from token_broker.grants import Grant
from token_broker.models import rfc3339

QUERY: Final = (
    "filter ispresent(caller) and ispresent(grant) "
    "| stats count(*) as requests, max(@timestamp) as last_at by grant, caller, message"
)
"""Saved in the account by the template, too."""

VENDED: Final = "token vended"
REFUSED: Final = ("token refused", "token not vended for a fault")

_COLUMNS: Final = ("grant", "caller", "vended", "refused", "last_vended_at")


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What one caller did with one grant.

    Attributes:
        grant: as the caller wrote it, printable.
        caller: ARN of the user or role, sessions of a role added up; for a use that did not occur,
            a pattern of the grant's `callers`, or empty.
        vended: how often it got a token.
        refused: how often it was refused, or got none for a fault of the broker.
        last_vended_at: aware; None if it got no token.
    """

    grant: str
    caller: str = ""
    vended: int = 0
    refused: int = 0
    last_vended_at: datetime | None = None

    def to_json(self) -> dict[str, object]:
        """As `broker usage --json` prints it."""
        last = self.last_vended_at
        return {name: getattr(self, name) for name in _COLUMNS[:-1]} | {
            "last_vended_at": rfc3339(last) if last else None
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Uses of a time, those of most tokens first.

    Attributes:
        uses: what callers did.
        idle_grants: grants of grants.toml of which no token was vended.
        silent_callers: grant and pattern of each of its `callers` that no caller matched.
    """

    uses: tuple[Use, ...]
    idle_grants: tuple[str, ...]
    silent_callers: tuple[tuple[str, str], ...]

    def to_json(self) -> dict[str, object]:
        """As `broker usage --json` prints it, but for stack and time."""
        silent = [{"grant": grant, "pattern": pattern} for grant, pattern in self.silent_callers]
        return {
            "uses": [use.to_json() for use in self.uses],
            "idle_grants": list(self.idle_grants),
            "silent_callers": silent,
        }

    def to_csv(self) -> str:
        """One table, with a header; what did not occur has rows of zeros below the uses."""
        silent = [Use(grant=grant, caller=pattern) for grant, pattern in self.silent_callers]
        idle = [Use(grant=grant) for grant in self.idle_grants]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for use in (*self.uses, *idle, *silent):
            writer.writerow(_cell(value) for value in use.to_json().values())
        return text.getvalue()


def usage(
    stack: StackName,
    grants_file: Grants,
    since: Span = "30d",  # type: ignore[assignment]
    json: Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Show who uses which grant, how often and when last; idle grants; callers that never call.

    Reads the vend log by a Logs Insights query, for which AWS charges by the gigabyte. The logs are
    kept for 30 days. Callers that never call are known only for grants that list their callers in
    grants.toml.
    """
    if json and csv:
        raise Failure("--json and --csv exclude each other", "give one of them", ExitCode.USAGE)
    grants, now = read_grants(grants_file).grants, datetime.now(UTC)
    with working("reading the vend log") as show:
        opened = Stack.open(stack)

        def on_progress(lines: int) -> None:
            show(f"reading the vend log: {lines:,} lines")

        rows = LogQuery(opened, "token-vendor", QUERY, on_progress).rows(now - since, now)
        found = usage_of(rows, grants)
    if json:
        times = {"since": rfc3339(now - since), "until": rfc3339(now)}
        say_json({"stack": stack, **times, **found.to_json()})
    elif csv:
        typer.echo(found.to_csv(), nl=False)
    else:
        _show(found, now)


def usage_of(rows: Iterable[Row], grants: Mapping[str, Grant]) -> Usage:
    """The usage that the rows of QUERY show.

    Args:
        rows: in any order; those of one caller and grant are added up.
        grants: of grants.toml, by name.
    """
    uses: dict[tuple[str, str], Use] = {}
    for row in rows:
        if row.get("caller") and row.get("grant"):
            _add(uses, row)
    vended = [use for use in uses.values() if use.vended]
    return Usage(
        uses=tuple(sorted(uses.values(), key=lambda use: (-use.vended, use.grant, use.caller))),
        idle_grants=tuple(name for name in grants if name not in {use.grant for use in vended}),
        silent_callers=tuple(
            (name, pattern)
            for name, grant in grants.items()
            for pattern in grant.callers or ()
            if not any(use.grant == name and is_named(use.caller, (pattern,)) for use in vended)
        ),
    )


def _add(uses: dict[tuple[str, str], Use], row: Row) -> None:
    grant, caller = printable(row["grant"]), printable(principal_arn(row["caller"]))
    message, requests = row.get("message"), int(row["requests"])
    if message != VENDED and message not in REFUSED:
        return
    known = uses.get((grant, caller), Use(grant=grant, caller=caller))
    last = known.last_vended_at
    if message == VENDED:
        last = max(filter(None, (last, insights.moment(row["last_at"]))))
    uses[grant, caller] = Use(
        grant=grant,
        caller=caller,
        vended=known.vended + (requests if message == VENDED else 0),
        refused=known.refused + (requests if message != VENDED else 0),
        last_vended_at=last,
    )


def _cell(value: object) -> str:
    """A CSV cell; a caller may write a grant's name that a spreadsheet would run as a formula."""
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _show(found: Usage, now: datetime) -> None:
    if found.uses:
        say(_table(found.uses, now))
    else:
        say("nobody asked for a token in that time", stderr=True)
    if found.idle_grants:
        say(f"idle, no token vended: {', '.join(found.idle_grants)}", style="yellow")
    for grant, pattern in found.silent_callers:
        say(f"may have {grant} and never got it: {pattern}", style="yellow")


def _table(uses: Iterable[Use], now: datetime) -> Table:
    table = plain_table("grant", "vended", "refused", "last vended")
    table.add_column("caller", overflow="fold")
    for use in uses:
        last = ago(use.last_vended_at, now) if use.last_vended_at else "never"
        cells = (use.grant, str(use.vended), str(use.refused), last)
        table.add_row(*map(Text, cells), Text(use.caller.removeprefix("arn:aws:")))
    return table
