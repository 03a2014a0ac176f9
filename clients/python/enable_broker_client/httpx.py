"""`httpx.Client(auth=BrokerAuth(source))`, or `AsyncClient`: every request carries a live token."""

from collections.abc import AsyncGenerator, Generator

import anyio.to_thread
import httpx

from enable_broker_client.source import TokenSource


class BrokerAuth(httpx.Auth):
    """Sets the bearer token; a token that Enable returns 401 to is reported and replaced once.

    A request is sent again if its body is in memory: none, bytes, text, a form or JSON.

    Args:
        source: where the tokens come from; one for all clients and threads.
    """

    def __init__(self, source: TokenSource) -> None:
        self._source = source

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response]:
        """Yield the request, and after a 401 once again.

        Raises:
            BrokerClientError: there is no live token.
        """
        token = self._source.get()
        bearer = request.headers["Authorization"] = f"Bearer {token}"
        response = yield request
        # After a redirect to a stranger the token is no longer there: that 401 is not Enable's.
        sent = response.request.headers.get("Authorization")
        if response.status_code != 401 or sent != bearer:
            return
        if not _is_in_memory(request):
            self._source.reject(token)
        elif replacement := self._source.replacement(token):
            request.headers["Authorization"] = f"Bearer {replacement}"
            yield request

    async def async_auth_flow(
        self, request: httpx.Request
    ) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """The same, with what may block in a thread, on asyncio and trio alike.

        Raises:
            BrokerClientError: there is no live token.
        """
        flow = self.sync_auth_flow(request)
        response: httpx.Response | None = None
        while following := await anyio.to_thread.run_sync(
            _advance, flow, response, abandon_on_cancel=True
        ):
            response = yield following


def _advance(
    flow: Generator[httpx.Request, httpx.Response], response: httpx.Response | None
) -> httpx.Request | None:
    """The next request of a flow; None at its end, as StopIteration cannot leave a thread."""
    try:
        return next(flow) if response is None else flow.send(response)
    except StopIteration:
        return None


def _is_in_memory(request: httpx.Request) -> bool:
    try:
        _ = request.content
    except httpx.RequestNotRead:
        return False
    return True
