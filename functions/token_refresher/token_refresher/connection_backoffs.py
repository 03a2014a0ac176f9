"""The backoffs of one connection during a run: which grants wait, and what a result changes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from token_broker.errors import TokenEndpointError, TokenEndpointUnavailable
from token_broker.models import Unreadable, fingerprint
from token_refresher import backoff
from token_refresher.backoff import FINAL_RETRY_WINDOW, Backoff
from token_refresher.connection_state import ConnectionState
from token_refresher.due_grant import UNREADABLE, GrantSnapshot

CONNECTION_REJECTIONS: Final = frozenset(
    {"invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type"}
)
"""OAuth errors that are about the client, not about one grant (RFC 6749 section 5.2)."""

ACCEPTED_CLIENT: Final = frozenset(
    {"invalid_scope", "wrong_scope", "no_expiry", "expired", "unstorable"}
)
"""Refusals that show that Enable accepted the client: of the scope, or of the token it issued."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Enable issued no token.

    Attributes:
        error: why.
        at: when; aware UTC.
    """

    error: TokenEndpointError
    at: datetime

    @property
    def is_rejection(self) -> bool:
        """Whether Enable refused the client, not only this request."""
        return self.error.reason in CONNECTION_REJECTIONS

    @property
    def is_of_accepted_client(self) -> bool:
        """Whether Enable accepted the client, although the grant has no token."""
        return self.error.reason in ACCEPTED_CLIENT

    @property
    def requested(self) -> Backoff | None:
        """The wait that Enable requests of the whole connection, if it does."""
        if self.error.retry_after is None or not isinstance(self.error, TokenEndpointUnavailable):
            return None
        return backoff.as_requested(
            reason=self.error.reason, now=self.at, retry_after=self.error.retry_after
        )


@dataclass(slots=True, kw_only=True)
class ConnectionBackoffs:
    """What the run read, and what it leaves.

    Attributes:
        seen: the state that the run read.
        state: the state that it leaves.
        secret_version: the current one.
        url: of the token endpoint.
        now: the clock, aware UTC.
    """

    seen: ConnectionState
    state: ConnectionState
    secret_version: str
    url: str
    now: Callable[[], datetime]

    def of(self, grant: GrantSnapshot) -> Backoff | None:
        """The backoff that a grant waits for; None if it does not."""
        now, connection, own = self.now(), self.seen.backoff, self.seen.grants.get(grant.name)
        # One grant's refusals must not let another's token expire without an attempt of its own.
        is_ignored = connection and connection.key and self._final_retry_end(grant)
        if connection and not is_ignored and connection.covers(now, self._key()):
            return connection
        return own if own and own.covers(now, self._key_of(grant)) else None

    def ignore(self) -> None:
        """Forget the connection's backoff, but not the number of failures."""
        self.state = replace(self.state, backoff=None)

    @property
    def requested(self) -> Backoff | None:
        """The wait that a `Retry-After` of this run requests; None if it is over."""
        wait = self.state.backoff
        return wait if wait and not wait.key and wait.covers(self.now(), "") else None

    def after_issue(self, grant: GrantSnapshot, expires_at: datetime | None) -> None:
        """Enable issued a token: it accepts the client."""
        if not self.requested:
            self.state = replace(self.state, backoff=None)
        self._got_response(grant)
        own = None
        if isinstance(grant.stored, Unreadable):  # counts if the next run cannot read it either
            own = self._own_after_refusal(grant, UNREADABLE, self.now(), expires_at)
        self.state = self.state.with_grant(grant.name, own)

    def after_refusal(self, grant: GrantSnapshot, refused: Refused) -> Backoff | None:
        """Enable refused one grant; the backoff that follows, None if there is none."""
        error, ends = refused.error, grant.token.expires_at if grant.token else None
        if isinstance(error, TokenEndpointUnavailable):
            unanswered = self.state.unanswered | {grant.name}
            self.state = replace(self.state, unanswered=unanswered)
            waits = [wait for wait in (refused.requested, self.requested) if wait]
            longest = max(waits, key=lambda wait: wait.until, default=None)
            if longest:
                self.state = replace(self.state, backoff=longest)
            return longest
        self._got_response(grant)
        own = self._own_after_refusal(grant, error.reason, refused.at, ends)
        own = own.at_least(error.retry_after, refused.at)
        self.state = self.state.with_grant(grant.name, own)
        return own

    def after_rejection(self, probe: GrantSnapshot, refused: Refused) -> Backoff:
        """Enable rejected the client: the backoff of the whole connection."""
        reason, ends = refused.error.reason, self._final_retry_end(probe)
        wait = backoff.after_refusal(
            self.seen.backoff,
            reason=reason,
            now=self.now(),
            key=self._key(),
            expires_at=probe.token.expires_at if probe.token else None,
        ).at_least(refused.error.retry_after, refused.at)
        self.state = replace(self.state, backoff=wait)
        if ends:
            own = backoff.in_final_retry_window(
                reason=reason, now=self.now(), key=self._key_of(probe), expires_at=ends
            )
            self.state = self.state.with_grant(probe.name, own)
        return wait

    def _got_response(self, grant: GrantSnapshot) -> None:
        self.state = replace(self.state, unanswered=self.state.unanswered - {grant.name})

    def _own_after_refusal(
        self, grant: GrantSnapshot, reason: str, at: datetime, expires_at: datetime | None
    ) -> Backoff:
        return backoff.after_refusal(
            self.seen.grants.get(grant.name),
            reason=reason,
            now=at,
            key=self._key_of(grant),
            expires_at=expires_at,
        )

    def _final_retry_end(self, grant: GrantSnapshot) -> datetime | None:
        """When a token in its final retry window expires; None for any other."""
        now, ends = self.now(), grant.token.expires_at if grant.token else None
        return ends if ends is not None and now < ends <= now + FINAL_RETRY_WINDOW else None

    def _key(self, *more: str) -> str:
        """What a refusal depends on: the current secret, the endpoint and the scope."""
        return fingerprint("\n".join([self.secret_version, self.url, *more]))

    def _key_of(self, grant: GrantSnapshot) -> str:
        """A grant's key; a backoff for an unreadable token ends when that is readable."""
        state = (UNREADABLE,) if isinstance(grant.stored, Unreadable) else ()
        return self._key(*grant.grant.scope, *state)
