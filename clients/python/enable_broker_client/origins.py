"""Which hosts are sent the token, and whose 401 counts against it."""

import logging
import threading
from collections import OrderedDict
from functools import lru_cache
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from enable_broker_client.forks import remade_in_child

_PORTS: Final = {"http": 80, "https": 443}
_MOST_ROUTES: Final = 256

_logger = logging.getLogger("enable_broker_client")


def is_loopback(hostname: str) -> bool:
    """Whether a name or an address is this machine's own."""
    try:
        return ip_address(hostname).is_loopback
    except ValueError:
        return hostname == "localhost" or hostname.endswith(".localhost")


@lru_cache(maxsize=256)
def origin_of(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of a URL (RFC 6454 section 4).

    Raises:
        ValueError: the port is not a number.
    """
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    return scheme, (parts.hostname or "").rstrip("."), parts.port or _PORTS.get(scheme, 0)


class Audience:
    """The requests that are sent one source's token, and what their responses say about it.

    A 401 counts against the token if its host accepts tokens, and if the route does not refuse
    each token: that is the route's fault, and the others need the token.

    Args:
        origin: `https://host`, the only one that is sent the token. Without it each https host
            is, and a host counts as one that accepts tokens once it has accepted one.

    Raises:
        ValueError: the origin is not one, or is plain http to another machine.
    """

    def __init__(self, origin: str | None) -> None:
        self._origin = _checked(origin) if origin is not None else None
        self._lock = threading.Lock()
        self._accepting = {self._origin} if self._origin else set()
        self._warned: set[tuple[str, str, int]] = set()
        self._refusing: OrderedDict[tuple[str, str], None] = OrderedDict()
        remade_in_child(self)

    def includes(self, url: str) -> bool:
        """Whether a request to this URL is sent the token."""
        origin = origin_of(url)
        if self._origin:
            is_included = origin == self._origin
        else:
            is_included = origin[0] == "https" or (origin[0] == "http" and is_loopback(origin[1]))
        if not is_included:
            self._warn(origin)
        return is_included

    def _warn(self, stranger: tuple[str, str, int]) -> None:
        """Warn of a host that is sent no token, once unless there are very many."""
        with self._lock:
            is_new = stranger not in self._warned
            if is_new and len(self._warned) < _MOST_ROUTES:
                self._warned.add(stranger)
        if is_new:
            text = "no token is sent to %s://%s:%d: not the origin, or not https"
            _logger.warning(text, *stranger)

    def is_refusal(self, method: str, url: str, status: int) -> bool:
        """Note the response to a request with the token; True if it counts against the token."""
        route = _route(method, url)
        with self._lock:
            if status == 401:
                return origin_of(url) in self._accepting and route not in self._refusing
            self._refusing.pop(route, None)
            if status < 400:
                self._accepting.add(origin_of(url))
        return False

    def note_second(self, method: str, url: str, status: int) -> None:
        """Note the response to the same request with the token's replacement."""
        if status != 401:
            return
        with self._lock:
            self._refusing[_route(method, url)] = None
            if len(self._refusing) > _MOST_ROUTES:
                self._refusing.popitem(last=False)

    def remake_in_child(self) -> None:
        """Make the lock again, which another thread of the parent may have had."""
        self._lock = threading.Lock()


def _checked(origin: str) -> tuple[str, str, int]:
    parts = urlsplit(origin)
    if not parts.hostname or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError("origin must be https://host, without a path")
    if parts.username is not None:
        raise ValueError("origin must be https://host, without a user")
    checked = origin_of(origin)
    if checked[0] != "https" and not (checked[0] == "http" and is_loopback(checked[1])):
        raise ValueError("origin must be https: a token would travel in the clear")
    return checked


def _route(method: str, url: str) -> tuple[str, str]:
    """What tells a request from another kind of request: all but the query."""
    return method, url.partition("?")[0].partition("#")[0]
