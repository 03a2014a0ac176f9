"""The HTTP client: a connection for each request, and strict about what it reads from it.

No socket is opened here; real ones, dead addresses and proxies are in tests/faults.
"""

import gzip
import io
import logging
import socket
import ssl
import threading
from typing import Any, override

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.fakes import SECRET, all_said, leaks, seconds
from token_refresher.enable.addresses import Addresses
from token_refresher.enable.connections import MAX_INTERIM_RESPONSES
from token_refresher.enable.http_client import (
    FAULTS,
    MAX_BODY_BYTES,
    HttpClient,
    NoResponse,
    Response,
)

URL = "http://127.0.0.1:1234/oauth2/token"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"
PLACE = ("127.0.0.1", 1234)


class Received(io.BytesIO):
    """Counts what is taken of it."""

    taken = 0

    @override
    def readinto(self, buffer: Any) -> int:
        number = super().readinto(buffer)
        self.taken += number
        return number

    @override
    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.taken += len(data)
        return data


class MemorySocket:
    """Keeps what is sent; its peer has sent everything already."""

    def __init__(self, received: bytes, fault: Exception | None) -> None:
        self.sent = b""
        self.is_closed = False
        self.received = Received(received)
        self.stream = io.BufferedReader(self.received)  # type: ignore[arg-type]
        self._fault = fault

    def sendall(self, data: bytes) -> None:
        self.sent += data
        if self._fault:
            raise self._fault

    def makefile(self, _mode: str) -> io.BufferedReader:
        return self.stream

    def settimeout(self, _seconds: float | None) -> None:
        pass

    def getpeername(self) -> tuple[str, int]:
        return PLACE

    def shutdown(self, _how: int) -> None:
        pass

    def close(self) -> None:
        self.is_closed = True


class Network(Addresses):
    """Opens memory sockets; keeps them, and which places were marked as failed."""

    def __init__(self, *received: bytes, fault: Exception | None = None) -> None:
        super().__init__()
        self._received = list(received)
        self._fault = fault
        self.sockets: list[MemorySocket] = []
        self.connections: list[tuple[str, int, float]] = []
        self.failed: list[object] = []

    def connect(self, host: str, port: int, *, seconds: float, **_options: Any) -> Any:
        self.connections.append((host, port, seconds))
        if self._fault and not self._received:
            raise self._fault
        self.sockets.append(MemorySocket(self._received.pop(0), self._fault))
        return self.sockets[-1]

    def mark_failed(self, place: tuple[Any, ...]) -> None:
        self.failed.append(place)


def request(network: Network, limit: float = 10, url: str = URL) -> Response:
    return HttpClient(network).request(
        "POST", url, headers={"X-A": "1"}, body=SECRET.encode(), limit=seconds(limit)
    )


def fault(network: Network, url: str = URL) -> str:
    with pytest.raises(NoResponse) as caught:
        request(network, url=url)
    assert not leaks(all_said(caught.value))
    assert str(caught.value) == FAULTS[caught.value.reason]
    return caught.value.reason


def test_request_is_sent_whole_and_its_response_returned() -> None:
    network = Network(OK)
    response = request(network)
    assert (response.status, response.body, response.is_too_large) == (200, b"body", False)
    assert response.headers["content-length"] == "4"
    head, _, body = network.sockets[0].sent.partition(b"\r\n\r\n")
    assert body == SECRET.encode()
    assert head.splitlines()[0] == b"POST /oauth2/token HTTP/1.1"
    assert {b"X-A: 1", b"Connection: close", b"Host: 127.0.0.1:1234"} <= set(head.splitlines())


def test_address_of_the_sixth_version_is_connected_to_without_its_brackets() -> None:
    network = Network(OK)
    assert request(network, url="http://[::1]:1234/oauth2/token").body == b"body"
    assert network.connections == [("::1", 1234, 3)]


def test_each_request_has_a_connection_of_its_own_which_is_closed() -> None:
    network = Network(OK + OK, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother")
    client = HttpClient(network)
    bodies = [client.request("GET", URL, headers={}, limit=seconds(9)).body for _ in range(2)]
    assert bodies == [b"body", b"other"]
    assert [sock.is_closed for sock in network.sockets] == [True, True]
    assert network.failed == []


def test_redirect_is_returned_and_not_followed() -> None:
    redirect = b"HTTP/1.1 307 -\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"
    network = Network(redirect, OK)
    assert request(network).status == 307
    assert len(network.connections) == 1


def test_request_that_fails_is_sent_once() -> None:
    network = Network(b"", OK)
    assert fault(network) == "connection"
    assert len(network.sockets) == 1


@pytest.mark.parametrize(("limit", "connect"), [(10, 3), (2, 2)])
def test_connecting_takes_no_longer_than_three_seconds_or_what_is_left(
    limit: float, connect: float
) -> None:
    network = Network(OK)
    request(network, limit)
    assert network.connections == [("127.0.0.1", 1234, connect)]


@pytest.mark.parametrize("status", [100, 102, 103, 199])
@pytest.mark.parametrize("count", [1, MAX_INTERIM_RESPONSES])
def test_interim_responses_are_skipped_with_their_headers(status: int, count: int) -> None:
    interim = b"HTTP/1.1 %d -\r\nLink: </a>\r\n\r\n" % status
    assert request(Network(interim * count + OK)).body == b"body"


def test_interim_responses_without_end_are_a_fault() -> None:
    interim = b"HTTP/1.1 102 -\r\n\r\n" * (MAX_INTERIM_RESPONSES + 1)
    assert fault(Network(interim + OK)) == "connection"


def test_interim_response_alone_is_no_response() -> None:
    network = Network(b"HTTP/1.1 103 -\r\nX: 1\r\n\r\n")
    assert fault(network) == "connection"
    assert network.failed == [PLACE]


def test_upgrade_is_not_interim() -> None:
    assert request(Network(b"HTTP/1.1 101 -\r\n\r\n" + OK)).status == 101


def chunked(text: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + text


def test_chunks_are_put_together() -> None:
    network = Network(chunked(b"5\r\nfirst\r\n7\r\n second\r\n0\r\n\r\n"))
    assert request(network).body == b"first second"


@pytest.mark.parametrize(
    "received",
    [
        b"",
        b"SSH-2.0\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbody",
        chunked(b"5\r\nfirst\r\n"),
        chunked(b"-1\r\nwithout end"),
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nbody",
    ],
)
def test_response_that_is_not_whole_or_ambiguous_is_none(received: bytes) -> None:
    network = Network(received)
    assert fault(network) == "connection"
    assert network.failed == [PLACE]
    assert network.sockets[0].is_closed


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (TimeoutError(), "timeout"),
        (ConnectionRefusedError(), "connect"),
        (OSError(113, "No route to host"), "connect"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "connect"),
        (UnicodeError("label too long"), "connect"),
    ],
)
def test_reason_why_no_connection_opened_is_named(raised: Exception, reason: str) -> None:
    assert fault(Network(fault=raised)) == reason


class Silence(io.RawIOBase):
    """Nothing to read, until the socket is shut down."""

    def __init__(self) -> None:
        super().__init__()
        self.is_shut = threading.Event()

    @override
    def readable(self) -> bool:
        return True

    def readinto(self, _buffer: Any) -> int:
        assert self.is_shut.wait(timeout=10)
        return 0


def test_peer_that_stays_silent_is_left_when_the_time_is_over() -> None:
    class SilentNetwork(Network):
        def connect(self, host: str, port: int, *, seconds: float, **options: Any) -> Any:
            sock = super().connect(host, port, seconds=seconds, **options)
            silence = Silence()
            sock.stream = io.BufferedReader(silence)
            sock.shutdown = lambda _how: silence.is_shut.set()
            return sock

    with pytest.raises(NoResponse) as caught:
        request(SilentNetwork(b""), limit=0.05)
    assert caught.value.reason == "timeout"


def test_fault_of_tls_is_named() -> None:
    assert fault(Network(OK, fault=ssl.SSLError("bad record"))) == "tls"


def test_fault_that_quotes_what_was_sent_does_not_keep_it() -> None:
    assert fault(Network(OK, fault=ConnectionResetError(f"aborted at {SECRET}"))) == "connection"


def test_urllib3_is_not_heard_when_it_quotes_malformed_headers() -> None:
    assert not logging.getLogger("urllib3.connection").isEnabledFor(logging.ERROR)


def test_nothing_is_kept_beyond_64_kib() -> None:
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    response = request(Network(head + b"x" * MAX_BODY_BYTES))
    assert (len(response.body), response.is_too_large) == (MAX_BODY_BYTES, False)
    network = Network(head + b"x" * 4 * MAX_BODY_BYTES)
    response = request(network)
    assert response.is_too_large
    assert len(response.body) == MAX_BODY_BYTES
    assert network.sockets[0].received.taken < 2 * MAX_BODY_BYTES
    assert network.sockets[0].is_closed


def test_response_that_breaks_off_after_64_kib_is_none() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 10)
    assert fault(Network(head + b"x" * MAX_BODY_BYTES)) == "connection"


def test_compressed_body_is_left_as_it_is() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n"
    body = gzip.compress(b"{}")
    assert request(Network(head + body)).body == body


@pytest.mark.parametrize(
    ("refusal", "meaning"),
    [
        (b"502 Bad Gateway", "HTTP 502"),
        (b"407 -", "HTTP 407; it wants a login, or another one"),
    ],
)
def test_status_with_which_a_proxy_refuses_is_named(
    monkeypatch: pytest.MonkeyPatch, refusal: bytes, meaning: str
) -> None:
    for name in ("NO_PROXY", "no_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:3128")
    with pytest.raises(NoResponse) as caught:
        request(Network(b"HTTP/1.1 " + refusal + b"\r\n\r\n"), url="https://enable.invalid/token")
    assert str(caught.value) == f"{FAULTS['proxy']} (proxy 127.0.0.1:3128, {meaning})"


def test_connection_of_a_request_that_is_interrupted_is_closed() -> None:
    network = Network(OK, fault=KeyboardInterrupt())  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        request(network)
    assert network.sockets[0].is_closed


@given(st.binary(max_size=200))
def test_whatever_is_received_is_a_response_or_none(received: bytes) -> None:
    try:
        response = request(Network(received))
    except NoResponse as error:
        assert error.reason == "connection"  # noqa: PT017
    else:
        assert 100 <= response.status <= 999
