"""What a run reads: few calls, decrypted only where something changed, and every change noticed."""

from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast, override

import pytest
from botocore.exceptions import EndpointConnectionError

from tests.unit.fakes import NOW, FakeSsm, client_error, everyone_at_once, seconds, stored
from token_broker.models import Blocked, Corrupt, StoredToken, Unreadable, block_record
from token_broker.token_store import ParameterTokenStore
from token_refresher.connection_state import ConnectionState, ConnectionStateStore
from token_refresher.parameter_reader import ParameterReader, Reading

PREFIX = "/p"
OLD, NEW = stored("old"), stored("new", left=3000)
BLOCK = block_record("leaked, case 7", now=NOW)
DENIED = client_error("AccessDeniedException", "GetParameters")
KEY_IS_GONE = client_error("InvalidKeyId", "GetParameters")


class WatchedSsm(FakeSsm):
    """Keeps each call's names, counts what it decrypts, and refuses as Parameter Store does."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[list[str]] = []
        self.decrypted: list[str] = []
        self.modified: dict[str, datetime] = {}
        self.faults: dict[str, Exception] = {}
        self.encrypted_with_gone_key: set[str] = set()
        self.before_call: Callable[[list[str], bool], object] = lambda _names, _decrypted: None
        self._writes = 0

    @override
    def put_parameter(self, Name: str, Value: str, **_options: object) -> dict[str, int]:
        self._writes += 1
        self.modified[Name] = NOW + seconds(self._writes)
        return super().put_parameter(Name, Value)

    def delete(self, name: str) -> None:
        del self.values[name]

    @override
    def get_parameter(self, Name: str, **options: object) -> dict[str, Any]:
        self._read([Name], is_decrypted=bool(options.get("WithDecryption")))
        return super().get_parameter(Name)

    def get_parameters(
        self,
        Names: list[str],  # noqa: N803
        *,
        WithDecryption: bool = False,  # noqa: N803
    ) -> dict[str, Any]:
        assert len(Names) <= 10
        self.before_call(Names, WithDecryption)
        self._read(Names, is_decrypted=WithDecryption)
        found = [
            {
                "Name": name,
                "LastModifiedDate": self.modified[name],
                **super(WatchedSsm, self).get_parameter(name)["Parameter"],
            }
            for name in Names
            if name in self.values
        ]
        for parameter in found:
            if not WithDecryption and "/connections/" not in parameter["Name"]:
                parameter["Value"] = "AQICAHg="
        return {"Parameters": found, "InvalidParameters": sorted({*Names} - self.values.keys())}

    def _read(self, names: list[str], *, is_decrypted: bool) -> None:
        self.calls.append(names)
        for name in names:
            if name in self.faults:
                raise self.faults[name]
            if is_decrypted and name in self.values:
                if name in self.encrypted_with_gone_key:
                    raise KEY_IS_GONE
                self.decrypted.append(name)


@dataclass
class Environment:
    """A reader and what it reads."""

    ssm: WatchedSsm = field(default_factory=WatchedSsm)

    def __post_init__(self) -> None:
        ssm = cast("Any", self.ssm)
        self.store = ParameterTokenStore(ssm, prefix=PREFIX, key_id="key")
        self.states = ConnectionStateStore(ssm, prefix=PREFIX)
        self.reader = ParameterReader(ssm, store=self.store, states=self.states)

    def store_all(self, count: int) -> list[str]:
        names = [f"g{number}" for number in range(count)]
        for name in names:
            self.store.write(name, OLD)
        self.states.release("default", ConnectionState())
        return names

    def read(self, grants: list[str], *connections: str) -> Reading:
        """The next run's reading; the calls before it are forgotten."""
        self.ssm.calls.clear()
        self.ssm.decrypted.clear()
        return self.reader.read(connections or ["default"], grants, threads=ThreadPoolExecutor)


@pytest.fixture
def environment() -> Environment:
    return Environment()


@pytest.mark.parametrize(("count", "calls"), [(4, 1), (9, 1), (10, 2), (100, 11), (500, 51)])
def test_idle_run_makes_a_call_for_ten_parameters_and_decrypts_nothing(
    environment: Environment, count: int, calls: int
) -> None:
    names = environment.store_all(count)
    first = environment.read(names)
    assert len(environment.ssm.decrypted) == count
    assert environment.read(names) == first
    assert (len(environment.ssm.calls), environment.ssm.decrypted) == (calls, [])
    assert first.stored == dict.fromkeys(names, OLD)


def delete(environment: Environment) -> None:
    environment.ssm.delete("/p/g1")


def replace_by_hand(environment: Environment) -> None:
    environment.store.write("g1", NEW)


def corrupt(environment: Environment) -> None:
    environment.ssm.put_parameter("/p/g1", "not a token")


def block(environment: Environment) -> None:
    environment.ssm.put_parameter("/p/g1", BLOCK)


def recreate(environment: Environment) -> None:
    delete(environment)
    replace_by_hand(environment)
    assert len(environment.ssm.values["/p/g1"]) == 1


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (delete, None),
        (replace_by_hand, NEW),
        (corrupt, Corrupt(parameter_version=2)),
        (block, Blocked(reason="leaked, case 7", record=BLOCK, parameter_version=2)),
        (recreate, NEW),
    ],
)
def test_every_change_is_noticed_in_the_next_run(
    environment: Environment, change: Callable[[Environment], None], found: object
) -> None:
    names = environment.store_all(4)
    environment.read(names)
    change(environment)
    reading = environment.read(names)
    assert reading.stored == dict.fromkeys(names, OLD) | {"g1": found}
    assert environment.ssm.decrypted == ["/p/g1"] * (change is not delete)
    assert environment.read(names) == reading
    assert environment.ssm.decrypted == []


def test_two_changes_are_decrypted_by_one_call(environment: Environment) -> None:
    names = environment.store_all(4)
    environment.read(names)
    replace_by_hand(environment)
    environment.store.write("g3", NEW)
    assert environment.read(names).stored["g3"] == NEW
    assert environment.ssm.calls[1:] == [["/p/g1", "/p/g3"]]


def test_token_that_is_deleted_before_it_is_decrypted_is_gone(environment: Environment) -> None:
    names = environment.store_all(4)

    def delete_in_between(_names: list[str], is_decrypted: bool) -> None:  # noqa: FBT001
        if is_decrypted:
            delete(environment)

    environment.ssm.before_call = delete_in_between
    assert environment.read(names).stored == dict.fromkeys(names, OLD) | {"g1": None}


def test_state_of_a_connection_is_read_with_its_version(environment: Environment) -> None:
    names = environment.store_all(1)
    written = ConnectionState(unanswered=frozenset(names))
    environment.states.release("default", written)
    state = environment.read(names).states["default"]
    assert (state, state.version) == (written, 2)


def test_tokens_of_many_grants_are_read_at_the_same_time(environment: Environment) -> None:
    names = environment.store_all(59)  # with the state, six calls
    meet = {False: everyone_at_once(5), True: everyone_at_once(6)}
    asked: list[int] = []

    def begin(names: list[str], is_decrypted: bool) -> None:  # noqa: FBT001
        if not any("/connections/" in name for name in names):
            meet[is_decrypted]()

    environment.ssm.before_call = begin

    def threads(count: int) -> Executor:
        asked.append(count)
        return ThreadPoolExecutor(count)

    reading = environment.reader.read(["default"], names, threads=threads)
    assert reading.stored == dict.fromkeys(names, OLD)
    assert asked == [8]


def test_unreadable_token_keeps_no_other_from_being_read(environment: Environment) -> None:
    names = environment.store_all(4)
    environment.ssm.encrypted_with_gone_key.add("/p/g1")
    for decrypted in ({"/p/g0", "/p/g2", "/p/g3"}, set()):
        found = environment.read(names).stored
        assert isinstance(found["g1"], Unreadable)
        assert [found[name] for name in ("g0", "g2", "g3")] == [OLD] * 3
        assert {*environment.ssm.decrypted} == decrypted
    environment.ssm.encrypted_with_gone_key.clear()
    assert environment.read(names).stored["g1"] == OLD


@pytest.mark.parametrize("fault", [DENIED, client_error("InternalServerError", "GetParameters")])
def test_refused_name_keeps_no_other_from_being_read(
    environment: Environment, fault: Exception
) -> None:
    names = environment.store_all(12)
    environment.ssm.faults["/p/g1"] = fault
    reading = environment.read(names)
    refused = reading.stored["g1"]
    assert isinstance(refused, Unreadable) if fault is DENIED else refused is fault
    assert {name for name in names if reading.stored[name] == OLD} == {*names} - {"g1"}
    assert reading.states["default"].version == 1
    assert environment.ssm.calls.count(["/p/g9", "/p/g10", "/p/g11"]) == 2


def test_run_that_reaches_no_parameter_store_reads_each_name_once(
    environment: Environment,
) -> None:
    names = environment.store_all(4)
    fault = EndpointConnectionError(endpoint_url="https://ssm")
    environment.ssm.faults["/p/g0"] = fault
    reading = environment.read(names)
    assert reading.stored == dict.fromkeys(names, fault)
    assert reading.states == {"default": ConnectionState(version=None)}
    assert reading.states["default"].version is None
    assert len(environment.ssm.calls) == 1


def test_no_state_is_read_after_a_token_of_another_call(environment: Environment) -> None:
    names = environment.store_all(30)
    connections = [f"c{number}" for number in range(12)]
    reading = environment.read(names, *connections)
    assert list(reading.states) == connections
    assert {state.version for state in reading.states.values()} == {0}
    of_states = [any("/connections/" in name for name in call) for call in environment.ssm.calls]
    assert of_states[:2] == [True, True]
    assert not any(of_states[2:])


def test_block_under_a_token_is_put_back_and_noticed_in_the_next_run_too(
    environment: Environment,
) -> None:
    names = environment.store_all(2)
    environment.ssm.put_parameter("/p/g1", BLOCK)
    overwriting = StoredToken(
        access_token="new",
        scope=OLD.scope,
        issued_at=OLD.issued_at,
        expires_at=OLD.expires_at,
        follows=1,
    )
    environment.store.write("g1", overwriting)
    assert isinstance(environment.read(names).stored["g1"], Blocked)
    assert environment.ssm.values["/p/g1"][-1] == BLOCK
    assert isinstance(environment.read(names).stored["g1"], Blocked)
