"""The broker's HTTP API for one grant: sign, send one request, read the response."""

import hashlib
import http.client
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

from enable_broker_client.errors import (
    InvalidRequest,
    NotAllowed,
    NotNow,
    UnexpectedResponse,
    UnknownGrant,
)
from enable_broker_client.origins import is_loopback
from enable_broker_client.signing import Signer
from enable_broker_client.transport import Request, Response, Transport, Unreachable

_GRANT: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")  # what a header can carry
_CODE: Final = re.compile(r"[A-Za-z_]{1,64}")
_DIGITS: Final = re.compile(r"[0-9]{1,6}")
_SIGNATURE: Final = (
    "the signature is not accepted: check the AWS credentials, the region and this machine's clock"
)
_CAUSES_OF_403: Final = {
    "access_denied": "the grant's callers (grants.toml) do not name this caller",
    "ExpiredTokenException": "the AWS credentials have expired",
    "ForbiddenException": (
        "API Gateway does not say why: check the URL's host, stage and path, then firewalls and"
        " the API's resource policy"
    ),
    "IncompleteSignatureException": _SIGNATURE,
    "InvalidSignatureException": _SIGNATURE,
    "MissingAuthenticationTokenException": "no such route: is the URL the stack's TokenApiUrl?",
    "SignatureDoesNotMatch": _SIGNATURE,
    "UnrecognizedClientException": "AWS does not know the access key of these credentials",
}


def fingerprint(token: str) -> str:
    """The first 12 hex digits of a token's SHA-256: its name wherever one is needed."""
    return hashlib.sha256(token.encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """An Enable access token, to be sent as `Authorization: Bearer …`; its repr hides it.

    Attributes:
        access_token: the secret itself.
        scope: space-delimited (RFC 6749 section 3.3).
        expires_at: by the broker's clock, aware.
    """

    access_token: str = field(repr=False)
    scope: str
    expires_at: datetime

    @property
    def fingerprint(self) -> str:
        """Names the token in logs."""
        return fingerprint(self.access_token)


class TokenApi:
    """One grant's two routes.

    Args:
        url: the stack's `TokenApiUrl`.
        grant: the grant's name.
        signer: makes a request's headers.
        transport: sends a request.

    Raises:
        ValueError: the URL is not https (or http to this machine), or the grant's name is none.
    """

    def __init__(self, url: str, grant: str, signer: Signer, transport: Transport) -> None:
        parts = urlsplit(url)
        if not parts.hostname or parts.query or parts.fragment or parts.username:
            raise ValueError("url must be the stack's TokenApiUrl: https://host/stage")
        if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname)):
            raise ValueError("url must be https: a token would travel in the clear")
        if not _GRANT.fullmatch(grant):
            raise ValueError(f"grant must match {_GRANT.pattern}")
        self.grant = grant
        self._url = f"{url.rstrip('/')}/tokens/{grant}"
        self._signer = signer
        self._transport = transport

    def vend(self, timeout: float, *, other_than: str = "") -> tuple[Token, int]:
        """Ask for the token once.

        Args:
            timeout: in seconds.
            other_than: fingerprint of a token that Enable refused: the broker looks for a newer
                one than it remembers.

        Returns:
            The token, and the whole seconds that it lived on when the broker responded.

        Raises:
            NotNow, NoCredentials: the next attempt may succeed.
            BrokerClientError: it would not.
        """
        url = f"{self._url}?other_than={other_than}" if other_than else self._url
        response = self._send("GET", url, None, timeout)
        if response.status == 200:
            return _read_token(response)
        raise self._refusal(response)

    def report(self, token_fingerprint: str, timeout: float) -> int:
        """Tell the broker once that Enable refused a token.

        Returns:
            The status: 202 or 200, or that of a broker without this route, or of a caller whom
            IAM does not allow it.

        Raises:
            NotNow: there is no response, or it is 429 or 5xx: report again later.
            NotConfigured: the request cannot be signed; `NoCredentials` if it may be later.
        """
        body = json.dumps({"fingerprint": token_fingerprint}).encode()
        response = self._send("POST", f"{self._url}/rejection", body, timeout)
        _raise_if_passing(response)
        return response.status

    def _send(self, method: str, url: str, body: bytes | None, timeout: float) -> Response:
        headers = self._signer.headers(method, url, body)
        request = Request(method=method, url=url, headers=headers, body=body, timeout=timeout)
        try:
            return self._transport(request)
        except Unreachable as error:
            kind = str(error)
        except (OSError, http.client.HTTPException, ValueError) as error:  # the last: a URL's port
            kind = type(error).__name__
        # Raised out here: a cause that broke off within a response contains its beginning.
        raise NotNow(f"no response ({kind})")

    def _refusal(self, response: Response) -> Exception:
        """The error for a response without a token."""
        _raise_if_passing(response)
        code = _wire_code(response)
        known = {
            400: (InvalidRequest, "the broker does not understand the request"),
            403: (NotAllowed, self._why_not_allowed(code)),
            404: (UnknownGrant, "no such grant"),
        }
        unexpected = (UnexpectedResponse, "not a response of the broker")
        leaf, message = known.get(response.status, unexpected)
        return leaf(message, grant=self.grant, status=response.status, code=code)

    def _why_not_allowed(self, code: str) -> str:
        resource = f"{self._signer.resource}/GET/tokens/{self.grant}"
        needed = f"the caller's IAM policy must allow execute-api:Invoke on {resource}"
        unnamed = f"the response names no cause; if IAM refuses the call, {needed}"
        return {"": unnamed, "AccessDeniedException": needed, **_CAUSES_OF_403}.get(
            code, "API Gateway, or a proxy before it, refuses the request with this code"
        )


def _raise_if_passing(response: Response) -> None:
    """Raise NotNow for what may be gone at the next attempt: 408, 425, 429 and 5xx."""
    if response.status in {408, 425, 429} or response.status >= 500:
        retry_after = response.headers.get("retry-after", "")
        seconds = int(retry_after) if _DIGITS.fullmatch(retry_after) else 0
        raise NotNow(f"HTTP {response.status}", status=response.status, retry_after=seconds)


def _read_object(body: bytes) -> Mapping[str, object]:
    """The JSON object; empty if there is none. No error, as it would quote the body."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _read_token(response: Response) -> tuple[Token, int]:
    """Read a 200.

    Raises:
        NotNow: it contains no token, so it does not come from the broker.
    """
    body = _read_object(response.body)
    access_token, expires_in = body.get("access_token"), body.get("expires_in")
    expires_at = _read_time(body.get("expires_at"))
    if (
        body.get("token_type") != "Bearer"
        or not isinstance(access_token, str)
        or not _TOKEN.fullmatch(access_token)
        or not isinstance(expires_in, int)
        or not 0 <= expires_in < 10**9
        or expires_at is None
    ):
        raise NotNow("HTTP 200 without a token", status=200)
    scope = str(body.get("scope", ""))
    return Token(access_token=access_token, scope=scope, expires_at=expires_at), expires_in


def _read_time(value: object) -> datetime | None:
    """An RFC 3339 time; None if it is not one."""
    try:
        time = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return time if time.tzinfo else None


def _wire_code(response: Response) -> str:
    """The broker's own `error`, else the type of API Gateway's; empty if neither is plain."""
    code = _read_object(response.body).get("error") or response.headers.get("x-amzn-errortype", "")
    return code if isinstance(code, str) and _CODE.fullmatch(code) else ""
