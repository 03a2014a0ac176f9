"""Who may have which token, and handing it over.

Pure of AWS, HTTP and the environment: the clock and the store come as parameters.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final, Protocol

from token_broker.callers import is_allowed
from token_broker.errors import (
    CallerNotAllowed,
    GrantBlocked,
    InvalidScope,
    NoLiveToken,
    RejectionTooSoon,
    UnknownGrant,
)
from token_broker.expiry import is_due
from token_broker.grants import Grant
from token_broker.models import StoredToken

RETRY_AFTER: Final = timedelta(seconds=5)
"""A request that finds no live token starts a refresh run, which takes about as long."""

RECHECK_AFTER: Final = timedelta(seconds=1)
"""A stored token that would not do is not read again sooner, however many ask."""

REJECTION_INTERVAL: Final = timedelta(minutes=1)
"""A grant is not renewed more often because its token was reported as refused."""


class TokenReader(Protocol):
    """Where the tokens are kept, as far as a vendor may know."""

    def read(self, grant: str) -> StoredToken | None:
        """The stored token, live or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VendRequest:
    """What a caller asks for.

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Vended:
    """A token that is handed over.

    Attributes:
        grant: whose it is.
        token: live.
        is_only_audited: the grant's `callers` would have refused, were they enforced.
    """

    grant: str
    token: StoredToken
    is_only_audited: bool


class GrantState(StrEnum):
    """What a grant is good for at this moment."""

    LIVE = "live"
    RENEWING = "renewing"
    """Live and due: a successor is being asked for."""
    LAPSED = "lapsed"
    BLOCKED = "blocked"


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantStatus:
    """A grant as its caller may see it; no token."""

    name: str
    scope: tuple[str, ...]
    state: GrantState
    seconds_left: int


@dataclass(frozen=True, slots=True)
class _Remembered:
    """What an environment last saw in the store."""

    token: StoredToken | None
    read_at: datetime
    block: GrantBlocked | None = None

    def is_enough(self, now: datetime, min_ttl: timedelta, other_than: str) -> bool:
        """Whether it is live, lives `min_ttl` longer and is not the one to pass over."""
        return (
            self.token is not None
            and self.token.is_live(now)
            and self.token.time_left(now) >= min_ttl
            and self.token.fingerprint != other_than
        )

    def window(self, is_enough: bool) -> timedelta:  # noqa: FBT001
        """How long the store need not be read again, the cache window aside.

        A tenth of the token's lifetime, so that the successor of a short-lived one is
        found in time; a second for a token that would not do, however many ask.
        """
        if self.token is None or not is_enough:
            return RECHECK_AFTER
        return (self.token.expires_at - self.token.issued_at) / 10


@dataclass(slots=True, kw_only=True)
class Vendor:
    """Vends live tokens.

    What an environment remembers is keyed by grant, never by caller.

    Attributes:
        grants: all grants, by name.
        store: where the tokens are kept.
        cache_window: how long a live token is vended without reading the store again.
        refresh_ahead: how long before its expiry a token is renewed, at most.
        on_read_fault: told of a failed read that a remembered live token makes up for.
        now: the clock, aware UTC.
    """

    grants: Mapping[str, Grant]
    store: TokenReader
    cache_window: timedelta
    refresh_ahead: timedelta
    on_read_fault: Callable[[Exception], None]
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    _remembered: dict[str, _Remembered] = field(default_factory=dict, init=False, repr=False)

    def vend(self, request: VendRequest) -> Vended:
        """The live token of a grant, if this caller may have it.

        Raises:
            UnknownGrant: there is no such grant.
            CallerNotAllowed: the grant names its callers, and not this one.
            GrantBlocked: an operator has stopped it.
            NoLiveToken: none is stored that will do.
            CorruptStoredToken and the store's errors: the read failed, and no live token
                is remembered.
        """
        is_only_audited = self._admit(request.grant, request.caller_arn)
        token = self._usable(request.grant, request.min_ttl, request.other_than)
        left = token.time_left(self.now()) if token else timedelta()
        if token is None or left <= timedelta():
            raise NoLiveToken("there is no live token", retry_after=RETRY_AFTER)
        if token.fingerprint == request.other_than:
            raise NoLiveToken(
                "there is no other live token yet", retry_after=RETRY_AFTER, is_lapsed=False
            )
        if left < request.min_ttl:
            raise NoLiveToken(
                f"the live token has {int(left.total_seconds())} seconds left, fewer than min_ttl",
                retry_after=RETRY_AFTER,
                is_lapsed=False,
            )
        return Vended(grant=request.grant, token=token, is_only_audited=is_only_audited)

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
        """The grants that this caller's second lock allows; IAM may allow fewer.

        Raises:
            The store's errors, as `vend`.
        """
        names = [name for name, grant in self.grants.items() if _is_open(grant, caller_arn)]
        with ThreadPoolExecutor(8, thread_name_prefix="status") as threads:
            return list(threads.map(self._status, names))

    def report_rejection(self, request: VendRequest) -> bool:
        """Take note that Enable refused a token: `other_than` is its fingerprint.

        Returns:
            Whether it is still the current one, so that the grant should be renewed.

        Raises:
            RejectionTooSoon: it is the current one, and less than a minute old.
            UnknownGrant, CallerNotAllowed and the store's errors: as `vend`.
        """
        self._admit(request.grant, request.caller_arn)
        now = self.now()
        known = self._remembered.get(request.grant)
        if known and now - known.read_at >= RECHECK_AFTER:
            # What is remembered may be older than what was reported: only the store can tell.
            del self._remembered[request.grant]
        token = self._usable(request.grant, timedelta(), request.other_than)
        if token is None or not token.is_live(now):
            return True
        if token.fingerprint != request.other_than:
            return False
        age = now - token.issued_at
        if age < REJECTION_INTERVAL:
            raise RejectionTooSoon(retry_after=REJECTION_INTERVAL - age)
        return True

    def _admit(self, name: str, caller_arn: str) -> bool:
        """Let a caller pass the second lock.

        Returns:
            Whether it passed only because the lock is being tried out.
        """
        grant = self.grants.get(name)
        if grant is None:
            raise UnknownGrant
        if grant.callers is None or is_allowed(caller_arn, grant.callers):
            return False
        if grant.mode == "audit":
            return True
        raise CallerNotAllowed

    def _status(self, name: str) -> GrantStatus:
        now, scope = self.now(), self.grants[name].scope
        try:
            token = self._usable(name, timedelta(), "")
        except GrantBlocked:
            return GrantStatus(name=name, scope=scope, state=GrantState.BLOCKED, seconds_left=0)
        state = GrantState.LAPSED
        if token and token.is_live(now):
            due = is_due(
                issued_at=token.issued_at,
                expires_at=token.expires_at,
                now=now,
                refresh_ahead=self.refresh_ahead,
            )
            state = GrantState.RENEWING if due else GrantState.LIVE
        left = int(token.time_left(now).total_seconds()) if token else 0
        return GrantStatus(name=name, scope=scope, state=state, seconds_left=max(left, 0))

    def _usable(self, name: str, min_ttl: timedelta, other_than: str) -> StoredToken | None:
        """The token at hand, unless it can do more than the grant, since narrowed, may."""
        token = self._current(name, min_ttl, other_than)
        if token and not set(token.scope) <= set(self.grants[name].scope):
            return None
        return token

    def _current(self, grant: str, min_ttl: timedelta, other_than: str) -> StoredToken | None:
        """The remembered token while it will do, else the stored one."""
        now = self.now()
        known = self._remembered.get(grant)
        is_enough = known is not None and known.is_enough(now, min_ttl, other_than)
        if known and now - known.read_at < min(self.cache_window, known.window(is_enough)):
            if known.block:
                raise known.block.with_traceback(None)  # one instance, raised often
            return known.token
        try:
            token = self.store.read(grant)
        except GrantBlocked as block:
            self._remembered[grant] = _Remembered(None, now, block)
            raise
        except Exception as error:
            if not known or not is_enough:
                raise
            self.on_read_fault(error)
            token = known.token
        self._remembered[grant] = _Remembered(token, now)
        return token


def _is_open(grant: Grant, caller_arn: str) -> bool:
    return grant.callers is None or grant.mode == "audit" or is_allowed(caller_arn, grant.callers)
