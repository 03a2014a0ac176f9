"""A grant's live token, kept in this process: shared by all threads and tasks, renewed in time."""

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final, TypeVar, cast

from enable_broker_client.api import Token, TokenApi, fingerprint
from enable_broker_client.clock import SteadyClock
from enable_broker_client.errors import BrokerClientError, NoCredentials, NotNow, NoTokenInTime
from enable_broker_client.forks import remade_in_child
from enable_broker_client.signing import Session, Signer
from enable_broker_client.transport import HttpTransport, Transport

_REQUEST_SECONDS: Final = 10.0  # the vend function takes longer only in a cold storm
_ASIDE_SECONDS: Final = 5.0  # for what no caller waits for: an early renewal, a report
_LAST_REQUEST_SECONDS: Final = 0.5  # for a request that begins when the budget ends
_FIRST_WAIT_SECONDS: Final = 0.5
_LONGEST_WAIT_SECONDS: Final = 5.0
_RENEWAL_PAUSE_SECONDS: Final = 10.0  # between two early renewals, at most
_OVERDUE_SECONDS: Final = 20.0  # a report and a request, and a look-up before each
_NOBODY_WAITS: Final = float("-inf")

_Found = TypeVar("_Found")

_logger = logging.getLogger("enable_broker_client")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """A token that is kept; times are the source's clock's.

    Attributes:
        is_replacement: the token before it was refused.
    """

    token: Token
    expires_at: float
    renew_at: float
    is_replacement: bool


@dataclass(slots=True)
class _Flight:
    """Requests for a token, in a thread; shared by all that wait for their outcome.

    Attributes:
        deadline: by the source's clock; the last attempt begins then. Those who join put it off.
        overdue_at: a flight that goes on after that is stuck: in a look-up of a host or of
            credentials, or frozen with its connection. The next caller starts another.
        failure: the last status and reason.
    """

    deadline: float
    overdue_at: float
    failure: tuple[int | None, str] = (None, "the request has no response yet")
    outcome: Future[None] = field(default_factory=Future)


@dataclass(frozen=True, slots=True)
class Wait:
    """What a caller without a token waits for, by a thread's means or an event loop's.

    Attributes:
        outcome: done when the caller may go on.
        seconds: to wait at most.
    """

    outcome: Future[None]
    seconds: float

    def block(self) -> None:
        """Wait in this thread."""
        with suppress(TimeoutError):
            self.outcome.exception(self.seconds)


class TokenSource:
    """Gives the live token of one grant; made once, shared by all threads and tasks.

    A live token is returned at once. From a margin before its expiry on, a thread of the source
    tries to renew it meanwhile. Without a live token one thread requests one, again and again
    within the budget, and every caller waits for it.

    Args:
        url: the stack's `TokenApiUrl`.
        grant: the grant's name.
        session: a boto3 or botocore session; by default botocore's, made at the first request.
        region: what to sign for where no execute-api host names it; by default the session's.
        min_ttl: the margin before expiry, at most half of what was left when the token was got.
        retry_budget: how long a call may wait when there is no live token; a request that begins
            at its end may take half a second more.
        host: the Host header, where it is not the URL's: a VPC endpoint, the embedded AWS.
        transport: sends a request; by default over HTTP.
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
        self._api = TokenApi(url, grant, signer, transport or HttpTransport())
        self._min_ttl = min_ttl.total_seconds()
        self._budget = retry_budget.total_seconds()
        self._clock = clock or SteadyClock()
        self._sleep = sleep
        # Never locked during a request. `_kept` is read without it, as one immutable record.
        self._lock = threading.Lock()
        self._kept: _Kept | None = None
        self._flight: _Flight | None = None
        self._refused: deque[str] = deque(maxlen=16)
        self._is_refused = False  # the last token that was kept
        self._unreported: str | None = None
        self._report_at = 0.0
        remade_in_child(self)

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
            NoCredentials: likewise, for want of AWS credentials.
            NotAllowed, UnknownGrant, NotConfigured, InvalidRequest, UnexpectedResponse: there is
                none, and another request would not help.
        """
        return _blocking(self.steps())

    def reject(self, token: str) -> None:
        """Drop a token that Enable refused with 401, and report it to the broker. Never raises.

        The broker still vends it until it has renewed the grant; such a token is passed over. A
        token that replaced a refused one stays in use until its own replacement is there: more
        likely than two bad tokens is a route that refuses each of them.
        """
        if self._doubt(token, is_certain=True):
            Wait(self._join(_NOBODY_WAITS).outcome, _ASIDE_SECONDS).block()

    def suspect(self, token: str) -> None:
        """As `reject`, but others may use the token until its replacement is there; at once."""
        if self._doubt(token, is_certain=False):
            self._join(_NOBODY_WAITS)

    def replacement(self, token: str) -> str | None:
        """Suspect a token, and give the one to use instead; None if there is none in time."""
        return _blocking(self.replacement_steps(token))

    def steps(self) -> Generator[Wait, None, Token]:
        """`token`, for any way to wait: yields what to wait for before going on.

        Raises:
            BrokerClientError: as `token`.
        """
        return self._steps(self._live)

    def replacement_steps(self, token: str) -> Generator[Wait, None, str | None]:
        """`replacement`, for any way to wait."""
        self._doubt(token, is_certain=False)
        try:
            return (yield from self._steps(self._unsuspected)).access_token
        except BrokerClientError as error:
            _logger.warning("no replacement for a token that Enable refused: %s", error)
            return None

    def remake_in_child(self) -> None:
        """Forget a flight whose thread runs in the parent alone, and a lock that it had."""
        self._lock = threading.Lock()
        self._flight = None

    def _steps(self, find: Callable[[], _Kept | None]) -> Generator[Wait, None, Token]:
        deadline = self._clock() + self._budget
        while (kept := find()) is None:
            flight, now = self._join(deadline), self._clock()
            left = max(0.0, deadline - now) + _LAST_REQUEST_SECONDS
            patience = max(0.0, flight.overdue_at - now) + _LAST_REQUEST_SECONDS
            yield Wait(flight.outcome, min(left, patience))
            if not flight.outcome.done():
                if left <= patience:
                    raise self._no_token_in_time(flight)
            elif error := flight.outcome.exception():
                raise error
        return kept.token

    def _live(self) -> _Kept | None:
        kept, now = self._kept, self._clock()
        if kept and now < kept.expires_at and now >= kept.renew_at:
            self._join(_NOBODY_WAITS)
        return kept if kept and self._clock() < kept.expires_at else None

    def _unsuspected(self) -> _Kept | None:
        kept = self._live()
        return kept if kept and kept.token.fingerprint not in self._refused else None

    def _doubt(self, token: str, *, is_certain: bool) -> bool:
        """Pass over a refused token from now on; False if it is, or is in use no more."""
        name = fingerprint(token)
        with self._lock:
            kept = self._kept
            if name in self._refused or (kept and kept.token.fingerprint != name):
                return False
            self._refused.append(name)
            self._is_refused = True
            self._unreported, self._report_at = name, self._clock()
            if kept and is_certain and not kept.is_replacement:
                self._kept = None
        return True

    def _join(self, deadline: float) -> _Flight:
        """The flight in progress, or a new one; it goes on until the deadline at least."""
        with self._lock:
            flight, now = self._flight, self._clock()
            if flight and now <= flight.overdue_at:
                flight.deadline = max(flight.deadline, deadline)
                return flight
            flight = self._flight = _Flight(deadline, now + _OVERDUE_SECONDS)
        thread = threading.Thread(target=self._fly, args=(flight,), daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is about to end, and starts no more threads
            self._fly(flight)
        return flight

    def _fly(self, flight: _Flight) -> None:
        """Request until there is a token, or no one waits any more."""
        try:
            self._land(flight, self._requested(flight))
        except BaseException as error:
            self._crash(flight, error)

    def _land(self, flight: _Flight, new: _Kept) -> None:
        """Use a new token, unless what is kept lasts longer and nobody refused it."""
        with self._lock:
            kept = self._kept
            is_good = kept and kept.token.fingerprint not in self._refused
            if kept and is_good and self._clock() < kept.expires_at >= new.expires_at:
                self._kept = self._put_off(kept, _RENEWAL_PAUSE_SECONDS)
            else:
                self._kept, self._is_refused = new, False
            self._end(flight)
        flight.outcome.set_result(None)

    def _crash(self, flight: _Flight, error: BaseException) -> None:
        """Leave what is kept in use; it is due again after a pause."""
        pause = error.retry_after if isinstance(error, NotNow) else 0
        reason = str(error) if isinstance(error, BrokerClientError) else type(error).__name__
        with self._lock:
            kept = self._kept
            if kept:
                self._kept = self._put_off(kept, pause or _RENEWAL_PAUSE_SECONDS)
            self._end(flight)
        if kept:
            _logger.warning("token not renewed yet, the live one is used: %s", reason)
        if isinstance(error, NotNow):
            error = self._no_token_in_time(flight)
        flight.outcome.set_exception(error)

    def _end(self, flight: _Flight) -> None:
        if self._flight is flight:
            self._flight = None

    def _put_off(self, kept: _Kept, pause: float) -> _Kept:
        left = kept.expires_at - self._clock()
        return replace(kept, renew_at=self._clock() + max(1.0, min(pause, left / 2)))

    def _requested(self, flight: _Flight) -> _Kept:
        """Try until there is a token or the deadline has passed; the last time at its very end.

        Raises:
            BrokerClientError: `NotNow` or `NoCredentials` when the deadline has passed.
        """
        longest = _FIRST_WAIT_SECONDS
        while True:
            flight.overdue_at = self._clock() + _OVERDUE_SECONDS
            try:
                return self._attempt(self._time_out(flight))
            except (NotNow, NoCredentials) as failure:
                status, retry_after = getattr(failure, "status", None), 0.0
                if isinstance(failure, NotNow) and failure.retry_after:
                    retry_after = failure.retry_after + _jitter()
                flight.failure = status, str(failure)
                with self._lock:  # nobody joins between the look at the deadline and the end
                    left = flight.deadline - self._clock()
                    if left <= 0:
                        self._end(flight)
                        raise
            pause = min(left, max(retry_after, longest * _jitter()))
            flight.overdue_at = self._clock() + pause + _OVERDUE_SECONDS
            self._sleep(pause)
            longest = min(_LONGEST_WAIT_SECONDS, 2 * longest)

    def _time_out(self, flight: _Flight) -> float:
        """Seconds for one request."""
        if flight.deadline == _NOBODY_WAITS:
            return _ASIDE_SECONDS
        return min(_REQUEST_SECONDS, max(_LAST_REQUEST_SECONDS, flight.deadline - self._clock()))

    def _attempt(self, timeout: float) -> _Kept:
        """Request once.

        Raises:
            BrokerClientError: there is no token that may be used; `NotNow` if it may come.
        """
        if self._unreported and self._clock() >= self._report_at:
            self._report(self._unreported, min(timeout, _ASIDE_SECONDS))
        sent_at = self._clock()
        refused = self._refused[-1] if self._refused else ""
        token, expires_in = self._api.vend(timeout, other_than=refused)
        if token.fingerprint in self._refused:
            raise NotNow("the token that Enable refused is not replaced yet", status=200)
        expires_at = sent_at + expires_in
        left = expires_at - self._clock()
        if left <= 0:
            raise NotNow("the token had expired when it came", status=200)
        renew_at = expires_at - min(self._min_ttl, left / 2)
        return _Kept(
            token=token,
            expires_at=expires_at,
            renew_at=renew_at,
            is_replacement=self._is_refused,
        )

    def _report(self, name: str, timeout: float) -> None:
        """Report a refused token to the broker; if that fails, again at a later attempt."""
        try:
            status = self._api.report(name, timeout)
        except BrokerClientError as error:
            pause = error.retry_after if isinstance(error, NotNow) else 0
            self._report_at = self._clock() + pause
            _logger.warning("refusal of %s by Enable not reported yet: %s", name, error)
            return
        with self._lock:
            if self._unreported == name:
                self._unreported = None
        _logger.info("refusal of %s by Enable reported: HTTP %s", name, status)

    def _no_token_in_time(self, flight: _Flight) -> NoTokenInTime:
        status, reason = flight.failure
        return NoTokenInTime(grant=self._api.grant, last_status=status, reason=reason)


def _blocking(steps: Generator[Wait, None, _Found]) -> _Found:  # noqa: UP047  Python 3.11
    """Take the steps in this thread."""
    while True:
        try:
            next(steps).block()
        except StopIteration as end:
            return cast("_Found", end.value)


def _jitter() -> float:
    """Between a half and one, so that callers that failed together do not retry together."""
    return random.uniform(0.5, 1)  # noqa: S311  spreads load, guards nothing
