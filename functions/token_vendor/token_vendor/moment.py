"""A point in time by two clocks, because neither can be trusted alone to measure an age.

The wall clock is corrected: what was read while it was half an hour fast would count as
new for half an hour. The monotonic clock may stand still while Lambda freezes an
environment between two requests.
"""

from datetime import datetime, timedelta
from typing import NamedTuple

from token_broker.expiry import is_fresh


class Moment(NamedTuple):
    """A point in time.

    Attributes:
        wall: aware UTC.
        monotonic: seconds since a point that only this process knows.
    """

    wall: datetime
    monotonic: float

    def is_within(self, window: timedelta, now: "Moment") -> bool:
        """Whether it is less than `window` ago by both clocks, and in the future by neither."""
        elapsed = timedelta(seconds=now.monotonic - self.monotonic)
        return is_fresh(now.wall - self.wall, window) and is_fresh(elapsed, window)
