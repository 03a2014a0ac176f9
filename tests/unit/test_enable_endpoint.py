"""The token endpoint: the exact request, patient retries, and an answer that is not trusted."""

import io
import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl

import pytest
import urllib3
from hypothesis import given
from hypothesis import strategies as st
from urllib3 import exceptions as urllib3_errors

from tests.unit.fakes import (
    CREDENTIALS,
    NOW,
    SECRET,
    TOKEN,
    URL,
    VERSION,
    FakeClock,
    FakePool,
    Scripted,
    all_said,
    answer,
    leaks,
    seconds,
)
from token_broker.errors import (
    InvalidTokenResponse,
    TokenEndpointError,
    TokenEndpointUnavailable,
    TokenRequestRejected,
)
from token_refresher.enable import endpoint as endpoint_module
from token_refresher.enable.deadline import deadline
from token_refresher.enable.endpoint import MAX_BODY_BYTES, OAUTH_ERRORS, TokenEndpoint
from token_refresher.enable.endpoint import parse_retry_after as retry_after
from token_refresher.enable.models import Issued, TokenResponse

SOUND: dict[str, Any] = {"access_token": TOKEN, "token_type": "bearer", "expires_in": 3600}
BUSY = 503
TIMEOUT = urllib3_errors.ReadTimeoutError(FakePool(), URL, "read timed out")  # type: ignore[arg-type]


@dataclass
class Call:
    """One call of the endpoint, in which only waiting takes time."""

    pool: FakePool
    time: float = 60
    clock: FakeClock = field(default_factory=FakeClock)
    waits: list[float] = field(default_factory=list)
    oversleeps: float = 0
    jitter: float = 1.0

    def __call__(self) -> Issued:
        endpoint = TokenEndpoint(
            URL, pool=self.pool, now=self.clock, sleep=self._sleep, jitter=lambda: self.jitter
        )
        return endpoint.request_token(
            VERSION.request(("read:deals", "read:users")),
            time_left=lambda: NOW + seconds(self.time) - self.clock(),
        )

    def _sleep(self, wait: float) -> None:
        self.waits.append(wait)
        self.clock.wind(wait + self.oversleeps)


def call(*script: Scripted, time: float = 60, oversleeps: float = 0, jitter: float = 1.0) -> Call:
    return Call(FakePool(*script), time=time, oversleeps=oversleeps, jitter=jitter)


SAID = {
    "timeout": "the token endpoint did not answer in time",
    "connect": "no connection to the token endpoint",
    "tls": "TLS failed or was not trusted",
    "connection": "the connection broke off",
    "http_(20.|429|5..)": r"the token endpoint answered HTTP \1",
    "http_(4..)": r"the token endpoint answered HTTP \1 without an OAuth error",
    "unknown_error": "the token endpoint answered HTTP 400 with an unregistered error code",
    "redirect": "a redirect (HTTP 30.) is not followed; check TokenUrl",
    "too_large": "the answer is larger than 64 KiB",
    "invalid_response": "the answer is no token response: .+",
} | {
    code: f"the token endpoint answered {code} (HTTP 40.): {text}"
    for code, text in OAUTH_ERRORS.items()
}
"""What operators read, by reason."""


def failure(attempted: Callable[[], object]) -> TokenEndpointError:
    """What a call fails with; whatever it is, it repeats neither secret nor token."""
    with pytest.raises(TokenEndpointError) as caught:
        attempted()
    error = caught.value
    assert not leaks(all_said(error))
    [(reason, said)] = [item for item in SAID.items() if re.fullmatch(item[0], error.reason)][:1]
    said = re.sub(reason, said, error.reason).replace("(", r"\(").replace(")", r"\)")
    assert re.fullmatch(said, str(error))
    return error


def test_request_is_exactly_what_enable_documents() -> None:
    asked = call(answer(200, SOUND))
    asked()
    [(method, url, options)] = asked.pool.requests
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
    timeout = options.pop("timeout")
    assert (timeout.connect_timeout, timeout._read) == (3, 10)
    assert options == {
        "headers": {
            "Content-Type": "application/x-www-form-urlencoded",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
        },
        "retries": False,
        "redirect": False,
        "preload_content": False,
        "decode_content": False,
    }


def test_socket_waits_no_longer_than_the_time_that_is_left() -> None:
    asked = call(answer(200, SOUND), time=2)
    asked()
    timeout = asked.pool.requests[0][2]["timeout"]
    assert (timeout.connect_timeout, timeout._read) == (2, 2)


@pytest.mark.parametrize(
    "extra",
    [{}, {"expires_in": "3600"}, {"scope": "read:users read:deals"}, {"unheard_of": [1]}],
)
def test_sound_answer_is_a_token_response(extra: dict[str, Any]) -> None:
    asked = call(answer(200, SOUND | extra))
    fields = {name: value for name, value in (SOUND | extra).items() if name != "unheard_of"}
    expected = TokenResponse(**fields)
    assert asked() == Issued(response=expected, requested_at=NOW, attempts=1)
    assert asked.waits == []


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (lambda: TIMEOUT, "timeout"),
        (urllib3_errors.ConnectTimeoutError, "timeout"),
        (lambda: urllib3_errors.NewConnectionError(None, "refused"), "connect"),  # type: ignore[arg-type]
        (lambda: urllib3_errors.NameResolutionError("h", None, OSError()), "connect"),  # type: ignore[arg-type]
        (lambda: urllib3_errors.SSLError("certificate verify failed"), "tls"),
        (lambda: urllib3_errors.ProtocolError("Connection aborted."), "connection"),
        (lambda: answer(429), "http_429"),
        (lambda: answer(500, b"<html>"), "http_500"),
        (lambda: answer(503, {"error": "invalid_client"}), "http_503"),
        (lambda: answer(200, b'{"access_token"', {"Content-Length": "99"}), "connection"),
    ],
)
def test_transient_failure_is_met_by_another_try(
    fault: Callable[[], urllib3.HTTPResponse | Exception], reason: str
) -> None:
    asked = call(fault(), answer(200, SOUND))
    issued = asked()
    assert (issued.response.access_token, issued.attempts) == (TOKEN, 2)
    assert (len(asked.pool.requests), asked.waits) == (2, [0.25])
    error = failure(call(fault(), time=1))
    assert isinstance(error, TokenEndpointUnavailable)
    assert (error.reason, error.attempts) == (reason, 1)


def test_failure_whose_cause_quotes_what_was_sent_does_not_keep_that_cause() -> None:
    fault = urllib3_errors.ProtocolError(f"aborted at {SECRET}", {"access_token": TOKEN})
    assert failure(call(fault, time=1)).reason == "connection"


def test_urllib3_is_not_heard_when_it_quotes_malformed_headers() -> None:
    assert not logging.getLogger("urllib3.connection").isEnabledFor(logging.ERROR)


def test_waits_double_and_the_fourth_failure_is_the_last() -> None:
    asked = call(answer(500), TIMEOUT, answer(502), answer(BUSY), answer(200, SOUND))
    error = failure(asked)
    assert asked.waits == [0.25, 0.5, 1.0]
    assert (error.attempts, error.reason) == (4, "http_503")


def test_jitter_shortens_a_wait() -> None:
    asked = call(answer(500), answer(200, SOUND), jitter=0.5)
    asked()
    assert asked.waits == [0.125]


def test_life_counts_from_the_request_that_was_answered_not_from_the_first() -> None:
    issued = call(answer(500), TIMEOUT, answer(200, SOUND))()
    assert (issued.requested_at, issued.attempts) == (NOW + seconds(0.75), 3)


def test_life_counts_from_before_that_request() -> None:
    asked = call(lambda: asked.clock.wind(7) or answer(200, SOUND))  # type: ignore[func-returns-value]
    assert asked().requested_at == NOW


@pytest.mark.parametrize(
    ("header", "waits"),
    [
        ("7", [7]),
        ("8", [8]),
        ("Sat, 01 Mar 2025 12:00:07 GMT", [7]),
        ("0", [0.25]),
        ("Sat, 01 Mar 2025 11:00:00 GMT", [0.25]),
        ("soon", [0.25]),
    ],
)
def test_short_retry_after_is_waited_for(header: str, waits: list[float]) -> None:
    asked = call(answer(429, headers={"Retry-After": header}), answer(200, SOUND))
    assert asked().attempts == 2
    assert asked.waits == waits


@pytest.mark.parametrize(
    ("header", "retry_after"),
    [("9", 9), ("Sat, 01 Mar 2025 13:00:00 GMT", 3600), ("9" * 50, 86_400)],
)
@pytest.mark.parametrize("status", [429, 503])
def test_longer_retry_after_is_left_to_a_later_run(
    header: str, retry_after: float, status: int
) -> None:
    asked = call(answer(status, headers={"Retry-After": header}))
    error = failure(asked)
    assert isinstance(error, TokenEndpointUnavailable)
    assert (error.retry_after, error.attempts) == (seconds(retry_after), 1)
    assert asked.waits == []


@pytest.mark.parametrize(("time", "tries"), [(9.9, 1), (10, 2)])
def test_no_wait_is_begun_that_would_leave_no_time_for_a_try(time: float, tries: int) -> None:
    script = [answer(BUSY, headers={"Retry-After": "7"}) for _ in range(2)]
    asked = call(*script, time=time)
    error = failure(asked)
    assert len(asked.pool.requests) == error.attempts == tries


def test_sleep_that_overruns_what_is_left_ends_as_a_timeout() -> None:
    asked = call(answer(500), time=10, oversleeps=60)
    error = failure(asked)
    assert isinstance(error, TokenEndpointUnavailable)
    assert (error.reason, len(asked.pool.requests)) == ("timeout", 1)


def test_attempts_are_the_requests_that_were_made() -> None:
    asked = call(answer(500), time=10, oversleeps=60)
    assert failure(asked).attempts == len(asked.pool.requests)


def break_off() -> urllib3.HTTPResponse:
    raise urllib3_errors.ProtocolError("Connection aborted.")


@pytest.mark.parametrize("ending", [break_off, lambda: answer(200, SOUND)])
def test_answer_that_drips_beyond_its_deadline_is_a_timeout(
    ending: Callable[[], urllib3.HTTPResponse], monkeypatch: pytest.MonkeyPatch
) -> None:
    deadlines: list[threading.Event] = []

    @contextmanager
    def remembered(limit: timedelta) -> Iterator[threading.Event]:
        with deadline(limit) as passed:
            deadlines.append(passed)
            yield passed

    def drip() -> urllib3.HTTPResponse:
        assert deadlines[-1].wait(timeout=10)
        return ending()

    monkeypatch.setattr(endpoint_module, "deadline", remembered)
    error = failure(call(drip, time=0.02))
    assert isinstance(error, TokenEndpointUnavailable)
    assert (error.reason, error.attempts) == ("timeout", 1)


@pytest.mark.parametrize(
    ("value", "wait"),
    [
        (None, None),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("٣", None),
        ("120", seconds(120)),
        ("9" * 5000, timedelta(days=1)),
        ("Sat, 01 Mar 2025 12:00:00 -0000", None),
    ],
)
def test_retry_after_header_is_seconds_or_a_date(value: str | None, wait: timedelta | None) -> None:
    assert retry_after(value, NOW) == wait


@given(st.text() | st.from_regex(r"\w{3}, \d+ Mar \d+ \d+:\d+:\d+ [+-]?\w+", fullmatch=True))
def test_no_retry_after_is_negative_or_breaks_the_run(value: str) -> None:
    wait = retry_after(value, NOW)
    assert wait is None or wait >= timedelta()


@pytest.mark.parametrize("code", sorted(OAUTH_ERRORS))
def test_oauth_error_is_not_retried_and_its_text_not_passed_on(code: str) -> None:
    echo = f"bad client_secret {SECRET} and {TOKEN}"
    body = {"error": code, "error_description": echo, "error_uri": f"https://x/{SECRET}"}
    asked = call(answer(401 if code == "invalid_client" else 400, body))
    error = failure(asked)
    assert isinstance(error, TokenRequestRejected)
    assert (error.reason, error.attempts, asked.waits) == (code, 1, [])
    assert OAUTH_ERRORS[code] in str(error)


@pytest.mark.parametrize(
    ("answered", "kind", "reason"),
    [
        ((400, {"error": SECRET}), TokenRequestRejected, "unknown_error"),
        ((403, SECRET.encode()), TokenRequestRejected, "http_403"),
        ((404, b""), TokenRequestRejected, "http_404"),
        ((400, {"error": [TOKEN]}), TokenRequestRejected, "http_400"),
        ((300, b""), InvalidTokenResponse, "redirect"),
        ((302, b"", {"Location": "http://x"}), InvalidTokenResponse, "redirect"),
        ((308, SOUND, {"Location": URL}), InvalidTokenResponse, "redirect"),
        ((201, SOUND), InvalidTokenResponse, "http_201"),
        ((204,), InvalidTokenResponse, "http_204"),
        ((200, b""), InvalidTokenResponse, "invalid_response"),
        ((200, b"\xff\xfe"), InvalidTokenResponse, "invalid_response"),
        ((200, [SOUND]), InvalidTokenResponse, "invalid_response"),
        ((200, b"[" * 60_000), InvalidTokenResponse, "invalid_response"),
        ((200, {"error": TOKEN}), InvalidTokenResponse, "invalid_response"),
        ((200, SOUND | {"token_type": TOKEN}), InvalidTokenResponse, "invalid_response"),
        ((200, SOUND | {"access_token": 7}), InvalidTokenResponse, "invalid_response"),
        ((200, SOUND | {"expires_in": True}), InvalidTokenResponse, "invalid_response"),
        ((200, SOUND | {"expires_in": 36.5}), InvalidTokenResponse, "invalid_response"),
        ((200, SOUND | {"expires_in": -1}), InvalidTokenResponse, "invalid_response"),
        ((200, SOUND | {"expires_in": TOKEN}), InvalidTokenResponse, "invalid_response"),
        ((200, SOUND | {"scope": [TOKEN]}), InvalidTokenResponse, "invalid_response"),
    ],
)
def test_other_answer_is_refused_at_once_and_not_repeated(
    answered: tuple[Any, ...], kind: type[TokenEndpointError], reason: str
) -> None:
    asked = call(answer(*answered))
    error = failure(asked)
    assert type(error) is kind
    assert (error.reason, len(asked.pool.requests)) == (reason, 1)


def test_nothing_is_read_beyond_64_kib() -> None:
    padding = MAX_BODY_BYTES - len(answer(200, SOUND).read())
    fitting = answer(200, SOUND).read() + b" " * padding
    assert call(answer(200, fitting))().response.access_token == TOKEN
    endless = answer(200, fitting + b" " * MAX_BODY_BYTES)
    assert failure(call(endless)).reason == "too_large"
    assert endless.closed  # so that the rest is not taken for the next answer
    large = Counted(fitting + b" " * MAX_BODY_BYTES)
    response = urllib3.HTTPResponse(body=large, status=200, preload_content=False)
    assert failure(call(response)).reason == "too_large"
    assert large.bytes_read == MAX_BODY_BYTES + 1


class Counted(io.BytesIO):
    """Counts what was read of it."""

    bytes_read = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.bytes_read += len(data)
        return data


def test_without_time_nothing_is_asked() -> None:
    asked = call(answer(200, SOUND), time=0)
    error = failure(asked)
    assert (error.reason, error.attempts, asked.pool.requests) == ("timeout", 0, [])


class Unreadable(io.RawIOBase):
    def readinto(self, _buffer: object) -> int:
        raise KeyboardInterrupt


def test_connection_of_an_answer_that_cannot_be_read_is_not_used_again() -> None:
    broken = urllib3.HTTPResponse(body=Unreadable(), status=200, preload_content=False)
    with pytest.raises(KeyboardInterrupt):
        call(broken)()
    assert broken.closed


def test_connection_goes_back_to_the_pool_once_the_answer_is_read() -> None:
    returned: list[bool] = []
    response = answer(200, SOUND)
    response.release_conn = lambda: returned.append(True)  # type: ignore[method-assign]
    call(response)()
    assert returned == [True]
