"""Requests that reach Enable: 10,000 vends by 200 callers, over two lives of a token.

Ours in this process: the real refresher against the fake Enable and the embedded AWS,
and 50 vend environments, on a clock that is wound on. The peers in as many real processes (fewer
in `make bench-quick`), on the real clock, with tokens of a few seconds. Each renews somewhat before
the expiry: a life here is what a token is vended for, from one renewal to the next.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from benchmarks import cost
from benchmarks.lab import CLIENT, Lab, install
from benchmarks.peers.token_server import serve_tokens
from benchmarks.results import Row
from local.broker_stack import ROOT
from local.callers import create_user
from local.fake_enable import FakeEnable
from token_broker.aws import describe_fault
from token_broker.grants import load_grants
from token_broker.models import StoredToken
from token_broker.token_store import ParameterTokenStore
from token_refresher.connection_state import ConnectionStateStore
from token_refresher.credentials import SecretReader
from token_refresher.enable.endpoint import TokenEndpoint
from token_refresher.enable.http_client import HttpClient
from token_refresher.parameter_reader import ParameterReader
from token_refresher.refresh import Refresher
from token_refresher.refresh_request import RefreshRequest
from token_vendor.vend import Vendor, VendRequest

VENDS: Final = 10_000
CALLERS: Final = 200
ENVIRONMENTS: Final = 50
LIVES: Final = 2
LIFETIME: Final = timedelta(hours=1)
AHEAD: Final = timedelta(minutes=10)
RUN_EVERY: Final = timedelta(minutes=1)
LEEWAY_SECONDS: Final = 1
POWERTOOLS_LEEWAY_SECONDS: Final = 30
LIBRARIES: Final = ("requests_oauth2client", "authlib")
FEW_PROCESSES: Final = 5
"""Where each use may be a call of the embedded AWS; the ratios do not depend on it."""

SERVICES: Final = 10
"""Of 4 processes each: what a month is priced for."""


@dataclass(frozen=True, slots=True)
class Uses:
    """Tokens that processes of one kind put on requests, over two lives of a token.

    Attributes:
        count: so many.
        p50: microseconds that one took.
        p99: and the slowest hundredth, which contains requests to Enable, AWS or the token API.
        aws_calls: that the processes made, the reading of a secret left out.
    """

    count: int
    p50: float
    p99: float
    aws_calls: int


@dataclass(slots=True)
class Clock:
    """Wound on by hand."""

    now: datetime

    def __call__(self) -> datetime:
        """The time."""
        return self.now


@dataclass(slots=True)
class CountedSnapshot:
    """What the store held after the last refresh run; counts reads."""

    tokens: dict[str, StoredToken | None]
    reads: int = 0

    def read(self, grant: str) -> StoredToken | None:
        """The stored token."""
        self.reads += 1
        return self.tokens[grant]


def measure(lab: Lab, processes: int, lifetime_seconds: int) -> list[Row]:
    """Ours, then each peer in so many processes; requests per grant and life of a token."""
    packages = lab.folder / "oauth"
    install("bench-oauth", packages)
    grants = len(load_grants())
    requests, reads = _ours(lab)
    rows = [
        Row.at_most(
            "by the broker",
            requests / grants / LIVES,
            1,
            "for each grant and life",
            f"{requests} requests for {VENDS} vends of {grants} grants; {reads} reads of the store",
        )
    ]
    rows += [_of_broker(lab, lifetime_seconds), _of_parameter(lab, lifetime_seconds)]
    for library in LIBRARIES:
        with FakeEnable(CLIENT, token_lifetime=timedelta(seconds=lifetime_seconds)) as enable:
            uses = _use((library, packages, enable.token_url), processes, lifetime_seconds)
        rows.append(_of_secret(library, processes, len(enable.token_requests), uses))
    # As long a life as the others': it renews 30 seconds before the expiry, they LEEWAY_SECONDS.
    longer = lifetime_seconds + POWERTOOLS_LEEWAY_SECONDS - LEEWAY_SECONDS
    with serve_tokens(lab.folder, longer) as server:
        trust = {"SSL_CERT_FILE": str(server.certificate)}
        [built] = lab.peer_built
        kind = ("powertools", built, server.url)
        uses = _use(kind, processes, lifetime_seconds, environ=trust)
    name = "Powertools' OAuth2Client, which cannot send Enable's extra field: another server"
    rows.append(_of_secret(name, processes, server.requests, uses))
    return rows


def _of_secret(library: str, processes: int, requests: int, uses: Uses) -> Row:
    """A service that has the client secret; it reads it from Secrets Manager at its start."""
    return Row(
        f"by {library} in {processes} processes",
        figure=f"{requests / len(load_grants()) / LIVES:.3g} for each grant and life",
        detail=_columns(
            f"{processes} copies of the secret",
            processes / uses.count,
            uses,
            cost.secret_in_every_service(SERVICES),
        ),
    )


def _of_broker(lab: Lab, lifetime_seconds: int) -> Row:
    """The client library: one request to the token API for each process, grant and life."""
    user = create_user(lab.stack.administrator, "bench-library", lab.stack.api.policy("/tokens/*"))
    keys = {"AWS_ACCESS_KEY_ID": user.access_key, "AWS_SECRET_ACCESS_KEY": user.secret_key}
    api = lab.stack.api
    environ = keys | {"TOKEN_API_HOST": api.host}
    [built] = lab.peer_built
    url = f"{api.endpoint_url}/{api.stage}"
    uses = _use(
        ("broker", built, url),
        FEW_PROCESSES,
        lifetime_seconds,
        environ=lab.environ | environ,
    )
    return Row(
        "the same, through its client library",
        figure="1 for each grant and life",
        detail=_columns(
            "1 copy of the secret",
            LIVES * uses.aws_calls / uses.count,
            uses,
            cost.broker_through_client_library(SERVICES),
        ),
    )


def _of_parameter(lab: Lab, lifetime_seconds: int) -> Row:
    """The broker renews, and each service reads the parameter itself: nothing is audited."""
    [built] = lab.peer_built
    uses = _use(
        ("parameter", built, "none"),
        FEW_PROCESSES,
        lifetime_seconds,
        environ=lab.environ,
    )
    return Row(
        "the same, by services that read the parameter themselves",
        figure="1 for each grant and life",
        detail=_columns(
            "1 copy of the secret",
            uses.aws_calls / uses.count,
            uses,
            cost.parameter_in_every_service(SERVICES),
        ),
    )


def _columns(copies: str, calls: float, uses: Uses, units: Mapping[str, float]) -> str:
    usd = sum(cost.usd(units).values())
    return (
        f"{copies}; {calls:.2g} AWS calls a use; "
        f"added p50 {uses.p50:.0f} µs, p99 {uses.p99:.0f} µs; "
        f"{usd:.2f} USD a month for {SERVICES} services"
    )


def _ours(lab: Lab) -> tuple[int, int]:
    """Requests to Enable, and reads of Parameter Store."""
    clock = Clock(datetime.now(UTC).replace(microsecond=0))
    with _refresher(lab, clock) as (refresher, enable):
        store = CountedSnapshot({})
        vendors = [
            Vendor(
                grants=refresher.grants,
                store=store,
                cache_window=timedelta(seconds=60),
                refresh_ahead=AHEAD,
                on_read_fault=_raise,
                now=clock,
            )
            for _ in range(ENVIRONMENTS)
        ]
        names = list(refresher.grants)
        runs = int(LIVES * (LIFETIME - AHEAD) / RUN_EVERY)
        vend = 0
        for run in range(runs):
            refresher.run(RefreshRequest(), time_left=lambda: timedelta(minutes=1))
            stored = refresher.reader.read([], names, threads=refresher.threads).stored
            store.tokens = {
                name: token for name, token in stored.items() if isinstance(token, StoredToken)
            }
            while vend < (run + 1) * VENDS / runs:
                caller = vend % CALLERS
                request = VendRequest(
                    grant=names[caller % len(names)], caller_arn=f"arn:aws:iam::1:user/c{caller}"
                )
                vendors[caller % ENVIRONMENTS].vend(request)
                vend += 1
            clock.now += RUN_EVERY
        return len(enable.token_requests), store.reads


@contextmanager
def _refresher(lab: Lab, clock: Clock) -> Iterator[tuple[Refresher, FakeEnable]]:
    """The real one, with parameters and a secret of its own."""
    administrator = lab.stack.administrator
    secrets, ssm = administrator.client("secretsmanager"), administrator.client("ssm")
    secret = {
        "client_id": CLIENT.client_id,
        "client_secret": CLIENT.client_secret,
        "dealtrack_registration_id": CLIENT.dealtrack_registration_id,
    }
    secrets.create_secret(Name="bench/connections/default", SecretString=json.dumps(secret))
    prefix = "/enable-tokens/bench"
    with FakeEnable(CLIENT, token_lifetime=LIFETIME, clock=clock) as enable:
        store = ParameterTokenStore(ssm, prefix=prefix, key_id=lab.stack.resource("BrokerKey"))
        states = ConnectionStateStore(ssm, prefix=prefix)
        refresher = Refresher(
            grants=load_grants(),
            endpoints={"default": TokenEndpoint(enable.token_url, http=HttpClient(), now=clock)},
            reader=ParameterReader(ssm, store=store, states=states),
            store=store,
            states=states,
            secrets=SecretReader(secrets, prefix="bench/connections/"),
            refresh_ahead=AHEAD,
            parallelism=8,
            describe_fault=describe_fault,
            now=clock,
        )
        yield refresher, enable


def _raise(error: Exception) -> None:
    raise error


def _use(
    kind: tuple[str, Path, str],
    processes: int,
    lifetime_seconds: int,
    *,
    environ: Mapping[str, str] | None = None,
) -> Uses:
    """What processes of one kind met, each with four callers.

    Args:
        kind: a name in `peers/oauth_clients.py`, the folder of what it imports, and the URL of
            the token endpoint or the token API.
        processes: so many, at once.
        lifetime_seconds: of the tokens.
        environ: what they get beside this process's environment.

    Raises:
        RuntimeError: a process failed.
    """
    # A second less for each life, which the libraries' whole seconds may cut from it: so that no
    # process begins a third.
    seconds = LIVES * (lifetime_seconds - LEEWAY_SECONDS - 1)
    callers = CALLERS // ENVIRONMENTS
    numbers = (processes, callers, VENDS // CALLERS, seconds, LEEWAY_SECONDS)
    run = subprocess.run(
        [
            sys.executable,
            ROOT / "benchmarks" / "peers" / "oauth_clients.py",
            *kind,
            *map(str, numbers),
        ],
        env={**os.environ, **(environ or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        raise RuntimeError(f"{kind[0]}: {run.stderr[-2000:]}")
    found = json.loads(run.stdout)
    return Uses(processes * callers * (VENDS // CALLERS), **found)
