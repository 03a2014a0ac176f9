"""Every fault of AWS: the real boto3 client, the embedded AWS, and a fault proxy between them."""

import json
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, Final

import boto3
import botocore.endpoint
import pytest
import urllib3
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.config import Config

from local.broker_stack import ROOT
from local.embedded_aws import REGION, START_TIMEOUT_SECONDS, EmbeddedAws, free_port
from tests.conftest import NASTY_SECRET
from tests.fault_proxy import command
from tests.faults.conftest import (
    GRANT,
    OLD_TOKEN,
    REFRESH_AHEAD,
    SCOPE,
    VEND_EVENT,
    Context,
    Handler,
    Shown,
    forget,
    leaks,
    old_token,
)
from tests.faults.fault_server import ACCESS_TOKEN, FaultServer
from tests.faults.fault_table import AWS_FAULTS, SOUND, AwsFault, On
from token_broker.aws import CLIENT_CONFIG, WRITER_CONFIG
from token_broker.grants import Grant, GrantsFile
from token_broker.models import StoredToken
from token_broker.token_store import ParameterTokenStore
from token_refresher import app
from token_refresher.outcomes import State
from token_refresher.refresh import Refresher
from token_vendor import app as vendor_app

ACCOUNT: Final = "555566667777"
PREFIX: Final = "/enable-tokens/faults"
HURRIED_SECONDS: Final = 0.25
PATIENT_SECONDS: Final = 30.0
"""No call takes so long, on a busy machine either: only a row about time-outs meets one."""
WIRE: Final = app._refresher
"""The function's own wiring, which the tests use as it is."""


# ── The fault proxy ──────────────────────────────────────────────────────────────────────────


@dataclass
class FaultProxy:
    """microburst, as an HTTP proxy between the function's clients and the embedded AWS."""

    url: str
    pool: urllib3.PoolManager

    def follow(self, *rules: Mapping[str, Any]) -> None:
        """Inject these faults from now on, and no others."""
        self._call("POST", "rules", json=list(rules))
        self._call("DELETE", "fired")

    def fired(self) -> list[str]:
        """The operations that met a fault."""
        return [fault["operation"] for fault in self._call("GET", "fired").json()]

    def config(self, config: Config, *, is_hurried: bool) -> Config:
        """A client configuration of the function, but through the proxy."""
        seconds = HURRIED_SECONDS if is_hurried else PATIENT_SECONDS
        limits = {"connect_timeout": PATIENT_SECONDS, "read_timeout": seconds}
        return config.merge(Config(proxies={"http": self.url}, **limits))

    def _call(self, method: str, path: str, **options: Any) -> urllib3.BaseHTTPResponse:
        response = self.pool.request(method, f"{self.url}/_microburst/{path}", **options)
        assert response.status < 300, response.data
        return response


@pytest.fixture(scope="session")
def fault_proxy(embedded_aws: EmbeddedAws) -> Iterator[FaultProxy]:
    port = free_port()
    process = subprocess.Popen(
        command(embedded_aws.endpoint_url, port),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with urllib3.PoolManager(retries=False, timeout=5.0) as pool:
            proxy = FaultProxy(f"http://127.0.0.1:{port}", pool)
            _wait_until_healthy(proxy, process)
            yield proxy
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_healthy(proxy: FaultProxy, process: subprocess.Popen[bytes]) -> None:
    ends = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < ends and process.poll() is None:
        try:
            if proxy.pool.request("GET", f"{proxy.url}/_microburst/health").status == 200:
                return
        except urllib3.exceptions.HTTPError:
            time.sleep(0.05)
    raise AssertionError("microburst did not start")


# ── The account, and the function in it ──────────────────────────────────────────────────────


@dataclass
class Account:
    session: boto3.Session
    key_arn: str

    @property
    def store(self) -> ParameterTokenStore:
        """The stored tokens, read past the fault proxy."""
        return ParameterTokenStore(self.session.client("ssm"), prefix=PREFIX, key_id=self.key_arn)

    def empty(self) -> None:
        ssm = self.session.client("ssm")
        for page in ssm.get_paginator("describe_parameters").paginate():
            if names := [parameter["Name"] for parameter in page["Parameters"]]:
                for at in range(0, len(names), 10):
                    ssm.delete_parameters(Names=names[at : at + 10])


@pytest.fixture(scope="session")
def account(embedded_aws: EmbeddedAws) -> Account:
    session = embedded_aws.administrator(ACCOUNT)
    key_arn = session.client("kms").create_key()["KeyMetadata"]["Arn"]
    secret = {
        "client_id": "7f0c1a52-client",
        "client_secret": NASTY_SECRET,
        "dealtrack_registration_id": "c3b2&=%-registration",
    }
    session.client("secretsmanager").create_secret(
        Name="faults/connections/default", SecretString=json.dumps(secret)
    )
    return Account(session, key_arn)


@pytest.fixture
def enable() -> Iterator[FaultServer]:
    """A token endpoint without a fault."""
    with FaultServer([SOUND]) as server:
        yield server


@dataclass
class Environment:
    """What the function finds: its variables, an account, and a token endpoint without a fault."""

    account: Account
    enable: FaultServer

    def stored(self, grant: str = GRANT) -> StoredToken:
        token = self.account.store.read(grant)
        assert token is not None
        return token


@pytest.fixture
def environment(
    account: Account,
    embedded_aws: EmbeddedAws,
    enable: FaultServer,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Environment]:
    for name in ("HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "AWS_ENDPOINT_URL": embedded_aws.endpoint_url,
        "AWS_ACCESS_KEY_ID": ACCOUNT,
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_DEFAULT_REGION": REGION,
        "TOKEN_URL": enable.url,
        "SECRET_PREFIX": "faults/connections/",
        "RENEWAL_PARALLELISM": "8",
        "TOKEN_KEY_ARN": account.key_arn,
        "TOKEN_PARAMETER_PREFIX": PREFIX,
        "REFRESH_AHEAD_SECONDS": str(int(REFRESH_AHEAD.total_seconds())),
        "TOKEN_CACHE_SECONDS": "0",
        "REFRESH_FUNCTION_NAME": "refresher",
    }.items():
        monkeypatch.setenv(name, value)
    WIRE.cache_clear()
    forget(vendor_app)
    yield Environment(account, enable)
    WIRE.cache_clear()
    forget(vendor_app)
    account.empty()


@dataclass
class Broker:
    """The refresh function, wired as it wires itself, its clients behind the fault proxy."""

    environment: Environment
    proxy: FaultProxy
    handler: Handler
    refresher: Refresher

    def refresh(self) -> Shown:
        return self.handler(self.refresher)


@pytest.fixture
def broker(
    row: AwsFault,
    environment: Environment,
    fault_proxy: FaultProxy,
    handler: Handler,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Broker]:
    def through_proxy(config: Config) -> Config:
        return fault_proxy.config(config, is_hurried=row.is_hurried)

    fault_proxy.follow()
    monkeypatch.setattr(app, "CLIENT_CONFIG", through_proxy(CLIENT_CONFIG))
    monkeypatch.setattr(app, "WRITER_CONFIG", through_proxy(WRITER_CONFIG))
    monkeypatch.setattr(vendor_app, "CLIENT_CONFIG", through_proxy(CLIENT_CONFIG))
    monkeypatch.setattr(botocore.endpoint, "time", SimpleNamespace(sleep=lambda _: None))
    file = GrantsFile(grants={GRANT: Grant(scope=SCOPE)})
    monkeypatch.setattr(app, "load_grants_file", lambda: file)
    monkeypatch.setattr(vendor_app, "load_grants", lambda: file.grants)
    environment.account.store.write(GRANT, old_token(datetime.now(UTC)))
    yield Broker(environment, fault_proxy, handler, WIRE())
    fault_proxy.follow()


named = pytest.mark.parametrize(
    "row", AWS_FAULTS, ids=[f"{row.on.name}: {row.what}" for row in AWS_FAULTS]
)


@named
def test_fault_ends_as_the_table_says(row: AwsFault, broker: Broker) -> None:
    old = broker.environment.stored()
    broker.proxy.follow(row.on.rule(row.fault))
    output = broker.refresh()
    outcome = output.outcome
    assert (outcome.state, outcome.reason, outcome.cause) == (row.state, row.reason, row.cause)
    assert (output.error is not None) == (row.state is State.FAILED)
    assert not leaks(output.text)
    assert broker.proxy.fired() == [row.on.operation] * row.calls
    assert broker.environment.enable.requests == row.requests
    now_stored = broker.environment.stored()
    assert now_stored.access_token == (ACCESS_TOKEN if row.is_replaced else OLD_TOKEN)
    assert now_stored.expires_at >= old.expires_at
    if not row.is_replaced:
        assert (now_stored, now_stored.parameter_version) == (old, old.parameter_version)

    broker.proxy.follow()
    recovered = broker.refresh().outcome
    assert recovered.state is (State.NOT_DUE if row.is_replaced else State.RENEWED)
    assert broker.environment.enable.requests == row.requests + (not row.is_replaced)
    assert broker.environment.stored().access_token == ACCESS_TOKEN


@pytest.mark.parametrize(
    "row", [row for row in AWS_FAULTS if row.on is On.TOKEN_WRITE and "response" in row.fault]
)
def test_lost_answer_leaves_no_older_token_behind(row: AwsFault, broker: Broker) -> None:
    old = broker.environment.stored()
    broker.proxy.follow(row.on.rule(row.fault))
    broker.refresh()
    ssm = broker.environment.account.session.client("ssm")
    versions = ssm.get_parameter_history(Name=f"{PREFIX}/{GRANT}", WithDecryption=True)
    tokens = [json.loads(version["Value"])["access_token"] for version in versions["Parameters"]]
    assert tokens[old.parameter_version - 1 :] == [OLD_TOKEN, *([ACCESS_TOKEN] * row.calls)] or (
        tokens[old.parameter_version - 1 :] == [OLD_TOKEN, *([ACCESS_TOKEN] * (row.calls + 1))]
    )


@pytest.mark.parametrize(
    "row", [row for row in AWS_FAULTS if row.on is On.TOKEN_READ and row.reason]
)
def test_vendor_vends_what_it_remembers_while_it_cannot_read(
    row: AwsFault, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vendor_app, "SECOND_CHANCE_WITHIN", timedelta())

    def vend() -> dict[str, Any]:
        return vendor_app.lambda_handler(VEND_EVENT, Context())

    warm = vend()
    assert warm["statusCode"] == 200
    broker.proxy.follow(row.on.rule(row.fault))
    still = vend()
    assert still["statusCode"] == 200
    assert json.loads(still["body"])["access_token"] == OLD_TOKEN
    forget(vendor_app)
    cold = vend()
    assert (cold["statusCode"], "Retry-After" in cold["headers"]) == (503, True)
    assert not leaks(json.dumps(cold))


# ── Many writes, few a second ────────────────────────────────────────────────────────────────


@dataclass
class Quota:
    """Refuses writes beyond so many a second, as Parameter Store does."""

    per_second: float
    left: float
    refused: int = 0
    _at: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    burst: float = 3

    def __call__(self, request: AWSPreparedRequest, **_: object) -> AWSResponse | None:
        with self._lock:
            now = time.monotonic()
            self.left = min(self.burst, self.left + (now - self._at) * self.per_second)
            self._at = now
            if self.left >= 1:
                self.left -= 1
                return None
            self.refused += 1
        body = json.dumps({"__type": "ThrottlingException", "message": "Rate exceeded"}).encode()
        raw = SimpleNamespace(stream=lambda: iter([body]))
        headers = {"Content-Type": "application/x-amz-json-1.1"}
        return AWSResponse(request.url, 400, headers, raw)


def test_all_grants_land_though_few_writes_a_second_are_let_through(
    environment: Environment, handler: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scaled figure: 30 grants at 15 writes a second, for 200 at 3.

    The fault proxy can let a share of the calls through, but not so many a second.
    """
    grants = {f"grant-{number}": Grant(scope=SCOPE) for number in range(30)}
    monkeypatch.setattr(app, "load_grants_file", lambda: GrantsFile(grants=grants))
    refresher = WIRE()
    quota = Quota(per_second=15, left=3)
    store: Any = refresher.store
    store._writer.meta.events.register("before-send.ssm.PutParameter", quota)
    output = handler(refresher)
    assert {outcome.state for outcome in output.outcomes} == {State.RENEWED}
    assert quota.refused > 0
    assert environment.enable.requests == len(grants)
    assert {environment.stored(name).access_token for name in grants} == {ACCESS_TOKEN}
    assert not leaks(output.text)
