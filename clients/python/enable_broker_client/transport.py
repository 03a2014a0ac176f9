"""One HTTP request, its response, and the way there: replaceable, so that tests need no socket."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

import urllib3

_MAX_BODY_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A signed request to the broker.

    Attributes:
        timeout: seconds to connect, and seconds between two pieces of the response.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = None
    timeout: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What the broker sent; its repr holds no token.

    Attributes:
        headers: by lower-case name.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)


class Transport(Protocol):
    """Sends a request once: no retries, no redirects."""

    def __call__(self, request: Request, /) -> Response:
        """Return the response, whatever its status.

        Raises:
            OSError or urllib3.exceptions.HTTPError: there was none.
        """


class Urllib3Transport:
    """The default: urllib3, with keep-alive.

    Args:
        pool: give a `ProxyManager`, or a `PoolManager` with a CA bundle, where the way to the
            broker needs one.
    """

    def __init__(self, pool: urllib3.PoolManager | None = None) -> None:
        self._pool = pool or urllib3.PoolManager()

    def __call__(self, request: Request, /) -> Response:
        """Return the response.

        Raises:
            urllib3.exceptions.HTTPError: there was none.
        """
        response = self._pool.request(
            request.method,
            request.url,
            headers=dict(request.headers),
            body=request.body,
            timeout=request.timeout,
            retries=False,
            redirect=False,
            preload_content=False,
        )
        try:
            body = response.read(_MAX_BODY_BYTES)
        except BaseException:
            response.close()
            raise
        if len(body) < _MAX_BODY_BYTES:
            response.release_conn()
        else:
            response.close()  # the broker sends less
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Response(status=response.status, headers=headers, body=body)
