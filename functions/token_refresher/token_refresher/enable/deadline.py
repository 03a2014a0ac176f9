"""Connections that break off at a deadline, whatever drips through them until then.

urllib3's read time-out begins anew with every byte that arrives. Here a thread shuts the
socket down, so that even an endless header line ends in time.
"""

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, ClassVar, Final

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

_AGAIN_SECONDS: Final = 0.1
"""Past the deadline: a socket that comes late, after a slow look-up, is shut down as well."""

_in_use: Final = threading.local()
"""The connection that the current thread's request is using."""


class _Answer(http.client.HTTPResponse):
    def _safe_read(self, amt: int) -> bytes:
        """Read no chunk of a negative length, which otherwise lasts to the end of the stream."""
        if amt < 0:
            raise http.client.IncompleteRead(b"")
        data: bytes = super()._safe_read(amt)  # type: ignore[misc]  # no part of its interface
        return data


class _RememberedConnection(HTTPConnection):
    response_class = _Answer

    def request(self, *args: Any, **kwargs: Any) -> None:
        _in_use.connection = self
        super().request(*args, **kwargs)


class _RememberedTlsConnection(HTTPSConnection):
    response_class = _Answer

    def request(self, *args: Any, **kwargs: Any) -> None:
        _in_use.connection = self
        super().request(*args, **kwargs)


class _HttpPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _RememberedConnection


class _HttpsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _RememberedTlsConnection


class PoolManager(urllib3.PoolManager):
    """A pool whose requests can be held to a deadline."""

    _classes: ClassVar = {"http": _HttpPool, "https": _HttpsPool}

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.pool_classes_by_scheme = self._classes


@contextmanager
def deadline(limit: timedelta) -> Iterator[threading.Event]:
    """Break off the request that this thread makes within the block, after `limit`.

    Yields:
        An event that is set once the deadline has passed.
    """
    _in_use.connection = None
    passed, ended = threading.Event(), threading.Event()
    in_use = _in_use.__dict__  # of this thread; the watching one sees its changes

    def watch() -> None:
        wait = limit.total_seconds()
        while not ended.wait(wait):
            passed.set()
            connection: HTTPConnection | None = in_use.get("connection")
            if connection is not None and connection.sock is not None:
                with suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)
            wait = _AGAIN_SECONDS

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield passed
    finally:
        ended.set()
        watcher.join()
