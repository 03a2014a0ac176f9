"""HTTP from memory: the functions' own client and parser, and the bytes of a made-up server.

Only the socket is replaced. What reads the bytes is what reads them in Lambda: `http.client`,
urllib3, and the connections of `token_refresher.enable.deadline`.
"""

import io
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection

from token_refresher.enable import deadline


class _MemorySocket:
    """Swallows a request; whoever reads gets the answer, then the end of the stream."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def sendall(self, _data: bytes) -> None:
        pass

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(io.BytesIO(self._answer))  # type: ignore[arg-type]

    def settimeout(self, _seconds: float | None) -> None:
        pass

    def shutdown(self, _how: int) -> None:
        pass

    def close(self) -> None:
        pass


class _FromMemory:
    """A connection that opens a `_MemorySocket`, a new one for each request."""

    answer: bytes
    is_connected = False

    def _new_conn(self) -> Any:
        return _MemorySocket(self.answer)


def _answering(connection: type[HTTPConnection], answer: bytes) -> type[urllib3.HTTPConnectionPool]:
    made = type("Connection", (_FromMemory, connection), {"answer": answer})
    return type("Pool", (urllib3.HTTPConnectionPool,), {"ConnectionCls": made})


def refreshers_pool(answer: bytes) -> deadline.PoolManager:
    """The refresher's pool, whose server always answers with these bytes."""
    pool = deadline.PoolManager()
    connection = deadline._HttpPool.ConnectionCls
    pool.pool_classes_by_scheme = {"http": _answering(connection, answer)}
    return pool


def clients_pool(answer: bytes) -> urllib3.PoolManager:
    """urllib3's own, as the client library makes it, with the same kind of server."""
    pool = urllib3.PoolManager()
    pool.pool_classes_by_scheme = {"http": _answering(HTTPConnection, answer)}
    return pool
