"""Requests that reach Enable: 10,000 vends by 200 callers, over two lives of a token.

Ours in this process: the real refresher against the fake Enable and the embedded AWS,
and 50 vend environments, on a clock that is wound on. The peers in 50 real processes, on the
real clock, with tokens of a few seconds. Each renews somewhat before the expiry: a life here is
what a token is vended for, from one renewal to the next.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from benchmarks.lab import CLIENT, Lab, install
from benchmarks.results import Row
from local.broker_stack import ROOT
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
PROCESSES: Final = 50
LIVES: Final = 2
LIFETIME: Final = timedelta(hours=1)
AHEAD: Final = timedelta(minutes=10)
RUN_EVERY: Final = timedelta(minutes=1)
LEEWAY_SECONDS: Final = 1
LIBRARIES: Final = ("requests_oauth2client", "authlib")


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


def measure(lab: Lab, lifetime_seconds: int) -> list[Row]:
    """Ours, then each peer; requests per grant and life of a token."""
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
    for library in LIBRARIES:
        theirs = _peer(library, packages, lifetime_seconds)
        rows.append(
            Row(
                f"by {library} in {PROCESSES} processes",
                figure=f"{theirs / grants / LIVES:.3g} for each grant and life",
                detail=f"{theirs} requests, and the client secret in every process",
            )
        )
    return rows


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
            for _ in range(PROCESSES)
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
                vendors[caller % PROCESSES].vend(request)
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


def _peer(library: str, packages: Path, lifetime_seconds: int) -> int:
    """Requests to Enable by one library.

    Raises:
        RuntimeError: a process failed.
    """
    # A second less for each life, which the libraries' whole seconds may cut from it: so that no
    # process begins a third.
    seconds = LIVES * (lifetime_seconds - LEEWAY_SECONDS - 1)
    with FakeEnable(CLIENT, token_lifetime=timedelta(seconds=lifetime_seconds)) as enable:
        callers = CALLERS // PROCESSES
        numbers = (PROCESSES, callers, VENDS // CALLERS, seconds, LEEWAY_SECONDS)
        run = subprocess.run(
            [
                sys.executable,
                ROOT / "benchmarks" / "peers" / "oauth_clients.py",
                library,
                packages,
                enable.token_url,
                *map(str, numbers),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode:
            raise RuntimeError(f"{library}: {run.stderr[-2000:]}")
        return len(enable.token_requests)
