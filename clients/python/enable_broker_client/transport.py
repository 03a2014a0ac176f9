"""One HTTP request, its response, and the way there: replaceable, so that tests need no socket.

Each request has a connection of its own. A token is requested every few minutes, so that a kept
connection saves nothing, and one that is never used again cannot give the response of another
request: not after interim responses, not after a time-out, and not in a forked process.
"""

import base64
import http.client
import io
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, cast
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from urllib3.util.ssltransport import SSLTransport

_MAX_BODY_BYTES: Final = 65_536
_MAX_RESPONSE_BYTES: Final = 4 * _MAX_BODY_BYTES  # interim responses, headers and chunk borders too
_SWITCHING_PROTOCOLS: Final = 101  # a final response, although its number is an interim one's


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A signed request to the broker.

    Attributes:
        timeout: seconds for all of it, from the look-up of the host to the last byte.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = None
    timeout: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What the broker sent; its repr contains no token.

    Attributes:
        headers: by lower-case name.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)


class Transport(Protocol):
    """Sends a request once: no retries, no redirects."""

    def __call__(self, request: Request, /) -> Response:
        """Return the response, whatever its status.

        Raises:
            OSError or http.client.HTTPException: there is none.
        """


class Unreachable(OSError):
    """There is no way to the broker, for a reason whose text may be shown."""


class HttpTransport:
    """The default: HTTP/1.1, one connection for each request.

    The environment names the proxy (`HTTPS_PROXY`, `NO_PROXY`) and the certificate authorities
    (`SSL_CERT_FILE`, `SSL_CERT_DIR`). Plain http is for this machine, so it needs no proxy.

    Args:
        context: TLS settings, for example with a client certificate.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self._context = context

    def __call__(self, request: Request, /) -> Response:
        """Return the response.

        Raises:
            OSError or http.client.HTTPException: there is none within the request's time-out.
        """
        parts, left = urlsplit(request.url), _countdown(request.timeout)
        with closing(self._connected(parts, left)) as sock:
            return _exchange(_TimedSocket(sock, left), parts, request)

    def _connected(self, parts: SplitResult, left: Callable[[], float]) -> socket.socket:
        """A socket that reaches the URL's host, through the proxy that the environment names."""
        host = parts.hostname or ""
        if parts.scheme != "https":
            return self._open((host, parts.port or 80), left)
        proxy = _proxy_for(host)
        address = (host, parts.port or 443)
        sock = self._open(_address_of(proxy), left) if proxy else self._open(address, left)
        try:
            if proxy and proxy.scheme == "https":
                sock = self._secured(sock, proxy.hostname or "", left)
            if proxy:
                _tunnel(_TimedSocket(sock, left), address, proxy)
            return self._secured(sock, host, left)
        except BaseException:
            sock.close()
            raise

    def _secured(self, sock: socket.socket, host: str, left: Callable[[], float]) -> socket.socket:
        """A socket that speaks TLS through another, which may itself (to a proxy)."""
        self._context = self._context or ssl.create_default_context()
        sock.settimeout(left())
        if isinstance(sock, ssl.SSLSocket):
            inner = SSLTransport(sock, self._context, server_hostname=host)
            return cast("socket.socket", inner)  # as much of one as is used
        return self._context.wrap_socket(sock, server_hostname=host)

    def _open(self, address: tuple[str, int], left: Callable[[], float]) -> socket.socket:
        """Connect to the first of a host's addresses that accepts; each gets its share of time.

        Raises:
            OSError: none accepts in time.
        """
        found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
        fault: OSError = Unreachable("the host has no address")
        for number, (family, kind, protocol, _, target) in enumerate(found):
            sock = socket.socket(family, kind, protocol)
            try:
                sock.settimeout(left() / (len(found) - number))
                sock.connect(target)
            except OSError as error:
                sock.close()
                fault = error
            else:
                return sock
        raise fault


def _countdown(seconds: float) -> Callable[[], float]:
    """A function of what is left of some seconds.

    Raises:
        TimeoutError: nothing is left.
    """
    ends_at = time.monotonic() + seconds

    def left() -> float:
        seconds = ends_at - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("timed out")
        return seconds

    return left


class _TimedSocket:
    """What `http.client` uses of a socket; each wait ends when the request's time is over.

    A time-out of the socket itself would begin again with every byte that arrives.
    """

    def __init__(self, sock: socket.socket, left: Callable[[], float]) -> None:
        self._sock = sock
        self._left = left

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(self._left())
        self._sock.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self._sock, self._left))

    def close(self) -> None:
        """Nothing: what opened the socket closes it."""


class _TimedReader(io.RawIOBase):
    def __init__(self, sock: socket.socket, left: Callable[[], float]) -> None:
        self._sock = sock
        self._left = left
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(self._left())
        count = self._sock.recv_into(buffer)
        self._count += count
        if self._count > _MAX_RESPONSE_BYTES:
            raise Unreachable("the response is too large")
        return count


class _FinalResponse(http.client.HTTPResponse):
    """Skips interim responses (RFC 9110 section 15.2), where `http.client` skips 100 alone."""

    def begin(self) -> None:
        super().begin()
        while 100 <= self.status < 200 and self.status != _SWITCHING_PROTOCOLS:
            self.headers = None  # type: ignore[assignment]  # begin() reads unless there are some
            super().begin()


def _exchange(sock: _TimedSocket, parts: SplitResult, request: Request) -> Response:
    """Send a request and read its response."""
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port)  # names the host, and opens nothing
    connection.response_class = _FinalResponse
    connection.sock = sock
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    headers = {**request.headers, "Connection": "close"}
    connection.request(request.method, target, request.body, headers)
    response = connection.getresponse()
    body = response.read(_MAX_BODY_BYTES)
    names = {name.lower(): value for name, value in response.getheaders()}
    return Response(status=response.status, headers=names, body=body)


def _proxy_for(host: str) -> SplitResult | None:
    """The proxy for https that the environment (or the system) names, unless it excepts the host.

    Raises:
        Unreachable: it cannot be used.
    """
    proxies = getproxies()
    url = proxies.get("https") or proxies.get("all")
    if not url or proxy_bypass(host):
        return None
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise Unreachable("HTTPS_PROXY must be http://host:port or https://host:port")
    return parts


def _address_of(proxy: SplitResult) -> tuple[str, int]:
    return proxy.hostname or "", proxy.port or (443 if proxy.scheme == "https" else 80)


def _tunnel(sock: _TimedSocket, address: tuple[str, int], proxy: SplitResult) -> None:
    """Have the proxy connect to an address (RFC 9110 section 9.3.6).

    Raises:
        Unreachable: it does not.
    """
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    lines = [f"CONNECT {host}:{address[1]} HTTP/1.1", f"Host: {host}:{address[1]}"]
    if proxy.username is not None:
        pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(pair.encode()).decode()}")
    sock.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
    response = _FinalResponse(sock, method="CONNECT")  # type: ignore[arg-type]
    response.begin()
    if response.status // 100 != 2:
        raise Unreachable(f"the proxy refuses the connection: HTTP {response.status}")
