"""`enable-broker-proxy` between real connections: what it forwards, refuses and survives."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from botocore.credentials import Credentials

from enable_broker_client import Request, Response, TokenSource
from enable_broker_client.proxy import TOKEN_HEADER, Proxy, Settings
from tests.servers import LoopbackServer

MEBIBYTE = 2**20
VENDED = (
    '{{"access_token": "token-{}", "token_type": "Bearer", "scope": "read:deals",'
    ' "expires_in": 900, "expires_at": "2025-03-01T12:00:00Z"}}'
)

type Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Session:
    def get_credentials(self) -> Credentials:
        return Credentials("AKIDEXAMPLE", "a-key")


class Broker:
    """A transport: vends `token-1`, after a report `token-2` …, or what is wrong with it."""

    def __init__(self) -> None:
        self.number = 1
        self.fault: Response | OSError | None = None

    def __call__(self, request: Request, /) -> Response:
        if isinstance(self.fault, OSError):
            raise self.fault
        if self.fault:
            return self.fault
        if request.method == "POST":
            self.number += 1
            return Response(status=202)
        return Response(status=200, body=VENDED.format(self.number).encode())


@dataclass
class World:
    """A proxy between callers and Enable.

    Attributes:
        seen: the requests that reached Enable: path, headers, body.
        ended: is set when a request's connection to Enable ends before its response.
    """

    port: int = 0
    broker: Broker = field(default_factory=Broker)
    seen: list[tuple[str, Any, bytes]] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    session: aiohttp.ClientSession = None

    def request(self, path: str, method: str = "GET", **more: Any):
        url = f"http://127.0.0.1:{self.port}{path}"
        return self.session.request(method, url, allow_redirects=False, **more)

    async def raw(self, data: bytes) -> bytes:
        """The whole response to bytes that are sent as they are."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        try:
            async with asyncio.timeout(10):
                return await reader.read()
        finally:
            writer.close()

    async def enable(self, request: web.BaseRequest) -> web.StreamResponse:
        """Takes each token that is not refused; nothing on /forbidden."""
        body = await request.content.read()
        self.seen.append((request.raw_path, request.headers, body))
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        is_refused = token in self.refused or request.path == "/forbidden"
        return web.Response(status=401 if is_refused else 200, text="a body")

    def tokens(self) -> list[str]:
        return [
            headers["Authorization"].removeprefix("Bearer token-") for _, headers, _ in self.seen
        ]


@asynccontextmanager
async def listening(runner: web.ServerRunner) -> AsyncIterator[int]:
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def run(
    scenario: Callable[[World], Awaitable[None]],
    enable: Handler | None = None,
    **settings: Any,
) -> None:
    """Play a scenario between a proxy and Enable, or a handler in Enable's place."""

    async def play() -> None:
        world = World()

        async def noted(request: web.BaseRequest) -> web.StreamResponse:
            try:
                return await (enable or world.enable)(request)
            except asyncio.CancelledError:
                world.ended.set()
                raise

        server = web.Server(noted, handler_cancellation=True, access_log=None)
        runner = web.ServerRunner(server, shutdown_timeout=0.1)
        async with listening(runner) as enable_port, aiohttp.ClientSession() as world.session:
            origin = settings.pop("origin", f"http://127.0.0.1:{enable_port}")
            source = TokenSource(
                "https://broker.example/v1",
                "deals",
                session=Session(),
                region="eu-west-1",
                retry_budget=timedelta(seconds=0.2),
                transport=world.broker,
            )
            proxy = Proxy(source, Settings(origin=origin, **settings))
            try:
                async with listening(proxy.runner()) as world.port, asyncio.timeout(20):
                    await scenario(world)
            finally:
                await proxy.close()

    asyncio.run(play())


def test_request_is_forwarded_as_it_is_with_the_token_and_without_what_is_of_one_connection():
    async def scenario(world: World) -> None:
        headers = {
            "Authorization": "Bearer old",
            "Accept": "application/vnd.api+json",
            "Connection": "close, X-One-Hop",
            "connection": "X-Next-Hop",
            "X-One-Hop": "a",
            "X-Next-Hop": "b",
            "TE": "trailers",
            "Proxy-Authorization": "Basic c2VjcmV0",
            TOKEN_HEADER: "true",
        }
        path = "//v1/deals%2F1/../x?q=%20a&q=b"
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        data = f"GET {path} HTTP/1.0\r\nHost: localhost:8711\r\n{head}\r\n"
        assert (await world.raw(data.encode())).endswith(b"a body")
        ((seen_path, seen, body),) = world.seen
        assert (seen_path, body) == (path, b"")
        assert seen["Authorization"] == "Bearer token-1"
        assert seen["Accept"] == "application/vnd.api+json"
        assert seen["Host"].startswith("127.0.0.1:")
        dropped = {"X-One-Hop", "X-Next-Hop", "TE", "Proxy-Authorization", TOKEN_HEADER}
        assert not {*dropped, "User-Agent"} & {*seen}

    run(scenario)


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_refused_token_is_replaced_and_a_small_request_repeated_once(method: str):
    async def scenario(world: World) -> None:
        world.refused.add("token-1")
        data = b"a=b" if method == "POST" else None
        async with world.request("/v1/deals", method, data=data) as response:
            assert (response.status, await response.text()) == (200, "a body")
        assert world.tokens() == ["1", "2"]
        assert {body for _, _, body in world.seen} == {data or b""}

    run(scenario)


@pytest.mark.parametrize("is_chunked", [True, False])
def test_large_or_unsized_request_is_not_repeated_and_the_next_has_the_replacement(
    is_chunked: bool,  # noqa: FBT001
):
    async def pieces() -> AsyncIterator[bytes]:
        yield b"a" * 10

    async def scenario(world: World) -> None:
        world.refused.add("token-1")
        data = pieces() if is_chunked else b"a" * 70_000
        async with world.request("/v1/deals", "POST", data=data) as response:
            assert response.status == 401
        async with world.request("/v1/deals") as response:
            assert response.status == 200
        assert world.tokens()[-1] == "2"
        assert len(world.seen[0][2]) == (10 if is_chunked else 70_000)

    run(scenario)


def test_route_that_refuses_each_token_costs_one_replacement():
    async def scenario(world: World) -> None:
        for _ in range(3):
            async with world.request("/forbidden") as response:
                assert response.status == 401
        assert world.tokens() == ["1", "2", "2", "2"]

    run(scenario)


@pytest.mark.parametrize(
    ("location", "seen"),
    [
        ("/v1/users?a=b", "/v1/users?a=b"),
        ("next", "/v1/next"),
        ("{origin}/v1/x", "/v1/x"),
        ("{origin}", "/"),
        ("https://elsewhere.example/v1", None),
        ("//elsewhere.example/v1", None),
        ("{origin}:80/v1", None),
    ],
)
def test_redirect_stays_within_enables_origin(location: str, seen: str | None):
    async def enable(request: web.BaseRequest) -> web.StreamResponse:
        target = location.format(origin=f"http://{request.headers['Host']}")
        return web.Response(status=307, headers={"Location": target})

    async def scenario(world: World) -> None:
        async with world.request("/v1/deals") as response:
            status = (response.status, response.headers.get("Location"))
        assert status == ((307, seen) if seen else (502, None))

    run(scenario, enable)


@pytest.mark.parametrize(
    "head",
    [
        "GET /v1 HTTP/1.1\r\nHost: evil.example\r\n",
        "GET /v1 HTTP/1.1\r\nHost: 127.0.0.1.evil.example\r\n",
        "GET /v1 HTTP/1.1\r\nHost: 169.254.169.254\r\n",
        "GET /v1 HTTP/1.0\r\n",
        "GET /v1 HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n",
        "GET http://evil.example/v1 HTTP/1.1\r\nHost: localhost\r\n",
        "GET /v1 HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost:8711\r\n",
        "GET /token HTTP/1.1\r\nHost: localhost\r\nsec-fetch-site: cross-site\r\n",
        "OPTIONS /v1 HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\n",
        "CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\n",
        "GET /v1 HTTP/1.1\r\nHost: localhost\r\nX-Long: " + 20_000 * "x" + "\r\n",
        "POST /v1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n"
        "Transfer-Encoding: chunked\r\n",
    ],
)
def test_request_that_no_service_sends_is_refused_and_reaches_nothing(head: str):
    async def scenario(world: World) -> None:
        response = await world.raw(f"{head}Connection: close\r\n\r\n".encode())
        assert response.split(b" ")[1] in {b"400", b"403"}
        assert b"access-control" not in response.lower()
        assert b"token-1" not in response
        assert world.seen == []

    run(scenario, has_token_route=True)


def test_given_host_is_accepted():
    async def scenario(world: World) -> None:
        async with world.request("/v1", headers={"Host": "enable-proxy:80"}) as response:
            assert response.status == 200

    run(scenario, hosts=frozenset({"enable-proxy"}))


@pytest.mark.parametrize(
    ("headers", "method", "status"),
    [
        ({TOKEN_HEADER: "true"}, "GET", 200),
        ({}, "GET", 403),
        ({TOKEN_HEADER: "1"}, "GET", 403),
        ({TOKEN_HEADER: "true"}, "POST", 403),
        ({TOKEN_HEADER: "true", "x-forwarded-for": "10.0.0.1"}, "GET", 403),
        ({TOKEN_HEADER: "true", "Host": "evil.example"}, "GET", 403),
    ],
)
def test_token_is_given_to_who_sends_the_header(headers: dict[str, str], method: str, status: int):
    async def scenario(world: World) -> None:
        async with world.request("/token", method, headers=headers) as response:
            text = await response.text()
            assert response.status == status
            assert response.headers["Cache-Control"] == "no-store"
            assert ("token-1" in text) == (status == 200)

    run(scenario, has_token_route=True)


def test_token_route_is_off_by_default():
    async def scenario(world: World) -> None:
        async with world.request("/token", headers={TOKEN_HEADER: "true"}) as response:
            assert response.status == 404
        assert world.seen == []

    run(scenario)


def test_health_is_that_of_the_token():
    async def scenario(world: World) -> None:
        world.broker.fault = Response(status=503)
        async with world.request("/healthz") as response:
            assert response.status == 503
            assert "HTTP 503" in await response.text()
        world.broker.fault = None
        async with world.request("/healthz") as response:
            assert (response.status, await response.json()) == (200, {"status": "ok"})

    run(scenario)


@pytest.mark.parametrize(
    ("fault", "status", "text"),
    [
        (OSError("quotes"), 503, "no response (OSError)"),
        (Response(status=500), 503, "HTTP 500"),
        (Response(status=403, body=b'{"error": "access_denied"}'), 502, "callers"),
    ],
)
def test_broker_that_is_down_or_refuses_is_named_and_enable_gets_nothing(
    fault: Response | OSError, status: int, text: str
):
    async def scenario(world: World) -> None:
        world.broker.fault = fault
        async with world.request("/v1/deals") as response:
            assert response.status == status
            assert "enable-broker-proxy" in response.headers["Proxy-Status"]
            assert text in (await response.json())["error_description"]
        world.broker.fault = None
        async with world.request("/v1/deals") as response:
            assert response.status == 200
        assert len(world.seen) == 1

    run(scenario)


def test_enable_that_is_down_is_named():
    async def scenario(world: World) -> None:
        async with world.request("/v1/deals") as response:
            assert (response.status, response.headers["Retry-After"]) == (502, "5")
            assert "Enable cannot be reached" in await response.text()

    run(scenario, origin="http://127.0.0.1:9")


def test_enable_that_is_silent_is_cut_off():
    async def enable(_: web.BaseRequest) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    async def scenario(world: World) -> None:
        async with world.request("/v1/deals") as response:
            assert response.status == 504
        await world.ended.wait()

    run(scenario, enable, idle_seconds=0.2)


def test_bodies_stream_both_ways_at_once():
    async def enable(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        async for chunk in request.content.iter_any():
            await response.write(chunk.upper())
        return response

    async def scenario(world: World) -> None:
        go_on = asyncio.Event()

        async def pieces() -> AsyncIterator[bytes]:
            yield b"first"
            await go_on.wait()
            yield b"second"

        async with world.request("/v1", "POST", data=pieces()) as response:
            assert await response.content.readany() == b"FIRST"
            go_on.set()
            assert await response.content.read() == b"SECOND"

    run(scenario, enable)


@pytest.mark.parametrize("is_chunked", [True, False])
def test_response_that_breaks_off_does_not_look_whole(is_chunked: bool):  # noqa: FBT001
    async def enable(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={} if is_chunked else {"Content-Length": "9"})
        await response.prepare(request)
        await response.write(b"half")
        request.transport.abort()
        return response

    async def scenario(world: World) -> None:
        with pytest.raises(aiohttp.ClientError):
            async with world.request("/v1") as response:
                await response.read()

    run(scenario, enable)


def test_response_that_enable_ends_by_closing_is_passed_on():
    async def scenario(world: World) -> None:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\n\r\nto the end")
            writer.write_eof()  # a half-closed connection
            await reader.read()
            writer.close()

        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        origin = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        proxy = Proxy(world_source(), Settings(origin=origin))
        async with server, listening(proxy.runner()) as world.port:
            async with world.request("/v1") as response:
                assert await response.text() == "to the end"
            await proxy.close()

    run(scenario)


def world_source() -> TokenSource:
    return TokenSource(
        "https://broker.example/v1",
        "deals",
        session=Session(),
        region="eu-west-1",
        transport=Broker(),
    )


def test_caller_that_half_closes_or_goes_away_ends_its_request_to_enable():
    began = asyncio.Event()

    async def enable(_: web.BaseRequest) -> web.StreamResponse:
        began.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def scenario(world: World) -> None:
        for leave in ("write_eof", "close"):
            began.clear()
            world.ended.clear()
            _, writer = await asyncio.open_connection("127.0.0.1", world.port)
            writer.write(b"GET /v1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await began.wait()
            getattr(writer, leave)()
            await world.ended.wait()
            writer.close()

    run(scenario, enable)


def test_caller_that_stands_still_is_cut_off_and_others_are_served():
    async def enable(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/quick":
            return web.Response(text="quick")
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 65_536)

    async def scenario(world: World) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", world.port, limit=1024)
        writer.write(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with world.request("/quick") as response:
            assert await response.text() == "quick"
        await world.ended.wait()
        writer.close()
        head = b"POST /v1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"
        assert b" 408 " in await world.raw(head + b"half")

    run(scenario, enable, idle_seconds=0.3)


def test_body_beyond_the_limit_is_refused():
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"a" * 100_000

    async def scenario(world: World) -> None:
        async with world.request("/v1", "POST", data=b"a" * 250_000) as response:
            assert response.status == 413
        async with world.request("/v1", "POST", data=pieces()) as response:
            assert response.status == 413

    run(scenario, body_bytes=200_000)


def test_callers_share_no_cookies():
    async def enable(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(headers={"Set-Cookie": "a=b"}, text=request.headers.get("Cookie", ""))

    async def scenario(world: World) -> None:
        world.session.cookie_jar.clear()
        for _ in range(2):
            async with world.request("/v1", cookies={}) as response:
                assert await response.text() == ""
            world.session.cookie_jar.clear()

    run(scenario, enable)


class Servers(BaseHTTPRequestHandler):
    """Broker and Enable of the command's test: 100 MB either way."""

    def do_GET(self) -> None:
        size = 100 * MEBIBYTE if self.path == "/large" else 0
        body = b"" if size else VENDED.format(1).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(size or len(body)))
        self.end_headers()
        self.wfile.write(body)
        for _ in range(size // MEBIBYTE):
            self.wfile.write(b"x" * MEBIBYTE)

    def do_PUT(self) -> None:
        left = int(self.headers["Content-Length"])
        while left:
            left -= len(self.rfile.read(min(left, MEBIBYTE)))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def command(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command, and where it listens."""
    with LoopbackServer(Servers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        environ = {
            **os.environ,
            "TOKEN_API_URL": url,
            "ENABLE_URL": url,
            "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "a-key",
            "AWS_DEFAULT_REGION": "eu-west-1",
        }
        start = [sys.executable, "-m", "enable_broker_client.proxy_command", "--grant", "deals"]
        process = subprocess.Popen(
            [*start, *arguments], env=environ, stdout=subprocess.PIPE, text=True
        )
        try:
            yield process, process.stdout.readline().removeprefix("listening on ").strip()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
            server.shutdown()
            thread.join()


def peak_kilobytes(process: subprocess.Popen[str]) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc: Linux")
def test_bodies_of_100_mb_pass_at_flat_memory(record_property: Callable[[str, object], None]):
    async def talk(url: str, process: subprocess.Popen[str]) -> int:
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{url}/healthz") as response:
                assert response.status == 200
            before = peak_kilobytes(process)

            async def pieces() -> AsyncIterator[bytes]:
                for _ in range(100):
                    yield b"x" * MEBIBYTE

            headers = {"Content-Length": str(100 * MEBIBYTE)}
            async with session.put(f"{url}/large", data=pieces(), headers=headers) as response:
                assert response.status == 204
            async with session.get(f"{url}/large") as response:
                size = 0
                async for chunk in response.content.iter_any():
                    size += len(chunk)
            assert size == 100 * MEBIBYTE
            return peak_kilobytes(process) - before

    with command("--port", "0") as (process, url):
        more = asyncio.run(talk(url, process))
    record_property("figure", f"enable-broker-proxy, 100 MB each way: {more / 1024:.1f} MiB more")
    assert more < 16 * 1024


def test_command_serves_a_unix_socket_for_its_user_alone_and_ends_cleanly(tmp_path: Path):
    path = tmp_path / "enable.sock"

    async def talk() -> str:
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
            url, headers = "http://localhost/token", {TOKEN_HEADER: "true"}
            async with session.get(url, headers=headers) as response:
                return json.loads(await response.text())["access_token"]

    with command("--unix", str(path), "--token-route") as (process, where):
        assert where == str(path)
        assert path.stat().st_mode & 0o777 == 0o600
        assert asyncio.run(talk()) == "token-1"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert not path.exists()
