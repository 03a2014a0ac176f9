"""The vend function: knows API Gateway's events and answers, and wires the rest."""

import gc

gc.disable()  # until all is set up: a start-up makes no garbage, and looking for it takes 6 % of it

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Final, Self, cast

from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.session import get_session  # boto3 on top of it takes 5 % of a start-up

from token_broker import settings
from token_broker.aws import CLIENT_CONFIG, describe_fault
from token_broker.errors import BrokerError, NoLiveToken
from token_broker.grants import load_grants
from token_broker.log import service_logger
from token_broker.metrics import emit
from token_broker.models import VendedToken, rfc3339
from token_broker.token_store import ParameterTokenStore
from token_vendor import api_event
from token_vendor.answers import ERRORS, Response, answer, error_answer, refusal
from token_vendor.refresh_starter import RefreshStarter
from token_vendor.vend import RETRY_AFTER, Vendor, VendRequest

if TYPE_CHECKING:
    from types_boto3_lambda import LambdaClient
    from types_boto3_ssm import SSMClient

SERVICE: Final = "token-vendor"

logger = service_logger(SERVICE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the template tells the function."""

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


@dataclass(frozen=True, slots=True)
class Wiring:
    """What an environment works with."""

    vendor: Vendor
    starter: RefreshStarter


@cache
def _wiring() -> Wiring:
    """Made once per environment."""
    config = Settings.from_environ(os.environ)
    ssm = cast("SSMClient", get_session().create_client("ssm", config=CLIENT_CONFIG))
    vendor = Vendor(
        grants=load_grants(),
        store=ParameterTokenStore(ssm, prefix=config.token_parameter_prefix),
        cache_window=config.token_cache,
        refresh_ahead=config.refresh_ahead,
        on_read_fault=lambda error: _log_fault("remembered token vended", error),
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


@cache
def _lambda_client() -> "LambdaClient":
    """Made when it is first needed, which is seldom: a start-up does not pay for it."""
    return cast("LambdaClient", get_session().create_client("lambda", config=CLIENT_CONFIG))


@logger.inject_lambda_context(log_event=False)  # not by POWERTOOLS_LOGGER_LOG_EVENT either
def lambda_handler(event: object, context: LambdaContext) -> Response:  # noqa: ARG001
    """Answer a request to the token API.

    Args:
        event: an API Gateway REST proxy event (payload 1.0), the caller IAM-authorised.
        context: Lambda's own.

    Returns:
        A proxy response: what was asked for, or an OAuth-shaped error.
    """
    said: dict[str, object] = {}
    try:
        said["caller"] = caller = api_event.caller_arn(event)
        handle = _ROUTES.get(api_event.route(event))
        if handle is None:
            return error_answer(404, "not_found", "there is no such resource")
        return handle(event, caller, said)
    except NoLiveToken as error:
        if error.is_lapsed and _wiring().starter.renew_due():
            said["refresh"] = "started"
        return _refuse(error, said)
    except BrokerError as error:
        return _refuse(error, said)
    except Exception as error:
        return _refuse_for_fault(error, said)


def _get_token(event: object, caller: str, said: dict[str, object]) -> Response:
    """`GET /tokens/{grant}`."""
    said["grant"] = grant = api_event.grant(event)
    request = VendRequest(
        grant=grant,
        caller_arn=caller,
        min_ttl=api_event.min_ttl(event),
        other_than=api_event.other_than(event),
    )
    return _vend(request, said)


def _post_oauth2_token(event: object, caller: str, said: dict[str, object]) -> Response:
    """`POST /oauth2/token`: the request that existing Enable code makes, only signed."""
    scope = api_event.requested_scope(event)
    said["scope"] = " ".join(sorted(scope))[:256]
    said["grant"] = grant = _wiring().vendor.grant_of_scope(scope, caller)
    return _vend(VendRequest(grant=grant, caller_arn=caller), said)


def _vend(request: VendRequest, said: dict[str, object]) -> Response:
    vended = _wiring().vendor.vend(request)
    token = vended.token
    body = VendedToken.of(token, datetime.now(UTC))
    if vended.is_only_audited:
        said["would_be_refused"] = True
        emit(SERVICE, {"WouldRefuse": 1}, grant=request.grant)
    said |= {
        "scope": " ".join(token.scope),
        "fingerprint": token.fingerprint,
        "expires_at": rfc3339(token.expires_at),
        "seconds_left": body.expires_in,
    }
    logger.info("token vended", extra=said)
    emit(SERVICE, {"Vended": 1}, grant=request.grant)
    return answer(200, body.to_json())


def _get_grants(_event: object, caller: str, said: dict[str, object]) -> Response:
    """`GET /grants`: what this caller may have, as far as `callers` decide it."""
    statuses = _wiring().vendor.statuses(caller)
    logger.info("grants listed", extra=said)
    grants = [
        {
            "name": status.name,
            "scope": " ".join(status.scope),
            "state": status.state.value,
            "seconds_left": status.seconds_left,
        }
        for status in statuses
    ]
    return answer(200, json.dumps({"grants": grants}))


def _post_rejection(event: object, caller: str, said: dict[str, object]) -> Response:
    """`POST /tokens/{grant}/rejection`: Enable answered 401 to a token."""
    said["grant"] = grant = api_event.grant(event, suffix="/rejection")
    said["fingerprint"] = rejected = api_event.rejected_fingerprint(event)
    request = VendRequest(grant=grant, caller_arn=caller, other_than=rejected)
    is_current = _wiring().vendor.report_rejection(request)
    if is_current and _wiring().starter.renew_rejected(grant, rejected):
        said["refresh"] = "started"
    logger.warning("token reported as rejected", extra=said)
    emit(SERVICE, {"TokenRejected": 1}, grant=grant)
    if is_current:
        return answer(202, json.dumps({"status": "renewing"}))
    return answer(200, json.dumps({"status": "replaced"}))


type Handler = Callable[[object, str, dict[str, object]], Response]

_ROUTES: Final[Mapping[tuple[str, str], Handler]] = {
    ("GET", "/tokens/{grant}"): _get_token,
    ("POST", "/tokens/{grant}/rejection"): _post_rejection,
    ("GET", "/grants"): _get_grants,
    ("POST", "/oauth2/token"): _post_oauth2_token,
}


def _refuse(error: BrokerError, said: dict[str, object]) -> Response:
    """Answer a refusal; the log says as much as the caller is told, and who asked."""
    if type(error) not in ERRORS:
        return _refuse_for_fault(error, said)
    reason = ERRORS[type(error)][1]
    logger.warning("token refused", extra=_told(said) | {"reason": reason, "cause": str(error)})
    emit(SERVICE, {"VendRefused": 1}, reason=reason)
    return refusal(error)


def _refuse_for_fault(error: Exception, said: dict[str, object]) -> Response:
    """Answer a fault of ours: the caller gets a bland sentence, the log the cause."""
    reason, cause = describe_fault(error)
    logger.error(
        "token not vended for a fault", extra=_told(said) | {"reason": reason, "cause": cause}
    )
    emit(SERVICE, {"VendRefused": 1}, reason=reason)
    emit(SERVICE, {"VendFault": 1})
    return error_answer(503, "temporarily_unavailable", "the token cannot be read now", RETRY_AFTER)


def _told(said: Mapping[str, object]) -> dict[str, object]:
    """What is known of a request, a made-up grant's name cut to a bearable length."""
    return {"caller": "", **said, "grant": str(said.get("grant", ""))[:64]}


def _log_fault(message: str, error: Exception) -> None:
    reason, cause = describe_fault(error)
    logger.warning(message, extra={"reason": reason, "cause": cause})


# Lambda gives a start-up a whole processor, and a request a share of one as large as the function's
# memory. So what can be made before the first request is; what fails here is told by that request.
if "AWS_LAMBDA_FUNCTION_NAME" in os.environ:
    with suppress(Exception):
        _wiring()
gc.freeze()  # what is there now stays, and need not be looked at again
gc.enable()
