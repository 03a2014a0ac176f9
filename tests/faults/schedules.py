"""Random schedules of a confused server: no grant ever gets another one's token.

`python -m tests.faults.schedules --count 2000 --seed 1`. Three connections with five grants
each send their token requests at the same time through one HTTP client. What happens to a
request is drawn from the seed and the request's own name.
"""

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from tests.faults.fault_server import Exchange, FaultServer, reset
from tests.unit.fakes import CREDENTIALS, Broker
from token_broker.grants import Grant
from token_refresher.credentials import CURRENT, SecretVersion
from token_refresher.enable.endpoint import TokenEndpoint
from token_refresher.enable.http_client import HttpClient
from token_refresher.refresh_request import RefreshRequest

CONNECTIONS: Final = ("default", "uat", "partner")
GRANTS: Final = {
    f"{connection}-{number}": Grant(scope=(f"read:{number}",), connection=connection)
    for connection in CONNECTIONS
    for number in range(5)
}
LONGEST_PAUSE_SECONDS: Final = 0.012
FAULT_RATE: Final = 0.3


@dataclass
class Server:
    """What the token endpoints of one schedule do, and what they did.

    Attributes:
        name: of the schedule: the seed and its number.
        drawn: how often each grant's token was requested.
        events: what happened, by kind.
    """

    name: str
    drawn: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)

    def step(self, exchange: Exchange) -> bool:
        """Respond to one request, as a step of the fault server."""
        form = exchange.form
        grant = f"{form['client_id']} {form['scope']}"
        self.drawn[grant] += 1
        chance = random.Random(f"{self.name} {grant} {self.drawn[grant]}")  # noqa: S311 - reproducible on purpose
        data = b"".join(self._interim(chance))
        data += self._final(chance, token_of(form["client_id"], form["scope"]))
        data += self._garbage(chance)
        return self._send(exchange, chance, data)

    def _draw(self, chance: random.Random, kinds: dict[str, float]) -> str:
        [kind] = chance.choices(list(kinds), list(kinds.values()))
        self.events[kind] += 1
        return kind

    def _interim(self, chance: random.Random) -> Iterator[bytes]:
        for _ in range(chance.choice((0, 0, 1, 1, 2, 3))):
            status = self._draw(chance, {"102": 2, "103": 2, "100": 1})
            yield f"HTTP/1.1 {status} -\r\nLink: </a>; rel=preload\r\n\r\n".encode()

    def _final(self, chance: random.Random, token: str) -> bytes:
        if chance.random() < FAULT_RATE / 3:
            self.events["503"] += 1
            return _framed(503, b"{}")
        body = _token_response(token)
        framing = self._draw(chance, {"with a length": 1, "in chunks": 1, "until it closes": 0.3})
        if framing == "with a length":
            return _framed(200, body)
        if framing == "until it closes":
            return b"HTTP/1.0 200 -\r\n\r\n" + body
        cuts = sorted(chance.sample(range(1, len(body)), 3))
        chunks = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
        framed = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in [*chunks, b""])
        return b"HTTP/1.1 200 -\r\nTransfer-Encoding: chunked\r\n\r\n" + framed

    def _garbage(self, chance: random.Random) -> bytes:
        """What follows the response; mostly the token response of another grant."""
        kind = self._draw(chance, {"nothing": 3, "another token": 2, "junk": 1, "late 103": 1})
        other = GRANTS[chance.choice(sorted(GRANTS))]
        if kind == "another token":
            return _framed(200, _token_response(token_of(other.connection, other.scope[0])))
        return {"junk": b"\0junk\r\n", "late 103": b"HTTP/1.1 103 -\r\n\r\n"}.get(kind, b"")

    def _send(self, exchange: Exchange, chance: random.Random, data: bytes) -> bool:
        """Send in pieces, with pauses; sometimes break off, by a reset or an ordinary end."""
        is_cut = chance.random() < FAULT_RATE / 2
        data = data[: chance.randrange(len(data))] if is_cut else data
        cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.randrange(4)))
        # a head that ends an interim response is where a late response hurts most
        cuts = sorted({*cuts, data.find(b"\r\n\r\n") + 4})
        for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            exchange.socket.sendall(data[start:end])
            if exchange.stop.wait(chance.random() * LONGEST_PAUSE_SECONDS):
                return False
        if is_cut:
            kind = self._draw(chance, {"reset": 1, "cut off": 1})
            return reset()(exchange) if kind == "reset" else False
        return b"HTTP/1.0" not in data


def token_of(client_id: str, scope: str) -> str:
    """A token that names the client and the scope that it is for."""
    return f"{client_id}/{scope}"


def _token_response(token: str) -> bytes:
    """A token response without `scope`, so that only the token tells what it is for."""
    return json.dumps({"access_token": token, "token_type": "Bearer", "expires_in": 3600}).encode()


def _framed(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d -\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


@dataclass
class Report:
    """What schedules came to.

    Attributes:
        renewed: grants that got a token.
        foreign: schedule and grant of each token that another grant requested.
        events: what the servers did, by kind.
    """

    schedules: int = 0
    requests: int = 0
    renewed: int = 0
    foreign: list[str] = field(default_factory=list)
    events: Counter[str] = field(default_factory=Counter)


@contextmanager
def _servers() -> Iterator[dict[str, FaultServer]]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(FaultServer([reset()])) for name in CONNECTIONS}


def _broker(servers: dict[str, FaultServer], http: HttpClient) -> Broker:
    broker = Broker(grants=GRANTS)
    for name in CONNECTIONS:
        credentials = replace(CREDENTIALS, client_id=name)
        version = SecretVersion(version_id="v1", stage=CURRENT, credentials=credentials)
        broker.secrets.stored[name, CURRENT] = version
        broker.endpoints[name] = TokenEndpoint(  # type: ignore[assignment]
            servers[name].url, http=http, now=broker.clock, sleep=lambda _seconds: None
        )
    return broker


def play(seed: int, numbers: Iterable[int], http: HttpClient | None = None) -> Report:
    """Run schedules, each with a refresh run of all 15 grants.

    Args:
        seed: what everything is drawn from.
        numbers: of the schedules.
        http: the client under test, one for all schedules.
    """
    report, client = Report(), http or HttpClient()
    with _servers() as servers:
        for number in numbers:
            server = Server(f"{seed} {number}")
            for fault_server in servers.values():
                fault_server.follow([server.step])
            broker = _broker(servers, client)
            outcomes = broker.run(RefreshRequest(force=True))
            report.schedules += 1
            report.renewed += sum(outcome.state == "renewed" for outcome in outcomes.values())
            report.requests += server.drawn.total()
            report.events += server.events
            for name, grant in GRANTS.items():
                right = {name, token_of(grant.connection, grant.scope[0])}
                if broker.store.tokens[name].access_token not in right:
                    report.foreign.append(f"schedule {number}: {name}")
    return report


def main() -> int:
    """Run the schedules of a seed, and print what they came to.

    Returns:
        The exit code: 0 if no token was stored for a grant that did not request it.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="how many schedules (2000)")
    parser.add_argument("--seed", type=int, default=1, help="what they are drawn from (1)")
    options = parser.parse_args()
    total, started = Report(), time.monotonic()
    for first in range(0, options.count, 100):
        part = play(options.seed, range(first, min(first + 100, options.count)))
        for name in ("schedules", "requests", "renewed", "foreign", "events"):
            setattr(total, name, getattr(total, name) + getattr(part, name))
        sys.stderr.write(f"{total.schedules} of {options.count} schedules\n")
    grants, seconds = total.schedules * len(GRANTS), time.monotonic() - started
    sys.stdout.write(
        f"{total.schedules} schedules of seed {options.seed} in {seconds:.0f} s: "
        f"{total.requests} requests for {grants} tokens, {total.renewed} renewed\n"
        + "".join(f"  {kind}: {number}\n" for kind, number in sorted(total.events.items()))
        + f"tokens stored for a grant that did not request them: {len(total.foreign)}\n"
        + "".join(f"  {what}\n" for what in total.foreign)
    )
    return 1 if total.foreign else 0


if __name__ == "__main__":
    raise SystemExit(main())
