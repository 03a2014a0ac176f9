"""What the functions count, as CloudWatch embedded metric format on standard output.

Every metric is emitted by service, and where more is known also by that, so that an alarm
may look at the whole and a person at the part. docs/runbook.md says what each is for.
"""

import os
from collections.abc import Mapping
from typing import Final

from aws_lambda_powertools.metrics.provider.cloudwatch_emf.cloudwatch import (
    AmazonCloudWatchEMFProvider,
)

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
    """Print one metrics line.

    Args:
        service: `token-refresher` or `token-vendor`.
        values: by metric name.
        details: further dimensions; with any, each metric is emitted by service and by
            service and details.
    """
    metrics = AmazonCloudWatchEMFProvider(
        metric_set={},
        dimension_set={},
        metadata_set={},
        namespace=os.environ.get("POWERTOOLS_METRICS_NAMESPACE", NAMESPACE),
        service=service,
        default_dimensions={},
    )
    metrics.add_dimension("service", service)
    if details:
        metrics.add_dimensions(service=service, **details)
    for name, value in values.items():
        metrics.add_metric(name, METRICS[name], value, 1 if name in HIGH_RESOLUTION else 60)
    metrics.flush_metrics()
