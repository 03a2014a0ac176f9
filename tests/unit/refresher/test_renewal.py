"""Renewing: one response at a time is judged, nothing is ever worse for it, nobody is pestered."""

import itertools
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.unit.fakes import (
    CREDENTIALS,
    NOW,
    SECRET,
    SECRET_PREFIX,
    Broker,
    client_error,
    everyone_at_once,
    rejection,
    response,
    seconds,
    states,
    stored,
)
from token_broker.errors import (
    ConfigurationError,
    GrantBlocked,
    InvalidTokenResponse,
    TokenEndpointUnavailable,
)
from token_broker.grants import Grant
from token_refresher.backoff import Backoff
from token_refresher.connection_backoffs import CONNECTION_REJECTIONS
from token_refresher.connection_state import ConnectionState
from token_refresher.enable.models import TokenResponse
from token_refresher.outcomes import State, causes_of_failure
from token_refresher.refresh_request import RefreshRequest

FORCED = RefreshRequest(force=True)
CHANGED = RefreshRequest(changed_secret=SECRET_PREFIX + "default")
DEALS = RefreshRequest(grants=("deals",))
MINUTE = 60


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def empty() -> Broker:
    """A broker without a token: every grant is due."""
    broker = Broker()
    broker.store.tokens.clear()
    return broker


def busy(retry_after: float | None) -> TokenEndpointUnavailable:
    return TokenEndpointUnavailable(
        "the token endpoint returned HTTP 429",
        reason="http_429",
        retry_after=None if retry_after is None else seconds(retry_after),
    )


# ── Never worse ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("expires_in", "state"), [(300, "unchanged"), (301, "renewed")])
def test_stored_token_is_replaced_only_by_one_that_ends_later(
    broker: Broker, expires_in: int, state: str
) -> None:
    old = broker.store.tokens["deals"] = stored("old", left=300, age=3000)
    broker.endpoint.responses["read:deals"] = response(expires_in=expires_in)
    outcome = broker.run()["deals"]
    assert outcome.state == state
    assert (broker.store.tokens["deals"] == old) is (state == "unchanged")
    assert outcome.expires_at == NOW + seconds(expires_in)
    assert outcome.fingerprint == broker.store.tokens["deals"].fingerprint
    assert outcome.attempts == 1
    assert broker.store.replaced == ({"deals": old} if state == "renewed" else {})


def test_force_takes_even_a_token_that_ends_sooner(broker: Broker) -> None:
    broker.endpoint.responses["read:deals"] = response(expires_in=60)
    assert broker.run(FORCED)["deals"].state is State.RENEWED
    assert broker.store.tokens["deals"].expires_at == NOW + seconds(60)


def test_force_takes_even_a_token_that_ends_sooner_than_that_of_an_overlapping_run(
    broker: Broker,
) -> None:
    broker.store.meanwhile["deals"] = stored("of the other run", left=3601)
    assert broker.run(FORCED)["deals"].state is State.RENEWED
    assert broker.store.tokens["deals"].access_token == "new-token-for-read:deals"


@pytest.mark.parametrize(("responded", "state"), [("other", "renewed"), ("deals", "unchanged")])
def test_token_that_enable_refuses_gives_way_to_any_other(
    broker: Broker, responded: str, state: str
) -> None:
    request = RefreshRequest(grants=("deals",), rejected=stored("deals").fingerprint)
    broker.endpoint.responses["read:deals"] = response(responded, 60)
    assert states(broker.run(request)) == {"deals": state}
    assert broker.store.tokens["deals"].access_token == responded


def test_later_token_of_an_overlapping_run_is_what_is_told(empty: Broker) -> None:
    other = empty.store.meanwhile["deals"] = stored("of the other run", left=3601)
    outcome = empty.run()["deals"]
    assert (outcome.state, outcome.fingerprint) == (State.UNCHANGED, other.fingerprint)
    assert outcome.expires_at == other.expires_at


@pytest.mark.parametrize("request_", [RefreshRequest(), FORCED])
def test_grant_that_is_blocked_while_it_is_renewed_is_no_failure(
    empty: Broker, request_: RefreshRequest
) -> None:
    empty.store.blocked_meanwhile["deals"] = GrantBlocked("leaked on a screen")
    outcome = empty.run(request_)["deals"]
    assert (outcome.state, outcome.reason, outcome.cause, outcome.attempts) == (
        State.BLOCKED,
        "blocked",
        "leaked on a screen",
        1,
    )
    assert not outcome.is_store_read
    assert (outcome.fingerprint, outcome.renew_reason) == ("", None)
    assert empty.store.tokens.keys() == {"activity", "users"}


def test_token_that_a_block_has_replaced_meanwhile_is_not_told_as_stored(broker: Broker) -> None:
    broker.store.blocked_meanwhile["deals"] = GrantBlocked("leaked on a screen")
    outcome = broker.run(FORCED)["deals"]
    assert outcome.state is State.BLOCKED
    assert (outcome.fingerprint, outcome.expires_at, outcome.secret_version) == ("", None, "")


@pytest.mark.parametrize(
    ("fault", "reason", "attempts"),
    [
        (busy(None), "http_429", 4),
        (InvalidTokenResponse("nonsense", reason="invalid_response"), "invalid_response", 1),
        (rejection("invalid_scope"), "invalid_scope", 1),
        (client_error("Throttling", "X"), "Throttling", 0),
        (RuntimeError(SECRET), "InternalError", 0),
    ],
)
def test_failure_of_one_grant_spares_the_others_and_its_stored_token(
    broker: Broker, fault: Exception, reason: str, attempts: int
) -> None:
    old = broker.store.tokens["deals"] = stored("old", left=60, age=3000)
    del broker.store.tokens["users"]
    broker.endpoint.responses["read:deals"] = fault
    outcomes = broker.run()
    assert states(outcomes) == {"deals": "failed", "activity": "not_due", "users": "renewed"}
    assert broker.store.tokens["deals"] == old
    failed = outcomes["deals"]
    assert (failed.reason, failed.attempts) == (reason, attempts)
    assert (failed.expires_at, failed.fingerprint) == (old.expires_at, old.fingerprint)
    assert list(causes_of_failure(outcomes.values())) == ["deals"]


def test_token_that_cannot_be_written_is_a_failure(broker: Broker) -> None:
    broker.store.unwritable["deals"] = client_error("AccessDeniedException", "PutParameter")
    outcomes = broker.run(FORCED)
    assert states(outcomes) == {"deals": "failed", "activity": "renewed", "users": "renewed"}
    outcome = outcomes["deals"]
    assert outcome.reason == "AccessDeniedException"
    assert outcome.fingerprint == stored("deals").fingerprint  # what is stored still


def test_unreadable_secret_fails_what_is_due_and_nothing_else(broker: Broker) -> None:
    broker.store.tokens["deals"] = stored("old", left=60, age=3000)
    del broker.store.tokens["users"]
    unfilled = ConfigurationError("the secret has not been filled in yet")
    broker.secrets.stored["default", "AWSCURRENT"] = unfilled
    outcomes = broker.run()
    assert states(outcomes) == {"deals": "failed", "activity": "not_due", "users": "failed"}
    assert outcomes["users"].cause == "the secret has not been filled in yet"
    assert outcomes["deals"].expires_at == NOW + seconds(60)
    assert (len(broker.secrets.reads), broker.endpoint.requests) == (1, [])


# ── What is reported ──────────────────────────────────────────────────────────────────────────────


def test_request_carries_the_credentials_and_the_scope(empty: Broker) -> None:
    empty.run(DEALS)
    [request] = empty.endpoint.requests
    assert (request.client_id, request.client_secret) == (CREDENTIALS.client_id, SECRET)
    assert request.scope == ("read:deals",)


def test_attempts_of_a_success_are_those_that_it_took(empty: Broker) -> None:
    empty.endpoint.failures = 2
    assert {outcome.attempts for outcome in empty.run().values()} == {3}


def test_attempts_of_an_answer_that_is_refused_are_those_that_it_took(empty: Broker) -> None:
    empty.endpoint.failures = 1
    empty.endpoint.responses["read:users"] = response(scope="read:deals")
    assert empty.run()["users"].attempts == 2


def test_attempts_of_a_token_that_cannot_be_stored_are_those_that_it_took(empty: Broker) -> None:
    empty.endpoint.failures = 1
    empty.store.unwritable["deals"] = client_error("InternalServerError", "PutParameter")
    assert empty.run(DEALS)["deals"].attempts == 2


def test_life_is_counted_from_before_the_request(empty: Broker) -> None:
    empty.endpoint.on_request = lambda _request: empty.clock.wind(7)
    empty.run(DEALS)
    token = empty.store.tokens["deals"]
    assert (token.issued_at, token.expires_at) == (NOW, NOW + seconds(3600))


# ── Many grants, little time ─────────────────────────────────────────────────────────────────────


def test_most_urgent_grant_comes_first() -> None:
    broker = Broker(parallelism=1)
    broker.store.tokens["deals"] = stored("a", left=500, age=9000)
    broker.store.tokens["activity"] = stored("b", left=20, age=9000, scope=("read:activity",))
    del broker.store.tokens["users"]
    broker.run()
    assert broker.endpoint.scopes == ["read:users", "read:activity", "read:deals"]


def test_what_no_time_is_left_for_is_deferred_and_not_failed() -> None:
    broker = Broker(parallelism=1)
    for name, left in {"deals": 30, "activity": 10, "users": 20}.items():
        broker.store.tokens[name] = stored(name, left=left, age=9000, scope=(f"read:{name}",))
    before = broker.store.tokens["deals"]
    broker.endpoint.on_request = lambda _request: broker.clock.wind(3)
    outcomes = broker.run(time=18)
    assert states(outcomes) == {"deals": "deferred", "activity": "renewed", "users": "renewed"}
    assert causes_of_failure(outcomes.values()) == {}
    assert (broker.store.tokens["deals"], outcomes["deals"].attempts) == (before, 0)
    assert outcomes["deals"].fingerprint == before.fingerprint
    assert states(broker.run())["deals"] == "renewed"
    assert broker.endpoint.scopes[-1] == "read:deals"


@pytest.mark.parametrize(("time", "state"), [(14.9, "deferred"), (15, "renewed")])
def test_renewal_is_not_begun_without_time_for_it(empty: Broker, time: float, state: str) -> None:
    assert set(states(empty.run(time=time)).values()) == {state}


def test_all_but_the_first_are_renewed_in_parallel_and_bounded() -> None:
    grants = {name: Grant(scope=(name,)) for name in "abcdefg"}
    broker = Broker(grants=grants, parallelism=3)
    broker.store.tokens.clear()
    meet = everyone_at_once(3)
    at_work: list[str] = []
    is_fourth = threading.Event()

    def work(request: Any) -> None:
        if len(broker.endpoint.requests) == 1:
            return
        at_work.append(request.scope)
        if len(at_work) > 3:
            is_fourth.set()
        meet()
        is_fourth.wait(0.1)  # long enough for it to begin
        at_work.remove(request.scope)

    broker.endpoint.on_request = work
    assert set(states(broker.run()).values()) == {"renewed"}
    assert not is_fourth.is_set()


def test_grant_that_hangs_delays_none_that_runs_beside_it(empty: Broker) -> None:
    others_are_stored = threading.Event()

    def hang(request: Any) -> None:
        if request.scope == ("read:activity",):
            assert others_are_stored.wait(timeout=10)

    empty.endpoint.on_request = hang
    empty.store.on_write = lambda grant: others_are_stored.set() if grant == "users" else None
    assert set(states(empty.run()).values()) == {"renewed"}


# ── Refusals: no storm, no lock-out ──────────────────────────────────────────────────────────────


@pytest.mark.parametrize("reason", sorted(CONNECTION_REJECTIONS))
@pytest.mark.parametrize("number", [1, 3, 200])
def test_rejected_connection_costs_one_request_whatever_the_number_of_grants(
    reason: str, number: int
) -> None:
    broker = Broker(grants={f"g{n}": Grant(scope=(f"read:{n}",)) for n in range(number)})
    broker.store.tokens.clear()
    broker.endpoint.refused_secrets[SECRET] = reason
    outcomes = broker.run()
    assert len(broker.endpoint.requests) == 1
    assert set(states(outcomes).values()) == {"failed"}
    assert {(o.reason, o.cause) for o in outcomes.values()} == {
        (reason, f"the token endpoint returned {reason}")
    }
    assert [outcome.attempts for outcome in outcomes.values()] == [1] + [0] * (number - 1)
    assert {outcome.retry_at for outcome in outcomes.values()} == {NOW + seconds(55)}
    assert {outcome.secret_version for outcome in outcomes.values()} == {""}
    assert broker.states.now().grants == {}  # no grant was refused for itself


def test_rejected_connection_waits_for_at_most_half_of_what_is_left_of_a_token(
    broker: Broker,
) -> None:
    broker.store.tokens["deals"] = stored("old", left=300, age=3001)
    broker.endpoint.refused_secrets[SECRET] = "invalid_client"
    request = RefreshRequest(force=True, grants=("deals",))
    waits = [broker.run(request)["deals"].retry_at for _ in range(4)]
    assert waits == [NOW + seconds(length) for length in (55, 110, 150, 150)]


def minutes_of_requests(broker: Broker, scope: str = "", *, until: int = 61) -> list[int]:
    """A run each minute: in which of them was Enable asked?"""
    asked = []
    for minute in range(until):
        before = len(broker.endpoint.scopes)
        broker.run()
        if any(scope in one for one in broker.endpoint.scopes[before:]):
            asked.append(minute)
        broker.clock.wind(MINUTE)
    return asked


def test_grant_that_waits_is_overdue_and_says_until_when_and_why(empty: Broker) -> None:
    empty.endpoint.responses["read:deals"] = rejection("invalid_scope")
    first = empty.run(DEALS)["deals"]
    assert (first.state, first.retry_at) == (State.FAILED, NOW + seconds(55))
    empty.clock.wind(54)
    waiting = empty.run(DEALS)["deals"]
    assert (waiting.state, waiting.reason) == (State.WAITING, "invalid_scope")
    assert (waiting.retry_at, waiting.attempts) == (first.retry_at, 0)
    assert waiting.cause == (
        "refused before (invalid_scope); asked again at 2025-03-01T12:00:55Z, "
        "or at once when the secret or grants.toml changes, or with force"
    )
    assert list(causes_of_failure([waiting])) == ["deals"]


def test_refused_grant_is_asked_for_more_densely_towards_its_tokens_end(broker: Broker) -> None:
    broker.store.tokens["deals"] = stored("old", left=599, age=3001)
    broker.endpoint.responses["read:deals"] = rejection("invalid_scope")
    assert minutes_of_requests(broker, "read:deals", until=25) == [0, 1, 3, 7, 9, 10]


@pytest.mark.parametrize("fault", [busy(None), RuntimeError("a bug")])
def test_transient_failure_causes_no_backoff(empty: Broker, fault: Exception) -> None:
    empty.endpoint.responses["read:deals"] = fault
    assert minutes_of_requests(empty, "read:deals", until=4) == [0, 1, 2, 3]
    assert (empty.states.backoff_of(), empty.states.backoff_of("deals")) == (None, None)


def put_another_secret(broker: Broker) -> RefreshRequest:
    broker.secrets.put("v2")
    return DEALS


def move_the_endpoint(broker: Broker) -> RefreshRequest:
    broker.endpoint.url = "https://other.example/oauth2/token"
    return DEALS


def change_the_scope(broker: Broker) -> RefreshRequest:
    broker.grants["deals"] = Grant(scope=("read:deals", "read:more"))
    return DEALS


def change_nothing(_broker: Broker) -> RefreshRequest:
    return DEALS


def change_the_callers(broker: Broker) -> RefreshRequest:
    broker.grants["deals"] = replace(
        broker.grants["deals"], callers=("arn:aws:iam::111122223333:role/x",)
    )
    return DEALS


@pytest.mark.parametrize(
    ("reason", "change", "is_lifted"),
    [
        ("invalid_scope", change_nothing, False),
        ("invalid_scope", change_the_callers, False),
        ("invalid_scope", put_another_secret, True),
        ("invalid_scope", move_the_endpoint, True),
        ("invalid_scope", change_the_scope, True),
        ("invalid_scope", lambda _broker: FORCED, True),
        ("invalid_scope", lambda _broker: CHANGED, True),
        ("invalid_client", change_nothing, False),
        ("invalid_client", put_another_secret, True),
        ("invalid_client", move_the_endpoint, True),
        ("invalid_client", lambda _broker: FORCED, True),
        ("invalid_client", lambda _broker: CHANGED, True),
    ],
)
def test_backoff_ends_at_once_with_a_change_of_what_was_refused(
    reason: str,
    change: Callable[[Broker], RefreshRequest],
    is_lifted: bool,  # noqa: FBT001
) -> None:
    broker = Broker(grants={"deals": Grant(scope=("read:deals",))})
    broker.store.tokens.clear()
    broker.endpoint.refused_secrets[SECRET] = reason
    assert minutes_of_requests(broker, until=9) == [0, 1, 3, 7]
    before = len(broker.endpoint.requests)
    broker.run(change(broker))
    assert len(broker.endpoint.requests) - before == (1 if is_lifted else 0)


def test_backoff_of_another_secret_is_short_at_first(empty: Broker) -> None:
    empty.endpoint.refused_secrets |= {SECRET: "invalid_client", "also bad": "invalid_client"}
    minutes_of_requests(empty, until=9)
    empty.secrets.put("v2", "also bad")
    assert empty.run()["deals"].retry_at == empty.clock() + seconds(55)


def test_force_does_not_make_the_next_refusal_count_from_one(empty: Broker) -> None:
    empty.endpoint.refused_secrets[SECRET] = "invalid_client"
    minutes_of_requests(empty, until=9)
    assert empty.run(FORCED)["deals"].retry_at == empty.clock() + seconds(55 * 16)


def test_success_forgets_the_refusals_before_it(empty: Broker) -> None:
    empty.endpoint.responses["read:deals"] = rejection("invalid_scope")
    minutes_of_requests(empty, until=3)
    assert empty.states.backoff_of("deals") is not None
    empty.clock.wind(MINUTE)
    empty.endpoint.responses.clear()
    assert set(states(empty.run()).values()) <= {"renewed", "not_due"}
    assert empty.states.backoff_of("deals") is None


def test_connection_that_is_known_again_serves_all_at_the_first_good_answer(empty: Broker) -> None:
    empty.endpoint.refused_secrets[SECRET] = "invalid_client"
    minutes_of_requests(empty, until=3)
    empty.endpoint.refused_secrets.clear()
    assert set(states(empty.run()).values()) == {"renewed"}
    assert empty.states.backoff_of() is None


@pytest.mark.parametrize(
    ("retry_after", "held"), [(0, 0), (120, 120), (900, 900), (901, 900), (86_400, 900)]
)
def test_retry_after_is_honoured_by_the_whole_connection_and_by_later_runs(
    empty: Broker, retry_after: float, held: float
) -> None:
    empty.endpoint.responses["read:deals"] = busy(retry_after)
    outcome = empty.run(DEALS)["deals"]
    assert (outcome.state, outcome.retry_at) == (State.FAILED, NOW + seconds(held))
    if held:
        empty.clock.wind(held - 1)
        outcomes = empty.run()
        assert set(states(outcomes).values()) == {"waiting"}
        assert {o.retry_at for o in outcomes.values()} == {NOW + seconds(held)}
        assert len(empty.endpoint.requests) == 1
        empty.clock.wind(1)
    empty.endpoint.responses.clear()
    assert set(states(empty.run()).values()) == {"renewed"}
    assert empty.states.backoff_of() is None


@pytest.mark.parametrize("reason", ["http_403", "invalid_grant"])
@pytest.mark.parametrize(("requested", "waited"), [(5.7, 55), (300.5, 300.5), (3600, 900)])
def test_retry_after_of_a_refusal_lengthens_the_backoff(
    empty: Broker, requested: float, waited: float, reason: str
) -> None:
    refusal = rejection(reason)
    refusal.retry_after = seconds(requested)
    empty.endpoint.responses["read:deals"] = refusal
    assert empty.run(DEALS)["deals"].retry_at == NOW + seconds(waited)
    empty.clock.wind(waited - 0.5)
    assert states(empty.run(DEALS)) == {"deals": "waiting"}
    empty.clock.wind(0.5)
    assert states(empty.run(DEALS)) == {"deals": "failed"}


def test_waits_between_the_attempts_of_a_run_double(empty: Broker) -> None:
    empty.jitter = 1
    empty.endpoint.responses["read:deals"] = busy(None)
    assert empty.run(DEALS)["deals"].attempts == 4
    assert empty.clock() - NOW == seconds(0.25 + 0.5 + 1)


@pytest.mark.parametrize(("wait", "attempts"), [(8, 2), (8.1, 1)])
def test_short_wait_that_enable_asked_for_is_waited_for_in_the_run(
    empty: Broker, wait: float, attempts: int
) -> None:
    def refuse_once(_request: Any) -> None:
        if len(empty.endpoint.requests) == 1:
            raise busy(wait)

    empty.endpoint.on_request = refuse_once
    outcome = empty.run(DEALS)["deals"]
    assert outcome.attempts == attempts
    assert empty.clock() == NOW + seconds(wait if attempts == 2 else 0)


def test_longest_of_the_waits_that_enable_asked_for_in_a_run_counts(empty: Broker) -> None:
    empty.monotonic = itertools.count(step=10).__next__  # each head start has passed
    meet = everyone_at_once(3)
    empty.endpoint.on_request = lambda _request: meet()
    waits = {"deals": 2.0, "activity": 120.0, "users": 1.0}
    empty.endpoint.responses |= {f"read:{name}": busy(wait) for name, wait in waits.items()}
    assert [outcome.attempts for outcome in empty.run().values()] == [1, 1, 1]
    empty.clock.wind(119)
    assert {outcome.retry_at for outcome in empty.run().values()} == {NOW + seconds(120)}


def test_cause_of_a_failure_is_the_endpoints(empty: Broker) -> None:
    empty.endpoint.responses["read:deals"] = rejection("invalid_scope")
    assert empty.run(DEALS)["deals"].cause == "the token endpoint returned invalid_scope"


def test_grants_without_a_response_are_remembered_until_they_get_one(empty: Broker) -> None:
    empty.endpoint.responses |= {"read:deals": busy(None), "read:users": busy(None)}
    empty.run()
    assert empty.states.now().unanswered == {"deals", "users"}
    del empty.endpoint.responses["read:deals"]
    empty.run()
    assert empty.states.now().unanswered == {"users"}
    empty.endpoint.requests.clear()
    empty.run(FORCED)
    assert empty.endpoint.scopes[0] == "read:deals"


def test_retry_after_of_the_first_grant_spares_enable_the_others(empty: Broker) -> None:
    empty.endpoint.responses["read:deals"] = busy(120)
    outcomes = empty.run()
    assert states(outcomes) == {"deals": "failed", "activity": "waiting", "users": "waiting"}
    assert [outcome.attempts for outcome in outcomes.values()] == [1, 0, 0]
    assert empty.endpoint.scopes == ["read:deals"]


def test_retry_after_of_a_later_grant_stops_those_not_yet_begun() -> None:
    broker = Broker(parallelism=1)
    broker.store.tokens.clear()
    broker.endpoint.responses["read:activity"] = busy(120)
    assert list(states(broker.run()).values()) == ["renewed", "failed", "waiting"]


def test_wait_that_enable_asked_for_is_ended_by_force_but_not_by_another_secret(
    empty: Broker,
) -> None:
    empty.endpoint.responses["read:deals"] = busy(600)
    empty.run(DEALS)
    empty.secrets.put("v2")
    assert set(states(empty.run()).values()) == {"waiting"}
    empty.endpoint.responses.clear()
    assert set(states(empty.run(FORCED)).values()) == {"renewed"}


def test_forced_run_does_not_wait_even_if_its_first_grant_fails(empty: Broker) -> None:
    empty.endpoint.responses["read:deals"] = busy(600)
    empty.run(DEALS)
    empty.endpoint.responses["read:deals"] = busy(None)
    expected = {"deals": "failed", "activity": "renewed", "users": "renewed"}
    assert states(empty.run(FORCED)) == expected


def test_another_grant_goes_first_after_a_refusal_so_that_one_alone_blocks_no_other(
    empty: Broker,
) -> None:
    empty.endpoint.responses["read:deals"] = rejection("unauthorized_client")
    assert set(states(empty.run()).values()) == {"failed"}
    empty.clock.wind(MINUTE)
    outcomes = empty.run()
    assert states(outcomes) == {"deals": "failed", "activity": "renewed", "users": "renewed"}
    assert empty.endpoint.scopes[1] == "read:activity"
    assert empty.states.backoff_of() is None
    backoff = empty.states.backoff_of("deals")
    assert backoff is not None
    assert backoff.reason == "unauthorized_client"


def test_grant_that_is_refused_alone_never_lets_another_s_token_lapse() -> None:
    broker = Broker()
    del broker.store.tokens["deals"]
    broker.endpoint.responses |= {
        "read:deals": rejection("unauthorized_client"),
        "read:users": response("u", 900),
        "read:activity": response("a", 900),
    }
    for _ in range(180):
        broker.run()
        assert broker.store.tokens["users"].is_live(broker.clock())
        assert broker.store.tokens["activity"].is_live(broker.clock())
        broker.clock.wind(MINUTE)


@pytest.mark.parametrize(
    ("left", "state"),
    [(-1, "waiting"), (0, "waiting"), (1, "renewed"), (120, "renewed"), (121, "waiting")],
)
def test_token_in_its_final_retry_window_is_requested_in_spite_of_another_grants_refusal(
    broker: Broker, left: float, state: str
) -> None:
    del broker.store.tokens["deals"]
    broker.endpoint.responses["read:deals"] = rejection("unauthorized_client")
    broker.run(DEALS)
    broker.store.tokens["users"] = stored("u", left=left, age=9000, scope=("read:users",))
    assert states(broker.run(RefreshRequest(grants=("users",)))) == {"users": state}


def refused_and_about_to_end() -> Broker:
    """A connection that is refused, and one token with two minutes left."""
    broker = Broker(grants={name: Grant(scope=(f"read:{name}",)) for name in ("deals", "users")})
    del broker.store.tokens["deals"]
    broker.endpoint.refused_secrets[SECRET] = "invalid_client"
    broker.run(DEALS)
    broker.store.tokens["users"] = stored("u", left=120, age=9000, scope=("read:users",))
    return broker


def test_attempts_in_the_final_retry_window_are_few_however_many_runs_start() -> None:
    broker = refused_and_about_to_end()
    asked_at = []
    for second in range(120):
        before = len(broker.endpoint.requests)
        broker.run(RefreshRequest(grants=("users",)))
        if len(broker.endpoint.requests) > before:
            asked_at.append(second)
        broker.clock.wind(1)
    assert asked_at == [0, 60, 90, 105, 113, 117, 119]


@pytest.mark.parametrize("second", [1, 59, 61, 100, 117])
def test_client_that_is_known_again_is_noticed_before_a_token_ends(second: int) -> None:
    broker = refused_and_about_to_end()
    for now in range(121):
        if now == second:
            broker.endpoint.refused_secrets.clear()
        broker.run()
        assert broker.store.tokens["users"].is_live(broker.clock())
        broker.clock.wind(1)


def test_deferral_forgets_no_refusal(empty: Broker) -> None:
    empty.endpoint.refused_secrets[SECRET] = "invalid_client"
    minutes_of_requests(empty, until=7)
    assert set(states(empty.run(time=1)).values()) == {"deferred"}
    assert empty.run()["deals"].retry_at == empty.clock() + seconds(440)


@pytest.mark.parametrize(
    "fault", [client_error("ThrottlingException", "GetParameter"), RuntimeError("a bug")]
)
@pytest.mark.parametrize("what", ["fault_of_read", "fault_of_write"])
def test_state_that_parameter_store_refuses_fails_no_run(
    empty: Broker, what: str, fault: Exception
) -> None:
    setattr(empty.states, what, fault)
    empty.endpoint.responses["read:deals"] = rejection("invalid_scope")
    expected = {"deals": "failed", "activity": "renewed", "users": "renewed"}
    assert states(empty.run()) == expected
    assert states(empty.run())["deals"] == "failed"  # asked once too often, no worse


@pytest.mark.parametrize("text", ["", "null", "[]", '{"connection": [1], "grants": {}}', "[" * 999])
def test_malformed_state_is_empty_and_is_overwritten(empty: Broker, text: str) -> None:
    empty.states.put_text(text)
    empty.endpoint.responses["read:deals"] = rejection("invalid_scope")
    assert states(empty.run())["deals"] == "failed"
    assert empty.states.backoff_of("deals") is not None


# ── Overlapping runs ─────────────────────────────────────────────────────────────────────────────


def lease(broker: Broker, state: ConnectionState | None = None) -> None:
    """Another run begins."""
    leased = replace(state or ConnectionState(), leased_at=broker.clock(), owner="another run")
    broker.states.put(leased)


def test_connection_is_left_to_the_run_that_has_the_lease(empty: Broker) -> None:
    lease(empty)
    outcomes = empty.run()
    assert set(states(outcomes).values()) == {"in_progress"}
    assert causes_of_failure(outcomes.values()) == {}
    assert (empty.secrets.reads, empty.endpoint.requests) == ([], [])
    assert empty.states.now().owner == "another run"


def test_lease_of_a_killed_run_ends_by_itself(empty: Broker) -> None:
    lease(empty)
    empty.clock.wind(54)
    assert set(states(empty.run()).values()) == {"in_progress"}
    empty.clock.wind(1)
    assert set(states(empty.run()).values()) == {"renewed"}
    assert empty.states.now() == ConnectionState()


def test_run_that_cannot_read_the_state_goes_on(empty: Broker) -> None:
    for _ in range(3):  # versions that it knows nothing of
        empty.states.put(ConnectionState())
    empty.states.fault_of_read = RuntimeError("for a moment")

    def recover(_connection: str) -> None:
        empty.states.fault_of_read = None

    empty.secrets.on_read = recover
    assert set(states(empty.run()).values()) == {"renewed"}


def test_force_waits_for_no_other_run(empty: Broker) -> None:
    lease(empty)
    assert set(states(empty.run(FORCED)).values()) == {"renewed"}


def test_changed_secret_waits_for_another_run_and_asks_for_what_that_one_did_not(
    broker: Broker,
) -> None:
    broker.secrets.put("v2")
    lease(broker)

    def end() -> None:
        if broker.clock() >= NOW + seconds(3):
            broker.store.tokens["deals"] = stored("new", secret_version="v2")
            broker.store.tokens["users"] = stored("old", secret_version="v1", scope=("read:users",))
            broker.states.put(ConnectionState())

    broker.on_pause = end
    outcomes = broker.run(CHANGED)
    assert states(outcomes) == {"deals": "not_due", "activity": "renewed", "users": "renewed"}
    assert outcomes["deals"].renew_reason is None
    assert broker.clock() == NOW + seconds(3)


def test_changed_secret_overtakes_a_run_that_does_not_end(empty: Broker) -> None:
    lease(empty)
    assert set(states(empty.run(CHANGED, time=55)).values()) == {"renewed"}
    assert empty.clock() == NOW + seconds(20)


def test_changed_secret_that_loses_the_lease_looks_again(empty: Broker) -> None:
    def overtake(_state: ConnectionState) -> None:
        empty.states.on_write = lambda _state: None
        lease(empty)

    def end() -> None:
        for name in empty.grants:
            empty.store.tokens[name] = stored(name, secret_version="v1", scope=(f"read:{name}",))
        empty.states.put(ConnectionState())

    empty.states.on_write, empty.on_pause = overtake, end
    assert set(states(empty.run(CHANGED)).values()) == {"not_due"}
    assert empty.endpoint.requests == []


def test_run_takes_the_lease_before_it_makes_a_request_and_releases_it_after(empty: Broker) -> None:
    seen: list[bool] = []
    empty.endpoint.on_request = lambda _request: seen.append(
        empty.states.now().is_leased(empty.clock())
    )
    empty.endpoint.responses["read:users"] = RuntimeError("a bug")
    empty.run()
    assert seen == [True] * 3
    assert empty.states.now() == ConnectionState()


def test_run_that_makes_no_request_takes_no_lease(empty: Broker) -> None:
    empty.endpoint.refused_secrets[SECRET] = "invalid_client"
    empty.run()
    versions = len(empty.states.texts["default"])
    assert set(states(empty.run()).values()) == {"waiting"}
    assert len(empty.states.texts["default"]) == versions


def test_of_runs_that_begin_at_once_the_first_to_take_the_lease_goes_on(empty: Broker) -> None:
    def overtake(_state: ConnectionState) -> None:
        empty.states.on_write = lambda _state: None
        lease(empty)

    empty.states.on_write = overtake
    assert set(states(empty.run()).values()) == {"in_progress"}
    assert empty.endpoint.requests == []


def test_state_of_a_run_that_has_ended_meanwhile_is_restored(empty: Broker) -> None:
    backoff = Backoff(reason="invalid_scope", failures=3, until=NOW + seconds(220), key="key")
    ended = ConnectionState(grants={"deals": backoff})

    def overtake(_state: ConnectionState) -> None:
        empty.states.on_write = lambda _state: None
        lease(empty)
        empty.states.put(ended)

    empty.states.on_write = overtake
    assert set(states(empty.run()).values()) == {"in_progress"}
    assert empty.states.now() == ended
    assert states(empty.run())["users"] == "renewed"


def test_lease_that_is_written_twice_after_a_lost_response_is_still_ours(
    empty: Broker,
) -> None:
    def write_twice(state: ConnectionState) -> None:
        empty.states.on_write = lambda _state: None
        empty.states.put(state)

    empty.states.on_write = write_twice
    assert set(states(empty.run()).values()) == {"renewed"}


def test_lease_keeps_the_backoffs_that_were_read(empty: Broker) -> None:
    empty.endpoint.responses["read:deals"] = rejection("invalid_scope")
    empty.run()
    del empty.store.tokens["users"]
    empty.endpoint.on_request = lambda _request: seen.append(empty.states.backoff_of("deals"))
    seen: list[Backoff | None] = []
    empty.run()
    assert seen == [empty.states.backoff_of("deals")]
    assert None not in seen


def test_runs_at_once_make_the_requests_of_one(empty: Broker) -> None:
    others: list[dict[str, str]] = []
    empty.endpoint.on_request = lambda _request: others.append(states(empty.run()))
    assert set(states(empty.run()).values()) == {"renewed"}
    assert sorted(empty.endpoint.scopes) == ["read:activity", "read:deals", "read:users"]
    assert len(others) == 3
    assert {state for output in others for state in output.values()} <= {"in_progress", "not_due"}


def test_run_that_ends_while_another_begins_costs_no_more_than_one_extra_request(
    empty: Broker,
) -> None:
    def be_overtaken() -> None:
        empty.states.on_read = lambda: None
        assert set(states(empty.run()).values()) == {"renewed"}

    empty.states.on_read = be_overtaken  # the other run has read the store by then
    empty.run()
    assert len(empty.endpoint.requests) <= 3 + 1


# ── Changing the client secret without an outage ─────────────────────────────────────────────────


def malformed() -> ConfigurationError:
    return ConfigurationError("the secret: not valid JSON")


@pytest.mark.parametrize(
    ("pending", "previous", "stage", "asked"),
    [
        ("good", None, "AWSPENDING", ["bad", "good"]),
        ("good", "other", "AWSPENDING", ["bad", "good"]),
        (None, "good", "AWSPREVIOUS", ["bad", "good"]),
        ("worse", "good", "AWSPREVIOUS", ["bad", "worse", "good"]),
        (malformed(), "good", "AWSPREVIOUS", ["bad", "good"]),
        ("bad", "good", "AWSPREVIOUS", ["bad", "good"]),  # PENDING is on the current version
    ],
)
def test_secret_that_enable_does_not_accept_is_replaced_by_another_version(
    empty: Broker,
    pending: str | Exception | None,
    previous: str | None,
    stage: str,
    asked: list[str],
) -> None:
    empty.endpoint.refused_secrets |= {"bad": "invalid_client", "worse": "invalid_client"}
    empty.secrets.put("v-bad", "bad")
    if isinstance(pending, Exception):
        empty.secrets.stored["default", "AWSPENDING"] = pending
    elif pending:
        empty.secrets.put(f"v-{pending}", pending, stage="AWSPENDING")
    if previous:
        empty.secrets.put(f"v-{previous}", previous, stage="AWSPREVIOUS")
    outcomes = empty.run()
    assert set(states(outcomes).values()) == {"renewed"}
    assert {o.secret_stage for o in outcomes.values()} == {stage}
    assert {o.secret_version for o in outcomes.values()} == {"v-good"}
    assert {token.secret_version for token in empty.store.tokens.values()} == {"v-good"}
    assert [r.client_secret for r in empty.endpoint.requests] == [*asked, "good", "good"]
    assert [o.attempts for o in outcomes.values()] == [len(asked), 1, 1]
    assert empty.states.backoff_of() is None


def test_connection_without_a_secret_that_enable_accepts_backs_off_as_a_whole(
    empty: Broker,
) -> None:
    for number, stage in enumerate(("AWSCURRENT", "AWSPENDING", "AWSPREVIOUS")):
        empty.secrets.put(f"v{number}", f"bad{number}", stage=stage)
        empty.endpoint.refused_secrets[f"bad{number}"] = "invalid_client"
    outcomes = empty.run()
    assert set(states(outcomes).values()) == {"failed"}
    assert [o.attempts for o in outcomes.values()] == [3, 0, 0]
    assert {o.secret_stage for o in outcomes.values()} == {""}
    assert set(states(empty.run()).values()) == {"waiting"}
    assert len(empty.endpoint.requests) == 3
    assert empty.states.now().grants == {}


def test_version_that_has_both_other_labels_is_tried_once(empty: Broker) -> None:
    empty.secrets.put("v2", "bad")
    for stage in ("AWSPENDING", "AWSPREVIOUS"):
        empty.secrets.put("v1", "worse", stage=stage)
    empty.endpoint.refused_secrets |= {"bad": "invalid_client", "worse": "invalid_client"}
    empty.run()
    assert [request.client_secret for request in empty.endpoint.requests] == ["bad", "worse"]


@pytest.mark.parametrize("stage", ["AWSPENDING", "AWSPREVIOUS"])
def test_version_that_cannot_be_read_is_passed_over(empty: Broker, stage: str) -> None:
    empty.secrets.put("v-bad", "bad")
    empty.endpoint.refused_secrets["bad"] = "invalid_client"
    denied = client_error("AccessDeniedException", "GetSecretValue")
    other = {"AWSPENDING": "AWSPREVIOUS", "AWSPREVIOUS": "AWSPENDING"}[stage]
    empty.secrets.stored["default", stage] = denied
    assert {o.reason for o in empty.run().values()} == {"invalid_client"}
    empty.secrets.put("v-good", "good", stage=other)
    assert {o.secret_stage for o in empty.run(FORCED).values()} == {other}


@pytest.mark.parametrize("reason", ["unauthorized_client", "invalid_scope", "unknown_error"])
def test_other_refusals_are_no_reason_to_try_another_version(empty: Broker, reason: str) -> None:
    empty.endpoint.refused_secrets[SECRET] = reason
    empty.secrets.put("v0", "good", stage="AWSPREVIOUS")
    empty.run()
    assert empty.secrets.reads == [("default", "AWSCURRENT")]


@pytest.mark.parametrize("refused", [rejection("invalid_scope"), response("t", 1)])
def test_fallback_is_verified_by_a_refusal_of_the_scope_or_of_the_token(
    empty: Broker, refused: TokenResponse | Exception
) -> None:
    empty.secrets.put("v-bad", "bad")
    empty.secrets.put("v-good", "good", stage="AWSPREVIOUS")
    empty.endpoint.refused_secrets["bad"] = "invalid_client"
    empty.endpoint.responses["read:deals"] = refused
    outcomes = empty.run()
    assert states(outcomes) == {"deals": "failed", "activity": "renewed", "users": "renewed"}
    assert outcomes["deals"].reason in {"invalid_scope", "expired"}
    assert outcomes["users"].secret_stage == "AWSPREVIOUS"
    assert empty.states.now().backoff is None


def in_flight_when_rejected(work: Callable[[Any], None]) -> Broker:
    """The first secret is refused when requests for all grants are on their way; one more is good.

    Args:
        work: what else becomes of a request with the first secret.
    """
    names = ("deals", "activity", "users", "faulty")
    broker = Broker(
        grants={name: Grant(scope=(f"read:{name}",)) for name in names},
        monotonic=itertools.count(step=10).__next__,  # each head start has passed
    )
    broker.store.tokens.clear()
    broker.secrets.put("v-bad", "bad")
    broker.secrets.put("v-good", "good", stage="AWSPREVIOUS")
    broker.endpoint.refused_secrets["bad"] = "invalid_client"
    meet = everyone_at_once(len(names))

    def begin(request: Any) -> None:
        if request.client_secret == "bad":
            meet()
            work(request)

    broker.endpoint.on_request = begin
    return broker


def test_all_that_were_in_flight_when_the_secret_was_rejected_get_the_good_one() -> None:
    broker = in_flight_when_rejected(lambda _request: None)
    outcomes = broker.run()
    assert set(states(outcomes).values()) == {"renewed"}
    assert [outcome.attempts for outcome in outcomes.values()] == [2] * 4
    assert [r.client_secret for r in broker.endpoint.requests] == ["bad"] * 4 + ["good"] * 4


def test_rejection_of_one_is_no_result_of_those_in_flight_that_failed_otherwise() -> None:
    def fail(request: Any) -> None:
        if request.scope != ("read:deals",):
            raise RuntimeError("a bug") if request.scope == ("read:faulty",) else busy(None)

    broker = in_flight_when_rejected(fail)
    broker.jitter = 1
    outcomes = broker.run()
    renewed = dict.fromkeys(("deals", "activity", "users"), "renewed")
    assert states(outcomes) == renewed | {"faulty": "failed"}
    assert [outcome.attempts for outcome in outcomes.values()] == [2, 2, 2, 0]
    assert broker.clock() == NOW + seconds(0.25)  # before the second attempts


def test_attempts_of_earlier_rounds_count_after_a_rejection() -> None:
    broker = in_flight_when_rejected(lambda _request: None)
    broker.endpoint.failures = 1
    outcomes = broker.run()
    assert set(states(outcomes).values()) == {"renewed"}
    assert [outcome.attempts for outcome in outcomes.values()] == [3] * 4


def test_client_that_has_got_a_token_in_this_run_is_rejected_for_one_grant_alone(
    empty: Broker,
) -> None:
    def reject_later(request: Any) -> None:
        if request.scope == ("read:users",):
            number = empty.endpoint.scopes.count("read:users")
            raise busy(None) if number == 1 else rejection("invalid_client")

    empty.secrets.put("v-other", "other", stage="AWSPREVIOUS")
    empty.endpoint.on_request = reject_later
    expected = {"deals": "renewed", "activity": "renewed", "users": "failed"}
    assert states(empty.run()) == expected
    assert empty.secrets.reads == [("default", "AWSCURRENT")]
    assert empty.states.backoff_of() is None


@pytest.mark.parametrize(
    ("time", "state", "attempts"), [(24, State.DEFERRED, 1), (25, State.RENEWED, 2)]
)
def test_fallback_without_time_is_deferred(
    empty: Broker, time: float, state: State, attempts: int
) -> None:
    empty.secrets.put("v-bad", "bad")
    empty.secrets.put("v-good", "good", stage="AWSPREVIOUS")
    empty.endpoint.refused_secrets["bad"] = "invalid_client"
    empty.endpoint.on_request = lambda _request: empty.clock.wind(10)
    outcome = empty.run(DEALS, time=time)["deals"]
    assert (outcome.state, outcome.attempts) == (state, attempts)


def test_bad_new_secret_shows_at_the_event_and_leaves_live_tokens(broker: Broker) -> None:
    before = dict(broker.store.tokens)
    broker.secrets.put("v2", "bad")
    broker.endpoint.refused_secrets["bad"] = "invalid_client"
    outcomes = broker.run(CHANGED)
    assert {(o.state, o.reason) for o in outcomes.values()} == {(State.FAILED, "invalid_client")}
    assert broker.store.tokens == before
    broker.secrets.put("v1", SECRET, stage="AWSPREVIOUS")
    broker.clock.wind(1)
    assert {(o.state, o.secret_stage) for o in broker.run(CHANGED).values()} == {
        (State.RENEWED, "AWSPREVIOUS")
    }


@pytest.mark.parametrize("enable_changes", [-1, 0, 1])
def test_secret_may_change_at_enable_before_with_or_after_secrets_manager(
    enable_changes: int,
) -> None:
    """Lifetimes of 15 minutes, runs each minute; the change events come too."""
    broker = Broker()
    for name in broker.grants:
        broker.endpoint.responses[f"read:{name}"] = response("t", 900)
        broker.store.tokens[name] = stored(name, left=900, scope=(f"read:{name}",))
    broker.secrets.put("v1", "old")
    broker.endpoint.refused_secrets["new"] = "invalid_client"
    for minute in range(60):
        if minute == 30 + 5 * enable_changes:
            broker.endpoint.refused_secrets = {"old": "invalid_client"}
        if minute == 20 + (5 * enable_changes if enable_changes < 0 else 0):
            broker.secrets.put("v2", "new", stage="AWSPENDING")
        if minute == 30:
            broker.secrets.put("v2", "new")
            broker.secrets.put("v1", "old", stage="AWSPREVIOUS")
            del broker.secrets.stored["default", "AWSPENDING"]
            broker.run(CHANGED)
        outcomes = broker.run()
        assert causes_of_failure(outcomes.values()) == {}
        assert all(token.is_live(broker.clock()) for token in broker.store.tokens.values())
        broker.clock.wind(MINUTE)
    assert {token.secret_version for token in broker.store.tokens.values()} == {"v2"}
