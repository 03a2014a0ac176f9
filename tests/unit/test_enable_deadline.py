"""Deadlines: what a thread's request uses is shut down in time, and nothing else is.

No socket is opened here; what a real one does at its deadline, the fault table shows.
"""

import http.client
import io
import socket
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest
from urllib3.connection import HTTPConnection

from tests.unit.fakes import seconds
from token_refresher.enable import deadline as module
from token_refresher.enable.deadline import PoolManager, deadline

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
class FakeConnection:
    sock: FakeSocket | None = field(default_factory=FakeSocket)


def use(connection: FakeConnection) -> None:
    """What a pool's connection does at the start of a request."""
    module._in_use.connection = connection


def test_socket_in_use_is_shut_down_at_the_deadline() -> None:
    connection = FakeConnection()
    with deadline(SOON) as passed:
        use(connection)
        assert connection.sock is not None
        assert connection.sock.was_shut.wait(timeout=10)
        assert passed.is_set()
    assert set(connection.sock.how) == {socket.SHUT_RDWR}


def test_sockets_that_come_after_the_deadline_are_shut_down_as_well() -> None:
    connection = FakeConnection(sock=None)
    with deadline(SOON) as passed:
        use(connection)
        assert passed.wait(timeout=10)
        for late in (FakeSocket(), FakeSocket(fault=OSError("not connected")), FakeSocket()):
            connection.sock = late
            assert late.was_shut.wait(timeout=10)


def test_socket_that_is_closed_already_is_no_trouble() -> None:
    connection = FakeConnection(FakeSocket(fault=OSError("not connected")))
    with deadline(SOON) as passed:
        use(connection)
        assert passed.wait(timeout=10)
        assert connection.sock is not None
        assert connection.sock.was_shut.wait(timeout=10)


@pytest.mark.parametrize("connection", [None, FakeConnection(sock=None)])
def test_deadline_before_there_is_a_socket_only_says_so(connection: FakeConnection | None) -> None:
    with deadline(SOON) as passed:
        if connection:
            use(connection)
        assert passed.wait(timeout=10)


def test_request_that_ends_in_time_is_left_alone() -> None:
    connection = FakeConnection()
    before = set(threading.enumerate())
    with deadline(LATE) as passed:
        use(connection)
    assert set(threading.enumerate()) <= before  # nobody is left who could shut it down
    assert not passed.is_set()
    assert connection.sock is not None
    assert connection.sock.how == []


def test_watcher_ends_with_the_block_even_if_the_request_fails() -> None:
    before = set(threading.enumerate())
    with pytest.raises(ValueError, match="broken"), deadline(LATE):
        raise ValueError("broken")
    assert set(threading.enumerate()) <= before


def test_connection_of_the_request_before_is_not_shut_down() -> None:
    before = FakeConnection()
    use(before)
    with deadline(SOON) as passed:
        assert passed.wait(timeout=10)
    assert before.sock is not None
    assert before.sock.how == []


def test_request_of_another_thread_is_left_alone() -> None:
    mine, other = FakeConnection(), FakeConnection()
    thread = threading.Thread(target=use, args=(other,))
    with deadline(SOON) as passed:
        use(mine)
        thread.start()
        thread.join()
        assert passed.wait(timeout=10)
        assert mine.sock is not None
        assert mine.sock.was_shut.wait(timeout=10)
    assert other.sock is not None
    assert other.sock.how == []


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_connections_of_the_pool_are_known_while_in_use(
    monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(
        HTTPConnection, "request", lambda _self, *args, **options: asked.append((args, options))
    )
    connection: Any = PoolManager().connection_from_url(f"{scheme}://api.example/x")._new_conn()
    connection.request("POST", "/x", body=b"form")
    assert asked == [(("POST", "/x"), {"body": b"form"})]
    assert module._in_use.connection is connection


@dataclass
class AnsweringSocket:
    """Has answered already."""

    answer: bytes

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self.answer)


def answer_to(scheme: str, body: str) -> http.client.HTTPResponse:
    """An answer of one of the pool's connections that has begun."""
    connection: Any = PoolManager().connection_from_url(f"{scheme}://api.example/x")._new_conn()
    head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer: http.client.HTTPResponse = connection.response_class(
        AnsweringSocket(f"{head}{body}".encode())
    )
    answer.begin()
    return answer


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_chunks_are_read_as_they_are(scheme: str) -> None:
    assert answer_to(scheme, "5\r\nfirst\r\n7\r\n second\r\n0\r\n\r\n").read() == b"first second"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_chunk_of_a_negative_length_is_no_answer(scheme: str) -> None:
    with pytest.raises(http.client.IncompleteRead) as caught:
        answer_to(scheme, "-1\r\nwithout end").read()
    assert caught.value.partial == b""


def test_nothing_can_be_read() -> None:
    answer = answer_to("http", "left alone")
    assert answer._safe_read(0) == b""  # type: ignore[attr-defined]  # no part of its interface
    assert answer._safe_read(4) == b"left"  # type: ignore[attr-defined]
