"""No grant waits for another: half an hour of runs in virtual time, with tokens of two minutes."""

from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import pytest

from tests.simulation.virtual_time import VirtualTime
from tests.unit.fakes import (
    NOW,
    URL,
    Broker,
    client_error,
    rejection,
    response,
    seconds,
    states,
    stored,
)
from token_broker.errors import TokenEndpointUnavailable
from token_broker.grants import Grant
from token_refresher.enable.models import Issued, TokenRequest
from token_refresher.refresh_request import RefreshRequest

LIFETIME = 120
LATENCY = 0.05
ATTEMPT_TIMEOUT = 10
INVOCATION = 53
"""Seconds of the function's time-out, less those to report."""


@dataclass
class SlowEndpoint:
    """Enable: it never responds for some grants, and refuses others."""

    time: VirtualTime
    hanging: AbstractSet[str] = frozenset()
    refused: AbstractSet[str] = frozenset()
    busy: AbstractSet[str] = frozenset()
    requests: list[tuple[str, datetime]] = field(default_factory=list)
    url: str = URL

    def request_token(
        self, request: TokenRequest, *, time_left: Callable[[], timedelta], attempts: int
    ) -> Issued:
        assert attempts == 1
        name, requested_at = request.scope[0].removeprefix("read:"), self.time()
        self.requests.append((name, requested_at))
        if name in self.hanging:
            self.time.sleep(min(ATTEMPT_TIMEOUT, time_left().total_seconds()))
            raise TokenEndpointUnavailable("no response", reason="timeout")
        self.time.sleep(LATENCY)
        if name in self.refused:
            raise rejection("invalid_scope")
        if name in self.busy:
            raise TokenEndpointUnavailable("HTTP 503", reason="http_503")
        token = f"{name}-{requested_at.timestamp()}"
        return Issued(response=response(token, LIFETIME), requested_at=requested_at, attempts=1)


class World:
    """A broker in virtual time, whose tokens are due at the second run."""

    def __init__(self, number: int) -> None:
        self.time = VirtualTime(NOW)
        self.endpoint = SlowEndpoint(self.time)
        grants = {f"g{n:02}": Grant(scope=(f"read:g{n:02}",)) for n in range(number)}
        self.names = list(grants)
        self.broker = Broker(grants=grants, threads=self.time.executor)
        self.broker.store.tokens = {
            name: stored(name, left=LIFETIME, scope=grant.scope) for name, grant in grants.items()
        }
        self.ends = dict.fromkeys(grants, NOW + seconds(LIFETIME))
        self.expired: set[str] = set()
        self.broker.store.on_write = self.note

    def note(self, name: str) -> None:
        if self.time() >= self.ends[name]:
            self.expired.add(name)
        self.ends[name] = self.broker.store.tokens[name].expires_at

    def run(self) -> dict[str, str]:
        """One run, now."""
        refresher = replace(
            self.broker.refresher(),
            endpoints={"default": self.endpoint},
            now=self.time,
            monotonic=lambda: self.time().timestamp(),
            pause=self.time.sleep,
        )
        end = self.time() + seconds(INVOCATION)
        outcomes = refresher.run(RefreshRequest(), time_left=lambda: end - self.time())
        assert self.time() <= end
        return states({outcome.grant: outcome for outcome in outcomes})

    def run_each_minute(self, minutes: int) -> None:
        for minute in range(minutes):
            begin = NOW + seconds(60 * minute)
            self.time.sleep(max((begin - self.time()).total_seconds(), 0))
            self.run()
        self.expired |= {name for name in self.names if self.ends[name] <= self.time()}

    def requests_of(self, names: Iterable[str]) -> list[datetime]:
        wanted = set(names)
        return [at for name, at in self.endpoint.requests if name in wanted]


@pytest.mark.parametrize(
    ("number", "hanging"), [(4, 1), (20, 10), (20, 19)], ids=["1 of 4", "10 of 20", "19 of 20"]
)
def test_grants_that_hang_let_no_other_token_expire(number: int, hanging: int) -> None:
    world = World(number)
    chosen = world.names[:hanging]
    world.endpoint.hanging = set(chosen)
    world.time.run(lambda: world.run_each_minute(30))
    assert world.expired == set(chosen)


def test_refused_grant_lets_no_other_token_expire() -> None:
    world = World(4)
    world.endpoint.refused = {"g00"}
    world.time.run(lambda: world.run_each_minute(30))
    assert world.expired == {"g00"}


def test_unreadable_parameter_lets_no_other_token_expire() -> None:
    world = World(4)
    world.broker.store.faults["g00"] = client_error("ThrottlingException", "GetParameter")
    world.time.run(lambda: world.run_each_minute(30))
    assert world.expired == {"g00"}
    assert world.requests_of(["g00"]) == []


@pytest.mark.parametrize("parallelism", [1, 8])
def test_no_second_attempt_begins_before_every_first_one(parallelism: int) -> None:
    world = World(20)
    world.broker.parallelism = parallelism
    world.broker.store.tokens.clear()
    world.endpoint.hanging, world.endpoint.busy = set(world.names[:5]), set(world.names[5:10])
    result = world.time.run(world.run)
    assert {name for name, state in result.items() if state == "renewed"} == set(world.names[10:])
    attempts: dict[str, list[datetime]] = {}
    for name, at in world.endpoint.requests:
        attempts.setdefault(name, []).append(at)
    last_first = max(times[0] for times in attempts.values())
    assert all(at >= last_first for times in attempts.values() for at in times[1:])
    assert any(len(times) > 1 for times in attempts.values())


def test_head_start_is_two_seconds_and_not_the_run() -> None:
    world = World(4)
    world.broker.store.tokens.clear()
    world.endpoint.hanging = {"g00"}
    world.time.run(world.run)
    assert world.requests_of(["g00"])[0] == NOW
    assert set(world.requests_of(["g01", "g02", "g03"])) == {NOW + seconds(2)}


def test_probe_with_a_response_leaves_the_others_no_wait() -> None:
    world = World(4)
    world.broker.store.tokens.clear()
    world.time.run(world.run)
    assert set(world.requests_of(["g01", "g02", "g03"])) == {NOW + seconds(LATENCY)}


def test_grants_that_hang_get_as_many_attempts_as_before() -> None:
    world = World(1)
    world.broker.store.tokens.clear()
    world.endpoint.hanging = {"g00"}
    assert world.time.run(world.run) == {"g00": "failed"}
    assert len(world.endpoint.requests) == 4


def test_unverified_fallback_is_used_for_no_other_grant() -> None:
    broker = Broker()
    broker.store.tokens.clear()
    broker.secrets.put("v2", "bad")
    broker.secrets.put("v3", "pending", stage="AWSPENDING")
    broker.endpoint.refused_secrets["bad"] = "invalid_client"

    def time_out(request: TokenRequest) -> None:
        if request.client_secret == "pending":
            raise TokenEndpointUnavailable("no response", reason="timeout")

    broker.endpoint.on_request = time_out
    outcomes = broker.run()
    assert [request.client_secret for request in broker.endpoint.requests] == ["bad", "pending"]
    assert {outcome.reason for outcome in outcomes.values()} == {"invalid_client"}
    assert {outcome.retry_at for outcome in outcomes.values()} == {NOW + seconds(55)}
    assert set(states(broker.run()).values()) == {"waiting"}
    assert len(broker.endpoint.requests) == 2
