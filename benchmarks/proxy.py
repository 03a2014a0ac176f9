"""`make bench-proxy`: enable-broker-proxy beside a bare reverse proxy of the same libraries.

The bare one adds no token, checks nothing and repeats nothing. Both forward to the same server.
They take turns, block by block, and each block of one is compared with the block of the other
beside it; judged is the median of those ratios, on the clock.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final
from urllib.parse import urlsplit

from rich.console import Console

from benchmarks.results import Row, as_table, percentile
from local.broker_stack import ROOT

CHILDREN: Final = ROOT / "benchmarks" / "children"
_MEBIBYTE: Final = 2**20
_LEAST_THROUGHPUT: Final = 0.8
_MOST_P99: Final = 1.5


@dataclass(frozen=True, slots=True)
class Load:
    """What one block of requests is like; sizes in bytes.

    Attributes:
        at_a_time: connections that send one request after the other.
    """

    name: str
    requests: int
    at_a_time: int
    sent: int = 0
    received: int = 0

    def head(self, host: str) -> bytes:
        """A request without its body."""
        method, path = ("PUT", "/v1/deals") if self.sent else ("GET", f"/{self.received}")
        length = f"Content-Length: {self.sent}\r\n" if self.sent else ""
        return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{length}\r\n".encode()


LOADS: Final = (
    Load("responses of 4 KiB, 1 at a time", 100, 1, received=4096),
    Load("responses of 4 KiB, 16 at a time", 320, 16, received=4096),
    Load("responses of 8 MiB, 4 at a time", 8, 4, received=8 * _MEBIBYTE),
    Load("bodies of 8 MiB sent, 4 at a time", 8, 4, sent=8 * _MEBIBYTE),
)


@dataclass(slots=True)
class Measured:
    """The blocks of one proxy under one load, in the order of the pairs."""

    per_second: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)


def main() -> int:
    """Measure and print.

    Returns:
        0 if all that must be reached is, else 1.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.proxy", description=__doc__)
    parser.add_argument("--pairs", type=int, default=50, help="of blocks for each load (50)")
    pairs = parser.parse_args().pairs
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 150)
    rows: list[Row] = []
    with _proxies() as (ours, bare):
        for load in LOADS:
            with console.status(load.name):
                rows += _rows(load, *asyncio.run(_measured(load, ours, bare, pairs)))
    console.print(as_table([("enable-broker-proxy beside a bare reverse proxy", rows)]))
    return 0 if all(row.is_reached is not False for row in rows) else 1


@contextmanager
def _proxies() -> Iterator[tuple[str, str]]:
    """The addresses of both, which end with the block."""
    with ExitStack() as stack:
        upstream = stack.enter_context(_process([CHILDREN / "proxy_upstream.py"]))
        bare = stack.enter_context(_process([CHILDREN / "bare_proxy.py", upstream]))
        command = ["-m", "enable_broker_client.proxy_command", "--port", "0", "--grant", "deals"]
        urls = ["--url", upstream, "--origin", upstream]
        yield stack.enter_context(_process([*command, *urls])), bare


@contextmanager
def _process(arguments: list[str | Path]) -> Iterator[str]:
    """A child that says where it listens."""
    environ = {
        **os.environ,
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "a-key",
        "AWS_DEFAULT_REGION": "eu-west-1",
    }
    command = [sys.executable, *arguments]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
        try:
            if process.stdout is None or not (line := process.stdout.readline()):
                raise RuntimeError(f"{arguments} did not start")
            yield line.removeprefix("listening on ").strip()
        finally:
            process.kill()


async def _measured(load: Load, ours: str, bare: str, pairs: int) -> tuple[Measured, Measured]:
    results = {ours: Measured(), bare: Measured()}
    for url in results:
        await _block(load, url)  # connections to Enable, a token, warm code
    for pair in range(pairs):
        for url in (ours, bare) if pair % 2 else (bare, ours):
            seconds, latencies = await _block(load, url)
            results[url].per_second.append(load.requests / seconds)
            results[url].p99.append(percentile(latencies, 0.99))
    return results[ours], results[bare]


async def _block(load: Load, url: str) -> tuple[float, list[float]]:
    """Send the load's requests; the seconds of all of them, and of each."""
    latencies: list[float] = []
    left = iter(range(load.requests))
    began = time.perf_counter()
    await asyncio.gather(*(_connection(load, url, left, latencies) for _ in range(load.at_a_time)))
    return time.perf_counter() - began, latencies


async def _connection(load: Load, url: str, left: Iterator[int], latencies: list[float]) -> None:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=_MEBIBYTE)
    head, body = load.head(parts.netloc), b"x" * load.sent
    for _ in left:
        began = time.perf_counter()
        writer.write(head)
        writer.write(body)
        await writer.drain()
        status = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in status.partition(b"\r\n")[0]:
            raise RuntimeError(f"{url}: {status!r}")
        size = load.received or len(b"{}")
        while size > 0:
            size -= len(await reader.read(min(size, _MEBIBYTE)))
        latencies.append(time.perf_counter() - began)
    writer.close()


def _rows(load: Load, ours: Measured, bare: Measured) -> list[Row]:
    throughput = median(o / b for o, b in zip(ours.per_second, bare.per_second, strict=True))
    p99 = median(o / b for o, b in zip(ours.p99, bare.p99, strict=True))
    rates = f"{median(ours.per_second):.4g}/s : {median(bare.per_second):.4g}/s"
    times = f"{1000 * median(ours.p99):.3g} ms : {1000 * median(bare.p99):.3g} ms"
    return [
        Row.at_least(f"throughput, {load.name}", throughput, _LEAST_THROUGHPUT, "×", rates),
        Row.at_most(f"p99, {load.name}", p99, _MOST_P99, "×", times),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
