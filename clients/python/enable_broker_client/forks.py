"""What a forked process must not take over: locks that a thread of the parent had, and the like.

Only the thread that forks lives on in the child. A lock that another thread had is never released
there, and work that it did is never finished.
"""

import os
import weakref
from typing import Protocol


class Remakable(Protocol):
    """Something with locks, threads or connections."""

    def remake_in_child(self) -> None:
        """Make them again; called in a child, before anything else runs there."""


_known: "weakref.WeakSet[Remakable]" = weakref.WeakSet()


def remade_in_child(thing: Remakable) -> None:
    """Have `thing.remake_in_child()` called in each child that is forked while it exists."""
    _known.add(thing)


def _remake() -> None:
    for thing in list(_known):
        thing.remake_in_child()


if hasattr(os, "register_at_fork"):  # no such thing on Windows
    os.register_at_fork(after_in_child=_remake)
