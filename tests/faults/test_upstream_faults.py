"""Every fault of the token endpoint: the real client, a real socket, and what comes of it."""

import contextlib
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, cast
from unittest.mock import MagicMock
from urllib.parse import urlsplit

import pytest

from tests.conftest import NASTY_SECRET
from tests.faults.conftest import (
    GRANT,
    OLD_TOKEN,
    REFRESH_AHEAD,
    SCOPE,
    VEND_EVENT,
    Clock,
    Context,
    Handler,
    Shown,
    all_said,
    forget,
    leaks,
    old_token,
)
from tests.faults.fault_server import (
    NEVER_SHOWN,
    Certificates,
    ConnectProxy,
    FaultServer,
    closed_port,
    dead_port,
)
from tests.faults.fault_table import SOUND, UPSTREAM_FAULTS, UpstreamFault, Wait, Where
from tests.unit.fakes import FakeReader, FakeStates
from token_broker.aws import describe_fault
from token_broker.errors import TokenEndpointError
from token_broker.grants import Grant
from token_broker.models import Stored, StoredToken
from token_refresher.connection_state import ConnectionState
from token_refresher.credentials import (
    CURRENT,
    ClientCredentials,
    SecretReader,
    SecretVersion,
)
from token_refresher.enable import endpoint as endpoint_module
from token_refresher.enable import http_client
from token_refresher.enable.endpoint import TokenEndpoint
from token_refresher.enable.http_client import HttpClient
from token_refresher.enable.models import Issued, TokenRequest
from token_refresher.outcomes import State
from token_refresher.refresh import Refresher
from token_vendor import app as vendor_app

HURRIED_SECONDS: Final = 0.2
CLIENT_ID: Final = "7f0c1a52-client"
REGISTRATION_ID: Final = "c3b2&=%-registration"
SLACK: Final = timedelta(seconds=3)
HTTP_FAULTS: Final = [row for row in UPSTREAM_FAULTS if row.where is Where.HTTP]


def named(rows: list[UpstreamFault] | tuple[UpstreamFault, ...]) -> Any:
    """Parametrizes a test by rows of the table."""
    return pytest.mark.parametrize("row", rows, ids=[f"{row.group}: {row.what}" for row in rows])


# ── The broker, with everything real but AWS ─────────────────────────────────────────────────


@dataclass
class MemoryStore:
    tokens: dict[str, StoredToken] = field(default_factory=dict)

    def read(self, grant: str) -> StoredToken | None:
        return self.tokens.get(grant)

    def state(self, grant: str) -> Stored:
        return self.tokens.get(grant)

    def replace(
        self,
        grant: str,
        token: StoredToken,
        *,
        seen: Stored,
        is_restored: Callable[[StoredToken, StoredToken], bool],
    ) -> StoredToken:
        assert seen == self.tokens.get(grant) or callable(is_restored)
        self.tokens[grant] = token
        return token


@dataclass
class Secrets:
    stages: tuple[str, ...] = ()

    def connection_of(self, secret: str) -> str | None:
        raise AssertionError(f"no run here is about a changed secret: {secret}")

    def versions(self, connection: str) -> Iterator[SecretVersion]:
        return SecretReader.versions(cast("SecretReader", self), connection)

    def read(self, _connection: str, stage: str = CURRENT) -> SecretVersion | None:
        if stage not in {CURRENT, *self.stages}:
            return None
        credentials = ClientCredentials(
            client_id=CLIENT_ID,
            client_secret=NASTY_SECRET,
            dealtrack_registration_id=REGISTRATION_ID,
        )
        return SecretVersion(version_id=f"version-{stage}", stage=stage, credentials=credentials)


@dataclass
class WatchedEndpoint:
    """The endpoint itself; its errors are kept, whose chains nobody else gets to see."""

    endpoint: TokenEndpoint
    errors: list[TokenEndpointError] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.endpoint.url

    def request_token(
        self, request: TokenRequest, *, time_left: Callable[[], timedelta], attempts: int
    ) -> Issued:
        try:
            return self.endpoint.request_token(request, time_left=time_left, attempts=attempts)
        except TokenEndpointError as error:
            self.errors.append(error)
            raise


@dataclass
class Vended:
    """The vendor's response to `GET /tokens/deals`."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str]

    @property
    def access_token(self) -> str:
        assert self.status == 200
        token: str = self.body["access_token"]
        return token


@dataclass
class Broker:
    """One grant, whose token is due, before a token endpoint that misbehaves."""

    row: UpstreamFault
    server: FaultServer | None
    handler: Handler
    endpoint: WatchedEndpoint
    waits: list[float]
    clock: Clock
    store: MemoryStore = field(default_factory=MemoryStore)
    states: FakeStates = field(default_factory=FakeStates)

    def refresh(self, event: object | None = None) -> Shown:
        refresher = Refresher(
            grants={GRANT: Grant(scope=SCOPE)},
            endpoints={"default": self.endpoint},
            reader=FakeReader(self.store, self.states),
            store=self.store,
            states=self.states,
            secrets=Secrets(self.row.secret_stages),
            refresh_ahead=REFRESH_AHEAD,
            parallelism=8,
            describe_fault=describe_fault,
            now=self.clock,
            pause=self.pause,
        )
        return self.handler(refresher, event)

    def pause(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.clock.wind(timedelta(seconds=seconds))

    def vend(self) -> Vended:
        """What a caller gets in this moment."""
        forget(vendor_app)
        response = vendor_app.lambda_handler(VEND_EVENT, Context())
        return Vended(response["statusCode"], json.loads(response["body"]), response["headers"])

    @property
    def requests(self) -> int:
        return self.server.requests if self.server else 0


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def _greeting(
    where: Where, certificates: Certificates
) -> Callable[[socket.socket, threading.Event], socket.socket]:
    """What a server does before the first request."""
    contexts: dict[Where, Callable[[], ssl.SSLContext]] = {
        Where.TLS: certificates.context,
        Where.TLS_EXPIRED: lambda: certificates.context(ended=True),
        Where.TLS_WRONG_HOST: lambda: certificates.context(host="other.example"),
        Where.TLS_SELF_SIGNED: lambda: certificates.context(is_self_signed=True),
    }
    if where in contexts:
        context = contexts[where]()
        return lambda sock, _stop: context.wrap_socket(sock, server_side=True)

    def refuse(sock: socket.socket, stop: threading.Event) -> socket.socket:
        if where is Where.TLS_SILENT:
            stop.wait()
        else:
            sock.recv(5)  # the rest, unread, makes the end a reset
        raise ConnectionAbortedError

    return refuse


@contextlib.contextmanager
def _url_of(
    row: UpstreamFault, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, FaultServer | None]]:
    """Where the row's endpoint is, and the server behind it, if there is one."""
    with ExitStack() as stack:
        if row.where is Where.CLOSED_PORT:
            yield stack.enter_context(closed_port()), None
        elif row.where is Where.FULL_BACKLOG:
            port = stack.enter_context(dead_port())
            yield f"http://127.0.0.1:{port}/oauth2/token", None
        elif row.where is Where.DEAD_ADDRESSES:
            server = stack.enter_context(FaultServer(row.script))
            ports = [stack.enter_context(dead_port()) for _ in range(4)]
            ports.append(urlsplit(server.url).port or 0)
            addresses = [
                (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", p)) for p in ports
            ]
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: list(addresses))
            yield "http://token-endpoint.invalid/oauth2/token", server
        elif row.where in {Where.PROXY, Where.PROXY_REFUSES, Where.NO_PROXY_THERE}:
            yield stack.enter_context(_behind_proxy(row, certificates, monkeypatch))
        elif row.where is Where.NO_DNS:

            def unknown(*_arguments: object) -> None:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

            monkeypatch.setattr(socket, "getaddrinfo", unknown)
            yield "https://token-endpoint.invalid/oauth2/token", None
        elif row.where in {Where.HTTP, Where.SLOW_DNS}:
            if row.where is Where.SLOW_DNS:
                find = socket.getaddrinfo

                def find_late(*arguments: Any) -> Any:
                    time.sleep(1.2 * HURRIED_SECONDS)
                    return find(*arguments)

                monkeypatch.setattr(socket, "getaddrinfo", find_late)
            server = stack.enter_context(FaultServer(row.script))
            yield server.url, server
        else:
            monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority))
            greet = _greeting(row.where, certificates)
            server = stack.enter_context(FaultServer(row.script, greet=greet, scheme="https"))
            yield server.url, server


@contextlib.contextmanager
def _behind_proxy(
    row: UpstreamFault, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, FaultServer | None]]:
    """A host that only a proxy finds."""
    host = "token-endpoint.invalid"
    for name in ("https_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with ExitStack() as stack:
        if row.where is Where.NO_PROXY_THERE:
            monkeypatch.setenv("HTTPS_PROXY", stack.enter_context(closed_port()))
            yield f"https://{host}/oauth2/token", None
            return
        refusal = b"407 No" if row.where is Where.PROXY_REFUSES else b""
        proxy = stack.enter_context(ConnectProxy(refusal))
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority))
        context = certificates.context(host=host)

        def greet(sock: socket.socket, _stop: threading.Event) -> socket.socket:
            return context.wrap_socket(sock, server_side=True)

        server = stack.enter_context(FaultServer(row.script or (SOUND,), greet=greet))
        port = urlsplit(server.url).port
        yield f"https://{host}:{port}/oauth2/token", server
        assert {line.split()[1] for line in proxy.requests} == {f"{host}:{port}"}


def _wire_vendor(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the vend function read the same store."""
    monkeypatch.setattr(vendor_app, "_session", MagicMock())
    monkeypatch.setattr(vendor_app, "ParameterTokenStore", lambda *_, **__: broker.store)
    monkeypatch.setattr(vendor_app, "load_grants", lambda: {GRANT: Grant(scope=SCOPE)})
    monkeypatch.setenv("TOKEN_PARAMETER_PREFIX", "/enable-tokens/faults")
    monkeypatch.setenv("TOKEN_CACHE_SECONDS", "60")
    monkeypatch.setenv("REFRESH_FUNCTION_NAME", "refresher")
    monkeypatch.setenv("REFRESH_AHEAD_SECONDS", str(int(REFRESH_AHEAD.total_seconds())))


@pytest.fixture
def broker(
    row: UpstreamFault,
    handler: Handler,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Broker]:
    if row.is_hurried:
        hurried = timedelta(seconds=HURRIED_SECONDS)
        monkeypatch.setattr(endpoint_module, "CONNECT_TIMEOUT", hurried)
        monkeypatch.setattr(http_client, "CONNECT_TIMEOUT", hurried)
        monkeypatch.setattr(endpoint_module, "ATTEMPT_TIMEOUT", hurried)
    waits: list[float] = []
    clock = Clock()
    with _url_of(row, certificates, monkeypatch) as (url, server):
        endpoint = TokenEndpoint(url, http=HttpClient(), now=clock)
        broker = Broker(row, server, handler, WatchedEndpoint(endpoint), waits, clock)
        broker.store.tokens[GRANT] = old_token(clock())
        _wire_vendor(broker, monkeypatch)
        yield broker
        forget(vendor_app)


# ── What is asserted ─────────────────────────────────────────────────────────────────────────


def assert_said_as_expected(row: UpstreamFault, output: Shown, broker: Broker) -> None:
    outcome = output.outcome
    assert (outcome.state, outcome.reason) == (row.state, row.reason)
    if isinstance(row.cause, re.Pattern):
        assert row.cause.fullmatch(outcome.cause), f"{outcome.cause!r} is not {row.cause.pattern!r}"
    else:
        assert outcome.cause == row.cause
    if row.state is State.FAILED:
        assert output.error is not None
        assert output.error.causes == {GRANT: outcome.cause}
        assert str(output.error) == f"not renewed: {GRANT}: {outcome.cause}"
        assert f'"reason":"{row.reason}"' in output.text
    else:
        assert output.summary is not None
        assert output.summary["grants"][GRANT]["state"] == row.state.value
    assert not leaks(output.text)
    assert not leaks("\n".join(map(all_said, broker.endpoint.errors)))


def assert_asked_as_expected(row: UpstreamFault, output: Shown, broker: Broker) -> None:
    assert output.outcome.attempts == row.attempts
    assert broker.requests == (row.attempts if row.arriving is None else row.arriving)
    tries_of_one_secret = row.attempts if not row.secret_stages else 1
    assert len(broker.waits) == tries_of_one_secret - 1
    if row.waits is not None:
        assert broker.waits == pytest.approx(row.waits, abs=SLACK.total_seconds() / 10)
    else:
        longest = (0.25, 0.5, 1.0)
        assert all(0 <= wait <= most for wait, most in zip(broker.waits, longest, strict=False))
    if broker.server is None:
        return
    assert not broker.server.faults
    for form in broker.server.forms:
        assert form == {
            "client_id": CLIENT_ID,
            "client_secret": NASTY_SECRET,
            "dealtrack_registration_id": REGISTRATION_ID,
            "scope": " ".join(SCOPE),
            "grant_type": "client_credentials",
        }, "another form"


def assert_backoff_as_expected(
    row: UpstreamFault, output: Shown, broker: Broker, at: datetime
) -> None:
    state = broker.states.now()
    if row.backoff is Wait.NONE:
        assert (state.backoff, state.grants) == (None, {})
        assert output.outcome.retry_at is None
        return
    of_grant, of_connection = state.grants.get(GRANT), state.backoff
    backoff, other = (
        (of_grant, of_connection) if row.backoff is Wait.GRANT else (of_connection, of_grant)
    )
    assert backoff is not None
    assert other is None
    assert backoff.reason == row.reason
    length = row.held_seconds if row.backoff is Wait.ASKED else 55
    assert at + timedelta(seconds=length) - SLACK <= backoff.until
    assert backoff.until <= broker.clock() + timedelta(seconds=length)
    assert output.outcome.retry_at is not None
    assert abs(output.outcome.retry_at - backoff.until) <= timedelta(seconds=1)


def assert_stored_as_expected(
    row: UpstreamFault, output: Shown, broker: Broker, at: datetime
) -> None:
    stored = broker.store.tokens[GRANT]
    outcome = output.outcome
    assert (outcome.expires_at, outcome.fingerprint) == (stored.expires_at, stored.fingerprint)
    if row.is_replaced:
        assert stored.access_token != OLD_TOKEN
        assert NEVER_SHOWN in stored.access_token
        assert (stored.token_type, stored.scope) == ("Bearer", SCOPE)
        lifetime = timedelta(seconds=row.lifetime_seconds)
        assert at + lifetime - SLACK <= stored.expires_at <= broker.clock() + lifetime
        version, stage = stored.secret_version, outcome.secret_stage
        assert version == f"version-{stage or CURRENT}"
        assert stage == (row.secret_stages[0] if row.secret_stages else "")
    else:
        assert stored == old_token(at) or stored == old_token(at - timedelta(seconds=1))
    assert broker.vend().access_token == stored.access_token


@named(UPSTREAM_FAULTS)
def test_fault_ends_as_the_table_says(row: UpstreamFault, broker: Broker) -> None:
    begun = broker.clock()
    old = broker.store.tokens[GRANT]
    started = time.monotonic()
    output = broker.refresh()
    if row.is_hurried:
        assert time.monotonic() - started < 1.2 * HURRIED_SECONDS * row.attempts + 10
    assert_said_as_expected(row, output, broker)
    assert_asked_as_expected(row, output, broker)
    assert_backoff_as_expected(row, output, broker, begun)
    assert_stored_as_expected(row, output, broker, begun)
    if not row.is_replaced:
        assert broker.store.tokens == {GRANT: old}
        assert broker.vend().access_token == OLD_TOKEN


@named([row for row in HTTP_FAULTS if row.attempts == 4])
def test_transient_fault_is_over_within_the_run(row: UpstreamFault, broker: Broker) -> None:
    assert broker.server is not None
    broker.server.follow([row.script[0], SOUND])
    outcome = broker.refresh().outcome
    assert (outcome.state, outcome.attempts, broker.requests) == (State.RENEWED, 2, 2)
    assert broker.vend().access_token != OLD_TOKEN
    assert broker.states.now() == ConnectionState()


@named([row for row in HTTP_FAULTS if row.state is State.FAILED and not row.is_hurried])
def test_failure_heals_as_the_table_says(row: UpstreamFault, broker: Broker) -> None:
    assert broker.server is not None
    broker.refresh()
    asked = broker.requests
    broker.server.follow([SOUND])
    if row.backoff is not Wait.NONE:
        output = broker.refresh()
        assert (output.outcome.state, output.outcome.reason) == (State.WAITING, row.reason)
        assert output.error is not None
        assert not leaks(output.text)
        assert broker.requests == asked
        assert broker.vend().access_token == OLD_TOKEN
        length = row.held_seconds if row.backoff is Wait.ASKED else 60
        broker.clock.wind(timedelta(seconds=length))
    assert broker.refresh().outcome.state is State.RENEWED
    assert broker.requests == asked + 1
    assert broker.vend().access_token != OLD_TOKEN
    assert broker.states.now() == ConnectionState()


@named([row for row in HTTP_FAULTS if row.backoff is not Wait.NONE])
def test_force_waits_for_nothing(row: UpstreamFault, broker: Broker) -> None:
    assert broker.server is not None
    broker.refresh()
    broker.server.follow([SOUND])
    assert broker.refresh({"force": True}).outcome.state is State.RENEWED


@named([row for row in HTTP_FAULTS if row.state is State.FAILED and not row.is_hurried])
def test_callers_without_a_stored_token_are_told_to_come_back(
    row: UpstreamFault, broker: Broker
) -> None:
    broker.store.tokens.clear()
    output = broker.refresh()
    assert (output.outcome.state, output.outcome.reason) == (State.FAILED, row.reason)
    assert output.outcome.expires_at is None
    assert not leaks(output.text)
    assert broker.store.tokens == {}
    vended = broker.vend()
    assert vended.status == 503
    assert int(vended.headers["Retry-After"]) > 0
    assert not leaks(str(vended))
