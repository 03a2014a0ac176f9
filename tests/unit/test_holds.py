"""Holds: intervals that widen, changes that lift them, and a memory that may be lost."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, cast

import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.fakes import NOW, seconds, ssm_client
from token_refresher.holds import (
    LONGEST_HOLD,
    Hold,
    Holds,
    ParameterHoldStore,
    hold_after_refusal,
    hold_as_asked,
    hold_of_last_try,
)

if TYPE_CHECKING:
    from types_boto3_ssm import SSMClient

HOLD = Hold(reason="invalid_scope", refusals=2, until=NOW + seconds(110), depends_on="key")
NAME = "/enable-tokens/stack/holds/default"


def refused(
    previous: Hold | None, depends_on: str = "key", expires_at: datetime | None = None
) -> Hold:
    return hold_after_refusal(
        previous, reason="invalid_scope", now=NOW, depends_on=depends_on, expires_at=expires_at
    )


FIRST = refused(None)


def test_intervals_widen_up_to_15_minutes() -> None:
    hold, lengths = None, []
    for _ in range(8):
        hold = refused(hold)
        lengths.append((hold.until - NOW).total_seconds())
    assert lengths == [55, 110, 220, 440, 880, 900, 900, 900]


def test_no_number_of_refusals_overflows() -> None:
    hold = refused(Hold(reason="x", refusals=10**9, until=NOW, depends_on="key"))
    assert hold.until - NOW == LONGEST_HOLD


def test_refusal_of_something_else_counts_from_one() -> None:
    assert refused(HOLD, depends_on="another key") == Hold(
        reason="invalid_scope", refusals=1, until=NOW + seconds(55), depends_on="another key"
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
def test_hold_takes_at_most_half_of_what_is_left_of_the_stored_token(
    left: float | None, length: float
) -> None:
    before = replace(HOLD, refusals=4)
    expires_at = None if left is None else NOW + seconds(left)
    assert refused(before, expires_at=expires_at) == replace(
        HOLD, refusals=5, until=NOW + seconds(length)
    )


@pytest.mark.parametrize(
    ("depends_on", "after", "covers"),
    [
        ("key", 0, True),
        ("key", 109.9, True),
        ("key", 110, False),
        ("other key", 0, False),
        ("", 0, False),
    ],
)
def test_hold_covers_what_it_depends_on_until_it_ends(
    depends_on: str,
    after: float,
    covers: bool,  # noqa: FBT001
) -> None:
    assert HOLD.covers(NOW + seconds(after), depends_on) is covers


def test_hold_by_a_clock_that_was_fast_covers_nothing_until_it_is_within_the_longest() -> None:
    hold = Hold(reason="x", refusals=1, until=NOW + LONGEST_HOLD, depends_on="key")
    assert hold.covers(NOW, "key")
    assert not hold.covers(NOW - seconds(1), "key")


@pytest.mark.parametrize(("left", "length"), [(120, 60), (5, 2.5), (4, 2), (3, 2), (0.5, 2)])
def test_hold_after_a_last_try_is_half_of_what_is_left(left: float, length: float) -> None:
    hold = hold_of_last_try(
        reason="invalid_client", now=NOW, depends_on="key", expires_at=NOW + seconds(left)
    )
    assert hold == Hold(
        reason="invalid_client", refusals=0, until=NOW + seconds(length), depends_on="key"
    )


@pytest.mark.parametrize(
    ("retry_after", "length"),
    [
        (timedelta(), timedelta()),
        (seconds(7), seconds(7)),
        (timedelta(days=1), LONGEST_HOLD),
        (timedelta.max, LONGEST_HOLD),
    ],
)
def test_wait_that_was_asked_for_is_cut_and_depends_on_nothing(
    retry_after: timedelta, length: timedelta
) -> None:
    hold = hold_as_asked(reason="http_429", now=NOW, retry_after=retry_after)
    assert hold == Hold(reason="http_429", refusals=0, until=NOW + length, depends_on="")
    assert hold.covers(NOW, "any key") is (length > timedelta())


def test_holds_of_single_grants_come_and_go() -> None:
    holds = Holds().with_grant("deals", HOLD).with_grant("users", HOLD)
    assert holds.with_grant("deals", None) == Holds(grants={"users": HOLD})
    assert holds.with_grant("x", None) == holds


@pytest.mark.parametrize(
    "holds",
    [
        Holds(),
        Holds(connection=HOLD),
        Holds(connection=HOLD, grants={"deals": HOLD, "users": FIRST}),
        Holds(connection=HOLD, claimed_at=NOW, claimed_by="0123456789ab"),
        Holds(grants={"deals": HOLD}),
        Holds(claimed_at=NOW, claimed_by="x" * 40),
        Holds(grants={"deals": hold_as_asked(reason="x", now=NOW, retry_after=seconds(7))}),
        Holds(connection=replace(HOLD, refusals=1_000_000)),
    ],
)
def test_holds_round_trip_through_their_json(holds: Holds) -> None:
    assert Holds.from_json(holds.to_json()) == holds


def test_version_is_known_but_neither_stored_nor_compared() -> None:
    holds = Holds.from_json(Holds(connection=HOLD).to_json(), version=7)
    assert holds.version == 7
    assert holds == Holds(connection=HOLD)
    assert Holds.from_json("malformed", version=7).version == 7


@pytest.mark.parametrize(("after", "is_claimed"), [(0, True), (54.9, True), (55, False)])
def test_claim_ends_by_itself(after: float, is_claimed: bool) -> None:  # noqa: FBT001
    claimed = Holds(claimed_at=NOW, claimed_by="0123456789ab")
    assert claimed.is_claimed(NOW + seconds(after)) is is_claimed


def test_nothing_is_claimed_until_somebody_does() -> None:
    assert not Holds(connection=HOLD).is_claimed(NOW)


@pytest.mark.parametrize("step", [1, -1])
def test_where_there_are_too_many_those_that_end_last_are_kept(step: int) -> None:
    grants = {
        f"{n:03}-{'x' * 58}": Hold(
            reason="invalid_scope",
            refusals=1,
            until=NOW + seconds(200 + step * n),
            depends_on="0123456789ab",
        )
        for n in range(200)
    }
    text = Holds(connection=HOLD, grants=grants).to_json()
    assert 3_800 < len(text.encode()) <= 4_000
    kept = Holds.from_json(text)
    assert kept.connection == HOLD
    last = sorted(grants, key=lambda name: grants[name].until)[-len(kept.grants) :]
    assert set(kept.grants) == set(last)
    assert len(kept.grants) >= 25


RECORD = json.loads(Holds(connection=HOLD, grants={"deals": HOLD}).to_json())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        json.dumps(RECORD | {"claimed_at": "noon"}),
        json.dumps(RECORD | {"claimed_at": 10**14}),
        json.dumps({name: RECORD[name] for name in RECORD if name != "claimed_by"}),
        json.dumps(RECORD | {"grants": None}),
        json.dumps(RECORD | {"grants": ["deals"]}),
        json.dumps(RECORD | {"grants": {"deals": 7}}),
        json.dumps(RECORD | {"connection": ["x", 1, 2]}),
        json.dumps(RECORD | {"connection": ["x", "1", 2, "key"]}),
        json.dumps(RECORD | {"connection": ["x", 1, "tomorrow", "key"]}),
        json.dumps(RECORD | {"connection": ["x", 1, 10**14, "key"]}),
        json.dumps(RECORD | {"connection": ["x", 1, 10**30, "key"]}),
        json.dumps(RECORD | {"connection": ["x", -1, 2, "key"]}),
        json.dumps(RECORD | {"connection": ["x", 1_000_001, 2, "key"]}),
        json.dumps(RECORD | {"connection": ["A sentence.", 1, 2, "key"]}),
        json.dumps(RECORD | {"connection": ["x" * 41, 1, 2, "key"]}),
        json.dumps(RECORD | {"connection": ["x", 1, 2, "x" * 41]}),
        "[" * 100_000,
    ],
)
def test_what_is_malformed_holds_nothing(text: str) -> None:
    assert Holds.from_json(text) == Holds()


def test_claim_of_another_hand_leaves_room_for_the_holds() -> None:
    holds = Holds.from_json(json.dumps(RECORD | {"claimed_by": "é" * 5_000}))
    assert holds.connection == HOLD
    assert holds.claimed_by == "é" * 40
    assert len(holds.to_json()) <= 4_000


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.text()
    | json_values.map(json.dumps)
    | st.builds(
        lambda name, value: json.dumps(RECORD | {name: value}),
        st.sampled_from(sorted(RECORD)),
        json_values,
    )
)
def test_no_text_breaks_the_reading_of_holds(text: str) -> None:
    holds = Holds.from_json(text)
    assert Holds.from_json(holds.to_json()).connection == holds.connection


@given(st.lists(st.sampled_from(["a", "b"]), min_size=2, max_size=12))
def test_hold_is_never_shorter_than_the_one_before_unless_something_changed(
    keys: list[str],
) -> None:
    holds: list[Hold] = []
    for key in keys:
        holds.append(refused(holds[-1] if holds else None, key))
    for before, after in pairwise(holds):
        assert after.until <= NOW + LONGEST_HOLD
        if after.depends_on == before.depends_on:
            assert after.until >= before.until
        else:
            assert after.until == NOW + seconds(55)


@pytest.fixture(scope="module")
def stub() -> Iterator[Stubber]:
    with Stubber(ssm_client()) as stub:
        yield stub


@pytest.fixture
def store(stub: Stubber) -> Iterator[ParameterHoldStore]:
    yield ParameterHoldStore(cast("SSMClient", stub.client), prefix="/enable-tokens/stack")
    stub.assert_no_pending_responses()


def parameter(text: str, version: int = 7) -> dict[str, object]:
    return {"Parameter": {"Value": text, "Version": version}}


@pytest.mark.parametrize(("version", "name"), [(0, NAME), (6, f"{NAME}:6")])
def test_holds_are_read_from_a_plain_parameter_of_the_connection(
    stub: Stubber, store: ParameterHoldStore, version: int, name: str
) -> None:
    text = Holds(connection=HOLD).to_json()
    stub.add_response("get_parameter", parameter(text), {"Name": name})
    holds = store.read("default", version=version)
    assert (holds, holds.version) == (Holds(connection=HOLD), 7)


@pytest.mark.parametrize("code", ["ParameterNotFound", "ParameterVersionNotFound"])
def test_missing_parameter_is_no_hold(stub: Stubber, store: ParameterHoldStore, code: str) -> None:
    stub.add_client_error("get_parameter", code, expected_params={"Name": NAME})
    holds = store.read("default")
    assert (holds, holds.version) == (Holds(), 0)


def test_other_refusals_by_aws_pass_through(stub: Stubber, store: ParameterHoldStore) -> None:
    stub.add_client_error("get_parameter", "ThrottlingException")
    with pytest.raises(ClientError, match="Throttling"):
        store.read("default")
    stub.add_client_error("put_parameter", "ThrottlingException")
    with pytest.raises(ClientError, match="Throttling"):
        store.write("default", Holds())


def test_holds_are_written_over_the_old_ones(stub: Stubber, store: ParameterHoldStore) -> None:
    holds = Holds(grants={"deals": HOLD})
    expected = {
        "Name": NAME,
        "Description": "What the token broker's runs tell each other; safe to delete",
        "Value": holds.to_json(),
        "Type": "String",
        "Overwrite": True,
    }
    stub.add_response("put_parameter", {"Version": 2}, expected)
    assert store.write("default", holds) == 2
