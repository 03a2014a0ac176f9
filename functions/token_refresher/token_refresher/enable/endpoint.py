"""The token endpoint: one form POST, retried while that can help, its answer not trusted."""

import logging
import random
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

import urllib3
from pydantic import TypeAdapter

from token_broker.errors import (
    InvalidTokenResponse,
    TokenEndpointError,
    TokenEndpointUnavailable,
    TokenRequestRejected,
)
from token_refresher.enable.deadline import deadline
from token_refresher.enable.models import Issued, OAuthError, TokenRequest, TokenResponse
from token_refresher.enable.validation import validate_json

MAX_BODY_BYTES: Final = 65_536
CONNECT_TIMEOUT: Final = timedelta(seconds=3)
ATTEMPT_TIMEOUT: Final = timedelta(seconds=10)
"""From connecting to the last byte, however it drips."""

MAX_ATTEMPTS: Final = 4
BACKOFF_BASE: Final = timedelta(milliseconds=250)
LONGEST_WAIT: Final = timedelta(seconds=8)
"""Between two attempts of one run; a longer `Retry-After` is left to a later run."""

OAUTH_ERRORS: Final = {
    "invalid_request": "Enable finds the request malformed",
    "invalid_client": "client_id, client_secret or dealtrack_registration_id is wrong",
    "invalid_grant": "Enable finds the client credentials invalid or revoked",
    "unauthorized_client": "this client may not use client credentials",
    "unsupported_grant_type": "Enable does not know client_credentials here; check TokenUrl",
    "invalid_scope": "these credentials do not permit a scope of the grant",
}
"""The codes of RFC 6749 section 5.2, and what each means to the operator."""

# It quotes malformed headers, which may repeat what was sent.
logging.getLogger("urllib3.connection").setLevel(logging.CRITICAL)

_TOKEN_RESPONSE: Final = TypeAdapter(TokenResponse)
_OAUTH_ERROR: Final = TypeAdapter(OAuthError)


class TokenEndpoint:
    """An OAuth 2.0 token endpoint for client credentials (RFC 6749 section 4.4).

    Args:
        url: where to POST; https, or http on loopback.
        pool: keeps connections between requests and runs.
        now: the clock, aware UTC; replaced in tests.
        sleep: waits a number of seconds; replaced in tests.
        jitter: a factor in [0, 1) for each wait; replaced in tests.
    """

    def __init__(
        self,
        url: str,
        *,
        pool: urllib3.PoolManager,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.url = url
        self._pool = pool
        self._now = now
        self._sleep = sleep
        self._jitter = jitter

    def request_token(self, request: TokenRequest, *, time_left: Callable[[], timedelta]) -> Issued:
        """Ask for a token, and again while the failure is transient and time is left.

        A `Retry-After` is waited for here while it is short; a longer one ends the call.

        Args:
            request: what to ask for.
            time_left: how long the whole call may still take.

        Raises:
            TokenEndpointUnavailable: every attempt met a transient failure.
            TokenRequestRejected: the endpoint answered with an OAuth error.
            InvalidTokenResponse: the answer is no usable token response.
        """
        attempt = 0
        while True:
            limit = min(time_left(), ATTEMPT_TIMEOUT)
            if limit <= timedelta():
                raise _timed_out(attempt)
            attempt += 1
            requested_at = self._now()
            try:
                response = self._attempt(request, limit)
            except TokenEndpointError as error:
                error.attempts = attempt
                if not isinstance(error, TokenEndpointUnavailable) or attempt == MAX_ATTEMPTS:
                    raise
                wait = max(self._backoff(attempt), error.retry_after or timedelta())
                if wait > LONGEST_WAIT or wait + CONNECT_TIMEOUT > time_left():
                    raise
                self._sleep(wait.total_seconds())
            else:
                return Issued(response=response, requested_at=requested_at, attempts=attempt)

    def _backoff(self, attempt: int) -> timedelta:
        """Exponential with full jitter: at most 0.25 s, 0.5 s, 1 s … up to the longest wait."""
        return min(BACKOFF_BASE * (1 << (attempt - 1)), LONGEST_WAIT) * self._jitter()

    def _attempt(self, request: TokenRequest, limit: timedelta) -> TokenResponse:
        fault = None
        with deadline(limit) as passed:
            try:
                status, headers, body = self._post(request, limit)
            except urllib3.exceptions.HTTPError as error:
                fault = _timed_out() if passed.is_set() else _unreachable(error)
        if fault:  # raised here, so that no cause or context holds the request
            raise fault
        if passed.is_set():
            raise _timed_out()
        return _judge(status, headers, body, self._now())

    def _post(
        self, request: TokenRequest, limit: timedelta
    ) -> tuple[int, Mapping[str, str], bytes]:
        answer = self._pool.request(
            "POST",
            self.url,
            body=request.form(),
            headers={
                "Content-Type": "application/x-www-form-urlencoded",
                "Accept": "application/json",
                "Accept-Encoding": "identity",
            },
            timeout=urllib3.Timeout(
                connect=min(CONNECT_TIMEOUT, limit).total_seconds(),
                read=limit.total_seconds(),
            ),
            retries=False,
            redirect=False,
            preload_content=False,
            decode_content=False,
        )
        try:
            body = answer.read(MAX_BODY_BYTES + 1)
        except BaseException:
            answer.close()
            raise
        if len(body) <= MAX_BODY_BYTES and answer.length_remaining:
            raise urllib3.exceptions.IncompleteRead(len(body), answer.length_remaining)
        if len(body) > MAX_BODY_BYTES:
            answer.close()
        else:
            answer.release_conn()
        return answer.status, answer.headers, body


def _timed_out(attempts: int = 1) -> TokenEndpointUnavailable:
    return TokenEndpointUnavailable(
        "the token endpoint did not answer in time", reason="timeout", attempts=attempts
    )


def _unreachable(error: urllib3.exceptions.HTTPError) -> TokenEndpointUnavailable:
    if isinstance(error, urllib3.exceptions.SSLError):
        return TokenEndpointUnavailable("TLS failed or was not trusted", reason="tls")
    if isinstance(error, urllib3.exceptions.NewConnectionError):
        return TokenEndpointUnavailable("no connection to the token endpoint", reason="connect")
    if isinstance(error, urllib3.exceptions.TimeoutError):
        return _timed_out()
    return TokenEndpointUnavailable("the connection broke off", reason="connection")


def _judge(status: int, headers: Mapping[str, str], body: bytes, now: datetime) -> TokenResponse:
    """Turn an answer into a token response, or into the error that it is."""
    if status == 429 or status >= 500:
        raise TokenEndpointUnavailable(
            f"the token endpoint answered HTTP {status}",
            reason=f"http_{status}",
            retry_after=parse_retry_after(headers.get("Retry-After"), now),
        )
    if 300 <= status < 400:
        raise InvalidTokenResponse(
            f"a redirect (HTTP {status}) is not followed; check TokenUrl",
            reason="redirect",
        )
    if len(body) > MAX_BODY_BYTES:
        raise InvalidTokenResponse("the answer is larger than 64 KiB", reason="too_large")
    if status >= 400:
        raise _rejection(status, body)
    if status != 200:
        raise InvalidTokenResponse(
            f"the token endpoint answered HTTP {status}", reason=f"http_{status}"
        )
    try:
        return validate_json(_TOKEN_RESPONSE, body)
    except ValueError as error:
        raise InvalidTokenResponse(
            f"the answer is no token response: {error}", reason="invalid_response"
        ) from None


def _rejection(status: int, body: bytes) -> TokenRequestRejected:
    """Map a 4xx to its OAuth error; nothing that the endpoint wrote is passed on."""
    try:
        code = validate_json(_OAUTH_ERROR, body).error
    except ValueError:
        return TokenRequestRejected(
            f"the token endpoint answered HTTP {status} without an OAuth error",
            reason=f"http_{status}",
        )
    if code not in OAUTH_ERRORS:
        return TokenRequestRejected(
            f"the token endpoint answered HTTP {status} with an unregistered error code",
            reason="unknown_error",
        )
    return TokenRequestRejected(
        f"the token endpoint answered {code} (HTTP {status}): {OAUTH_ERRORS[code]}", reason=code
    )


def parse_retry_after(value: str | None, now: datetime) -> timedelta | None:
    """A `Retry-After` header (RFC 9110 section 10.2.3): seconds, or an HTTP date.

    Returns:
        How long to wait, never negative; None if the header is absent or absurd.
    """
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return timedelta(seconds=min(int(value[:9]), 86_400))
    try:
        return max(parsedate_to_datetime(value) - now, timedelta())
    except (ValueError, TypeError, OverflowError):
        return None
