"""grants.toml: the named sets of scopes that the broker keeps one live token for each.

The file is a layer of its own, so that the code is the same whatever is granted. The build refuses
a faulty one (see `token_refresher.check_grants`, which names all faults at once). The functions
check again, without pydantic, because a given layer (GrantsLayerArn) is not of this build.
"""

import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

from token_broker.callers import pattern_fault
from token_broker.errors import ConfigurationError
from token_broker.models import is_scope_token


def locate(folders: Iterable[str]) -> Path:
    """grants.toml in the first of the folders that contains one.

    Args:
        folders: a module search path. Lambda has the `python` folder of each layer on it, and the
            development environment `layers/grants`.

    Returns:
        Its path; where no folder contains one, a path of which reading fails.
    """
    files = [Path(folder) / "grants.toml" for folder in folders if folder]
    return next((file for file in files if file.is_file()), Path("python/grants.toml"))


GRANTS_FILE: Final = locate(sys.path)
DEFAULT_CONNECTION: Final = "default"
"""The connection of the template's own parameters: TokenUrl and the secret it creates."""

_UNKNOWN_KEYS_REFUSED: Final = {"extra": "forbid"}
_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_NAME_RULE: Final = (
    "is not a lower-case letter followed by up to 62 lower-case letters, digits, '-' or '_'"
)
_TOKEN_URL: Final = re.compile(
    r"(https://[^\s/?#@]+|http://(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?)(/[^\s?#]*)?"
)


@dataclass(frozen=True, slots=True)
class Grant:
    """One grant: a scope, and who may have it.

    Attributes:
        scope: the Enable scopes of its token, in the order of the file.
        callers: ARN patterns of the allow-list; None leaves the decision to IAM alone.
        mode: `enforce` refuses callers that do not match; `audit` lets them through and
            logs whom it would have refused.
        connection: which Enable credentials and token endpoint its token comes from.

    Raises:
        ValueError: a value is malformed; the message says which and why.
    """

    __pydantic_config__: ClassVar = _UNKNOWN_KEYS_REFUSED
    _: KW_ONLY
    scope: tuple[str, ...]
    callers: tuple[str, ...] | None = None
    mode: Literal["enforce", "audit"] = "enforce"
    connection: str = DEFAULT_CONNECTION

    def __post_init__(self) -> None:
        """Check what types alone cannot say."""
        if self.mode not in {"enforce", "audit"}:
            raise ValueError("mode is neither 'enforce' nor 'audit'")
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
        if self.mode == "audit" and self.callers is None:
            raise ValueError("mode is for a grant with callers: there is nobody to audit")
        for pattern in self.callers or ():
            if fault := pattern_fault(pattern):
                raise ValueError(f"callers: the pattern {pattern!r} {fault}")


@dataclass(frozen=True, slots=True)
class Connection:
    """Another Enable instance; its secret is `{StackName}/connections/{name}`.

    Raises:
        ValueError: the URL is not https (http for loopback hosts only), or has a user, a
            query or a fragment.
    """

    __pydantic_config__: ClassVar = _UNKNOWN_KEYS_REFUSED
    _: KW_ONLY
    token_url: str

    def __post_init__(self) -> None:
        """Check what types alone cannot say."""
        if not _TOKEN_URL.fullmatch(self.token_url):
            raise ValueError(
                "token_url is not an https URL without user, query or fragment "
                "(http for loopback hosts only)"
            )


@dataclass(frozen=True, slots=True)
class GrantsFile:
    """The whole of grants.toml.

    Raises:
        ValueError: a name is malformed, there is no grant, or one names no connection.
    """

    __pydantic_config__: ClassVar = _UNKNOWN_KEYS_REFUSED
    _: KW_ONLY
    grants: dict[str, Grant]
    connections: dict[str, Connection] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the names, which become part of parameter names, secret names and URLs."""
        if not self.grants:
            raise ValueError("there is no [grants.…] table; the broker would have nothing to do")
        for kind, names in (("grant", self.grants), ("connection", self.connections)):
            for name in names:
                if not _NAME.fullmatch(name):
                    raise ValueError(f"the {kind}'s name {name!r} {_NAME_RULE}")
        if DEFAULT_CONNECTION in self.connections:
            raise ValueError(
                "[connections.default] is the template's own; set its TokenUrl parameter instead"
            )
        known = {DEFAULT_CONNECTION, *self.connections}
        for name, grant in self.grants.items():
            if grant.connection not in known:
                raise ValueError(
                    f"grants.{name}: there is no [connections.{grant.connection}] table"
                )


_GRANT_KEYS: Final = {"scope": list, "callers": list, "mode": str, "connection": str}
_CONNECTION_KEYS: Final = {"token_url": str}


def load_grants_file(file: Path = GRANTS_FILE) -> GrantsFile:
    """The grants of a file, all of it checked.

    Raises:
        ConfigurationError: the file is missing or faulty; the sentence names it and the fault.
    """
    try:
        return _read(tomllib.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ConfigurationError(
            "no layer of the function contains python/grants.toml; "
            "`broker grants publish FILE` makes a layer that does"
        ) from None
    except RecursionError:
        fault = "nested too deeply"
    except (OSError, ValueError) as error:
        fault = str(error)
    raise ConfigurationError(
        f"{file} is faulty: {fault}; correct it, then `broker grants publish` it or deploy"
    )


def load_grants(file: Path = GRANTS_FILE) -> Mapping[str, Grant]:
    """The grants of a file, by name; raises as the above."""
    return load_grants_file(file).grants


def _read(document: dict[str, Any]) -> GrantsFile:
    top = _checked("the file", document, {"grants": dict, "connections": dict}, needs="grants")
    return GrantsFile(
        grants={name: _grant(name, table) for name, table in top["grants"].items()},
        connections={
            name: _connection(name, table) for name, table in top.get("connections", {}).items()
        },
    )


def _grant(name: str, table: object) -> Grant:
    values = _checked(f"grants.{name}", table, _GRANT_KEYS, needs="scope")
    try:
        return Grant(**values)
    except ValueError as error:
        raise ValueError(f"grants.{name}: {error}") from None


def _connection(name: str, table: object) -> Connection:
    values = _checked(f"connections.{name}", table, _CONNECTION_KEYS, needs="token_url")
    try:
        return Connection(**values)
    except ValueError as error:
        raise ValueError(f"connections.{name}: {error}") from None


def _checked(where: str, table: object, keys: Mapping[str, type], *, needs: str) -> dict[str, Any]:
    """A table's values, each of its type; a list of texts becomes a tuple.

    Raises:
        ValueError: it is no table, a key is unknown or missing, or a value has another type.
    """
    if not isinstance(table, dict):
        raise ValueError(f"{where}: is not a table")  # noqa: TRY004 - as every fault of a file
    for key, value in table.items():
        if key not in keys:
            raise ValueError(f"{where}: the key {key!r} is unknown")
        is_good = isinstance(value, keys[key])
        if isinstance(value, list):
            is_good &= all(isinstance(text, str) for text in value)
        if not is_good:
            raise ValueError(f"{where}: {key} is not {_TYPE_NAMES[keys[key]]}")
    if needs not in table:
        raise ValueError(f"{where}: {needs} is missing")
    return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}


_TYPE_NAMES: Final[dict[type, str]] = {list: "a list of texts", str: "a text", dict: "a table"}
