"""The functions' structured log lines."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from broker_cli.aws import CONFIG, Stack, read_all
from broker_cli.console import printable
from token_refresher.app import IN_SHORT, RUN


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One JSON line of a function's log.

    Attributes:
        at: when it was written, aware UTC.
        record: its fields, none of which is a token.
    """

    at: datetime
    record: Mapping[str, object]

    def text(self, name: str) -> str:
        """A field as printable text; empty if it is absent."""
        return printable(self.record.get(name) or "")

    def moment(self, name: str) -> datetime | None:
        """An RFC 3339 field; None if it is absent or malformed."""
        try:
            return datetime.fromisoformat(str(self.record.get(name)))
        except ValueError:
            return None


def read(stack: Stack, function: str, pattern: str, *, since: datetime) -> Iterator[LogLine]:
    """The structured lines of `token-refresher` or `token-vendor`, oldest first.

    Args:
        stack: whose log.
        function: `token-refresher` or `token-vendor`.
        pattern: CloudWatch's filter, which spares the transfer; the reader checks again.
        since: aware.
    """
    events = read_all(
        stack.session.client("logs", config=CONFIG).filter_log_events,
        "events",
        token="nextToken",  # noqa: S106 - the name of a field
        logGroupName=stack.log_group(function),
        startTime=int(since.timestamp() * 1000),
        filterPattern=pattern,
    )
    for event in events:
        if line := parse(event["message"], event["timestamp"]):
            yield line


def read_matching(
    stack: Stack, function: str, fields: Mapping[str, str], *, since: datetime
) -> Iterator[LogLine]:
    """The structured lines in which each of some fields has a given value, oldest first."""
    conditions = " && ".join(f'$.{name} = "{value}"' for name, value in fields.items())
    for line in read(stack, function, f"{{ {conditions} }}", since=since):
        if all(line.record.get(name) == value for name, value in fields.items()):
            yield line


def by_grant(lines: Iterable[LogLine]) -> Iterator[LogLine]:
    """The refresher's lines about single grants; a run's line as one for each of its grants."""
    for line in lines:
        if line.record.get("message") == RUN:
            yield from _in_short(line)
        elif line.text("grant") and line.text("state"):
            yield line


def _in_short(line: LogLine) -> Iterator[LogLine]:
    grants = line.record.get("grants")
    for grant, facts in grants.items() if isinstance(grants, dict) else ():
        if isinstance(facts, list) and len(facts) == len(IN_SHORT):
            record = dict(zip(IN_SHORT, facts, strict=True))
            yield LogLine(at=line.at, record={"grant": grant, **record})


def parse(message: str, timestamp_ms: int) -> LogLine | None:
    """A log event as a structured line; None if it is none, or a line of metrics."""
    try:
        record = json.loads(message)
    except ValueError:
        return None
    if not isinstance(record, dict) or "_aws" in record:
        return None
    return LogLine(at=datetime.fromtimestamp(timestamp_ms / 1000, UTC), record=record)
