"""HTTP from memory: the functions' own client and parser, and the bytes of a made-up server.

Only the socket is replaced. What reads the bytes is what reads them in Lambda: `http.client`,
urllib3, the connections of `token_refresher.enable.connections`, and the client's transport.
"""

import io
from collections.abc import Callable
from typing import Any

from enable_broker_client.transport import HttpTransport
from token_refresher.enable.addresses import Addresses
from token_refresher.enable.http_client import HttpClient


class _MemorySocket:
    """Discards a request, and returns the response, then the end of the stream."""

    def __init__(self, response: bytes) -> None:
        self._response = response
        self._unread = io.BytesIO(response)

    def recv_into(self, buffer: memoryview) -> int:
        return self._unread.readinto(buffer)

    def sendall(self, _data: bytes) -> None:
        pass

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(io.BytesIO(self._response))  # type: ignore[arg-type]

    def settimeout(self, _seconds: float | None) -> None:
        pass

    def getpeername(self) -> tuple[str, int]:
        return "127.0.0.1", 80

    def shutdown(self, _how: int) -> None:
        pass

    def close(self) -> None:
        pass


class _MemoryAddresses(Addresses):
    """Connects to nothing but memory."""

    def __init__(self, response: bytes) -> None:
        super().__init__()
        self._response = response

    def connect(self, *_place: Any, **_options: Any) -> Any:
        return _MemorySocket(self._response)


def refreshers_http(response: bytes) -> HttpClient:
    """The refresher's client, whose server always returns these bytes."""
    return HttpClient(_MemoryAddresses(response))


class ClientTransport(HttpTransport):
    """The client library's transport, with the same kind of server."""

    def __init__(self, response: bytes) -> None:
        super().__init__()
        self._response = response

    def _open(self, _address: tuple[str, int], _left: Callable[[], float]) -> Any:
        return _MemorySocket(self._response)
