"""The picture of a broker's grants: a function of rows alone, for `broker status` and the demo."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from broker_cli.console import ago, clock, span
from token_vendor.vend import GrantState

WIDE: Final = 110
"""Columns from which scope and connection are shown, and the bar is twice as long."""

_STYLES: Final = {
    GrantState.LIVE: "green",
    GrantState.RENEWING: "yellow",
    GrantState.EXPIRED: "red",
    GrantState.BLOCKED: "magenta",
}


def plain_table(*headings: str) -> Table:
    """A table without lines, whose columns keep their cells on one line."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    return table


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantRow:
    """One grant as an operator sees it; no token.

    Attributes:
        grant: its name.
        scope: of its token.
        connection: where its token comes from.
        state: what it is good for now.
        renewed_at: when its parameter was last written.
        renew_reason: why the refresher last renewed it, a short fixed word; empty if unknown.
        expires_at: of its token.
        due_at: when the refresher asks for the next token.
        seen_at: when the refresher last looked at it.
        reason: of a trouble that lasts, a short fixed word; otherwise empty.
        cause: of that trouble, in a sentence.
        retry_at: when the refresher tries again, if it waits.
    """

    grant: str
    scope: tuple[str, ...] = ()
    connection: str = ""
    state: GrantState
    renewed_at: datetime | None = None
    renew_reason: str = ""
    expires_at: datetime | None = None
    due_at: datetime | None = None
    seen_at: datetime | None = None
    reason: str = ""
    cause: str = ""
    retry_at: datetime | None = None

    @property
    def is_served(self) -> bool:
        """Whether its callers get a token now."""
        return self.state in {GrantState.LIVE, GrantState.RENEWING}

    def time_left(self, now: datetime) -> timedelta:
        """What is left of its token, never negative; nothing while it is blocked."""
        if self.expires_at is None or self.state is GrantState.BLOCKED:
            return timedelta()
        return max(self.expires_at - now, timedelta())

    def share_left(self, now: datetime) -> float:
        """The same as a share of the token's lifetime, from 0 to 1."""
        if self.expires_at is None or self.renewed_at is None:
            return 0.0
        lifetime = self.expires_at - self.renewed_at
        return min(self.time_left(now) / lifetime, 1.0) if lifetime > timedelta() else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusView:
    """Draws grants as a table, and below it what is wrong with any."""

    title: str
    rows: Sequence[GrantRow]
    now: datetime
    note: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw for the width at hand."""
        is_wide = options.max_width >= WIDE
        has_connections = len({row.connection for row in self.rows}) > 1
        table = plain_table("grant", "state", "token left", "renewed", "due in")
        if is_wide and has_connections:
            table.add_column("connection", no_wrap=True)
        if is_wide:
            table.add_column("scope", overflow="fold")
        length = 20 if is_wide else 10
        for row in self.rows:
            cells = self._cells(row, length, is_ascii=options.ascii_only)
            extra = [Text(row.connection)] if has_connections else []
            table.add_row(*cells, *([*extra, Text(" ".join(row.scope))] if is_wide else []))
        served = sum(row.is_served for row in self.rows)
        heading = f"{self.title}: {served} of {len(self.rows)} grants served"
        yield Text(f"{heading}, {self.now.astimezone(UTC):%H:%M:%SZ}", style="bold")
        yield table
        troubles: dict[tuple[str, str, datetime | None], list[GrantRow]] = {}
        for row in self.rows:
            if row.reason:
                troubles.setdefault((row.reason, row.cause, row.retry_at), []).append(row)
        for rows in troubles.values():
            yield self._trouble(rows)
        if self.note:
            yield Text(self.note, style="yellow")

    def _cells(self, row: GrantRow, length: int, *, is_ascii: bool) -> list[Text]:
        style, now = _STYLES[row.state], self.now
        full, empty = ("#", ".") if is_ascii else ("█", "░")
        filled = round(length * row.share_left(now))
        left = span(row.time_left(now)) if row.time_left(now) else "none"
        bar = Text.assemble((full * filled, style), (empty * (length - filled), "dim"), f" {left}")
        never = "-" if row.state is GrantState.BLOCKED else "never"
        renewed = ago(row.renewed_at, now) if row.renewed_at else never
        due = "-"
        if row.due_at and row.is_served:
            due = span(row.due_at - now) if row.due_at > now else "now"
        return [Text(row.grant), Text(row.state.value, style=style), bar, Text(renewed), Text(due)]

    def _trouble(self, rows: list[GrantRow]) -> Text:
        """What these grants suffer from alike."""
        row, names = rows[0], ", ".join(row.grant for row in rows)
        style = _STYLES[row.state] if not row.is_served else "yellow"
        again = f"; tried again at {clock(row.retry_at, self.now)}" if row.retry_at else ""
        return Text.assemble((f"{names}: {row.reason}: ", style), f"{row.cause}{again}")
