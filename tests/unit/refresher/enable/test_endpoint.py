"""The token endpoint: the exact request, and when it is repeated."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import pytest

from tests.unit.fakes import (
    CREDENTIALS,
    NOW,
    SECRET,
    TOKEN,
    URL,
    VERSION,
    FakeClock,
    FakeHttp,
    Scripted,
    all_said,
    leaks,
    returned,
    seconds,
)
from token_broker.errors import (
    InvalidTokenResponse,
    TokenEndpointError,
    TokenEndpointUnavailable,
    TokenRequestRejected,
)
from token_refresher.enable.endpoint import TokenEndpoint
from token_refresher.enable.http_client import FAULTS, NoResponse, Response
from token_refresher.enable.models import Issued, TokenResponse

VALID: dict[str, Any] = {"access_token": TOKEN, "token_type": "bearer", "expires_in": 3600}
BUSY = 503
TIMEOUT = NoResponse("timeout")


@dataclass
class Call:
    """One call of the endpoint, in which only waiting takes time."""

    http: FakeHttp
    time: float = 60
    clock: FakeClock = field(default_factory=FakeClock)
    waits: list[float] = field(default_factory=list)
    oversleeps: float = 0
    jitter: float = 1.0

    def __call__(self) -> Issued:
        endpoint = TokenEndpoint(
            URL, http=self.http, now=self.clock, sleep=self._sleep, jitter=lambda: self.jitter
        )
        return endpoint.request_token(
            VERSION.request(("read:deals", "read:users")),
            time_left=lambda: NOW + seconds(self.time) - self.clock(),
        )

    def _sleep(self, wait: float) -> None:
        self.waits.append(wait)
        self.clock.wind(wait + self.oversleeps)


def call(*script: Scripted, time: float = 60, oversleeps: float = 0, jitter: float = 1.0) -> Call:
    return Call(FakeHttp(*script), time=time, oversleeps=oversleeps, jitter=jitter)


def failure(attempted: Callable[[], object]) -> TokenEndpointError:
    """What a call fails with; whatever it is, it repeats neither secret nor token."""
    with pytest.raises(TokenEndpointError) as caught:
        attempted()
    assert not leaks(all_said(caught.value))
    return caught.value


def test_request_is_exactly_what_enable_documents() -> None:
    called = call(returned(200, VALID))
    called()
    [(method, url, options)] = called.http.requests
    assert (method, url) == ("POST", URL)
    body = options.pop("body")
    assert b"client_secret=p%2Bss+w%26rd%3D%25%2F%C3%BC%E2%82%AC%22%5C&" in body
    assert parse_qsl(body.decode("ascii"), strict_parsing=True) == [
        ("client_id", CREDENTIALS.client_id),
        ("client_secret", SECRET),
        ("dealtrack_registration_id", CREDENTIALS.dealtrack_registration_id),
        ("scope", "read:deals read:users"),
        ("grant_type", "client_credentials"),
    ]
    assert options == {
        "headers": {
            "Content-Type": "application/x-www-form-urlencoded",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
        },
        "limit": seconds(10),
    }


def test_attempt_takes_no_longer_than_the_time_that_is_left() -> None:
    called = call(returned(200, VALID), time=2)
    called()
    assert called.http.requests[0][2]["limit"] == seconds(2)


def test_token_response_is_returned_with_the_time_of_its_request() -> None:
    called = call(returned(200, VALID | {"unknown": [1]}))
    expected = TokenResponse(**VALID)
    assert called() == Issued(response=expected, requested_at=NOW, attempts=1)
    assert called.waits == []


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        *((NoResponse(reason), reason) for reason in FAULTS),
        (returned(408), "http_408"),
        (returned(425), "http_425"),
        (returned(429), "http_429"),
        (returned(500, b"<html>"), "http_500"),
        (returned(400, {"error": "temporarily_unavailable"}), "temporarily_unavailable"),
    ],
)
def test_transient_failure_is_followed_by_another_attempt(fault: Scripted, reason: str) -> None:
    called = call(fault, returned(200, VALID))
    issued = called()
    assert (issued.response.access_token, issued.attempts) == (TOKEN, 2)
    assert (len(called.http.requests), called.waits) == (2, [0.25])
    error = failure(call(fault, time=1))
    assert isinstance(error, TokenEndpointUnavailable)
    assert (error.reason, error.attempts) == (reason, 1)
    if reason in FAULTS:
        assert str(error) == f"no response from the token endpoint: {FAULTS[reason]}"


def test_waits_double_and_the_fourth_failure_is_the_last() -> None:
    called = call(returned(500), TIMEOUT, returned(502), returned(BUSY), returned(200, VALID))
    error = failure(called)
    assert called.waits == [0.25, 0.5, 1.0]
    assert (error.attempts, error.reason) == (4, "http_503")


def test_jitter_shortens_a_wait() -> None:
    called = call(returned(500), returned(200, VALID), jitter=0.5)
    called()
    assert called.waits == [0.125]


def test_life_counts_from_the_request_that_was_successful_not_from_the_first() -> None:
    issued = call(returned(500), TIMEOUT, returned(200, VALID))()
    assert (issued.requested_at, issued.attempts) == (NOW + seconds(0.75), 3)


def test_life_counts_from_before_that_request() -> None:
    def slow() -> Response:
        called.clock.wind(7)
        return returned(200, VALID)

    called = call(slow)
    assert called().requested_at == NOW


@pytest.mark.parametrize(
    ("header", "waits"),
    [
        ("7", [7]),
        ("8", [8]),
        ("1.5", [1.5]),
        ("Sat, 01 Mar 2025 12:00:07 GMT", [7]),
        ("0", [0.25]),
        ("Sat, 01 Mar 2025 11:00:00 GMT", [0.25]),
        ("soon", [0.25]),
    ],
)
def test_short_retry_after_is_waited_for(header: str, waits: list[float]) -> None:
    called = call(returned(429, headers={"Retry-After": header}), returned(200, VALID))
    assert called().attempts == 2
    assert called.waits == waits


@pytest.mark.parametrize(
    ("header", "retry_after"),
    [
        ("9", 9),
        ("120, 120", 120),
        ("Sat, 01 Mar 2025 13:00:00 GMT", 3600),
        ("9" * 50, 86_400),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_longer_retry_after_is_left_to_a_later_run(
    header: str, retry_after: float, status: int
) -> None:
    called = call(returned(status, headers={"Retry-After": header}))
    error = failure(called)
    assert isinstance(error, TokenEndpointUnavailable)
    assert (error.retry_after, error.attempts) == (seconds(retry_after), 1)
    assert called.waits == []


@pytest.mark.parametrize(("time", "attempts"), [(9.9, 1), (10, 2)])
def test_no_wait_is_begun_that_would_leave_no_time_for_an_attempt(
    time: float, attempts: int
) -> None:
    script = [returned(BUSY, headers={"Retry-After": "7"}) for _ in range(2)]
    called = call(*script, time=time)
    error = failure(called)
    assert len(called.http.requests) == error.attempts == attempts


def test_sleep_that_overruns_what_is_left_ends_as_a_timeout() -> None:
    called = call(returned(500), time=10, oversleeps=60)
    error = failure(called)
    assert isinstance(error, TokenEndpointUnavailable)
    assert (error.reason, len(called.http.requests), error.attempts) == ("timeout", 1, 1)


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (returned(401, {"error": "invalid_client"}), TokenRequestRejected),
        (returned(403, headers={"Retry-After": "1"}), TokenRequestRejected),
        (returned(302), InvalidTokenResponse),
        (returned(200, b""), InvalidTokenResponse),
    ],
)
def test_other_response_is_refused_at_once_and_not_repeated(
    response: Response, kind: type[TokenEndpointError]
) -> None:
    called = call(response)
    error = failure(called)
    assert type(error) is kind
    assert (error.attempts, len(called.http.requests), called.waits) == (1, 1, [])


def test_without_time_nothing_is_requested() -> None:
    called = call(returned(200, VALID), time=0)
    error = failure(called)
    assert (error.reason, error.attempts, called.http.requests) == ("timeout", 0, [])
