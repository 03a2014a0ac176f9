"""A deadline for one HTTP exchange, however slowly its bytes arrive.

urllib3's read time-out starts again with every byte. Here a second thread shuts the socket
down, so that a handshake, a proxy's reply or a header line without end is over in time too.
"""

import socket
import threading
from contextlib import suppress
from datetime import timedelta
from typing import Final, Self

from urllib3.connection import HTTPConnection

_AGAIN_SECONDS: Final = 0.1
"""Past the deadline: a socket that opens late, after a slow look-up, is shut down as well."""


class Deadline:
    """Ends the exchange of one connection after a time; a context manager.

    Args:
        limit: from entering the block.

    Attributes:
        passed: is set once the time is over.
    """

    def __init__(self, limit: timedelta) -> None:
        self.passed = threading.Event()
        self._ended = threading.Event()
        self._connection: HTTPConnection | None = None
        self._seconds = limit.total_seconds()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def watch(self, connection: HTTPConnection) -> None:
        """Name the connection to shut down; it may open its socket later."""
        self._connection = connection

    def __enter__(self) -> Self:
        """Start the clock."""
        self._watcher.start()
        return self

    def __exit__(self, *_error: object) -> None:
        """Stop the clock."""
        self._ended.set()
        self._watcher.join()

    def _watch(self) -> None:
        wait = self._seconds
        while not self._ended.wait(wait):
            self.passed.set()
            self._shut_down()
            wait = _AGAIN_SECONDS

    def _shut_down(self) -> None:
        sock = self._connection.sock if self._connection else None
        # TLS through a TLS proxy: a wrapper that has its socket as an attribute
        inner = getattr(sock, "socket", sock)
        if inner is not None:
            with suppress(OSError):
                inner.shutdown(socket.SHUT_RDWR)
