"""What a forked child takes over, and what it must not. No socket is opened here."""

import os
import signal
import threading
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import botocore.session
import pytest
from botocore.credentials import RefreshableCredentials

from enable_broker_client import TokenSource
from enable_broker_client.origins import Audience
from tests.unit.client.test_source import LIFETIME, URL, Broker, Clock, callers, source_of

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


def in_child(do: Callable[[], str]) -> str:
    """What a function returns in a forked child, which is ended after 20 seconds."""
    read_end, write_end = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        pid = os.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(20)
            os.write(write_end, do().encode())
        except BaseException as error:
            os.write(write_end, repr(error).encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, encoding="utf-8") as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return text or "the child hung"


def test_child_that_is_forked_during_a_request_gets_a_token_of_its_own():
    clock = Clock()
    broker = Broker(clock)
    source = source_of(broker, clock)
    requested, responds = threading.Event(), threading.Event()

    def wait() -> None:
        requested.set()
        assert responds.wait(timeout=30)

    def child() -> str:
        broker.on_request = lambda: None
        token = source.get()
        source.reject(token)
        broker.renew()
        return f"{token} {source.get()}"

    broker.on_request = wait
    with callers(1) as pool:
        call = pool.submit(source.get)
        assert requested.wait(timeout=10)
        try:
            assert in_child(child) == "token-1 token-2"
        finally:
            responds.set()
        assert call.result(timeout=10) == "token-1"


def test_child_uses_the_live_token_and_locks_that_nobody_has():
    clock = Clock()
    broker = Broker(clock)
    source, audience = source_of(broker, clock), Audience("https://enable.example")
    steady = TokenSource(URL, "deals", transport=broker)._clock
    assert source.get() == "token-1"

    def child() -> str:
        clock.now += LIFETIME - 30
        audience.is_refusal("GET", "https://enable.example/v1", 401)
        return f"{source.get()} {steady() > 0}"

    with source._lock, audience._lock, steady._lock:
        assert in_child(child) == "token-1 True"


def test_child_does_not_wait_for_credentials_that_the_parent_was_renewing():
    session = botocore.session.Session()
    session._credentials = RefreshableCredentials(
        "AKIDEXAMPLE",
        "a-key",
        "a-token",
        expiry_time=datetime.now(UTC) - timedelta(hours=1),
        refresh_using=lambda: {
            "access_key": "AKIDNEW",
            "secret_key": "a-key",
            "token": "a-token",
            "expiry_time": (datetime.now(UTC) + timedelta(hours=1)).isoformat(),
        },
        method="test",
    )
    clock = Clock()
    broker = Broker(clock)
    source = TokenSource(
        URL, "deals", session=session, transport=broker, clock=clock, sleep=clock.sleep
    )
    with session._credentials._refresh_lock:
        assert in_child(source.get) == "token-1"
