"""Properties of when a token is due and when it ends, for all clocks and responses.

`skew` is how far Enable's clock is ahead of ours, in seconds: what only their difference
shows, so that it stands for a wrong clock on either side.
"""

from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tests.unit.fakes import (
    NOW,
    Broker,
    FakeClock,
    FakeSsm,
    FakeStore,
    jwt,
    rejection,
    response,
    seconds,
    stored,
)
from token_broker.errors import InvalidTokenResponse, NoLiveToken
from token_broker.expiry import MAX_LIFETIME, is_due
from token_broker.grants import Grant
from token_broker.token_store import ParameterTokenStore
from token_refresher.connection_backoffs import CONNECTION_REJECTIONS
from token_refresher.enable.acceptance import MIN_LIFETIME, accept
from token_refresher.enable.models import Issued, TokenResponse
from token_refresher.policy import Replaces
from token_vendor.vend import Vendor, VendRequest

if TYPE_CHECKING:
    from types_boto3_ssm import SSMClient

    from token_broker.models import StoredToken

MINUTE = 60
SKEW = 600
EARLIER = Replaces.EARLIER.is_restored
DEALS = {"deals": Grant(scope=("read:deals",))}

lifetimes = st.integers(1, 400_000)
skews = st.integers(-SKEW, SKEW)
usual_lifetimes = st.integers(15 * MINUTE, 86_400)
"""Enable's is 15 minutes; two ticks longer than the largest skew, a token outlives its renewal."""
latencies = st.floats(0, 40)
kinds = st.sampled_from(["opaque", "jwt", "jwt alone"])


def reply(kind: str, lifetime: int, enables_now: datetime) -> TokenResponse:
    """What Enable gives by its own clock: what ends in how long, and a JWT that says when."""
    iat = int(enables_now.timestamp())
    token = "opaque" if kind == "opaque" else jwt(iat=iat, exp=iat + lifetime)
    return TokenResponse(
        access_token=token,
        token_type="Bearer",
        expires_in=None if kind == "jwt alone" else lifetime,
    )


# ── When a token ends ────────────────────────────────────────────────────────────────────────────


@given(kinds, lifetimes, skews, latencies, st.floats(0, 1))
def test_stored_token_ends_no_later_than_any_end_that_was_named(
    kind: str, lifetime: int, skew: int, latency: float, fraction: float
) -> None:
    requested_at = NOW + seconds(fraction)
    response = reply(kind, lifetime, requested_at + seconds(latency + skew))
    now = requested_at + seconds(latency)
    issued = Issued(response=response, requested_at=requested_at, attempts=1)
    try:
        token = accept(issued, scope=("a",), now=now)
    except InvalidTokenResponse as error:
        assert error.reason == "expired"  # noqa: PT017 - it may as well be accepted
        return
    if kind != "jwt alone":
        assert token.expires_at <= requested_at + seconds(lifetime)
    if kind != "opaque":
        assert token.expires_at <= now + seconds(skew + lifetime)  # its exp
    assert token.expires_at <= requested_at + MAX_LIFETIME
    assert token.expires_at - now > MIN_LIFETIME
    assert token.issued_at <= requested_at
    assert token.expires_at.microsecond == token.issued_at.microsecond == 0


@given(st.sampled_from(["opaque", "jwt"]), lifetimes, skews, latencies)
def test_wrong_clock_never_makes_a_token_outlive_its_true_end(
    kind: str, lifetime: int, skew: int, latency: float
) -> None:
    """By `expires_in`, a duration, which no clock can be wrong about."""
    issued_in_truth = NOW + seconds(latency)
    response = reply(kind, lifetime, issued_in_truth + seconds(skew))
    issued = Issued(response=response, requested_at=NOW, attempts=1)
    try:
        token = accept(issued, scope=("a",), now=issued_in_truth)
    except InvalidTokenResponse:
        return
    assert token.expires_at <= issued_in_truth + seconds(lifetime)


@given(lifetimes, skews, latencies)
def test_wrong_clock_never_makes_a_token_that_only_its_exp_ends_outlive_its_true_end(
    lifetime: int, skew: int, latency: float
) -> None:
    """By `iat` and `exp`, whose difference no clock can be wrong about either."""
    issued_in_truth = NOW + seconds(latency)
    response = reply("jwt alone", lifetime, issued_in_truth + seconds(skew))
    issued = Issued(response=response, requested_at=NOW, attempts=1)
    try:
        token = accept(issued, scope=("a",), now=issued_in_truth)
    except InvalidTokenResponse:
        return
    assert token.expires_at <= issued_in_truth + seconds(lifetime)


@given(
    st.integers(1, 3600),
    st.integers(0, 300),
    st.lists(st.floats(0, 600), min_size=1, max_size=12),
    st.booleans(),
)
def test_token_is_never_vended_past_its_end(
    left: int,
    window: int,
    waits: list[float],
    is_readable: bool,  # noqa: FBT001
) -> None:
    clock, store = FakeClock(), FakeStore({"deals": stored(left=left)})
    vendor = Vendor(
        grants=DEALS,
        store=store,
        cache_window=seconds(window),
        refresh_ahead=seconds(600),
        on_read_fault=lambda _error: None,
        now=clock,
        monotonic=clock.monotonic,
    )
    for wait in waits:
        try:
            token = vendor.vend(VendRequest(grant="deals", caller_arn="any")).token
        except NoLiveToken:
            assert clock() >= NOW + seconds(left)
        except RuntimeError:
            assert not is_readable
        else:
            assert clock() < token.expires_at
        if not is_readable:
            store.faults["deals"] = RuntimeError("no store")
        clock.wind(wait)


# ── When a token is due ──────────────────────────────────────────────────────────────────────────


@given(st.integers(2, 86_400), st.integers(-3600, 86_400), st.integers(30, 43_200))
def test_token_is_due_once_no_more_than_its_window_is_left(
    lifetime: int, left: int, ahead: int
) -> None:
    due = is_due(
        issued_at=NOW + seconds(left - lifetime),
        expires_at=NOW + seconds(left),
        now=NOW,
        refresh_ahead=seconds(ahead),
    )
    assert due is (left <= min(ahead, lifetime / 2))


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 86_400), st.integers(1, 86_400), st.integers(30, 43_200))
def test_run_asks_for_what_is_due_and_for_nothing_else(
    lifetime: int, left: int, ahead: int
) -> None:
    assume(left <= lifetime)
    broker = Broker(grants=DEALS, refresh_ahead=seconds(ahead))
    broker.store.tokens["deals"] = stored(left=left, age=lifetime - left)
    broker.run()
    assert bool(broker.endpoint.requests) is (left <= min(ahead, lifetime / 2))


@settings(deadline=None, max_examples=40)
@given(kinds, usual_lifetimes, skews, st.floats(0, 10), st.integers(30, 43_200))
@example("jwt", 15 * MINUTE, -SKEW, 0.0, 600)
@example("jwt", 15 * MINUTE, SKEW, 0.0, 600)
@example("jwt alone", 15 * MINUTE, -SKEW, 10.0, 600)
def test_wrong_clock_renews_neither_on_every_tick_nor_too_late(
    kind: str, lifetime: int, skew: int, latency: float, ahead: int
) -> None:
    broker = Broker(grants=DEALS, refresh_ahead=seconds(ahead))
    broker.store.tokens.clear()

    def respond(_request: object) -> None:
        broker.clock.wind(latency)
        enables_now = broker.clock() + seconds(skew)
        broker.endpoint.responses["read:deals"] = reply(kind, lifetime, enables_now)

    broker.endpoint.on_request = respond
    renewed_at = []
    for minute in range(30):
        broker.clock.time = NOW + seconds(minute * MINUTE)
        [outcome] = broker.run().values()
        if outcome.state == "renewed":
            renewed_at.append(minute)
        else:
            assert outcome.state == "not_due"
        assert broker.store.tokens["deals"].is_live(broker.clock())
    assert renewed_at[0] == 0
    for before, after in pairwise(renewed_at):
        assert after - before > 1


@settings(deadline=None, max_examples=25)
@given(st.integers(1, SKEW + 5), st.data())
def test_token_that_a_wrong_clock_makes_look_expired_is_refused_and_not_asked_for_on_every_tick(
    lifetime: int, data: st.DataObject
) -> None:
    skew = data.draw(st.integers(-SKEW, int(MIN_LIFETIME.total_seconds()) - lifetime))
    broker = Broker(grants=DEALS)
    broker.store.tokens.clear()
    asked_at: list[datetime] = []

    def respond(_request: object) -> None:
        asked_at.append(broker.clock())
        enables_now = broker.clock() + seconds(skew)
        broker.endpoint.responses["read:deals"] = reply("jwt", lifetime, enables_now)

    broker.endpoint.on_request = respond
    for _ in range(20):
        assert {outcome.reason for outcome in broker.run().values()} == {"expired"}
        broker.clock.wind(MINUTE)
    assert broker.store.tokens == {}
    assert len(asked_at) == 5


# ── Never worse ──────────────────────────────────────────────────────────────────────────────────

left_seconds = st.integers(6, 4000)


@given(st.none() | left_seconds, left_seconds)
def test_run_never_leaves_a_token_that_ends_sooner_than_the_one_that_was_there(
    before: int | None, responded: int
) -> None:
    broker = Broker(grants=DEALS)
    broker.store.tokens.clear()
    if before is not None:
        broker.store.tokens["deals"] = stored("before", left=before, age=9000)
    broker.endpoint.responses["read:deals"] = response("new", responded)
    [outcome] = broker.run().values()
    after = broker.store.tokens["deals"]
    if before is not None:
        assert after.expires_at >= NOW + seconds(before)
    assert (outcome.fingerprint, outcome.expires_at) == (after.fingerprint, after.expires_at)


@given(
    st.none() | left_seconds,
    st.lists(left_seconds, min_size=1, max_size=3),
    st.permutations(range(3)),
    st.data(),
)
def test_overlapping_runs_leave_the_token_that_ends_last(
    before: int | None, lefts: list[int], order: list[int], data: st.DataObject
) -> None:
    """Each run reads, and some time later replaces; two of them at most overlap."""
    store = ParameterTokenStore(cast("SSMClient", FakeSsm()), prefix="/p", key_id="key")
    if before is not None:
        store.write("deals", stored("before", left=before))
    runs = {number: stored(f"run-{number}", left=left) for number, left in enumerate(lefts)}
    ends = [] if before is None else [NOW + seconds(before)]
    waiting: tuple[StoredToken, StoredToken | None] | None = None
    for number in [n for n in order if n in runs]:
        token, found = runs[number], store.read("deals")
        if waiting:
            store.replace("deals", waiting[0], seen=waiting[1], is_restored=EARLIER)
            waiting = None
        if found and found.expires_at >= token.expires_at:
            continue  # a run that finds a later token has nothing to replace
        ends.append(token.expires_at)
        if data.draw(st.booleans()):
            waiting = (token, found)
        else:
            store.replace("deals", token, seen=found, is_restored=EARLIER)
    if waiting:
        store.replace("deals", waiting[0], seen=waiting[1], is_restored=EARLIER)
    after = store.read("deals")
    assert after is not None
    assert after.expires_at == max(ends)


# ── Refusals ─────────────────────────────────────────────────────────────────────────────────────


REFUSALS = [
    *map(rejection, [*sorted(CONNECTION_REJECTIONS), "invalid_scope", "unknown_error", "http_404"]),
    InvalidTokenResponse("nonsense", reason="invalid_response"),
    response(scope="read:nothing"),
    response(expires_in=1),
]


@pytest.mark.parametrize("refusal", REFUSALS)
@settings(deadline=None, max_examples=2)
@given(number=st.integers(1, 4), tick=st.integers(40, 120))
def test_refused_request_is_repeated_by_the_first_run_after_its_widening_backoff(
    refusal: TokenResponse | Exception, number: int, tick: int
) -> None:
    """How long each backoff is: test_backoff.py."""
    broker = Broker(grants={f"g{n}": Grant(scope=(f"read:{n}",)) for n in range(number)})
    broker.store.tokens.clear()
    broker.endpoint.responses |= {f"read:{n}": refusal for n in range(number)}
    per_attempt = 1 if getattr(refusal, "reason", "") in CONNECTION_REJECTIONS else number
    retry_at, waits = NOW, []
    for _ in range(20):
        before = len(broker.endpoint.requests)
        outcomes = broker.run().values()
        is_over = broker.clock() >= retry_at
        assert len(broker.endpoint.requests) - before == per_attempt * is_over
        [retry_at] = {outcome.retry_at or NOW for outcome in outcomes}
        waits += [retry_at - broker.clock()] * is_over
        broker.clock.wind(tick)
    assert len(waits) > 3
    assert waits == sorted(set(waits))


@settings(deadline=None, max_examples=30)
@given(st.integers(121, 599), st.sampled_from(["invalid_client", "invalid_scope"]))
def test_refused_token_is_not_let_go_without_a_last_try(left: int, reason: str) -> None:
    broker = Broker(grants=DEALS)
    broker.store.tokens["deals"] = stored(left=left, age=9000)
    broker.endpoint.responses["read:deals"] = rejection(reason)
    asked_at: list[datetime] = []
    broker.endpoint.on_request = lambda _request: asked_at.append(broker.clock())
    for _ in range(12):
        broker.run()
        broker.clock.wind(MINUTE)
    assert any(seconds(0) < NOW + seconds(left) - at <= seconds(120) for at in asked_at)
