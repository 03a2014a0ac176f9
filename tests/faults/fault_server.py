"""A token endpoint that misbehaves as reported, over real sockets on loopback.

A script is a sequence of steps, one for each request; the last one repeats. What the server
is sent it keeps only so that a test may look at the form, and prints nothing.
"""

import contextlib
import gzip
import ipaddress
import json
import socket
import ssl
import struct
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import parse_qsl

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

NEVER_SHOWN: Final = "NEVER-SHOWN"
"""Part of every token here, so that a leak is found whatever token it is of."""

ACCESS_TOKEN: Final = f"opaque-{NEVER_SHOWN}-new"
ABSENT: Final = object()
DRIP_SECONDS: Final = 0.05
LONGEST_DRIP_SECONDS: Final = 20.0
"""A drip ends then, so that a client without a deadline fails its test, not hangs it."""

type Form = Mapping[str, str]
type Body = bytes | Callable[[Form], bytes]
type Step = Callable[[Exchange], bool]
"""Responds to one request; returns whether the connection is kept for another."""


@dataclass(frozen=True)
class Exchange:
    """One request, and the socket to respond on."""

    socket: socket.socket
    form: Form
    stop: threading.Event

    def drip(self, data: Iterable[bytes]) -> None:
        """Send piece by piece, with a pause before each."""
        ends = time.monotonic() + LONGEST_DRIP_SECONDS
        for piece in data:
            if self.stop.wait(DRIP_SECONDS) or time.monotonic() > ends:
                return
            self.socket.sendall(piece)


# ── Bodies ───────────────────────────────────────────────────────────────────────────────────


def jwt(**claims: object) -> str:
    """An unsigned token of the shape of a JWT."""
    header, body = (
        urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
        for part in ({"alg": "none"}, claims)
    )
    return f"{header}.{body}.{NEVER_SHOWN}"


def token(*, exp: float | None = None, **changes: object) -> Body:
    """A sound token response of an hour, with changes; ABSENT leaves a field out.

    Args:
        exp: makes the token a JWT that expires so many seconds after the request.
        changes: by field.
    """

    def body(_form: Form) -> bytes:
        access_token = ACCESS_TOKEN if exp is None else jwt(exp=int(time.time() + exp))
        fields: dict[str, object] = {
            "access_token": access_token,
            "token_type": "Bearer",
            "expires_in": 3600,
        }
        fields |= changes
        return json.dumps({k: v for k, v in fields.items() if v is not ABSENT}).encode()

    return body


def error(code: object, **more: object) -> Body:
    """An OAuth error (RFC 6749 section 5.2)."""
    return json.dumps({"error": code, **more}).encode()


def echo(*names: str) -> Body:
    """An OAuth error whose fields of these names repeat the client secret."""

    def body(form: Form) -> bytes:
        secret = form["client_secret"]
        return json.dumps({"error": "invalid_scope"} | dict.fromkeys(names, secret)).encode()

    return body


# ── Steps ────────────────────────────────────────────────────────────────────────────────────


def respond(
    status: int = 200,
    body: Body = b"",
    *,
    headers: Mapping[str, str] | None = None,
    length: int | None = None,
    reason: str = "-",
) -> Step:
    """A whole response.

    Args:
        status: the HTTP status.
        body: its bytes, or what makes them of the request's form.
        headers: beside Content-Type and Content-Length.
        length: what Content-Length states instead of the truth; the connection then ends.
        reason: the reason phrase.
    """

    def step(exchange: Exchange) -> bool:
        data = body if isinstance(body, bytes) else body(exchange.form)
        sent = {
            "Content-Type": "application/json",
            "Content-Length": str(len(data) if length is None else length),
            **(headers or {}),
        }
        exchange.socket.sendall(_head(status, sent, reason) + data)
        return length is None

    return step


def raw(data: Body) -> Step:
    """Bytes of any shape, and the end of the connection."""

    def step(exchange: Exchange) -> bool:
        exchange.socket.sendall(data if isinstance(data, bytes) else data(exchange.form))
        return False

    return step


def unframed(body: Body) -> Step:
    """A body that only the end of the connection ends (as in HTTP/1.0)."""

    def step(exchange: Exchange) -> bool:
        data = body if isinstance(body, bytes) else body(exchange.form)
        exchange.socket.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + data)
        return False

    return step


def interim(*statuses: int) -> Step:
    """Interim responses, the last one with headers, and a token response a little later."""

    def step(exchange: Exchange) -> bool:
        heads = [_head(status, {"Link": "</a>; rel=preload"}) for status in statuses]
        exchange.socket.sendall(b"".join(heads))
        return late(token())(exchange)

    return step


def drip_interim() -> Step:
    """Interim responses without end, a few bytes at a time."""

    def step(exchange: Exchange) -> bool:
        exchange.drip(b"HTTP/1.1 102 -\r\nX: 1\r\n" for _ in _for_ever())
        return False

    return step


def pipelined(*bodies: Body) -> Step:
    """Several whole responses to one request, in one piece."""

    def step(exchange: Exchange) -> bool:
        made = [body if isinstance(body, bytes) else body(exchange.form) for body in bodies]
        parts = [_head(200, {"Content-Length": str(len(data))}) + data for data in made]
        exchange.socket.sendall(b"".join(parts))
        return True

    return step


def chunked(body: Body, *, is_complete: bool = True) -> Step:
    """A chunked body, with its last chunk or without."""

    def step(exchange: Exchange) -> bool:
        data = body if isinstance(body, bytes) else body(exchange.form)
        head = _head(200, {"Content-Type": "application/json", "Transfer-Encoding": "chunked"})
        pieces = [data[at : at + 4096] for at in range(0, len(data), 4096)]
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
        exchange.socket.sendall(head + chunks + (b"0\r\n\r\n" if is_complete else b""))
        return is_complete

    return step


def endless() -> Step:
    """A chunked body without end, as fast as it is read."""

    def step(exchange: Exchange) -> bool:
        exchange.socket.sendall(_head(200, {"Transfer-Encoding": "chunked"}))
        ends = time.monotonic() + LONGEST_DRIP_SECONDS
        while not exchange.stop.is_set() and time.monotonic() < ends:
            exchange.socket.sendall(b"1000\r\n" + b" " * 4096 + b"\r\n")
        return False

    return step


def gzipped(body: Body) -> Step:
    """A compressed response, though the client does not accept one."""

    def step(exchange: Exchange) -> bool:
        data = gzip.compress(body if isinstance(body, bytes) else body(exchange.form))
        return respond(200, data, headers={"Content-Encoding": "gzip"})(exchange)

    return step


def redirect(status: int) -> Step:
    """A redirect to the server itself, which would count anyone who follows it."""
    return respond(status, headers={"Location": "/elsewhere"})


def reset(data: bytes = b"") -> Step:
    """A connection that is reset (TCP RST), after some bytes or none."""

    def step(exchange: Exchange) -> bool:
        if data:
            exchange.socket.sendall(data)
            time.sleep(DRIP_SECONDS)  # a reset overtakes what has not been read
        exchange.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False

    return step


def close() -> Step:
    """The end of the connection, without a response."""
    return lambda _exchange: False


def silence() -> Step:
    """No response, ever."""

    def step(exchange: Exchange) -> bool:
        exchange.stop.wait()
        return False

    return step


def drip_headers() -> Step:
    """A header line that never ends, byte by byte."""

    def step(exchange: Exchange) -> bool:
        exchange.socket.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        exchange.drip(b"x" for _ in _for_ever())
        return False

    return step


def drip_body(body: Body = b" " * 60_000) -> Step:
    """A body of known length, byte by byte."""

    def step(exchange: Exchange) -> bool:
        data = body if isinstance(body, bytes) else body(exchange.form)
        exchange.socket.sendall(_head(200, {"Content-Length": str(len(data))}))
        exchange.drip(data[at : at + 1] for at in range(len(data)))
        return False

    return step


def late(body: Body) -> Step:
    """A valid response in three pieces, each a little late."""

    def step(exchange: Exchange) -> bool:
        data = body if isinstance(body, bytes) else body(exchange.form)
        head = _head(200, {"Content-Length": str(len(data))})
        exchange.drip([head, data[:10], data[10:]])
        return True

    return step


def _head(status: int, headers: Mapping[str, str], reason: str = "-") -> bytes:
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {text}" for name, text in headers.items())]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()


def _for_ever() -> Iterator[int]:
    while True:
        yield 0


# ── The server ───────────────────────────────────────────────────────────────────────────────


def _as_it_comes(sock: socket.socket, _stop: threading.Event) -> socket.socket:
    return sock


class FaultServer:
    """Listens on entering; on leaving, every thread and socket of it is gone.

    Args:
        script: what to do, request by request.
        greet: what to do with a new connection before it is read: TLS, or nothing.
        port: where to listen on 127.0.0.1; 0 takes a free one.

    Attributes:
        script: may be replaced between requests, which starts it again.
        connections: how many were accepted.
        forms: what was sent, one for each whole request.
        faults: requests that were not the documented one.
    """

    def __init__(
        self,
        script: Sequence[Step],
        *,
        greet: Callable[[socket.socket, threading.Event], socket.socket] = _as_it_comes,
        scheme: str = "http",
        port: int = 0,
    ) -> None:
        self._greet = greet
        self._scheme = scheme
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", port), backlog=64)
        self.connections = 0
        self.forms: list[dict[str, str]] = []
        self.faults: list[str] = []
        self.follow(script)

    def follow(self, script: Sequence[Step]) -> None:
        """Take up another script."""
        with self._lock:
            self._script = list(script)

    @property
    def url(self) -> str:
        """Where the token endpoint is."""
        return f"{self._scheme}://127.0.0.1:{self._listener.getsockname()[1]}/oauth2/token"

    @property
    def requests(self) -> int:
        """How many whole requests came."""
        return len(self.forms)

    def __enter__(self) -> Self:
        """Start to accept."""
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End every connection and thread."""
        self._stop.set()
        _shut(self._listener)
        with self._lock:
            for sock in self._open:
                _shut(sock)
        for thread in self._threads:
            thread.join(5)
        alive = [thread.name for thread in self._threads if thread.is_alive()]
        if alive:
            raise RuntimeError(f"still running: {', '.join(alive)}")

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with self._listener:
            while not self._stop.is_set():
                try:
                    sock, _ = self._listener.accept()
                except OSError:
                    return
                self.connections += 1
                self._start(self._serve, sock)

    def _serve(self, accepted: socket.socket) -> None:
        sock = accepted
        try:
            with self._lock:
                self._open.add(accepted)
            sock = self._greet(accepted, self._stop)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open.add(sock)
            with sock.makefile("rb") as stream:
                while not self._stop.is_set() and self._exchange(
                    sock, stream.readline, stream.read
                ):
                    pass
        except (OSError, ValueError):
            pass  # the client has gone, or the server is ending
        finally:
            with self._lock:
                self._open -= {sock, accepted}
            sock.close()
            accepted.close()

    def _exchange(
        self,
        sock: socket.socket,
        read_line: Callable[[], bytes],
        read: Callable[[int], bytes],
    ) -> bool:
        """Read one request and respond; False where there is none, or no other may follow."""
        if not (request_line := read_line()):
            return False
        headers: dict[str, str] = {}
        while line := read_line().strip():
            name, _, text = line.decode("latin-1").partition(":")
            headers[name.lower()] = text.strip()
        body = read(int(headers.get("content-length", "0")))
        form = dict(parse_qsl(body.decode(), strict_parsing=True)) if body else {}
        with self._lock:
            self.forms.append(form)
            if request_line != b"POST /oauth2/token HTTP/1.1\r\n":
                self.faults.append("another request line")
            if headers.get("content-type") != "application/x-www-form-urlencoded":
                self.faults.append("another content type")
            step = self._script.pop(0) if len(self._script) > 1 else self._script[0]
        return step(Exchange(sock, form, self._stop))


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def dead_port() -> Iterator[int]:
    """A port that lets every further connection wait for ever."""
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            filler = sockets.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        time.sleep(0.05)
        yield listener.getsockname()[1]


@contextlib.contextmanager
def closed_port() -> Iterator[str]:
    """The URL of a port that refuses; bound meanwhile, so that nobody else takes it."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{holder.getsockname()[1]}/oauth2/token"


# ── A proxy ──────────────────────────────────────────────────────────────────────────────────


class ConnectProxy:
    """An HTTP proxy on loopback; to it, every host is 127.0.0.1.

    Args:
        refusal: the status line that it returns to every request; empty to serve them.

    Attributes:
        requests: the first line of each, such as `CONNECT host:443 HTTP/1.1`.
        logins: each `Proxy-Authorization`.
    """

    def __init__(self, refusal: bytes = b"") -> None:
        self._refusal = refusal
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=16)
        self.requests: list[str] = []
        self.logins: list[str] = []

    @property
    def url(self) -> str:
        """What HTTPS_PROXY contains."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        """Start to accept."""
        self._start(self._accept)
        return self

    def __exit__(self, *_error: object) -> None:
        """End every connection and thread."""
        for sock in [self._listener, *self._open]:
            _shut(sock)
        for thread in self._threads:
            thread.join(5)
        for sock in [self._listener, *self._open]:
            sock.close()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._open.append(sock)
                self._start(self._serve, sock)

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client.makefile("rb", buffering=0) as stream:
            request = stream.readline().decode("latin-1").strip()
            self.requests.append(request)
            while line := stream.readline().strip():
                if line.lower().startswith(b"proxy-authorization: "):
                    self.logins.append(line.partition(b": ")[2].decode())
            if self._refusal:
                client.sendall(b"HTTP/1.1 " + self._refusal + b"\r\nContent-Length: 0\r\n\r\n")
                return
            port = int(request.split()[1].rpartition(":")[2])
            server = socket.create_connection(("127.0.0.1", port))
            self._open.append(server)
            client.sendall(b"HTTP/1.1 102 -\r\n\r\nHTTP/1.1 200 Connection established\r\n\r\n")
            self._start(_copy, server, client)
            _copy(client, server)


def _copy(source: socket.socket, target: socket.socket) -> None:
    """Copy bytes until one side ends, then end both."""
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    _shut(source)
    _shut(target)


# ── TLS ──────────────────────────────────────────────────────────────────────────────────────


class Certificates:
    """A certificate authority of its own, and servers' certificates, sound and not.

    Args:
        folder: where the files go.

    Attributes:
        authority: what a client that trusts it reads.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("the tests' authority")
        self.authority = folder / "authority.pem"
        self.authority.write_bytes(
            self._certificate(self._name, self._key, is_authority=True).public_bytes(Encoding.PEM)
        )

    def context(
        self, *, host: str = "127.0.0.1", ended: bool = False, is_self_signed: bool = False
    ) -> ssl.SSLContext:
        """What a server shows: a certificate for a host, of the authority or of itself."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(host)
        issuer = (name, key) if is_self_signed else (self._name, self._key)
        certificate = self._certificate(name, key, host=host, issuer=issuer, ended=ended)
        file = self._folder / f"{host}-{ended}-{is_self_signed}.pem"
        file.write_bytes(
            certificate.public_bytes(Encoding.PEM)
            + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def _certificate(
        self,
        name: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        *,
        host: str = "",
        issuer: tuple[x509.Name, ec.EllipticCurvePrivateKey] | None = None,
        ended: bool = False,
        is_authority: bool = False,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        end = now - timedelta(days=1) if ended else now + timedelta(days=1)
        issuer_name, issuer_key = issuer or (name, key)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(issuer_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=2))
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
                critical=False,
            )
        )
        if is_authority:
            usage = x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=True,
                crl_sign=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            )
            builder = builder.add_extension(usage, critical=True)
        if host:
            names = [_general_name(host)]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(issuer_key, hashes.SHA256())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
