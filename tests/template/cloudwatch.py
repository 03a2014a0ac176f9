"""When a CloudWatch alarm fires and clears: the documented evaluation, over made-up metrics.

CloudWatch User Guide, "Configuring how CloudWatch alarms treat missing data": an alarm retrieves
more data points than EvaluationPeriods (its evaluation range), every real one counts, and missing
ones are filled in as few times as possible. The guide gives one size of that range, 5 for 3
periods; two more than EvaluationPeriods is assumed for every alarm, high resolution included.
Data is assumed to arrive without delay, and an alarm with a period of minutes to be evaluated
when a period ends.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

type State = Literal["OK", "ALARM", "INSUFFICIENT_DATA"]
type Sample = tuple[int, float]
"""Second and value."""

MORE_POINTS: Final = 2
"""Retrieved beyond EvaluationPeriods."""

_COMPARE: Final[Mapping[str, Callable[[float, float], bool]]] = {
    "GreaterThanThreshold": lambda value, threshold: value > threshold,
    "GreaterThanOrEqualToThreshold": lambda value, threshold: value >= threshold,
    "LessThanThreshold": lambda value, threshold: value < threshold,
    "LessThanOrEqualToThreshold": lambda value, threshold: value <= threshold,
}
_STATISTIC: Final[Mapping[str, Callable[[Sequence[float]], float]]] = {
    "Sum": math.fsum,
    "Minimum": min,
    "Maximum": max,
    "Average": lambda values: math.fsum(values) / len(values),
    "SampleCount": len,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """What decides an alarm's state; periods in seconds."""

    metric: tuple[str, str]
    statistic: str
    comparison: str
    threshold: float
    period: int
    evaluation_periods: int
    datapoints_to_alarm: int
    missing: str

    def points(self, samples: Sequence[Sample], until: int) -> list[bool | None]:
        """Whether each period until that second breaches; None where there is no data."""
        by_period: dict[int, list[float]] = {}
        for second, value in samples:
            by_period.setdefault(second // self.period, []).append(value)
        return [self._is_breaching(by_period.get(n)) for n in range(until // self.period)]

    def _is_breaching(self, values: Sequence[float] | None) -> bool | None:
        if values is None:
            return None
        return _COMPARE[self.comparison](_STATISTIC[self.statistic](values), self.threshold)

    def next_state(self, points: Sequence[bool | None], state: State) -> State:
        """The state after an evaluation.

        Args:
            points: of the evaluation range, oldest first; fewer where the metric is younger.
            state: before it.
        """
        real = [point for point in points if point is not None]
        missing = self.evaluation_periods - len(real)
        if missing <= 0:  # enough: the newest decide, and how missing data is treated does not
            breaching = sum(real[-self.evaluation_periods :])
            return "ALARM" if breaching >= self.datapoints_to_alarm else "OK"
        if sum(real) >= self.datapoints_to_alarm:
            return "ALARM"
        if self.missing == "breaching":
            return "ALARM" if sum(real) + missing >= self.datapoints_to_alarm else "OK"
        if self.missing == "notBreaching" or False in real:
            return "OK"
        if self.missing == "ignore":
            return state
        return self._state_without_data_in_threshold(points)

    def _state_without_data_in_threshold(self, points: Sequence[bool | None]) -> State:
        if True not in points:
            return "INSUFFICIENT_DATA"
        return "ALARM" if self._is_premature(points) else "OK"

    def _is_premature(self, points: Sequence[bool | None]) -> bool:
        """The oldest real point, which breaches as all do, is at least DatapointsToAlarm old."""
        return len(points) - points.index(True) >= self.datapoints_to_alarm


def alarm_of(properties: Mapping[str, object], *, interval_seconds: int) -> Alarm:
    """An alarm of the template, its schedule interval filled in.

    Raises:
        AssertionError: it is one that this evaluator does not judge, such as metric math.
    """
    assert not {"Metrics", "ExtendedStatistic", "ThresholdMetricId"} & properties.keys()
    periods, period = properties["EvaluationPeriods"], properties["Period"]
    namespace = properties["Namespace"]
    return Alarm(
        metric=(
            namespace if isinstance(namespace, str) else "ours",
            str(properties["MetricName"]),
        ),
        statistic=str(properties["Statistic"]),
        comparison=str(properties["ComparisonOperator"]),
        threshold=float(str(properties["Threshold"])),
        period=interval_seconds if isinstance(period, dict) else int(str(period)),
        evaluation_periods=int(str(periods)),
        datapoints_to_alarm=int(str(properties.get("DatapointsToAlarm", periods))),
        missing=str(properties.get("TreatMissingData", "missing")),
    )


def changes(alarm: Alarm, samples: Sequence[Sample], until: int) -> Iterator[tuple[int, State]]:
    """Seconds at which an alarm changes its state, and to what; it begins as OK."""
    state: State = "OK"
    points = alarm.points(samples, until)
    for end in range(1, len(points) + 1):
        start = max(0, end - alarm.evaluation_periods - MORE_POINTS)
        if (new := alarm.next_state(points[start:end], state)) != state:
            state = new
            yield end * alarm.period, state
