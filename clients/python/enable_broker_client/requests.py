"""`session.auth = BrokerAuth(source)`: every request of `requests` carries a live token."""

from functools import partial
from typing import Any

from requests import PreparedRequest, Response
from requests.auth import AuthBase

from enable_broker_client.source import TokenSource


class BrokerAuth(AuthBase):
    """Sets the bearer token; a token that Enable returns 401 to is reported and replaced once.

    A request is sent again if its body can be: none, bytes, text, or a file that can seek.

    Args:
        source: where the tokens come from; one for all sessions and threads.
    """

    def __init__(self, source: TokenSource) -> None:
        self._source = source

    def __call__(self, r: PreparedRequest) -> PreparedRequest:
        """Sign a request that is about to be sent.

        Raises:
            BrokerClientError: there is no live token.
        """
        token = self._source.get()
        r.headers["Authorization"] = f"Bearer {token}"
        r.hooks["response"].append(partial(self._on_response, token, _position(r)))
        return r

    def _on_response(
        self, token: str, position: int | None, response: Response, **kwargs: Any
    ) -> Response:
        request = response.request
        # After a redirect to a stranger the token is no longer there, and must not go there.
        if response.status_code != 401 or request.headers.get("Authorization") != f"Bearer {token}":
            return response
        if not _rewind(request, position):
            self._source.reject(token)
            return response
        replacement = self._source.replacement(token)
        if replacement is None:
            return response
        _ = response.content  # read to its end, so that the connection can be used again
        response.close()
        again = request.copy()
        again.headers["Authorization"] = f"Bearer {replacement}"
        second = response.connection.send(again, **kwargs)
        second.history.append(response)
        second.request = again
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
