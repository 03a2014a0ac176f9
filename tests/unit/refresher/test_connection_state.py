"""What runs share: a state that may be lost, and a lease that one of them has."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import pytest
from botocore.stub import Stubber
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.fakes import NOW, FakeStates, seconds, ssm_client
from token_refresher.backoff import Backoff, as_requested
from token_refresher.connection_state import ConnectionState, ConnectionStateStore

if TYPE_CHECKING:
    from types_boto3_ssm import SSMClient

BACKOFF = Backoff(reason="invalid_scope", failures=2, until=NOW + seconds(110), key="key")
FIRST = Backoff(reason="invalid_scope", failures=1, until=NOW + seconds(55), key="key")
NAME = "/enable-tokens/stack/connections/default"


def test_backoffs_of_single_grants_come_and_go() -> None:
    state = ConnectionState().with_grant("deals", BACKOFF).with_grant("users", BACKOFF)
    assert state.with_grant("deals", None) == ConnectionState(grants={"users": BACKOFF})
    assert state.with_grant("x", None) == state


@pytest.mark.parametrize(
    "state",
    [
        ConnectionState(),
        ConnectionState(backoff=BACKOFF),
        ConnectionState(backoff=BACKOFF, grants={"deals": BACKOFF, "users": FIRST}),
        ConnectionState(backoff=BACKOFF, leased_at=NOW, owner="0123456789ab"),
        ConnectionState(grants={"deals": BACKOFF}),
        ConnectionState(unanswered=frozenset({"deals", "users"})),
        ConnectionState(leased_at=NOW, owner="x" * 40),
        ConnectionState(
            grants={"deals": as_requested(reason="x", now=NOW, retry_after=seconds(7))}
        ),
        ConnectionState(backoff=replace(BACKOFF, failures=1_000_000)),
    ],
)
def test_state_round_trips_through_its_json(state: ConnectionState) -> None:
    assert ConnectionState.from_json(state.to_json()) == state


def test_version_is_known_but_neither_stored_nor_compared() -> None:
    state = ConnectionState.from_json(ConnectionState(backoff=BACKOFF).to_json(), version=7)
    assert state.version == 7
    assert state == ConnectionState(backoff=BACKOFF)
    assert ConnectionState.from_json("malformed", version=7).version == 7


@pytest.mark.parametrize(("after", "is_leased"), [(0, True), (54.9, True), (55, False)])
def test_lease_ends_by_itself(after: float, is_leased: bool) -> None:  # noqa: FBT001
    leased = ConnectionState(leased_at=NOW, owner="0123456789ab")
    assert leased.is_leased(NOW + seconds(after)) is is_leased


def test_state_is_not_leased_until_a_run_takes_it() -> None:
    assert not ConnectionState(backoff=BACKOFF).is_leased(NOW)


@pytest.mark.parametrize("step", [1, -1])
def test_of_too_many_backoffs_those_that_end_last_are_kept(step: int) -> None:
    grants = {
        f"{n:03}-{'x' * 58}": Backoff(
            reason="invalid_scope",
            failures=1,
            until=NOW + seconds(200 + step * n),
            key="0123456789ab",
        )
        for n in range(200)
    }
    text = ConnectionState(backoff=BACKOFF, grants=grants).to_json()
    assert 3_800 < len(text.encode()) <= 4_000
    kept = ConnectionState.from_json(text)
    assert kept.backoff == BACKOFF
    last = sorted(grants, key=lambda name: grants[name].until)[-len(kept.grants) :]
    assert set(kept.grants) == set(last)
    assert len(kept.grants) >= 25


RECORD = json.loads(ConnectionState(backoff=BACKOFF, grants={"deals": BACKOFF}).to_json())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        json.dumps(RECORD | {"leased_at": "noon"}),
        json.dumps(RECORD | {"leased_at": 10**14}),
        json.dumps({name: RECORD[name] for name in RECORD if name != "owner"}),
        json.dumps(RECORD | {"grants": None}),
        json.dumps(RECORD | {"grants": ["deals"]}),
        json.dumps(RECORD | {"grants": {"deals": 7}}),
        json.dumps(RECORD | {"backoff": ["x", 1, 2]}),
        json.dumps(RECORD | {"backoff": ["x", "1", 2, "key"]}),
        json.dumps(RECORD | {"backoff": ["x", 1, "tomorrow", "key"]}),
        json.dumps(RECORD | {"backoff": ["x", 1, 10**14, "key"]}),
        json.dumps(RECORD | {"backoff": ["x", 1, 10**30, "key"]}),
        json.dumps(RECORD | {"backoff": ["x", -1, 2, "key"]}),
        json.dumps(RECORD | {"backoff": ["x", 1_000_001, 2, "key"]}),
        json.dumps(RECORD | {"backoff": ["A sentence.", 1, 2, "key"]}),
        json.dumps(RECORD | {"backoff": ["x" * 41, 1, 2, "key"]}),
        json.dumps(RECORD | {"backoff": ["x", 1, 2, "x" * 41]}),
        "[" * 100_000,
    ],
)
def test_malformed_state_is_empty(text: str) -> None:
    assert ConnectionState.from_json(text) == ConnectionState()


def test_owner_modified_outside_the_broker_leaves_room_for_the_backoffs() -> None:
    state = ConnectionState.from_json(json.dumps(RECORD | {"owner": "é" * 5_000}))
    assert state.backoff == BACKOFF
    assert state.owner == "é" * 40
    assert len(state.to_json()) <= 4_000


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
def test_no_text_breaks_the_reading_of_a_state(text: str) -> None:
    state = ConnectionState.from_json(text)
    assert ConnectionState.from_json(state.to_json()).backoff == state.backoff


@pytest.fixture(scope="module")
def stub() -> Iterator[Stubber]:
    with Stubber(ssm_client()) as stub:
        yield stub


@pytest.fixture
def store(stub: Stubber) -> Iterator[ConnectionStateStore]:
    yield ConnectionStateStore(cast("SSMClient", stub.client), prefix="/enable-tokens/stack")
    stub.assert_no_pending_responses()


def parameter(text: str, version: int = 7) -> dict[str, object]:
    return {"Parameter": {"Value": text, "Version": version}}


def test_state_is_read_from_a_plain_parameter_of_the_connection(
    stub: Stubber, store: ConnectionStateStore
) -> None:
    text = ConnectionState(backoff=BACKOFF).to_json()
    stub.add_response("get_parameter", parameter(text), {"Name": NAME})
    state = store.read("default")
    assert (state, state.version) == (ConnectionState(backoff=BACKOFF), 7)


@pytest.mark.parametrize(
    ("code", "version"),
    [("ParameterNotFound", 0), ("ParameterVersionNotFound", 0), ("ThrottlingException", None)],
)
def test_state_that_cannot_be_read_is_empty(
    stub: Stubber, store: ConnectionStateStore, code: str, version: int | None
) -> None:
    stub.add_client_error("get_parameter", code, expected_params={"Name": NAME})
    state = store.read("default")
    assert (state, state.version) == (ConnectionState(), version)


def test_state_of_an_older_version_of_the_broker_is_empty() -> None:
    old = {"connection": None, "grants": {}, "claimed_at": 1740830400, "claimed_by": "x"}
    assert ConnectionState.from_json(json.dumps(old), version=3) == ConnectionState()


def test_release_stores_the_backoffs_and_no_lease(
    stub: Stubber, store: ConnectionStateStore
) -> None:
    state = ConnectionState(grants={"deals": BACKOFF})
    expected = {
        "Name": NAME,
        "Description": "What the token broker's refresh runs share; safe to delete",
        "Value": state.to_json(),
        "Type": "String",
        "Overwrite": True,
    }
    stub.add_response("put_parameter", {"Version": 2}, expected)
    store.release("default", replace(state, leased_at=NOW, owner="me"))


def test_refused_release_and_refused_lease_fail_no_run(
    stub: Stubber, store: ConnectionStateStore
) -> None:
    for _ in range(2):
        stub.add_client_error("put_parameter", "ThrottlingException")
    store.release("default", ConnectionState())
    assert store.acquire("default", ConnectionState(), NOW)


def test_lease_keeps_the_backoffs_and_names_its_owner() -> None:
    states = FakeStates()
    states.put(ConnectionState(backoff=BACKOFF))
    seen = states.read("default")
    assert states.acquire("default", seen, NOW)
    now = states.now()
    assert (now.backoff, now.leased_at, now.version) == (BACKOFF, NOW, 0)
    assert len(now.owner) == 12
    assert states.reads == ["default"]  # and no second look


def by(owner: str, seconds_ago: float = 0) -> ConnectionState:
    return ConnectionState(leased_at=NOW - seconds(seconds_ago), owner=owner)


@pytest.mark.parametrize(
    ("others", "after"),
    [
        ([by("other")], None),
        ([by("other"), ConnectionState(backoff=BACKOFF)], ConnectionState(backoff=BACKOFF)),
        ([by("one"), by("two")], None),
        ([by("dead", 55)], by("dead", 55)),
    ],
)
def test_lease_is_the_first_writer_s_and_the_result_of_a_run_that_has_ended_stands(
    others: list[ConnectionState], after: ConnectionState | None
) -> None:
    states = FakeStates()
    seen = states.read("default")
    for state in others:
        states.put(state)
    assert not states.acquire("default", seen, NOW)
    if after:
        assert states.now() == after
    else:
        assert states.now().is_leased(NOW)


def write_twice(
    states: FakeStates, between: list[ConnectionState]
) -> Callable[[ConnectionState], None]:
    """A lost response: botocore writes again, maybe after other runs."""

    def write(state: ConnectionState) -> None:
        states.on_write = lambda _state: None
        for written in [state, *between]:
            states.put(written)

    return write


@pytest.mark.parametrize(
    ("before", "between", "is_ours"),
    [([], [], True), ([by("other")], [], False), ([], [by("other")], True)],
)
def test_lease_that_is_written_twice_is_decided_by_its_owner(
    before: list[ConnectionState],
    between: list[ConnectionState],
    is_ours: bool,  # noqa: FBT001
) -> None:
    states = FakeStates()
    seen = states.read("default")
    for state in before:
        states.put(state)
    states.on_write = write_twice(states, between)
    assert states.acquire("default", seen, NOW) is is_ours


def test_lease_after_a_state_that_could_not_be_read_is_taken() -> None:
    states = FakeStates()
    states.put(by("other"))
    assert states.acquire("default", ConnectionState(version=None), NOW)
