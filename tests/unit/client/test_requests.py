import io
from collections.abc import Generator, Iterator
from datetime import UTC, datetime

import pytest
import requests
from requests.adapters import BaseAdapter

from enable_broker_client import NoTokenInTime, Token
from enable_broker_client.requests import BrokerAuth
from tests.unit.client.test_source import Broker, Clock, settled, source_of

ORIGIN = "https://enable.example"
URL = f"{ORIGIN}/v1/deals"


class Source:
    """What an adapter uses of a `TokenSource`."""

    def __init__(self, *tokens: str) -> None:
        self.tokens = list(tokens)
        self.suspected: list[str] = []

    def get(self) -> str:
        return self.tokens[0]

    def suspect(self, token: str) -> None:
        self.suspected.append(token)
        self.tokens.remove(token)

    def replacement(self, token: str) -> str | None:
        self.suspect(token)
        return self.tokens[0] if self.tokens else None

    def steps(self) -> Generator[None, None, Token]:
        yield from ()
        return Token(access_token=self.get(), scope="", expires_at=datetime.now(UTC))

    def replacement_steps(self, token: str) -> Generator[None, None, str | None]:
        yield from ()
        return self.replacement(token)


class Enable(BaseAdapter):
    """Takes one token, on its own host; any other host returns 401."""

    def __init__(self, accepted: str) -> None:
        super().__init__()
        self.accepted = accepted
        self.seen: list[tuple[str, str | None, bytes]] = []
        self.redirect_to: str | None = None

    def send(self, request: requests.PreparedRequest, **_: object) -> requests.Response:
        body = request.body
        content = body.read() if hasattr(body, "read") else b"".join(_pieces(body))
        bearer = request.headers.get("Authorization")
        self.seen.append((request.url, bearer, content))
        response = requests.Response()
        response.request, response.url, response.connection = request, request.url, self
        response.raw = io.BytesIO(b"{}")
        response.status_code = 200 if bearer == f"Bearer {self.accepted}" else 401
        if self.redirect_to and request.url == URL:
            response.status_code = 302
            response.headers["Location"] = self.redirect_to
        return response

    def close(self) -> None:
        pass


def redirecting(enable: Enable, target: str) -> Enable:
    """Redirect the good token, too, and not only from the first request."""
    send = enable.send

    def sent(request: requests.PreparedRequest, **options: object) -> requests.Response:
        response = send(request, **options)
        if request.url == URL and response.status_code == 200:
            response.status_code, response.headers["Location"] = 307, target
        return response

    enable.send = sent  # type: ignore[method-assign]
    return enable


def _pieces(body: object) -> Iterator[bytes]:
    match body:
        case None:
            return
        case bytes():
            yield body
        case str():
            yield body.encode()
        case _:
            yield from body


def session_of(source: Source, enable: Enable, origin: str | None = ORIGIN) -> requests.Session:
    session = requests.Session()
    session.auth = BrokerAuth(source, origin)
    session.mount("https://", enable)
    return session


def bearers(enable: Enable) -> list[str | None]:
    return [bearer for _, bearer, _ in enable.seen]


def test_request_carries_the_token():
    source, enable = Source("new"), Enable("new")
    assert session_of(source, enable).get(URL).status_code == 200
    assert bearers(enable) == ["Bearer new"]
    assert source.suspected == []


def test_token_that_enable_refuses_is_reported_and_replaced_once():
    source, enable = Source("old", "new"), Enable("new")
    response = session_of(source, enable).get(URL)
    assert response.status_code == 200
    assert [earlier.status_code for earlier in response.history] == [401]
    assert response.history[0].request.headers["Authorization"] == "Bearer old"
    assert response.request.headers["Authorization"] == "Bearer new"
    assert bearers(enable) == ["Bearer old", "Bearer new"]
    assert source.suspected == ["old"]


def test_second_refusal_is_the_callers():
    source, enable = Source("old", "new", "newer"), Enable("other")
    assert session_of(source, enable).get(URL).status_code == 401
    assert bearers(enable) == ["Bearer old", "Bearer new"]
    assert source.suspected == ["old"]


def test_refusal_is_the_callers_when_there_is_no_replacement():
    source, enable = Source("old"), Enable("new")
    response = session_of(source, enable).get(URL)
    assert response.status_code == 401
    assert response.json() == {}


@pytest.mark.parametrize("body", [b"bytes", "text", {"a": "form"}])
def test_body_in_memory_is_sent_again(body: object):
    source, enable = Source("old", "new"), Enable("new")
    assert session_of(source, enable).post(URL, data=body).status_code == 200
    first, second = (content for _, _, content in enable.seen)
    assert first == second != b""


def test_file_is_sent_again_from_where_it_began():
    source, enable = Source("old", "new"), Enable("new")
    file = io.BytesIO(b"skipped,sent")
    file.seek(8)
    assert session_of(source, enable).post(URL, data=file).status_code == 200
    assert [content for _, _, content in enable.seen] == [b"sent", b"sent"]


def test_body_that_cannot_be_sent_again_is_not_and_the_token_is_reported():
    source, enable = Source("old", "new"), Enable("new")
    response = session_of(source, enable).post(URL, data=iter([b"one", b"two"]))
    assert response.status_code == 401
    assert [content for _, _, content in enable.seen] == [b"onetwo"]
    assert source.suspected == ["old"]


def test_file_that_cannot_seek_is_not_sent_again():
    class Pipe(io.BytesIO):
        def seek(self, *_: int) -> int:
            raise OSError

    source, enable = Source("old", "new"), Enable("new")
    assert session_of(source, enable).post(URL, data=Pipe(b"sent")).status_code == 401
    assert [content for _, _, content in enable.seen] == [b"sent"]


def test_stranger_that_enable_redirects_to_gets_no_token_even_if_it_returns_401():
    source, enable = Source("old", "new"), Enable("old")
    enable.redirect_to = "https://stranger.example/"
    assert session_of(source, enable).get(URL).status_code == 401
    assert bearers(enable) == ["Bearer old", None]
    assert source.suspected == []


def test_redirect_after_a_replacement_carries_the_replacement():
    source = Source("old", "new")
    enable = redirecting(Enable("new"), f"{ORIGIN}/v1/moved")
    response = session_of(source, enable).post(URL, data="text")
    assert response.status_code == 200
    assert [(url, bearer) for url, bearer, _ in enable.seen] == [
        (URL, "Bearer old"),
        (URL, "Bearer new"),
        (f"{ORIGIN}/v1/moved", "Bearer new"),
    ]


def test_request_to_another_origin_is_sent_without_the_token_and_its_401_counts_for_nothing():
    source, enable = Source("live"), Enable("other")
    session = session_of(source, enable)
    session.mount("http://", enable)
    for url in ("https://stranger.example/v1", "http://enable.example/v1/deals"):
        assert session.get(url).status_code == 401
    assert bearers(enable) == [None, None]
    assert source.suspected == []


def test_401_of_a_stranger_gets_no_replacement_without_an_origin():
    source, enable = Source("live", "new"), Enable("live")
    session = session_of(source, enable, origin=None)
    assert session.get(URL).status_code == 200
    enable.accepted = "none"
    assert session.get("https://stranger.example/v1").status_code == 401
    assert source.suspected == []
    assert session.get(URL).status_code == 401
    assert source.suspected == ["live"]


class ForbiddenRoute(Enable):
    """Accepts the broker's current token, but on one route none."""

    def __init__(self, broker: Broker) -> None:
        super().__init__("")
        self.broker = broker

    def send(self, request: requests.PreparedRequest, **options: object) -> requests.Response:
        is_forbidden = request.url == f"{ORIGIN}/v1/forbidden"
        bearer = request.headers["Authorization"]
        is_live = self.broker.left(bearer.removeprefix("Bearer ")) > 0
        self.accepted = bearer.removeprefix("Bearer ") if is_live and not is_forbidden else ""
        return super().send(request, **options)


def test_route_that_refuses_each_token_once_a_minute_does_not_delay_the_other_routes():
    """1,800 seconds of a clock; the broker replaces a reported token after five."""
    clock = Clock()
    broker = Broker(clock)
    replaced_at: list[float] = []

    def renew() -> None:
        if len(broker.reports) > len(replaced_at):
            replaced_at.append(clock.now + 5)
        due = replaced_at and clock.now >= replaced_at[-1] > broker_renewed_at[-1]
        if due or broker.left(broker.current) < 300:
            broker.renew()
            broker_renewed_at.append(clock.now)

    broker_renewed_at = [0.0]
    broker.on_request = renew
    source = source_of(broker, clock)
    session = session_of(source, ForbiddenRoute(broker))
    waited = 0.0
    session.get(URL)
    for second in range(1800):
        clock.now += 1
        if second % 60 == 0:
            assert session.get(f"{ORIGIN}/v1/forbidden").status_code == 401
        began = clock.now
        assert session.get(URL).status_code == 200
        waited += clock.now - began
        settled(source)
    assert waited == 0
    assert len(broker.reports) == 1


def test_error_of_the_source_reaches_the_caller():
    class Empty(Source):
        def get(self) -> str:
            raise NoTokenInTime(grant="deals", last_status=503, reason="HTTP 503")

    enable = Enable("new")
    with pytest.raises(NoTokenInTime):
        session_of(Empty(), enable).get(URL)
    assert enable.seen == []
