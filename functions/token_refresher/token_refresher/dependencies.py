"""What the renewal works with: each Protocol names what it needs of a store or of the endpoint."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from token_broker.models import Blocked, Stored, StoredToken
from token_refresher.connection_state import ConnectionState
from token_refresher.enable.models import Issued, TokenRequest
from token_refresher.parameter_reader import Reading


class Reader(Protocol):
    """Where a run reads what is stored."""

    def read(
        self,
        connections: Sequence[str],
        grants: Sequence[str],
        *,
        threads: Callable[[int], Executor],
    ) -> Reading:
        """Read the states of connections, and what is stored for grants."""


class TokenStore(Protocol):
    """Where the tokens are stored."""

    @property
    def key_id(self) -> str:
        """The key that new tokens are encrypted with."""

    def replace(
        self,
        grant: str,
        token: StoredToken,
        *,
        seen: Stored,
        is_restored: Callable[[StoredToken, StoredToken], bool],
    ) -> StoredToken | Blocked:
        """Store a token; what is stored now."""


class StateStore(Protocol):
    """Where the state of a connection is stored."""

    def acquire(self, connection: str, seen: ConnectionState, now: datetime) -> bool:
        """Take the lease; whether this run has it."""

    def release(self, connection: str, state: ConnectionState) -> None:
        """Store the state without the lease."""


class Endpoint(Protocol):
    """Where the tokens come from."""

    @property
    def url(self) -> str:
        """Where requests go."""

    def request_token(
        self, request: TokenRequest, *, time_left: Callable[[], timedelta], attempts: int
    ) -> Issued:
        """Request a token, with so many attempts."""


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

    def versions(self, connection: str) -> Iterator[Secret]:
        """A connection's secret: the current version, then the others, read when asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependencies:
    """What the renewal of a connection works with.

    Attributes:
        store: where the tokens are stored.
        states: where the states of the connections are stored.
        secrets: the client secrets.
        endpoint: the connection's token endpoint.
        describe_fault: names a failure of AWS or of ours: (reason, cause).
        parallelism: requests at a time.
        now: the clock, aware UTC.
        time_left: what is left of the invocation.
        monotonic: seconds of a clock that is never set.
        pause: waits for so many seconds.
        jitter: a factor in [0, 1) for each wait.
        threads: runs so many functions at a time.
    """

    store: TokenStore
    states: StateStore
    secrets: Secrets
    endpoint: Endpoint
    describe_fault: Callable[[Exception], tuple[str, str]]
    parallelism: int
    now: Callable[[], datetime]
    time_left: Callable[[], timedelta]
    monotonic: Callable[[], float]
    pause: Callable[[float], None]
    jitter: Callable[[], float]
    threads: Callable[[int], Executor]
