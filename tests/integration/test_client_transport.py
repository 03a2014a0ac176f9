"""The client's transport on loopback sockets: what a server, or a proxy, may do to a request."""

import base64
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from enable_broker_client import HttpTransport, Request, Response
from enable_broker_client.transport import Unreachable

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nRetry-After: 7\r\n\r\nfirst"

type Serve = Callable[[socket.socket], None]


class Server:
    """Serves each connection in a thread of its own, until it is closed."""

    def __init__(self, serve: Serve) -> None:
        self.serve = serve
        self.connections = 0
        self.requests: list[bytes] = []
        self.open = ExitStack()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.threads = [threading.Thread(target=self.accept)]
        self.threads[0].start()

    def accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                self.connections += 1
                self.open.callback(shut, sock)
                self.threads.append(threading.Thread(target=self.attend, args=(sock,)))
                self.threads[-1].start()

    def attend(self, sock: socket.socket) -> None:
        with suppress(OSError), closing(sock):
            self.requests.append(read_head(sock))
            self.serve(sock)

    def close(self) -> None:
        shut(self.listener)
        self.listener.close()
        self.threads[0].join()
        self.open.close()
        for thread in self.threads[1:]:
            thread.join()


def shut(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def read_head(sock: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        if not (piece := sock.recv(1)):
            raise OSError
        head += piece
    return head


def sends(*pieces: bytes, pause: float = 0) -> Serve:
    def serve(sock: socket.socket) -> None:
        for piece in pieces:
            sock.sendall(piece)
            time.sleep(pause)

    return serve


def drips(start: bytes) -> Serve:
    def serve(sock: socket.socket) -> None:
        sock.sendall(start)
        while True:
            sock.sendall(b"x")
            time.sleep(0.05)

    return serve


@pytest.fixture
def server() -> Iterator[Callable[[Serve], Server]]:
    with ExitStack() as stack:

        def made(serve: Serve) -> Server:
            made = Server(serve)
            stack.callback(made.close)
            return made

        yield made


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "http_proxy", "all_proxy", "no_proxy", "ssl_cert_file"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def get(url: str, timeout: float = 20, transport: HttpTransport | None = None) -> Response:
    headers = {"Authorization": "signed"}
    request = Request(method="GET", url=url, headers=headers, timeout=timeout)
    return (transport or HttpTransport())(request)


def url_of(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}/v1/tokens/deals?other_than=0123"


INTERIM = {
    "none": (),
    "100": (b"HTTP/1.1 100 Continue\r\n\r\n",),
    "102": (b"HTTP/1.1 102 Processing\r\n\r\n",),
    "103": (b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\nContent-Length: 9\r\n\r\n",),
    "several": (b"HTTP/1.1 103 Early Hints\r\n\r\n" * 3, b"HTTP/1.1 102 Processing\r\n\r\n"),
}


@pytest.mark.parametrize("interim", INTERIM.values(), ids=INTERIM)
@pytest.mark.parametrize("pause", [0, 0.05])
def test_interim_responses_are_skipped(
    server: Callable[[Serve], Server], interim: tuple[bytes, ...], pause: float
):
    response = get(url_of(server(sends(*interim, OK, pause=pause))))
    assert (response.status, response.body) == (200, b"first")
    assert response.headers["retry-after"] == "7"
    assert "link" not in response.headers


@pytest.mark.parametrize("rest", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"])
def test_response_of_one_request_is_never_anothers(server: Callable[[Serve], Server], rest: bytes):
    peer, transport = server(sends(OK + rest, pause=0.05)), HttpTransport()
    for _ in range(3):
        assert get(url_of(peer), transport=transport).body == b"first"
    assert peer.connections == 3
    assert all(b"\r\nConnection: close\r\n" in request for request in peer.requests)


DRIPS = {
    "status line": b"HTTP/1.1 200 ",
    "header": b"HTTP/1.1 200 OK\r\nX-Long: ",
    "interim header": b"HTTP/1.1 103 Early Hints\r\nX-Long: ",
    "body": b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n",
    "chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n",
}


@pytest.mark.parametrize("start", DRIPS.values(), ids=DRIPS)
def test_time_out_is_for_the_whole_request(server: Callable[[Serve], Server], start: bytes):
    peer = server(drips(start))
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        get(url_of(peer), timeout=0.3)
    assert 0.3 <= time.monotonic() - began < 10


def test_proxy_that_drips_is_given_up(
    server: Callable[[Serve], Server], monkeypatch: pytest.MonkeyPatch
):
    proxy = server(drips(b"HTTP/1.1 200 OK\r\nX-Long: "))
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
    with pytest.raises(TimeoutError):
        get("https://abc123.execute-api.eu-west-1.amazonaws.com/v1", timeout=0.3)


def test_endless_interim_responses_are_given_up(server: Callable[[Serve], Server]):
    def serve(sock: socket.socket) -> None:
        while True:
            sock.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100)

    with pytest.raises(Unreachable, match="too large"):
        get(url_of(server(serve)))


def test_address_that_refuses_is_followed_by_the_next(
    server: Callable[[Serve], Server], monkeypatch: pytest.MonkeyPatch
):
    peer, look_up = server(sends(OK)), socket.getaddrinfo
    with socket.create_server(("127.0.0.1", 0)) as closed:
        dead = closed.getsockname()[1]
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, port, **options: [
            *look_up(host, dead, **options),
            *look_up(host, port, **options),
        ],
    )
    assert get(url_of(peer)).status == 200
    assert peer.connections == 1


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A key and a certificate for localhost, which is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "localhost.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


class TlsServer(Server):
    """The same over TLS."""

    def __init__(self, serve: Serve, certificate: Path) -> None:
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.load_cert_chain(certificate)
        super().__init__(serve)

    def attend(self, sock: socket.socket) -> None:
        with suppress(OSError):
            super().attend(self.context.wrap_socket(sock, server_side=True))


@pytest.fixture
def tls_server(certificate: Path) -> Iterator[TlsServer]:
    with closing(TlsServer(sends(OK), certificate)) as server:
        yield server


def forwards(sock: socket.socket, port: int) -> None:
    """What a proxy does after CONNECT."""
    with socket.create_connection(("127.0.0.1", port)) as onward:
        sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        back = threading.Thread(target=pump, args=(onward, sock))
        back.start()
        pump(sock, onward)
        back.join()


def pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(65_536):
            sink.sendall(piece)
    shut(sink)


def test_authority_is_trusted_if_ssl_cert_file_names_it(
    tls_server: TlsServer, certificate: Path, monkeypatch: pytest.MonkeyPatch
):
    url = f"https://localhost:{tls_server.port}/v1"
    with pytest.raises(ssl.SSLCertVerificationError):
        get(url)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert get(url).body == b"first"
    assert b"\r\nHost: localhost:%d\r\n" % tls_server.port in tls_server.requests[-1]
    with pytest.raises(ssl.SSLCertVerificationError):
        get(f"https://127.0.0.1:{tls_server.port}/v1")


@pytest.mark.parametrize("scheme", ["http://", ""])
def test_proxy_of_the_environment_is_used_but_for_what_it_excepts(
    server: Callable[[Serve], Server],
    tls_server: TlsServer,
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
    scheme: str,
):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    proxy = server(lambda sock: forwards(sock, tls_server.port))
    monkeypatch.setenv("HTTPS_PROXY", f"{scheme}me:p%40ss@127.0.0.1:{proxy.port}")
    url = f"https://localhost:{tls_server.port}/v1"
    assert get(url).body == b"first"
    (connect,) = proxy.requests
    assert connect.startswith(b"CONNECT localhost:%d HTTP/1.1\r\n" % tls_server.port)
    assert b"Proxy-Authorization: Basic %b\r\n" % base64.b64encode(b"me:p@ss") in connect
    assert b"Proxy-Authorization" not in tls_server.requests[-1]
    monkeypatch.setenv("NO_PROXY", "example.com,localhost")
    assert get(url).body == b"first"
    assert proxy.connections == 1


def test_proxy_that_speaks_tls_itself_is_used(
    tls_server: TlsServer, certificate: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    url = f"https://localhost:{tls_server.port}/v1"
    forward = TlsServer(lambda sock: forwards(sock, tls_server.port), certificate)
    with closing(forward) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"https://localhost:{proxy.port}")
        assert get(url).body == b"first"
        monkeypatch.setenv("HTTPS_PROXY", f"https://127.0.0.1:{proxy.port}")
        with pytest.raises(ssl.SSLCertVerificationError):
            get(url)
    assert len(proxy.requests) == 1


def test_plain_http_to_this_machine_uses_no_proxy(
    server: Callable[[Serve], Server], monkeypatch: pytest.MonkeyPatch
):
    peer, proxy = server(sends(OK)), server(sends(OK))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    assert get(url_of(peer)).status == 200
    assert (peer.connections, proxy.connections) == (1, 0)


def test_proxy_that_refuses_or_cannot_be_used_is_named(
    server: Callable[[Serve], Server], monkeypatch: pytest.MonkeyPatch
):
    url = "https://abc123.execute-api.eu-west-1.amazonaws.com/v1"
    proxy = server(sends(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"))
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
    with pytest.raises(Unreachable, match="the proxy refuses the connection: HTTP 407"):
        get(url)
    monkeypatch.setenv("HTTPS_PROXY", "socks5://127.0.0.1:1080")
    with pytest.raises(Unreachable, match="HTTPS_PROXY must be http://host:port"):
        get(url)
