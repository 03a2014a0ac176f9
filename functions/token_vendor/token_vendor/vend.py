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
class _Remembered:
    """What an environment last saw in the store."""

    token: StoredToken | None
    read_at: datetime

    def is_enough(self, now: datetime, min_ttl: timedelta) -> bool:
        """Whether it is live and lives `min_ttl` longer."""
        return (
            self.token is not None
            and self.token.is_live(now)
            and self.token.time_left(now) >= min_ttl
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
        on_read_fault: told of a failed read that a remembered live token makes up for.
        now: the clock, aware UTC.
    """

    grants: Mapping[str, Grant]
    store: TokenReader
    cache_window: timedelta
    on_read_fault: Callable[[Exception], None]
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    _remembered: dict[str, _Remembered] = field(default_factory=dict, init=False, repr=False)

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
        if token and not set(token.scope) <= set(grant.scope):
            token = None  # it can do more than the grant, which has been narrowed, may
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
        known = self._remembered.get(grant)
        is_enough = known is not None and known.is_enough(now, min_ttl)
        if known and now - known.read_at < min(self.cache_window, known.window(is_enough)):
            return known.token
        try:
            token = self.store.read(grant)
        except Exception as error:
            if not known or not is_enough:
                raise
            self.on_read_fault(error)
            token = known.token
        self._remembered[grant] = _Remembered(token, now)
        return token
