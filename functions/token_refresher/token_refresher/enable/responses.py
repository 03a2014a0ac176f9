"""What a response of the token endpoint means: a token, or the error that it is.

The meaning decides, not the form: an OAuth error object is one whatever its status, and a 401
is about the client whatever its body (RFC 6749 section 5.2). No text of a response is kept.
"""

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

from pydantic import TypeAdapter
from urllib3 import HTTPHeaderDict

from token_broker.errors import (
    InvalidTokenResponse,
    TokenEndpointError,
    TokenEndpointUnavailable,
    TokenRequestRejected,
)
from token_refresher.enable.http_client import Response
from token_refresher.enable.models import OAuthError, TokenResponse
from token_refresher.enable.validation import validate_json

OAUTH_ERRORS: Final = {
    "invalid_request": "Enable finds the request malformed",
    "invalid_client": "client_id, client_secret or dealtrack_registration_id is wrong",
    "invalid_grant": "Enable finds the client credentials invalid or revoked",
    "unauthorized_client": "this client may not use client credentials",
    "unsupported_grant_type": "Enable does not know client_credentials here; check TokenUrl",
    "invalid_scope": "these credentials do not permit a scope of the grant",
}
"""The codes of RFC 6749 section 5.2, and what each means to the operator."""

TRANSIENT_CODES: Final = frozenset({"server_error", "temporarily_unavailable", "slow_down"})
"""Codes of RFC 6749 section 4.1.2.1 and RFC 8628 section 3.5 that ask for patience."""

TRANSIENT_STATUSES: Final = frozenset({408, 425, 429})
"""Beside 5xx. Request Timeout, Too Early and Too Many Requests: later may be better."""

LONGEST_RETRY_AFTER: Final = timedelta(days=1)

_SECONDS: Final = re.compile(r"[0-9]+(\.[0-9]*)?")
_WEEKDAY: Final = re.compile(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*")
_TOKEN_RESPONSE: Final = TypeAdapter(TokenResponse)
_OAUTH_ERROR: Final = TypeAdapter(OAuthError)


def read_token(response: Response, now: datetime) -> TokenResponse:
    """The token response that a response contains.

    Args:
        response: of the token endpoint.
        now: when it arrived; aware UTC.

    Raises:
        TokenEndpointUnavailable: it asks for patience.
        TokenRequestRejected: it is an OAuth error, or another 4xx.
        InvalidTokenResponse: it is none of these.
    """
    fault = ""
    if response.status == 200 and not response.is_too_large:
        try:
            return validate_json(_TOKEN_RESPONSE, response.body)
        except ValueError as error:
            fault = str(error)
    failure = _error_of(response, fault)
    failure.retry_after = retry_after(response.headers, now)
    raise failure


def _error_of(response: Response, fault: str) -> TokenEndpointError:
    status, code = response.status, _oauth_code(response)
    if code in OAUTH_ERRORS:
        return _rejected(f"{code} (HTTP {status}): {OAUTH_ERRORS[code]}", code)
    if code in TRANSIENT_CODES:
        return _unavailable(f"{code} (HTTP {status})", code)
    if status in TRANSIENT_STATUSES or status >= 500:
        return _unavailable(f"HTTP {status}", f"http_{status}")
    if status == 401:
        return _rejected(f"HTTP 401: {OAUTH_ERRORS['invalid_client']}", "invalid_client")
    return _other_error(response, code, fault)


def _other_error(response: Response, code: str, fault: str) -> TokenEndpointError:
    status = response.status
    if 300 <= status < 400:
        return InvalidTokenResponse(
            f"a redirect (HTTP {status}) is not followed; check TokenUrl", reason="redirect"
        )
    if response.is_too_large:
        return InvalidTokenResponse("the response is larger than 64 KiB", reason="too_large")
    if code:
        return _rejected(f"HTTP {status} with an unregistered error code", "unknown_error")
    if status >= 400:
        return _rejected(f"HTTP {status} without an OAuth error", f"http_{status}")
    if status != 200:
        return InvalidTokenResponse(
            f"the token endpoint returned HTTP {status}", reason=f"http_{status}"
        )
    return InvalidTokenResponse(
        f"the response is not a token response: {fault}", reason="invalid_response"
    )


def _rejected(what: str, reason: str) -> TokenRequestRejected:
    return TokenRequestRejected(f"the token endpoint returned {what}", reason=reason)


def _unavailable(what: str, reason: str) -> TokenEndpointUnavailable:
    return TokenEndpointUnavailable(f"the token endpoint returned {what}", reason=reason)


def _oauth_code(response: Response) -> str:
    """The code of an OAuth error object; empty if the body is something else."""
    try:
        return validate_json(_OAUTH_ERROR, response.body).error
    except ValueError:
        return ""


def retry_after(headers: HTTPHeaderDict, now: datetime) -> timedelta | None:
    """How long `Retry-After` asks to wait (RFC 9110 section 10.2.3), at most a day.

    It may be seconds, which some servers send with a fraction, or a date in any of the three
    forms of HTTP. A date is compared with the `Date` of the response, so that a difference of
    the clocks changes nothing. Of several values the longest counts.

    Args:
        headers: of the response.
        now: when it arrived; aware UTC.

    Returns:
        Never negative; None if the field is absent or none of its values is a time.
    """
    sent_at = _http_date(headers.get("Date", "")) or now
    waits = [
        wait
        for value in _values(headers.getlist("Retry-After"))
        if (wait := _wait(value, sent_at)) is not None
    ]
    return min(max(waits), LONGEST_RETRY_AFTER) if waits else None


def _values(fields: Iterable[str]) -> Iterator[str]:
    """The values of a field that was sent several times, or combined into one with commas."""
    pieces = iter([piece.strip() for field in fields for piece in field.split(",")])
    for piece in pieces:
        # a date has a comma of its own, behind its day of the week
        yield f"{piece}, {next(pieces, '')}" if _WEEKDAY.fullmatch(piece) else piece


def _wait(value: str, sent_at: datetime) -> timedelta | None:
    if value.isascii() and _SECONDS.fullmatch(value):
        return timedelta(seconds=min(float(value), LONGEST_RETRY_AFTER.total_seconds()))
    moment = _http_date(value)
    return None if moment is None else max(moment - sent_at, timedelta())


def _http_date(value: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(value)
        # asctime's form has no zone: HTTP's dates are all UTC (RFC 9110 section 5.6.7)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
