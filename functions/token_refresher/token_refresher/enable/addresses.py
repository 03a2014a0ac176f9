"""Connecting to a name of which some addresses are dead: they race, as in RFC 8305."""

import errno
import os
import selectors
import socket
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

HEAD_START_SECONDS: Final = 0.25
"""What an address has before the next one is tried beside it (RFC 8305 section 5)."""

_MOST_REMEMBERED: Final = 256

type Address = tuple[int, int, int, str, tuple[Any, ...]]
"""As `socket.getaddrinfo` returns it."""

type Options = Sequence[tuple[Any, ...]]
"""Arguments of `setsockopt`."""


class Addresses:
    """Opens sockets, and remembers which addresses failed: those are tried last."""

    def __init__(self) -> None:
        self._failed_at: dict[tuple[Any, ...], float] = {}

    def connect(
        self, host: str, port: int, *, seconds: float, options: Options = ()
    ) -> socket.socket:
        """Connect to the address of a host that accepts first.

        Args:
            host: a name or an address.
            port: its port.
            seconds: how long this may take, for all addresses together.
            options: of the socket.

        Raises:
            socket.gaierror: the name has no address.
            TimeoutError: no address accepted in time.
            OSError: every address refused.
        """
        found = socket.getaddrinfo(host, port, socket.AF_UNSPEC, socket.SOCK_STREAM)
        found.sort(key=lambda address: self._failed_at.get(address[4], 0.0))
        with _Race(options) as race:
            try:
                sock, place = _first(race, found, seconds)
            finally:
                for started in race.places:
                    self.mark_failed(started)
        self._failed_at.pop(place, None)
        sock.settimeout(seconds)
        return sock

    def mark_failed(self, place: tuple[Any, ...]) -> None:
        """Try an address after all others from now on.

        Args:
            place: as `getaddrinfo` and `getpeername` return it.
        """
        if len(self._failed_at) >= _MOST_REMEMBERED:
            self._failed_at.clear()
        self._failed_at[place] = time.monotonic()


class _Race:
    """Sockets that connect side by side; a context manager that closes all but the winner."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._running = selectors.DefaultSelector()
        self.places: list[tuple[Any, ...]] = []
        self.fault = OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))

    def start(self, address: Address) -> None:
        """Begin to connect."""
        family, kind, protocol, _, place = address
        self.places.append(place)
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:  # this machine has no IPv6
            self.fault = error
            return
        sock.setblocking(False)
        for option in self._options:
            sock.setsockopt(*option)
        if (code := sock.connect_ex(place)) in {0, errno.EINPROGRESS, errno.EWOULDBLOCK}:
            self._running.register(sock, selectors.EVENT_WRITE, place)
        else:
            self._lose(sock, code)

    def winner(self, ends: float) -> tuple[socket.socket, tuple[Any, ...]] | None:
        """The first socket that is connected; None if all have failed, or at this time."""
        while self._running.get_map():
            ready = self._running.select(max(ends - time.monotonic(), 0))
            if not ready:
                return None
            for key, _ in ready:
                sock: Any = key.fileobj
                self._running.unregister(sock)
                if not (code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
                    return sock, key.data
                self._lose(sock, code)
        return None

    @property
    def is_running(self) -> bool:
        """Whether any socket is still connecting."""
        return bool(self._running.get_map())

    def _lose(self, sock: socket.socket, code: int) -> None:
        self.fault = OSError(code, os.strerror(code))
        sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for key in list(self._running.get_map().values()):
            sock: Any = key.fileobj
            sock.close()
        self._running.close()


def _first(
    race: _Race, addresses: Sequence[Address], seconds: float
) -> tuple[socket.socket, tuple[Any, ...]]:
    """Start one address after the other, each after a head start.

    With many addresses the head start is shorter: all have started after half the time.
    """
    ends = time.monotonic() + seconds
    head_start = min(HEAD_START_SECONDS, seconds / 2 / max(len(addresses), 1))
    for address in addresses:
        race.start(address)
        if won := race.winner(min(time.monotonic() + head_start, ends)):
            return won
    if won := race.winner(ends):
        return won
    if race.is_running:
        raise TimeoutError("no address accepted in time")
    raise race.fault
