"""Deadlines: the socket of the exchange is shut down in time, and nothing else is.

No socket is opened here; what a real one does at its deadline, the fault table shows.
"""

import socket
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.unit.fakes import seconds
from token_refresher.enable.deadline import Deadline

SOON = seconds(0.02)
LATE = seconds(30)


@dataclass
class FakeSocket:
    """Keeps how it was shut down; `fault` is raised by it."""

    fault: OSError | None = None
    how: list[int] = field(default_factory=list)
    was_shut: threading.Event = field(default_factory=threading.Event)

    def shutdown(self, how: int) -> None:
        self.how.append(how)
        self.was_shut.set()
        if self.fault:
            raise self.fault


@dataclass
class Wrapper:
    """TLS within TLS: urllib3 gives it no `shutdown`."""

    socket: FakeSocket


@dataclass
class FakeConnection:
    sock: Any = field(default_factory=FakeSocket)


def watch(deadline: Deadline, connection: FakeConnection) -> None:
    deadline.watch(connection)  # type: ignore[arg-type]


def test_socket_in_use_is_shut_down_at_the_deadline() -> None:
    connection = FakeConnection()
    with Deadline(SOON) as deadline:
        watch(deadline, connection)
        assert connection.sock.was_shut.wait(timeout=10)
        assert deadline.passed.is_set()
    assert set(connection.sock.how) == {socket.SHUT_RDWR}


def test_socket_within_a_wrapper_is_shut_down() -> None:
    inner = FakeSocket()
    with Deadline(SOON) as deadline:
        watch(deadline, FakeConnection(Wrapper(inner)))
        assert inner.was_shut.wait(timeout=10)


def test_sockets_that_open_after_the_deadline_are_shut_down_as_well() -> None:
    connection = FakeConnection(sock=None)
    with Deadline(SOON) as deadline:
        watch(deadline, connection)
        assert deadline.passed.wait(timeout=10)
        for late in (FakeSocket(), FakeSocket(fault=OSError("not connected")), FakeSocket()):
            connection.sock = late
            assert late.was_shut.wait(timeout=10)


def watchers() -> set[threading.Thread]:
    """Threads of deadlines; other tests' servers may begin and end threads of their own."""
    return {thread for thread in threading.enumerate() if thread.name.endswith("(_watch)")}


@pytest.mark.parametrize("connection", [None, FakeConnection(sock=None)])
def test_deadline_before_there_is_a_socket_is_only_noted(
    connection: FakeConnection | None,
) -> None:
    with Deadline(SOON) as deadline:
        if connection:
            watch(deadline, connection)
        assert deadline.passed.wait(timeout=10)


def test_exchange_that_ends_in_time_is_left_alone() -> None:
    connection = FakeConnection()
    before = watchers()
    with Deadline(LATE) as deadline:
        watch(deadline, connection)
        assert len(watchers() - before) == 1
    assert watchers() <= before  # nobody is left who could shut it down
    assert not deadline.passed.is_set()
    assert connection.sock.how == []


def test_watcher_ends_with_the_block_even_if_the_exchange_fails() -> None:
    before = watchers()
    with pytest.raises(ValueError, match="broken"), Deadline(LATE):
        raise ValueError("broken")
    assert watchers() <= before


def test_deadlines_of_two_exchanges_are_apart() -> None:
    mine, other = FakeConnection(), FakeConnection()
    with Deadline(LATE) as late, Deadline(SOON) as soon:
        watch(late, other)
        watch(soon, mine)
        assert mine.sock.was_shut.wait(timeout=10)
    assert other.sock.how == []
