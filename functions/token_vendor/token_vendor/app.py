"""The vend function: reads API Gateway's events, returns its responses, and wires the rest."""

import gc

gc.disable()  # until all is set up: a start-up makes no garbage; looking for it takes 6 % of it

import json
import os
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple, Self, cast

from token_broker import settings
from token_broker.aws import CLIENT_CONFIG, describe_fault, session
from token_broker.errors import BrokerError, NoLiveToken
from token_broker.grants import load_grants
from token_broker.log import service_logger
from token_broker.metrics import emit, emit_by_grant
from token_broker.token_store import ParameterTokenStore
from token_vendor import api_event
from token_vendor.audit_record import AuditRecord
from token_vendor.refresh_starter import RefreshStarter
from token_vendor.responses import (
    ERRORS,
    Response,
    VendedToken,
    error_response,
    json_response,
    refusal,
)
from token_vendor.vend import RETRY_AFTER, SECOND_CHANCE_WITHIN, Vendor, VendRequest

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext
    from botocore.session import Session
    from types_boto3_lambda import LambdaClient
    from types_boto3_ssm import SSMClient

SERVICE: Final = "token-vendor"

logger = service_logger(SERVICE)


class Settings(NamedTuple):
    """What the template sets for the function."""

    token_parameter_prefix: str
    token_cache: timedelta
    refresh_ahead: timedelta
    refresh_function_name: str

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Read the settings.

        Raises:
            ConfigurationError: a variable is missing or out of its range.
        """
        return cls(
            token_parameter_prefix=settings.text(environ, "TOKEN_PARAMETER_PREFIX"),
            token_cache=settings.seconds(environ, "TOKEN_CACHE_SECONDS", least=0, most=300),
            refresh_ahead=settings.seconds(environ, "REFRESH_AHEAD_SECONDS", least=30, most=43_200),
            refresh_function_name=settings.text(environ, "REFRESH_FUNCTION_NAME"),
        )


class Wiring(NamedTuple):
    """What an environment works with."""

    vendor: Vendor
    starter: RefreshStarter


@cache
def _session() -> "Session":
    """One for all clients; boto3 on top of it would take 5 % of a start-up."""
    return session()


@cache
def _wiring() -> Wiring:
    """Made once per environment."""
    config = Settings.from_environ(os.environ)
    ssm = cast("SSMClient", _session().create_client("ssm", config=CLIENT_CONFIG))
    vendor = Vendor(
        grants=load_grants(),
        store=ParameterTokenStore(ssm, prefix=config.token_parameter_prefix),
        cache_window=config.token_cache,
        refresh_ahead=config.refresh_ahead,
        on_read_fault=lambda error: _log_fault("remembered token vended", error),
        second_chance_after=_second_chance_after,
    )

    def invoke(event: Mapping[str, object]) -> None:
        _lambda_client().invoke(
            FunctionName=config.refresh_function_name,
            InvocationType="Event",
            Payload=json.dumps(event).encode(),
        )

    starter = RefreshStarter(
        invoke=invoke, on_fault=lambda error: _log_fault("refresh run not started", error)
    )
    return Wiring(vendor, starter)


def _second_chance_after(error: Exception) -> timedelta | None:
    """A wait for a throttled read alone: fresh environments that start at once share a quota."""
    if describe_fault(error)[0] != "ThrottlingException":
        return None
    _log_fault("token read once more", error)
    return SECOND_CHANCE_WITHIN * random.random()  # noqa: S311 - chance, not secrecy


@cache
def _lambda_client() -> "LambdaClient":
    """Made when it is first needed, which is seldom: a start-up does not pay for it."""
    return cast("LambdaClient", _session().create_client("lambda", config=CLIENT_CONFIG))


@logger.inject_lambda_context(log_event=False)  # not by POWERTOOLS_LOGGER_LOG_EVENT either
def lambda_handler(event: object, context: "LambdaContext") -> Response:  # noqa: ARG001
    """Respond to a request to the token API.

    Args:
        event: an API Gateway REST proxy event (payload 1.0), the caller IAM-authorised.
        context: Lambda's own.

    Returns:
        A proxy response: what was requested, or an OAuth-shaped error.
    """
    record = AuditRecord()
    try:
        record.caller = api_event.caller_arn(event)
        handle = _ROUTES.get(api_event.route(event))
        if handle is None:
            return error_response(404, "not_found", "there is no such resource")
        return handle(event, record)
    except BrokerError as error:
        return _refuse(error, record)
    except Exception as error:
        return _refuse_for_fault(error, record)


def _get_token(event: object, record: AuditRecord) -> Response:
    """`GET /tokens/{grant}`."""
    record.grant = api_event.grant(event)
    request = VendRequest(
        grant=record.grant,
        caller_arn=record.caller,
        min_ttl=api_event.min_ttl(event),
        other_than=api_event.other_than(event),
    )
    return _vend(request, record)


def _post_oauth2_token(event: object, record: AuditRecord) -> Response:
    """`POST /oauth2/token`: the request that existing Enable code makes, only signed."""
    scope = api_event.requested_scope(event)
    record.scope = " ".join(sorted(scope))[:256]
    record.grant = _wiring().vendor.grant_of_scope(scope, record.caller)
    return _vend(VendRequest(grant=record.grant, caller_arn=record.caller), record)


def _vend(request: VendRequest, record: AuditRecord) -> Response:
    vended = _wiring().vendor.vend(request)
    body = VendedToken.of(vended.token, datetime.now(UTC))
    if vended.is_only_audited:
        _count("WouldRefuse", request.grant)
    record.add_vended(vended, seconds_left=body.expires_in)
    logger.info("token vended", extra=record.log_fields())
    # The template counts that line: by service a line of metrics would say nothing more.
    emit_by_grant(SERVICE, {"Vended": 1}, grant=request.grant)
    return json_response(200, body.to_json())


def _get_grants(_event: object, record: AuditRecord) -> Response:
    """`GET /grants`: what this caller may have, as far as `callers` decide it."""
    statuses = _wiring().vendor.statuses(record.caller)
    logger.info("grants listed", extra=record.log_fields())
    grants = [
        {
            "name": status.name,
            "scope": " ".join(status.scope),
            "state": status.state.value,
            "seconds_left": status.seconds_left,
        }
        for status in statuses
    ]
    return json_response(200, json.dumps({"grants": grants}))


def _post_rejection(event: object, record: AuditRecord) -> Response:
    """`POST /tokens/{grant}/rejection`: Enable returned 401 for a token."""
    record.grant = grant = api_event.grant(event, suffix="/rejection")
    record.fingerprint = rejected = api_event.rejected_fingerprint(event)
    request = VendRequest(grant=grant, caller_arn=record.caller, other_than=rejected)
    is_current = _wiring().vendor.report_rejection(request)
    if is_current and _wiring().starter.renew_rejected(grant, rejected):
        record.refresh = "started"
    logger.warning("token reported as rejected", extra=record.log_fields())
    _count("TokenRejected", grant)
    if is_current:
        return json_response(202, json.dumps({"status": "renewing"}))
    return json_response(200, json.dumps({"status": "replaced"}))


type Handler = Callable[[object, AuditRecord], Response]

_ROUTES: Final[Mapping[tuple[str, str], Handler]] = {
    ("GET", "/tokens/{grant}"): _get_token,
    ("POST", "/tokens/{grant}/rejection"): _post_rejection,
    ("GET", "/grants"): _get_grants,
    ("POST", "/oauth2/token"): _post_oauth2_token,
}


def _refuse(error: BrokerError, record: AuditRecord) -> Response:
    """The response to a refused request; the log contains the same cause, and the caller."""
    if type(error) not in ERRORS:
        return _refuse_for_fault(error, record)
    if type(error) is NoLiveToken and _wiring().starter.renew_due():
        record.refresh = "started"
    record.reason, record.cause = ERRORS[type(error)][1], str(error)
    logger.warning("token refused", extra=record.log_fields())
    emit(SERVICE, {"VendRefused": 1}, reason=record.reason)
    return refusal(error)


def _refuse_for_fault(error: Exception, record: AuditRecord) -> Response:
    """The response to a fault of the broker: a bland sentence. The cause is in the log."""
    record.reason, record.cause = describe_fault(error)
    logger.error("token not vended for a fault", extra=record.log_fields())
    emit(SERVICE, {"VendRefused": 1}, reason=record.reason)
    emit(SERVICE, {"VendFault": 1})
    description = "the token cannot be read now"
    return error_response(503, "temporarily_unavailable", description, RETRY_AFTER)


def _count(metric: str, grant: str) -> None:
    emit(SERVICE, {metric: 1})
    emit_by_grant(SERVICE, {metric: 1}, grant=grant)


def _log_fault(message: str, error: Exception) -> None:
    reason, cause = describe_fault(error)
    logger.warning(message, extra={"reason": reason, "cause": cause})


# Lambda gives a start-up a whole processor, and a request a share of one as large as the function's
# memory. So the wiring is made before the first request. If it fails, that request tries again and
# reports why.
if "AWS_LAMBDA_FUNCTION_NAME" in os.environ:
    with suppress(Exception):
        _wiring()
gc.freeze()  # what is there now stays: the collector need not look at it again
gc.enable()
