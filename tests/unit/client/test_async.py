"""The event loop while the client waits: on asyncio and on trio. No socket is opened here."""

import threading
import time
from collections.abc import Awaitable, Callable

import anyio
import httpx
import pytest

from enable_broker_client.httpx import BrokerAuth
from tests.unit.client.test_source import LIFETIME, Broker, Clock, settled, source_of

ORIGIN = "https://enable.example"
TASKS = 50


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[None]]], None]:
    """Run an async function on either loop."""
    return lambda main: anyio.run(main, backend=request.param)


class World:
    """A broker whose responses wait for a gate, and an Enable that accepts its current token."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.broker = Broker(self.clock)
        self.source = source_of(self.broker, self.clock)
        self.requested, self.gate = threading.Event(), threading.Event()
        self.gate.set()
        self.broker.on_request = self.wait
        self.auth = BrokerAuth(self.source, ORIGIN)
        self.bearers: list[str] = []
        self.revoked: set[str] = set()

    def wait(self) -> None:
        self.requested.set()
        assert self.gate.wait(timeout=30)

    def enable(self, request: httpx.Request) -> httpx.Response:
        token = request.headers["Authorization"].removeprefix("Bearer ")
        self.bearers.append(token)
        return httpx.Response(401 if token in self.revoked else 200)

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(auth=self.auth, transport=httpx.MockTransport(self.enable))


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    """Every thread that the test's own starts; a server of another test may start its own."""
    started: list[threading.Thread] = []
    start = threading.Thread.start

    def counted(thread: threading.Thread) -> None:
        if threading.current_thread() is threading.main_thread():
            started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", counted)
    return started


def test_live_token_is_set_without_leaving_the_event_loop(
    run: Callable[..., None], world: World, threads: list[threading.Thread]
):
    world.source.get()
    threads.clear()

    async def main() -> None:
        async with world.client() as client:
            for _ in range(100):
                assert (await client.get(ORIGIN)).status_code == 200

    run(main)
    assert threads == []


def test_tasks_without_a_token_wait_for_one_thread_while_the_loop_goes_on(
    run: Callable[..., None],
    world: World,
    threads: list[threading.Thread],
    record_property: Callable[[str, object], None],
):
    """The broker responds only after the loop has made a thousand rounds."""
    stalls: list[float] = []
    world.gate.clear()

    async def beat() -> None:
        last = time.perf_counter()
        while len(stalls) < 1000 or not world.requested.is_set():
            await anyio.lowlevel.checkpoint()
            now = time.perf_counter()
            stalls.append(now - last)
            last = now
        world.gate.set()

    async def call(client: httpx.AsyncClient) -> None:
        assert (await client.get(ORIGIN)).status_code == 200

    async def main() -> None:
        async with world.client() as client, anyio.create_task_group() as group:
            for _ in range(TASKS):
                group.start_soon(call, client)
            group.start_soon(beat)

    run(main)
    assert len(threads) == 1
    assert world.bearers == ["token-1"] * TASKS
    assert len(world.broker.requested) == 1
    record_property("longest_stall_of_the_loop_seconds", max(stalls))
    print(f"the loop's longest stall in {len(stalls)} rounds: {1000 * max(stalls):.1f} ms")  # noqa: T201


def test_renewal_and_replacement_leave_the_loop_free(
    run: Callable[..., None], world: World, threads: list[threading.Thread]
):
    world.source.get()
    threads.clear()
    world.clock.now += LIFETIME - 30
    world.gate.clear()

    async def main() -> None:
        async with world.client() as client:
            assert (await client.get(ORIGIN)).status_code == 200  # and a renewal is in progress
            world.revoked.add("token-1")
            world.broker.renew()
            async with anyio.create_task_group() as group:
                group.start_soon(client.get, ORIGIN)
                while len(world.bearers) < 2:
                    await anyio.lowlevel.checkpoint()
                world.gate.set()

    run(main)
    assert world.bearers == ["token-1", "token-1", "token-2"]
    assert len(threads) == 1


def test_cancelled_task_hurts_no_other(run: Callable[..., None], world: World):
    statuses: list[int] = []
    world.gate.clear()

    async def call(client: httpx.AsyncClient) -> None:
        statuses.append((await client.get(ORIGIN)).status_code)

    async def main() -> None:
        async with world.client() as client, anyio.create_task_group() as group:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as cancelled:
                    cancelled.start_soon(call, client)
                    group.start_soon(call, client)
                    while not world.requested.is_set():
                        await anyio.lowlevel.checkpoint()
                    scope.cancel()
            world.gate.set()

    run(main)
    assert statuses == [200]
    assert len(world.broker.requested) == 1


def test_loop_that_ends_before_the_broker_responds_leaves_the_source_usable(
    run: Callable[..., None], world: World
):
    world.gate.clear()

    async def main() -> None:
        async with world.client() as client:
            with anyio.move_on_after(0):
                await client.get(ORIGIN)

    run(main)
    world.gate.set()
    assert settled(world.source).get() == "token-1"


def test_sources_of_several_loops_share_one_request(world: World):
    world.gate.clear()
    statuses: list[int] = []

    async def main() -> None:
        async with world.client() as client:
            statuses.append((await client.get(ORIGIN)).status_code)

    loops = [
        threading.Thread(target=anyio.run, args=(main,), kwargs={"backend": backend})
        for backend in ("asyncio", "trio")
    ]
    for loop in loops:
        loop.start()
    assert world.requested.wait(timeout=10)
    world.gate.set()
    for loop in loops:
        loop.join(timeout=10)
    assert statuses == [200, 200]
    assert set(world.bearers) == {"token-1"}


def test_error_of_the_source_reaches_the_task(run: Callable[..., None], world: World):
    world.broker.fault = ConnectionError("down")

    async def main() -> None:
        async with world.client() as client:
            with pytest.raises(Exception, match="no live token in time"):
                await client.get(ORIGIN)

    run(main)
    assert settled(world.source)._kept is None
