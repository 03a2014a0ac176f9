"""Which outcomes get a log line of their own: one that lasts is not written again in every run."""

from datetime import datetime, timedelta
from typing import Final

from token_refresher.outcomes import Outcome, State

WRITTEN_AGAIN_AFTER: Final = timedelta(minutes=30)
"""An outcome that lasts is written again, so that an hour of the log shows it."""


class Reported:
    """What this environment last wrote of each grant; a new environment writes it again."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[Outcome, datetime]] = {}

    def is_news(self, outcome: Outcome, now: datetime) -> bool:
        """Whether an outcome gets a line; if so, it counts as written.

        Renewed, refused and deferred grants always get one. One that waits, is blocked or could
        not be read does so if its last line was another.

        Args:
            outcome: of one grant.
            now: aware UTC.
        """
        if outcome.state is State.NOT_DUE:
            self._last.pop(outcome.grant, None)
            return False
        written, at = self._last.get(outcome.grant, (None, now))
        lasts = outcome == written and abs(now - at) < WRITTEN_AGAIN_AFTER
        if lasts and not outcome.attempts and outcome.state is not State.DEFERRED:
            return False
        self._last[outcome.grant] = outcome, now
        return True
