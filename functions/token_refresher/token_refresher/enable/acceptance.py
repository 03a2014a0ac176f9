"""Which token responses become a stored token."""

import re
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from token_broker import expiry
from token_broker.errors import InvalidTokenResponse
from token_broker.models import StoredToken
from token_refresher.enable.models import Issued, TokenResponse

MIN_LIFETIME: Final = timedelta(seconds=5)
"""A new token with no more than this left counts as expired."""

MAX_RECORD_CHARACTERS: Final = 8192
"""Of a parameter's value, in the advanced tier that Intelligent-Tiering chooses for it."""

_LONGEST_VERSION: Final = 10**9
"""The store adds the version that a token follows: one digit more than a parameter reaches."""

_NESTED: Final = re.compile(r"\{\{.*\}\}")


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
        InvalidTokenResponse: it has no expiry or ends too soon, is for another scope, or
            can never be stored.
    """
    response = issued.response
    _check_scope(response, scope)
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
    token = StoredToken(
        access_token=response.access_token,
        scope=scope,
        issued_at=issued_at,
        expires_at=expires_at,
        secret_version=secret_version,
    )
    _check_that_it_can_be_stored(token)
    return token


def _check_scope(response: TokenResponse, scope: tuple[str, ...]) -> None:
    granted = set(scope) if response.scope is None else set(response.scope.split())
    if granted != set(scope):
        kind = "a narrower" if granted < set(scope) else "another"
        raise InvalidTokenResponse(
            f"the token is for {kind} scope than the requested one", reason="wrong_scope"
        )


def _check_that_it_can_be_stored(token: StoredToken) -> None:
    """Refuse here what Parameter Store would refuse at each write."""
    record = replace(token, follows=_LONGEST_VERSION).to_json()
    if len(record) > MAX_RECORD_CHARACTERS:
        fault = f"with its record it has {len(record)} characters, and a parameter at most 8192"
    elif _NESTED.search(record):
        fault = "it contains {{...}}, which Parameter Store takes for a reference"
    else:
        return
    raise InvalidTokenResponse(
        f"the token cannot be stored: {fault}; ask Enable for another kind of token",
        reason="unstorable",
    )
