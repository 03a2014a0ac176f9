"""When each alarm of the template fires and clears: `python -m tests.template.alarm_times`.

The six streams of metrics are what the functions, Lambda and SQS emit with the default
parameters: a run a minute, a due window of ten.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

from tests.template.cloudwatch import Alarm, Sample, alarm_of, changes
from tests.template.test_template import template

INTERVAL_SECONDS: Final = 60
WINDOW_RUNS: Final = 10
"""Runs in the due window: RefreshAheadSeconds over the interval."""

_MINUTE: Final = 60
_DAY: Final = 86_400
_QUIET_QUEUE_SECONDS: Final = 6 * 3_600
"""After so long SQS emits nothing for an empty queue."""

type Metric = tuple[str, str]
_RUNS: Final = ("AWS/Lambda", "Invocations")
_CRASHES: Final = ("AWS/Lambda", "Errors")
_QUEUE: Final = ("AWS/SQS", "ApproximateNumberOfMessagesVisible")
_WINDOW: Final = ("ours", "DueWindowLeft")
_FAILURES: Final = tuple(
    ("ours", name)
    for name in (
        *("RenewalFailed", "SecretFallbackUsed", "Blocked", "CorruptToken", "VendFault"),
        "ForeignAccess",
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """What happens, and from which run to which; times in seconds.

    Attributes:
        first, last: the first and the last run that is wrong; nothing is if they are equal to
            `until`.
        is_silent: those runs do not happen; otherwise they fail.
        queue_after: so long after the first, a report waits in the failures queue.
        has_traffic: callers call.
    """

    first: int
    last: int
    until: int
    is_silent: bool = False
    queue_after: int | None = None
    has_traffic: bool = True

    def samples(self) -> Mapping[Metric, list[Sample]]:
        """What each metric of the alarms gets."""
        found: dict[Metric, list[Sample]] = {}
        for second in range(0, self.until, _MINUTE):
            for metric, value in self._at(second):
                found.setdefault(metric, []).append((second, value))
        return found

    def _at(self, second: int) -> Iterator[tuple[Metric, float]]:
        is_wrong = self.first <= second <= self.last and self.first < self.until
        waiting = self.queue_after is not None and is_wrong
        waiting = waiting and second >= self.first + (self.queue_after or 0)
        if self.has_traffic or second < _QUIET_QUEUE_SECONDS:
            yield _QUEUE, float(waiting)
        if self.has_traffic:
            yield _CRASHES, float(is_wrong and not self.is_silent)
        if is_wrong and self.is_silent:
            return
        yield _RUNS, 1
        if not is_wrong:
            yield _WINDOW, 100
            return
        runs = 1 + (second - self.first) // INTERVAL_SECONDS
        yield _WINDOW, max(0.0, 100 - 100 * runs / WINDOW_RUNS)
        for metric in _FAILURES:
            yield metric, 1


_BEGIN: Final = 30 * _MINUTE
_HOUR: Final = 60 * _MINUTE
STREAMS: Final[Mapping[str, Stream]] = {
    "healthy": Stream(first=_DAY, last=_DAY, until=_DAY),
    "one failure that ends": Stream(first=_BEGIN, last=_BEGIN, until=2 * _HOUR),
    # A failed run is tried again twice, after one minute and after two more.
    "lasting failure": Stream(
        first=_BEGIN, last=_BEGIN + _HOUR, until=3 * _HOUR, queue_after=3 * _MINUTE
    ),
    # Lambda throttles each run, and reports it when it is five minutes old.
    "function stopped": Stream(
        first=_BEGIN, last=_BEGIN + _HOUR, until=3 * _HOUR, is_silent=True, queue_after=5 * _MINUTE
    ),
    "schedule disabled": Stream(first=_BEGIN, last=_BEGIN + _HOUR, until=3 * _HOUR, is_silent=True),
    "no traffic for a week": Stream(
        first=7 * _DAY, last=7 * _DAY, until=7 * _DAY, has_traffic=False
    ),
}


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds from the first wrong run until an alarm fires, from the last until it clears."""

    fires: int
    clears: int

    def __str__(self) -> str:
        """As descriptions and docs say it."""
        return f"fires in {_text(self.fires)}, clears in {_text(self.clears)}"


def _text(seconds: int) -> str:
    minutes, rest = divmod(seconds, _MINUTE)
    return " ".join([f"{minutes} min"] * bool(minutes) + [f"{rest} s"] * bool(rest))


@cache
def alarms() -> Mapping[str, Alarm]:
    """The template's alarms by the end of their names."""
    return {
        properties["AlarmName"]["Fn::Sub"].removeprefix("${AWS::StackName}-"): alarm_of(
            properties, interval_seconds=INTERVAL_SECONDS
        )
        for resource in template()["Resources"].values()
        if resource["Type"] == "AWS::CloudWatch::Alarm"
        for properties in [resource["Properties"]]
    }


@cache
def _samples(stream_name: str) -> Mapping[Metric, list[Sample]]:
    return STREAMS[stream_name].samples()


@cache
def times(name: str, stream_name: str) -> Times | None:
    """When an alarm fires and clears in a stream; None if it does not fire.

    Raises:
        AssertionError: it does anything but fire once and clear once.
    """
    alarm, stream = alarms()[name], STREAMS[stream_name]
    found = list(changes(alarm, _samples(stream_name).get(alarm.metric, []), stream.until))
    if not found:
        return None
    (on, fired), (off, cleared) = found
    assert (fired, cleared) == ("ALARM", "OK")
    return Times(on - stream.first, off - stream.last)


def table() -> str:
    """All of it, in Markdown."""
    columns = [name for name in STREAMS if any(times(alarm, name) for alarm in alarms())]
    lines = [["alarm", *columns], ["---"] * (1 + len(columns))]
    lines += [[name, *(str(times(name, s) or "quiet") for s in columns)] for name in alarms()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    quiet = [name for name in STREAMS if not any(times(alarm, name) for alarm in alarms())]
    sys.stdout.write(f"{table()}\n\nEvery alarm is quiet: {', '.join(quiet)}.\n")
