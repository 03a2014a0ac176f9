"""The allow-list `callers`: which principals may have a grant's token.

A pattern is a whole principal ARN with a literal account, in whose name `*` stands for
any run of characters and `?` for one; neither ever stands for `:`.

    arn:aws:iam::111122223333:role/reporting-*
    arn:aws:iam::111122223333:user/ops/*

API Gateway names the caller by what signed the request. A user arrives as its own ARN. A
role arrives as a session (`arn:aws:sts::…:assumed-role/Name/session`) that has lost the
role's path; it is matched as `arn:aws:iam::…:role/Name`. Role names are unique within an
account whatever their path, so nothing is lost by naming a role without it, and a role
pattern with a path, which could never match, is refused.
"""

import re
from typing import Final

_PATTERN: Final = re.compile(
    r"arn:(?P<partition>aws[a-z-]*):iam::(?P<account>[0-9]{12}):"
    r"(?:role/(?P<role>[\w+=,.@*?-]+)|user/(?P<user>[\w+=,.@*?/-]+))",
    re.ASCII,
)
_ASSUMED_ROLE: Final = re.compile(
    r"arn:(aws[a-z-]*):sts::([0-9]{12}):assumed-role/([\w+=,.@-]+)/[^:/]+", re.ASCII
)


def pattern_fault(pattern: str) -> str | None:
    """What is wrong with a `callers` pattern, or None.

    Returns:
        A phrase that fits behind "the pattern", with the next step in it.
    """
    if _PATTERN.fullmatch(pattern):
        return None
    if re.match(r"arn:[^:]*:iam::[0-9]{12}:role/.*/", pattern):
        return "names a role with its path; write the role's name alone (role/NAME)"
    if re.match(r"arn:[^:]*:sts:", pattern):
        return "names a session; write the role it belongs to (arn:aws:iam::ACCOUNT:role/NAME)"
    return "is not arn:aws:iam::ACCOUNT:role/NAME or …:user/NAME with a 12-digit account"


def principal_arn(caller_arn: str) -> str:
    """The IAM principal behind the ARN that API Gateway names a caller by.

    Returns:
        `arn:…:iam::…:role/Name` for an assumed-role session, anything else unchanged.
    """
    if session := _ASSUMED_ROLE.fullmatch(caller_arn):
        partition, account, role = session.groups()
        return f"arn:{partition}:iam::{account}:role/{role}"
    return caller_arn


def is_allowed(caller_arn: str, patterns: tuple[str, ...]) -> bool:
    """Whether a caller matches one of the patterns as a whole."""
    principal = principal_arn(caller_arn)
    return any(_matches(principal, pattern) for pattern in patterns)


def _matches(principal: str, pattern: str) -> bool:
    wildcards = {"*": "[^:]*", "?": "[^:]"}
    expression = "".join(wildcards.get(char, re.escape(char)) for char in pattern)
    return re.fullmatch(expression, principal) is not None
