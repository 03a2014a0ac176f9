"""Renewing the due grants of one connection: what is asked of Enable, and what is kept.

Pure of AWS, HTTP and the environment: clock, store, secrets and endpoint are parameters.
"""

import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from token_broker.errors import (
    GrantBlocked,
    InvalidTokenResponse,
    TokenEndpointError,
    TokenEndpointUnavailable,
)
from token_broker.grants import Grant
from token_broker.models import StoredToken, fingerprint, rfc3339
from token_refresher.credentials import CURRENT, FALLBACK_STAGES
from token_refresher.enable.acceptance import accept
from token_refresher.enable.models import Issued, TokenRequest
from token_refresher.holds import (
    LAST_TRY,
    Hold,
    Holds,
    hold_after_refusal,
    hold_as_asked,
    hold_of_last_try,
)
from token_refresher.outcomes import Outcome, State

TIME_TO_RENEW: Final = timedelta(seconds=15)
"""A renewal is not begun with less left of the invocation: a throttled write takes its time."""

CORRUPT: Final = "corrupt_parameter"
"""Why a token was renewed: another hand had written to its parameter."""

UNREADABLE: Final = "unreadable_parameter"
"""Why a token was renewed: the stored one cannot be decrypted."""

UNREADABLE_CODES: Final = frozenset({"InvalidKeyId", "AccessDeniedException"})
"""How `GetParameter` refuses what no later run can read unless a person acts.

Parameter Store reports a key that is deleted, pending deletion or disabled as `InvalidKeyId`, and a
role that may not use the key as `AccessDeniedException` (API_GetParameter, "Errors", and "Common
errors"; the message quotes KMS's own code).
"""

CONNECTION_REJECTIONS: Final = frozenset(
    {"invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type"}
)
"""OAuth errors that are about the client, not about one grant (RFC 6749 section 5.2)."""


class TokenStore(Protocol):
    """Where the tokens are kept."""

    @property
    def key_id(self) -> str:
        """The key that new tokens are encrypted with."""

    def read(self, grant: str) -> StoredToken | None:
        """The stored token, live or not."""

    def replace(
        self,
        grant: str,
        token: StoredToken,
        *,
        replaced: StoredToken | None,
        is_better_than_any: bool = False,
    ) -> StoredToken:
        """Store a token unless a later-expiring one was stored meanwhile; what is stored now."""


class HoldStore(Protocol):
    """Where refusals are remembered."""

    def read(self, connection: str, *, version: int = 0) -> Holds:
        """The holds of a connection, or those of an earlier version."""

    def write(self, connection: str, holds: Holds) -> int:
        """Replace them; the version that they now have."""


class Endpoint(Protocol):
    """Where the tokens come from."""

    url: str

    def request_token(self, request: TokenRequest, *, time_left: Callable[[], timedelta]) -> Issued:
        """Ask for a token."""


class Secret(Protocol):
    """One version of a client secret."""

    @property
    def version_id(self) -> str:
        """The id of the version."""

    @property
    def stage(self) -> str:
        """The staging label it was read by."""

    def request(self, scope: tuple[str, ...]) -> TokenRequest:
        """The request for a scope."""


class Secrets(Protocol):
    """The client secrets of all connections."""

    def connection_of(self, secret: str) -> str | None:
        """Which connection a secret's ARN or name belongs to."""

    def read(self, connection: str, stage: str = CURRENT) -> Secret | None:
        """A version of a connection's secret."""


_ACCEPTED: Final = frozenset({State.RENEWED, State.UNCHANGED})
"""Enable took the client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A grant as a run found it in the store.

    Attributes:
        name: of the grant.
        grant: its scope and connection.
        token: what is stored, if it is for that scope.
        is_corrupt: the parameter holds something that the broker did not write.
        unreadable: why the stored token cannot be decrypted, so that it counts as none; or empty.
        is_rejected: Enable refuses the token, so that any other one is better.
    """

    name: str
    grant: Grant
    token: StoredToken | None = None
    is_corrupt: bool = False
    unreadable: str = ""
    is_rejected: bool = False

    def outcome(self, state: State, token: StoredToken | None = None, **facts: Any) -> Outcome:
        """An outcome that leaves `token` stored, or else what was found."""
        token = token or self.token
        outcome = Outcome(
            grant=self.name,
            state=state,
            scope=self.grant.scope,
            connection=self.grant.connection,
            reason=CORRUPT if self.is_corrupt else UNREADABLE if self.unreadable else "",
            cause=self.unreadable,
            issued_at=token.issued_at if token else None,
            expires_at=token.expires_at if token else None,
            fingerprint=token.fingerprint if token else "",
            secret_version=token.secret_version if token else "",
        )
        return replace(outcome, **facts)

    def blocked(self, block: GrantBlocked, **facts: Any) -> Outcome:
        """The outcome of a grant whose token an operator's block has replaced."""
        return replace(self, token=None).outcome(
            State.BLOCKED, reason="blocked", cause=block.reason, is_store_read=False, **facts
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What a connection's renewal works with.

    Attributes:
        store: where the tokens are kept.
        holds: where refusals are remembered.
        secrets: the client secrets.
        endpoint: the connection's token endpoint.
        now: the clock, aware UTC.
        time_left: what is left of the invocation.
        describe_fault: names a failure of AWS or of ours: (reason, cause).
        parallelism: renewals at a time.
    """

    store: TokenStore
    holds: HoldStore
    secrets: Secrets
    endpoint: Endpoint
    now: Callable[[], datetime]
    time_left: Callable[[], timedelta]
    describe_fault: Callable[[Exception], tuple[str, str]]
    parallelism: int


class ConnectionRun:
    """One run over the due grants of one connection.

    The most urgent grant goes first and alone: if Enable rejects the client itself, the
    others are not asked for, so that a rejected connection costs one request, not one per
    grant. Then the rest are renewed in parallel.

    Args:
        connection: its name.
        tools: what to work with.
        force: replace stored tokens by any validated one, and wait for no hold.
    """

    def __init__(self, connection: str, tools: Tools, *, force: bool) -> None:
        self._connection = connection
        self._tools = tools
        self._force = force
        self._lock = threading.Lock()
        self._known = Holds()
        self._holds = Holds()
        self._secret: Secret | None = None
        self._current_version = ""
        self._is_blind = False

    def look(self) -> None:
        """Read the holds, before anybody reads the tokens.

        So a run that ends between this and the claim is noticed by the claim's version, and
        what it renewed is not renewed again.
        """
        try:
            self._known = self._holds = self._tools.holds.read(self._connection)
        except Exception:
            # A token matters more than a wait; but no version tells now who claimed first.
            self._is_blind = True

    def renew(self, due: list[Found], *, yields: bool, is_recheck: bool) -> list[Outcome]:
        """Renew grants, in the order of their urgency.

        Args:
            due: what to renew, most urgent first.
            yields: leave it to a run that is at it already.
            is_recheck: the secret has just changed: renew only those whose token is of
                another version, and wait for no hold.

        Returns:
            One outcome for each.
        """
        if yields and self._known.is_claimed(self._tools.now()):
            return [found.outcome(State.UNDERWAY) for found in due]
        try:
            self._secret = self._tools.secrets.read(self._connection)
        except Exception as error:
            return [self._fault(found, error) for found in due]
        if self._secret is None:
            raise AssertionError("a current version is read or refused")
        self._current_version = self._secret.version_id
        fresh: list[Found] = []
        if is_recheck:
            fresh = [f for f in due if f.token and f.token.secret_version == self._current_version]
            due = [found for found in due if found not in fresh]
        held: dict[str, Hold] = {}
        if not (self._force or is_recheck):
            held = {found.name: hold for found in due if (hold := self._hold_on(found))}
        else:
            self._holds = replace(self._holds, connection=None)
        todo = [found for found in due if found.name not in held]
        return [
            *(found.outcome(State.NOT_DUE) for found in fresh),
            *(_wait(found, held[found.name]) for found in due if found.name in held),
            *self._renew_claimed(todo, yields=yields),
        ]

    def _renew_claimed(self, todo: list[Found], *, yields: bool) -> list[Outcome]:
        """Renew grants that nothing holds back, telling other runs meanwhile."""
        if not todo:
            return []
        try:
            is_ours = self._claim() or not yields
        except Exception:
            is_ours = True  # a token matters more than a request saved
        if not is_ours:
            return [found.outcome(State.UNDERWAY) for found in todo]
        try:
            return list(self._renew_unheld(todo))
        finally:
            self._release()

    def _claim(self) -> bool:
        """Tell other runs that this one is at it.

        Returns:
            Whether it is: of runs that read the same holds, the one whose claim is the very
            next version. A lost answer makes botocore write again, hence the look at whose
            claim that version is.
        """
        holds, known, run_id = self._tools.holds, self._known, uuid.uuid4().hex[:12]
        claim = replace(known, claimed_at=self._tools.now(), claimed_by=run_id)
        version = holds.write(self._connection, claim)
        if self._is_blind or version == known.version + 1:
            return True
        if holds.read(self._connection, version=known.version + 1).claimed_by == run_id:
            return True
        before = holds.read(self._connection, version=version - 1)
        if not before.is_claimed(self._tools.now()):  # that run has ended meanwhile
            holds.write(self._connection, before)
        return False

    def _renew_unheld(self, todo: list[Found]) -> Iterable[Outcome]:
        # After a refusal another grant goes first: one that is refused alone must not
        # make the connection look refused for ever.
        refusals = self._known.connection.refusals if self._known.connection else 0
        first = todo.pop(refusals % len(todo))
        outcome, is_rejected = self._go_first(first)
        if is_rejected:
            others = (found.outcome(outcome.state, **_why(outcome)) for found in todo)
            return [outcome, *others]
        if not todo:
            return [outcome]
        with ThreadPoolExecutor(self._tools.parallelism, thread_name_prefix="renew") as threads:
            return [outcome, *threads.map(self._renew, todo)]

    def _go_first(self, found: Found) -> tuple[Outcome, bool]:
        """Renew the first grant; when Enable does not know the client, with another secret.

        Returns:
            Its outcome, and whether the connection as a whole was rejected.
        """
        outcome = self._renew(found, is_first=True)
        requests = outcome.attempts
        if outcome.reason == "invalid_client":
            for secret in self._fallbacks():
                self._secret = secret
                outcome = self._renew(found, is_first=True)
                requests += outcome.attempts
                if outcome.reason != "invalid_client":
                    break
        outcome = replace(outcome, attempts=requests)
        is_rejected = outcome.reason in CONNECTION_REJECTIONS
        if is_rejected:
            hold = hold_after_refusal(
                self._known.connection,
                reason=outcome.reason,
                now=self._tools.now(),
                depends_on=self._key(),
                expires_at=outcome.expires_at,
            )
            outcome = replace(outcome, retry_at=hold.until)
            self._holds = replace(self._holds, connection=hold)
            if ends := self._end_of_last_try(found):
                last = hold_of_last_try(
                    reason=outcome.reason,
                    now=self._tools.now(),
                    depends_on=self._grant_key(found),
                    expires_at=ends,
                )
                self._holds = self._holds.with_grant(found.name, last)
        elif self._holds.connection is self._known.connection and outcome.state in _ACCEPTED:
            self._holds = replace(self._holds, connection=None)
        return outcome, is_rejected

    def _fallbacks(self) -> Iterable[Secret]:
        """The other versions of the secret; one that is malformed or unreadable is passed over."""
        tried = {self._current_version}
        for stage in FALLBACK_STAGES:
            try:
                secret = self._tools.secrets.read(self._connection, stage)
            except Exception:  # noqa: S112 - the current version's refusal is what is reported
                continue
            if secret is not None and secret.version_id not in tried:
                tried.add(secret.version_id)
                yield secret

    def _renew(self, found: Found, *, is_first: bool = False) -> Outcome:
        """Renew one grant; a failure leaves its stored token as it was."""
        if self._tools.time_left() < TIME_TO_RENEW:
            return found.outcome(State.DEFERRED)
        asked_to_wait = self._holds.connection
        if not is_first and asked_to_wait and asked_to_wait.covers(self._tools.now(), ""):
            return _wait(found, asked_to_wait)
        try:
            return self._ask_and_keep(found)
        except TokenEndpointError as error:
            outcome = found.outcome(
                State.FAILED, reason=error.reason, cause=str(error), attempts=error.attempts
            )
            return self._remember(found, outcome, error, is_first=is_first)
        except Exception as error:
            return self._fault(found, error)

    def _ask_and_keep(self, found: Found) -> Outcome:
        secret = self._secret
        if secret is None:
            raise AssertionError("read before the first grant")
        issued = self._tools.endpoint.request_token(
            secret.request(found.grant.scope), time_left=self._tools.time_left
        )
        try:
            token = accept(
                issued,
                scope=found.grant.scope,
                now=self._tools.now(),
                secret_version=secret.version_id,
            )
        except InvalidTokenResponse as error:
            error.attempts = issued.attempts
            raise
        facts: dict[str, Any] = {
            "attempts": issued.attempts,
            "secret_stage": "" if secret.stage == CURRENT else secret.stage,
        }
        hold = self._hold_while_unreadable(found, token) if found.unreadable else None
        with self._lock:
            self._holds = self._holds.with_grant(found.name, hold)
        try:
            return self._keep(found, token, facts)
        except GrantBlocked as block:
            return found.blocked(block, attempts=issued.attempts)
        except Exception as error:
            outcome = replace(self._fault(found, error), attempts=issued.attempts)
            return self._neither_read_nor_written(outcome) if found.unreadable else outcome

    def _hold_while_unreadable(self, found: Found, token: StoredToken) -> Hold:
        """The backoff that counts if the next run cannot read the new token either."""
        return hold_after_refusal(
            self._known.grants.get(found.name),
            reason=UNREADABLE,
            now=self._tools.now(),
            depends_on=self._grant_key(found),
            expires_at=token.expires_at,
        )

    def _neither_read_nor_written(self, outcome: Outcome) -> Outcome:
        cause = (
            "the stored token cannot be decrypted, and a new one could not be stored: "
            f"{outcome.cause}. Check the key {self._tools.store.key_id} and the role's kms: actions"
        )
        return replace(outcome, cause=cause)

    def _keep(self, found: Found, token: StoredToken, facts: dict[str, Any]) -> Outcome:
        """Store a token, unless what is stored is as good."""
        is_other = found.token is None or found.token.fingerprint != token.fingerprint
        is_better = self._force or (found.is_rejected and is_other)
        if not is_better and found.token and token.expires_at <= found.token.expires_at:
            return found.outcome(State.UNCHANGED, **facts)
        stored = self._tools.store.replace(
            found.name, token, replaced=found.token, is_better_than_any=is_better
        )
        state = State.RENEWED if stored == token else State.UNCHANGED
        return found.outcome(state, stored, **facts)

    def _remember(
        self, found: Found, outcome: Outcome, error: TokenEndpointError, *, is_first: bool
    ) -> Outcome:
        """Hold back the next try where the same request would meet the same answer."""
        now = self._tools.now()
        if isinstance(error, TokenEndpointUnavailable):
            if error.retry_after is None:
                return outcome
            hold = hold_as_asked(reason=error.reason, now=now, retry_after=error.retry_after)
            with self._lock:
                self._holds = replace(self._holds, connection=hold)
            return replace(outcome, retry_at=hold.until)
        if is_first and error.reason in CONNECTION_REJECTIONS:
            return outcome
        hold = hold_after_refusal(
            self._known.grants.get(found.name),
            reason=error.reason,
            now=now,
            depends_on=self._grant_key(found),
            expires_at=outcome.expires_at,
        )
        with self._lock:
            self._holds = self._holds.with_grant(found.name, hold)
        return replace(outcome, retry_at=hold.until)

    def _hold_on(self, found: Found) -> Hold | None:
        now = self._tools.now()
        connection, grant = self._known.connection, self._known.grants.get(found.name)
        # One grant's refusals must not let another's token go without a last try of its own.
        is_ignored = connection and connection.depends_on and self._end_of_last_try(found)
        if connection and not is_ignored and connection.covers(now, self._key()):
            return connection
        if grant and grant.covers(now, self._grant_key(found)):
            return grant
        return None

    def _end_of_last_try(self, found: Found) -> datetime | None:
        """When a token that is about to end does; None for any other."""
        now, ends = self._tools.now(), found.token.expires_at if found.token else None
        return ends if ends is not None and now < ends <= now + LAST_TRY else None

    def _key(self, scope: tuple[str, ...] = ()) -> str:
        """What a refusal depends on: the current secret, the endpoint and the scope."""
        return fingerprint("\n".join([self._current_version, self._tools.endpoint.url, *scope]))

    def _grant_key(self, found: Found) -> str:
        """What a grant's wait depends on; one for an unreadable token ends when it is readable."""
        state = (UNREADABLE,) if found.unreadable else ()
        return self._key((*found.grant.scope, *state))

    def _release(self) -> None:
        """Give up the claim and leave the holds for the next run."""
        try:
            self._tools.holds.write(
                self._connection, replace(self._holds, claimed_at=None, claimed_by="")
            )
        except Exception:
            return  # the claim ends by itself, and the next run asks once more than it should

    def _fault(self, found: Found, error: Exception) -> Outcome:
        reason, cause = self._tools.describe_fault(error)
        return found.outcome(State.FAILED, reason=reason, cause=cause)


def _wait(found: Found, hold: Hold) -> Outcome:
    why = f"refused before ({hold.reason})"
    if hold.reason == UNREADABLE:
        why = f"the stored token cannot be decrypted, nor could the one before: {found.unreadable}"
    return found.outcome(
        State.WAITING,
        reason=hold.reason,
        cause=f"{why}; asked again at {rfc3339(hold.until)}, "
        "or at once when the secret or grants.toml changes, or with force",
        retry_at=hold.until,
    )


def _why(outcome: Outcome) -> Mapping[str, Any]:
    return {"reason": outcome.reason, "cause": outcome.cause, "retry_at": outcome.retry_at}
