"""What a soak leaves behind: one list of plain records, in which every token is a fingerprint.

Each record is a JSON object with `kind` and times in seconds since the epoch:

header         the seed, the schedule's interval, the grants' scopes, what each caller may have
request        a caller's request to the token API: caller, grant, method, at, until, status
use            a token that the client library handed out, and what Enable's API stated to it
token_request  a request to Enable's token endpoint: scope, at, until, status, fault or fingerprint
stored         what Parameter Store has for a grant since then: a token, nothing, something else
run            a refresh run that the platform's log shows: begin, end, grants it reported of
slow           a spell in which this machine kept the embedded AWS from answering in time
fault          an injected fault: name, what, begin, end
end            when observation ended
"""

import hashlib
import json
import threading
import time
from base64 import urlsafe_b64decode
from pathlib import Path
from typing import IO, Any

type Entry = dict[str, Any]


def fingerprint(token: str) -> str:
    """The first 12 hex digits of a token's SHA-256."""
    return hashlib.sha256(token.encode()).hexdigest()[:12]


def jwt_facts(token: str) -> Entry:
    """What a JWT says of itself (`exp`, `scope`), and its fingerprint; nothing else of it."""
    facts: Entry = {"fingerprint": fingerprint(token), "exp": None, "scope": ""}
    try:
        body = token.split(".")[1]
        claims = json.loads(urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return facts | {"exp": claims["exp"], "scope": claims["scope"]}
    except (IndexError, KeyError, TypeError, ValueError):
        return facts


class Record:
    """Keeps entries in memory, and in a file if there is to be one; safe from any thread.

    Args:
        file: where JSON lines go.
    """

    def __init__(self, file: IO[str] | None = None) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._is_closed = False
        self.entries: list[Entry] = []

    def add(self, kind: str, **facts: Any) -> Entry:
        """Add an entry."""
        entry = {"kind": kind, **facts}
        with self._lock:
            if not self._is_closed:
                self.entries.append(entry)
                if self._file:
                    self._file.write(json.dumps(entry) + "\n")
        return entry

    def close(self) -> None:
        """Keep nothing from now on."""
        with self._lock:
            self._is_closed = True

    def of(self, kind: str) -> list[Entry]:
        """All entries of a kind so far."""
        with self._lock:
            return [entry for entry in self.entries if entry["kind"] == kind]


def read(path: Path) -> list[Entry]:
    """The entries of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def now() -> float:
    """Seconds since the epoch: the one clock of the record."""
    return time.time()
