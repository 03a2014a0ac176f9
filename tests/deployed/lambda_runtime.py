"""A built artifact under awslambdaric, as Lambda starts it: a loopback Runtime API and its logs.

Lambda's Runtime API: AWS Lambda Developer Guide, "Using the Lambda runtime API". The log file
descriptor and its frames are awslambdaric's FramedTelemetryLogSink.
"""

import json
import queue
import struct
import subprocess
import sysconfig
import threading
import time
import uuid
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.servers import LoopbackServer

START_SECONDS: Final = 60
_FRAME: Final = struct.Struct(">IIQ")
"""Kind, length in bytes and microseconds of a message in the runtime's own log."""


@dataclass(frozen=True, slots=True)
class Result:
    """What the runtime posted: `response`, `error` or `init error`, and its JSON."""

    kind: str
    body: dict


@dataclass(frozen=True, slots=True)
class Logs:
    """What one environment wrote.

    Attributes:
        output: lines of standard output.
        errors: standard error.
        runtime: messages that went through awslambdaric's own log sink.
    """

    output: list[str]
    errors: str
    runtime: list[str]


class _RuntimeApi(LoopbackServer):
    def __init__(self) -> None:
        super().__init__(_Handler)
        self.events: queue.Queue[tuple[bytes, int] | None] = queue.Queue()
        self.results: queue.Queue[Result] = queue.Queue()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _RuntimeApi

    def do_GET(self) -> None:
        """`/runtime/invocation/next`: waits for an event, as Lambda freezes the environment."""
        event = self.server.events.get()
        if event is None:
            self.close_connection = True
            return
        body, deadline_ms = event
        self.send_response(200)
        self.send_header("Lambda-Runtime-Aws-Request-Id", str(uuid.uuid4()))
        self.send_header("Lambda-Runtime-Deadline-Ms", str(deadline_ms))
        self.send_header("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:here")
        self.send_header("Content-Type", "application/json")
        self._end(body)

    def do_POST(self) -> None:
        """`/invocation/{id}/response`, `/invocation/{id}/error` and `/init/error`."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        kind = self.path.rsplit("/", 1)[1]
        self.server.results.put(Result("init error" if "/init/" in self.path else kind, body))
        self.send_response(202)
        self._end(b"{}")

    def _end(self, body: bytes) -> None:
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Print nothing."""


class Sandbox:
    """One Lambda environment: its process runs from entering until leaving.

    Args:
        python: an interpreter without packages.
        code: what Lambda puts on the path: the function's artifact, then its layers.
        handler: as the template names it.
        environ: as Lambda sets it.
        folder: where the logs go, an empty one.
    """

    def __init__(
        self, python: Path, code: list[Path], handler: str, environ: dict[str, str], folder: Path
    ) -> None:
        self._arguments = [str(python), "-B", "-m", "awslambdaric", handler]
        self._folder = folder
        self._path = ":".join(map(str, [_runtime_packages(folder / "runtime"), *code]))
        self._environ = environ
        self._api = _RuntimeApi()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._api.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        with (
            (self._folder / "output").open("wb") as output,
            (self._folder / "errors").open("wb") as errors,
            (self._folder / "frames").open("wb") as frames,
        ):
            self._process = subprocess.Popen(
                self._arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                pass_fds=[frames.fileno()],
                env=self._environ
                | {
                    "PYTHONPATH": self._path,
                    "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self._api.server_port}",
                    "_LAMBDA_TELEMETRY_LOG_FD": str(frames.fileno()),
                },
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
        self._api.events.put(None)
        self._api.shutdown()
        self._thread.join()
        self._api.server_close()

    def kill(self) -> None:
        """End the process as Lambda does at a time-out: at once."""
        self._process.kill()
        self._process.wait()

    def send(self, event: object, *, seconds: float = 60) -> None:
        """Give it an event that has so many seconds until its deadline."""
        deadline_ms = int((time.time() + seconds) * 1000)
        self._api.events.put((json.dumps(event).encode(), deadline_ms))

    def invoke(self, event: object, *, seconds: float = 60) -> Result:
        """Give it an event, and wait for what the function makes of it."""
        self.send(event, seconds=seconds)
        try:
            return self._api.results.get(timeout=START_SECONDS)
        except queue.Empty:
            raise AssertionError(f"no result: {self.logs()}") from None

    def logs(self) -> Logs:
        """What it has written until now."""
        frames, messages = (self._folder / "frames").read_bytes(), []
        while frames:
            _, length, _ = _FRAME.unpack_from(frames)
            messages.append(frames[_FRAME.size : _FRAME.size + length].decode())
            frames = frames[_FRAME.size + length :]
        output = (self._folder / "output").read_text(encoding="utf-8")
        errors = (self._folder / "errors").read_text(encoding="utf-8")
        return Logs(output.splitlines(), errors, messages)


def _runtime_packages(folder: Path) -> Path:
    """A folder with what Lambda's runtime brings, and nothing else of this .venv."""
    installed = Path(sysconfig.get_path("purelib"))
    folder.mkdir()
    for name in ("awslambdaric", "snapshot_restore_py", "simplejson"):
        (folder / name).symlink_to(installed / name)
    (client,) = installed.glob("runtime_client*.so")
    (folder / client.name).symlink_to(client)
    return folder
