"""A small, always equal share of `make fuzz`."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz import inputs
from tests.fuzz.targets import TARGETS, Target, check_answer
from token_refresher.enable.http_client import HttpClient


def always_the_same(number: int) -> settings:
    return settings(
        derandomize=True,
        database=None,
        deadline=None,
        max_examples=number,
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_no_input_of_another_hand_breaks_the_law_of_its_target(target: Target) -> None:
    @always_the_same(25 if target.weight == 1 else 100)
    @given(target.inputs)
    def check(given_input: Any) -> None:
        target.check(given_input)

    check()


@contextmanager
def server() -> Iterator[tuple[str, Callable[[bytes], None]]]:
    """A server on loopback that returns each connection with the bytes it was last given."""
    response = [b""]

    def serve() -> None:
        with suppress(OSError):  # the listener is closed
            while True:
                connection, _ = listener.accept()
                with connection, suppress(OSError):
                    connection.settimeout(10)
                    connection.recv(65_536)
                    connection.sendall(response[0])
                    # What is not read when a socket closes resets it, the response included.
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65_536):
                        pass

    def give(data: bytes) -> None:
        response[0] = data

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/oauth2/token", give
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_law_of_the_token_endpoint_s_answers_holds_over_a_real_socket() -> None:
    http = HttpClient()
    with server() as (url, give):

        @always_the_same(60)
        @given(inputs.http_answers(inputs.token_answers | inputs.refusals))
        def check(data: bytes) -> None:
            give(data)
            check_answer(data, url, http)

        check()
