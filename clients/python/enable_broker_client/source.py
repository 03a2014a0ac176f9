"""A grant's live token, kept in this process: got once, shared by all threads, renewed in time."""

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from enable_broker_client.api import Token, TokenApi, fingerprint
from enable_broker_client.errors import BrokerClientError, NotNow, NoTokenInTime
from enable_broker_client.signing import Session, Signer
from enable_broker_client.transport import Transport, Urllib3Transport

_REQUEST_SECONDS: Final = 10.0  # the vend function's own worst case, a cold start included
_ASIDE_SECONDS: Final = 5.0  # for what a caller need not wait for: an early renewal, a report
_FIRST_WAIT_SECONDS: Final = 0.5
_LONGEST_WAIT_SECONDS: Final = 5.0
_RENEWAL_PAUSE_SECONDS: Final = 10.0  # between two early renewals, at most

_logger = logging.getLogger("enable_broker_client")


class SteadyClock:
    """Seconds since some moment: never back, and never slower than either of two clocks.

    The monotonic clock stands still while a machine sleeps, or lies in a snapshot as a Lambda
    environment may; the wall clock can be wrong or be set. Their larger advance lets a token
    look older than it is, at the price of one early renewal, but never younger.
    """

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._monotonic = monotonic
        self._wall = wall
        self._offset = wall() - monotonic()
        self._lead = 0.0

    def __call__(self) -> float:
        """The seconds."""
        monotonic = self._monotonic()
        self._lead = max(self._lead, self._wall() - monotonic - self._offset)
        return monotonic + self._lead


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """A token in hand; times are the source's clock's."""

    token: Token
    expires_at: float
    renew_at: float


class TokenSource:
    """Gives the live token of one grant; made once, shared by all threads.

    While a token has more than a margin left, no request is made. Within the margin one thread
    tries a renewal while the others go on with the live token, and so does that thread if the
    renewal fails. Without a live token one thread asks, again and again within the budget, and
    the others wait for it.

    Args:
        url: the stack's `TokenApiUrl`.
        grant: the grant's name.
        session: a boto3 or botocore session; by default botocore's, made at the first request.
        region: what to sign for where no execute-api host names it; by default the session's.
        min_ttl: the margin before expiry, at most half of what was left when the token was got.
        retry_budget: how long a call may go on asking when there is no live token; a request
            begun at its end may take a second more.
        host: the Host header, where it is not the URL's: a VPC endpoint, the embedded AWS.
        transport: sends a request; by default urllib3.
        clock: seconds that only grow; by default a `SteadyClock`.
        sleep: waits for that many seconds.

    Raises:
        ValueError: the URL is not https (or http to this machine), or the grant's name is none.
    """

    def __init__(  # noqa: PLR0913  all but two are for the rare case, and have defaults
        self,
        url: str,
        grant: str,
        *,
        session: Session | None = None,
        region: str | None = None,
        min_ttl: timedelta = timedelta(seconds=60),
        retry_budget: timedelta = timedelta(seconds=30),
        host: str | None = None,
        transport: Transport | None = None,
        clock: Callable[[], float] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        signer = Signer(url, session=session, region=region, host=host)
        self._api = TokenApi(url, grant, signer, transport or Urllib3Transport())
        self._min_ttl = min_ttl.total_seconds()
        self._budget = retry_budget.total_seconds()
        self._clock = clock or SteadyClock()
        self._sleep = sleep
        # Only changed under the lock; `_held` is read without it, as one immutable record.
        self._lock = threading.Lock()
        self._held: _Held | None = None
        self._rejected: deque[str] = deque(maxlen=16)
        self._unreported: str | None = None
        self._last_failure: tuple[int | None, str] = (None, "another thread is requesting it")

    def get(self) -> str:
        """The access token, live now.

        Raises:
            BrokerClientError: as `token`.
        """
        return self.token().access_token

    def token(self) -> Token:
        """The token with its scope and expiry, live now.

        Raises:
            NoTokenInTime: there is none, and none came within the retry budget.
            NotAllowed, UnknownGrant, NotConfigured, InvalidRequest, UnexpectedResponse: there is
                none, and asking again would not help.
        """
        deadline = self._clock() + self._budget
        held = self._live()
        if held is None or self._is_due(held):
            held = self._renewed(held, deadline)
        return held.token

    def reject(self, token: str) -> None:
        """Drop a token that Enable refused with 401, and tell the broker. Never raises.

        The broker still vends it until it has renewed the grant; such a token is passed over.
        """
        name = fingerprint(token)
        with self._lock:
            if name in self._rejected:
                return
            self._rejected.append(name)
            if self._held and self._held.token.fingerprint == name:
                self._held = None
            self._report(name)

    def replacement(self, token: str) -> str | None:
        """Reject a token, and give the one to use instead; None if there is none in time."""
        self.reject(token)
        try:
            return self.get()
        except BrokerClientError as error:
            _logger.warning("no replacement for a token that Enable refused: %s", error)
            return None

    def _live(self) -> _Held | None:
        held = self._held
        return held if held and self._clock() < held.expires_at else None

    def _is_due(self, held: _Held) -> bool:
        return self._clock() >= held.renew_at

    def _renewed(self, live: _Held | None, deadline: float) -> _Held:
        """Single flight: one thread asks; the others use the live token, or wait for a new one."""
        if live:
            if not self._lock.acquire(blocking=False):
                return live
        elif not self._lock.acquire(timeout=max(0.0, deadline - self._clock())):
            raise self._no_token_in_time()
        try:
            held = self._live()  # look again: another thread may have been here
            if held and self._is_due(held):
                self._held = self._renew_early(held)
                held = self._live()
            if held is None:
                held = self._held = self._fetch(deadline)
            return held
        finally:
            self._lock.release()

    def _renew_early(self, held: _Held) -> _Held:
        """Ask once; what is held stays, and is due again after a pause, unless a newer one came."""
        left = held.expires_at - self._clock()
        pause = _RENEWAL_PAUSE_SECONDS
        try:
            new = self._ask(min(_ASIDE_SECONDS, left / 2))
        except BrokerClientError as error:
            _logger.warning("token not renewed yet, the live one is used: %s", error)
            if isinstance(error, NotNow) and error.retry_after:
                pause = error.retry_after
        else:
            if new.expires_at > held.expires_at:
                return new
        return replace(held, renew_at=self._clock() + max(1.0, min(pause, left / 2)))

    def _fetch(self, deadline: float) -> _Held:
        """Ask until there is a token or the budget is spent; the last time at its very end."""
        longest = _FIRST_WAIT_SECONDS
        while True:
            left = deadline - self._clock()
            try:
                return self._ask(min(_REQUEST_SECONDS, max(1.0, left)))
            except NotNow as failure:
                self._last_failure = failure.status, str(failure)
                left = deadline - self._clock()
                if left <= 0:
                    raise self._no_token_in_time() from failure
                wait = longest * _jitter()
                if failure.retry_after:
                    wait = max(wait, failure.retry_after + _jitter())
            self._sleep(min(left, wait))
            longest = min(_LONGEST_WAIT_SECONDS, 2 * longest)

    def _ask(self, timeout: float) -> _Held:
        """Ask once.

        Raises:
            BrokerClientError: there is no token that may be used; `NotNow` if it may come.
        """
        asked_at = self._clock()
        refused = self._rejected[-1] if self._rejected else ""
        token, expires_in = self._api.vend(timeout, other_than=refused)
        if token.fingerprint in self._rejected:
            if token.fingerprint == self._unreported:
                self._report(token.fingerprint)
            raise NotNow("the token that Enable refused is not replaced yet", status=200)
        expires_at = asked_at + expires_in
        left = expires_at - self._clock()
        if left <= 0:
            raise NotNow("the token had expired when it came", status=200)
        renew_at = expires_at - min(self._min_ttl, left / 2)
        return _Held(token=token, expires_at=expires_at, renew_at=renew_at)

    def _report(self, name: str) -> None:
        """Tell the broker of a rejected token; if it cannot be told, so when it is next vended."""
        try:
            status = self._api.report(name, _ASIDE_SECONDS)
            self._unreported = None
            _logger.info("broker told that Enable refused %s: HTTP %s", name, status)
        except BrokerClientError as error:
            self._unreported = name
            _logger.warning("broker not told yet that Enable refused %s: %s", name, error)

    def _no_token_in_time(self) -> NoTokenInTime:
        status, reason = self._last_failure
        return NoTokenInTime(grant=self._api.grant, last_status=status, reason=reason)


def _jitter() -> float:
    """Between a half and one, so that callers that failed together do not ask together."""
    return random.uniform(0.5, 1)  # noqa: S311  spreads load, guards nothing
