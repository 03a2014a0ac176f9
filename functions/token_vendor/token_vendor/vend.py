"""Who may have which token, and what is vended.

Pure of AWS, HTTP and the environment: the clocks and the store come as parameters.
"""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

from token_broker.callers import is_allowed
from token_broker.errors import (
    BrokerError,
    CallerNotAllowed,
    CorruptStoredToken,
    GrantBlocked,
    InvalidScope,
    NoFittingToken,
    NoLiveToken,
    RejectionTooSoon,
    UnknownGrant,
)
from token_broker.expiry import is_due, is_fresh
from token_broker.grants import Grant
from token_broker.models import StoredToken
from token_vendor.moment import Moment

RETRY_AFTER: Final = timedelta(seconds=5)
"""A request that finds no live token starts a refresh run, which takes about as long."""

RECHECK_AFTER: Final = timedelta(seconds=1)
"""A stored token that does not fit is not read again sooner, however many requests come."""

SECOND_CHANCE_WITHIN: Final = timedelta(seconds=4)
"""A throttled request waits for a random share of it, then reads the store once more.

Each read takes at most 7 seconds of waits (`token_broker.aws`): with 18 seconds in all, the
request stays below the function's 25.
"""

REJECTION_INTERVAL: Final = timedelta(minutes=1)
"""A grant is not renewed more often because its token was reported as rejected."""

_CORRUPT: Final = "the parameter contains no stored token"


class TokenReader(Protocol):
    """Where the tokens are stored, as far as the vendor needs it."""

    def read(self, grant: str) -> StoredToken | None:
        """The stored token, live or not."""


class VendRequest(NamedTuple):
    """What a caller requests.

    Attributes:
        grant: the grant's name, as the caller wrote it.
        caller_arn: the principal, as API Gateway names it.
        min_ttl: how long the token must still live.
        other_than: fingerprint of a token that the caller does not want again.
    """

    grant: str
    caller_arn: str
    min_ttl: timedelta = timedelta()
    other_than: str = ""


class Vended(NamedTuple):
    """A token that is vended.

    Attributes:
        grant: whose it is.
        token: live.
        is_only_audited: the grant's `callers` would refuse the caller if they were enforced.
    """

    grant: str
    token: StoredToken
    is_only_audited: bool


class GrantState(StrEnum):
    """Whether a grant's token can be vended at this moment."""

    LIVE = "live"
    RENEWING = "renewing"
    """Live and due: a successor is being requested."""
    EXPIRED = "expired"
    """There is no live token."""
    BLOCKED = "blocked"


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantStatus:
    """A grant as its caller may see it; no token."""

    name: str
    scope: tuple[str, ...]
    state: GrantState
    seconds_left: int


class Reason(StrEnum):
    """Why what is stored does not fit a request."""

    BLOCKED = "blocked"
    CORRUPT = "corrupt"
    MISSING = "missing"
    EXPIRED = "expired"
    EXCEEDS_GRANT = "exceeds_grant"
    """It permits more than the grant does, which was narrowed since."""
    PASSED_OVER = "passed_over"
    """It is the one that the caller does not want again."""
    ENDS_TOO_SOON = "ends_too_soon"


class Unfit(NamedTuple):
    """What is stored does not fit a request.

    Attributes:
        reason: why.
        token: the live token that does not fit; None if there is none.
    """

    reason: Reason
    token: StoredToken | None = None


type Verdict = StoredToken | Unfit
"""On what is stored: the token, if it fits a request."""


def judge(stored: Verdict, scope: tuple[str, ...], request: VendRequest, now: datetime) -> Verdict:
    """The one verdict on what is stored for a grant of this scope.

    Args:
        stored: what the store contains: a token, or blocked, corrupt or missing.
        scope: the grant's.
        request: what the token must fit.
        now: aware UTC.
    """
    if isinstance(stored, Unfit):
        return stored
    if not stored.is_live(now):
        return Unfit(Reason.EXPIRED)
    if not set(stored.scope) <= set(scope):
        return Unfit(Reason.EXCEEDS_GRANT)
    if stored.fingerprint == request.other_than:
        return Unfit(Reason.PASSED_OVER, stored)
    if stored.time_left(now) < request.min_ttl:
        return Unfit(Reason.ENDS_TOO_SOON, stored)
    return stored


def recheck_after(verdict: Verdict) -> timedelta:
    """How long the store need not be read again, the cache window aside.

    A tenth of the token's lifetime, so that the successor of a short-lived one is found
    in time; a second after any verdict but "fits".
    """
    if isinstance(verdict, Unfit):
        return RECHECK_AFTER
    return (verdict.expires_at - verdict.issued_at) / 10


def refusal(unfit: Unfit, now: datetime) -> BrokerError:
    """The error of a request that what is stored does not fit."""
    match unfit:
        case Unfit(Reason.BLOCKED):
            return GrantBlocked("")
        case Unfit(Reason.CORRUPT):
            return CorruptStoredToken(_CORRUPT)
        case Unfit(Reason.PASSED_OVER):
            return NoFittingToken("there is no other live token yet", retry_after=RETRY_AFTER)
        case Unfit(Reason.ENDS_TOO_SOON, StoredToken() as token):
            left = int(token.time_left(now).total_seconds())
            message = f"the live token has {left} seconds left, fewer than min_ttl"
            return NoFittingToken(message, retry_after=RETRY_AFTER)
    return NoLiveToken("there is no live token", retry_after=RETRY_AFTER)


class _Remembered(NamedTuple):
    """What an environment last read from the store."""

    stored: Verdict
    read_at: Moment


@dataclass(slots=True, kw_only=True, eq=False)
class Vendor:
    """Vends live tokens.

    What an environment remembers is keyed by grant, never by caller.

    Attributes:
        grants: all grants, by name.
        store: where the tokens are stored.
        cache_window: how long a token that fits is vended without reading the store again.
        refresh_ahead: how long before its expiry a token is renewed, at most.
        on_read_fault: called with the cause if a read failed and a remembered token is vended.
        second_chance_after: how long a vend that would fail for this cause waits before it reads
            once more; None if it fails at once.
        now: the clock, aware UTC.
        monotonic: seconds of a clock that is never set.
        sleep: waits for that many seconds.
    """

    grants: Mapping[str, Grant]
    store: TokenReader
    cache_window: timedelta
    refresh_ahead: timedelta
    on_read_fault: Callable[[Exception], None]
    second_chance_after: Callable[[Exception], timedelta | None] = lambda _error: None
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _remembered: dict[str, _Remembered] = field(default_factory=dict, init=False, repr=False)

    def vend(self, request: VendRequest) -> Vended:
        """The live token of a grant, if this caller may have it.

        Raises:
            UnknownGrant: there is no such grant.
            CallerNotAllowed: the grant names its callers, and not this one.
            GrantBlocked: an operator has stopped it.
            NoLiveToken: no stored token is live, or fits (NoFittingToken).
            CorruptStoredToken and the store's errors: the read failed, and no token that
                fits is remembered.
        """
        is_only_audited = self._admit(request.grant, request.caller_arn)
        verdict = self._verdict_of_two(request)
        if isinstance(verdict, Unfit):
            raise refusal(verdict, self.now())
        return Vended(grant=request.grant, token=verdict, is_only_audited=is_only_audited)

    def grant_of_scope(self, scope: frozenset[str], caller_arn: str) -> str:
        """The grant of exactly this scope that names this caller.

        Only grants with `callers`, and those always enforced: IAM cannot tell one scope
        from another here.

        Raises:
            InvalidScope: there is none.
        """
        for name, grant in self.grants.items():
            if grant.callers is None or set(grant.scope) != scope:
                continue
            if is_allowed(caller_arn, grant.callers):
                return name
        raise InvalidScope

    def statuses(self, caller_arn: str) -> list[GrantStatus]:
        """The grants whose allow-list names this caller; IAM may allow fewer.

        Raises:
            The store's errors, as `vend`.
        """
        names = [name for name, grant in self.grants.items() if _is_open(grant, caller_arn)]
        requests = [VendRequest(grant=name, caller_arn=caller_arn) for name in names]
        with ThreadPoolExecutor(8, thread_name_prefix="status") as threads:
            return list(threads.map(self._status, requests))

    def report_rejection(self, request: VendRequest) -> bool:
        """Take a report that Enable rejected a token: `other_than` is its fingerprint.

        Returns:
            Whether it is still the current one, or none is live: the grant is to be renewed.

        Raises:
            RejectionTooSoon: it is the current one, and less than a minute old.
            UnknownGrant, CallerNotAllowed, GrantBlocked and the store's errors: as `vend`.
        """
        self._admit(request.grant, request.caller_arn)
        known = self._remembered.get(request.grant)
        if known and not known.read_at.is_within(RECHECK_AFTER, self._moment()):
            # What is remembered may be older than what was reported: only the store can tell.
            del self._remembered[request.grant]
        verdict, now = self._verdict(request), self.now()
        match verdict:
            case StoredToken():
                return False
            case Unfit(Reason.BLOCKED | Reason.CORRUPT):
                raise refusal(verdict, now)
            case Unfit(Reason.PASSED_OVER, StoredToken(issued_at=issued_at)):
                if is_fresh(age := now - issued_at, REJECTION_INTERVAL):
                    raise RejectionTooSoon(retry_after=REJECTION_INTERVAL - age)
        return True

    def _admit(self, name: str, caller_arn: str) -> bool:
        """Check a grant's allow-list of callers.

        Returns:
            Whether the caller passed only because the list is not enforced yet.
        """
        grant = self.grants.get(name)
        if grant is None:
            raise UnknownGrant
        if grant.callers is None or is_allowed(caller_arn, grant.callers):
            return False
        if grant.mode == "audit":
            return True
        raise CallerNotAllowed

    def _status(self, request: VendRequest) -> GrantStatus:
        state, seconds_left = GrantState.EXPIRED, 0
        match self._verdict(request):
            case Unfit(Reason.BLOCKED):
                state = GrantState.BLOCKED
            case StoredToken() as token:
                now = self.now()
                due = is_due(
                    issued_at=token.issued_at,
                    expires_at=token.expires_at,
                    now=now,
                    refresh_ahead=self.refresh_ahead,
                )
                state = GrantState.RENEWING if due else GrantState.LIVE
                seconds_left = max(int(token.time_left(now).total_seconds()), 0)
        return GrantStatus(
            name=request.grant,
            scope=self.grants[request.grant].scope,
            state=state,
            seconds_left=seconds_left,
        )

    def _verdict_of_two(self, request: VendRequest) -> Verdict:
        """The verdict, with a second chance: for a vend alone, which reads one parameter."""
        try:
            return self._verdict(request)
        except Exception as error:
            wait = self.second_chance_after(error)
            if wait is None:
                raise
        self.sleep(wait.total_seconds())
        return self._verdict(request)

    def _verdict(self, request: VendRequest) -> Verdict:
        """On what is remembered while that is fresh, else on what is stored."""
        known = self._remembered.get(request.grant)
        if known is None:
            return self._remember(request, self._moment(), self._read(request.grant))
        verdict, now = self._judge(known.stored, request), self._moment()
        if known.read_at.is_within(min(self.cache_window, recheck_after(verdict)), now):
            return verdict
        if isinstance(verdict, Unfit):
            return self._remember(request, now, self._read(request.grant))
        return self._remember(request, now, self._read_or_keep(verdict, request.grant))

    def _remember(self, request: VendRequest, read_at: Moment, stored: Verdict) -> Verdict:
        self._remembered[request.grant] = _Remembered(stored, read_at)
        return self._judge(stored, request)

    def _judge(self, stored: Verdict, request: VendRequest) -> Verdict:
        return judge(stored, self.grants[request.grant].scope, request, self.now())

    def _moment(self) -> Moment:
        return Moment(self.now(), self.monotonic())

    def _read(self, grant: str) -> Verdict:
        """What is stored, as a value."""
        try:
            return self.store.read(grant) or Unfit(Reason.MISSING)
        except GrantBlocked:
            return Unfit(Reason.BLOCKED)
        except CorruptStoredToken:
            return Unfit(Reason.CORRUPT)

    def _read_or_keep(self, token: StoredToken, grant: str) -> Verdict:
        """What is stored; if it is unreadable or corrupt, the remembered token, which fits."""
        try:
            stored = self._read(grant)
        except Exception as error:
            self.on_read_fault(error)
            return token
        if stored == Unfit(Reason.CORRUPT):
            self.on_read_fault(CorruptStoredToken(_CORRUPT))
            return token
        return stored


def _is_open(grant: Grant, caller_arn: str) -> bool:
    return grant.callers is None or grant.mode == "audit" or is_allowed(caller_arn, grant.callers)
