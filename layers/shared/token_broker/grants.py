"""grants.toml: the named sets of scopes that the broker keeps one live token for each.

The file is part of the deployed layer. The build refuses a faulty one (see
`token_refresher.check_grants`), so the functions read it with the plain constructor here.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import ClassVar, Final

from token_broker.callers import pattern_fault
from token_broker.models import is_scope_token

GRANTS_FILE: Final = Path(__file__).resolve().parent.parent / "grants.toml"
_UNKNOWN_KEYS_REFUSED: Final = {"extra": "forbid"}
_GRANT_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}")


@dataclass(frozen=True, slots=True)
class Grant:
    """One grant: a scope, and who may have it.

    Attributes:
        scope: the Enable scopes of its token, in the order of the file.
        callers: ARN patterns of the second lock; None leaves the decision to IAM alone.

    Raises:
        ValueError: a value is malformed; the message says which and why.
    """

    __pydantic_config__: ClassVar = _UNKNOWN_KEYS_REFUSED
    _: KW_ONLY
    scope: tuple[str, ...]
    callers: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check what types alone cannot say."""
        if not self.scope:
            raise ValueError("scope is empty; name at least one Enable scope")
        for scope in self.scope:
            if not is_scope_token(scope):
                raise ValueError(
                    f"scope {scope!r} is not a scope-token (RFC 6749 section 3.3): "
                    "no spaces, quotes, backslashes or non-ASCII characters"
                )
        if len(set(self.scope)) != len(self.scope):
            raise ValueError("scope names a scope twice")
        if self.callers is not None and not self.callers:
            raise ValueError("callers is empty, so nobody could have the grant; remove the line")
        for pattern in self.callers or ():
            if fault := pattern_fault(pattern):
                raise ValueError(f"callers: the pattern {pattern!r} {fault}")


@dataclass(frozen=True, slots=True)
class GrantsFile:
    """The whole of grants.toml.

    Raises:
        ValueError: a grant's name is malformed, or there is none.
    """

    __pydantic_config__: ClassVar = _UNKNOWN_KEYS_REFUSED
    _: KW_ONLY
    grants: dict[str, Grant]

    def __post_init__(self) -> None:
        """Check the names, which become part of parameter names and URLs."""
        if not self.grants:
            raise ValueError("there is no [grants.…] table; the broker would have nothing to do")
        for name in self.grants:
            if not _GRANT_NAME.fullmatch(name):
                raise ValueError(
                    f"the grant's name {name!r} is not a lower-case letter followed by up to 62 "
                    "lower-case letters, digits, '-' or '_'"
                )


def load_grants(file: Path = GRANTS_FILE) -> Mapping[str, Grant]:
    """The grants of a file that the build has checked, by name.

    Raises:
        ValueError, TypeError, KeyError: the file never went through the build's check.
    """
    tables = tomllib.loads(file.read_text(encoding="utf-8"))["grants"]
    return GrantsFile(
        grants={
            name: Grant(
                scope=tuple(table["scope"]),
                callers=tuple(table["callers"]) if "callers" in table else None,
            )
            for name, table in tables.items()
        }
    ).grants
