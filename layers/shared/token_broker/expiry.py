"""When a token expires and when it is due: pure functions of explicit, aware UTC times."""

import base64
import binascii
import json
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

MAX_LIFETIME = timedelta(hours=24)
"""No token is trusted longer than this, whatever its issuer says: the broker renews it then."""


class JwtTimes(NamedTuple):
    """What a JWT says of its own life (RFC 7519 section 4.1), its signature not verified.

    Attributes:
        issued_at: `iat`, None without one.
        expires_at: `exp`.
    """

    issued_at: datetime | None
    expires_at: datetime


def jwt_times(token: str) -> JwtTimes | None:
    """When a JWT says that it was issued and expires; aware UTC.

    Returns:
        None for an opaque token, or one without a usable `exp`.
    """
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        padded = parts[1] + "=" * (-len(parts[1]) % 4)
        claims = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        expires_at = _numeric_date(claims.get("exp"))
        if expires_at is None:
            return None
        return JwtTimes(issued_at=_numeric_date(claims.get("iat")), expires_at=expires_at)
    except (binascii.Error, ValueError, AttributeError, RecursionError):
        return None


def _numeric_date(value: object) -> datetime | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return datetime.fromtimestamp(value, tz=UTC)
    except (ValueError, OverflowError, OSError):
        return None


def expires_at(
    token: str, *, expires_in: timedelta | None, requested_at: datetime
) -> datetime | None:
    """The moment after which a token is not used any more.

    The count starts before the request was sent, so that a slow response never lengthens
    a life; the JWT's own `exp` and MAX_LIFETIME cut it. Where the response does not say how
    long the token lives, the JWT's `exp` less its `iat` does, so that a slow clock here adds
    nothing to it.

    Args:
        token: the access token.
        expires_in: the lifetime the endpoint named, if it did.
        requested_at: an aware UTC time from just before the request.

    Returns:
        An aware UTC time in whole seconds (rounded down); None if neither the response
        nor the token names an end.
    """
    jwt = jwt_times(token)
    if expires_in is None and jwt is None:
        return None
    ends = [requested_at + MAX_LIFETIME]
    if jwt is not None:
        ends.append(jwt.expires_at)
    if expires_in is None and jwt is not None and jwt.issued_at is not None:
        expires_in = jwt.expires_at - jwt.issued_at
    if expires_in is not None:
        ends.append(requested_at + min(expires_in, MAX_LIFETIME))
    return min(ends).replace(microsecond=0)


def is_fresh(age: timedelta, window: timedelta) -> bool:
    """Whether something is new enough: 0 ≤ age < window.

    A negative age means that a clock was set between the two readings. Nothing is known
    about the true age then, so it is not fresh.
    """
    return timedelta() <= age < window


def due_window(lifetime: timedelta, refresh_ahead: timedelta) -> timedelta:
    """How long before its expiry a token is renewed: never more than half its lifetime."""
    return min(refresh_ahead, lifetime / 2)


def is_due(
    *, issued_at: datetime, expires_at: datetime, now: datetime, refresh_ahead: timedelta
) -> bool:
    """Whether a token has no more than its due window left."""
    return expires_at - now <= due_window(expires_at - issued_at, refresh_ahead)
