import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta

import pytest
from botocore.credentials import Credentials

from enable_broker_client import (
    NotAllowed,
    NoTokenInTime,
    Request,
    Response,
    TokenSource,
    Transport,
    UnknownGrant,
    fingerprint,
)
from enable_broker_client.clock import SteadyClock

URL = "https://abc123.execute-api.eu-west-1.amazonaws.com/v1"
LIFETIME = 900
THREADS = 20


class Session:
    def get_credentials(self) -> Credentials:
        return Credentials("AKIDEXAMPLE", "a-key")


class Clock:
    """Stands still but for sleep and wind."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Broker:
    """A transport: vends `token-1`, `token-2` … each for LIFETIME from when it is made."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.lock = threading.Lock()
        self.requested: list[float] = []
        self.reports: list[bytes | None] = []
        self.timeouts: list[float] = []
        self.fault: Response | Exception | None = None
        self.report_response = Response(status=202, body=b'{"status": "renewing"}')
        self.expires_at: dict[str, float] = {}
        self.on_request: Callable[[], None] = lambda: None
        self.renew()

    def renew(self, lifetime: float = LIFETIME) -> None:
        self.current = f"token-{len(self.expires_at) + 1}"
        self.expires_at[self.current] = self.clock.now + lifetime

    def left(self, token: str) -> float:
        return self.expires_at[token] - self.clock.now

    def __call__(self, request: Request, /) -> Response:
        self.timeouts.append(request.timeout)
        if request.method == "POST":
            self.reports.append(request.body)
            return self.report_response
        with self.lock:
            self.requested.append(self.clock.now)
        self.on_request()
        if isinstance(self.fault, Exception):
            raise self.fault
        return self.fault or self.vended()

    def vended(self) -> Response:
        # A wall clock that is decades off does no harm: expires_at is not reckoned with.
        body = (
            f'{{"access_token": "{self.current}", "token_type": "Bearer", "scope": "read:deals",'
            f' "expires_in": {int(self.left(self.current))}, "expires_at": "2001-01-01T00:00:00Z"}}'
        )
        return Response(status=200, body=body.encode())


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def broker(clock: Clock) -> Broker:
    return Broker(clock)


@pytest.fixture
def source(broker: Broker, clock: Clock) -> TokenSource:
    return source_of(broker, clock)


def source_of(transport: Transport, clock: Clock, **options: timedelta) -> TokenSource:
    return TokenSource(
        URL,
        "deals",
        session=Session(),
        transport=transport,
        clock=clock,
        sleep=clock.sleep,
        **options,
    )


def settled(source: TokenSource) -> TokenSource:
    """The source, when no renewal is in progress."""
    if flight := source._flight:
        flight.outcome.exception(timeout=10)
    return source


def unavailable(retry_after: int | None = None) -> Response:
    headers = {} if retry_after is None else {"retry-after": str(retry_after)}
    return Response(status=503, headers=headers)


def test_token_is_got_once_and_used_until_its_margin(
    source: TokenSource, broker: Broker, clock: Clock
):
    assert source.get() == "token-1"
    clock.now += LIFETIME - 60.5
    assert source.get() == "token-1"
    assert len(broker.requested) == 1


def test_token_is_renewed_within_its_margin(source: TokenSource, broker: Broker, clock: Clock):
    source.get()
    clock.now += LIFETIME - 60
    broker.renew()
    assert source.get() == "token-1"
    assert settled(source).get() == "token-2"
    assert len(broker.requested) == 2


def test_margin_is_at_most_half_of_what_was_left(broker: Broker, clock: Clock):
    broker.renew(lifetime=20)
    source = source_of(broker, clock)
    assert source.get() == "token-2"
    clock.now += 9.5
    source.get()
    assert source._flight is None
    clock.now += 0.5
    source.get()
    settled(source)
    assert len(broker.requested) == 2


def test_token_that_is_not_renewed_yet_is_requested_with_pauses(
    source: TokenSource, broker: Broker, clock: Clock
):
    source.get()
    clock.now += LIFETIME - 60
    for _ in range(59):
        assert settled(source).get() == "token-1"
        clock.now += 1
    assert 2 < len(broker.requested) < 16


def test_older_token_of_a_broker_that_remembers_one_does_not_replace_a_newer(
    source: TokenSource, broker: Broker, clock: Clock
):
    source.get()
    clock.now += LIFETIME - 50
    broker.renew(lifetime=40)
    source.get()
    assert settled(source).get() == "token-1"
    assert len(broker.requested) == 2


def test_broker_down_within_the_margin_leaves_the_live_token(
    source: TokenSource, broker: Broker, clock: Clock, caplog: pytest.LogCaptureFixture
):
    source.get()
    clock.now += LIFETIME - 59
    broker.fault = ConnectionError("down")
    for _ in range(20):
        assert settled(source).get() == "token-1"
        clock.now += 1
    assert len(broker.requested) <= 4, "a try each ten seconds"
    assert not clock.slept, "no one waits for an early renewal"
    assert max(broker.timeouts[1:]) <= 5
    broker.fault = None
    broker.renew()
    clock.now += 10
    settled(source).get()
    assert settled(source).get() == "token-2"
    assert "the live one is used: no response (ConnectionError)" in caplog.text


@pytest.mark.parametrize("status", [400, 403, 404])
def test_refusal_within_the_margin_leaves_the_live_token_until_it_expires(
    source: TokenSource, broker: Broker, clock: Clock, status: int
):
    source.get()
    broker.fault = Response(status=status)
    clock.now += LIFETIME - 1
    assert source.get() == "token-1"
    settled(source)
    clock.now += 1
    with pytest.raises(Exception, match=f"HTTP {status}"):
        source.get()


def test_retry_after_spaces_early_renewals(source: TokenSource, broker: Broker, clock: Clock):
    source.get()
    clock.now += LIFETIME - 60
    broker.fault = unavailable(retry_after=25)
    for _ in range(25):
        settled(source).get()
        clock.now += 1
    assert len(broker.requested) == 2


def test_expired_token_is_never_given(source: TokenSource, broker: Broker, clock: Clock):
    source.get()
    broker.fault = unavailable()
    clock.now += LIFETIME
    with pytest.raises(NoTokenInTime) as raised:
        source.get()
    assert raised.value.last_status == 503
    assert raised.value.grant == "deals"


def test_token_that_has_expired_when_it_comes_is_not_given(
    source: TokenSource, broker: Broker, clock: Clock
):
    broker.renew(lifetime=0.5)
    broker.on_request = lambda: broker.renew() if clock.now > 1003 else None
    assert source.get() == "token-3"


def test_token_that_expires_while_it_is_renewed_is_not_given(
    source: TokenSource, broker: Broker, clock: Clock
):
    source.get()
    clock.now += LIFETIME - 1
    requested, responds = threading.Event(), threading.Event()

    def wait() -> None:
        requested.set()
        assert responds.wait(timeout=10)

    broker.on_request = wait
    assert source.get() == "token-1"
    assert requested.wait(timeout=10)
    clock.now += 1
    broker.renew()
    with callers(1) as pool:
        call = pool.submit(source.get)
        responds.set()
        assert call.result(timeout=10) == "token-2"


def test_lifetime_counts_from_before_the_request(broker: Broker, clock: Clock):
    source = source_of(broker, clock)

    def slow() -> None:
        clock.now += 8
        broker.expires_at["token-1"] += 8  # expires_in is as it was when the request was sent

    broker.on_request = slow
    sent_at = clock.now
    source.get()
    broker.fault = unavailable()
    broker.on_request = lambda: None
    clock.now = sent_at + LIFETIME
    with pytest.raises(NoTokenInTime):
        source.get()


@pytest.mark.parametrize(
    "fault",
    [
        unavailable(),
        Response(status=429),
        Response(status=500),
        Response(status=504, body=b"<html>"),
        ConnectionRefusedError(),
        TimeoutError(),
        Response(status=200, body=b"{}"),
        Response(status=200, body=b"welcome to the hotel's network"),
    ],
    ids=repr,
)
def test_outage_of_20_seconds_is_survived_without_a_token(
    source: TokenSource, broker: Broker, clock: Clock, fault: Response | Exception
):
    start = clock.now
    broker.fault = fault

    def recover() -> None:
        if clock.now >= start + 20:
            broker.fault = None

    broker.on_request = recover
    assert source.get() == "token-1"
    assert 20 <= clock.now - start <= 30
    assert len(broker.requested) < 15


def test_retry_after_is_honoured_and_the_last_attempt_is_at_the_end_of_the_budget(
    source: TokenSource, broker: Broker, clock: Clock
):
    start = clock.now
    broker.fault = unavailable(retry_after=12)
    with pytest.raises(NoTokenInTime, match="grant deals: no live token in time; last: HTTP 503"):
        source.get()
    gaps = [
        after - before
        for before, after in zip(broker.requested, broker.requested[1:], strict=False)
    ]
    assert gaps[:-1]
    assert all(12 < gap <= 13 for gap in gaps[:-1])
    assert broker.requested[-1] - start == pytest.approx(30)
    assert broker.timeouts[-1] == 0.5


def test_waits_grow_to_a_cap_with_jitter(broker: Broker, clock: Clock):
    source = source_of(broker, clock, retry_budget=timedelta(minutes=10))
    broker.fault = ConnectionError()
    with pytest.raises(NoTokenInTime) as raised:
        source.get()
    assert raised.value.last_status is None
    assert 0.25 <= clock.slept[0] <= 0.5
    assert max(clock.slept) <= 5
    assert len({round(seconds, 6) for seconds in clock.slept}) > 50


@pytest.mark.parametrize(("status", "error"), [(403, NotAllowed), (404, UnknownGrant)])
def test_lasting_refusal_is_not_requested_again(
    source: TokenSource, broker: Broker, status: int, error: type[Exception]
):
    broker.fault = Response(status=status)
    with pytest.raises(error):
        source.get()
    assert len(broker.requested) == 1


@contextmanager
def callers(number: int = THREADS) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(number) as pool:
        yield pool


def test_20_threads_over_three_lifetimes_make_one_call_for_each(
    source: TokenSource, broker: Broker, clock: Clock
):
    used: set[str] = set()
    together = threading.Barrier(THREADS)

    def get(_: int) -> tuple[str, float]:
        together.wait()
        token = source.get()
        return token, broker.left(token)

    with callers() as pool:
        while clock.now < 1000 + 3 * (LIFETIME - 60):
            if broker.left(broker.current) <= 60:
                broker.renew()
            for token, left in pool.map(get, range(THREADS)):
                used.add(token)
                assert left > 0
            clock.now += 12
    assert used == {"token-1", "token-2", "token-3"}
    assert len(broker.requested) == 3


def test_threads_without_a_token_wait_for_one_call(source: TokenSource, broker: Broker):
    arrived = threading.Barrier(THREADS + 1)
    requested = threading.Event()

    def wait_there() -> None:
        requested.set()
        arrived.wait(timeout=10)

    def get() -> str:
        arrived.wait(timeout=10)
        return source.get()

    broker.on_request = wait_there
    with callers() as pool:
        first = pool.submit(source.get)
        assert requested.wait(timeout=10)
        others = [pool.submit(get) for _ in range(THREADS - 1)]
        arrived.wait(timeout=10)
        assert {call.result(timeout=10) for call in (first, *others)} == {"token-1"}
    assert len(broker.requested) == 1


def test_live_token_is_given_at_once_while_it_is_renewed(
    source: TokenSource, broker: Broker, clock: Clock
):
    source.get()
    clock.now += LIFETIME - 60
    requested, responds = threading.Event(), threading.Event()

    def wait() -> None:
        requested.set()
        assert responds.wait(timeout=10)

    broker.on_request = wait
    broker.renew()
    assert {source.get() for _ in range(THREADS)} == {"token-1"}
    assert requested.wait(timeout=10)
    responds.set()
    assert settled(source).get() == "token-2"
    assert len(broker.requested) == 2


def test_caller_that_joins_a_request_waits_no_longer_than_its_own_budget(
    broker: Broker, clock: Clock
):
    source = source_of(broker, clock, retry_budget=timedelta(milliseconds=50))
    requested, responds = threading.Event(), threading.Event()

    def wait() -> None:
        requested.set()
        assert responds.wait(timeout=10)

    broker.on_request = wait
    with callers(1) as pool:
        first = pool.submit(source.get)
        assert requested.wait(timeout=10)
        steps = source.steps()
        assert next(steps).seconds == pytest.approx(0.55)
        with pytest.raises(NoTokenInTime, match="no response yet"):
            next(steps)
        with pytest.raises(NoTokenInTime, match="no response yet"):
            source.get()
        try:
            with pytest.raises(NoTokenInTime):
                first.result(timeout=10)
        finally:
            responds.set()
    assert settled(source).get() == "token-1"


def test_request_that_is_stuck_holds_nobody_up_once_it_is_overdue(
    source: TokenSource, broker: Broker, clock: Clock
):
    """A look-up that never ends, or a thread that was frozen with its connection."""
    source.get()
    clock.now += LIFETIME - 1
    requested, ends = threading.Event(), threading.Event()

    def stick() -> None:
        broker.on_request = lambda: None
        requested.set()
        assert ends.wait(timeout=30)

    broker.on_request = stick
    assert source.get() == "token-1"
    assert requested.wait(timeout=10)
    stuck = source._flight
    assert stuck is not None
    clock.now += 3000
    broker.renew()
    assert source.get() == "token-2"
    ends.set()
    stuck.outcome.exception(timeout=10)
    assert source.get() == "token-2"
    assert source._flight is None


def test_caller_that_joins_a_renewal_has_its_whole_budget(
    source: TokenSource, broker: Broker, clock: Clock
):
    """The renewal alone would end after one attempt."""
    source.get()
    clock.now += LIFETIME - 1
    joined = threading.Event()
    broker.fault = unavailable()
    broker.on_request = lambda: joined.wait(timeout=10)
    source.get()
    clock.now += 1
    steps = source.steps()
    wait = next(steps)
    broker.on_request = lambda: setattr(broker, "fault", None)
    broker.renew()
    joined.set()
    assert wait.outcome.exception(timeout=10) is None
    with pytest.raises(StopIteration) as end:
        next(steps)
    assert end.value.value.access_token == "token-2"


def test_rejected_token_is_reported_and_passed_over_until_another_is_vended(
    source: TokenSource, broker: Broker, clock: Clock
):
    token = source.get()
    start = clock.now

    def recover() -> None:
        if clock.now > start + 3:
            broker.on_request = lambda: None
            broker.renew()

    broker.on_request = recover
    source.reject(token)
    assert broker.reports == [b'{"fingerprint": "%s"}' % fingerprint(token).encode()]
    assert source.get() == "token-2"
    assert clock.now > start + 3
    assert len(broker.reports) == 1


def test_rejected_token_that_is_never_replaced_is_not_given(source: TokenSource):
    source.reject(source.get())
    with pytest.raises(NoTokenInTime, match="not replaced yet") as raised:
        source.get()
    assert raised.value.last_status == 200


def test_token_is_reported_once_however_many_threads_saw_the_401(
    source: TokenSource, broker: Broker
):
    token = source.get()
    broker.renew()
    with callers() as pool:
        assert set(pool.map(source.replacement, [token] * THREADS)) == {"token-2"}
    assert len(broker.reports) == 1
    assert len(broker.requested) == 2


def test_late_report_of_an_older_token_keeps_the_newer_one(source: TokenSource, broker: Broker):
    old = source.get()
    broker.renew()
    source.reject(old)
    assert source.get() == "token-2"
    source.reject("token-0")
    assert source.get() == "token-2"
    assert len(broker.requested) == 2


def test_suspected_token_serves_the_others_until_its_replacement_is_there(
    source: TokenSource, broker: Broker
):
    token = source.get()
    source.suspect(token)
    assert settled(source).get() == token
    assert len(broker.reports) == 1
    broker.renew()
    assert source.replacement(token) == "token-2"
    assert source.get() == "token-2"
    assert len(broker.reports) == 1


@pytest.mark.parametrize(("act", "longest"), [("replacement", 0), ("reject", 6)])
def test_401s_that_no_replacement_ends_do_not_delay_the_other_callers(
    source: TokenSource, broker: Broker, clock: Clock, act: str, longest: float
):
    """One caller that gets a 401 to each token, once a minute for 1,800 seconds."""
    waited, reported = 0.0, 0

    def renew() -> None:
        nonlocal reported
        if len(broker.reports) > reported and clock.now % 60 > 5:
            reported = len(broker.reports)
            broker.renew()

    broker.on_request = renew
    for second in range(1800):
        clock.now = max(clock.now, 960.0 + second)
        if second % 60 == 0:
            getattr(source, act)(source.get())
        began = clock.now
        source.get()
        waited += clock.now - began
        settled(source)
    assert waited <= longest


@pytest.mark.parametrize("status", [403, 404])
def test_broker_without_the_rejection_route_is_not_bothered_again(
    source: TokenSource, broker: Broker, status: int
):
    broker.report_response = Response(status=status)
    assert source.replacement(source.get()) is None
    assert len(broker.reports) == 1


@pytest.mark.parametrize("status", [429, 503])
def test_report_that_did_not_get_through_is_made_again(
    source: TokenSource, broker: Broker, status: int
):
    token = source.get()
    broker.report_response = Response(status=status)
    source.reject(token)
    broker.report_response = Response(status=202)
    broker.on_request = lambda: broker.renew() if len(broker.requested) == 5 else None
    assert source.get() == "token-2"
    assert len(broker.reports) == 2


def test_no_repr_error_or_log_holds_a_token(
    source: TokenSource, broker: Broker, clock: Clock, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG, "enable_broker_client")
    token = source.token()
    assert token.scope == "read:deals"
    source.reject(token.access_token)
    broker.fault = unavailable()
    with pytest.raises(NoTokenInTime) as raised:
        source.get()
    texts = [repr(token), repr(source), repr(broker.vended()), repr(raised.value), caplog.text]
    assert caplog.text
    assert not any("token-1" in text for text in texts)
    assert token.fingerprint == fingerprint("token-1")
    assert len(token.fingerprint) == 12


def test_steady_clock_counts_what_either_clock_counts():
    times = {"monotonic": 50.0, "wall": 1_700_000_000.0}
    clock = SteadyClock(lambda: times["monotonic"], lambda: times["wall"])
    start = clock()
    times["monotonic"] += 10
    times["wall"] += 10
    assert clock() - start == pytest.approx(10)
    times["wall"] += 3600  # the machine slept, or woke from a snapshot
    assert clock() - start == pytest.approx(3610)
    times["wall"] -= 86400  # someone set the clock back
    times["monotonic"] += 5
    assert clock() - start == pytest.approx(3615)
    times["wall"] += 3000  # the machine slept again, for less than the clock was set back
    assert clock() - start == pytest.approx(6615)


def test_steady_clock_does_not_run_fast_when_its_clocks_tick_one_after_the_other():
    times = {"monotonic": 50.0, "wall": 1_700_000_000.0}
    clock = SteadyClock(lambda: times["monotonic"], lambda: times["wall"])
    start = clock()
    for _ in range(1000):
        for name in ("wall", "monotonic"):
            times[name] += 1 / 64
            clock()
    assert clock() - start == pytest.approx(1000 / 64, abs=0.1)
