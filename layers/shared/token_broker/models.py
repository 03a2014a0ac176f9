"""The broker's record of a token, as Parameter Store keeps it.

It is frozen, and what is secret in it is left out of its repr, so that a record
that ends in a log line or a traceback takes no secret with it.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, Self

from token_broker.errors import CorruptStoredToken, GrantBlocked
from token_broker.expiry import MAX_LIFETIME

_SCOPE_TOKEN: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")
_VISIBLE_ASCII: Final = re.compile(r"[\x21-\x7e]+")
_VERSION_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


def is_scope_token(value: str) -> bool:
    """Whether a string is one scope (RFC 6749 section 3.3, `scope-token`)."""
    return _SCOPE_TOKEN.fullmatch(value) is not None


def is_visible_ascii(value: str) -> bool:
    """Whether an HTTP header can carry a string as a bearer token: no blank, no control."""
    return _VISIBLE_ASCII.fullmatch(value) is not None


def fingerprint(token: str) -> str:
    """The first 12 hex digits of a token's SHA-256: how logs name a token."""
    return hashlib.sha256(token.encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredToken:
    """A live token as Parameter Store keeps it.

    `issued_at` and `expires_at` are aware UTC times in whole seconds.

    Attributes:
        secret_version: the version of the client secret that it was issued for; empty in
            records that do not say.
        follows: the version of the parameter that its writer had read; None if that is not known.
        parameter_version: of the parameter it was read from, 0 if it was not; not stored.
    """

    access_token: str = field(repr=False)
    token_type: str = "Bearer"
    scope: tuple[str, ...]
    issued_at: datetime
    expires_at: datetime
    secret_version: str = ""
    follows: int | None = field(default=None, compare=False)
    parameter_version: int = field(default=0, compare=False)

    @property
    def fingerprint(self) -> str:
        """How logs name this token."""
        return fingerprint(self.access_token)

    def time_left(self, now: datetime) -> timedelta:
        """What is left of its life; zero or negative once it has expired."""
        return self.expires_at - now

    def is_live(self, now: datetime) -> bool:
        """Whether it has not expired."""
        return now < self.expires_at

    def to_json(self) -> str:
        """The parameter's value. Contains the token: for the store alone."""
        return json.dumps(
            {
                "access_token": self.access_token,
                "token_type": self.token_type,
                "scope": " ".join(self.scope),
                "issued_at": rfc3339(self.issued_at),
                "expires_at": rfc3339(self.expires_at),
                "secret_version": self.secret_version,
                "follows": self.follows,
            }
        )

    @classmethod
    def from_json(cls, text: str, *, parameter_version: int = 0) -> "StoredToken":
        """Read a parameter's value.

        Raises:
            GrantBlocked: it is what `block_record` writes.
            CorruptStoredToken: it is not what `to_json` writes.
        """
        match stored_state(text, parameter_version):
            case StoredToken() as token:
                return token
            case Blocked(reason=reason, record=record):
                raise GrantBlocked(reason, record)
        raise CorruptStoredToken("the parameter contains no stored token")

    @classmethod
    def parse(cls, text: str, parameter_version: int) -> Self | None:
        """The token of a parameter's value; None if it is not what `to_json` writes."""
        try:
            record = json.loads(text)
            token = cls(
                access_token=_text(record, "access_token"),
                token_type=_text(record, "token_type"),
                scope=tuple(_text(record, "scope").split(" ")),
                issued_at=_utc(_text(record, "issued_at")),
                expires_at=_utc(_text(record, "expires_at")),
                secret_version=_version_id(record),
                follows=_version_number(record.get("follows")),
                parameter_version=parameter_version,
            )
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            return None
        is_sound = (
            is_visible_ascii(token.access_token)
            and token.token_type == "Bearer"
            and all(map(is_scope_token, token.scope))
            and timedelta() < token.expires_at - token.issued_at <= MAX_LIFETIME
        )
        return token if is_sound else None


class Blocked(NamedTuple):
    """An operator's block, which stands in a token's place.

    Attributes:
        reason: what the operator gave as the reason.
        record: the parameter's value.
        parameter_version: of the parameter it was read from.
    """

    reason: str
    record: str
    parameter_version: int = 0


class Corrupt(NamedTuple):
    """A parameter that contains something that the broker did not write."""

    parameter_version: int = 0


class Unreadable(NamedTuple):
    """A parameter that can no longer be decrypted.

    Attributes:
        cause: how AWS refused it.
    """

    cause: str


type Stored = StoredToken | Blocked | Corrupt | Unreadable | None
"""What is stored for a grant."""


def stored_state(text: str, parameter_version: int) -> StoredToken | Blocked | Corrupt:
    """What a parameter's value is."""
    if (reason := _block_reason(text)) is not None:
        return Blocked(reason=reason, record=text, parameter_version=parameter_version)
    token = StoredToken.parse(text, parameter_version)
    return token or Corrupt(parameter_version=parameter_version)


def block_record(reason: str, *, now: datetime) -> str:
    """The value that stands in a token's place while its grant is blocked."""
    return json.dumps({"blocked": reason, "blocked_at": rfc3339(now)})


def _block_reason(text: str) -> str | None:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    reason = record.get("blocked") if isinstance(record, dict) else None
    return reason if isinstance(reason, str) else None


def rfc3339(moment: datetime) -> str:
    """An aware time as RFC 3339 in UTC and whole seconds, ending in `Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _text(record: object, name: str) -> str:
    if not isinstance(record, dict) or not isinstance(value := record[name], str):
        raise TypeError(name)
    return value


def _version_id(record: Mapping[str, object]) -> str:
    """A secret's version, which logs name; so whatever else stands there is left out."""
    value = _text({"secret_version": "", **record}, "secret_version")
    return value if _VERSION_ID.fullmatch(value) else ""


def _version_number(value: object) -> int | None:
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if value >= 0 else None


def _utc(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time without its offset")
    return moment.astimezone(UTC)
