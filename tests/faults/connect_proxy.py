"""A real CONNECT proxy, proxy.py, to which every host is this machine."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from local.broker_stack import ROOT

HOST: Final = "enable.invalid"
"""Enable's host, which only the proxy resolves."""

PASSWORD: Final = "pa55word-of-the-proxy"
LOGIN: Final = f"broker:{PASSWORD}"


@dataclass
class Proxy:
    """A running proxy.py.

    Attributes:
        address: its host and port.
        connects: the file with a line for each CONNECT that it took, `host:port`.
    """

    process: subprocess.Popen[bytes]
    connects: Path
    address: str = ""

    @property
    def url(self) -> str:
        """As `HTTPS_PROXY` names it, with its login."""
        return f"http://{LOGIN}@{self.address}"

    def connected(self) -> list[str]:
        """Where it was to connect to, oldest first."""
        return self.connects.read_text().splitlines() if self.connects.exists() else []

    def end(self) -> None:
        """Kill it and its workers, which are a process group of their own; may be called twice.

        Once it has been waited for, its number may be that of another process group.
        """
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@contextmanager
def connect_proxy(folder: Path) -> Iterator[Proxy]:
    """Start a proxy that wants a login, and end it; its files are in `folder`."""
    file = folder / "port"
    options = {
        "--hostname": "127.0.0.1",
        "--port": "0",
        "--port-file": str(file),
        "--num-acceptors": "1",
        "--num-workers": "1",
        "--basic-auth": LOGIN,
        "--plugins": "tests.faults.proxy_plugin.EveryHostIsHere",
        "--data-dir": str(folder),
        "--log-level": "ERROR",
    }
    command = [sys.executable, "-m", "proxy", *(text for pair in options.items() for text in pair)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, **quiet)
    proxy = Proxy(process, folder / "connects")
    try:
        while not (file.exists() and (port := file.read_text().strip())):
            assert process.poll() is None
            time.sleep(0.02)
        proxy.address = f"127.0.0.1:{port}"
        yield proxy
    finally:
        proxy.end()
