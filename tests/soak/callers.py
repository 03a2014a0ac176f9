"""Fifty callers through the client library, and what each of them saw."""

import contextlib
import json
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from random import Random
from typing import Final
from urllib.parse import parse_qs, urlsplit

import urllib3

from enable_broker_client import TokenSource
from enable_broker_client.clock import SteadyClock
from enable_broker_client.errors import BrokerClientError
from enable_broker_client.transport import HttpTransport, Request, Response
from local.embedded_aws import REGION
from tests.soak.record import Record, fingerprint, jwt_facts, now
from tests.soak.world import Identity, World

PAUSE_SECONDS: Final = (1.0, 3.0)
"""Between two uses of a token, drawn for each."""

RETRY_BUDGET: Final = timedelta(seconds=20)
AT_A_TIME: Final = 3
"""Requests to the token API: each one more is an environment more, whose start takes a second of
the processor, and fifty of them would starve the embedded AWS on a small machine."""

AREAS: Final = {"deals": "deals", "activity": "activity", "users": "users"}
"""Which area of Enable's API a grant's callers read; `deals` where it is not named."""


class _SoakOverError(Exception):
    """Ends a caller that waits for its turn, or for its next try."""


class WatchedTransport:
    """The client's own transport; each request and response is recorded, the token as its name."""

    def __init__(
        self,
        record: Record,
        caller: str,
        grant: str,
        *,
        turns: threading.Semaphore,
        is_over: Callable[[], bool],
    ) -> None:
        self._send = HttpTransport()
        self._record = record
        self._turns = turns
        self._is_over = is_over
        self._facts = {"caller": caller, "grant": grant}

    def __call__(self, request: Request) -> Response:
        """Send it when it is its turn."""
        with self._turns:
            if self._is_over():
                raise _SoakOverError
            return self._watched(request)

    def _watched(self, request: Request) -> Response:
        query = parse_qs(urlsplit(request.url).query)
        facts = self._facts | {
            "method": request.method,
            "other_than": query.get("other_than", [""])[0],
            "at": now(),
        }
        try:
            response = self._send(request)
        except (OSError, urllib3.exceptions.HTTPError):
            self._record.add("request", **facts, until=now(), status=None)
            raise
        until = now()
        output = _token_in(response) if response.status == 200 and request.method == "GET" else {}
        self._record.add("request", **facts, until=until, status=response.status, **output)
        return response


def _token_in(response: Response) -> dict[str, object]:
    body = json.loads(response.body)
    jwt = jwt_facts(str(body["access_token"]))
    return jwt | {"told_scope": body["scope"], "expires_in": body["expires_in"]}


class Callers:
    """Each in a thread of its own, with a token source of its own, from entering to leaving.

    Attributes:
        clock_ahead: seconds that the callers' wall clocks are ahead of the machine's.
    """

    def __init__(self, world: World, seed: int) -> None:
        self._world = world
        self.clock_ahead = 0.0
        self._stop = threading.Event()
        self._turns = threading.Semaphore(AT_A_TIME)
        self._enable = urllib3.PoolManager(maxsize=64, retries=False, timeout=10.0)
        callers = [
            (identity, f"{identity.name} {number}")
            for identity in world.identities
            for number in range(identity.count)
        ]
        self.expectations = {
            name: {"grant": identity.grant, "expects": identity.expects}
            for identity, name in callers
        }
        self._threads = [
            threading.Thread(
                target=self._until_over, args=(identity, name, seed), name=name, daemon=True
            )
            for identity, name in callers
        ]

    def start(self) -> None:
        """Begin, one after the other: fifty at once would be fifty cold starts."""
        for thread in self._threads:
            thread.start()
            time.sleep(0.05)

    def stop(self, *, seconds: float) -> None:
        """Let each finish what it is at, within that time; the embedded AWS ends the others."""
        self._stop.set()
        ends = time.monotonic() + seconds
        for thread in self._threads:
            if thread.ident:
                thread.join(max(0.0, ends - time.monotonic()))

    def _until_over(self, identity: Identity, name: str, seed: int) -> None:
        with contextlib.suppress(_SoakOverError):
            self._live(identity, name, seed)

    def _live(self, identity: Identity, name: str, seed: int) -> None:
        random = Random(f"{seed} {name}")  # noqa: S311 - reproducible on purpose
        record, aws = self._world.record, self._world.aws
        source = TokenSource(
            f"{aws.endpoint_url}/{self._world.stack.api.stage}",
            identity.grant,
            session=aws.session(identity.credentials),
            region=REGION,
            host=self._world.stack.api.host,
            retry_budget=RETRY_BUDGET,
            transport=WatchedTransport(
                record,
                name,
                identity.grant,
                turns=self._turns,
                is_over=self._stop.is_set,
            ),
            clock=SteadyClock(wall=lambda: now() + self.clock_ahead),
            sleep=self._wait,
        )
        while not self._stop.wait(random.uniform(*PAUSE_SECONDS)):
            asked_at = now()
            try:
                token = source.get()
            except BrokerClientError as error:
                record.add("refusal", caller=name, at=asked_at, error=type(error).__name__)
                continue
            status = self._use(identity, name, token, asked_at)
            if status == 401:
                asked_at = now()
                if other := source.replacement(token):
                    self._use(identity, name, other, asked_at)

    def _wait(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise _SoakOverError

    def _use(self, identity: Identity, name: str, token: str, asked_at: float) -> int | None:
        """Read from Enable's API; the status, None without a response."""
        got_at = now()
        status: int | None = None
        try:
            area = AREAS.get(identity.grant, "deals")
            status = self._enable.request(
                "GET",
                f"{self._world.enable.api_url}/v1/{area}",
                headers={"Authorization": f"Bearer {token}"},
            ).status
        except urllib3.exceptions.HTTPError:
            pass
        self._world.record.add(
            "use",
            caller=name,
            asked_at=asked_at,
            at=got_at,
            until=now(),
            status=status,
            fingerprint=fingerprint(token),
            exp=jwt_facts(token)["exp"],
        )
        return status
