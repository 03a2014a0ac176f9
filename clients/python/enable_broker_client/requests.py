"""`session.auth = BrokerAuth(source)`: every request of `requests` carries a live token."""

from functools import partial
from typing import Any

from requests import PreparedRequest, Response
from requests.auth import AuthBase

from enable_broker_client.origins import Audience
from enable_broker_client.source import TokenSource


class BrokerAuth(AuthBase):
    """Sets the bearer token; a token that Enable refuses with 401 is reported and replaced once.

    A request is sent again if its body can be: none, bytes, text, or a file that can seek.

    Args:
        source: where the tokens come from; one for all sessions and threads.
        origin: the only one that is sent the token, `https://host`. Without it each https host is.

    Raises:
        ValueError: the origin is not one, or is plain http to another machine.
    """

    def __init__(self, source: TokenSource, origin: str | None = None) -> None:
        self._source = source
        self._audience = Audience(origin)

    def __call__(self, r: PreparedRequest) -> PreparedRequest:
        """Sign a request that is about to be sent.

        Raises:
            BrokerClientError: there is no live token.
        """
        if not self._audience.includes(r.url or ""):
            return r
        token = self._source.get()
        r.headers["Authorization"] = f"Bearer {token}"
        r.hooks["response"].append(partial(self._on_response, token, _position(r)))
        return r

    def _on_response(
        self, token: str, position: int | None, response: Response, **kwargs: Any
    ) -> Response:
        request = response.request
        # After a redirect to another host the token is not there, and must not go there.
        if request.headers.get("Authorization") != f"Bearer {token}":
            return response
        method, url = request.method or "", request.url or ""
        if not self._audience.is_refusal(method, url, response.status_code):
            return response
        if not _rewind(request, position):
            self._source.suspect(token)
            return response
        replacement = self._source.replacement(token)
        if replacement is None:
            return response
        _ = response.content  # read to its end, so that the connection can be used again
        response.close()
        response.request = request.copy()
        # The session makes redirects from the very request: from now on with the replacement.
        request.headers["Authorization"] = f"Bearer {replacement}"
        second = response.connection.send(request, **kwargs)
        self._audience.note_second(method, url, second.status_code)
        second.history.append(response)
        second.request = request
        return second


def _position(request: PreparedRequest) -> int | None:
    """Where a file that is to be sent begins; None for any other body."""
    tell = getattr(request.body, "tell", None)
    try:
        return int(tell()) if tell else None
    except OSError:
        return None


def _rewind(request: PreparedRequest, position: int | None) -> bool:
    """Make the body ready to be sent again; False if it cannot be."""
    body: object = request.body
    if body is None or isinstance(body, str | bytes):
        return True
    seek = getattr(body, "seek", None)
    if seek is None or position is None:
        return False
    try:
        seek(position)
    except OSError:
        return False
    return True
