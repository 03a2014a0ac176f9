"""Vending: who gets which token, and how seldom the store is asked."""

from dataclasses import dataclass, field

import pytest

from tests.unit.fakes import FakeClock, FakeStore, seconds, stored
from token_broker.errors import (
    BrokerError,
    CallerNotAllowed,
    CorruptStoredToken,
    NoLiveToken,
    UnknownGrant,
)
from token_broker.grants import Grant
from token_broker.models import StoredToken
from token_vendor.vend import RETRY_AFTER, Vendor, VendRequest

IAM = "arn:aws:iam::111122223333"
STS = "arn:aws:sts::111122223333"
ALICE = f"{IAM}:user/ops/alice"
GRANTS = {
    "deals": Grant(scope=("read:deals",)),
    "users": Grant(scope=("read:users",), callers=(f"{IAM}:role/etl-*", f"{IAM}:user/ops/*")),
}


@dataclass
class Counter:
    """A vendor among fakes."""

    store: FakeStore = field(
        default_factory=lambda: FakeStore({name: stored(name) for name in GRANTS})
    )
    clock: FakeClock = field(default_factory=FakeClock)
    faults: list[Exception] = field(default_factory=list)
    cache_window: float = 60

    def __post_init__(self) -> None:
        self.vendor = Vendor(
            grants=GRANTS,
            store=self.store,
            cache_window=seconds(self.cache_window),
            on_read_fault=self.faults.append,
            now=self.clock,
        )

    def vend(self, grant: str = "deals", caller: str = ALICE, *, min_ttl: float = 0) -> StoredToken:
        return self.vendor.vend(
            VendRequest(grant=grant, caller_arn=caller, min_ttl=seconds(min_ttl))
        )


@pytest.fixture
def counter() -> Counter:
    return Counter()


@pytest.mark.parametrize("caller", [ALICE, f"{STS}:assumed-role/etl-1/s"])
@pytest.mark.parametrize("grant", ["deals", "users"])
def test_live_token_is_vended_to_whom_the_grant_is_open(
    counter: Counter, grant: str, caller: str
) -> None:
    assert counter.vend(grant, caller) == stored(grant)


@pytest.mark.parametrize(
    ("grant", "caller", "error"),
    [
        ("invoices", ALICE, UnknownGrant),
        ("", ALICE, UnknownGrant),
        ("deals/", ALICE, UnknownGrant),
        ("users", f"{IAM}:user/alice", CallerNotAllowed),
        ("users", "arn:aws:sts::999900001111:assumed-role/etl-1/s", CallerNotAllowed),
        ("users", f"{STS}:assumed-role/other/etl-1", CallerNotAllowed),
        ("users", "", CallerNotAllowed),
    ],
)
def test_nobody_else_gets_one_and_the_store_is_not_asked(
    counter: Counter, grant: str, caller: str, error: type[BrokerError]
) -> None:
    with pytest.raises(error):
        counter.vend(grant, caller)
    assert counter.store.reads == []


def test_remembered_token_of_one_caller_opens_nothing_to_another(counter: Counter) -> None:
    counter.vend("users", ALICE)
    with pytest.raises(CallerNotAllowed):
        counter.vend("users", f"{IAM}:user/mallory")


def test_missing_token_is_worth_another_call(counter: Counter) -> None:
    counter.store.tokens.clear()
    with pytest.raises(NoLiveToken, match="there is no live token") as caught:
        counter.vend()
    assert caught.value.retry_after == RETRY_AFTER


@pytest.mark.parametrize(
    ("min_ttl", "said"), [(0, None), (300, None), (300.5, "has 300 seconds left"), (10**9, "fewer")]
)
def test_token_must_live_as_long_as_was_asked(
    counter: Counter, min_ttl: float, said: str | None
) -> None:
    counter.store.tokens["deals"] = stored(left=300)
    if said is None:
        assert counter.vend(min_ttl=min_ttl) == stored(left=300)
        return
    with pytest.raises(NoLiveToken, match=said):
        counter.vend(min_ttl=min_ttl)


def test_token_is_never_vended_at_or_after_its_expiry(counter: Counter) -> None:
    counter.store.tokens["deals"] = stored(left=30)
    counter.vend()
    counter.clock.wind(30)
    with pytest.raises(NoLiveToken, match="no live token"):
        counter.vend()


@pytest.mark.parametrize(
    ("window", "lifetime", "wait", "reads"),
    [
        (60, 3600, 59.9, 1),
        (60, 3600, 60, 2),
        (60, 100, 9.9, 1),  # a tenth of a short life, so that its successor is found in time
        (60, 100, 10, 2),
        (0, 3600, 0, 2),
    ],
)
def test_store_is_read_once_per_grant_and_window(
    window: float, lifetime: float, wait: float, reads: int
) -> None:
    counter = Counter(cache_window=window)
    counter.store.tokens["deals"] = stored(left=lifetime)
    counter.vend()
    counter.clock.wind(wait)
    counter.vend(caller=f"{IAM}:user/other")
    assert counter.store.reads == ["deals"] * reads
    counter.vend("users")
    assert counter.store.reads[-1] == "users"


def test_successor_is_vended_once_the_window_is_over(counter: Counter) -> None:
    counter.vend()
    counter.store.tokens["deals"] = stored("successor", left=7200)
    counter.clock.wind(60)
    assert counter.vend().access_token == "successor"


@pytest.mark.parametrize("min_ttl", [0, 1800])
def test_token_that_would_not_do_is_looked_up_again_within_the_window(
    counter: Counter, min_ttl: float
) -> None:
    counter.store.tokens = {"deals": stored(left=100)} if min_ttl else {}
    for wait in (0, 0.5, 0.4):  # however many ask, once a second
        counter.clock.wind(wait)
        with pytest.raises(NoLiveToken):
            counter.vend(min_ttl=min_ttl)
    assert counter.store.reads == ["deals"]
    counter.store.tokens["deals"] = stored("renewed")
    counter.clock.wind(0.1)
    assert counter.vend(min_ttl=min_ttl).access_token == "renewed"


def test_failed_read_is_made_up_for_by_a_remembered_live_token(counter: Counter) -> None:
    counter.vend()
    fault = counter.store.faults["deals"] = RuntimeError("no store")
    counter.clock.wind(60)
    assert counter.vend() == counter.vend() == stored("deals")
    assert counter.faults == [fault]  # told once: the store is not pestered meanwhile
    assert counter.store.reads == ["deals", "deals"]


@pytest.mark.parametrize("fault", [CorruptStoredToken("no token"), RuntimeError("no store")])
def test_failed_read_without_a_live_token_to_fall_back_on_is_a_fault(
    counter: Counter, fault: Exception
) -> None:
    counter.store.faults["deals"] = fault
    with pytest.raises(type(fault)):
        counter.vend()
    del counter.store.faults["deals"]
    counter.store.tokens["deals"] = stored(left=100)
    counter.vend()
    counter.store.faults["deals"] = fault
    counter.clock.wind(100)
    with pytest.raises(type(fault)):
        counter.vend()
    assert counter.faults == []
