"""Vending: who gets which token, and how seldom the store is read."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.unit.fakes import NOW, FakeClock, FakeStore, seconds, stored
from token_broker.errors import (
    BrokerError,
    CallerNotAllowed,
    CorruptStoredToken,
    GrantBlocked,
    InvalidScope,
    NoFittingToken,
    NoLiveToken,
    RejectionTooSoon,
    UnknownGrant,
)
from token_broker.grants import Grant
from token_broker.models import StoredToken
from token_vendor.vend import (
    RETRY_AFTER,
    GrantState,
    GrantStatus,
    Reason,
    Unfit,
    Vendor,
    VendRequest,
    Verdict,
    judge,
)

IAM = "arn:aws:iam::111122223333"
STS = "arn:aws:sts::111122223333"
ALICE = f"{IAM}:user/ops/alice"
GRANTS = {
    "deals": Grant(scope=("read:deals",)),
    "users": Grant(scope=("read:users",), callers=(f"{IAM}:role/etl-*", f"{IAM}:user/ops/*")),
}


def token(grant: str, **more: Any) -> StoredToken:
    return stored(grant, scope=GRANTS[grant].scope, **more)


@dataclass
class Counter:
    """A vendor among fakes."""

    store: FakeStore = field(
        default_factory=lambda: FakeStore({name: token(name) for name in GRANTS})
    )
    clock: FakeClock = field(default_factory=FakeClock)
    faults: list[Exception] = field(default_factory=list)
    cache_window: float = 60
    waits: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.vendor = Vendor(
            grants=GRANTS,
            store=self.store,
            cache_window=seconds(self.cache_window),
            refresh_ahead=seconds(600),
            on_read_fault=self.faults.append,
            second_chance_after=lambda error: seconds(3) if "throttled" in str(error) else None,
            now=self.clock,
            monotonic=self.clock.monotonic,
            sleep=self.wait,
        )

    def wait(self, wait: float) -> None:
        self.waits.append(wait)
        if len(self.waits) == 2:
            self.store.faults.clear()

    def vend(self, grant: str = "deals", caller: str = ALICE, *, min_ttl: float = 0) -> StoredToken:
        request = VendRequest(grant=grant, caller_arn=caller, min_ttl=seconds(min_ttl))
        return self.vendor.vend(request).token


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (token("deals", left=0), Reason.EXPIRED),
        (stored("deals", scope=("read:deals", "read:users")), Reason.EXCEEDS_GRANT),
        (Unfit(Reason.MISSING), Reason.MISSING),
    ],
)
def test_verdict_says_why_what_is_stored_does_not_fit(found: Verdict, reason: Reason) -> None:
    request = VendRequest(grant="deals", caller_arn=ALICE)
    assert judge(found, GRANTS["deals"].scope, request, NOW) == Unfit(reason)


@pytest.fixture
def counter() -> Counter:
    return Counter()


@pytest.mark.parametrize("caller", [ALICE, f"{STS}:assumed-role/etl-1/s"])
@pytest.mark.parametrize("grant", ["deals", "users"])
def test_live_token_is_vended_to_whom_the_grant_is_open(
    counter: Counter, grant: str, caller: str
) -> None:
    assert counter.vend(grant, caller) == token(grant)


@pytest.mark.parametrize(
    ("scope", "is_vended"),
    [
        (("read:deals", "read:users"), True),
        (("read:users", "read:deals"), True),
        (("read:deals",), True),  # the grant was widened: its token can do less for a while
        (("read:deals", "read:users", "write:deals"), False),
        (("write:deals",), False),
    ],
)
def test_token_that_can_do_more_than_a_narrowed_grant_may_is_none(
    scope: tuple[str, ...],
    is_vended: bool,  # noqa: FBT001
) -> None:
    grants = {"both": Grant(scope=("read:deals", "read:users"))}
    vendor = Vendor(
        grants=grants,
        store=FakeStore({"both": stored(scope=scope)}),
        cache_window=seconds(60),
        refresh_ahead=seconds(600),
        on_read_fault=lambda _error: None,
        now=FakeClock(),
    )
    request = VendRequest(grant="both", caller_arn=ALICE)
    if is_vended:
        assert vendor.vend(request).token.scope == scope
        return
    with pytest.raises(NoLiveToken, match="no live token"):
        vendor.vend(request)


def test_successor_of_a_token_of_another_scope_is_vended_after_a_second() -> None:
    counter = Counter()
    counter.store.tokens["deals"] = stored(scope=("read:deals", "read:users"))
    for wait in (0, 0.5, 0.4):
        counter.clock.wind(wait)
        with pytest.raises(NoLiveToken):
            counter.vend()
    assert counter.store.reads == ["deals"]
    counter.store.tokens["deals"] = token("deals")
    counter.clock.wind(0.1)
    assert counter.vend() == token("deals")


def test_failed_read_never_vends_a_remembered_token_that_exceeds_its_grant() -> None:
    counter = Counter()
    counter.store.tokens["deals"] = stored(scope=("read:deals", "read:users"))
    with pytest.raises(NoLiveToken):
        counter.vend()
    counter.store.faults["deals"] = RuntimeError("no store")
    counter.clock.wind(60)
    with pytest.raises(RuntimeError):
        counter.vend()


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
    ("min_ttl", "output"),
    [(0, None), (300, None), (300.5, "has 300 seconds left"), (10**9, "fewer")],
)
def test_token_must_live_as_long_as_was_asked(
    counter: Counter, min_ttl: float, output: str | None
) -> None:
    counter.store.tokens["deals"] = stored(left=300)
    if output is None:
        assert counter.vend(min_ttl=min_ttl) == stored(left=300)
        return
    with pytest.raises(NoLiveToken, match=output):
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
    assert counter.vend() == counter.vend() == token("deals")
    assert counter.faults == [fault]  # reported once: the store is not pestered meanwhile
    assert counter.store.reads == ["deals", "deals"]


def test_corrupt_parameter_is_reported_once_behind_a_remembered_live_token(
    counter: Counter,
) -> None:
    counter.vend()
    counter.store.faults["deals"] = CorruptStoredToken("no token")
    counter.clock.wind(60)
    assert counter.vend() == counter.vend() == token("deals")
    (fault,) = counter.faults
    assert isinstance(fault, CorruptStoredToken)
    assert str(fault) == "the parameter contains no stored token"


def test_corrupt_parameter_is_read_once_a_second_and_does_not_hide_the_other_grants(
    counter: Counter,
) -> None:
    counter.store.faults["deals"] = CorruptStoredToken("no token")
    for _ in range(3):
        with pytest.raises(CorruptStoredToken):
            counter.vend()
    assert counter.store.reads == ["deals"]
    states = {status.name: status.state for status in counter.vendor.statuses(ALICE)}
    assert states == {"deals": GrantState.EXPIRED, "users": GrantState.LIVE}
    del counter.store.faults["deals"]
    counter.clock.wind(1)
    assert counter.vend() == token("deals")


@pytest.mark.parametrize("fault", [CorruptStoredToken("no token"), RuntimeError("no store")])
def test_failed_read_without_a_live_token_to_fall_back_on_is_a_fault(
    counter: Counter, fault: Exception
) -> None:
    counter.store.faults["deals"] = fault
    with pytest.raises(type(fault)):
        counter.vend()
    del counter.store.faults["deals"]
    counter.store.tokens["deals"] = stored(left=100)
    counter.clock.wind(1)
    counter.vend()
    counter.store.faults["deals"] = fault
    counter.clock.wind(99)
    with pytest.raises(type(fault)):
        counter.vend()
    assert counter.faults == []


def asked(grant: str = "deals", caller: str = ALICE, *, other_than: str) -> VendRequest:
    return VendRequest(grant=grant, caller_arn=caller, other_than=other_than)


def test_other_token_than_the_refused_one_is_looked_for_at_once(counter: Counter) -> None:
    refused = counter.vend().fingerprint
    counter.store.tokens["deals"] = stored("successor", left=7200)
    counter.clock.wind(1)
    request = asked(other_than=refused)
    assert counter.vendor.vend(request).token.access_token == "successor"


def test_rejected_token_is_not_vended_again_but_has_not_expired(counter: Counter) -> None:
    with pytest.raises(NoFittingToken, match=r"^there is no other live token yet$") as caught:
        counter.vendor.vend(asked(other_than=token("deals").fingerprint))
    assert caught.value.retry_after == RETRY_AFTER


@pytest.mark.parametrize(("left", "error"), [(-1, NoLiveToken), (10, NoFittingToken)])
def test_only_a_missing_or_expired_token_needs_a_refresh_run(
    counter: Counter, left: float, error: type[NoLiveToken]
) -> None:
    counter.store.tokens["deals"] = stored(left=left, age=60)
    with pytest.raises(NoLiveToken) as caught:
        counter.vend(min_ttl=60)
    assert type(caught.value) is error


AUDITED = Grant(scope=("read:deals",), callers=(f"{IAM}:role/etl-*",), mode="audit")


@pytest.mark.parametrize(
    ("caller", "is_only_audited"), [(ALICE, True), (f"{STS}:assumed-role/etl-1/s", False)]
)
def test_allow_list_in_audit_mode_admits_and_reports_the_caller(
    caller: str,
    is_only_audited: bool,  # noqa: FBT001
) -> None:
    vendor = Vendor(
        grants={"deals": AUDITED},
        store=FakeStore({"deals": stored()}),
        cache_window=seconds(60),
        refresh_ahead=seconds(600),
        on_read_fault=lambda _error: None,
        now=FakeClock(),
    )
    vended = vendor.vend(VendRequest(grant="deals", caller_arn=caller))
    assert (vended.grant, vended.is_only_audited) == ("deals", is_only_audited)
    assert [status.name for status in vendor.statuses(caller)] == ["deals"]
    if is_only_audited:
        with pytest.raises(InvalidScope):  # here the lock is always enforced
            vendor.grant_of_scope(frozenset(AUDITED.scope), caller)


@pytest.mark.parametrize(
    ("scope", "caller", "grant"),
    [
        ({"read:users"}, ALICE, "users"),
        ({"read:users"}, f"{IAM}:user/mallory", None),
        ({"read:deals"}, ALICE, None),  # open to all whom IAM lets in, which cannot tell here
        ({"read:users", "read:deals"}, ALICE, None),
        ({""}, ALICE, None),
    ],
)
def test_scope_stands_for_the_grant_that_names_the_caller(
    counter: Counter, scope: set[str], caller: str, grant: str | None
) -> None:
    if grant:
        assert counter.vendor.grant_of_scope(frozenset(scope), caller) == grant
        return
    with pytest.raises(InvalidScope):
        counter.vendor.grant_of_scope(frozenset(scope), caller)


@pytest.mark.parametrize(
    ("left", "state", "shown"),
    [
        (601, GrantState.LIVE, 601),
        (600, GrantState.RENEWING, 600),
        (0.5, GrantState.RENEWING, 0),
        (0, GrantState.EXPIRED, 0),
        (-60, GrantState.EXPIRED, 0),
    ],
)
def test_status_says_what_a_grant_is_good_for(
    counter: Counter, left: float, state: GrantState, shown: int
) -> None:
    counter.store.tokens["deals"] = stored(left=left, age=3000)
    assert counter.vendor.statuses(f"{IAM}:user/mallory") == [
        GrantStatus(name="deals", scope=("read:deals",), state=state, seconds_left=shown)
    ]
    assert [status.name for status in counter.vendor.statuses(ALICE)] == ["deals", "users"]


def test_grant_without_a_token_has_expired(counter: Counter) -> None:
    counter.store.tokens.clear()
    statuses = counter.vendor.statuses(ALICE)
    assert {(status.state, status.seconds_left) for status in statuses} == {(GrantState.EXPIRED, 0)}


def test_report_of_the_current_token_asks_for_a_renewal(counter: Counter) -> None:
    counter.store.tokens["deals"] = stored("deals", age=60)
    assert counter.vendor.report_rejection(asked(other_than=token("deals").fingerprint))


def test_report_of_a_token_that_is_gone_asks_for_none(counter: Counter) -> None:
    assert not counter.vendor.report_rejection(asked(other_than="0123456789ab"))


@pytest.mark.parametrize("tokens", [{}, {"deals": stored("deals", left=-1, age=60)}])
def test_report_without_a_live_token_asks_for_a_renewal(
    counter: Counter, tokens: dict[str, StoredToken]
) -> None:
    counter.store.tokens = tokens
    assert counter.vendor.report_rejection(asked(other_than="0123456789ab"))


def test_report_of_a_new_token_must_wait(counter: Counter) -> None:
    counter.store.tokens["deals"] = stored("deals", age=20)
    with pytest.raises(RejectionTooSoon) as caught:
        counter.vendor.report_rejection(asked(other_than=token("deals").fingerprint))
    assert caught.value.retry_after == seconds(40)


@pytest.mark.parametrize("fault", [GrantBlocked("leaked"), CorruptStoredToken("no token")])
def test_report_of_a_grant_without_a_token_to_renew_is_refused(
    counter: Counter, fault: BrokerError
) -> None:
    counter.store.faults["deals"] = fault
    with pytest.raises(type(fault)):
        counter.vendor.report_rejection(asked(other_than="0123456789ab"))


def test_report_passes_the_same_locks(counter: Counter) -> None:
    with pytest.raises(CallerNotAllowed):
        counter.vendor.report_rejection(asked("users", f"{IAM}:user/x", other_than="0" * 12))
    with pytest.raises(UnknownGrant):
        counter.vendor.report_rejection(asked("invoices", other_than="0" * 12))


def test_block_ends_vending_within_the_cache_window_and_is_not_made_up_for(
    counter: Counter,
) -> None:
    assert counter.vend()
    counter.store.faults["deals"] = GrantBlocked("leaked on a screen")
    assert counter.vend()  # remembered
    counter.clock.wind(60)
    for _ in range(3):
        with pytest.raises(GrantBlocked):
            counter.vend()
    assert counter.store.reads == ["deals", "deals"]
    assert counter.vendor.statuses(ALICE)[0] == GrantStatus(
        name="deals", scope=("read:deals",), state=GrantState.BLOCKED, seconds_left=0
    )
    del counter.store.faults["deals"]
    counter.clock.wind(1)
    assert counter.vend()


def test_report_is_judged_by_the_store_and_not_by_what_is_remembered(counter: Counter) -> None:
    counter.vend()  # an older token than the one that is reported
    counter.store.tokens["deals"] = successor = stored("newer", age=120)
    counter.clock.wind(2)
    assert counter.vendor.report_rejection(asked(other_than=successor.fingerprint))


HALF_AN_HOUR = 1800


@pytest.mark.parametrize("correction", [-3600, -HALF_AN_HOUR, -1, 0])
def test_block_takes_effect_within_the_window_after_the_clock_is_corrected(
    counter: Counter, correction: float
) -> None:
    counter.vend()
    counter.store.faults["deals"] = GrantBlocked("leaked on a screen")
    counter.clock.set_by(correction)
    counter.clock.wind(60)
    with pytest.raises(GrantBlocked):
        counter.vend()


def test_live_token_is_found_at_once_after_the_clock_is_corrected(counter: Counter) -> None:
    counter.clock.set_by(2 * HALF_AN_HOUR)
    counter.store.tokens["deals"] = stored("expired by the fast clock", left=60)
    with pytest.raises(NoLiveToken):
        counter.vend(min_ttl=600)
    counter.store.tokens["deals"] = token("deals")
    counter.clock.set_by(-2 * HALF_AN_HOUR)
    assert counter.vend(min_ttl=600) == token("deals")


def test_window_that_ended_by_one_clock_has_ended(counter: Counter) -> None:
    counter.vend()
    counter.clock.wind(60)
    counter.clock.set_by(-59)  # by the wall clock a second has passed
    counter.vend()
    counter.clock.set_by(60)  # an environment was frozen: by the monotonic clock no time passed
    counter.vend()
    assert counter.store.reads == ["deals"] * 3


def test_report_is_judged_by_the_store_after_the_clock_is_corrected(counter: Counter) -> None:
    counter.vend()
    counter.store.tokens["deals"] = successor = stored("newer", age=4000)
    counter.clock.set_by(-HALF_AN_HOUR)
    assert counter.vendor.report_rejection(asked(other_than=successor.fingerprint))


def test_token_that_was_issued_by_a_fast_clock_can_be_reported(counter: Counter) -> None:
    counter.store.tokens["deals"] = token("deals", age=-HALF_AN_HOUR, left=5400)
    assert counter.vendor.report_rejection(asked(other_than=token("deals").fingerprint))


def throttle(counter: Counter) -> None:
    counter.store.faults["deals"] = RuntimeError("throttled")


def test_throttled_vend_reads_once_more_after_a_wait(counter: Counter) -> None:
    throttle(counter)
    with pytest.raises(RuntimeError, match="throttled"):
        counter.vend()
    assert (counter.waits, counter.store.reads) == ([3], ["deals"] * 2)
    assert counter.vend() == token("deals")  # the fault ends during the second wait
    assert (counter.waits, counter.store.reads) == ([3, 3], ["deals"] * 4)


def test_vend_that_fails_for_another_cause_does_not_wait(counter: Counter) -> None:
    counter.store.faults["deals"] = RuntimeError("denied")
    with pytest.raises(RuntimeError, match="denied"):
        counter.vend()
    assert counter.waits == []


def test_remembered_token_is_vended_without_a_wait_while_reads_are_throttled(
    counter: Counter,
) -> None:
    counter.vend()
    throttle(counter)
    counter.clock.wind(61)
    assert counter.vend() == token("deals")
    assert (counter.waits, len(counter.faults)) == ([], 1)


def test_listing_and_report_have_no_second_chance(counter: Counter) -> None:
    throttle(counter)
    report = VendRequest(grant="deals", caller_arn=ALICE, other_than="0123456789ab")
    with pytest.raises(RuntimeError, match="throttled"):
        counter.vendor.statuses(ALICE)
    with pytest.raises(RuntimeError, match="throttled"):
        counter.vendor.report_rejection(report)
    assert counter.waits == []
