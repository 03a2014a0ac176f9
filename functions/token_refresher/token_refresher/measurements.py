"""The metrics of a refresh run."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Final

from token_broker.metrics import emit, emit_by_grant
from token_refresher.due_grant import CORRUPT
from token_refresher.outcomes import Outcome, State


def measure(
    service: str, outcomes: Sequence[Outcome], now: datetime, windows: Mapping[str, float]
) -> None:
    """Emit the metrics of a run, and with MetricsByGrant those of each grant.

    Args:
        service: their dimension.
        outcomes: of the run.
        now: aware UTC.
        windows: what is left of each grant's due window, in percent.
    """
    _measure_run(service, outcomes, now, windows)
    for outcome in outcomes:
        _measure_grant(service, outcome, now, windows[outcome.grant])


def _measure_run(
    service: str, outcomes: Sequence[Outcome], now: datetime, windows: Mapping[str, float]
) -> None:
    """One line for the whole run: the least of what is left, and how many of what happened."""
    counts = {name: sum(map(is_counted, outcomes)) for name, is_counted in _COUNTED.items()}
    values: dict[str, float] = {name: count for name, count in counts.items() if count}
    if read := [outcome for outcome in outcomes if outcome.is_store_read]:
        values["SecondsToExpiry"] = min(outcome.seconds_left(now) for outcome in read)
        values["DueWindowLeft"] = min(windows[outcome.grant] for outcome in read)
    if values:
        emit(service, values)


def _measure_grant(service: str, outcome: Outcome, now: datetime, due_window_left: float) -> None:
    if outcome.is_store_read:
        left = {"SecondsToExpiry": outcome.seconds_left(now), "DueWindowLeft": due_window_left}
        emit_by_grant(service, left, grant=outcome.grant)
    for name, dimensions in _DIMENSIONS.items():
        if _COUNTED[name](outcome):
            details = {dimension: getattr(outcome, dimension) for dimension in dimensions}
            emit_by_grant(service, {name: 1}, **details)


_COUNTED: Final[Mapping[str, Callable[[Outcome], bool]]] = {
    "Renewed": lambda outcome: outcome.state is State.RENEWED,
    "RenewalFailed": lambda outcome: outcome.is_overdue,
    "SecretFallbackUsed": lambda outcome: bool(outcome.secret_stage),
    "Blocked": lambda outcome: outcome.state is State.BLOCKED,
    "CorruptToken": lambda outcome: outcome.reason == CORRUPT,
    "Deferred": lambda outcome: outcome.state is State.DEFERRED,
}
"""Which outcomes each metric counts."""

_DIMENSIONS: Final = {
    "RenewalFailed": ("grant", "reason"),
    "SecretFallbackUsed": ("connection",),
    "Blocked": ("grant",),
    "CorruptToken": ("grant",),
}
"""By what they are counted with MetricsByGrant, beside the service."""
