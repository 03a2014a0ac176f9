"""Threads that take turns, in a time that passes only while all of them wait.

A test in virtual time is deterministic and takes no real time: `sleep`, and a wait for a future,
end at their moment in the order of the moments.
"""

import heapq
import itertools
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from datetime import datetime, timedelta
from typing import Any, override


class _Task:
    """One thread; it runs only while it has the turn."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.turn = threading.Semaphore(0)
        self.wait = 0  # the number of its current wait, so that an older timer wakes nobody
        self.thread = threading.Thread(target=self._run, args=[work], daemon=True)

    def _run(self, work: Callable[[], None]) -> None:
        self.turn.acquire()
        work()


class VirtualTime:
    """The clock, and who has the turn.

    Args:
        start: aware UTC.
    """

    def __init__(self, start: datetime) -> None:
        self.time = start
        self._ready: deque[_Task] = deque()
        self._timers: list[tuple[datetime, int, _Task, int]] = []
        self._number = itertools.count()
        self._back = threading.Semaphore(0)
        self._current: _Task | None = None

    def __call__(self) -> datetime:
        return self.time

    def run[Result](self, work: Callable[[], Result]) -> Result:
        """Run a function in virtual time, until it and all that it started have ended."""
        future: Future[Result] = Future()
        self.start(lambda: _settle(future, work))
        while self._ready or self._timers:
            if not self._ready:
                self.time, _, task, wait = heapq.heappop(self._timers)
                if task.wait == wait:
                    self._wake(task)
                continue
            self._current = self._ready.popleft()
            self._current.turn.release()
            self._back.acquire()
        assert future.done(), "deadlock: every thread waits, and none for a moment"
        return future.result()

    def start(self, work: Callable[[], None]) -> None:
        """Start a thread; it gets its turn later."""

        def run() -> None:
            work()
            self._back.release()

        task = _Task(run)
        task.thread.start()
        self._ready.append(task)

    def sleep(self, seconds: float) -> None:
        """Wait; others have their turns, and time passes."""
        self._pass(self._now_running(), seconds)

    def wait_for(self, future: Future[Any], timeout: float | None) -> None:
        """Wait until a future has its result, or for so many seconds."""
        task = self._now_running()
        wait = task.wait

        def wake(_future: Future[Any]) -> None:
            if task.wait == wait:
                self._wake(task)

        future.add_done_callback(wake)
        self._pass(task, timeout)

    def executor(self, workers: int, **_options: object) -> "VirtualExecutor":
        """What takes the place of a ThreadPoolExecutor."""
        return VirtualExecutor(self, workers)

    def _now_running(self) -> _Task:
        assert self._current is not None
        return self._current

    def _pass(self, task: _Task, seconds: float | None) -> None:
        if seconds is not None:
            at = self.time + timedelta(seconds=seconds)
            heapq.heappush(self._timers, (at, next(self._number), task, task.wait))
        self._back.release()
        task.turn.acquire()

    def _wake(self, task: _Task) -> None:
        task.wait += 1
        self._ready.append(task)


class VirtualFuture(Future[Any]):
    """A future that is waited for in virtual time."""

    def __init__(self, time: VirtualTime) -> None:
        super().__init__()
        self._time = time

    def result(self, timeout: float | None = None) -> Any:
        if not self.done():
            self._time.wait_for(self, timeout)
        return super().result(0)


class VirtualExecutor(Executor):
    """Threads that take turns, so many at a time."""

    def __init__(self, time: VirtualTime, workers: int) -> None:
        self._time, self._free = time, workers
        self._queue: deque[tuple[VirtualFuture, Callable[[], Any]]] = deque()
        self._futures: list[VirtualFuture] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = VirtualFuture(self._time)
        self._futures.append(future)
        self._queue.append((future, lambda: fn(*args, **kwargs)))
        if self._free:
            self._free -= 1
            self._time.start(self._work)
        return future

    @override
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        assert wait
        assert not cancel_futures
        for future in self._futures:
            if not future.done():
                self._time.wait_for(future, None)

    def _work(self) -> None:
        while self._queue:
            future, work = self._queue.popleft()
            _settle(future, work)
        self._free += 1


def _settle(future: Future[Any], work: Callable[[], Any]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:
        future.set_exception(error)
