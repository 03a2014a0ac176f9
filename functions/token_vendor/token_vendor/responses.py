"""API Gateway proxy responses: tokens, and OAuth-shaped errors (RFC 6749 sections 5.1 and 5.2)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Self

from token_broker.errors import (
    BrokerError,
    CallerNotAllowed,
    GrantBlocked,
    InvalidRequest,
    InvalidScope,
    NoFittingToken,
    NoLiveToken,
    RejectionTooSoon,
    UnknownGrant,
    UnsupportedGrantType,
)
from token_broker.models import StoredToken, rfc3339

type Response = dict[str, object]

ERRORS: Final[Mapping[type[BrokerError], tuple[int, str]]] = {
    InvalidRequest: (400, "invalid_request"),
    UnsupportedGrantType: (400, "unsupported_grant_type"),
    InvalidScope: (400, "invalid_scope"),
    CallerNotAllowed: (403, "access_denied"),
    UnknownGrant: (404, "unknown_grant"),
    RejectionTooSoon: (429, "slow_down"),
    NoLiveToken: (503, "temporarily_unavailable"),
    NoFittingToken: (503, "temporarily_unavailable"),
    GrantBlocked: (503, "temporarily_unavailable"),
}
"""Status and `error` code of each refusal; any other failure is a 503 too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VendedToken:
    """A token as a caller gets it (RFC 6749 section 5.1, and `expires_at`)."""

    access_token: str = field(repr=False)
    expires_in: int
    expires_at: datetime
    scope: tuple[str, ...]
    token_type: str = "Bearer"

    @classmethod
    def of(cls, token: StoredToken, now: datetime) -> Self:
        """What is left of a stored token at `now`, in whole seconds rounded down."""
        return cls(
            access_token=token.access_token,
            expires_in=int(token.time_left(now).total_seconds()),
            expires_at=token.expires_at,
            scope=token.scope,
        )

    def to_json(self) -> str:
        """The response body. Contains the token: for the caller alone."""
        return json.dumps(
            {
                "access_token": self.access_token,
                "token_type": self.token_type,
                "expires_in": self.expires_in,
                "expires_at": rfc3339(self.expires_at),
                "scope": " ".join(self.scope),
            }
        )


def json_response(status: int, body: str, headers: Mapping[str, str] | None = None) -> Response:
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
    return error_response(status, code, str(error), retry_after)


def error_response(
    status: int, code: str, description: str, retry_after: timedelta | None = None
) -> Response:
    """An OAuth-shaped error."""
    body = json.dumps({"error": code, "error_description": description})
    if retry_after is None:
        return json_response(status, body)
    seconds = max(int(retry_after.total_seconds() + 0.999), 1)
    return json_response(status, body, {"Retry-After": str(seconds)})
