"""HTTP from memory: the functions' own client and parser, and the bytes of a made-up server.

Only the socket is replaced. What reads the bytes is what reads them in Lambda: `http.client`,
urllib3, the connections of `token_refresher.enable.deadline`, and the client's transport.
"""

import io
from collections.abc import Callable
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection

from enable_broker_client.transport import HttpTransport
from token_refresher.enable import deadline


class _MemorySocket:
    """Swallows a request; whoever reads gets the answer, then the end of the stream."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._unread = io.BytesIO(answer)

    def recv_into(self, buffer: memoryview) -> int:
        return self._unread.readinto(buffer)

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


class ClientTransport(HttpTransport):
    """The client library's transport, with the same kind of server."""

    def __init__(self, response: bytes) -> None:
        super().__init__()
        self._response = response

    def _open(self, _address: tuple[str, int], _left: Callable[[], float]) -> Any:
        return _MemorySocket(self._response)
