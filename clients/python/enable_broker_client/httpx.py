"""`httpx.Client(auth=BrokerAuth(source))`, or `AsyncClient`: every request carries a live token."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import suppress

import anyio
import httpx

from enable_broker_client.origins import Audience
from enable_broker_client.source import TokenSource, Wait

_Steps = Generator[httpx.Request | Wait, httpx.Response | None]


class BrokerAuth(httpx.Auth):
    """Sets the bearer token; a token that Enable refuses with 401 is reported and replaced once.

    What is sent again is the request that got the 401, if its body is in memory: none, bytes,
    text, a form or JSON.

    Args:
        source: where the tokens come from; one for all clients, threads and tasks.
        origin: the only one that is sent the token, `https://host`. Without it each https host is.

    Raises:
        ValueError: the origin is not one, or is plain http to another machine.
    """

    def __init__(self, source: TokenSource, origin: str | None = None) -> None:
        self._source = source
        self._audience = Audience(origin)

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response]:
        """Yield the request, and after a 401 once again.

        Raises:
            BrokerClientError: there is no live token.
        """
        steps = self._steps(request)
        step = next(steps, None)
        while step is not None:
            response = None
            if isinstance(step, Wait):
                step.block()
            else:
                response = yield step
            step = _after(steps, response)

    async def async_auth_flow(
        self, request: httpx.Request
    ) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """The same on asyncio and trio: with a live token at once, without one by an event.

        Raises:
            BrokerClientError: there is no live token.
        """
        steps = self._steps(request)
        step = next(steps, None)
        while step is not None:
            response = None
            if isinstance(step, Wait):
                await _wait(step)
            else:
                response = yield step
            step = _after(steps, response)

    def _steps(self, request: httpx.Request) -> _Steps:
        """What to send, and what to wait for in between."""
        if not self._audience.includes(str(request.url)):
            yield request
            return
        token = (yield from self._source.steps()).access_token
        bearer = request.headers["Authorization"] = f"Bearer {token}"
        response = yield request
        # After a redirect to another host the token is not there: that 401 is not about it.
        if response is None or response.request.headers.get("Authorization") != bearer:
            return
        last = response.request
        if not self._audience.is_refusal(last.method, str(last.url), response.status_code):
            return
        if not isinstance(last.stream, httpx.ByteStream):
            self._source.suspect(token)
        elif replacement := (yield from self._source.replacement_steps(token)):
            last.headers["Authorization"] = f"Bearer {replacement}"
            second = yield last
            if second is not None:
                self._audience.note_second(last.method, str(last.url), second.status_code)


def _after(steps: _Steps, response: httpx.Response | None) -> httpx.Request | Wait | None:
    """The next step; None at the end."""
    try:
        return steps.send(response)
    except StopIteration:
        return None


async def _wait(step: Wait) -> None:
    """Let other tasks go on until the step is done, or its time is over."""
    event = anyio.Event()
    wake = _waker(event)
    step.outcome.add_done_callback(lambda _: wake())
    with anyio.move_on_after(step.seconds):
        await event.wait()


def _waker(event: anyio.Event) -> Callable[[], None]:
    """What sets an event of this task's loop from another thread, without waiting for the loop."""
    call: Callable[[Callable[[], None]], object]
    if trio := sys.modules.get("trio"):
        with suppress(RuntimeError):
            call = trio.lowlevel.current_trio_token().run_sync_soon
            return lambda: _quietly(call, event)
    call = asyncio.get_running_loop().call_soon_threadsafe
    return lambda: _quietly(call, event)


def _quietly(call: Callable[[Callable[[], None]], object], event: anyio.Event) -> None:
    with suppress(RuntimeError):  # the loop has ended
        call(event.set)
