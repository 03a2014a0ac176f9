"""What each call of a client gave and how long it took, against what the broker promises."""

import math
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.client_matrix.cases import BUDGET, HARD, LIFETIME, Condition

_TICK_SECONDS = 0.02

TOO_SLOW = "on a machine too slow to tell"
"""How a call without a token is counted during which the machine took a fifth of its budget."""


class Machine:
    """How much time the machine, not the client, takes: the lateness of a thread that sleeps."""

    def __init__(self) -> None:
        self.lost = 0.0
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self._tick, daemon=True)
        self.thread.start()

    def _tick(self) -> None:
        last = time.monotonic()
        while not self.is_over.is_set():
            time.sleep(_TICK_SECONDS)
            now = time.monotonic()
            self.lost += max(0.0, now - last - _TICK_SECONDS)
            last = now


@dataclass
class World:
    """The clocks of one process: real ones, and what the case does to them.

    A client that reads no clock between two events cannot tell them apart: on a slow machine the
    second one waits until the client has seen the first.

    Attributes:
        started_at: by the monotonic clock.
        seen: seconds after the start until which the client has seen the events.
    """

    condition: Condition
    started_at: float = field(default_factory=time.monotonic)
    seen: float = 0.0

    def wall(self) -> float:
        """The wall clock, as the client reads it."""
        after = self._after()
        shift = sum(seconds for _, seconds in self._past(("wall", "sleep"), after))
        self.seen = max(self.seen, after)
        return time.time() + shift

    def slept(self) -> float:
        """Seconds that the machine has slept."""
        return sum(seconds for _, seconds in self._past(("sleep",), self._after()))

    def _past(self, kinds: tuple[str, ...], after: float) -> list[tuple[float, float]]:
        events = (event for kind in kinds for event in self.condition.times(f"{kind}_seconds"))
        return [(at, seconds) for at, seconds in events if at <= after]

    def _after(self) -> float:
        """Seconds after the start, held before the second event that the client has not seen."""
        after = time.monotonic() - self.started_at
        times = (self.condition.times(f"{kind}_seconds") for kind in ("wall", "sleep"))
        unseen = sorted(at for events in times for at, _ in events if self.seen < at <= after)
        return math.nextafter(unseen[1], 0.0) if len(unseen) > 1 else after


@dataclass
class Judge:
    """Counts calls, and keeps what should not have been."""

    world: World
    machine: Machine
    counts: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    longest: float = 0.0
    created_at: float = field(default_factory=time.monotonic)

    @contextmanager
    def call(self, grant: str, budgets: int = 1) -> Iterator[list[str]]:
        """One call; the block appends the token that it got, or raises the client's error."""
        got: list[str] = []
        slept = self.world.slept()  # before the look at the clock: no sleep counts that is later
        began, lost = time.monotonic(), self.machine.lost
        try:
            yield got
        except Exception as error:
            self._fail(grant, error, self.machine.lost - lost)
        lost = self.machine.lost - lost
        took = time.monotonic() - began - lost
        self.longest = max(self.longest, took / budgets)
        if took > budgets * (BUDGET + 1) + lost:  # what it lost is measured in another thread
            self.violations.append(f"{grant}: a call took {took:.2f} s")
        for token in got:
            self.counts["tokens"] += 1
            self._check(grant, token, began + slept)

    def _fail(self, grant: str, error: Exception, lost: float) -> None:
        name = type(error).__name__
        self.counts[TOO_SLOW if name == "NoTokenInTime" and lost > BUDGET / 5 else name] += 1
        if name != "NoTokenInTime":
            self.violations.append(f"{grant}: {error!r}")

    def _check(self, grant: str, token: str, now: float) -> None:
        its_grant, _, issued = token.split(".")
        if its_grant != grant:
            self.violations.append(f"{grant}: got a token of {its_grant}")
        if (age := now - int(issued) / 1000) >= LIFETIME + 0.001:  # it is cut to milliseconds
            self.violations.append(f"{grant}: a token was {age - LIFETIME:.2f} s past its end")

    def result(self) -> dict[str, Any]:
        """What a process hands on to the one that started it."""
        is_late = self.created_at - self.world.started_at > 1.0
        is_excused = self.counts[TOO_SLOW] or (is_late and self.world.condition.name in HARD)
        if not self.counts["tokens"] and not is_excused:
            self.violations.append("a process got no token")
        return {
            "counts": dict(self.counts),
            "violations": self.violations[:5],
            "longest": self.longest,
        }


def merged(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The results of several processes as one."""
    counts: Counter[str] = Counter()
    for result in results:
        counts.update(result["counts"])
    return {
        "counts": dict(counts),
        "violations": [text for result in results for text in result["violations"]],
        "longest": max((result["longest"] for result in results), default=0.0),
    }
