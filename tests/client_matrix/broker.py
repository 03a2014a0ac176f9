"""A token API on loopback for all cells at once; each is healthy, slow or down as its case says.

A token is `GRANT.NUMBER.ISSUED`, the last in milliseconds of the clock that the processes of a
machine share, so that each process sees what it is for and how old it is. To that clock each
request adds, as the header `X-Slept`, the seconds that its case has the machine sleep.
"""

import hashlib
import json
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, unquote, urlsplit

from tests.client_matrix.cases import CONDITIONS, LIFETIME
from tests.servers import LoopbackServer


class Cell:
    """One cell's broker; it starts at the first request."""

    def __init__(self, condition: str) -> None:
        self.phases = CONDITIONS[condition].times("broker")
        self.started_at = time.monotonic()
        self.lock = threading.Lock()
        self.tokens: dict[str, tuple[str, float]] = {}
        self.numbers: defaultdict[str, int] = defaultdict(int)

    def phase(self) -> str:
        """What the broker is like now."""
        after = time.monotonic() - self.started_at
        return [("healthy"), *(phase for at, phase in self.phases if at <= after)][-1]

    def vend(self, grant: str, other_than: str, slept: float) -> tuple[str, int]:
        """The current token and its whole seconds; a new one in the second half of its life."""
        with self.lock:
            now = time.monotonic() + slept
            token, ends_at = self.tokens.get(grant, ("", 0.0))
            if ends_at - now < LIFETIME / 2 or other_than == _fingerprint(token):
                self.numbers[grant] += 1
                token, ends_at = f"{grant}.{self.numbers[grant]}.{int(now * 1000)}", now + LIFETIME
                self.tokens[grant] = token, ends_at
            return token, max(0, int(ends_at - now))


class Handler(BaseHTTPRequestHandler):
    """`/CELL/v1/tokens/GRANT` and its `/rejection`."""

    server: "Broker"

    def do_GET(self) -> None:
        """Vend, in the way of the hour."""
        parts = urlsplit(self.path)
        _, name, _, _, grant, *_ = parts.path.split("/")
        cell = self.server.cell(unquote(name))
        phase = cell.phase()
        if phase == "down":
            return
        if phase == "slow":
            time.sleep(0.5)
        other_than = parse_qs(parts.query).get("other_than", [""])[0]
        token, expires_in = cell.vend(grant, other_than, float(self.headers["X-Slept"]))
        body = {
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": expires_in,
            "expires_at": "2025-03-01T12:00:00Z",
            "scope": f"read:{grant}",
        }
        self._send(200, json.dumps(body).encode(), drips=phase == "drips")

    def do_POST(self) -> None:
        """Take a report; the next request brings a new token."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self._send(202, b'{"status": "renewing"}', drips=False)

    def _send(self, status: int, body: bytes, *, drips: bool) -> None:
        head = f"HTTP/1.1 {status} OK\r\nContent-Length: {len(body)}\r\nX-Long: ".encode()
        with suppress(OSError):
            self.wfile.write(b"HTTP/1.1 103 Early Hints\r\n\r\n" + head)
            while drips and not self.server.is_over.wait(0.05):
                self.wfile.write(b"x")
            self.wfile.write(b"x\r\n\r\n" + body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def _fingerprint(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()[:12]


class Broker(LoopbackServer):
    """The server of all cells."""

    def __init__(self) -> None:
        super().__init__(Handler)
        self.is_over = threading.Event()
        self._lock = threading.Lock()
        self._cells: dict[str, Cell] = {}

    def cell(self, name: str) -> Cell:
        """The cell of a name, `WAY|CONDITION|PROCESS`."""
        with self._lock:
            if name not in self._cells:
                self._cells[name] = Cell(name.split("|")[1])
            return self._cells[name]


@contextmanager
def serving() -> Iterator[Broker]:
    """A broker that serves within the block."""
    with Broker() as broker:
        thread = threading.Thread(target=broker.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield broker
        finally:
            broker.is_over.set()
            broker.shutdown()
            thread.join()
