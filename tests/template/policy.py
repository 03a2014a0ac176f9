"""A small part of CloudFormation and of IAM, for what no embedded AWS can show.

Knows what the template's resource policy uses and fails on anything else, so that a policy
never passes because a part of it was overlooked.
"""

import re
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass

OWNER = "111122223333"
_ABSENT = object()
_PSEUDO = {
    "AWS::AccountId": OWNER,
    "AWS::NoValue": _ABSENT,
    "AWS::Partition": "aws",
    "AWS::Region": "eu-west-1",
    "AWS::StackName": "broker",
}


class Resolver:
    """A template's functions and conditions, for given values of its parameters.

    A reference to a resource is its logical id.
    """

    def __init__(
        self,
        template: dict,
        parameters: Mapping[str, str],
        owner: str = OWNER,
        stack: str = "broker",
    ) -> None:
        self._conditions = template["Conditions"]
        defaults = {name: str(p["Default"]) for name, p in template["Parameters"].items()}
        resources = {name: name for name in template["Resources"]}
        own = {"AWS::AccountId": owner, "AWS::StackName": stack}
        self._values = resources | _PSEUDO | defaults | dict(parameters) | own

    def resolve(self, value: object) -> object:  # noqa: PLR0911 - one for each function
        match value:
            case {"Ref": name}:
                return self._values[name]
            case {"Fn::Sub": str(text)}:
                return re.sub(r"\$\{([^}]+)\}", lambda found: self._values[found[1]], text)
            case {"Fn::Split": [separator, text]}:
                return self.resolve(text).split(separator)
            case {"Fn::If": [condition, then, otherwise]}:
                return self.resolve(then if self.is_met(condition) else otherwise)
            case dict():
                assert not [key for key in value if key.startswith("Fn::")]
                pairs = [(key, self.resolve(item)) for key, item in value.items()]
                return {key: item for key, item in pairs if item is not _ABSENT}
            case list():
                items = [self.resolve(item) for item in value]
                return [item for item in items if item is not _ABSENT]
            case _:
                return value

    def is_met(self, condition: str) -> bool:
        return self._is_true(self._conditions[condition])

    def _is_true(self, rule: dict) -> bool:
        match rule:
            case {"Fn::Not": [denied]}:
                return not self._is_true(denied)
            case {"Fn::Equals": [left, right]}:
                return str(self.resolve(left)) == str(self.resolve(right))
        raise ValueError(f"this evaluator does not support the rule: {rule}")


@dataclass(frozen=True)
class Caller:
    """The sender of a request; account None is a request without a signature.

    Attributes:
        org: of the account, None if it is in none.
        vpce: the VPC endpoint that the request came through, None from the internet.
        has_policy: whether an identity policy of its own account allows the call.
    """

    account: str | None
    _: KW_ONLY
    org: str | None = None
    vpce: str | None = None
    has_policy: bool = False


def effects(policy: dict, caller: Caller) -> set[str]:
    """What the statements that apply to a caller say: Allow, Deny, both or nothing."""
    return {s["Effect"] for s in policy["Statement"] if _applies(s, caller)}


def gets_in(policy: dict, caller: Caller, owner: str = OWNER) -> bool:
    """Whether API Gateway lets a request through to a method with IAM authorisation.

    A Deny of either policy wins; in the API's own account an Allow of either is enough, from
    another account both must allow ("How API Gateway resource policies affect authorization
    workflow", tables A and B).
    """
    verdicts = effects(policy, caller)
    if caller.account is None or "Deny" in verdicts:
        return False
    if caller.account == owner:
        return caller.has_policy or "Allow" in verdicts
    return caller.has_policy and "Allow" in verdicts


def _applies(statement: dict, caller: Caller) -> bool:
    known = {"Sid", "Effect", "Principal", "Action", "Resource", "Condition"}
    assert set(statement) == known, statement
    assert (statement["Action"], statement["Resource"]) == ("execute-api:Invoke", "execute-api:/*")
    principal = statement["Principal"]
    if principal != "*" and caller.account not in principal["AWS"]:
        return False
    present = {
        "aws:PrincipalAccount": caller.account,
        "aws:PrincipalOrgID": caller.org,
        "aws:SourceVpce": caller.vpce,
    }
    return all(
        _matches(operator, present[key], [wanted] if isinstance(wanted, str) else wanted)
        for operator, keys in statement["Condition"].items()
        for key, wanted in keys.items()
    )


def _matches(operator: str, actual: str | None, wanted: list[str]) -> bool:
    """A key that the request has not is equal to nothing, so it differs from everything."""
    match operator:
        case "StringEquals":
            return actual in wanted
        case "StringNotEquals":
            return actual not in wanted
    raise ValueError(f"this evaluator does not support the operator: {operator}")


@dataclass(frozen=True)
class Call:
    """A role's call of a service, as IAM evaluates it.

    Attributes:
        context: the condition keys that the request has.
    """

    action: str
    resource: str
    context: frozenset[tuple[str, str]] = frozenset()


def allows(policy: dict, call: Call) -> bool:
    """Whether a role with this one policy may do it: an Allow matches, and no Deny."""
    matching = {s["Effect"] for s in policy["Statement"] if matches(s, call)}
    return matching == {"Allow"}


def matches(statement: dict, call: Call) -> bool:
    """Whether a statement of a role's policy is about this call."""
    assert set(statement) <= {"Sid", "Effect", "Action", "Resource", "Condition"}, statement
    if not _like(call.action, statement["Action"]) or not _like(
        call.resource, statement["Resource"]
    ):
        return False
    present = dict(call.context)
    return all(
        _is_met(operator, present.get(key), wanted)
        for operator, keys in statement.get("Condition", {}).items()
        for key, wanted in keys.items()
    )


def _is_met(operator: str, actual: str | None, wanted: str | list[str]) -> bool:
    """A condition of an Allow; each key of a request has one value here."""
    match operator:
        case "Null":
            return (actual is None) is (wanted == "true")
        case "StringEquals" | "ForAnyValue:StringEquals":
            return actual is not None and actual in (
                [wanted] if isinstance(wanted, str) else wanted
            )
        case "StringLike":
            return actual is not None and _like(actual, wanted)
    raise ValueError(f"this evaluator does not support the operator: {operator}")


def _like(text: str, patterns: str | list[str]) -> bool:
    """IAM's wildcards: `*` is any text, a slash too, and `?` any one character."""
    several = [patterns] if isinstance(patterns, str) else patterns
    return any(
        re.fullmatch(re.escape(p).replace(r"\*", ".*").replace(r"\?", "."), text) for p in several
    )
