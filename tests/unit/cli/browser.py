"""A headless Chromium, driven by its DevTools protocol through a pipe: no port, no other library.

Chrome DevTools Protocol, "remote-debugging-pipe": messages are JSON, each ended by a zero byte,
read from descriptor 3 and written to descriptor 4.
"""

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import batched, count
from pathlib import Path
from typing import Any, Final

type Json = dict[str, Any]

NAMES: Final = ("chromium", "google-chrome", "chromium-browser")
FLAGS: Final = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-breakpad", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-zygote"),
    *("--disable-extensions", "--remote-debugging-pipe"),
    *("--no-startup-window", "--disable-features=SpareRendererForSitePerProcess"),
)
ROWS: Final = 48
"""Of a picture: the title is there, and this module decodes slowly."""

PATIENCE_SECONDS: Final = 120
"""For one response: ends a test whose browser hangs, and judges none that is slow."""


def executable() -> str | None:
    """The browser's path; None where none is installed."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a browser made of a page.

    Attributes:
        text: as a reader sees it.
        tags: the name of every element, in the order of the document.
        attributes: the names of all attributes.
        content_width: in pixels; more than `width` if a reader must scroll sideways.
        width: of the window, in pixels.
        requests: the URL of each thing that was loaded.
        acts: dialogs that opened, and what the page's policy forbade.
        picture: of the window's first ROWS rows, a PNG.
    """

    text: str
    tags: list[str]
    attributes: set[str]
    content_width: int
    width: int
    requests: list[str]
    acts: list[str]
    picture: bytes


class Browser:
    """One browser with one tab."""

    def __init__(self, commands: int, responses: int) -> None:
        self._commands, self._responses = commands, responses
        self._numbers, self._buffer = count(1), b""
        self._events: list[Json] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Log"):
            self._call(f"{domain}.enable")

    def show(self, page: Path, *, width: int, scheme: str, height: int = 900) -> Shown:
        """Load a page; `scheme` is the reader's colours, `light` or `dark`."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        colours = [{"name": "prefers-color-scheme", "value": scheme}]
        self._call("Emulation.setEmulatedMedia", features=colours)
        self._events.clear()
        self._call("Page.navigate", url=page.as_uri())
        while not self._seen("Page.loadEventFired"):
            self._read()
        facts = self._evaluate(
            "({text: document.body.innerText, content_width: document.documentElement.scrollWidth,"
            " tags: [...document.querySelectorAll('*')].map(e => e.localName),"
            " attributes: [...document.querySelectorAll('*')].flatMap(e => e.getAttributeNames())})"
        )
        facts["attributes"] = set(facts["attributes"])
        clip = {"x": 0, "y": 0, "width": width, "height": min(height, ROWS), "scale": 1}
        picture = base64.b64decode(self._call("Page.captureScreenshot", clip=clip)["data"])
        requests = [e["request"]["url"] for e in self._seen("Network.requestWillBeSent")]
        dialogs = [e["message"] for e in self._seen("Page.javascriptDialogOpening")]
        forbidden = [e["entry"]["text"] for e in self._seen("Log.entryAdded")]
        acts = dialogs + forbidden
        return Shown(width=width, requests=requests, acts=acts, picture=picture, **facts)

    def _seen(self, method: str) -> list[Json]:
        return [event["params"] for event in self._events if event["method"] == method]

    def _evaluate(self, expression: str) -> Json:
        result = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        value: Json = result["result"]["value"]
        return value

    def _call(self, method: str, **params: object) -> Json:
        number = next(self._numbers)
        message: Json = {"id": number, "method": method, "params": params}
        if session := getattr(self, "_session", ""):
            message["sessionId"] = session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            response = self._read()
            if response.get("id") == number:
                assert "error" not in response, response
                result: Json = response["result"]
                return result

    def _read(self) -> Json:
        """The next message; a dialog that opens is closed, because it stops the page."""
        while b"\0" not in self._buffer:
            readable, _, _ = select.select([self._responses], [], [], PATIENCE_SECONDS)
            part = os.read(self._responses, 1 << 20) if readable else b""
            assert part, "the browser ended or hangs"
            self._buffer += part
        text, _, self._buffer = self._buffer.partition(b"\0")
        message: Json = json.loads(text)
        if "method" in message:
            self._events.append(message)
        if message.get("method") == "Page.javascriptDialogOpening":
            close: Json = {"id": 0, "method": "Page.handleJavaScriptDialog"}
            close |= {"params": {"accept": True}, "sessionId": self._session}
            os.write(self._commands, json.dumps(close).encode() + b"\0")
        return message


@contextlib.contextmanager
def running(program: str, folder: Path) -> Iterator[Browser]:
    """A browser that writes into an empty folder alone.

    Its processes are one group and are killed with the block; but for its two crash handlers, which
    have left the group and end when it has.
    """
    (from_us, commands), (responses, to_us) = os.pipe(), os.pipe()
    # Above 9, so that making one of them 3 or 4 overwrites neither.
    theirs = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10) for descriptor in (from_us, to_us)]
    process = os.posix_spawn(
        program,
        [program, f"--user-data-dir={folder}/profile", *FLAGS],
        os.environ | {"HOME": str(folder), "TMPDIR": str(folder)},
        file_actions=[
            *((os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3)),
            *((os.POSIX_SPAWN_DUP2, theirs[number], 3 + number) for number in range(2)),
        ],
        setpgroup=0,
    )
    for descriptor in (from_us, to_us, *theirs):
        os.close(descriptor)
    try:
        yield Browser(commands, responses)
    finally:
        os.killpg(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(commands)
        os.close(responses)


def colours(png: bytes) -> Counter[tuple[int, int, int]]:
    """How many pixels have each colour (PNG specification, sections 5, 7 and 9)."""
    width, height, depth, colour = struct.unpack(">IIBB", png[16:26])
    assert (depth, colour) in {(8, 2), (8, 6)}
    size = 3 if colour == 2 else 4
    data, at = b"", 8
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        data += png[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
        at += length + 12
    found, row, plain = Counter[tuple[int, int, int]](), bytes(size * width), zlib.decompress(data)
    for filtered in batched(plain, 1 + size * width, strict=True):
        row = _unfiltered(filtered[0], bytes(filtered[1:]), row, size)
        found.update(zip(row[::size], row[1::size], row[2::size], strict=True))
    assert found.total() == width * height
    return found


def _unfiltered(kind: int, row: bytes, above: bytes, size: int) -> bytes:
    if kind == 0:
        return row
    done = bytearray(size) + row
    for n, up in enumerate(above):
        left, corner = done[n], above[n - size] if n >= size else 0
        guess = (0, left, up, (left + up) // 2, _paeth(left, up, corner))[kind]
        done[n + size] = (row[n] + guess) & 0xFF
    return bytes(done[size:])


def _paeth(left: int, up: int, corner: int) -> int:
    guess = left + up - corner
    return min((left, up, corner), key=lambda value: abs(guess - value))
