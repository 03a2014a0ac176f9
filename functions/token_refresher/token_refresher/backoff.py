"""How long a grant or a connection is not requested after Enable refused it: pure functions.

The intervals double from 55 seconds to 15 minutes. They shrink towards the end of the stored
token, and never end before the time that a `Retry-After` requests.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Self

FIRST_BACKOFF: Final = timedelta(seconds=55)
"""Just under the default schedule's minute, so that the next run makes the second attempt."""

LONGEST_BACKOFF: Final = timedelta(minutes=15)
"""The cap, whatever the number of failures and whatever a `Retry-After` requests."""

FINAL_RETRY_WINDOW: Final = timedelta(minutes=2)
"""Before a stored token expires: another grant's refusal does not stop its own attempts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Why and until when no attempt is made.

    Attributes:
        reason: the refusal's fixed word, such as `invalid_scope`.
        failures: how many in a row.
        until: no attempt before then; aware UTC.
        key: of what was refused (secret version, endpoint and scope); another key ends the
            backoff. Empty for a wait that Enable requested, which no change shortens.
    """

    reason: str
    failures: int
    until: datetime
    key: str

    def covers(self, now: datetime, key: str) -> bool:
        """Whether to wait: never longer than the longest backoff, also if a clock was fast."""
        return now < self.until <= now + LONGEST_BACKOFF and self.key in {"", key}

    def at_least(self, retry_after: timedelta | None, now: datetime) -> Self:
        """A copy that does not end before a `Retry-After`, cut to the longest backoff."""
        earliest = now + min(retry_after or timedelta(), LONGEST_BACKOFF)
        return replace(self, until=max(self.until, earliest))


def after_refusal(
    previous: Backoff | None,
    *,
    reason: str,
    now: datetime,
    key: str,
    expires_at: datetime | None,
) -> Backoff:
    """The backoff after a refusal: twice the one before, up to the longest.

    Args:
        previous: the one before; only one of the same key counts.
        reason: the refusal's fixed word.
        now: aware UTC.
        key: of what was refused.
        expires_at: of the stored token: at most half of its time left is waited.
    """
    is_repeated = previous is not None and previous.key == key
    failures = previous.failures + 1 if previous and is_repeated else 1
    length = min(FIRST_BACKOFF * (1 << min(failures - 1, 10)), LONGEST_BACKOFF)
    if expires_at is not None and expires_at > now:
        length = min(length, max((expires_at - now) / 2, FIRST_BACKOFF))
    return Backoff(reason=reason, failures=failures, until=now + length, key=key)


def in_final_retry_window(*, reason: str, now: datetime, key: str, expires_at: datetime) -> Backoff:
    """The backoff of one grant that was refused in its final retry window.

    It is half of the time left, at least 2 seconds: a handful of attempts, however many runs
    start, the last one seconds before the token expires.
    """
    length = max((expires_at - now) / 2, timedelta(seconds=2))
    return Backoff(reason=reason, failures=0, until=now + length, key=key)


def as_requested(*, reason: str, now: datetime, retry_after: timedelta) -> Backoff:
    """The backoff that a `Retry-After` requests, cut to the longest."""
    until = now + min(retry_after, LONGEST_BACKOFF)
    return Backoff(reason=reason, failures=0, until=until, key="")
