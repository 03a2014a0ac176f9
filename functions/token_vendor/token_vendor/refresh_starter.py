"""Starts the refresh function when a request needs it: asynchronously, and seldom."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from token_vendor.moment import Moment

INTERVAL: Final = timedelta(seconds=10)
"""An environment starts no second run for the same reason sooner."""


class Invoker(Protocol):
    """How the refresh function is started."""

    def __call__(self, event: Mapping[str, object]) -> None:
        """Put an event into the function's asynchronous queue."""


@dataclass(slots=True, kw_only=True, eq=False)
class RefreshStarter:
    """Starts refresh runs on demand.

    Attributes:
        invoke: puts an event into the refresh function's queue.
        on_fault: called with the cause if a run could not be started; the schedule
            starts one later.
        now: the clock, aware UTC.
        monotonic: seconds of a clock that is never set.
    """

    invoke: Invoker
    on_fault: Callable[[Exception], None]
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    monotonic: Callable[[], float] = time.monotonic
    _started: dict[str, Moment] = field(default_factory=dict, init=False, repr=False)

    def renew_due(self) -> bool:
        """Request the renewal of all that is due; whether a run was started."""
        return self._start("", {})

    def renew_rejected(self, grant: str, fingerprint: str) -> bool:
        """Request a grant's renewal if its token is still the rejected one.

        Returns:
            Whether a run was started.
        """
        return self._start(grant, {"grants": [grant], "rejected": fingerprint})

    def _start(self, reason: str, event: Mapping[str, object]) -> bool:
        now = Moment(self.now(), self.monotonic())
        last = self._started.get(reason)
        if last and last.is_within(INTERVAL, now):
            return False
        self._started[reason] = now
        try:
            self.invoke(event)
        except Exception as error:
            self.on_fault(error)
            return False
        return True
