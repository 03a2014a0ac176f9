import io
import threading
from collections.abc import Iterator

import pytest
import requests
from requests.adapters import BaseAdapter

from enable_broker_client import NoTokenInTime
from enable_broker_client.requests import BrokerAuth

URL = "https://enable.example/v1/deals"


class Source:
    """What an adapter uses of a `TokenSource`."""

    def __init__(self, *tokens: str) -> None:
        self.tokens = list(tokens)
        self.rejected: list[str] = []
        self.threads: set[int] = set()

    def get(self) -> str:
        self.threads.add(threading.get_ident())
        return self.tokens[0]

    def reject(self, token: str) -> None:
        self.threads.add(threading.get_ident())
        self.rejected.append(token)
        self.tokens.remove(token)

    def replacement(self, token: str) -> str | None:
        self.reject(token)
        return self.tokens[0] if self.tokens else None


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


def session_of(source: Source, enable: Enable) -> requests.Session:
    session = requests.Session()
    session.auth = BrokerAuth(source)
    session.mount("https://", enable)
    return session


def bearers(enable: Enable) -> list[str | None]:
    return [bearer for _, bearer, _ in enable.seen]


def test_request_carries_the_token():
    source, enable = Source("new"), Enable("new")
    assert session_of(source, enable).get(URL).status_code == 200
    assert bearers(enable) == ["Bearer new"]
    assert source.rejected == []


def test_token_that_enable_refuses_is_reported_and_replaced_once():
    source, enable = Source("old", "new"), Enable("new")
    response = session_of(source, enable).get(URL)
    assert response.status_code == 200
    assert [earlier.status_code for earlier in response.history] == [401]
    assert response.history[0].request.headers["Authorization"] == "Bearer old"
    assert response.request.headers["Authorization"] == "Bearer new"
    assert bearers(enable) == ["Bearer old", "Bearer new"]
    assert source.rejected == ["old"]


def test_second_refusal_is_the_callers():
    source, enable = Source("old", "new", "newer"), Enable("other")
    assert session_of(source, enable).get(URL).status_code == 401
    assert bearers(enable) == ["Bearer old", "Bearer new"]
    assert source.rejected == ["old"]


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
    assert source.rejected == ["old"]


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
    assert source.rejected == []


def test_error_of_the_source_reaches_the_caller():
    class Empty(Source):
        def get(self) -> str:
            raise NoTokenInTime(grant="deals", last_status=503, reason="HTTP 503")

    enable = Enable("new")
    with pytest.raises(NoTokenInTime):
        session_of(Empty(), enable).get(URL)
    assert enable.seen == []
