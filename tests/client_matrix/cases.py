"""The cases as data, for this client and for clients in other languages: ways times conditions.

What an event does stands beside its seconds after the start: `broker` (`healthy`, `slow`: half a
second for each response; `drips`: a byte now and then, for ever; `down`), `wall_seconds` (a hand
sets the wall clock), `sleep_seconds` (the machine sleeps: the wall clock goes on, the monotonic
one does not), `enable` (what its API refuses). The way `node` needs the Node client.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests import node_client

_DATA: Final = json.loads(Path(__file__).with_name("cases.json").read_text(encoding="utf-8"))
BUDGET: Final[float] = _DATA["budget_seconds"]
LIFETIME: Final[float] = _DATA["lifetime_seconds"]
GRANTS: Final[tuple[str, ...]] = tuple(_DATA["grants"])
WAYS: Final[tuple[str, ...]] = tuple(
    way for way in _DATA["ways"] if way != "node" or node_client.is_built()
)


HARD: Final = {"broker slow", "broker down"}
"""Conditions under which calls may fail: a process that comes late may get no token at all."""


@dataclass(frozen=True)
class Condition:
    """What goes wrong in a cell, and when."""

    name: str
    events: Sequence[dict[str, Any]]

    def times(self, kind: str) -> list[tuple[float, Any]]:
        """The events of one kind, with their seconds after the start."""
        return [(event["at"], event[kind]) for event in self.events if kind in event]


CONDITIONS: Final = {
    condition["name"]: Condition(condition["name"], condition["events"])
    for condition in _DATA["conditions"]
}
