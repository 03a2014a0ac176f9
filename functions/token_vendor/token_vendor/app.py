"""The vend function: knows API Gateway's events and answers, and wires the rest."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Final, Self

import boto3
from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext

from token_broker import settings
from token_broker.aws import CLIENT_CONFIG, describe_fault
from token_broker.errors import (
    BrokerError,
    CallerNotAllowed,
    InvalidRequest,
    NoLiveToken,
    UnknownGrant,
)
from token_broker.grants import load_grants
from token_broker.metrics import emit
from token_broker.models import VendedToken, rfc3339
from token_broker.token_store import ParameterTokenStore
from token_vendor.vend import RETRY_AFTER, Vendor, VendRequest

SERVICE: Final = "token-vendor"

logger = Logger(service=SERVICE)

ERRORS: Final[Mapping[type[BrokerError], tuple[int, str]]] = {
    InvalidRequest: (400, "invalid_request"),
    CallerNotAllowed: (403, "access_denied"),
    UnknownGrant: (404, "unknown_grant"),
    NoLiveToken: (503, "temporarily_unavailable"),
}
"""Status and `error` code of each refusal; anything else that fails is a 503 too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the template tells the function."""

    token_parameter_prefix: str
    token_cache: timedelta

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Read the settings.

        Raises:
            ConfigurationError: a variable is missing or out of its range.
        """
        return cls(
            token_parameter_prefix=settings.text(environ, "TOKEN_PARAMETER_PREFIX"),
            token_cache=settings.seconds(environ, "TOKEN_CACHE_SECONDS", least=0, most=300),
        )


@cache
def _vendor() -> Vendor:
    """Wired once per environment, at its first invocation."""
    config = Settings.from_environ(os.environ)
    return Vendor(
        grants=load_grants(),
        store=ParameterTokenStore(
            boto3.client("ssm", config=CLIENT_CONFIG), prefix=config.token_parameter_prefix
        ),
        cache_window=config.token_cache,
        on_read_fault=_log_read_fault,
    )


@logger.inject_lambda_context
def lambda_handler(event: object, context: LambdaContext) -> dict[str, object]:  # noqa: ARG001
    """Answer `GET /tokens/{grant}`.

    Args:
        event: an API Gateway REST proxy event (payload 1.0), the caller IAM-authorised.
        context: Lambda's own.

    Returns:
        A proxy response: the token, or an OAuth-shaped error.
    """
    grant, caller_arn = "", ""
    try:
        caller_arn = _caller_arn(event)
        grant = _grant(event)
        request = VendRequest(grant=grant, caller_arn=caller_arn, min_ttl=_min_ttl(event))
        token = _vendor().vend(request)
    except BrokerError as error:
        return _refuse(error, grant, caller_arn)
    except Exception as error:
        return _refuse_for_fault(error, grant, caller_arn)
    vended = VendedToken.of(token, datetime.now(UTC))
    logger.info(
        "token vended",
        extra={
            "grant": grant,
            "caller": caller_arn,
            "scope": token.scope,
            "fingerprint": token.fingerprint,
            "expires_at": rfc3339(token.expires_at),
            "seconds_left": vended.expires_in,
        },
    )
    emit(SERVICE, {"Vended": 1}, grant=grant)
    return _answer(200, vended.to_json(), {"Pragma": "no-cache"})


def _at(value: object, *path: str) -> object:
    """What lies at a path of nested JSON objects; None where the path ends early."""
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _caller_arn(event: object) -> str:
    """Who signed the request; without a signature nothing is vended.

    Raises:
        CallerNotAllowed: the event did not pass API Gateway's IAM authorisation.
    """
    caller_arn = _at(event, "requestContext", "identity", "userArn")
    if not isinstance(caller_arn, str) or not caller_arn:
        raise CallerNotAllowed
    return caller_arn


def _grant(event: object) -> str:
    """The grant that IAM authorised the caller for: the last segment of the path.

    A wildcard policy such as `tokens/d*` also lets `tokens/deals/` through, so the path
    and the path parameter must agree to the letter.

    Raises:
        UnknownGrant: they do not.
    """
    grant, path = _at(event, "pathParameters", "grant"), _at(event, "path")
    if not isinstance(grant, str) or not isinstance(path, str):
        raise UnknownGrant
    if not path.endswith(f"/tokens/{grant}"):
        raise UnknownGrant
    return grant


def _min_ttl(event: object) -> timedelta:
    """The `min_ttl` query parameter, in seconds.

    Raises:
        InvalidRequest: it is not one whole number, zero or more.
    """
    values = _at(event, "multiValueQueryStringParameters", "min_ttl")
    if values is None:
        return timedelta()
    value = values[0] if isinstance(values, list) and len(values) == 1 else None
    if not isinstance(value, str) or not (value.isascii() and value.isdigit()):
        raise InvalidRequest("min_ttl is not a whole number of seconds, zero or more")
    digits = value.lstrip("0")
    return timedelta(seconds=int(digits or "0") if len(digits) < 10 else 999_999_999)


def _refuse(error: BrokerError, grant: str, caller_arn: str) -> dict[str, object]:
    """Answer a refusal; the log says as much as the caller is told, and who asked."""
    if type(error) not in ERRORS:
        return _refuse_for_fault(error, grant, caller_arn)
    status, code = ERRORS[type(error)]
    logger.warning(
        "token refused",
        extra={"grant": grant[:64], "caller": caller_arn, "reason": code, "cause": str(error)},
    )
    emit(SERVICE, {"VendRefused": 1}, reason=code)
    retry_after = error.retry_after if isinstance(error, NoLiveToken) else None
    return _error(status, code, str(error), retry_after)


def _refuse_for_fault(error: Exception, grant: str, caller_arn: str) -> dict[str, object]:
    """Answer a fault of ours: the caller gets a bland sentence, the log the cause."""
    reason, cause = describe_fault(error)
    logger.error(
        "token not vended for a fault",
        extra={"grant": grant[:64], "caller": caller_arn, "reason": reason, "cause": cause},
    )
    emit(SERVICE, {"VendRefused": 1}, reason=reason)
    emit(SERVICE, {"VendFault": 1})
    return _error(503, "temporarily_unavailable", "the token cannot be read now", RETRY_AFTER)


def _log_read_fault(error: Exception) -> None:
    reason, cause = describe_fault(error)
    logger.warning("remembered token vended", extra={"reason": reason, "cause": cause})


def _error(
    status: int, code: str, description: str, retry_after: timedelta | None = None
) -> dict[str, object]:
    body = json.dumps({"error": code, "error_description": description})
    if retry_after is None:
        return _answer(status, body, {})
    return _answer(status, body, {"Retry-After": str(int(retry_after.total_seconds()))})


def _answer(status: int, body: str, headers: Mapping[str, str]) -> dict[str, object]:
    return {
        "statusCode": status,
        "headers": {"Content-Type": "application/json", "Cache-Control": "no-store", **headers},
        "body": body,
    }
