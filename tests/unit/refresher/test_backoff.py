"""Backoff: intervals that widen, and what ends them."""

from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.fakes import NOW, seconds
from token_refresher.backoff import (
    LONGEST_BACKOFF,
    Backoff,
    after_refusal,
    as_requested,
    in_final_retry_window,
)

BACKOFF = Backoff(reason="invalid_scope", failures=2, until=NOW + seconds(110), key="key")


def refused(
    previous: Backoff | None, key: str = "key", expires_at: datetime | None = None
) -> Backoff:
    return after_refusal(previous, reason="invalid_scope", now=NOW, key=key, expires_at=expires_at)


def test_intervals_widen_up_to_15_minutes() -> None:
    backoff, lengths = None, []
    for _ in range(8):
        backoff = refused(backoff)
        lengths.append((backoff.until - NOW).total_seconds())
    assert lengths == [55, 110, 220, 440, 880, 900, 900, 900]


def test_no_number_of_failures_overflows() -> None:
    backoff = refused(Backoff(reason="x", failures=10**9, until=NOW, key="key"))
    assert backoff.until - NOW == LONGEST_BACKOFF


def test_refusal_of_something_else_counts_from_one() -> None:
    assert refused(BACKOFF, key="another key") == Backoff(
        reason="invalid_scope", failures=1, until=NOW + seconds(55), key="another key"
    )


@pytest.mark.parametrize(
    ("left", "length"),
    [
        (None, 880),
        (3600, 880),
        (1760, 880),
        (1000, 500),
        (300, 150),
        (110, 55),
        (109, 55),  # never less than the first
        (1, 55),
        (-60, 880),
    ],
)
def test_backoff_takes_at_most_half_of_what_is_left_of_the_stored_token(
    left: float | None, length: float
) -> None:
    before = replace(BACKOFF, failures=4)
    expires_at = None if left is None else NOW + seconds(left)
    assert refused(before, expires_at=expires_at) == replace(
        BACKOFF, failures=5, until=NOW + seconds(length)
    )


@pytest.mark.parametrize(
    ("key", "after", "covers"),
    [
        ("key", 0, True),
        ("key", 109.9, True),
        ("key", 110, False),
        ("other key", 0, False),
        ("", 0, False),
    ],
)
def test_backoff_covers_its_key_until_it_ends(
    key: str,
    after: float,
    covers: bool,  # noqa: FBT001
) -> None:
    assert BACKOFF.covers(NOW + seconds(after), key) is covers


def test_backoff_by_a_fast_clock_covers_nothing_until_it_is_within_the_longest() -> None:
    backoff = Backoff(reason="x", failures=1, until=NOW + LONGEST_BACKOFF, key="key")
    assert backoff.covers(NOW, "key")
    assert not backoff.covers(NOW - seconds(1), "key")


@pytest.mark.parametrize(("left", "length"), [(120, 60), (5, 2.5), (4, 2), (3, 2), (0.5, 2)])
def test_backoff_in_the_final_retry_window_is_half_of_what_is_left(
    left: float, length: float
) -> None:
    backoff = in_final_retry_window(
        reason="invalid_client", now=NOW, key="key", expires_at=NOW + seconds(left)
    )
    assert backoff == Backoff(
        reason="invalid_client", failures=0, until=NOW + seconds(length), key="key"
    )


@pytest.mark.parametrize(
    ("retry_after", "length"),
    [
        (timedelta(), timedelta()),
        (seconds(7), seconds(7)),
        (timedelta(days=1), LONGEST_BACKOFF),
        (timedelta.max, LONGEST_BACKOFF),
    ],
)
def test_requested_wait_is_cut_and_has_no_key(retry_after: timedelta, length: timedelta) -> None:
    backoff = as_requested(reason="http_429", now=NOW, retry_after=retry_after)
    assert backoff == Backoff(reason="http_429", failures=0, until=NOW + length, key="")
    assert backoff.covers(NOW, "any key") is (length > timedelta())


@pytest.mark.parametrize(
    ("retry_after", "length"),
    [(None, 110), (seconds(0), 110), (seconds(110.5), 110.5), (timedelta.max, 900)],
)
def test_backoff_does_not_end_before_the_requested_wait(
    retry_after: timedelta | None, length: float
) -> None:
    assert BACKOFF.at_least(retry_after, NOW) == replace(BACKOFF, until=NOW + seconds(length))


@given(st.lists(st.sampled_from(["a", "b"]), min_size=2, max_size=12))
def test_backoff_is_never_shorter_than_the_one_before_unless_its_key_changed(
    keys: list[str],
) -> None:
    state: list[Backoff] = []
    for key in keys:
        state.append(refused(state[-1] if state else None, key))
    for before, after in pairwise(state):
        assert after.until <= NOW + LONGEST_BACKOFF
        if after.key == before.key:
            assert after.until >= before.until
        else:
            assert after.until == NOW + seconds(55)
