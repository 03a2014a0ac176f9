"""How a refresh run leaves each grant; nothing here contains a token."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class State(StrEnum):
    """How a run left one grant."""

    RENEWED = "renewed"
    NOT_DUE = "not_due"
    UNCHANGED = "unchanged"
    """The new token expires no later than the stored one, which therefore stays."""
    DEFERRED = "deferred"
    """No time was left; it is the most urgent of the next run."""
    WAITING = "waiting"
    """No attempt was made because of an earlier refusal; see `backoff`."""
    IN_PROGRESS = "in_progress"
    """Another run is renewing it at this moment."""
    BLOCKED = "blocked"
    """An operator has stopped it."""
    FAILED = "failed"


class RenewReason(StrEnum):
    """Why a run renews a grant."""

    MISSING = "missing"
    CORRUPT = "corrupt"
    """The parameter contains what the broker did not write, or a token dated too far ahead."""
    UNREADABLE = "unreadable"
    """The parameter cannot be decrypted any more."""
    SCOPE_CHANGED = "scope_changed"
    """The stored token is for what the grant was before."""
    DUE = "due"
    REJECTED = "rejected"
    """Enable's API rejected the stored token."""
    SECRET_CHANGED = "secret_changed"  # noqa: S105 - a reason, not a secret
    """The stored token is of another version of the client secret."""
    FORCED = "forced"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run left one grant.

    Attributes:
        grant: its name.
        state: how the run left it.
        renew_reason: why it was to be renewed; None if it was not.
        scope: of the grant.
        connection: where its token comes from.
        issued_at: of the token that is stored now; None if none is known.
        expires_at: of that token.
        fingerprint: of that token.
        secret_version: that it was issued for.
        secret_stage: of the secret used, if it was not the current one.
        reason: of a failure or a wait, a short fixed word; otherwise empty.
        cause: of a failure or a wait, what happened and what to do.
        retry_at: of a wait, when it ends.
        attempts: requests made to the token endpoint.
        is_store_read: whether it is known what is stored.
    """

    grant: str
    state: State
    renew_reason: RenewReason | None = None
    scope: tuple[str, ...] = ()
    connection: str = ""
    issued_at: datetime | None = None
    expires_at: datetime | None = None
    fingerprint: str = ""
    secret_version: str = ""
    secret_stage: str = ""
    reason: str = ""
    cause: str = ""
    retry_at: datetime | None = None
    attempts: int = 0
    is_store_read: bool = True

    @property
    def is_overdue(self) -> bool:
        """Whether a due token was not renewed, for another reason than lack of time."""
        return self.state in {State.FAILED, State.WAITING}

    def seconds_left(self, now: datetime) -> int:
        """Until the stored token expires; 0 if there is none."""
        if self.expires_at is None:
            return 0
        return max(int((self.expires_at - now).total_seconds()), 0)


def causes_of_failure(outcomes: Iterable[Outcome]) -> dict[str, str]:
    """The cause of each grant that is overdue, by name."""
    return {outcome.grant: outcome.cause for outcome in outcomes if outcome.is_overdue}
