"""HTTP to servers that may misbehave: one connection for each request, and a deadline.

A connection is never used for a second request, so that no late or additional response can be
read as another request's. One request every few minutes needs no connection kept open.
"""

import logging
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Any, Final

import urllib3
from urllib3.exceptions import (
    HTTPError,
    IncompleteRead,
    NewConnectionError,
    ProxyError,
    SSLError,
)
from urllib3.exceptions import TimeoutError as RequestTimeout

from token_refresher.enable import route
from token_refresher.enable.addresses import Addresses
from token_refresher.enable.connections import Exchange, use_strict_connections
from token_refresher.enable.deadline import Deadline

MAX_BODY_BYTES: Final = 65_536
CONNECT_TIMEOUT: Final = timedelta(seconds=3)
"""For all addresses of a host together."""

# It quotes malformed headers, which may repeat what was sent.
logging.getLogger("urllib3.connection").setLevel(logging.CRITICAL)

FAULTS: Final = {
    "timeout": "it took too long",
    "connect": "no connection",
    "tls": "TLS failed or was not trusted",
    "proxy": "the proxy refused the request or cannot be reached",
    "connection": "the connection ended, or carried no valid HTTP",
}
"""Why there is no response: a word for logs and metrics, and what it means."""


class NoResponse(Exception):
    """There is no whole HTTP response.

    Attributes:
        reason: a word of FAULTS.
    """

    def __init__(self, reason: str, proxy: str = "") -> None:
        """Describe a fault.

        Args:
            reason: a word of FAULTS.
            proxy: what to say of the proxy that was used, without its credentials.
        """
        super().__init__(f"{FAULTS[reason]} ({proxy})" if proxy else FAULTS[reason])
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """A whole response, or the beginning of one that is too large.

    Attributes:
        headers: by name in any letter case; a field that was sent twice has two values.
        body: at most MAX_BODY_BYTES.
        is_too_large: there is more of the body than that.
    """

    status: int
    headers: urllib3.HTTPHeaderDict = field(default_factory=urllib3.HTTPHeaderDict, repr=False)
    body: bytes = field(default=b"", repr=False)
    is_too_large: bool = False


class HttpClient:
    """Sends requests by the proxy, and trusting the authorities, that the environment names.

    May be shared by threads.

    Args:
        addresses: remembers which addresses of a host failed.
        authorities: returns PEM certificates to trust beside those; called when TLS is first used.
    """

    def __init__(
        self, addresses: Addresses | None = None, *, authorities: Callable[[], str] = str
    ) -> None:
        self._addresses = addresses or Addresses()
        self._authorities = authorities

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        limit: timedelta,
        body: bytes | None = None,
    ) -> Response:
        """Send one request; a redirect is not followed.

        Args:
            method: of HTTP.
            url: where to.
            headers: beside those that HTTP itself needs.
            limit: from the look-up of the host's name to the last byte of the response.
            body: what to send.

        Raises:
            NoResponse: it names the kind of the fault, and keeps nothing of what was sent.
            ConfigurationError: the proxy or the certificates that the environment names are
                unusable.
        """
        fault, proxy = "", route.proxy_of(url)
        remark = f"proxy {route.address_of(proxy)}" if proxy else ""
        with Deadline(limit) as deadline, self._pools(url, proxy, limit) as pools:
            exchange = Exchange(self._addresses, deadline)
            use_strict_connections(pools, exchange)
            try:
                response = _send(pools, method, url, headers, body)
            except HTTPError as error:
                fault = _kind(error)
                remark += _refusal(error)
                if exchange.peer:
                    self._addresses.mark_failed(exchange.peer)
        if deadline.passed.is_set():
            fault = "timeout"
        if fault:  # raised here, so that no cause or context contains the request
            raise NoResponse(fault, remark)
        return response

    def _pools(self, url: str, proxy: str | None, limit: timedelta) -> urllib3.PoolManager:
        timeout = urllib3.Timeout(
            connect=min(CONNECT_TIMEOUT, limit).total_seconds(), read=limit.total_seconds()
        )
        options: dict[str, Any] = {"timeout": timeout}
        if url.startswith("https:"):
            options["ssl_context"] = self._tls_context
        if proxy is None:
            return urllib3.PoolManager(**options)
        login = route.proxy_login(proxy)
        return urllib3.ProxyManager(
            proxy,
            proxy_headers=urllib3.make_headers(proxy_basic_auth=login) if login else None,
            proxy_ssl_context=self._tls_context if proxy.startswith("https:") else None,
            **options,
        )

    @cached_property
    def _tls_context(self) -> ssl.SSLContext:
        """Read when TLS is first used: it takes longer than a connection does."""
        return route.tls_context(more=self._authorities())


def _send(
    pools: urllib3.PoolManager,
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes | None,
) -> Response:
    response = pools.request(
        method,
        url,
        body=body,
        headers={**headers, "Connection": "close"},
        retries=False,
        redirect=False,
        preload_content=False,
        decode_content=False,
    )
    try:
        data = response.read(MAX_BODY_BYTES + 1)
        if len(data) <= MAX_BODY_BYTES and response.length_remaining:
            raise IncompleteRead(len(data), response.length_remaining)
    finally:
        response.close()
    return Response(
        status=response.status,
        headers=response.headers,
        body=data[:MAX_BODY_BYTES],
        is_too_large=len(data) > MAX_BODY_BYTES,
    )


def _refusal(error: HTTPError) -> str:
    """The status with which a proxy refused a tunnel, and what it means; nothing without one."""
    cause = getattr(error, "original_error", None)
    found = re.fullmatch(r"Tunnel connection failed: ([1-5][0-9]{2})\b.*", str(cause), re.DOTALL)
    if not found:
        return ""
    wants = "; it wants a login, or another one" if found[1] == "407" else ""
    return f", HTTP {found[1]}{wants}"


def _kind(error: HTTPError) -> str:
    """The word of FAULTS for an error of urllib3."""
    kinds: tuple[tuple[type[HTTPError], str], ...] = (
        (ProxyError, "proxy"),
        (SSLError, "tls"),
        (NewConnectionError, "connect"),
        (RequestTimeout, "timeout"),
    )
    return next((kind for type_, kind in kinds if isinstance(error, type_)), "connection")
