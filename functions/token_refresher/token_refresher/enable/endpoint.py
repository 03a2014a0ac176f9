"""The token endpoint: one form POST, repeated while that can help."""

import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from token_broker.errors import TokenEndpointError, TokenEndpointUnavailable
from token_refresher.enable.http_client import CONNECT_TIMEOUT, HttpClient, NoResponse
from token_refresher.enable.models import Issued, TokenRequest, TokenResponse
from token_refresher.enable.responses import read_token

ATTEMPT_TIMEOUT: Final = timedelta(seconds=10)
"""From the look-up of the host's name to the last byte, however slowly they arrive."""

MAX_ATTEMPTS: Final = 4
BACKOFF_BASE: Final = timedelta(milliseconds=250)
LONGEST_WAIT: Final = timedelta(seconds=8)
"""Between two attempts of one run; a longer `Retry-After` is left to a later run."""

_HEADERS: Final = {
    "Content-Type": "application/x-www-form-urlencoded",
    "Accept": "application/json",
    "Accept-Encoding": "identity",
}


class TokenEndpoint:
    """An OAuth 2.0 token endpoint for client credentials (RFC 6749 section 4.4).

    Args:
        url: where to POST; https, or http on loopback.
        http: sends the requests.
        now: the clock, aware UTC; replaced in tests.
        sleep: waits a number of seconds; replaced in tests.
        jitter: a factor in [0, 1) for each wait; replaced in tests.
    """

    def __init__(
        self,
        url: str,
        *,
        http: HttpClient,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.url = url
        self._http = http
        self._now = now
        self._sleep = sleep
        self._jitter = jitter

    def request_token(
        self,
        request: TokenRequest,
        *,
        time_left: Callable[[], timedelta],
        attempts: int = MAX_ATTEMPTS,
    ) -> Issued:
        """Request a token, and again while the failure is transient and time is left.

        A `Retry-After` is waited for here while it is short; a longer one ends the call.

        Args:
            request: which token.
            time_left: how long the whole call may still take.
            attempts: how many requests are made at most.

        Raises:
            TokenEndpointUnavailable: every attempt met a transient failure.
            TokenRequestRejected: the endpoint returned an OAuth error.
            InvalidTokenResponse: the response is not a usable token response.
            ConfigurationError: the proxy or the certificates that the environment names are
                unusable.
        """
        attempt = 0
        while True:
            limit = min(time_left(), ATTEMPT_TIMEOUT)
            if limit <= timedelta():
                raise _no_response(NoResponse("timeout"), attempts=attempt)
            attempt += 1
            requested_at = self._now()
            try:
                response = self._attempt(request, limit)
            except TokenEndpointError as error:
                error.attempts = attempt
                if not isinstance(error, TokenEndpointUnavailable) or attempt >= attempts:
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
        try:
            response = self._http.request(
                "POST", self.url, headers=_HEADERS, body=request.form(), limit=limit
            )
        except NoResponse as error:
            raise _no_response(error) from error
        return read_token(response, self._now())


def _no_response(fault: NoResponse, *, attempts: int = 1) -> TokenEndpointUnavailable:
    return TokenEndpointUnavailable(
        f"no response from the token endpoint: {fault}", reason=fault.reason, attempts=attempts
    )
