"""Refreshing: what is due is found in the store at every run, and connections run side by side."""

import threading
from collections.abc import Callable

import pytest

from tests.unit.fakes import (
    NOW,
    SECRET_PREFIX,
    Broker,
    client_error,
    event,
    everyone_at_once,
    rejection,
    response,
    seconds,
    states,
    stored,
)
from token_broker.errors import (
    ConfigurationError,
    CorruptStoredToken,
    GrantBlocked,
    InvalidRequest,
)
from token_broker.grants import Grant
from token_broker.token_store import UNREADABLE_CODES
from token_refresher.outcomes import Outcome, RenewReason, State, causes_of_failure
from token_refresher.refresh_request import RefreshRequest

FORCED = RefreshRequest(force=True)


def changed(connection: str = "default") -> RefreshRequest:
    return RefreshRequest(changed_secret=SECRET_PREFIX + connection)


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def two() -> Broker:
    """A broker with a second connection, `uat`; nothing is stored."""
    broker = Broker(
        grants={
            "deals": Grant(scope=("read:deals",)),
            "uat_deals": Grant(scope=("read:deals",), connection="uat"),
            "users": Grant(scope=("read:users",)),
        }
    )
    broker.store.tokens.clear()
    return broker


def test_unknown_grant_is_refused_before_anything_is_read(broker: Broker) -> None:
    with pytest.raises(InvalidRequest, match="no such grant: deal; there are deals, activity"):
        broker.run(RefreshRequest(grants=("users", "deal")))
    assert (broker.store.reads, broker.secrets.reads) == ([], [])


def test_nothing_due_means_no_secret_read_no_lease_and_no_request(broker: Broker) -> None:
    outcomes = broker.run()
    assert set(states(outcomes).values()) == {"not_due"}
    assert outcomes["deals"].fingerprint == stored("deals").fingerprint
    assert (broker.secrets.reads, broker.states.texts, broker.endpoint.requests) == ([], {}, [])


def test_what_is_missing_or_about_to_end_is_renewed(broker: Broker) -> None:
    del broker.store.tokens["deals"]
    broker.store.tokens["users"] = stored("old", left=600, age=3000, scope=("read:users",))
    outcomes = broker.run()
    assert states(outcomes) == {"deals": "renewed", "activity": "not_due", "users": "renewed"}
    new = broker.store.tokens["users"]
    assert new == stored("new-token-for-read:users", left=3600, scope=("read:users",))
    assert outcomes["users"] == Outcome(
        grant="users",
        state=State.RENEWED,
        renew_reason=RenewReason.DUE,
        scope=("read:users",),
        connection="default",
        issued_at=NOW,
        expires_at=NOW + seconds(3600),
        fingerprint=new.fingerprint,
        secret_version="v1",
        attempts=1,
    )
    assert broker.secrets.reads == [("default", "AWSCURRENT")]
    assert sorted(broker.endpoint.scopes) == ["read:deals", "read:users"]


def test_every_run_reads_the_store_so_a_deleted_token_is_noticed(broker: Broker) -> None:
    broker.run()
    del broker.store.tokens["activity"]
    assert states(broker.run())["activity"] == "renewed"


@pytest.mark.parametrize(
    ("scope", "state"),
    [
        (("read:users", "read:deals"), "not_due"),  # the same, in another order
        (("read:deals",), "renewed"),
        (("read:deals", "read:users", "read:activity"), "renewed"),
    ],
)
def test_token_of_another_scope_than_the_grant_now_has_counts_as_missing(
    scope: tuple[str, ...], state: str
) -> None:
    broker = Broker(grants={"both": Grant(scope=("read:deals", "read:users"))})
    broker.store.tokens["both"] = stored("other", left=80_000, scope=scope)
    assert broker.run()["both"].state == state
    assert broker.store.tokens["both"].scope == (
        scope if state == "not_due" else ("read:deals", "read:users")
    )


def test_failed_renewal_does_not_count_a_token_of_another_scope_as_the_grant_s(
    broker: Broker,
) -> None:
    other = broker.store.tokens["deals"] = stored(scope=("read:deals", "read:users"))
    broker.endpoint.responses["read:deals"] = rejection("invalid_scope")
    outcome = broker.run()["deals"]
    assert (outcome.state, outcome.expires_at, outcome.fingerprint) == ("failed", None, "")
    assert broker.store.tokens["deals"] == other  # yet it is not touched


def test_corrupt_parameter_is_healed_and_reported(broker: Broker) -> None:
    broker.store.faults["deals"] = CorruptStoredToken("no token")
    outcome = broker.run()["deals"]
    assert (outcome.state, outcome.reason) == ("renewed", "corrupt_parameter")
    assert broker.store.tokens["deals"].access_token == "new-token-for-read:deals"


@pytest.mark.parametrize(("ahead", "state"), [(300, "not_due"), (301, "renewed")])
def test_stored_token_from_the_future_is_replaced_though_it_expires_later(
    broker: Broker, ahead: int, state: str
) -> None:
    broker.store.tokens["deals"] = stored("theirs", age=-ahead, left=ahead + 7200)
    outcome = broker.run()["deals"]
    assert (outcome.state, outcome.reason == "corrupt_parameter") == (state, state == "renewed")
    assert (broker.store.tokens["deals"].access_token == "theirs") is (state == "not_due")


def test_corrupt_parameter_that_cannot_be_healed_fails_for_that_cause(broker: Broker) -> None:
    broker.store.faults["deals"] = CorruptStoredToken("no token")
    broker.endpoint.responses["read:deals"] = rejection("invalid_scope")
    assert broker.run()["deals"].reason == "invalid_scope"


def test_grant_that_cannot_be_read_fails_and_is_not_overwritten(broker: Broker) -> None:
    broker.store.faults["deals"] = client_error("ThrottlingException", "GetParameter")
    outcomes = broker.run(FORCED)
    assert states(outcomes) == {"deals": "failed", "activity": "renewed", "users": "renewed"}
    assert outcomes["deals"].cause == "GetParameter was refused by AWS: ThrottlingException"
    assert outcomes["deals"].reason == "ThrottlingException"
    assert [outcome.is_store_read for outcome in outcomes.values()] == [False, True, True]
    assert "read:deals" not in broker.endpoint.scopes
    assert list(causes_of_failure(outcomes.values())) == ["deals"]


UNREADABLE = [client_error(code, "GetParameter") for code in sorted(UNREADABLE_CODES)]


@pytest.mark.parametrize("fault", UNREADABLE)
def test_unreadable_token_is_requested_again_and_overwritten(
    broker: Broker, fault: Exception
) -> None:
    broker.store.faults["deals"] = fault
    outcomes = broker.run()
    assert states(outcomes) == {"deals": "renewed", "activity": "not_due", "users": "not_due"}
    renewed = outcomes["deals"]
    assert renewed.renew_reason is RenewReason.UNREADABLE
    assert renewed.reason == "unreadable_parameter"
    assert "GetParameter was refused by AWS" in renewed.cause
    assert broker.store.tokens["deals"].access_token == "new-token-for-read:deals"
    del broker.store.faults["deals"]
    assert states(broker.run())["deals"] == "not_due"


def test_token_that_stays_unreadable_is_requested_at_widening_intervals(broker: Broker) -> None:
    broker.store.faults["deals"] = UNREADABLE[0]
    requested = []
    for minute in range(60):
        before = broker.endpoint.scopes.count("read:deals")
        outcome = broker.run()["deals"]
        requested += [minute] * (broker.endpoint.scopes.count("read:deals") - before)
        assert (outcome.state is State.WAITING) == (minute not in requested)
        assert outcome.is_overdue == (minute not in requested)  # so that the alarm stays
        broker.clock.wind(60)
    assert requested == [0, 1, 3, 7, 15, 30, 45]


def test_unreadable_token_is_requested_again_before_half_of_the_new_ones_life_is_over(
    broker: Broker,
) -> None:
    broker.store.faults["deals"] = UNREADABLE[0]
    broker.endpoint.responses["read:deals"] = response("short", 200)
    waits = []
    for _ in range(3):
        broker.run(RefreshRequest(force=True, grants=("deals",)))
        waits.append(broker.run()["deals"].retry_at)
    assert waits == [NOW + seconds(length) for length in (55, 100, 100)]


def test_wait_for_an_unreadable_token_says_what_to_look_at_and_ends_with_the_fault(
    broker: Broker,
) -> None:
    broker.store.faults["deals"] = client_error("InvalidKeyId", "GetParameter")
    broker.run()
    waiting = broker.run()["deals"]
    assert (waiting.state, waiting.reason) == (State.WAITING, "unreadable_parameter")
    assert "cannot be decrypted" in waiting.cause
    assert "GetParameter was refused by AWS: InvalidKeyId; asked again at" in waiting.cause
    del broker.store.faults["deals"]
    broker.store.tokens["deals"] = stored("short", left=10, age=50)
    assert broker.run()["deals"].state is State.RENEWED


def test_wait_for_an_unreadable_token_ends_with_a_new_secret_and_with_force(broker: Broker) -> None:
    broker.store.faults["deals"] = UNREADABLE[0]
    broker.run()
    assert states(broker.run(FORCED))["deals"] == "renewed"
    assert states(broker.run())["deals"] == "waiting"
    broker.secrets.put("v2")
    assert states(broker.run())["deals"] == "renewed"


def test_token_that_can_neither_be_read_nor_written_names_the_key_and_is_backed_off(
    broker: Broker,
) -> None:
    broker.store.faults["deals"] = client_error("InvalidKeyId", "GetParameter")
    broker.store.unwritable["deals"] = client_error("AccessDeniedException", "PutParameter")
    outcome = broker.run()["deals"]
    assert (outcome.state, outcome.reason) == (State.FAILED, "AccessDeniedException")
    assert "PutParameter was refused by AWS: AccessDeniedException" in outcome.cause
    assert broker.store.key_id in outcome.cause
    assert broker.run()["deals"].state is State.WAITING
    assert len(broker.endpoint.requests) == 1


def test_unreadable_token_of_a_grant_that_enable_refuses_fails_for_that_cause(
    broker: Broker,
) -> None:
    broker.store.faults["deals"] = UNREADABLE[0]
    broker.endpoint.responses["read:deals"] = rejection("invalid_scope")
    assert broker.run()["deals"].reason == "invalid_scope"
    waiting = broker.run()["deals"]
    assert waiting.state is State.WAITING
    assert waiting.cause.startswith("refused before (invalid_scope); ")


def test_force_renews_what_is_not_due(broker: Broker) -> None:
    outcomes = broker.run(RefreshRequest(force=True, grants=("deals",)))
    assert states(outcomes) == {"deals": "renewed"}
    assert broker.store.reads == ["deals"]


@pytest.mark.parametrize(("rejected", "state"), [("deals", "renewed"), ("older", "not_due")])
def test_token_that_enable_refused_is_renewed_if_it_is_still_the_stored_one(
    broker: Broker, rejected: str, state: str
) -> None:
    broker.clock.wind(1)
    request = RefreshRequest(grants=("deals",), rejected=stored(rejected).fingerprint)
    assert states(broker.run(request)) == {"deals": state}


def test_outcomes_keep_the_order_of_the_request(broker: Broker) -> None:
    broker.store.tokens["activity"] = stored(left=20, age=9000, scope=("read:activity",))
    del broker.store.tokens["users"]
    assert list(broker.run()) == ["deals", "activity", "users"]
    assert list(broker.run(RefreshRequest(grants=("users", "deals")))) == ["users", "deals"]


def test_grants_are_read_in_parallel(broker: Broker) -> None:
    broker.store.on_read = everyone_at_once(len(broker.grants))
    assert set(states(broker.run()).values()) == {"not_due"}


def test_each_connection_has_its_secret_endpoint_and_state(two: Broker) -> None:
    two.secrets.put("uat-v9", "uat-secret", connection="uat")
    outcomes = two.run()
    assert set(states(outcomes).values()) == {"renewed"}
    assert sorted(two.secrets.reads) == [("default", "AWSCURRENT"), ("uat", "AWSCURRENT")]
    assert [r.client_secret for r in two.endpoints["uat"].requests] == ["uat-secret"]
    assert two.endpoint.scopes == ["read:deals", "read:users"]
    assert two.store.tokens["uat_deals"].secret_version == "uat-v9"
    assert (outcomes["uat_deals"].connection, outcomes["deals"].connection) == ("uat", "default")
    assert sorted(two.states.reads) == ["default", "uat"]


def break_secret(broker: Broker) -> None:
    broker.secrets.stored["uat", "AWSCURRENT"] = ConfigurationError("not filled in")


def refuse_secret(broker: Broker) -> None:
    broker.secrets.put("uat-v1", "bad", connection="uat")
    broker.endpoints["uat"].refused_secrets["bad"] = "invalid_client"


def deny_secret(broker: Broker) -> None:
    denied = client_error("AccessDeniedException", "GetSecretValue")
    broker.secrets.stored["uat", "AWSCURRENT"] = denied


def deny_fallbacks(broker: Broker) -> None:
    refuse_secret(broker)
    denied = client_error("AccessDeniedException", "GetSecretValue")
    broker.secrets.stored["uat", "AWSPENDING"] = denied


def break_endpoint(broker: Broker) -> None:
    broker.endpoints["uat"].responses["read:deals"] = RuntimeError("a bug")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (break_secret, "ConfigurationError"),
        (deny_secret, "AccessDeniedException"),
        (refuse_secret, "invalid_client"),
        pytest.param(
            deny_fallbacks,
            "invalid_client",
        ),
        (break_endpoint, "InternalError"),
    ],
)
def test_failure_of_one_connection_breaks_no_other(
    two: Broker, fault: Callable[[Broker], None], reason: str
) -> None:
    fault(two)
    outcomes = two.run()
    assert states(outcomes) == {"deals": "renewed", "uat_deals": "failed", "users": "renewed"}
    assert outcomes["uat_deals"].reason == reason


@pytest.mark.parametrize("place", ["secret", "endpoint"])
def test_connection_that_hangs_delays_no_other(two: Broker, place: str) -> None:
    others_are_stored = threading.Event()

    def hang(at: object) -> None:
        if at != "default":
            assert others_are_stored.wait(timeout=10)

    if place == "secret":
        two.secrets.on_read = hang
    else:
        two.endpoints["uat"].on_request = hang
    two.store.on_write = lambda grant: others_are_stored.set() if grant == "users" else None
    assert set(states(two.run()).values()) == {"renewed"}


def test_changed_secret_renews_only_what_was_issued_for_another_version(broker: Broker) -> None:
    broker.secrets.put("v2")
    broker.store.tokens["deals"] = stored("deals", secret_version="v2")
    del broker.store.tokens["users"]
    broker.clock.wind(1)
    outcomes = broker.run(changed())
    assert states(outcomes) == {"deals": "not_due", "activity": "renewed", "users": "renewed"}
    assert broker.store.tokens["activity"].secret_version == "v2"
    assert outcomes["activity"].secret_version == "v2"
    assert sorted(broker.endpoint.scopes) == ["read:activity", "read:users"]
    assert set(states(broker.run(changed())).values()) == {"not_due"}


def test_changed_secret_is_about_the_grants_of_its_connection(two: Broker) -> None:
    assert states(two.run(changed("uat"))) == {"uat_deals": "renewed"}
    assert two.secrets.reads == [("uat", "AWSCURRENT")]


@pytest.mark.parametrize(
    "name", ["secret_changed_cloudtrail.json", "secret_label_updated.json"], ids=lambda n: n[:20]
)
def test_real_change_event_renews_at_once(broker: Broker, name: str) -> None:
    broker.secrets.put("v2")
    broker.clock.wind(1)
    assert set(states(broker.run(RefreshRequest.from_event(event(name)))).values()) == {"renewed"}


def test_run_of_the_cloudtrail_event_finds_nothing_to_do_after_that_of_the_label_event(
    broker: Broker,
) -> None:
    broker.secrets.put("v2")
    broker.clock.wind(1)
    label, call = event("secret_label_updated.json"), event("secret_changed_cloudtrail.json")
    assert set(states(broker.run(RefreshRequest.from_event(label))).values()) == {"renewed"}
    requests = len(broker.endpoint.requests)
    broker.clock.wind(300)
    assert set(states(broker.run(RefreshRequest.from_event(call))).values()) == {"not_due"}
    assert len(broker.endpoint.requests) == requests


@pytest.mark.parametrize("secret", ["", "someone-else/db", SECRET_PREFIX + "unheard-of"])
def test_change_of_another_secret_does_nothing(broker: Broker, secret: str) -> None:
    broker.store.tokens.clear()
    assert broker.run(RefreshRequest(changed_secret=secret)) == {}
    assert (broker.store.reads, broker.secrets.reads, broker.endpoint.requests) == ([], [], [])


@pytest.mark.parametrize(
    ("lifetime", "left", "percent"),
    [
        (3600, 3600, 100),
        (3600, 600, 100),
        (3600, 599, 99.8),
        (3600, 300, 50),
        (3600, 0, 0),
        (3600, -9, 0),
        (300, 150, 100),
        (300, 75, 50),
    ],
)
def test_due_window_left_falls_from_100_to_0(
    broker: Broker, lifetime: float, left: float, percent: float
) -> None:
    outcome = Outcome(
        grant="deals",
        state=State.FAILED,
        issued_at=NOW - seconds(lifetime - left),
        expires_at=NOW + seconds(left),
    )
    assert broker.refresher().due_window_left(outcome) == percent


def test_without_a_token_nothing_of_the_due_window_is_left(broker: Broker) -> None:
    assert broker.refresher().due_window_left(Outcome(grant="x", state=State.FAILED)) == 0


def test_blocked_grant_is_left_alone_and_is_no_failure(broker: Broker) -> None:
    broker.store.faults["deals"] = GrantBlocked("leaked on a screen")
    outcome = broker.run(RefreshRequest(force=True))["deals"]
    assert (outcome.state, outcome.reason, outcome.cause) == (
        "blocked",
        "blocked",
        "leaked on a screen",
    )
    assert not outcome.is_overdue
    assert not outcome.is_store_read
    assert "read:deals" not in [request.scope[0] for request in broker.endpoint.requests]
