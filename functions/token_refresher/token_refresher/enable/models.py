"""What the token endpoint is sent and what it returns.

All records are frozen, and what is secret in them is left out of their repr.
"""

import re
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import urlencode

from token_broker.models import is_visible_ascii

_EXPIRES_IN_TEXT: Final = re.compile(r" *[0-9]{1,12}(\.[0-9]*)? *")
_LONGEST_SECONDS: Final = 31_536_000
"""A year: so much of `expires_in` counts at most, so that no number overflows a duration."""


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
    expires_in: int | float | str | None = None
    scope: str | None = None

    def __post_init__(self) -> None:
        """Check what types alone cannot say."""
        if not is_visible_ascii(self.access_token):
            raise ValueError("access_token is empty or contains characters that no header takes")
        if self.token_type.lower() != "bearer":
            raise ValueError("token_type is not bearer")
        if isinstance(self.expires_in, str) and not _EXPIRES_IN_TEXT.fullmatch(self.expires_in):
            raise ValueError("expires_in is not a number of seconds")
        if self.expires_in is not None and not self._seconds >= 1:  # NaN too
            raise ValueError("expires_in is less than a second")

    @property
    def lifetime(self) -> timedelta | None:
        """`expires_in` as a duration in whole seconds, a fraction cut off; at most a year."""
        if self.expires_in is None:
            return None
        return timedelta(seconds=int(self._seconds))

    @property
    def _seconds(self) -> float:
        """`expires_in` as a number, whatever form of JSON number or text it has."""
        value = self.expires_in or 0
        return min(float(value) if isinstance(value, str) else value, _LONGEST_SECONDS)


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
