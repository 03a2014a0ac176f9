"""API Gateway proxy responses: tokens, and OAuth-shaped errors (RFC 6749 sections 5.1 and 5.2)."""

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from token_broker.errors import (
    BrokerError,
    CallerNotAllowed,
    GrantBlocked,
    InvalidRequest,
    InvalidScope,
    NoLiveToken,
    RejectionTooSoon,
    UnknownGrant,
)
from token_vendor.api_event import UnsupportedGrantType

type Response = dict[str, object]

ERRORS: Final[Mapping[type[BrokerError], tuple[int, str]]] = {
    InvalidRequest: (400, "invalid_request"),
    UnsupportedGrantType: (400, "unsupported_grant_type"),
    InvalidScope: (400, "invalid_scope"),
    CallerNotAllowed: (403, "access_denied"),
    UnknownGrant: (404, "unknown_grant"),
    RejectionTooSoon: (429, "slow_down"),
    NoLiveToken: (503, "temporarily_unavailable"),
    GrantBlocked: (503, "temporarily_unavailable"),
}
"""Status and `error` code of each refusal; anything else that fails is a 503 too."""


def answer(status: int, body: str, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response that no cache keeps."""
    return {
        "statusCode": status,
        "headers": {
            "Content-Type": "application/json",
            "Cache-Control": "no-store",
            "Pragma": "no-cache",
            **(headers or {}),
        },
        "body": body,
    }


def refusal(error: BrokerError) -> Response:
    """The response to a request that is refused."""
    status, code = ERRORS[type(error)]
    retry_after = getattr(error, "retry_after", None)
    return error_answer(status, code, str(error), retry_after)


def error_answer(
    status: int, code: str, description: str, retry_after: timedelta | None = None
) -> Response:
    """An OAuth-shaped error."""
    body = json.dumps({"error": code, "error_description": description})
    if retry_after is None:
        return answer(status, body)
    seconds = max(int(retry_after.total_seconds() + 0.999), 1)
    return answer(status, body, {"Retry-After": str(seconds)})
