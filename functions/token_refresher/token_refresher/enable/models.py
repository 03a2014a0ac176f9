"""What the token endpoint is sent and what it returns.

All records are frozen, and what is secret in them is left out of their repr.
"""

import re
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import urlencode

from token_broker.models import is_visible_ascii

_EXPIRES_IN_DIGITS: Final = re.compile(r"[0-9]{1,12}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRequest:
    """A client-credentials request as Enable wants it (RFC 6749 section 4.4.2)."""

    client_id: str
    client_secret: str = field(repr=False)
    dealtrack_registration_id: str
    scope: tuple[str, ...]

    def form(self) -> bytes:
        """The `application/x-www-form-urlencoded` body; every value arrives exactly."""
        return urlencode(
            {
                "client_id": self.client_id,
                "client_secret": self.client_secret,
                "dealtrack_registration_id": self.dealtrack_registration_id,
                "scope": " ".join(self.scope),
                "grant_type": "client_credentials",
            }
        ).encode("ascii")


@dataclass(frozen=True, slots=True)
class TokenResponse:
    """A successful response of the token endpoint (RFC 6749 section 5.1).

    Raises:
        ValueError: a field is out of its range; the message names it, never its value.
    """

    _: KW_ONLY
    access_token: str = field(repr=False)
    token_type: str
    expires_in: int | str | None = None
    scope: str | None = None

    def __post_init__(self) -> None:
        """Check what types alone cannot say."""
        if not is_visible_ascii(self.access_token):
            raise ValueError("access_token is empty or holds characters that no header may carry")
        if self.token_type.lower() != "bearer":
            raise ValueError("token_type is not bearer")
        if isinstance(self.expires_in, str) and not _EXPIRES_IN_DIGITS.fullmatch(self.expires_in):
            raise ValueError("expires_in is not a whole number of seconds")
        if self.expires_in is not None and int(self.expires_in) <= 0:
            raise ValueError("expires_in is not positive")

    @property
    def lifetime(self) -> timedelta | None:
        """`expires_in` as a duration, cut to a year so that no number overflows it."""
        if self.expires_in is None:
            return None
        return timedelta(seconds=min(int(self.expires_in), 31_536_000))


@dataclass(frozen=True, slots=True, kw_only=True)
class OAuthError:
    """A refusal by the token endpoint (RFC 6749 section 5.2).

    `error_description` and `error_uri` are text from outside, which may repeat what was
    sent: they are kept out of the repr and are never logged.
    """

    error: str
    error_description: object = field(default=None, repr=False)
    error_uri: object = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A token response and when it was requested.

    Attributes:
        response: the validated response.
        requested_at: from just before the request that got it; aware UTC.
        attempts: requests made, that one included.
    """

    response: TokenResponse
    requested_at: datetime
    attempts: int
