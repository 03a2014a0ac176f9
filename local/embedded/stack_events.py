"""CloudFormation: no two events have one time."""

from datetime import UTC, datetime, timedelta
from typing import Final

from ministack.services.cloudformation import stacks

_MILLISECOND: Final = timedelta(milliseconds=1)


def have_distinct_times() -> None:
    """Give each event a later time than the one before it, in whole milliseconds.

    The SAM CLI reads on from the time of the newest event that it has shown: if the last event of a
    deployment has that very time, `sam deploy` waits for it forever.

    AWS CloudFormation API Reference, StackEvent: the time is in milliseconds, and an operation
    takes longer than one.
    """
    last = datetime.min.replace(tzinfo=UTC)

    def next_time() -> str:
        nonlocal last
        last = max(datetime.now(UTC), last + _MILLISECOND)
        return f"{last:%Y-%m-%dT%H:%M:%S}.{last.microsecond // 1000:03d}Z"

    stacks.now_iso = next_time
