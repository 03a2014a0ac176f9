"""The HTTP client on real sockets: silent addresses, and the command line behind a proxy."""

import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import pytest
from typer.testing import CliRunner

from broker_cli import doctor, trial
from broker_cli.aws import Stack
from broker_cli.main import app
from tests.faults.fault_server import (
    ACCESS_TOKEN,
    Certificates,
    ConnectProxy,
    FaultServer,
    respond,
    silence,
    token,
)
from tests.unit.fakes import CREDENTIALS
from token_broker.grants import Grant
from token_refresher.enable.http_client import HttpClient, NoResponse

HOST = "behind-the-proxy.invalid"


def test_address_that_accepts_and_stays_silent_is_tried_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with FaultServer([silence()]) as silent, FaultServer([respond(200, b"{}")]) as good:
        addresses = [
            (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", urlsplit(server.url).port))
            for server in (silent, good)
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_: list(addresses))
        client, url = HttpClient(), "http://two-addresses.invalid/oauth2/token"
        with pytest.raises(NoResponse, match="too long"):
            client.request("GET", url, headers={}, limit=timedelta(seconds=1))
        for _ in range(2):
            assert client.request("GET", url, headers={}, limit=timedelta(seconds=10)).status == 200
        assert (silent.requests, good.requests) == (1, 2)


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[ConnectProxy]:
    for name in ("https_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with ConnectProxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        yield proxy


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    """A host of a private authority that only the proxy finds."""
    certificates = Certificates(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority))
    context = certificates.context(host=HOST)
    with FaultServer(
        [respond(200, token())],
        greet=lambda sock, _stop: context.wrap_socket(sock, server_side=True),
    ) as server:
        yield server


@pytest.fixture
def url(server: FaultServer) -> str:
    return f"https://{HOST}:{urlsplit(server.url).port}"


def test_broker_token_goes_through_the_proxy_and_trusts_the_authority(
    proxy: ConnectProxy, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    env = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key", "AWS_REGION": "eu-west-1"}
    env["AWS_DEFAULT_REGION"] = env["AWS_REGION"]
    result = CliRunner().invoke(app, ["token", "deals", "--url", f"{url}/v1"], env=env)
    assert (result.exit_code, result.stdout.strip()) == (0, ACCESS_TOKEN)
    assert proxy.requests == [f"CONNECT {url.removeprefix('https://')} HTTP/1.1"]


def test_doctor_and_secret_set_go_through_the_proxy(proxy: ConnectProxy, url: str) -> None:
    now = datetime.now(UTC)
    stack = Stack(
        name="dev",
        session=boto3.Session(region_name="eu-west-1"),
        status="UPDATE_COMPLETE",
        outputs={},
        parameters={},
        aws_time=now,
        asked_at=now,
    )
    endpoint = f"{url}/oauth2/token"
    assert doctor._endpoint(stack, "default", endpoint).verdict == "good"
    tried = trial.try_out(CREDENTIALS, endpoint, {"deals": Grant(scope=("read:deals",))})
    assert tried == trial.Trial(grant="deals", refused={})
    assert len(proxy.requests) == 2


def test_broker_token_names_the_proxy_that_cannot_be_reached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("https_proxy", "NO_PROXY", "no_proxy", "AWS_ENDPOINT_URL", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        env = {
            "HTTPS_PROXY": f"http://127.0.0.1:{closed.getsockname()[1]}",
            "AWS_ACCESS_KEY_ID": "id",
            "AWS_SECRET_ACCESS_KEY": "key",
            "AWS_REGION": "eu-west-1",
            "AWS_DEFAULT_REGION": "eu-west-1",
        }
        url = f"https://{HOST}/v1"
        result = CliRunner().invoke(app, ["token", "deals", "--url", url], env=env)
    assert result.exit_code != 0
    assert "no response from the token API: the proxy" in f"{result.output}{result.exception}"
