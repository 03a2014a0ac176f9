"""What is seen from outside of the functions: the stored tokens, and the runs in the log."""

import json
import re
import threading
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from local.broker_stack import STACK_NAME
from tests.soak.record import Entry, fingerprint, now
from tests.soak.world import GRANTS, World

STORE_SECONDS: Final = 0.25
LOG_SECONDS: Final = 1.0
SLOW_SECONDS: Final = 1.0
"""A look at the store that takes longer shows that this machine keeps the embedded AWS from
answering: the functions, who wait 2 seconds for it, then meet a fault that nobody injected."""

ONCE: Final = Config(connect_timeout=2, read_timeout=10, retries={"total_max_attempts": 1})
_REPORT: Final = re.compile(r"REPORT RequestId: \S+\s+Duration: (\d+) ms")


class Watch:
    """Looks at the store and at the refresher's log again and again, until it is stopped."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._stop = threading.Event()
        self._ssm = world.administrator.client("ssm", config=ONCE)
        self._logs = world.administrator.client("logs", config=ONCE)
        self._last: dict[str, Entry] = {}
        self._seen_streams: set[str] = set()
        self._log_from = 0
        self._threads = [
            threading.Thread(target=self._repeat, args=(look, seconds), name=look.__name__)
            for look, seconds in (
                (self._look_at_store, STORE_SECONDS),
                (self._look_at_log, LOG_SECONDS),
            )
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Look a last time."""
        self._stop.set()
        for thread in self._threads:
            if thread.ident:
                thread.join()

    def _repeat(self, look: Any, seconds: float) -> None:
        is_last = False
        while not is_last:
            is_last, begin = self._stop.wait(seconds), now()
            try:
                look()
            except (BotoCoreError, ClientError, HTTPError) as error:
                kind = type(error).__name__
                self._world.record.add("slow", at=begin, until=now(), error=kind)

    # The store

    def _look_at_store(self) -> None:
        begin = now()
        self._see()
        if now() - begin > SLOW_SECONDS:
            self._world.record.add("slow", at=begin, until=now())

    def _see(self) -> None:
        for proxy in (self._world.refresher_proxy, self._world.vendor_proxy):
            proxy.wait_until_healthy()
        names = {self._world.parameter(grant): grant for grant in GRANTS}
        found = self._ssm.get_parameters(Names=list(names), WithDecryption=True)["Parameters"]
        seen = now()
        parameters = {names[parameter["Name"]]: parameter for parameter in found}
        for grant in GRANTS:
            for entry in self._entries(grant, parameters.get(grant)):
                self._world.record.add("stored", grant=grant, seen=seen, **entry)

    def _entries(self, grant: str, parameter: Any | None) -> Iterator[Entry]:
        last = self._last.get(grant)
        entry = _what_is_stored(parameter)
        if last and (last["version"], last["at"]) == (entry["version"], entry["at"]):
            return
        since = last["version"] if last and last["version"] < entry["version"] else 0
        for version in range(since + 1, entry["version"] if last else 0):
            name = f"{self._world.parameter(grant)}:{version}"
            try:
                missed = self._ssm.get_parameter(Name=name, WithDecryption=True)["Parameter"]
            except ClientError:  # deleted meanwhile, and another lineage begun
                continue
            yield _what_is_stored(missed)
        self._last[grant] = entry
        yield entry

    # The log

    def _look_at_log(self) -> None:
        pages = self._logs.get_paginator("filter_log_events")
        group = f"/enable-token-broker/{STACK_NAME}/token-refresher"
        streams: dict[str, list[Any]] = {}
        for page in pages.paginate(logGroupName=group, startTime=self._log_from):
            for event in page["events"]:
                if event["logStreamName"] not in self._seen_streams:
                    streams.setdefault(event["logStreamName"], []).append(event)
        for stream, events in streams.items():
            self._seen_streams.add(stream)
            self._log_from = max(self._log_from, events[-1]["timestamp"])
            self._world.record.add("run", **_run(events))


def _what_is_stored(parameter: Any | None) -> Entry:
    """A stored token without the token; `other` for what is none, `missing` for nothing."""
    entry: Entry = {"state": "missing", "version": 0, "at": None}
    if parameter is None:
        return entry
    entry |= {
        "state": "other",
        "version": parameter["Version"],
        "at": parameter["LastModifiedDate"].timestamp(),
    }
    try:
        value = json.loads(parameter["Value"])
        return entry | {
            "state": "token",
            "fingerprint": fingerprint(value["access_token"]),
            "scope": " ".join(sorted(value["scope"].split())),
            "issued_at": _seconds(value["issued_at"]),
            "expires_at": _seconds(value["expires_at"]),
        }
    except (ValueError, TypeError, KeyError, AttributeError):
        return entry


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _run(events: list[Any]) -> Entry:
    """One invocation: all its lines bear the moment that it ended, the report how long it took."""
    end = events[0]["timestamp"] / 1000
    duration, grants = 0.0, {}
    for event in events:
        message = event["message"]
        if report := _REPORT.match(message):
            duration = int(report[1]) / 1000
        elif message.startswith("{"):
            output = json.loads(message)
            for grant, (state, *_) in output.get("grants", {}).items():
                grants[grant] = state
    return {"begin": end - duration, "end": end, "grants": grants}
