"""The Node client in a process of its own; a request and its response are one line of JSON each.

The other side, and what the lines contain: clients/node/test/matrix.js.
"""

import itertools
import json
import subprocess
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, Self

from tests.node_client import BUILT

_LOST_SECONDS = 60.0  # far longer than any call: the process has ended, or hangs


class NodeProcess:
    """A process of node for all sources; its requests may overlap."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._pending: dict[int, Future[dict[str, Any]]] = {}
        command = ["node", "test/matrix.js"]
        self._process = subprocess.Popen(
            command, cwd=BUILT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._reader = threading.Thread(target=self._read)

    def __enter__(self) -> Self:
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._reader.join()
        self._process.wait()

    def call(self, request: Mapping[str, Any]) -> str | None:
        """The token of a response; raises an error of the name that the response contains."""
        pending: Future[dict[str, Any]] = Future()
        with self._lock:
            number = next(self._numbers)
            self._pending[number] = pending
            self._process.stdin.write(json.dumps({"id": number, **request}) + "\n")
            self._process.stdin.flush()
        response = pending.result(_LOST_SECONDS)
        if name := response.get("error"):
            raise type(name, (Exception,), {})(response["message"])
        return response["token"]

    def _read(self) -> None:
        for line in self._process.stdout:
            response = json.loads(line)
            self._pending.pop(response["id"]).set_result(response)


class NodeSource:
    """A source of the Node client, called as one of the Python client is."""

    def __init__(self, node: NodeProcess, key: str, facts: Mapping[str, Any]) -> None:
        self._node = node
        self._key = key
        node.call({"key": key, "make": facts})

    def get(self) -> str:
        """The live token."""
        return self._node.call({"key": self._key})

    def replacement(self, token: str) -> str | None:
        """The token to use instead of one that was refused."""
        return self._node.call({"key": self._key, "refused": token})
