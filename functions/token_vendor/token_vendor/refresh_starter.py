"""Starts the refresh function when a caller finds that it is needed: asynchronously, and seldom."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

INTERVAL: Final = timedelta(seconds=10)
"""An environment starts no second run for the same reason sooner."""


class Invoker(Protocol):
    """How the refresh function is started."""

    def __call__(self, event: Mapping[str, object]) -> None:
        """Hand an event to the function's asynchronous queue."""


@dataclass(slots=True, kw_only=True)
class RefreshStarter:
    """Starts refresh runs on demand.

    Attributes:
        invoke: hands an event to the refresh function's queue.
        on_fault: told of a run that could not be started; the schedule will be along.
        now: the clock, aware UTC.
    """

    invoke: Invoker
    on_fault: Callable[[Exception], None]
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    _started: dict[str, datetime] = field(default_factory=dict, init=False, repr=False)

    def renew_due(self) -> bool:
        """Have everything renewed that is due; whether a run was started."""
        return self._start("", {})

    def renew_rejected(self, grant: str, fingerprint: str) -> bool:
        """Have a grant renewed if its token is still the rejected one; whether a run began."""
        return self._start(grant, {"grants": [grant], "rejected": fingerprint})

    def _start(self, reason: str, event: Mapping[str, object]) -> bool:
        now = self.now()
        if now - self._started.get(reason, datetime.min.replace(tzinfo=UTC)) < INTERVAL:
            return False
        self._started[reason] = now
        try:
            self.invoke(event)
        except Exception as error:
            self.on_fault(error)
            return False
        return True
