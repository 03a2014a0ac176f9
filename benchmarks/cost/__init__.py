"""What a month costs at public list prices: the broker, and what users would do instead.

Left out, because they are the same everywhere or next to nothing: data transfer, SNS, SQS.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Final

from benchmarks.results import Row
from token_broker.grants import load_grants

LISTED_ON: Final = date(2026, 6, 30)
"""What AWS's public pages listed for Europe (Ireland), in USD, then; check before use."""

GRANTS: Final = (1, 50, 500)
VENDS: Final = (100_000, 10_000_000, 1_000_000_000)
"""A month."""

HOURS: Final = 730
RUNS: Final = HOURS * 60
TOKENS_PER_HOUR: Final = 60 / 50
"""A token of an hour, renewed ten minutes before it expires."""

MEMORY_GB: Final = 0.5
ALARMS: Final = 8
HIGH_RESOLUTION_ALARMS: Final = 1
VEND_SECONDS: Final = 0.003
"""Billed for a warm vend."""

BUSY_SECONDS: Final = 0.01
"""An environment is taken for so long by a vend."""

PEAK: Final = 5
"""The busiest moment against the mean: as many environments stay warm as it needs."""

REFRESHER_METRICS: Final = 3
"""`SecondsToExpiry`, `DueWindowLeft` and `Renewed`: what is counted while nothing is wrong."""

REFRESHER_METRICS_BY_GRANT: Final = 2
"""The first two of them."""

VENDOR_METRICS: Final = 1
"""`Vended`; with MetricsByGrant one more for each grant."""

INVOCATION_LOG_BYTES: Final = 260
"""Lambda's own three lines of each invocation."""

VEND_LOG_BYTES: Final = 380
"""The audit line of a vend by a role, from which CloudWatch counts `Vended`."""

RUN_LOG_BYTES: Final = 520
GRANT_LOG_BYTES: Final = 95
RENEWAL_LOG_BYTES: Final = 450
"""The metrics line and the line of a refresh run; in it each grant; the audit line of a renewal."""

METRICS_LINE_BYTES: Final = 300
"""With MetricsByGrant, a line of metrics of each grant in each run, and of each vend."""

REFRESHER_HOURS: Final = 1
"""How long an environment of the refresher lives; it decrypts every token once."""

STANDARD_THROUGHPUT_GRANTS: Final = 2_000
"""With more, a refresh run's reads take the account's standard quota for over 5 seconds."""

STANDARD_THROUGHPUT_READS: Final = 20
"""A second: half of the account's standard quota; with more reads by vend it is too little."""

SERVICES_PER_GRANT: Final = 5
PROCESSES_PER_SERVICE: Final = 4
"""What "a secret in every service" stands for."""


@dataclass(frozen=True, slots=True)
class Price:
    """A price per unit, in steps, and what is free in every account for ever.

    Attributes:
        steps: (up to how many units, USD for each), the last without an end.
        allowance: units that are free each month, for the whole account.
    """

    steps: tuple[tuple[float, float], ...]
    allowance: float = 0

    def of(self, units: float, *, has_allowance: bool = True) -> float:
        """USD for so many units a month."""
        left = max(units - (self.allowance if has_allowance else 0), 0)
        usd = below = 0.0
        for upper, each in self.steps:
            part = min(left, upper - below)
            usd, left, below = usd + part * each, left - part, upper
        return usd


def _flat(usd: float, per: float = 1, allowance: float = 0) -> Price:
    return Price(((math.inf, usd / per),), allowance)


PRICES: Final[Mapping[str, Price]] = {
    "KMS key": _flat(1.00),
    "KMS requests": _flat(0.03, per=10_000, allowance=20_000),
    "secret": _flat(0.40),
    "secret reads": _flat(0.05, per=10_000),
    # Standard parameters (up to 4 KB) at standard throughput are free.
    "Parameter Store, higher throughput": _flat(0.05, per=10_000),
    "Lambda requests": _flat(0.20, per=1_000_000, allowance=1_000_000),
    "Lambda GB-seconds, arm64": _flat(0.0000133334, allowance=400_000),
    "API Gateway, REST": Price(
        ((333e6, 3.50e-6), (1_000e6, 2.80e-6), (20_000e6, 2.38e-6), (math.inf, 1.51e-6))
    ),
    "Scheduler": _flat(1.00, per=1_000_000, allowance=14_000_000),
    "logs, GB taken in": _flat(0.57, allowance=5),
    "logs, GB kept": _flat(0.03, allowance=5),
    "metrics": Price(((10_000, 0.30), (250_000, 0.10), (math.inf, 0.05)), allowance=10),
    "alarms": _flat(0.10, allowance=10),
    "alarms, high resolution": _flat(0.30),
    "dashboards": _flat(3.00, allowance=3),
    "custom events": _flat(1.00, per=1_000_000),
    "API destinations": _flat(0.20, per=1_000_000),
}
"""By what they are for; units as in the names, a month for what is kept."""


def broker(grants: int, vends: int, *, metrics_by_grant: bool = False) -> dict[str, float]:
    """The units of a month of this stack, by the names of PRICES.

    Args:
        grants: all of them have callers, if there is any vend.
        vends: a month.
        metrics_by_grant: the template's parameter MetricsByGrant.
    """
    environments = math.ceil(vends / (HOURS * 3600) * BUSY_SECONDS * PEAK)
    vend_reads = min(vends, environments * grants * RUNS)
    interactions = RUNS * (grants + 1) + vend_reads
    needs_throughput = (
        grants > STANDARD_THROUGHPUT_GRANTS or vend_reads > STANDARD_THROUGHPUT_READS * HOURS * 3600
    )
    renewals = HOURS * TOKENS_PER_HOUR * grants
    decrypted = renewals + HOURS / REFRESHER_HOURS * grants
    run_seconds = RUNS * (0.05 + 0.00125 * grants) + renewals * 0.3 / 8
    log_bytes: float = INVOCATION_LOG_BYTES * (RUNS + vends) + vends * VEND_LOG_BYTES
    log_bytes += RUNS * (RUN_LOG_BYTES + grants * GRANT_LOG_BYTES) + renewals * RENEWAL_LOG_BYTES
    if metrics_by_grant:
        log_bytes += METRICS_LINE_BYTES * (RUNS * grants + vends)
    log_gb = log_bytes / 1e9
    metrics = REFRESHER_METRICS + (VENDOR_METRICS if vends else 0)
    if metrics_by_grant:
        metrics += grants * (REFRESHER_METRICS_BY_GRANT + (VENDOR_METRICS if vends else 0))
    return {
        "KMS key": 1,
        "KMS requests": decrypted + vend_reads + 2 * renewals,
        "secret": 1,
        "secret reads": min(renewals, RUNS),
        "Parameter Store, higher throughput": interactions if needs_throughput else 0,
        "Lambda requests": RUNS + vends,
        "Lambda GB-seconds, arm64": MEMORY_GB * (run_seconds + vends * VEND_SECONDS),
        "API Gateway, REST": vends,
        "Scheduler": RUNS,
        "logs, GB taken in": log_gb,
        "logs, GB kept": log_gb * 0.15,  # 30 days, compressed
        "metrics": metrics,
        "alarms": ALARMS,
        "alarms, high resolution": HIGH_RESOLUTION_ALARMS,
        "dashboards": 1,
    }


def secret_in_every_service(services: int) -> dict[str, float]:
    """Each service asks Enable itself, and keeps the token in each of its processes.

    The vends of a month do not matter: a process looks at its own memory.
    """
    reads = services * PROCESSES_PER_SERVICE * HOURS * TOKENS_PER_HOUR
    return {"KMS key": 1, "KMS requests": reads, "secret": services, "secret reads": reads}


def broker_through_client_library(services: int) -> dict[str, float]:
    """The stack as it is shipped; each process vends once in a life of the token, and keeps it."""
    lives = HOURS * TOKENS_PER_HOUR
    return broker(len(load_grants()), round(services * PROCESSES_PER_SERVICE * lives))


def parameter_in_every_service(services: int) -> dict[str, float]:
    """The stack renews; nobody vends: each process reads and decrypts a parameter itself."""
    units = broker(len(load_grants()), 0)
    reads = services * PROCESSES_PER_SERVICE * RUNS  # once a minute
    return units | {"KMS requests": units["KMS requests"] + reads}


def api_destinations(calls: int) -> dict[str, float]:
    """EventBridge calls Enable's API for each event; it gives nobody a token, nor the response."""
    return {"custom events": calls, "API destinations": calls}


def usd(units: Mapping[str, float], *, has_allowance: bool = True) -> dict[str, float]:
    """What each item costs."""
    return {n: PRICES[n].of(units[n], has_allowance=has_allowance) for n in units}


def idle_usd(*, has_allowance: bool = True) -> float:
    """A month of the stack as it is shipped, with all its grants and no caller."""
    return sum(usd(broker(len(load_grants()), 0), has_allowance=has_allowance).values())


def rows() -> list[Row]:
    """What has a limit, and the table."""
    table = [
        Row.at_most(
            f"idle, the {len(load_grants())} grants that are shipped",
            idle_usd(),
            3,
            "USD",
        ),
        Row.at_most(
            "the same where the account's free allowances are used up",
            idle_usd(has_allowance=False),
            7,
            "USD",
        ),
        Row.at_most(
            "500 grants, 100,000 vends, free allowances used up",
            sum(usd(broker(500, 100_000), has_allowance=False).values()),
            60,
            "USD",
        ),
    ]
    for grants in GRANTS:
        for vends in VENDS:
            items = usd(broker(grants, vends))
            dearest = sorted(items, key=lambda name: -items[name])[:3]
            services = sum(usd(secret_in_every_service(SERVICES_PER_GRANT * grants)).values())
            events = sum(usd(api_destinations(vends)).values())
            table.append(
                Row(
                    f"{grants} grants, {vends:,} vends",
                    figure=f"{sum(items.values()):,.0f} USD",
                    detail=(
                        f"a secret in every service {services:,.0f}, "
                        f"API destinations {events:,.0f}; of ours "
                        + ", ".join(f"{name} {items[name]:,.0f}" for name in dearest)
                    ),
                )
            )
    return table
