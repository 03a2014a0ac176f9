"""What is due, and renewing it without ever being worse off.

Pure of AWS, HTTP and the environment: the clock, the store, the credentials and the
endpoint come as parameters.
"""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final, Protocol, Self

from token_broker import expiry
from token_broker.errors import (
    CorruptStoredToken,
    InvalidRequest,
    InvalidTokenResponse,
    TokenEndpointError,
)
from token_broker.grants import Grant
from token_broker.models import StoredToken, TokenRequest, TokenResponse

PARALLELISM: Final = 8
"""Stored tokens read, and renewals made, at a time."""

TIME_TO_RENEW: Final = timedelta(seconds=5)
"""A renewal is not begun with less than this left of the invocation."""

MIN_LIFETIME: Final = timedelta(seconds=5)
"""A new token with no more than this left is as good as expired."""


class TokenStore(Protocol):
    """Where the tokens are kept."""

    def read(self, grant: str) -> StoredToken | None:
        """The stored token, live or not."""

    def write(self, grant: str, token: StoredToken) -> None:
        """Replace the stored token."""


class Endpoint(Protocol):
    """Where the tokens come from."""

    def request_token(
        self, request: TokenRequest, *, time_left: Callable[[], timedelta]
    ) -> TokenResponse:
        """Ask for a token."""


class Credentials(Protocol):
    """What the tokens are asked for with."""

    def request(self, scope: tuple[str, ...]) -> TokenRequest:
        """The request for a scope."""


@dataclass(frozen=True, slots=True)
class RefreshRequest:
    """What one invocation is asked to do.

    Attributes:
        force: renew whatever is left of the stored tokens.
        grants: limit the run to these; None means all.
    """

    _: KW_ONLY
    force: bool = False
    grants: tuple[str, ...] | None = None

    @classmethod
    def from_event(cls, event: object) -> Self:
        """Read an invocation's event: any schedule event, `{}`, or `force` and `grants`.

        Raises:
            InvalidRequest: the event is something else; a misspelt key is named.
        """
        if not isinstance(event, Mapping):
            raise InvalidRequest("the event is not a JSON object")
        if {"source", "detail-type"} <= event.keys():
            return cls()
        if unknown := sorted(event.keys() - {"force", "grants"}):
            raise InvalidRequest(f"unknown in the event: {', '.join(unknown)}; use force, grants")
        force, grants = event.get("force", False), event.get("grants")
        if not isinstance(force, bool):
            raise InvalidRequest("force is not true or false")
        if grants is None:
            return cls(force=force)
        if not isinstance(grants, list) or not all(isinstance(name, str) for name in grants):
            raise InvalidRequest("grants is not a list of grant names")
        return cls(force=force, grants=tuple(dict.fromkeys(grants)))

    def names(self, grants: Mapping[str, Grant]) -> tuple[str, ...]:
        """The grants this request is about.

        Raises:
            InvalidRequest: a name is not in grants.toml.
        """
        if self.grants is None:
            return tuple(grants)
        if unknown := [name for name in self.grants if name not in grants]:
            raise InvalidRequest(
                f"no such grant: {', '.join(unknown)}; there are {', '.join(grants)}"
            )
        return self.grants


class State(StrEnum):
    """How a run left one grant."""

    RENEWED = "renewed"
    NOT_DUE = "not_due"
    UNCHANGED = "unchanged"
    """The endpoint's token expires no later than the stored one, which therefore stays."""
    DEFERRED = "deferred"
    """No time was left; it is the most urgent of the next run."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one grant; holds no token.

    Attributes:
        expires_at: of the token that is stored now; None if there is none that is known.
        fingerprint: of that token.
        reason: of a failure, a short fixed word; otherwise empty.
        message: of a failure, cause and next step.
        attempts: requests made to the token endpoint.
    """

    grant: str
    state: State
    _: KW_ONLY
    expires_at: datetime | None = None
    fingerprint: str | None = None
    reason: str = ""
    message: str = ""
    attempts: int = 0

    @classmethod
    def of(  # noqa: PLR0913 - one keyword each for the facts of a failure
        cls,
        grant: str,
        state: State,
        token: StoredToken | None,
        *,
        reason: str = "",
        message: str = "",
        attempts: int = 0,
    ) -> Self:
        """An outcome that leaves `token` stored."""
        return cls(
            grant,
            state,
            expires_at=token.expires_at if token else None,
            fingerprint=token.fingerprint if token else None,
            reason=reason,
            message=message,
            attempts=attempts,
        )


@dataclass(frozen=True, slots=True)
class _Read:
    """One grant as it was found in the store."""

    name: str
    token: StoredToken | None = None
    fault: Outcome | None = None
    is_corrupt: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Refresher:
    """Renews what is due.

    Attributes:
        grants: all grants, by name.
        store: where the tokens are kept.
        endpoint: where they come from.
        read_credentials: reads the client secret; called once per run, if at all.
        now: the clock, aware UTC.
        refresh_ahead: how long before its expiry a token is renewed, at most.
        describe_fault: names a failure of store or secret: (reason, message).
    """

    grants: Mapping[str, Grant]
    store: TokenStore
    endpoint: Endpoint
    read_credentials: Callable[[], Credentials]
    refresh_ahead: timedelta
    describe_fault: Callable[[Exception], tuple[str, str]]
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def run(
        self, request: RefreshRequest, *, time_left: Callable[[], timedelta]
    ) -> tuple[Outcome, ...]:
        """Renew what is due, in parallel, most urgent first.

        One grant's failure neither stops the others nor touches its stored token.

        Args:
            request: which grants, and whether to force.
            time_left: what is left of the invocation.

        Returns:
            One outcome for each grant that the request is about, in its order.

        Raises:
            InvalidRequest: the request names a grant that does not exist.
        """
        names = request.names(self.grants)
        with ThreadPoolExecutor(PARALLELISM, thread_name_prefix="grant") as threads:
            found = list(threads.map(self._read, names))
            due = sorted((read for read in found if self._is_due(read, request)), key=_urgency)
            settled = self._settle_undue(found, due)
            if due:
                settled |= self._renew_all(due, request, threads.map, time_left)
        return tuple(settled[name] for name in names)

    def _read(self, name: str) -> _Read:
        try:
            return _Read(name, self.store.read(name))
        except CorruptStoredToken:
            return _Read(name, is_corrupt=True)
        except Exception as error:
            reason, message = self.describe_fault(error)
            return _Read(name, fault=Outcome(name, State.FAILED, reason=reason, message=message))

    def _is_due(self, read: _Read, request: RefreshRequest) -> bool:
        if read.fault:
            return False
        if request.force or read.token is None:
            return True
        return expiry.is_due(
            issued_at=read.token.issued_at,
            expires_at=read.token.expires_at,
            now=self.now(),
            refresh_ahead=self.refresh_ahead,
        )

    @staticmethod
    def _settle_undue(found: Iterable[_Read], due: Iterable[_Read]) -> dict[str, Outcome]:
        due_names = {read.name for read in due}
        return {
            read.name: read.fault or Outcome.of(read.name, State.NOT_DUE, read.token)
            for read in found
            if read.name not in due_names
        }

    def _renew_all(
        self,
        due: list[_Read],
        request: RefreshRequest,
        parallel: Callable[[Callable[[_Read], Outcome], list[_Read]], Iterable[Outcome]],
        time_left: Callable[[], timedelta],
    ) -> dict[str, Outcome]:
        try:
            credentials = self.read_credentials()
        except Exception as error:
            reason, message = self.describe_fault(error)
            return {
                read.name: Outcome.of(
                    read.name, State.FAILED, read.token, reason=reason, message=message
                )
                for read in due
            }

        def renew(read: _Read) -> Outcome:
            try:
                return self._renew(read, credentials, force=request.force, time_left=time_left)
            except TokenEndpointError as error:
                attempts, reason, message = error.attempts, error.reason, str(error)
            except Exception as error:
                attempts, (reason, message) = 1, self.describe_fault(error)
            return Outcome.of(
                read.name,
                State.FAILED,
                read.token,
                reason=reason,
                message=message,
                attempts=attempts,
            )

        return {outcome.grant: outcome for outcome in parallel(renew, due)}

    def _renew(
        self,
        read: _Read,
        credentials: Credentials,
        *,
        force: bool,
        time_left: Callable[[], timedelta],
    ) -> Outcome:
        if time_left() < TIME_TO_RENEW:
            return Outcome.of(read.name, State.DEFERRED, read.token)
        scope = self.grants[read.name].scope
        requested_at = self.now()
        response = self.endpoint.request_token(credentials.request(scope), time_left=time_left)
        token = accept(response, scope=scope, requested_at=requested_at, now=self.now())
        if not force and read.token and token.expires_at <= read.token.expires_at:
            return Outcome.of(read.name, State.UNCHANGED, read.token, attempts=1)
        self.store.write(read.name, token)
        return Outcome.of(read.name, State.RENEWED, token, attempts=1)


def accept(
    response: TokenResponse, *, scope: tuple[str, ...], requested_at: datetime, now: datetime
) -> StoredToken:
    """Turn an answer into a token worth storing.

    Raises:
        InvalidTokenResponse: it ends nowhere or too soon, or is not for the scope asked.
    """
    answered = set(response.scope.split(" ")) if response.scope is not None else set(scope)
    if answered != set(scope):
        kind = "narrower" if answered < set(scope) else "another"
        raise InvalidTokenResponse(
            f"the token is for {kind} scope than the one asked for", reason="wrong_scope"
        )
    expires_at = expiry.expires_at(
        response.access_token, expires_in=response.lifetime, requested_at=requested_at
    )
    if expires_at is None:
        raise InvalidTokenResponse(
            "neither expires_in nor the token's own exp says when it expires", reason="no_expiry"
        )
    issued_at = requested_at.replace(microsecond=0)
    if expires_at - max(now, issued_at) <= MIN_LIFETIME:
        raise InvalidTokenResponse(
            "the token has expired already, or is about to; compare this clock with Enable's",
            reason="expired",
        )
    return StoredToken(
        access_token=response.access_token,
        scope=scope,
        issued_at=issued_at,
        expires_at=expires_at,
    )


def causes_of_failure(outcomes: Iterable[Outcome]) -> dict[str, str]:
    """The message of each failed grant, by name."""
    return {o.grant: o.message for o in outcomes if o.state is State.FAILED}


def _urgency(read: _Read) -> datetime:
    return read.token.expires_at if read.token else datetime.min.replace(tzinfo=UTC)
