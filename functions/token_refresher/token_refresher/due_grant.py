"""A grant as a run read it from the store, and why it is to be renewed."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from token_broker import expiry
from token_broker.grants import Grant
from token_broker.models import Blocked, Corrupt, Stored, StoredToken, Unreadable, rfc3339
from token_refresher.backoff import Backoff
from token_refresher.outcomes import Outcome, RenewReason, State
from token_refresher.policy import Policy, Renews, Replaces
from token_refresher.refresh_request import RefreshRequest

CLOCK_DIFFERENCE: Final = timedelta(minutes=5)
"""A stored token that is dated further ahead counts as corrupt: it would never be due."""

CORRUPT: Final = "corrupt_parameter"
UNREADABLE: Final = "unreadable_parameter"


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantSnapshot:
    """A grant as a run read it.

    Attributes:
        name: of the grant.
        grant: its scope and connection.
        stored: what is stored for it.
        renew_reason: why it is to be renewed; None if it is not.
    """

    name: str
    grant: Grant
    stored: Stored = None
    renew_reason: RenewReason | None = None

    @property
    def token(self) -> StoredToken | None:
        """The stored token, if it is one of this grant's scope."""
        is_other = self.renew_reason in {RenewReason.SCOPE_CHANGED, RenewReason.CORRUPT}
        return self.stored if isinstance(self.stored, StoredToken) and not is_other else None

    def replaces(self, policy: Policy) -> Replaces:
        """Which stored token a new one replaces."""
        if self.renew_reason is RenewReason.REJECTED and policy.replaces is not Replaces.ANY:
            return Replaces.ANY_OTHER
        return policy.replaces

    def outcome(self, state: State, *, token: StoredToken | None = None) -> Outcome:
        """An outcome that leaves `token` stored, or else what was read."""
        token = token or self.token
        reason, cause = "", ""
        match self.renew_reason, self.stored:
            case RenewReason.CORRUPT, _:
                reason = CORRUPT
            case _, Unreadable(cause=cause):
                reason = UNREADABLE
        return Outcome(
            grant=self.name,
            state=state,
            renew_reason=self.renew_reason,
            scope=self.grant.scope,
            connection=self.grant.connection,
            reason=reason,
            cause=cause,
            issued_at=token.issued_at if token else None,
            expires_at=token.expires_at if token else None,
            fingerprint=token.fingerprint if token else "",
            secret_version=token.secret_version if token else "",
        )

    def failed(self, reason: str, cause: str, *, retry_at: datetime | None = None) -> Outcome:
        """The outcome of a grant that was not renewed."""
        outcome = self.outcome(State.FAILED)
        return replace(outcome, reason=reason, cause=cause, retry_at=retry_at)

    def blocked(self, block: Blocked) -> Outcome:
        """The outcome of a grant whose token an operator's block has replaced."""
        outcome = replace(self, stored=None, renew_reason=None).outcome(State.BLOCKED)
        return replace(outcome, reason="blocked", cause=block.reason, is_store_read=False)

    def waiting(self, backoff: Backoff) -> Outcome:
        """The outcome of a grant that waits."""
        why = f"refused before ({backoff.reason})"
        if backoff.reason == UNREADABLE and isinstance(self.stored, Unreadable):
            cause = self.stored.cause
            why = f"the stored token cannot be decrypted, nor could the one before: {cause}"
        cause = (
            f"{why}; asked again at {rfc3339(backoff.until)}, "
            "or at once when the secret or grants.toml changes, or with force"
        )
        outcome = replace(self.outcome(State.WAITING), reason=backoff.reason, cause=cause)
        return replace(outcome, retry_at=backoff.until)


def renew_reason(
    snapshot: GrantSnapshot, request: RefreshRequest, *, now: datetime, refresh_ahead: timedelta
) -> RenewReason | None:
    """Why a grant is to be renewed, decided once; None if it is not.

    `SECRET_CHANGED` stands until the current version is known.

    Args:
        snapshot: what is stored; not a block.
        request: what the run is asked to do.
        now: aware UTC.
        refresh_ahead: how long before its expiry a token is due, at most.
    """
    match snapshot.stored:
        case Corrupt():
            return RenewReason.CORRUPT
        case Unreadable():
            return RenewReason.UNREADABLE
        case StoredToken() as token:
            return _reason_of_token(token, snapshot.grant, request, now, refresh_ahead)
    return RenewReason.MISSING


def _reason_of_token(
    token: StoredToken,
    grant: Grant,
    request: RefreshRequest,
    now: datetime,
    refresh_ahead: timedelta,
) -> RenewReason | None:
    if token.issued_at > now + CLOCK_DIFFERENCE:
        return RenewReason.CORRUPT
    if set(token.scope) != set(grant.scope):
        return RenewReason.SCOPE_CHANGED
    if token.fingerprint == request.rejected:
        return RenewReason.REJECTED
    match request.policy.renews:
        case Renews.ALL:
            return RenewReason.FORCED
        case Renews.NOT_CURRENT:
            return RenewReason.SECRET_CHANGED
    is_due = expiry.is_due(
        issued_at=token.issued_at,
        expires_at=token.expires_at,
        now=now,
        refresh_ahead=refresh_ahead,
    )
    return RenewReason.DUE if is_due else None
