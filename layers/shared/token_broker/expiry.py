"""When a token expires and when it is due: pure functions of explicit, aware UTC times."""

import base64
import binascii
import json
from datetime import UTC, datetime, timedelta

MAX_LIFETIME = timedelta(hours=24)
"""No token is trusted longer than this, whatever its issuer says: the broker renews it then."""


def jwt_expiry(token: str) -> datetime | None:
    """The `exp` claim of a JWT (RFC 7519 section 4.1.4), its signature not verified.

    Returns:
        An aware UTC time; None for an opaque token, or one without a usable `exp`.
    """
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        padded = parts[1] + "=" * (-len(parts[1]) % 4)
        claims = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        exp = claims["exp"]
        if isinstance(exp, bool) or not isinstance(exp, int | float):
            return None
        return datetime.fromtimestamp(exp, tz=UTC)
    except (binascii.Error, ValueError, TypeError, KeyError, OverflowError, OSError):
        return None
    except RecursionError:
        return None


def expires_at(
    token: str, *, expires_in: timedelta | None, requested_at: datetime
) -> datetime | None:
    """The moment after which a token is not used any more.

    The count starts before the request was sent, so that a slow answer never lengthens
    a life; the JWT's own `exp` and MAX_LIFETIME cut it.

    Args:
        token: the access token.
        expires_in: the lifetime the endpoint named, if it did.
        requested_at: an aware UTC time from just before the request.

    Returns:
        An aware UTC time in whole seconds (rounded down); None if neither the answer
        nor the token names an end.
    """
    ends = [requested_at + min(expires_in, MAX_LIFETIME)] if expires_in is not None else []
    if (exp := jwt_expiry(token)) is not None:
        ends.append(min(exp, requested_at + MAX_LIFETIME))
    return min(ends).replace(microsecond=0) if ends else None


def due_window(lifetime: timedelta, refresh_ahead: timedelta) -> timedelta:
    """How long before its expiry a token is renewed: never more than half its lifetime."""
    return min(refresh_ahead, lifetime / 2)


def is_due(
    *, issued_at: datetime, expires_at: datetime, now: datetime, refresh_ahead: timedelta
) -> bool:
    """Whether a token has no more than its due window left."""
    return expires_at - now <= due_window(expires_at - issued_at, refresh_ahead)
