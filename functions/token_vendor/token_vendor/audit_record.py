"""What the log may contain about a request: the fields of one type, and no other."""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final

from token_broker.models import rfc3339

if TYPE_CHECKING:
    from token_vendor.vend import Vended

MAX_GRANT_CHARS: Final = 64
"""No grant's name is longer; a name that a caller made up is cut here."""


@dataclass(slots=True, kw_only=True, eq=False)
class AuditRecord:
    """One request, filled in as its facts become known.

    The fields are the allow-list of the log: a request's event, headers and body, and a
    response's token, have no field to get into.

    Attributes:
        caller: ARN of the principal, as API Gateway names it.
        grant: as the caller wrote it.
        scope: of the token, or the requested one; scopes separated by blanks.
        fingerprint: of the token that is vended, or reported as rejected.
        expires_at: the token's, RFC 3339.
        seconds_left: of the token's life, rounded down.
        would_be_refused: the grant's `callers` would refuse this caller if they were enforced.
        refresh: `started` if the request started a refresh run.
        reason: of a refusal or fault, a short word.
        cause: the same in a sentence.
    """

    caller: str = ""
    grant: str = ""
    scope: str | None = None
    fingerprint: str | None = None
    expires_at: str | None = None
    seconds_left: int | None = None
    would_be_refused: bool | None = None
    refresh: str | None = None
    reason: str | None = None
    cause: str | None = None

    def add_vended(self, vended: "Vended", *, seconds_left: int) -> None:
        """Fill in what the log says of a token that is vended: all of it here.

        Args:
            vended: what the caller gets.
            seconds_left: of the token's life, as the response says.
        """
        token = vended.token
        self.scope = " ".join(token.scope)
        self.fingerprint = token.fingerprint
        self.expires_at = rfc3339(token.expires_at)
        self.seconds_left = seconds_left
        self.would_be_refused = vended.is_only_audited or None

    def log_fields(self) -> dict[str, object]:
        """What is known, by the name of the log field."""
        known = {name: value for name in _NAMES if (value := getattr(self, name)) is not None}
        return known | {"grant": self.grant[:MAX_GRANT_CHARS]}


_NAMES: Final = tuple(field.name for field in fields(AuditRecord))
