"""Who may have which token, and handing it over.

Pure of AWS, HTTP and the environment: the clock and the store come as parameters.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from token_broker.callers import is_allowed
from token_broker.errors import CallerNotAllowed, NoLiveToken, UnknownGrant
from token_broker.grants import Grant
from token_broker.models import StoredToken

RETRY_AFTER: Final = timedelta(seconds=30)
"""Half the default schedule: by then a refresh run has probably been."""


RECHECK_AFTER: Final = timedelta(seconds=1)
"""A stored token that would not do is not read again sooner, however many ask."""


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
    """

    grant: str
    caller_arn: str
    min_ttl: timedelta = timedelta()


@dataclass(frozen=True, slots=True)
class _Cached:
    token: StoredToken | None
    read_at: datetime


@dataclass(slots=True, kw_only=True)
class Vendor:
    """Vends live tokens.

    What an environment remembers is keyed by grant, never by caller.

    Attributes:
        grants: all grants, by name.
        store: where the tokens are kept.
        cache_window: how long a live token is vended without reading the store again.
        on_read_fault: told of a failed read that a remembered live token makes up for.
        now: the clock, aware UTC.
    """

    grants: Mapping[str, Grant]
    store: TokenReader
    cache_window: timedelta
    on_read_fault: Callable[[Exception], None]
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    _cache: dict[str, _Cached] = field(default_factory=dict, init=False, repr=False)

    def vend(self, request: VendRequest) -> StoredToken:
        """The live token of a grant, if this caller may have it.

        Raises:
            UnknownGrant: there is no such grant.
            CallerNotAllowed: the grant names its callers, and not this one.
            NoLiveToken: none is stored that lives `min_ttl` longer.
            CorruptStoredToken and the store's errors: the read failed, and no live token
                is remembered.
        """
        grant = self.grants.get(request.grant)
        if grant is None:
            raise UnknownGrant
        if grant.callers is not None and not is_allowed(request.caller_arn, grant.callers):
            raise CallerNotAllowed
        token = self._current(request.grant, request.min_ttl)
        left = token.time_left(self.now()) if token else timedelta()
        if token is None or left <= timedelta():
            raise NoLiveToken("there is no live token", retry_after=RETRY_AFTER)
        if left < request.min_ttl:
            raise NoLiveToken(
                f"the live token has {int(left.total_seconds())} seconds left, fewer than min_ttl",
                retry_after=RETRY_AFTER,
            )
        return token

    def _current(self, grant: str, min_ttl: timedelta) -> StoredToken | None:
        """The remembered token while it will do, else the stored one."""
        now = self.now()
        known = self._cache.get(grant)
        is_enough = (
            known is not None
            and known.token is not None
            and known.token.is_live(now)
            and known.token.time_left(now) >= min_ttl
        )
        window = self.cache_window if is_enough else min(RECHECK_AFTER, self.cache_window)
        if known and now - known.read_at < window:
            return known.token
        try:
            token = self.store.read(grant)
        except Exception as error:
            if known and is_enough:
                self.on_read_fault(error)
                return known.token
            raise
        self._cache[grant] = _Cached(token, now)
        return token
