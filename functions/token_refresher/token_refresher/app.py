"""The refresh function: knows event, context and environment, and wires the rest."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import batched
from typing import Final, Self

import boto3
from aws_lambda_powertools.utilities.typing import LambdaContext

from token_broker import aws, settings
from token_broker.aws import CLIENT_CONFIG, WRITER_CONFIG, describe_fault
from token_broker.errors import ConfigurationError, RenewalFailed
from token_broker.grants import DEFAULT_CONNECTION, load_grants_file
from token_broker.log import service_logger
from token_broker.models import rfc3339
from token_broker.token_store import ParameterTokenStore
from token_refresher.authorities import read_authorities
from token_refresher.connection_state import ConnectionStateStore
from token_refresher.credentials import SecretReader
from token_refresher.enable.endpoint import TokenEndpoint
from token_refresher.enable.http_client import HttpClient
from token_refresher.measurements import measure
from token_refresher.outcomes import Outcome, causes_of_failure
from token_refresher.parameter_reader import ParameterReader
from token_refresher.refresh import Refresher
from token_refresher.refresh_request import RefreshRequest
from token_refresher.reported import Reported

SERVICE: Final = "token-refresher"
TIME_TO_REPORT: Final = timedelta(seconds=2)
"""Kept back from the invocation's time, so that what happened is still reported."""
NOT_STARTED: Final = "refresh run not started"
"""The log line of a run that a setting or the grants stop."""
RUN: Final = "refresh run"
"""The log line of each run."""
IN_SHORT: Final = ("state", "expires_at", "connection", "scope")
"""What a run's line says of each grant, in this order."""
GRANTS_A_LINE: Final = 500
"""A log event may have 256 KB; a grant takes about 100 bytes, and with long names 500."""

logger = service_logger(SERVICE)
_reported = Reported()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the template tells the function."""

    token_url: str
    secret_prefix: str
    token_parameter_prefix: str
    token_key_arn: str
    refresh_ahead: timedelta
    parallelism: int
    ca_bundle_parameter: str

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Read the settings.

        Raises:
            ConfigurationError: a variable is missing or out of its range.
        """
        return cls(
            token_url=settings.text(environ, "TOKEN_URL"),
            secret_prefix=settings.text(environ, "SECRET_PREFIX"),
            token_parameter_prefix=settings.text(environ, "TOKEN_PARAMETER_PREFIX"),
            token_key_arn=settings.text(environ, "TOKEN_KEY_ARN"),
            refresh_ahead=settings.seconds(environ, "REFRESH_AHEAD_SECONDS", least=30, most=43_200),
            parallelism=settings.whole_number(environ, "RENEWAL_PARALLELISM", least=1, most=32),
            ca_bundle_parameter=environ.get("CA_BUNDLE_PARAMETER", ""),
        )


@cache
def _refresher() -> Refresher:
    """Wired once per environment, at its first invocation."""
    config = Settings.from_environ(os.environ)
    file = load_grants_file()
    session = boto3.Session(botocore_session=aws.session())
    ssm = session.client("ssm", config=CLIENT_CONFIG)
    secrets = session.client("secretsmanager", config=CLIENT_CONFIG)
    http = HttpClient(authorities=lambda: read_authorities(ssm, config.ca_bundle_parameter))
    urls = {name: connection.token_url for name, connection in file.connections.items()}
    urls[DEFAULT_CONNECTION] = config.token_url
    store = ParameterTokenStore(
        ssm,
        writer=session.client("ssm", config=WRITER_CONFIG),
        prefix=config.token_parameter_prefix,
        key_id=config.token_key_arn,
    )
    states = ConnectionStateStore(ssm, prefix=config.token_parameter_prefix)
    return Refresher(
        grants=file.grants,
        endpoints={name: TokenEndpoint(url, http=http) for name, url in urls.items()},
        reader=ParameterReader(ssm, store=store, states=states),
        store=store,
        states=states,
        secrets=SecretReader(secrets, prefix=config.secret_prefix),
        refresh_ahead=config.refresh_ahead,
        parallelism=config.parallelism,
        describe_fault=describe_fault,
    )


def _started() -> Refresher:
    """The wired refresher, or a line in the log that says why there is none.

    Raises:
        ConfigurationError: the function is not set up.
    """
    try:
        return _refresher()
    except ConfigurationError as error:
        reason, cause = describe_fault(error)
        extra = {"reason": reason, "cause": cause}
        logger.error(NOT_STARTED, extra=extra)  # noqa: TRY400 - without a stack trace
        raise


@logger.inject_lambda_context(log_event=False)  # not by POWERTOOLS_LOGGER_LOG_EVENT either
def lambda_handler(event: object, context: LambdaContext) -> dict[str, object]:
    """Renew what is due.

    Args:
        event: any schedule event, `{}`, `{"force": true, "grants": ["deals"]}`, or a change
            event of Secrets Manager.
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

    refresher = _started()
    outcomes = refresher.run(request, time_left=time_left)
    now = datetime.now(UTC)
    _log_run(outcomes)
    for outcome in outcomes:
        if _reported.is_news(outcome, now):
            _log(outcome, now)
    windows = {outcome.grant: refresher.due_window_left(outcome) for outcome in outcomes}
    measure(SERVICE, outcomes, now, windows)
    if causes := causes_of_failure(outcomes):
        raise RenewalFailed(causes)
    return {"grants": {outcome.grant: _summary(outcome) for outcome in outcomes}}


def _summary(outcome: Outcome) -> dict[str, object]:
    facts = {
        "state": outcome.state.value,
        "renew_reason": outcome.renew_reason.value if outcome.renew_reason else None,
        "expires_at": rfc3339(outcome.expires_at) if outcome.expires_at else None,
        "fingerprint": outcome.fingerprint,
        "secret_stage": outcome.secret_stage,
        "reason": outcome.reason,
        "cause": outcome.cause,
        "retry_at": rfc3339(outcome.retry_at) if outcome.retry_at else None,
        "attempts": outcome.attempts,
    }
    return {name: value for name, value in facts.items() if value}


def _log_run(outcomes: Sequence[Outcome]) -> None:
    """Each grant's state in short, before the lines that say more of some of them."""
    for some in batched(outcomes, GRANTS_A_LINE, strict=False):
        logger.info(RUN, extra={"grants": {each.grant: _in_short(each) for each in some}})


def _in_short(outcome: Outcome) -> tuple[str, ...]:
    expires_at = rfc3339(outcome.expires_at) if outcome.expires_at else ""
    return outcome.state.value, expires_at, outcome.connection, " ".join(outcome.scope)


def _log(outcome: Outcome, now: datetime) -> None:
    """One structured line for a grant: the audit record of a renewal, or why there was none."""
    write = logger.info
    if outcome.reason or outcome.secret_stage:
        write = logger.error if outcome.is_overdue else logger.warning
    write(
        f"grant {outcome.state.value}",
        extra={
            "grant": outcome.grant,
            "scope": " ".join(outcome.scope),
            "connection": outcome.connection,
            "secret_version": outcome.secret_version,
            "seconds_left": outcome.seconds_left(now),
            **_summary(outcome),
        },
    )
