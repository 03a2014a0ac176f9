"""Which outcomes get a log line of their own."""

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.unit.fakes import NOW
from token_refresher.outcomes import Outcome, State
from token_refresher.reported import WRITTEN_AGAIN_AFTER, Reported

LASTING = (State.WAITING, State.IN_PROGRESS, State.BLOCKED, State.FAILED)
MINUTE = timedelta(minutes=1)


def outcome(state: State, *, attempts: int = 0, **facts: str) -> Outcome:
    return Outcome(grant="deals", state=state, attempts=attempts, **facts)  # type: ignore[arg-type]


@pytest.mark.parametrize("state", LASTING)
def test_outcome_that_lasts_is_written_once_and_again_after_half_an_hour(state: State):
    reported = Reported()
    written = [reported.is_news(outcome(state), NOW + n * MINUTE) for n in range(61)]
    assert [n for n, is_news in enumerate(written) if is_news] == [0, 30, 60]
    assert timedelta(minutes=30) == WRITTEN_AGAIN_AFTER


@pytest.mark.parametrize("state", LASTING)
@pytest.mark.parametrize(
    "change",
    [{"reason": "timeout"}, {"cause": "no"}, {"retry_at": NOW}, {"expires_at": NOW}],
    ids=lambda change: next(iter(change)),
)
def test_outcome_that_changes_is_written(state: State, change: dict[str, str]):
    reported, first = Reported(), outcome(state)
    changed = replace(first, **change)
    assert [reported.is_news(each, NOW) for each in (first, changed, changed, first)] == [
        *(True, True, False, True)
    ]


@pytest.mark.parametrize(
    "each",
    [
        outcome(State.RENEWED, attempts=1),
        outcome(State.UNCHANGED, attempts=1),
        outcome(State.FAILED, attempts=1),
        outcome(State.BLOCKED, attempts=1),
        outcome(State.DEFERRED),
    ],
    ids=lambda each: each.state.value,
)
def test_request_to_enable_and_lack_of_time_are_always_written(each: Outcome):
    reported = Reported()
    assert [reported.is_news(each, NOW) for _ in range(3)] == [True, True, True]


def test_grant_that_is_not_due_gets_no_line_and_ends_what_lasted():
    reported, failed = Reported(), outcome(State.FAILED)
    outcomes = (failed, outcome(State.NOT_DUE), failed, replace(failed, grant="users"))
    assert [reported.is_news(each, NOW) for each in outcomes] == [True, False, True, True]


def test_clock_that_is_set_back_silences_nothing_for_longer():
    reported = Reported()
    assert reported.is_news(outcome(State.BLOCKED), NOW + timedelta(days=1))
    assert reported.is_news(outcome(State.BLOCKED), NOW)
