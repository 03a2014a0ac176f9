"""What each trigger of a run asks for: the one table of the renewal."""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from token_broker.models import StoredToken


class Renews(Enum):
    """Which of the named grants a run renews."""

    DUE = "what is due, and the token that was reported as rejected"
    NOT_CURRENT = "tokens that are not of the current secret"
    ALL = "all that is named"


class OnLease(Enum):
    """What a run does if another one has the connection's lease."""

    SKIP = "leaves the connection to the other run"
    WAIT = "waits until the other run has ended, and looks again"
    IGNORE = "goes on"


class Replaces(Enum):
    """Which stored token a new one replaces."""

    EARLIER = "one that expires earlier"
    ANY_OTHER = "any other token"
    ANY = "any token"

    def is_replaced(self, stored: StoredToken, new: StoredToken) -> bool:
        """Whether a new token replaces the stored one."""
        match self:
            case Replaces.EARLIER:
                return new.expires_at > stored.expires_at
            case Replaces.ANY_OTHER:
                return new.fingerprint != stored.fingerprint
            case Replaces.ANY:
                return True

    def is_restored(self, overwritten: StoredToken, new: StoredToken) -> bool:
        """Whether a token that another run stored in the meantime is put back over the new one."""
        return self is Replaces.EARLIER and overwritten.expires_at > new.expires_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One row of the table.

    Attributes:
        renews: which grants.
        is_backoff_respected: whether a grant in backoff waits.
        on_lease: what happens if another run has the lease.
        replaces: which stored token a new one replaces.
    """

    renews: Renews
    is_backoff_respected: bool
    on_lease: OnLease
    replaces: Replaces


DUE: Final = Policy(
    renews=Renews.DUE,
    is_backoff_respected=True,
    on_lease=OnLease.SKIP,
    replaces=Replaces.EARLIER,
)
"""Schedule, the platform's retry, a caller that found no live token, a rejected token."""

SECRET_CHANGED: Final = Policy(
    renews=Renews.NOT_CURRENT,
    is_backoff_respected=False,
    on_lease=OnLease.WAIT,
    replaces=Replaces.EARLIER,
)
"""A change event of Secrets Manager."""

FORCED: Final = Policy(
    renews=Renews.ALL,
    is_backoff_respected=False,
    on_lease=OnLease.IGNORE,
    replaces=Replaces.ANY,
)
"""`{"force": true}`."""
