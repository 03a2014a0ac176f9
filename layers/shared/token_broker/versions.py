"""Compare after write: Parameter Store has no conditional write, but it numbers its versions.

If a write's version is the next one after the version that was read before, nobody else wrote.
Otherwise the versions between the two tell what others wrote.
"""

from collections.abc import Callable
from typing import Final

_MOST: Final = 10
"""Versions that are looked at; each costs a read."""


def written_between[Value](
    read: Callable[[int], Value], *, seen: int | None, written: int
) -> list[Value]:
    """What others wrote to a parameter between a read and this write, oldest first.

    Args:
        read: returns the value of a version.
        seen: the version that was read; 0 if there was no parameter, None if it is unknown:
            then only the version before the write is looked at.
        written: the version of the write.
    """
    first = written - 1 if seen is None else seen + 1
    if first > written:  # deleted in the meantime and created again
        first = 1
    return [read(version) for version in range(max(first, written - _MOST, 1), written)]
