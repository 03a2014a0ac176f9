"""Every fake of the unit tests: clock, stores, secrets, endpoint, HTTP pool, AWS, context."""

import base64
import io
import json
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, cast
from urllib.parse import quote, quote_plus

import boto3
import pytest
import urllib3
from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.exceptions import ClientError

from token_broker.aws import describe_fault
from token_broker.errors import (
    CorruptStoredToken,
    GrantBlocked,
    TokenEndpointUnavailable,
    TokenRequestRejected,
)
from token_broker.grants import DEFAULT_CONNECTION, Grant
from token_broker.models import Blocked, Corrupt, Stored, StoredToken, Unreadable
from token_broker.token_store import UNREADABLE_CODES
from token_refresher.backoff import Backoff
from token_refresher.connection_state import ConnectionState, ConnectionStateStore
from token_refresher.credentials import (
    CURRENT,
    ClientCredentials,
    SecretReader,
    SecretVersion,
)
from token_refresher.dependencies import Endpoint, Reader, Secrets, StateStore, TokenStore
from token_refresher.enable.http_client import HttpClient, Response
from token_refresher.enable.models import Issued, TokenRequest, TokenResponse
from token_refresher.outcomes import Outcome, causes_of_failure
from token_refresher.parameter_reader import Reading
from token_refresher.refresh import Refresher
from token_refresher.refresh_request import RefreshRequest
from token_vendor.vend import TokenReader

if TYPE_CHECKING:
    from types_boto3_secretsmanager import SecretsManagerClient
    from types_boto3_ssm import SSMClient

NOW: Final = datetime(2025, 3, 1, 12, 0, tzinfo=UTC)
EVENTS: Final = Path(__file__).resolve().parents[2] / "events"
SECRET: Final = 'p+ss w&rd=%/ü€"\\'
TOKEN: Final = "eyJhbGciOiJIUzI1NiJ9.c3RvcmVk.c2lnbmF0dXJl"
URL: Final = "https://api.example/oauth2/token"
CREDENTIALS: Final = ClientCredentials(
    client_id="7f0c1a52", client_secret=SECRET, dealtrack_registration_id="c3b2&=%"
)
VERSION: Final = SecretVersion(version_id="v1", stage=CURRENT, credentials=CREDENTIALS)
SECRET_PREFIX: Final = "token-broker/connections/"


def event(name: str) -> dict[str, Any]:
    """A sample event of events/, fresh for each test."""
    loaded: dict[str, Any] = json.loads((EVENTS / name).read_text(encoding="utf-8"))
    return loaded


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def jwt(**claims: object) -> str:
    """An unsigned token of the shape of a JWT."""
    parts = json.dumps({"alg": "none"}), json.dumps(claims), "signature"
    return ".".join(base64.urlsafe_b64encode(p.encode()).decode().rstrip("=") for p in parts)


def stored(
    access_token: str = TOKEN,
    *,
    left: float = 3600,
    age: float = 0,
    scope: tuple[str, ...] = ("read:deals",),
    secret_version: str = "v1",  # noqa: S107 - the version's name, not the secret
    parameter_version: int = 0,
) -> StoredToken:
    """A token that was issued `age` seconds before NOW and has `left` seconds at NOW."""
    return StoredToken(
        access_token=access_token,
        scope=scope,
        issued_at=NOW - seconds(age),
        expires_at=NOW + seconds(left),
        secret_version=secret_version,
        parameter_version=parameter_version,
    )


def response(text: str = "new", expires_in: int | None = 3600, **more: Any) -> TokenResponse:
    """A sound response of the token endpoint."""
    return TokenResponse(access_token=text, token_type="Bearer", expires_in=expires_in, **more)


def rejection(reason: str) -> TokenRequestRejected:
    """A refusal by the token endpoint."""
    return TokenRequestRejected(f"the token endpoint returned {reason}", reason=reason)


def client_error(code: str, operation: str, message: str = f"quotes {SECRET} and {TOKEN}") -> Any:
    return ClientError({"Error": {"Code": code, "Message": message}}, operation)


def leaks(*texts: str) -> list[str]:
    """Which of the secret and the token the texts contain, plain, escaped or encoded."""
    spellings = {
        form
        for value in (SECRET, TOKEN)
        for form in (
            value,
            repr(value)[1:-1],
            json.dumps(value)[1:-1],
            json.dumps(value, ensure_ascii=False)[1:-1],
            quote(value),
            quote_plus(value),
        )
    }
    return [spelling for spelling in spellings for text in texts if spelling in text]


def all_said(error: BaseException) -> str:
    """All that printing, logging or reporting an error would show, with its whole chain.

    Also what `from None` only hides: error trackers follow a suppressed context.
    """
    output = ["".join(traceback.format_exception(error))]
    link: BaseException | None = error
    while link is not None:
        output += [str(link), repr(link), repr(link.args), repr(vars(link))]
        link = link.__cause__ or link.__context__
    return "\n".join(output)


@dataclass
class FakeClock:
    """Two clocks that stand still until they are wound on; the wall clock can also be set."""

    time: datetime = NOW
    elapsed: float = 0

    def __call__(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self.elapsed

    def wind(self, by: float) -> None:
        self.time += seconds(by)
        self.elapsed += by

    def set_by(self, by: float) -> None:
        """Correct the wall clock, as NTP does: no time passes."""
        self.time += seconds(by)


class FrozenDatetime(datetime):
    """`datetime` of a module under test: its now() is NOW."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        assert tz is UTC
        return cls(NOW.year, NOW.month, NOW.day, NOW.hour, tzinfo=tz)


def ssm_client() -> "SSMClient":
    """A real client, to be stubbed: the stub checks parameters against AWS's own model."""
    return boto3.client(
        "ssm", region_name="eu-west-1", aws_access_key_id="id", aws_secret_access_key="key"
    )


class FakeSsm:
    """Parameters in a dictionary, each with all its versions."""

    exceptions = ssm_client().exceptions

    def __init__(self) -> None:
        self.values: dict[str, list[str]] = {}

    def get_parameter(self, Name: str, **_options: object) -> dict[str, Any]:  # noqa: N803
        name, _, number = Name.partition(":")
        version = int(number or len(self.values.get(name, [])))
        if version < 1:
            raise self.exceptions.ParameterNotFound({"Error": {}}, "GetParameter")
        return {"Parameter": {"Value": self.values[name][version - 1], "Version": version}}

    def put_parameter(self, Name: str, Value: str, **_options: object) -> dict[str, int]:  # noqa: N803
        self.values.setdefault(Name, []).append(Value)
        return {"Version": len(self.values[Name])}


class FakeStates(ConnectionStateStore):
    """The real store of states, over parameters in memory; its calls can fail or be watched."""

    def __init__(self) -> None:
        self.ssm = FakeSsm()
        super().__init__(cast("SSMClient", self), prefix="/p")
        self.exceptions = self.ssm.exceptions
        self.fault_of_read: Exception | None = None
        self.fault_of_write: Exception | None = None
        self.reads: list[str] = []
        self.on_read: Callable[[], object] = lambda: None
        self.on_write: Callable[[ConnectionState], object] = lambda _state: None

    @property
    def texts(self) -> dict[str, list[str]]:
        """Every version of each connection's state."""
        return {name.rpartition("/")[2]: texts for name, texts in self.ssm.values.items()}

    def get_parameter(self, Name: str) -> dict[str, Any]:  # noqa: N803
        self.reads.append(Name.rpartition("/")[2])
        if self.fault_of_read:
            raise self.fault_of_read
        self.on_read()
        return self.ssm.get_parameter(Name)

    def put_parameter(self, Name: str, Value: str, **options: object) -> dict[str, int]:  # noqa: N803
        self.on_write(ConnectionState.from_json(Value))
        if self.fault_of_write:
            raise self.fault_of_write
        return self.ssm.put_parameter(Name, Value, **options)

    def put(self, state: ConnectionState, connection: str = DEFAULT_CONNECTION) -> None:
        """Another run stores a state."""
        self.put_text(state.to_json(), connection)

    def put_text(self, text: str, connection: str = DEFAULT_CONNECTION) -> None:
        self.ssm.put_parameter(f"/p/connections/{connection}", text)

    def now(self, connection: str = DEFAULT_CONNECTION) -> ConnectionState:
        """What is stored now."""
        return ConnectionState.from_json(self.texts.get(connection, ["{}"])[-1])

    def backoff_of(self, grant: str = "") -> Backoff | None:
        """The backoff of a grant, or of the default connection as a whole."""
        return self.now().grants.get(grant) if grant else self.now().backoff


@dataclass
class FakeStore:
    """Tokens in a dictionary; a grant in `faults` cannot be read, one in `unwritable` written.

    What is in `meanwhile` another run has stored by the time this one replaces a token.
    """

    tokens: dict[str, StoredToken] = field(default_factory=dict)
    faults: dict[str, Exception] = field(default_factory=dict)
    unwritable: dict[str, Exception] = field(default_factory=dict)
    meanwhile: dict[str, StoredToken] = field(default_factory=dict)
    blocked_meanwhile: dict[str, GrantBlocked] = field(default_factory=dict)
    reads: list[str] = field(default_factory=list)
    replaced: dict[str, Stored] = field(default_factory=dict)
    on_read: Callable[[], object] = lambda: None
    on_write: Callable[[str], object] = lambda _grant: None
    key_id: str = "arn:aws:kms:eu-west-1:111122223333:key/broker"

    def read(self, grant: str) -> StoredToken | None:
        self.reads.append(grant)
        self.on_read()
        if grant in self.faults:
            raise self.faults[grant]
        return self.tokens.get(grant)

    def state(self, grant: str) -> Stored:
        try:
            return self.read(grant)
        except GrantBlocked as block:
            return Blocked(reason=block.reason, record=block.record)
        except CorruptStoredToken:
            return Corrupt()
        except ClientError as error:
            code, cause = describe_fault(error)
            if code in UNREADABLE_CODES:
                return Unreadable(cause=cause)
            raise

    def replace(
        self,
        grant: str,
        token: StoredToken,
        *,
        seen: Stored,
        is_restored: Callable[[StoredToken, StoredToken], bool],
    ) -> StoredToken | Blocked:
        assert seen == self.tokens.get(grant) or not isinstance(seen, StoredToken)
        self.replaced[grant] = seen
        if grant in self.blocked_meanwhile:
            return Blocked(reason=self.blocked_meanwhile[grant].reason, record="")
        unseen = None if isinstance(seen, StoredToken) else self.tokens.get(grant)
        between = self.meanwhile.get(grant, unseen)
        is_kept = (
            between is not None
            and set(between.scope) == set(token.scope)
            and is_restored(between, token)
        )
        self.write(grant, between if between and is_kept else token)
        return self.tokens[grant]

    def write(self, grant: str, token: StoredToken) -> int:
        if grant in self.unwritable:
            raise self.unwritable[grant]
        self.tokens[grant] = token
        self.on_write(grant)
        return 7


class FakeReader:
    """Reads fakes, as the real reader reads what Parameter Store refuses as a whole: one by one."""

    def __init__(self, store: "StateReader", states: ConnectionStateStore) -> None:
        self._store = store
        self._states = states

    def read(
        self,
        connections: Sequence[str],
        grants: Sequence[str],
        *,
        threads: Callable[[int], Executor],
    ) -> Reading:
        with threads(8) as pool:
            states = list(pool.map(self._states.read, connections))
            found = list(pool.map(self._stored, grants))
        return Reading(
            dict(zip(connections, states, strict=True)), dict(zip(grants, found, strict=True))
        )

    def _stored(self, grant: str) -> Stored | Exception:
        try:
            return self._store.state(grant)
        except Exception as error:
            return error


class StateReader(Protocol):
    """What a fake reader needs of a store."""

    def state(self, grant: str) -> Stored:
        """What is stored for a grant."""


@dataclass
class FakeSecrets:
    """Each connection's secret by staging label; version `v1` of CREDENTIALS unless put."""

    stored: dict[tuple[str, str], SecretVersion | Exception] = field(default_factory=dict)
    reads: list[tuple[str, str]] = field(default_factory=list)
    on_read: Callable[[str], object] = lambda _connection: None

    def put(
        self,
        version_id: str,
        secret: str = SECRET,
        *,
        stage: str = CURRENT,
        connection: str = DEFAULT_CONNECTION,
    ) -> None:
        self.stored[connection, stage] = SecretVersion(
            version_id=version_id,
            stage=stage,
            credentials=replace(CREDENTIALS, client_secret=secret),
        )

    def connection_of(self, secret: str) -> str | None:
        name = secret.rpartition(":")[2].rpartition("-")[0] if ":" in secret else secret
        is_ours = name.startswith(SECRET_PREFIX)
        return name.removeprefix(SECRET_PREFIX) if is_ours else None

    def versions(self, connection: str) -> Iterator[SecretVersion]:
        return SecretReader.versions(cast("SecretReader", self), connection)

    def read(self, connection: str, stage: str = CURRENT) -> SecretVersion | None:
        self.reads.append((connection, stage))
        self.on_read(connection)
        if stage == CURRENT and (connection, stage) not in self.stored:
            self.put("v1", connection=connection)
        version = self.stored.get((connection, stage))
        if isinstance(version, Exception):
            raise version
        return version


@dataclass
class FakeEndpoint:
    """Responds by scope, otherwise with an opaque token of an hour; some secrets it refuses.

    The first `failures` requests of each scope fail without a response.
    """

    responses: dict[str, TokenResponse | Exception] = field(default_factory=dict)
    refused_secrets: dict[str, str] = field(default_factory=dict)
    requests: list[TokenRequest] = field(default_factory=list)
    failures: int = 0
    on_request: Callable[[TokenRequest], object] = lambda _request: None
    now: Callable[[], datetime] = lambda: NOW
    url: str = URL

    def request_token(
        self, request: TokenRequest, *, time_left: Callable[[], timedelta], attempts: int
    ) -> Issued:
        assert time_left() > timedelta()
        assert attempts == 1
        requested_at = self.now()
        self.requests.append(request)
        self.on_request(request)
        scope = " ".join(request.scope)
        if self.scopes.count(scope) <= self.failures:
            raise TokenEndpointUnavailable("the token endpoint sent no response", reason="timeout")
        if reason := self.refused_secrets.get(request.client_secret):
            raise rejection(reason)
        reply = self.responses.get(scope)
        if isinstance(reply, Exception):
            raise reply
        opaque = "new-token-for-" + scope.replace(" ", "-")
        return Issued(response=reply or response(opaque), requested_at=requested_at, attempts=1)

    @property
    def scopes(self) -> list[str]:
        return [" ".join(request.scope) for request in self.requests]


@dataclass
class Broker:
    """A refresher among fakes; in its store all tokens are fresh, unless a test changes one."""

    grants: dict[str, Grant] = field(
        default_factory=lambda: {
            name: Grant(scope=(f"read:{name}",)) for name in ("deals", "activity", "users")
        }
    )
    clock: FakeClock = field(default_factory=FakeClock)
    store: FakeStore = field(default_factory=FakeStore)
    states: FakeStates = field(default_factory=FakeStates)
    secrets: FakeSecrets = field(default_factory=FakeSecrets)
    endpoints: dict[str, FakeEndpoint] = field(default_factory=dict)
    refresh_ahead: timedelta = timedelta(minutes=10)
    parallelism: int = 8
    on_pause: Callable[[], object] = lambda: None
    jitter: float = 0
    monotonic: Callable[[], float] = time.monotonic
    threads: Callable[[int], Executor] = ThreadPoolExecutor

    def __post_init__(self) -> None:
        for name, grant in self.grants.items():
            self.store.tokens[name] = stored(name, scope=grant.scope)
            self.endpoints.setdefault(grant.connection, FakeEndpoint(now=self.clock))

    @property
    def endpoint(self) -> FakeEndpoint:
        return self.endpoints[DEFAULT_CONNECTION]

    def refresher(self) -> Refresher:
        return Refresher(
            grants=self.grants,
            endpoints=self.endpoints,
            reader=FakeReader(self.store, self.states),
            store=self.store,
            states=self.states,
            secrets=self.secrets,
            refresh_ahead=self.refresh_ahead,
            parallelism=self.parallelism,
            describe_fault=describe_fault,
            now=self.clock,
            monotonic=self.monotonic,
            pause=self.pause,
            jitter=lambda: self.jitter,
            threads=self.threads,
        )

    def pause(self, length: float) -> None:
        self.clock.wind(length)
        self.on_pause()

    def run(self, request: RefreshRequest | None = None, *, time: float = 60) -> dict[str, Outcome]:
        """One run with `time` seconds; nothing that it tells may contain a secret or a token."""
        end = self.clock() + seconds(time)
        outcomes = self.refresher().run(
            request or RefreshRequest(), time_left=lambda: end - self.clock()
        )
        assert not leaks(repr(outcomes), repr(causes_of_failure(outcomes)), repr(self.states.texts))
        return {outcome.grant: outcome for outcome in outcomes}


def states(outcomes: dict[str, Outcome]) -> dict[str, str]:
    return {name: outcome.state.value for name, outcome in outcomes.items()}


def returned(
    status: int,
    body: bytes | Mapping[str, object] | list[object] = b"",
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A response of the token endpoint."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Response(status=status, body=data, headers=urllib3.HTTPHeaderDict(headers))


type Scripted = Response | Exception | Callable[[], Response]


class FakeHttp(HttpClient):
    """Returns scripted responses, or raises them; keeps what was requested."""

    def __init__(self, *script: Scripted) -> None:
        super().__init__()
        self.script = list(script)
        self.requests: list[tuple[str, str, dict[str, Any]]] = []

    def request(self, method: str, url: str, **options: Any) -> Response:
        self.requests.append((method, url, options))
        scripted = self.script.pop(0)
        if isinstance(scripted, Exception):
            raise scripted
        return scripted() if callable(scripted) else scripted


def secrets_client() -> "SecretsManagerClient":
    """As `ssm_client`."""
    return boto3.client(
        "secretsmanager",
        region_name="eu-west-1",
        aws_access_key_id="id",
        aws_secret_access_key="key",
    )


@dataclass
class FakeContext(LambdaContext):
    """Lambda's context, with a given time left."""

    milliseconds: int = 60_000
    _aws_request_id: str = "5a1c7e0e-request"
    _function_name: str = "function"
    _memory_limit_in_mb: int = 512
    _invoked_function_arn: str = "arn:aws:lambda:eu-west-1:111122223333:function:function"

    def get_remaining_time_in_millis(self) -> int:  # type: ignore[override]
        return self.milliseconds


@dataclass
class Output:
    """What a handler logs and which metrics it emits."""

    log: io.StringIO
    capsys: pytest.CaptureFixture[str]
    _printed: str = ""

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.getvalue().splitlines()]

    def metrics(self) -> list[dict[str, Any]]:
        self._printed += self.capsys.readouterr().out
        return [json.loads(line) for line in self._printed.splitlines()]

    def text(self) -> str:
        self._printed += "".join(self.capsys.readouterr())
        return self.log.getvalue() + self._printed


@contextmanager
def output_of(logger: Logger, capsys: pytest.CaptureFixture[str]) -> Iterator[Output]:
    """Collect the lines of a logger, whose stream is older than any capture, and may be closed."""
    handler: Any = logger.registered_handler
    stream = io.StringIO()
    before, handler.stream = handler.stream, stream
    try:
        yield Output(stream, capsys)
    finally:
        handler.stream = before


def everyone_at_once(parties: int) -> Callable[[], object]:
    """Fails unless `parties` threads call it at the same time."""
    return threading.Barrier(parties, timeout=10).wait


# What mypy checks here: each fake is what its consumer's Protocol asks for.
_STORE: TokenStore = FakeStore()
_READ: Reader = FakeReader(FakeStore(), FakeStates())
_READER: TokenReader = FakeStore()
_ENDPOINT: Endpoint = FakeEndpoint()
_STATES: StateStore = FakeStates()
_SECRETS: Secrets = FakeSecrets()
_NOW: Callable[[], datetime] = FakeClock()
