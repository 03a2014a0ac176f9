"""Renewals through a real CONNECT proxy, with TLS and a private authority: proxy.py."""

import socket
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.faults.connect_proxy import HOST, LOGIN, PASSWORD, Proxy, connect_proxy
from tests.faults.fault_server import (
    ACCESS_TOKEN,
    Certificates,
    FaultServer,
    respond,
    silence,
    token,
)
from tests.unit.fakes import CREDENTIALS
from token_broker.errors import TokenEndpointUnavailable
from token_refresher.credentials import SecretVersion
from token_refresher.enable.endpoint import TokenEndpoint
from token_refresher.enable.http_client import HttpClient


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    with connect_proxy(tmp_path) as proxy:
        yield proxy


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


@pytest.fixture
def enable(certificates: Certificates) -> Iterator[FaultServer]:
    context = certificates.context(host=HOST)

    def greet(sock: socket.socket, _stop: threading.Event) -> socket.socket:
        return context.wrap_socket(sock, server_side=True)

    with FaultServer([respond(200, token())], greet=greet) as server:
        yield server


def endpoint_url(enable: FaultServer) -> str:
    return f"https://{HOST}:{urlsplit(enable.url).port}/oauth2/token"


@pytest.fixture
def endpoint(enable: FaultServer, certificates: Certificates) -> TokenEndpoint:
    http = HttpClient(authorities=certificates.authority.read_text)
    return TokenEndpoint(endpoint_url(enable), http=http, sleep=lambda _seconds: None)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, proxy: Proxy) -> None:
    for name in ("https_proxy", "no_proxy", "SSL_CERT_FILE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", ".amazonaws.com")
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)


def renew(endpoint: TokenEndpoint) -> str:
    secret = SecretVersion(version_id="1", stage="AWSCURRENT", credentials=CREDENTIALS)
    request = secret.request(("read:deals",))
    issued = endpoint.request_token(request, time_left=lambda: timedelta(seconds=30), attempts=2)
    return issued.response.access_token


def fault(endpoint: TokenEndpoint, proxy: Proxy) -> TokenEndpointUnavailable:
    with pytest.raises(TokenEndpointUnavailable) as caught:
        renew(endpoint)
    assert f"(proxy {proxy.address}" in str(caught.value)
    assert PASSWORD not in str(caught.value)
    return caught.value


def test_tokens_are_renewed_through_the_proxy(
    endpoint: TokenEndpoint, enable: FaultServer, proxy: Proxy
):
    assert [renew(endpoint) for _ in range(3)] == [ACCESS_TOKEN] * 3
    assert (enable.requests, enable.faults) == (3, [])
    assert proxy.connected() == [urlsplit(endpoint_url(enable)).netloc] * 3


def test_proxy_that_has_died_is_named(endpoint: TokenEndpoint, proxy: Proxy):
    assert renew(endpoint) == ACCESS_TOKEN
    proxy.end()
    error = fault(endpoint, proxy)
    assert (error.reason, error.attempts) == ("proxy", 2)


def test_proxy_that_dies_during_a_renewal_is_named(
    endpoint: TokenEndpoint, enable: FaultServer, proxy: Proxy
):
    enable.follow([silence()])

    def end_once_requested() -> None:
        while not enable.requests:
            time.sleep(0.01)
        proxy.end()

    ending = threading.Thread(target=end_once_requested, daemon=True)
    ending.start()
    error = fault(endpoint, proxy)
    ending.join()
    assert error.reason in {"connection", "proxy"}


def test_proxy_that_wants_another_login_is_named_with_its_status(
    endpoint: TokenEndpoint, enable: FaultServer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HTTPS_PROXY", f"http://{LOGIN}x@{proxy.address}")
    error = fault(endpoint, proxy)
    assert error.reason == "proxy"
    assert str(error).endswith(", HTTP 407; it wants a login, or another one)")
    assert enable.connections == 0
