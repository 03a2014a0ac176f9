"""Expiry: never later than any end that somebody named."""

import base64
import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.fakes import NOW, jwt, seconds
from token_broker.expiry import (
    MAX_LIFETIME,
    JwtTimes,
    due_window,
    expires_at,
    is_due,
    is_fresh,
    jwt_times,
)

durations = st.timedeltas(timedelta(0), timedelta(days=400))


def payload(text: str) -> str:
    return f"e30.{base64.urlsafe_b64encode(text.encode()).decode().rstrip('=')}.sig"


def test_jwt_times_are_its_exp_and_iat() -> None:
    whole = jwt_times(jwt(exp=1740830400, iat=1740829500))
    assert whole == JwtTimes(issued_at=NOW - seconds(900), expires_at=NOW)
    fraction = jwt_times(jwt(exp=1740830400.5, aud="ÿÿÿ???"))
    assert fraction == JwtTimes(issued_at=None, expires_at=NOW + seconds(0.5))


@pytest.mark.parametrize(
    "token",
    [
        "opaque",
        "a.b",
        "a.b.c.d",
        "a.*.c",
        "a.ü.c",
        "a.AAAAA.c",
        jwt(iat=1),
        jwt(exp="1740830400"),
        jwt(exp=True),
        jwt(exp=None),
        jwt(exp=1e300),
        jwt(exp=10**400),
        jwt(exp=float("nan")),
        jwt(exp=float("inf")),
        payload("[]"),
        payload("null"),
        payload("7"),
        payload('{"exp": 1'),
        payload('{"exp": ' + "9" * 5000 + "}"),
        payload("[" * 100_000),
    ],
    ids=lambda token: token[:24],
)
def test_token_without_a_usable_exp_names_no_end(token: str) -> None:
    assert jwt_times(token) is None
    assert expires_at(token, expires_in=None, requested_at=NOW) is None


@pytest.mark.parametrize(
    ("issued_in", "left"),
    [(600, 1200), (0, 1800), (-600, 1800)],
    ids=["slow clock here", "same clock", "fast clock here"],
)
def test_without_expires_in_a_token_lives_no_longer_than_from_its_iat_to_its_exp(
    issued_in: float, left: float
) -> None:
    now = NOW.timestamp()
    token = jwt(iat=int(now + issued_in), exp=int(now + 1800))
    assert expires_at(token, expires_in=None, requested_at=NOW) == NOW + seconds(left)


@given(st.text(st.characters(codec="utf-8")) | st.floats().map(json.dumps))
def test_no_token_text_breaks_the_reading_of_its_exp(text: str) -> None:
    assert jwt_times(text) is None
    assert jwt_times(payload(text)) is None


@pytest.mark.parametrize(
    ("expires_in", "exp_in", "left"),
    [
        (3600, None, 3600),
        (None, 1800, 1800),
        (3600, 1800, 1800),
        (1800, 3600, 1800),
        (90_000, None, 86_400),
        (None, 90_000, 86_400),
        (3600, -60, -60),
    ],
)
def test_the_earliest_end_counts(
    expires_in: float | None, exp_in: float | None, left: float
) -> None:
    token = "opaque" if exp_in is None else jwt(exp=int(NOW.timestamp() + exp_in))
    lifetime = None if expires_in is None else seconds(expires_in)
    assert expires_at(token, expires_in=lifetime, requested_at=NOW) == NOW + seconds(left)


@given(
    durations,
    st.integers(0, 2**33),
    st.floats(0, 2**33).map(lambda timestamp: datetime.fromtimestamp(timestamp, UTC)),
)
def test_expiry_is_a_whole_second_no_later_than_any_named_end(
    expires_in: timedelta, exp: int, requested_at: datetime
) -> None:
    end = expires_at(jwt(exp=exp), expires_in=expires_in, requested_at=requested_at)
    ends = [
        requested_at + expires_in,
        datetime.fromtimestamp(exp, UTC),
        requested_at + MAX_LIFETIME,
    ]
    assert end is not None
    assert end.microsecond == 0
    assert seconds(0) <= min(ends) - end < seconds(1)


@given(durations, durations)
def test_due_window_is_never_more_than_half_the_lifetime(
    lifetime: timedelta, refresh_ahead: timedelta
) -> None:
    window = due_window(lifetime, refresh_ahead)
    assert window in (refresh_ahead, lifetime / 2)
    assert window <= refresh_ahead
    assert window <= lifetime / 2


@pytest.mark.parametrize(
    ("lifetime", "left", "due"),
    [
        (3600, 601, False),
        (3600, 600, True),
        (3600, -5, True),
        (300, 151, False),
        (300, 150, True),
        (300, 300, False),
    ],
)
def test_token_is_due_once_no_more_than_its_window_is_left(
    lifetime: float,
    left: float,
    due: bool,  # noqa: FBT001
) -> None:
    assert due is is_due(
        issued_at=NOW,
        expires_at=NOW + seconds(lifetime),
        now=NOW + seconds(lifetime - left),
        refresh_ahead=seconds(600),
    )


@pytest.mark.parametrize(
    ("age", "fresh"), [(-1800, False), (-0.001, False), (0, True), (59.999, True), (60, False)]
)
def test_age_below_zero_is_not_fresh(
    age: float,
    fresh: bool,  # noqa: FBT001
) -> None:
    assert is_fresh(seconds(age), seconds(60)) is fresh
