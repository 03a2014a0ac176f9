"""CloudWatch Logs Insights: a query over a function's log, which AWS evaluates where the log is."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import Any, Final

from botocore.exceptions import ClientError

from broker_cli.aws import CONFIG, Stack, read_all
from broker_cli.failures import ExitCode, Failure

MOST_ROWS: Final = 10_000
"""Rows that a query returns at most (StartQuery, `limit`); it does not say that there are more."""

_POLL_SECONDS: Final = (0.1, 0.2, 0.5, 1.0)
"""Between two looks at a query; the last one again and again."""

type Row = Mapping[str, str]


class LogQuery:
    """Runs one query over any time.

    Args:
        stack: whose log.
        function: `token-refresher` or `token-vendor`.
        query: in the query language of Logs Insights; its rows of two times may be added up.
        on_progress: is called with the number of log lines that AWS has read so far.
    """

    def __init__(
        self, stack: Stack, function: str, query: str, on_progress: Callable[[int], None]
    ) -> None:
        self._logs: Any = stack.session.client("logs", config=CONFIG)
        self._group, self._query = stack.log_group(function), query
        self._on_progress, self._lines_read = on_progress, 0

    def rows(self, start: datetime, end: datetime) -> Iterator[Row]:
        """The rows of the lines from one aware time to another, both included, in whole seconds.

        Where a time has as many rows as a query returns, its halves are read instead. Times before
        the log group are left out: AWS refuses a query that lies there as a whole.

        Raises:
            Failure: AWS ended a query without a result, or one second has too many rows.
        """
        first = max(int(start.timestamp()), self._created_at())
        yield from self._halved(first, max(ceil(end.timestamp()), first))

    def _created_at(self) -> int:
        groups = read_all(
            self._logs.describe_log_groups,
            "logGroups",
            token="nextToken",  # noqa: S106 - the name of a field
            logGroupNamePrefix=self._group,
        )
        return min((group["creationTime"] // 1000 for group in groups), default=0)

    def _halved(self, first: int, last: int) -> Iterator[Row]:
        rows = self._run(first, last)
        if len(rows) < MOST_ROWS:
            yield from rows
            return
        if first == last:
            at = datetime.fromtimestamp(first, UTC).isoformat()
            raise Failure(
                f"more than {MOST_ROWS} rows are of one second, {at}",
                "give a shorter --since, which leaves that second out",
            )
        middle = (first + last) // 2
        yield from self._halved(first, middle)
        yield from self._halved(middle + 1, last)

    def _run(self, first: int, last: int) -> list[Row]:
        query_id = self._logs.start_query(
            logGroupName=self._group,
            startTime=first,
            endTime=last,
            queryString=self._query,
            limit=MOST_ROWS,
        )["queryId"]
        try:
            reply = self._result(query_id)
        except BaseException:  # Ctrl-C too: a query that nobody waits for is not to go on
            with suppress(ClientError):  # it has ended meanwhile
                self._logs.stop_query(queryId=query_id)
            raise
        if (status := reply["status"]) != "Complete":
            raise Failure(
                f"AWS ended the query of the log with the status {status}",
                "run it again, with a shorter --since",
                ExitCode.AWS,
            )
        self._lines_read += _scanned(reply)
        return [{cell["field"]: cell["value"] for cell in row} for row in reply["results"]]

    def _result(self, query_id: str) -> Mapping[str, Any]:
        """The reply about a query that has ended."""
        waits = iter(_POLL_SECONDS)
        while True:
            reply: Mapping[str, Any] = self._logs.get_query_results(queryId=query_id)
            self._on_progress(self._lines_read + _scanned(reply))
            if reply["status"] not in {"Scheduled", "Running"}:
                return reply
            time.sleep(next(waits, _POLL_SECONDS[-1]))


def _scanned(reply: Mapping[str, Any]) -> int:
    return int(reply.get("statistics", {}).get("recordsScanned", 0))


def moment(text: str) -> datetime:
    """A time in a row, aware: milliseconds since 1970, or `2026-01-02 03:04:05.000` in UTC."""
    try:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=float(text))
    except ValueError:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
