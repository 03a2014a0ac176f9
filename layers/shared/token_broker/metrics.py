"""What the functions count, as CloudWatch embedded metric format on standard output.

Every metric is emitted by service, and where more is known also by that, so that an alarm
may look at the whole and a person at the part. docs/operate.md says what each is for.

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
        details: further dimensions; with any, each metric is emitted by service and by
            service and details.
    """
    directive = {
        "Namespace": os.environ.get("POWERTOOLS_METRICS_NAMESPACE", NAMESPACE),
        "Dimensions": [["service"], ["service", *details]] if details else [["service"]],
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
