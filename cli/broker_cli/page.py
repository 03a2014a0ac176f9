"""`broker status --html`: one self-contained page, for a wall or a ticket.

It loads nothing and runs no script: its policy (Content-Security-Policy) forbids both, so that a
name that slipped through unescaped would do nothing. Colours follow the reader's setting.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from html import escape
from pathlib import Path
from string import Template
from typing import Final

from broker_cli import usage
from broker_cli.audit import renewals
from broker_cli.aws import CONFIG, Stack, read_all
from broker_cli.console import ago, clock, printable, span
from broker_cli.insights import LogQuery
from broker_cli.logs import LogLine
from broker_cli.render import GrantRow
from token_vendor.vend import GrantState

PERIOD: Final = timedelta(days=1)
"""Of the last runs and the callers: a page that a scheduler writes reads little of the log."""

_MOST_RUNS: Final = 20
_ALARM_STATES: Final = {"OK": "good", "ALARM": "bad"}
_GRANT_STATES: Final = {
    GrantState.LIVE: "good",
    GrantState.RENEWING: "warn",
    GrantState.EXPIRED: "bad",
    GrantState.BLOCKED: "bad",
}

_PAGE: Final = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta http-equiv="refresh" content="60">
<title>$title</title>
<style>
:root { --back: #ffffff; --text: #1b1f24; --quiet: #57606a; --line: #d0d7de;
  --good: #116329; --warn: #7d4e00; --bad: #b3121d; }
@media (prefers-color-scheme: dark) {
  :root { --back: #0d1117; --text: #e6edf3; --quiet: #9da7b1; --line: #3d444d;
    --good: #4ac26b; --warn: #e3b341; --bad: #ff8182; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; background: var(--back);
  color: var(--text); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 1.5rem 0 .25rem; }
p { margin: .25rem 0; color: var(--quiet); }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0;
  border-bottom: 1px solid var(--line); overflow-wrap: anywhere; min-width: 5rem; }
td:empty { min-width: 0; }
th { color: var(--quiet); font-weight: 600; white-space: nowrap; }
.good { color: var(--good); } .warn { color: var(--warn); } .bad { color: var(--bad); }
.state { font-weight: 600; }
.whole { white-space: nowrap; }
@media (max-width: 45rem) {
  tr:first-child, td:empty { display: none; }
  tr { display: block; }
  td { border: 0; padding: 0; }
  tr { border-bottom: 1px solid var(--line); padding: .5rem 0; }
  td { display: grid; grid-template-columns: 7rem minmax(0, 1fr); }
  td::before { content: attr(data-label); color: var(--quiet); }
  .whole { white-space: normal; }
}
</style>
</head>
<body>
<h1>$title</h1>
<p>$summary</p>
$sections
</body>
</html>
""")


class _Markup(str):
    """HTML that this module wrote; any other text is escaped."""

    __slots__ = ()


type _Cell = str | _Markup


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """An alarm of the stack, by its name without the stack's.

    Attributes:
        name: what stands behind the stack's name.
        state: OK, ALARM or INSUFFICIENT_DATA.
        since: aware.
    """

    name: str
    state: str
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusPage:
    """What the page shows.

    Attributes:
        stack: the stack's name.
        now: aware.
        rows: each grant.
        alarms: of the stack.
        runs: what the refresher renewed and what failed, oldest first.
        uses: what callers did.
    """

    stack: str
    now: datetime
    rows: Sequence[GrantRow]
    alarms: Sequence[Alarm]
    runs: Sequence[LogLine]
    uses: Sequence[usage.Use]

    def html(self) -> str:
        """The whole document."""
        sections = [
            _section(
                "Grants", ("grant", "state", "left", "due in", "renewed", "trouble"), self._grants()
            ),
            _section("Alarms", ("alarm", "state", "since"), self._alarms()),
            _section("Runs of the last day", ("at", "grant", "result", "why"), self._runs()),
            _section(
                "Callers of the last day",
                ("caller", "grant", "vended", "refused", "last vended"),
                self._callers(),
            ),
        ]
        return _PAGE.substitute(
            title=_text(
                f"{self.stack}: {sum(row.is_served for row in self.rows)} of "
                f"{len(self.rows)} grants served"
            ),
            summary=_text(self._summary()),
            sections="\n".join(sections),
        )

    def _summary(self) -> str:
        seen = [row.seen_at for row in self.rows if row.seen_at]
        ran = f"the refresher last ran {ago(max(seen), self.now)}" if seen else "no run for a day"
        return f"As of {self.now.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}; {ran}."

    def _grants(self) -> Iterable[Sequence[_Cell]]:
        for row in self.rows:
            again = f"; tried again at {clock(row.retry_at, self.now)}" if row.retry_at else ""
            yield (
                row.grant,
                _state(row.state.value, _GRANT_STATES[row.state]),
                _whole(span(row.time_left(self.now))) if row.is_served else "none",
                _whole(span(row.due_at - self.now)) if row.due_at and row.is_served else "-",
                _whole(ago(row.renewed_at, self.now)) if row.renewed_at else "-",
                f"{row.reason}: {row.cause}{again}" if row.reason else "",
            )

    def _alarms(self) -> Iterable[Sequence[_Cell]]:
        for alarm in sorted(self.alarms, key=lambda alarm: (alarm.state != "ALARM", alarm.name)):
            state = _state(alarm.state, _ALARM_STATES.get(alarm.state, "warn"))
            yield alarm.name, state, _whole(ago(alarm.since, self.now))

    def _runs(self) -> Iterable[Sequence[_Cell]]:
        for line in list(self.runs)[: -_MOST_RUNS - 1 : -1]:
            is_good = line.text("level") == "INFO"
            why = ": ".join(filter(None, (line.text("reason"), line.text("cause"))))
            result = _state(line.text("state"), "good" if is_good else "bad")
            yield (
                _whole(clock(line.at, self.now)),
                line.text("grant"),
                result,
                why or line.text("renew_reason"),
            )

    def _callers(self) -> Iterable[Sequence[_Cell]]:
        for use in self.uses:
            last = _whole(ago(use.last_vended_at, self.now)) if use.last_vended_at else "never"
            yield use.caller, use.grant, str(use.vended), str(use.refused), last


def status_page(stack: Stack, rows: Sequence[GrantRow], now: datetime) -> StatusPage:
    """Read what the page shows besides the grants.

    Raises:
        Failure: AWS gave no result.
    """
    query = LogQuery(stack, "token-vendor", usage.QUERY, lambda _lines: None)
    return StatusPage(
        stack=stack.name,
        now=now,
        rows=rows,
        alarms=_alarms_of(stack),
        runs=renewals(stack, now - PERIOD),
        uses=usage.usage_of(query.rows(now - PERIOD, now), {}).uses,
    )


def _alarms_of(stack: Stack) -> list[Alarm]:
    alarms = read_all(
        stack.session.client("cloudwatch", config=CONFIG).describe_alarms,
        "MetricAlarms",
        AlarmNamePrefix=f"{stack.name}-",
    )
    return [
        Alarm(
            name=alarm["AlarmName"].removeprefix(f"{stack.name}-"),
            state=alarm["StateValue"],
            since=alarm["StateUpdatedTimestamp"],
        )
        for alarm in alarms
    ]


def write(text: str, file: Path) -> None:
    """Write a file whole or not at all: a reader sees the page before it, or this one.

    Raises:
        OSError: it cannot be written.
    """
    part = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with part.open("x", encoding="utf-8") as new:  # never through somebody's symbolic link
            new.write(text)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def _section(title: str, headings: Sequence[str], rows: Iterable[Sequence[_Cell]]) -> str:
    body = "\n".join(_row(headings, row) for row in rows)
    if not body:
        return f"<h2>{_text(title)}</h2>\n<p>none</p>"
    head = "".join(f"<th>{_text(heading)}</th>" for heading in headings)
    return f"<h2>{_text(title)}</h2>\n<table>\n<tr>{head}</tr>\n{body}\n</table>"


def _row(headings: Sequence[str], cells: Sequence[_Cell]) -> str:
    """Each cell has its heading as a label, which narrow screens show beside it."""
    shown = (cell if isinstance(cell, _Markup) else _text(cell) for cell in cells)
    pairs = zip(headings, shown, strict=True)
    row = "".join(f'<td data-label="{_text(name)}">{cell}</td>' for name, cell in pairs)
    return f"<tr>{row}</tr>"


def _state(text: str, kind: str) -> _Markup:
    return _Markup(f'<span class="state whole {kind}">{_text(text)}</span>')


def _whole(text: str) -> _Markup:
    """A time, which a table does not break."""
    return _Markup(f'<span class="whole">{_text(text)}</span>')


def _text(text: str) -> str:
    return escape(printable(text))
