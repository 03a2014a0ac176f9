"""Renewing many due grants at once: how close to the ideal, and how much memory.

The refresh function's own wiring, in a process of its own that has renewed one grant before (it
runs every minute), against the embedded AWS and the fake Enable, which takes 200 ms for
each token. The ideal is what the upstream latency alone takes: the most urgent grant goes first
and alone, so that a wrong secret costs one request, and the others `parallelism` at a time.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from benchmarks.results import Row
from local.embedded_aws import ACCOUNT, EmbeddedAws
from local.fake_enable import Client, FakeEnable

LATENCY: Final = timedelta(milliseconds=200)
PARALLELISM: Final = 8
_MANY: Final = 100
SCOPES: Final = frozenset(f"read:area-{number}" for number in range(500))

_CHILD: Final = """
import json, resource, sys, time
from dataclasses import replace
from datetime import timedelta
from token_broker.grants import Grant
from token_refresher import app
from token_refresher.refresh_request import RefreshRequest

def peak_mb():
    try:
        with open("/proc/self/status") as status:  # getrusage would count the parent's before exec
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

def time_left():
    return timedelta(minutes=5)

count = int(sys.argv[1])
grants = {f"grant-{n}": Grant(scope=(f"read:area-{n}",)) for n in range(count)}
before = replace(app._refresher(), grants={"before": Grant(scope=("read:area-0",))})
before.run(RefreshRequest(), time_left=time_left)
refresher = replace(before, grants=grants)
began, began_cpu = time.perf_counter(), time.process_time()
outcomes = refresher.run(RefreshRequest(), time_left=time_left)
seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - began_cpu
renewed = sum(outcome.state == "renewed" for outcome in outcomes)
found = {"seconds": seconds, "cpu_seconds": cpu_seconds, "renewed": renewed}
print(json.dumps(found | {"peak_mb": peak_mb()}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """One measured run.

    Attributes:
        grants: how many were due.
        seconds: how long it took, the function's start not counted.
        cpu_seconds: the processor time of it.
        ideal_seconds: what the upstream latency alone takes.
        peak_mb: the process's peak memory, in MiB.
        requests: token requests made.
    """

    grants: int
    seconds: float
    cpu_seconds: float
    ideal_seconds: float
    peak_mb: float
    requests: int

    @property
    def ratio(self) -> float:
        """Measured by ideal."""
        return self.seconds / self.ideal_seconds

    @property
    def cpu_milliseconds(self) -> float:
        """For each grant."""
        return self.cpu_seconds * 1000 / self.grants


def measure(grants: int) -> Renewal:
    """Renew so many grants, none of which has a token.

    Raises:
        RuntimeError: not all were renewed.
    """
    client = Client(
        client_id="bench",
        client_secret="bench-secret",
        dealtrack_registration_id="bench",
        permitted_scopes=SCOPES,
    )
    with FakeEnable(client) as enable, EmbeddedAws() as aws:
        enable.latency = LATENCY
        administrator = aws.administrator(ACCOUNT)
        key = administrator.client("kms").create_key()["KeyMetadata"]["Arn"]
        administrator.client("secretsmanager").create_secret(
            Name="bench/connections/default",
            SecretString=json.dumps(
                {
                    "client_id": client.client_id,
                    "client_secret": client.client_secret,
                    "dealtrack_registration_id": client.dealtrack_registration_id,
                }
            ),
        )
        run = subprocess.run(
            [sys.executable, "-c", _CHILD, str(grants)],
            env={
                "PATH": os.environ["PATH"],
                "AWS_ENDPOINT_URL": aws.endpoint_url,
                "AWS_ACCESS_KEY_ID": ACCOUNT,
                "AWS_SECRET_ACCESS_KEY": "any",
                "AWS_DEFAULT_REGION": "eu-west-1",
                "TOKEN_URL": enable.token_url,
                "SECRET_PREFIX": "bench/connections/",
                "TOKEN_KEY_ARN": key,
                "TOKEN_PARAMETER_PREFIX": "/enable-tokens/bench",
                "REFRESH_AHEAD_SECONDS": "600",
                "RENEWAL_PARALLELISM": str(PARALLELISM),
            },
            cwd=Path(__file__).resolve().parent.parent,
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode:
            raise RuntimeError(run.stderr[-2000:])
        found = json.loads(run.stdout.splitlines()[-1])
        if found["renewed"] != grants:
            raise RuntimeError(f"{found['renewed']} of {grants} were renewed")
        return Renewal(
            grants=grants,
            seconds=found["seconds"],
            cpu_seconds=found["cpu_seconds"],
            ideal_seconds=(1 + math.ceil((grants - 1) / PARALLELISM)) * LATENCY.total_seconds(),
            peak_mb=found["peak_mb"],
            requests=len(enable.token_requests) - 1,
        )


def _median(grants: int, runs: int) -> Renewal:
    """The middle one of so many runs; one run of many grants is long enough by itself."""
    found = [measure(grants) for _ in range(runs if grants <= _MANY else 1)]
    return sorted(found, key=lambda run: run.seconds)[len(found) // 2]


def rows(counts: Sequence[int], runs: int) -> list[Row]:
    """How close to the ideal each number of grants is, and what the largest takes of memory."""
    found = [_median(count, runs) for count in counts]
    table = [
        Row(
            f"{run.grants} grants, against the ideal of {run.ideal_seconds:.1f} s",
            figure=f"{run.ratio:.3g} ×",
            detail=f"{run.seconds:.2f} s",
        )
        for run in found
    ]
    least, most = found[0], found[-1]
    requests = sum(run.requests for run in found) / sum(run.grants for run in found)
    growth = most.cpu_milliseconds / least.cpu_milliseconds
    return [
        *table,
        Row.at_most("requests to Enable", requests, 1, "for each grant"),
        Row.at_most(
            f"processor time of a grant, {most.grants} against {least.grants}",
            growth,
            1.6,
            "×",
            f"{most.cpu_milliseconds:.1f} ms : {least.cpu_milliseconds:.1f} ms",
        ),
        Row.at_most(
            f"memory of {most.grants} against {least.grants}",
            most.peak_mb / least.peak_mb,
            1.2,
            "×",
            f"{most.peak_mb:.0f} MB : {least.peak_mb:.0f} MB",
        ),
    ]
