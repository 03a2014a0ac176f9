"""urllib3's connections, made strict: raced addresses, interim responses skipped, a deadline."""

import http.client
import socket
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    NameResolutionError,
    NewConnectionError,
    ProxyError,
)

from token_refresher.enable.addresses import Addresses
from token_refresher.enable.deadline import Deadline

MAX_INTERIM_RESPONSES: Final = 16
"""Before the final response (RFC 9110 section 15.2); more are a fault."""


@dataclass(slots=True)
class Exchange:
    """One request and its response.

    Attributes:
        addresses: how its connection is opened.
        deadline: when it is broken off.
        peer: the address that it is connected to; None before.
    """

    addresses: Addresses
    deadline: Deadline
    peer: tuple[Any, ...] | None = None


class _Response(http.client.HTTPResponse):
    def _read_status(self) -> tuple[str, int, str]:
        """The status line of the final response; `http.client` skips 100 alone."""
        for _ in range(MAX_INTERIM_RESPONSES + 1):
            line: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]  # not in its stubs
            if not 100 <= line[1] < 200 or line[1] == http.HTTPStatus.SWITCHING_PROTOCOLS:
                return line
            http.client.parse_headers(self.fp)
        raise http.client.HTTPException("too many interim responses")

    def _safe_read(self, amt: int) -> bytes:
        """Read no chunk of a negative length, which otherwise lasts to the end of the stream."""
        if amt < 0:
            raise http.client.IncompleteRead(b"")
        data: bytes = super()._safe_read(amt)  # type: ignore[misc]  # not in its stubs
        return data


class _Connection(HTTPConnection):
    response_class = _Response

    def __init__(self, exchange: Exchange, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._exchange = exchange
        exchange.deadline.watch(self)

    def _new_conn(self) -> socket.socket:
        try:
            sock = self._exchange.addresses.connect(
                self._dns_host,
                self.port,
                seconds=self.timeout or 0,
                options=self.socket_options or (),
            )
        # Of each, the kind is reported, and no text.
        except (socket.gaierror, UnicodeError) as error:
            raise NameResolutionError(self.host, self, socket.gaierror()) from error
        except TimeoutError as error:
            raise ConnectTimeoutError from error
        except OSError as error:
            raise NewConnectionError(self, "") from error
        self._exchange.peer = sock.getpeername()
        return sock

    def _tunnel(self) -> None:
        """Ask the proxy for the way to the host; its refusal is not the host's."""
        try:
            super()._tunnel()
        except (OSError, http.client.HTTPException) as error:
            raise ProxyError("no tunnel", error) from error


class _TlsConnection(_Connection, HTTPSConnection):
    pass


def use_strict_connections(pools: urllib3.PoolManager, exchange: Exchange) -> None:
    """Have a pool manager, which serves one exchange, open strict connections."""
    plain, tls = (partial(kind, exchange) for kind in (_Connection, _TlsConnection))
    pools.pool_classes_by_scheme = {
        "http": partial(_pool, urllib3.HTTPConnectionPool, plain),  # type: ignore[dict-item]
        "https": partial(_pool, urllib3.HTTPSConnectionPool, tls),  # type: ignore[dict-item]
    }


def _pool(
    kind: type[urllib3.HTTPConnectionPool], connection: Any, *arguments: Any, **options: Any
) -> urllib3.HTTPConnectionPool:
    pool = kind(*arguments, **options)
    pool.ConnectionCls = connection
    return pool
