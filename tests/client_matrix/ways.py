"""The ways in which services call: each runs one condition for some seconds, and judges it."""

import itertools
import json
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import anyio
import httpx
from botocore.credentials import Credentials

import enable_broker_client.httpx
from enable_broker_client import HttpTransport, Request, Response, TokenSource
from enable_broker_client.clock import SteadyClock
from tests.client_matrix.cases import BUDGET, CONDITIONS, GRANTS
from tests.client_matrix.judge import Judge, Machine, World, merged
from tests.client_matrix.node import NodeProcess, NodeSource

logging.getLogger("enable_broker_client").addHandler(logging.NullHandler())

_ORIGIN = "https://enable.example"
_PAUSE_SECONDS = 0.1
_REGION = "eu-west-1"

type Result = dict[str, Any]


class _Session:
    def get_credentials(self) -> Credentials:
        return Credentials("AKIDEXAMPLE", "a-key")


@dataclass(frozen=True)
class Cell:
    """One way under one condition; what a process needs to take part."""

    way: str
    condition: str
    port: int
    seconds: float


class Service:
    """A process's sources, one for each grant, that share a transport and a clock."""

    def __init__(self, cell: Cell) -> None:
        self.world = World(CONDITIONS[cell.condition])
        self.ends_at = self.world.started_at + cell.seconds
        path = quote(f"{cell.way}|{cell.condition}|{os.getpid()}")
        self.url = f"http://127.0.0.1:{cell.port}/{path}/v1"
        self.clock = SteadyClock(wall=self.world.wall)
        self.transport = HttpTransport()
        self.refuses = bool(self.world.condition.times("enable"))
        self.sources = {grant: self.source(grant) for grant in GRANTS}
        self.judge = Judge(self.world, Machine())

    def source(self, grant: str) -> TokenSource:
        """The source of a grant."""
        return TokenSource(
            self.url,
            grant,
            session=_Session(),
            region=_REGION,
            retry_budget=timedelta(seconds=BUDGET),
            transport=self.send,
            clock=self.clock,
        )

    def send(self, request: Request) -> Response:
        """The client's own transport; how long the machine has slept goes with the request."""
        headers = {**request.headers, "X-Slept": str(self.world.slept())}
        return self.transport(replace(request, headers=headers))

    def accepts(self, token: str, route: str = "") -> bool:
        """Enable: whether it accepts a token."""
        number = int(token.split(".")[1])
        return not self.refuses or (number % 2 == 0 and route != "/forbidden")

    def call(self) -> None:
        """Get and use tokens of both grants in turn, until the end."""
        for count, grant in enumerate(itertools.cycle(GRANTS)):
            if count and time.monotonic() >= self.ends_at:  # one call, however late it begins
                return
            source = self.sources[grant]
            with self.judge.call(grant) as got:
                got.append(source.get())
            if got and (not self.accepts(got[0]) or (self.refuses and count % 10 == 0)):
                with self.judge.call(grant) as newer:
                    newer.extend(filter(None, [source.replacement(got[0])]))
            time.sleep(_PAUSE_SECONDS)

    def in_threads(self, number: int = 4) -> Result:
        """Call in several threads at once."""
        threads = [threading.Thread(target=self.call) for _ in range(number)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return self.judge.result()

    def enable(self, request: httpx.Request) -> httpx.Response:
        """Enable's API, behind httpx."""
        token = request.headers["Authorization"].removeprefix("Bearer ")
        return httpx.Response(200 if self.accepts(token, request.url.path) else 401)

    async def in_tasks(self) -> Result:
        """Call in several tasks at once, through httpx."""
        async with anyio.create_task_group() as group:
            for grant in GRANTS:
                auth = enable_broker_client.httpx.BrokerAuth(self.sources[grant], _ORIGIN)
                for _ in range(5):
                    group.start_soon(self._tasks_calls, grant, auth)
        return self.judge.result()

    async def _tasks_calls(self, grant: str, auth: httpx.Auth) -> None:
        transport = httpx.MockTransport(self.enable)
        async with httpx.AsyncClient(auth=auth, transport=transport) as client:
            for count in itertools.count():
                if count and time.monotonic() >= self.ends_at:
                    return
                route = "/forbidden" if self.refuses and count % 10 == 0 else "/v1"
                with self.judge.call(grant, budgets=2 if self.refuses else 1) as got:
                    response = await client.get(_ORIGIN + route)
                    got.append(response.request.headers["Authorization"].removeprefix("Bearer "))
                await anyio.sleep(_PAUSE_SECONDS)


class NodeService(Service):
    """As `Service`, with sources of the Node client in a process of its own."""

    def __init__(self, cell: Cell, node: NodeProcess) -> None:
        self.node = node
        super().__init__(cell)
        self.world.seen = cell.seconds  # node reads a clock of its own, which delays no event

    def source(self, grant: str) -> NodeSource:
        """The source of a grant."""
        facts = {
            "url": self.url,
            "grant": grant,
            "region": _REGION,
            "budget": BUDGET,
            "startedAt": self.world.started_at,
            "events": self.world.condition.events,
        }
        return NodeSource(self.node, self.world.condition.name + grant, facts)


def run_all(cells: Sequence[Cell]) -> list[Result]:
    """The cells of one way, all at once, in this process and those that the way starts."""
    way = cells[0].way
    if way == "node":
        with NodeProcess() as node:
            return _side_by_side(lambda cell: NodeService(cell, node).in_threads(), cells)
    return _spawned(cells) if way == "spawn" else _side_by_side(_WAYS[way], cells)


def _side_by_side(way: Callable[[Cell], Result], cells: Sequence[Cell]) -> list[Result]:
    with ThreadPoolExecutor(len(cells)) as pool:
        return list(pool.map(way, cells))


def _threads(cell: Cell) -> Result:
    return Service(cell).in_threads()


def _asyncio(cell: Cell) -> Result:
    return anyio.run(Service(cell).in_tasks, backend="asyncio")


def _trio(cell: Cell) -> Result:
    return anyio.run(Service(cell).in_tasks, backend="trio")


def _fork(cell: Cell) -> Result:
    """Children forked one after the other, while threads of the parent request tokens."""
    service = Service(cell)
    threads = [threading.Thread(target=service.call) for _ in range(2)]
    for thread in threads:
        thread.start()
    children = []
    for _ in range(3):
        time.sleep(0.1)
        children.append(_forked(service, cell))
    results = [_read(*child) for child in children]
    for thread in threads:
        thread.join()
    return merged([service.judge.result(), *results])


def _forked(service: Service, cell: Cell) -> tuple[int, int]:
    """A child that calls in threads of its own; its id, and where its result is to be read."""
    read_end, write_end = os.pipe()
    if pid := os.fork():
        os.close(write_end)
        return pid, read_end
    try:
        _as_child(service, cell)
        os.write(write_end, json.dumps(service.in_threads(2)).encode())
    except BaseException as error:
        os.write(write_end, json.dumps(_failed(repr(error))).encode())
    os._exit(0)


def _as_child(service: Service, cell: Cell) -> None:
    """Judge alone, and end if a lock of the parent hangs this process."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(int(cell.seconds) + 30)
    service.judge = Judge(service.world, Machine())


def _read(pid: int, read_end: int) -> Result:
    with os.fdopen(read_end, encoding="utf-8") as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    result: Result = json.loads(text) if text else _failed("a forked child hung")
    return result


def _failed(text: str) -> Result:
    return {"counts": {}, "violations": [text], "longest": 0.0}


def _spawned(cells: Sequence[Cell]) -> list[Result]:
    """Two processes that begin with nothing of the parent's."""
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        of_both = pool.map(_side_by_side, [_threads] * 2, [cells] * 2)
        return [merged(list(results)) for results in zip(*of_both, strict=True)]


_inherited: dict[str, Service] = {}


def _pool(cell: Cell) -> Result:
    """A pool of forked processes, whose sources are the parent's, as after a preload."""
    service = _inherited[cell.condition] = Service(cell)
    service.sources[GRANTS[0]].get()
    with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
        return merged(list(pool.map(_in_pool, [cell] * 2)))


def _in_pool(cell: Cell) -> Result:
    service = _inherited[cell.condition]
    _as_child(service, cell)
    return service.in_threads(2)


_WAYS: dict[str, Callable[[Cell], Result]] = {
    "threads": _threads,
    "asyncio": _asyncio,
    "trio": _trio,
    "fork": _fork,
    "process pool": _pool,
}
