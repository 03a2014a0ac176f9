"""Beginning attempts in turn, so that no grant waits for another one's response for long."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from datetime import timedelta
from typing import Final

from token_refresher.dependencies import Dependencies

HEAD_START: Final = timedelta(seconds=2)
"""How long an attempt keeps those after it waiting; then they begin beside it."""


def begin_in_turn[Item, Result](
    items: Sequence[Item],
    attempt: Callable[[Item], Result],
    *,
    may_begin: Callable[[list[tuple[Item, Result]]], bool],
    dependencies: Dependencies,
) -> list[tuple[Item, Result]]:
    """Make one attempt for each item, in their order, `parallelism` at a time.

    The first attempt is a probe: the second one waits for its result. Each attempt keeps its
    place for its head start at most, so that one that hangs delays the others by that.

    Args:
        items: most urgent first.
        attempt: runs in a thread; it raises nothing.
        may_begin: is called with the results so far; if it returns False, nothing begins any more.
        dependencies: threads, and how many requests at a time.

    Returns:
        The items that began, in order, each with its result.
    """
    begun: list[tuple[Item, float, Future[Result]]] = []

    def wait_for_place() -> None:
        _, began_at, future = begun[max(len(begun) - dependencies.parallelism, 0)]
        left = began_at + HEAD_START.total_seconds() - dependencies.monotonic()
        with suppress(TimeoutError):
            future.result(max(left, 0))

    with dependencies.threads(len(items)) as threads:
        for item in items:
            if begun:
                wait_for_place()
            if not may_begin([(one, done.result()) for one, _, done in begun if done.done()]):
                break
            begun.append((item, dependencies.monotonic(), threads.submit(attempt, item)))
        return [(one, future.result()) for one, _, future in begun]
