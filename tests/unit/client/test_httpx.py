import asyncio
from collections.abc import Iterator
from typing import Protocol

import pytest

httpx = pytest.importorskip("httpx")

from enable_broker_client.httpx import BrokerAuth  # noqa: E402  needs httpx
from tests.unit.client.test_requests import ORIGIN, Source  # noqa: E402

URL = "https://enable.example/v1/deals"


class Enable:
    """Takes one token, on its own host; any other host returns 401."""

    def __init__(self, accepted: str) -> None:
        self.accepted = accepted
        self.seen: list[tuple[str | None, bytes]] = []
        self.redirect_to: str | None = None

    def __call__(self, request: httpx.Request) -> httpx.Response:
        bearer = request.headers.get("Authorization")
        self.seen.append((bearer, request.read()))
        if self.redirect_to and str(request.url) == URL:
            return httpx.Response(302, headers={"Location": self.redirect_to})
        return httpx.Response(200 if bearer == f"Bearer {self.accepted}" else 401, json={})


class Send(Protocol):
    def __call__(
        self, source: Source, enable: Enable, method: str = "GET", url: str = URL, **options: object
    ) -> httpx.Response: ...


@pytest.fixture(params=["sync", "async"])
def send(request: pytest.FixtureRequest) -> Send:
    """One request by a client of either kind."""

    def by_client(
        source: Source, enable: Enable, method: str = "GET", url: str = URL, **options: object
    ) -> httpx.Response:
        transport = httpx.MockTransport(enable)
        with httpx.Client(
            auth=BrokerAuth(source, ORIGIN), transport=transport, follow_redirects=True
        ) as client:
            return client.request(method, url, **options)

    def by_async_client(
        source: Source, enable: Enable, method: str = "GET", url: str = URL, **options: object
    ) -> httpx.Response:
        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(
                auth=BrokerAuth(source, ORIGIN),
                transport=httpx.MockTransport(enable),
                follow_redirects=True,
            ) as client:
                return await client.request(method, url, **options)

        return asyncio.run(ask())

    return by_client if request.param == "sync" else by_async_client


def test_request_carries_the_token(send: Send):
    source, enable = Source("new"), Enable("new")
    assert send(source, enable).status_code == 200
    assert [bearer for bearer, _ in enable.seen] == ["Bearer new"]
    assert source.suspected == []


def test_token_that_enable_refuses_is_reported_and_replaced_once(send: Send):
    source, enable = Source("old", "new"), Enable("new")
    response = send(source, enable, "POST", json={"name": "tiles"})
    assert response.status_code == 200
    assert [earlier.status_code for earlier in response.history] == [401]
    assert enable.seen == [
        ("Bearer old", b'{"name":"tiles"}'),
        ("Bearer new", b'{"name":"tiles"}'),
    ]
    assert source.suspected == ["old"]


def test_second_refusal_is_the_callers(send: Send):
    source, enable = Source("old", "new", "newer"), Enable("other")
    assert send(source, enable).status_code == 401
    assert [bearer for bearer, _ in enable.seen] == ["Bearer old", "Bearer new"]
    assert source.suspected == ["old"]


def test_refusal_is_the_callers_when_there_is_no_replacement(send: Send):
    source, enable = Source("old"), Enable("new")
    assert send(source, enable).status_code == 401
    assert len(enable.seen) == 1


def test_stranger_that_enable_redirects_to_gets_no_token_even_if_it_returns_401(send: Send):
    source, enable = Source("old", "new"), Enable("old")
    enable.redirect_to = "https://stranger.example/"
    assert send(source, enable).status_code == 401
    assert [bearer for bearer, _ in enable.seen] == ["Bearer old", None]
    assert source.suspected == []


def test_request_that_is_sent_again_is_the_one_that_was_refused(send: Send):
    class SeeOther(Enable):
        def __call__(self, request: httpx.Request) -> httpx.Response:
            response = super().__call__(request)
            sent.append((request.method, request.url.path, self.seen[-1][0]))
            if request.method == "POST":
                return httpx.Response(303, headers={"Location": "/v1/result"})
            return response

    sent: list[tuple[str, str, str | None]] = []
    source, enable = Source("old", "new"), SeeOther("new")
    response = send(source, enable, "POST", json={"name": "tiles"})
    assert response.status_code == 200
    assert sent == [
        ("POST", "/v1/deals", "Bearer old"),
        ("GET", "/v1/result", "Bearer old"),
        ("GET", "/v1/result", "Bearer new"),
    ]


def test_redirected_body_in_memory_is_sent_again(send: Send):
    class Moved(Enable):
        def __call__(self, request: httpx.Request) -> httpx.Response:
            response = super().__call__(request)
            if request.url.path == "/v1/deals":
                return httpx.Response(307, headers={"Location": "/v1/moved"})
            return response

    source, enable = Source("old", "new"), Moved("new")
    assert send(source, enable, "POST", content=b"body").status_code == 200
    assert enable.seen == [
        ("Bearer old", b"body"),
        ("Bearer old", b"body"),
        ("Bearer new", b"body"),
    ]


@pytest.mark.parametrize("url", ["https://stranger.example/v1", "http://enable.example/v1/deals"])
def test_request_to_another_origin_is_sent_without_the_token_and_its_401_counts_for_nothing(
    send: Send, url: str
):
    source, enable = Source("live"), Enable("other")
    assert send(source, enable, url=url).status_code == 401
    assert [bearer for bearer, _ in enable.seen] == [None]
    assert source.suspected == []


def test_401_of_a_stranger_gets_no_replacement_without_an_origin():
    source, enable = Source("live", "new"), Enable("live")
    with httpx.Client(auth=BrokerAuth(source), transport=httpx.MockTransport(enable)) as client:
        assert client.get(URL).status_code == 200
        enable.accepted = "none"
        assert client.get("https://stranger.example/v1").status_code == 401
        assert source.suspected == []
        assert client.get(URL).status_code == 401
    assert source.suspected == ["live"]


def test_body_that_is_not_in_memory_is_not_sent_again_and_the_token_is_reported():
    def pieces() -> Iterator[bytes]:
        yield b"one"
        yield b"two"

    class Refusing(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            sent.append(b"".join(request.stream))
            return httpx.Response(401)

    sent: list[bytes] = []
    source = Source("old", "new")
    with httpx.Client(auth=BrokerAuth(source, ORIGIN), transport=Refusing()) as client:
        assert client.post(URL, content=pieces()).status_code == 401
    assert sent == [b"onetwo"]
    assert source.suspected == ["old"]
