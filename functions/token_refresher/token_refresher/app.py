"""The refresh function: knows event, context and environment, and wires the rest."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from typing import Final, Self

import boto3
import urllib3
from aws_lambda_powertools import Logger
from aws_lambda_powertools.metrics import EphemeralMetrics, MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from token_broker import settings
from token_broker.aws import CLIENT_CONFIG, describe_fault
from token_broker.errors import RenewalFailed
from token_broker.grants import load_grants
from token_broker.models import rfc3339
from token_broker.token_store import ParameterTokenStore
from token_refresher.credentials import read_credentials
from token_refresher.refresh import Outcome, Refresher, RefreshRequest, State, causes_of_failure
from token_refresher.token_endpoint import TokenEndpoint

SERVICE: Final = "token-refresher"
NAMESPACE: Final = "EnableTokenBroker"
TIME_TO_REPORT: Final = timedelta(seconds=2)
"""Kept back from the invocation's time, so that what happened is still told."""

logger = Logger(service=SERVICE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the template tells the function."""

    token_url: str
    client_secret_arn: str
    token_parameter_prefix: str
    token_key_arn: str
    refresh_ahead: timedelta

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Read the settings.

        Raises:
            ConfigurationError: a variable is missing or out of its range.
        """
        return cls(
            token_url=settings.text(environ, "TOKEN_URL"),
            client_secret_arn=settings.text(environ, "CLIENT_SECRET_ARN"),
            token_parameter_prefix=settings.text(environ, "TOKEN_PARAMETER_PREFIX"),
            token_key_arn=settings.text(environ, "TOKEN_KEY_ARN"),
            refresh_ahead=settings.seconds(environ, "REFRESH_AHEAD_SECONDS", least=30, most=43_200),
        )


@cache
def _refresher() -> Refresher:
    """Wired once per environment, at its first invocation."""
    config = Settings.from_environ(os.environ)
    session = boto3.Session()
    secrets = session.client("secretsmanager", config=CLIENT_CONFIG)
    store = ParameterTokenStore(
        session.client("ssm", config=CLIENT_CONFIG),
        prefix=config.token_parameter_prefix,
        key_id=config.token_key_arn,
    )
    return Refresher(
        grants=load_grants(),
        store=store,
        endpoint=TokenEndpoint(config.token_url, pool=urllib3.PoolManager(maxsize=16)),
        read_credentials=partial(read_credentials, secrets, config.client_secret_arn),
        refresh_ahead=config.refresh_ahead,
        describe_fault=describe_fault,
    )


@logger.inject_lambda_context
def lambda_handler(event: object, context: LambdaContext) -> dict[str, object]:
    """Renew what is due.

    Args:
        event: any schedule event, `{}`, or `{"force": true, "grants": ["deals"]}`.
        context: Lambda's own.

    Returns:
        Each grant's state, expiry and fingerprint under `grants`; no token.

    Raises:
        InvalidRequest: the event is something else.
        ConfigurationError: the function is not set up.
        RenewalFailed: at least one due grant was not renewed, so that AWS counts the
            failure, tries again and puts the event in the failure queue.
    """
    request = RefreshRequest.from_event(event)

    def time_left() -> timedelta:
        return timedelta(milliseconds=context.get_remaining_time_in_millis()) - TIME_TO_REPORT

    outcomes = _refresher().run(request, time_left=time_left)
    now = datetime.now(UTC)
    for outcome in outcomes:
        _report(outcome, now)
    if causes := causes_of_failure(outcomes):
        raise RenewalFailed(causes)
    return {"grants": {outcome.grant: _summary(outcome) for outcome in outcomes}}


def _summary(outcome: Outcome) -> dict[str, object]:
    facts = {
        "state": outcome.state.value,
        "expires_at": rfc3339(outcome.expires_at) if outcome.expires_at else None,
        "fingerprint": outcome.fingerprint,
        "reason": outcome.reason,
        "cause": outcome.message,
        "attempts": outcome.attempts,
    }
    return {name: value for name, value in facts.items() if value}


def _report(outcome: Outcome, now: datetime) -> None:
    """One structured line and one set of metrics for each grant."""
    log = logger.error if outcome.state is State.FAILED else logger.info
    log("grant " + outcome.state.value, extra={"grant": outcome.grant, **_summary(outcome)})
    metrics = EphemeralMetrics(namespace=NAMESPACE, service=SERVICE)
    metrics.add_dimension("grant", outcome.grant)
    if outcome.expires_at:
        left = max((outcome.expires_at - now).total_seconds(), 0)
        metrics.add_metric("SecondsToExpiry", MetricUnit.Seconds, left)
    if outcome.state is State.RENEWED:
        metrics.add_metric("Renewed", MetricUnit.Count, 1)
    if outcome.state is State.FAILED:
        metrics.add_dimension("reason", outcome.reason)
        metrics.add_metric("RenewalFailed", MetricUnit.Count, 1)
    metrics.flush_metrics()
