"""Which token responses become a stored token."""

from datetime import datetime, timedelta
from typing import Final

from token_broker import expiry
from token_broker.errors import InvalidTokenResponse
from token_broker.models import StoredToken
from token_refresher.enable.models import Issued

MIN_LIFETIME: Final = timedelta(seconds=5)
"""A new token with no more than this left counts as expired."""


def accept(
    issued: Issued, *, scope: tuple[str, ...], now: datetime, secret_version: str = ""
) -> StoredToken:
    """Turn a response into a token worth storing.

    Args:
        issued: the response, and when it was requested.
        scope: the scope that was requested.
        now: aware UTC.
        secret_version: the version of the client secret that the request used.

    Raises:
        InvalidTokenResponse: it has no expiry or ends too soon, or is for another scope.
    """
    response = issued.response
    granted = set(response.scope.split(" ")) if response.scope is not None else set(scope)
    if granted != set(scope):
        kind = "a narrower" if granted < set(scope) else "another"
        raise InvalidTokenResponse(
            f"the token is for {kind} scope than the one asked for", reason="wrong_scope"
        )
    expires_at = expiry.expires_at(
        response.access_token, expires_in=response.lifetime, requested_at=issued.requested_at
    )
    if expires_at is None:
        raise InvalidTokenResponse(
            "neither expires_in nor the token's own exp says when it expires", reason="no_expiry"
        )
    issued_at = issued.requested_at.replace(microsecond=0)
    if expires_at - max(now, issued_at) <= MIN_LIFETIME:
        raise InvalidTokenResponse(
            "the token has expired already, or is about to; compare this clock with Enable's",
            reason="expired",
        )
    return StoredToken(
        access_token=response.access_token,
        scope=scope,
        issued_at=issued_at,
        expires_at=expires_at,
        secret_version=secret_version,
    )
