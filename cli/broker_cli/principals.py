"""Callers by their ARN, as an operator writes them and as grants.toml matches them."""

import re
from typing import Final

from broker_cli.console import printable
from broker_cli.failures import ExitCode, Failure
from token_broker.callers import is_allowed, principal_arn
from token_broker.grants import Grant, GrantsFile

_PRINCIPAL: Final = re.compile(r"arn:aws[a-z-]*:iam::[0-9]{12}:(role|user)/[\w+=,.@/-]+", re.ASCII)


def normalized(arn: str) -> str:
    """The user or role behind an ARN; that of a session for an assumed role.

    Raises:
        Failure: it is neither.
    """
    principal = principal_arn(arn.strip())
    if not _PRINCIPAL.fullmatch(principal):
        raise Failure(
            f"{printable(arn)} is no ARN of a user, a role or a role's session",
            "it looks like arn:aws:iam::111122223333:role/NAME (`aws sts get-caller-identity`)",
            ExitCode.USAGE,
        )
    return principal


def is_named(principal: str, patterns: tuple[str, ...]) -> bool:
    """Whether a grant's callers name a user or role; a role by its name, whatever its path."""
    return is_allowed(re.sub(r":role/.*/", ":role/", principal), patterns)


def grant_of(file: GrantsFile, name: str) -> Grant:
    """A grant by name.

    Raises:
        Failure: there is none.
    """
    if name not in file.grants:
        raise Failure(
            f"there is no grant {printable(name)}",
            f"grants.toml has {', '.join(file.grants)}",
            ExitCode.USAGE,
        )
    return file.grants[name]
