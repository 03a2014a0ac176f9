"""Time that neither a machine's sleep nor a hand on its clock makes shorter."""

import threading
import time
from collections.abc import Callable
from typing import Final

from enable_broker_client.forks import remade_in_child

_NOISE_SECONDS: Final = 0.1
"""Two clocks are never read at one moment, and some tick 64 times a second."""


class SteadyClock:
    """Seconds since some moment: never back, and never slower than either of two clocks.

    The monotonic clock stands still while a machine sleeps, or lies in a snapshot as a Lambda
    environment may; the wall clock can be wrong or be set. At each look the larger advance since
    the last one counts, so a clock that was set back does not hide a sleep that follows. A token
    can look older than it is, at the price of one early renewal, but never younger.
    """

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._monotonic = monotonic
        self._wall = wall
        self._offset = wall() - monotonic()
        self._lead = 0.0
        self._lock = threading.Lock()
        remade_in_child(self)

    def __call__(self) -> float:
        """The seconds."""
        with self._lock:
            monotonic = self._monotonic()
            offset = self._wall() - monotonic
            gained = offset - self._offset
            if abs(gained) > _NOISE_SECONDS:
                self._offset = offset
                self._lead += max(0.0, gained)
            return monotonic + self._lead

    def remake_in_child(self) -> None:
        """Make the lock again, which another thread of the parent may have had."""
        self._lock = threading.Lock()
