"""`enable-broker-proxy`: for services that cannot or should not keep a token.

It listens on loopback or on a Unix socket. What it is sent goes to Enable with the live token of
one grant, streamed both ways; a request whose body is small is repeated once after a 401.

The caller is any process that reaches the port, so what a browser or a forged URL could make a
process send is refused: a Host that is not this machine's, and whatever a page of a browser sends.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, TypeVar, cast
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from aiohttp import (
    ClientError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    TCPConnector,
    web,
)
from multidict import CIMultiDict, MultiMapping
from yarl import URL

from enable_broker_client.api import Token
from enable_broker_client.errors import BrokerClientError, NoTokenInTime
from enable_broker_client.origins import Audience, is_loopback, origin_of
from enable_broker_client.source import TokenSource, Wait

TOKEN_HEADER: Final = "X-Enable-Broker-Token"  # noqa: S105  a header's name
_REPEATABLE_BYTES: Final = 65_536
_FITS_BYTES: Final = 32_768
"""An empty connection takes so much without a wait: asyncio pauses a writer at 64 KiB."""

_CONNECT_SECONDS: Final = 10.0
_HEALTH_SECONDS: Final = 2.0
_HOP_BY_HOP: Final = frozenset(
    {  # RFC 9110 section 7.6.1, and what this side of the connection decides
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_NOT_FORWARDED: Final = _HOP_BY_HOP | {"host", "authorization", "expect", TOKEN_HEADER.lower()}
_OF_BROWSERS: Final = ("Origin", "Sec-Fetch-Mode", "Sec-Fetch-Site")
_OF_PROXIES: Final = ("Forwarded", "X-Forwarded-For", "Via")
_ADDED_BY_AIOHTTP: Final = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")

_Found = TypeVar("_Found")

_logger = logging.getLogger("enable_broker_client")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a proxy is for.

    Attributes:
        origin: Enable's `https://host`, the only one that is sent anything.
        hosts: names other than this machine's that a request's Host may have.
        has_token_route: whether `GET /token` gives the token itself.
        body_bytes: a larger body of a request is refused.
        idle_seconds: a caller or Enable that moves no byte for so long is cut off.
    """

    origin: str
    hosts: frozenset[str] = field(default_factory=frozenset)
    has_token_route: bool = False
    body_bytes: int = 2**30
    idle_seconds: float = 60.0


class _Refused(Exception):
    """A request that the proxy itself responds to.

    Attributes:
        status: the HTTP status.
        code: of RFC 9209 section 2.3, for programs.
    """

    def __init__(self, status: int, code: str, text: str, retry_after: int = 0) -> None:
        super().__init__(text)
        self.status = status
        self.code = code
        self.retry_after = retry_after

    def response(self) -> web.Response:
        """The response, which `Proxy-Status` tells from one of Enable's."""
        body = {"error": self.code, "error_description": str(self)}
        headers = {"Proxy-Status": f"enable-broker-proxy; error={self.code}"}
        if self.retry_after:
            headers["Retry-After"] = str(self.retry_after)
        return _json(self.status, body, headers)


class Proxy:
    """Forwards requests to Enable with one grant's token.

    Args:
        source: where the tokens come from.
        settings: what the proxy is for.

    Raises:
        ValueError: the origin is not one, or is plain http to another machine.
    """

    def __init__(self, source: TokenSource, settings: Settings) -> None:
        self._source = source
        self._settings = settings
        self._audience = Audience(settings.origin)
        self._origin = settings.origin.rstrip("/")
        self._session: ClientSession | None = None

    def runner(self) -> web.ServerRunner:
        """What serves the proxy; its `cleanup` ends it."""
        server = web.Server(
            self.respond,
            handler_cancellation=True,  # a caller that goes away ends its request to Enable
            access_log=None,
            logger=_logger,
            lingering_time=1.0,  # for the rest of a body that was refused
            max_line_size=16_384,
            max_field_size=16_384,
        )
        return web.ServerRunner(server, shutdown_timeout=5.0)

    async def close(self) -> None:
        """Close the connections to Enable."""
        if self._session:
            await self._session.close()

    async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
        """Respond to one request, whatever it is."""
        try:
            self._check(request)
            if request.path == "/healthz":
                return await self._health()
            if request.path == "/token":
                return await self._token(request)
            return await self._forward(request)
        except _Refused as refused:
            return refused.response()

    def _check(self, request: web.BaseRequest) -> None:
        """Refuse what no service sends.

        Raises:
            _Refused: the request names another host, or comes from a page in a browser.
        """
        if not request.raw_path.startswith("/"):
            raise _Refused(400, "http_request_error", "the request's target must be a path")
        hosts = request.headers.getall("Host", [])
        if len(hosts) != 1 or not _is_own(hosts[0], self._settings.hosts):
            raise _Refused(403, "http_request_denied", "the Host header names another machine")
        if any(name in request.headers for name in _OF_BROWSERS):
            raise _Refused(403, "http_request_denied", "requests of browsers are refused")

    async def _health(self) -> web.Response:
        """200 if there is a live token."""
        try:
            async with asyncio.timeout(_HEALTH_SECONDS):
                await _finished(self._source.steps())
        except (BrokerClientError, TimeoutError) as error:
            text = str(error) or "no live token yet"
            return _json(503, {"status": "no live token", "reason": text}, {})
        return _json(200, {"status": "ok"}, {})

    async def _token(self, request: web.BaseRequest) -> web.Response:
        """The token itself, for a caller that sends the header that no forged URL can set.

        Raises:
            _Refused: it is off, or the request is not one for it.
        """
        if not self._settings.has_token_route:
            raise _Refused(404, "http_request_denied", "GET /token is off: --token-route")
        if request.method != "GET" or request.headers.get(TOKEN_HEADER) != "true":
            text = f"send GET with the header {TOKEN_HEADER}: true"
            raise _Refused(403, "http_request_denied", text)
        if any(name in request.headers for name in _OF_PROXIES):
            raise _Refused(403, "http_request_denied", "the request comes through another proxy")
        token = await self._live_token()
        body = {
            "access_token": token.access_token,
            "token_type": "Bearer",
            "expires_at": token.expires_at.isoformat(),
            "scope": token.scope,
        }
        return _json(200, body, {"Pragma": "no-cache"})

    async def _live_token(self) -> Token:
        try:
            return await _finished(self._source.steps())
        except NoTokenInTime as error:
            raise _Refused(503, "destination_unavailable", str(error), retry_after=5) from None
        except BrokerClientError as error:
            raise _Refused(502, "proxy_configuration_error", str(error)) from None

    async def _forward(self, request: web.BaseRequest) -> web.StreamResponse:
        """Send the request to Enable, and its response back."""
        body = await self._body_of(request)
        token = (await self._live_token()).access_token
        url = self._origin + request.raw_path
        response = await self._sent(request, body, token)
        try:
            if self._audience.is_refusal(request.method, url, response.status):
                response = await self._after_refusal(request, body, token, response)
            return await self._passed_on(request, response)
        finally:
            response.close()

    async def _after_refusal(
        self,
        request: web.BaseRequest,
        body: bytes | AsyncIterator[bytes],
        token: str,
        response: ClientResponse,
    ) -> ClientResponse:
        """The response to the request with the token's replacement; the first if there is none."""
        if not isinstance(body, bytes):
            self._source.suspect(token)
            return response
        replacement = await _finished(self._source.replacement_steps(token))
        if replacement is None:
            return response
        response.close()
        second = await self._sent(request, body, replacement)
        self._audience.note_second(request.method, self._origin + request.raw_path, second.status)
        return second

    async def _body_of(self, request: web.BaseRequest) -> bytes | AsyncIterator[bytes]:
        """What is sent on: read already if it is small, so that it can be sent again.

        Raises:
            _Refused: it is too large, or does not come.
        """
        length = request.content_length if request.can_read_body else 0
        if length is not None and length > self._settings.body_bytes:
            raise _Refused(413, "http_request_error", "the body is too large")
        chunks = self._chunks_of(request)
        if length is None or length > _REPEATABLE_BYTES:
            return chunks
        return b"".join([chunk async for chunk in chunks]) if length else b""

    async def _chunks_of(self, request: web.BaseRequest) -> AsyncIterator[bytes]:
        """The body as it comes.

        Raises:
            _Refused: it is too large, or does not come.
        """
        size = 0
        while chunk := await self._moved(request.content.readany()):
            size += len(chunk)
            if size > self._settings.body_bytes:
                raise _Refused(413, "http_request_error", "the body is too large")
            yield chunk

    async def _moved(self, step: Awaitable[_Found]) -> _Found:
        """What a caller sends or takes, unless it stands still.

        Raises:
            _Refused: it does.
        """
        try:
            async with asyncio.timeout(self._settings.idle_seconds):
                return await step
        except TimeoutError:
            raise _Refused(408, "connection_timeout", "the caller stood still") from None

    async def _sent(
        self, request: web.BaseRequest, body: bytes | AsyncIterator[bytes], token: str
    ) -> ClientResponse:
        """Enable's response to the request with a token.

        Raises:
            _Refused: there is none.
        """
        headers = _forwarded(request.headers, _NOT_FORWARDED)
        headers["Authorization"] = f"Bearer {token}"
        try:
            return await self._connections().request(
                request.method,
                URL(self._origin + request.raw_path, encoded=True),
                headers=headers,
                data=body or None,
                allow_redirects=False,
            )
        except TimeoutError:
            raise _Refused(504, "connection_timeout", "Enable does not respond") from None
        except (ClientError, OSError) as error:
            if isinstance(cause := error.__cause__, _Refused):  # the caller's body failed
                raise cause from None
            text = f"Enable cannot be reached ({type(error).__name__})"
            raise _Refused(502, "destination_unavailable", text, retry_after=5) from None

    def _connections(self) -> ClientSession:
        """Connections to Enable that all requests share, and nothing else: no cookies."""
        if self._session is None:
            host = urlsplit(self._origin).hostname or ""
            is_direct = not self._origin.startswith("https:") or proxy_bypass(host)
            self._session = ClientSession(
                connector=TCPConnector(limit=0),
                cookie_jar=DummyCookieJar(),
                auto_decompress=False,
                skip_auto_headers=_ADDED_BY_AIOHTTP,
                proxy=None if is_direct else getproxies().get("https"),
                timeout=ClientTimeout(
                    total=None,
                    sock_connect=_CONNECT_SECONDS,
                    sock_read=self._settings.idle_seconds,
                ),
            )
        return self._session

    async def _passed_on(
        self, request: web.BaseRequest, upstream: ClientResponse
    ) -> web.StreamResponse:
        """Stream Enable's response to the caller.

        Raises:
            _Refused: it redirects to another origin.
        """
        headers = _forwarded(upstream.headers, _HOP_BY_HOP)
        if location := headers.get("Location"):
            headers["Location"] = self._own_path(request, location)
        response = web.StreamResponse(
            status=upstream.status, reason=upstream.reason, headers=headers
        )
        await response.prepare(request)
        try:
            async for chunk in upstream.content.iter_any():
                written = response.write(chunk)
                await (written if _fits(request, chunk) else self._moved(written))
            await response.write_eof()
        except (ClientError, OSError, _Refused) as error:
            # Its head is sent already: a connection that breaks off tells that more is missing.
            _logger.warning("a response broke off (%s)", type(error).__name__)
            if request.transport:
                request.transport.abort()
        return response

    def _own_path(self, request: web.BaseRequest, location: str) -> str:
        """A redirect as seen through the proxy.

        Raises:
            _Refused: it leaves the origin.
        """
        target = urljoin(self._origin + request.raw_path, location)
        with suppress(ValueError):
            if origin_of(target) == origin_of(self._origin):
                return "/" + target.split("/", 3)[3] if target.count("/") > 2 else "/"
        raise _Refused(502, "http_response_denied", "Enable redirects to another origin")


def _fits(request: web.BaseRequest, chunk: bytes) -> bool:
    """Whether the connection takes a chunk at once, so that no wait needs an end."""
    transport = request.transport
    return (
        transport is not None
        and len(chunk) <= _FITS_BYTES
        and not transport.get_write_buffer_size()
    )


@lru_cache(maxsize=64)
def _is_own(host: str, others: frozenset[str]) -> bool:
    """Whether a Host header names this machine, or one of the others."""
    with suppress(ValueError):
        name = urlsplit(f"//{host}").hostname or ""
        return is_loopback(name) or name in others
    return False


def _forwarded(headers: MultiMapping[str], dropped: frozenset[str]) -> CIMultiDict[str]:
    """End-to-end headers: neither those of one connection nor those that `Connection` names."""
    kept = CIMultiDict(headers)
    named = (name.strip() for line in headers.getall("Connection", ()) for name in line.split(","))
    for name in (*dropped, *named):
        kept.popall(name, None)
    return kept


def _json(status: int, body: Mapping[str, object], headers: Mapping[str, str]) -> web.Response:
    text = json.dumps(body)
    headers = {**headers, "Cache-Control": "no-store"}
    return web.Response(status=status, text=text, content_type="application/json", headers=headers)


async def _finished(steps: Generator[Wait, None, _Found]) -> _Found:  # noqa: UP047  Python 3.11
    """What the steps give; other requests go on meanwhile."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            return cast("_Found", end.value)
        event = asyncio.Event()
        step.outcome.add_done_callback(_waker(loop, event))
        with suppress(TimeoutError):
            async with asyncio.timeout(step.seconds):
                await event.wait()


def _waker(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> Callable[[object], None]:
    def wake(_: object) -> None:
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(event.set)

    return wake
