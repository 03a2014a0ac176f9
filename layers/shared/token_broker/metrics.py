"""What the functions count, as CloudWatch embedded metric format on standard output.

Each metric is emitted by service: the alarms look at whole services. CloudWatch charges for each
combination of dimensions, so those that grow with `grants.toml` are emitted only if the template's
parameter `MetricsByGrant` is `true`. docs/operate.md says what each metric is for.

Written here and not by Powertools' Metrics, whose provider takes a third of a warm request:
the line is plain JSON (CloudWatch User Guide, "Specification: Embedded metric format").
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from typing import Final

NAMESPACE: Final = "EnableTokenBroker"
"""The template adds the stack's name, so that two stacks of an account do not mix."""

METRICS: Final[Mapping[str, str]] = {
    "SecondsToExpiry": "Seconds",
    "DueWindowLeft": "Percent",
    "Renewed": "Count",
    "RenewalFailed": "Count",
    "SecretFallbackUsed": "Count",
    "Deferred": "Count",
    "Blocked": "Count",
    "CorruptToken": "Count",
    "Vended": "Count",
    "VendRefused": "Count",
    "VendFault": "Count",
    "WouldRefuse": "Count",
    "TokenRejected": "Count",
}
"""Each metric's unit."""

HIGH_RESOLUTION: Final = frozenset({"SecretFallbackUsed"})
"""Kept by the second, so that its alarm needs ten of them and not sixty."""


def emit(service: str, values: Mapping[str, float], **details: str) -> None:
    """Write one metrics line to standard output.

    Args:
        service: `token-refresher` or `token-vendor`.
        values: by metric name.
        details: further dimensions, whose values are few; with any, each metric is emitted by
            service and by service and details.
    """
    dimensions = [["service"], ["service", *details]] if details else [["service"]]
    _write(service, values, details, dimensions)


def emit_by_grant(service: str, values: Mapping[str, float], **details: str) -> None:
    """Write one metrics line with dimensions that grow with the grants, if that is switched on.

    Args:
        service: `token-refresher` or `token-vendor`.
        values: by metric name.
        details: the dimensions beside `service`, such as the grant.
    """
    if os.environ.get("METRICS_BY_GRANT") == "true":
        _write(service, values, details, [["service", *details]])


def _write(
    service: str,
    values: Mapping[str, float],
    details: Mapping[str, str],
    dimensions: list[list[str]],
) -> None:
    directive = {
        "Namespace": os.environ.get("POWERTOOLS_METRICS_NAMESPACE", NAMESPACE),
        "Dimensions": dimensions,
        "Metrics": [_definition(name) for name in values],
    }
    record = {
        "_aws": {"Timestamp": time.time_ns() // 1_000_000, "CloudWatchMetrics": [directive]},
        "service": service,
        **details,
        **{name: [float(value)] for name, value in values.items()},
    }
    line = json.dumps(record, separators=(",", ":"))
    sys.stdout.write(line + "\n")  # in one piece: print writes the end by itself


def _definition(name: str) -> Mapping[str, str | int]:
    resolution = {"StorageResolution": 1} if name in HIGH_RESOLUTION else {}
    return {"Name": name, "Unit": METRICS[name], **resolution}
