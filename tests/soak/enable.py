"""Enable as the soak runs it: the fake Enable, with a door that misbehaves as the table says."""

import json
import socket
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import urllib3

from local.embedded_aws import free_port
from local.fake_enable import Client, FakeEnable
from tests.faults.fault_server import Exchange, FaultServer, Step, respond
from tests.faults.fault_table import UpstreamFault
from tests.soak.record import Record, jwt_facts, now


class Enable:
    """The token endpoint behind a door, and the API; both can be stopped and started again.

    Args:
        client: who may ask for tokens.
        record: where each request to the token endpoint is reported.
    """

    def __init__(self, client: Client, record: Record) -> None:
        self._record = record
        self._door_port, self._api_port = free_port(), free_port()
        self.clock_ahead = timedelta()
        self.fake_enable = FakeEnable(
            client, port=self._api_port, clock=lambda: datetime.now(UTC) + self.clock_ahead
        )
        self._pool = urllib3.PoolManager(maxsize=16, retries=False, timeout=30.0)
        self._door: FaultServer | None = None
        self._taken: list[socket.socket] = []
        self._step: Step = self._relay

    @property
    def token_url(self) -> str:
        """Where the broker asks for tokens."""
        return f"http://127.0.0.1:{self._door_port}/oauth2/token"

    @property
    def api_url(self) -> str:
        """Where callers use them."""
        return f"http://127.0.0.1:{self._api_port}"

    def start(self) -> None:
        """Listen, as before if it was stopped."""
        for holder in self._taken:
            holder.close()
        self._taken.clear()
        self.fake_enable.__enter__()
        self._door = FaultServer([self._current], port=self._door_port)
        self._door.__enter__()

    def stop(self) -> None:
        """Stop; connections are refused meanwhile, and nobody else can take the ports."""
        self.fake_enable.__exit__(None, None, None)
        if self._door:
            self._door.__exit__(None, None, None)
            self._door = None
        for port in (self._door_port, self._api_port):
            holder = socket.socket()
            self._taken.append(holder)
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind(("127.0.0.1", port))

    def close(self) -> None:
        """Stop for good."""
        if self._door:
            self.stop()
        for holder in self._taken:
            holder.close()
        self._pool.clear()

    def misbehave(self, row: UpstreamFault, fault: int) -> None:
        """Respond to each request as a row of the fault table does."""
        [step] = row.script

        def misbehaving(exchange: Exchange) -> bool:
            at = now()
            try:
                return step(exchange)
            finally:
                self._tell(exchange, at, status=None, fault=fault)

        self._step = misbehaving

    def behave(self) -> None:
        """Response as Enable does."""
        self._step = self._relay

    def _current(self, exchange: Exchange) -> bool:
        return self._step(exchange)

    def _relay(self, exchange: Exchange) -> bool:
        at, facts = now(), {}
        lifetime = self.fake_enable.token_lifetime.total_seconds()
        try:
            got = self._pool.request(
                "POST",
                self.fake_enable.token_url,
                body=urlencode(exchange.form),
                headers={"Content-Type": "application/x-www-form-urlencoded"},
            )
        except (urllib3.exceptions.HTTPError, RuntimeError):
            self._tell(exchange, at, status=None)
            return False
        body = json.loads(got.data)
        if got.status == 200:
            facts = jwt_facts(body["access_token"]) | {"lifetime": lifetime}
        self._tell(exchange, at, status=got.status, error=body.get("error"), **facts)
        return respond(got.status, got.data)(exchange)

    def _tell(self, exchange: Exchange, at: float, **facts: object) -> None:
        scope = " ".join(sorted(exchange.form.get("scope", "").split()))
        output = {"fault": None, **facts, "scope": scope}
        self._record.add("token_request", at=at, until=now(), **output)
