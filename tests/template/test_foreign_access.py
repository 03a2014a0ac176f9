"""Which CloudTrail events the metric filters of AlarmOnForeignAccess count.

The events are written by hand, none was recorded in an account. Their shapes are described in the
Secrets Manager User Guide, Systems Manager User Guide and KMS Developer Guide, "Logging … with
CloudTrail", and in the CloudTrail User Guide, "userIdentity element". The evaluator has what these
filters use of CloudWatch Logs' filter patterns: comparisons of strings with `=` and `!=`, `*` in
them, `&&`, `||` and parentheses.
"""

import json
import re
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.template.policy import OWNER, Resolver
from tests.template.test_template import template

KEY = f"arn:aws:kms:eu-west-1:{OWNER}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
REFRESHER, VENDOR = "broker-TokenRefresherRole-1A2B", "broker-TokenVendorRole-3C4D"
VALUES = {
    "AlarmOnForeignAccess": "trail",
    "OperatorRole": "AWSReservedSSO_Operators_0123456789abcdef",
    "BrokerKey.Arn": KEY,
    "TokenRefresherRole": REFRESHER,
    "TokenVendorRole": VENDOR,
}
EVENTS = json.loads(Path(__file__).with_name("cloudtrail_events.json").read_text("utf-8"))
assert {event["recipientAccountId"] for event in EVENTS.values()} == {OWNER}
SECRET = f"arn:aws:secretsmanager:eu-west-1:{OWNER}:secret:broker/connections/default-AbCdEf"
_COMPARISON = re.compile(r'\$\.([\w.\[\]]+) (!?=) "([^"]*)"')


@cache
def filters(stack: str = "broker", **values: str) -> dict[str, str]:
    """The patterns as CloudFormation hands them over."""
    resolver = Resolver(template(), VALUES | values, stack=stack)
    return {
        name: str(resolver.resolve(resource["Properties"]["FilterPattern"]))
        for name, resource in template()["Resources"].items()
        if resource.get("Condition") == "HasForeignAccessAlarm" and "Filter" in name
    }


def field(event: Any, path: str) -> str | None:
    for part in re.findall(r"\w+", path):
        try:
            event = event[int(part) if part.isdigit() else part]
        except (KeyError, IndexError, TypeError):
            return None
    return str(event)


def matches(pattern: str, event: dict[str, Any], *, absent_differs: bool) -> bool:
    """Whether a filter counts an event.

    Args:
        pattern: of the filter.
        event: of CloudTrail.
        absent_differs: whether `!=` is true of a field that is not there; AWS's guide does not say.
    """

    def compare(found: re.Match[str]) -> str:
        value, wanted = field(event, found[1]), found[3]
        if value is None:
            return str(int(absent_differs and found[2] == "!="))
        return str(int(fnmatchcase(value, wanted.replace("[", "[[]")) == (found[2] == "=")))

    rest = _COMPARISON.sub(compare, pattern.strip().removeprefix("{").removesuffix("}"))
    assert re.fullmatch(r"[01&|() ]+", rest), rest
    while "(" in rest:
        rest = re.sub(r"\(([^()]*)\)", lambda group: str(int(is_true(group[1]))), rest)
    return is_true(rest)


def is_true(flat: str) -> bool:
    return any(all(part.strip() == "1" for part in each.split("&&")) for each in flat.split("||"))


def counts(event: dict[str, Any]) -> bool:
    """Whether any filter counts it; the same, whatever AWS makes of absent fields."""
    verdicts = {
        any(matches(pattern, event, absent_differs=differs) for pattern in filters().values())
        for differs in (False, True)
    }
    assert len(verdicts) == 1
    return verdicts.pop()


def role(name: str, account: str = OWNER) -> dict[str, Any]:
    issuer = {"type": "Role", "arn": f"arn:aws:iam::{account}:role/path/{name}", "userName": name}
    return {
        "type": "AssumedRole",
        "arn": f"arn:aws:sts::{account}:assumed-role/{name}/session",
        "accountId": account,
        "sessionContext": {"sessionIssuer": issuer},
    }


FOREIGN = {
    "a role": role("reporting-job"),
    "a role whose name begins alike": role(f"{REFRESHER}-2"),
    "a role whose name begins like the operators'": role(
        "AWSReservedSSO_Operators_0123456789abcdef2"
    ),
    "a role of that name in another account": role(REFRESHER, "999988887777"),
    "a user": {"type": "IAMUser", "arn": f"arn:aws:iam::{OWNER}:user/x", "userName": "x"},
    "root": {"type": "Root", "arn": f"arn:aws:iam::{OWNER}:root"},
}
OURS = {
    "refresher": role(REFRESHER),
    "vendor": role(VENDOR),
    "operator": role("AWSReservedSSO_Operators_0123456789abcdef"),
    "CloudWatch, for the topic": {"type": "AWSService", "invokedBy": "cloudwatch.amazonaws.com"},
}


def event(name: str, identity: dict[str, Any], **changes: object) -> dict[str, Any]:
    return EVENTS[name] | {"userIdentity": identity} | changes


@pytest.mark.parametrize("name", EVENTS)
@pytest.mark.parametrize("who", FOREIGN)
def test_foreign_use_is_counted(name: str, who: str):
    assert counts(event(name, FOREIGN[who]))
    assert counts(event(name, FOREIGN[who], errorCode="AccessDenied")), "so is the attempt"


@pytest.mark.parametrize("name", EVENTS)
@pytest.mark.parametrize("who", OURS)
def test_use_by_functions_operators_and_aws_is_not_counted(name: str, who: str):
    assert not counts(event(name, OURS[who]))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("GetSecretValue", {"requestParameters": {"secretId": SECRET}}),
        ("GetSecretValue", {"eventName": "PutSecretValue"}),
        ("GetParameter", {"eventName": "PutParameter"}),
        ("GetParameter", {"eventName": "DeleteParameter"}),
        ("GetParameter", {"requestParameters": {"names": ["/enable-tokens/broker/deals"]}}),
        ("Decrypt", {"eventName": "GenerateDataKeyWithoutPlaintext"}),
        ("Decrypt", {"eventName": "CreateGrant"}),
    ],
)
def test_other_name_or_call_for_the_same_is_counted(name: str, changes: dict[str, object]):
    assert counts(event(name, FOREIGN["a role"], **changes))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("GetSecretValue", {"requestParameters": {"secretId": "another/connections/default"}}),
        ("GetSecretValue", {"eventName": "DescribeSecret"}),
        ("GetParameter", {"requestParameters": {"name": "/enable-tokens/broker-2/deals"}}),
        ("GetParameter", {"requestParameters": None}),
        ("Decrypt", {"eventName": "DescribeKey"}),
        ("Decrypt", {"resources": [{"ARN": KEY.replace("1234abcd", "99999999")}]}),
        ("Decrypt", {"resources": None}),
    ],
)
def test_anything_else_is_not_counted(name: str, changes: dict[str, object]):
    assert not counts(event(name, FOREIGN["a role"], **changes))


def test_without_an_operator_role_nobody_else_is_left_out():
    without = filters(OperatorRole="")
    for name in EVENTS:
        seen = event(name, OURS["operator"])
        assert any(matches(p, seen, absent_differs=False) for p in without.values())


def test_longest_names_fit_a_filter_pattern():
    long = {
        "AWS::Partition": "aws-us-gov",
        "AWS::Region": "ap-southeast-99",
        "TokenRefresherRole": "r" * 64,
        "TokenVendorRole": "v" * 64,
        "OperatorRole": "o" * 64,
    }
    patterns = filters(stack="s" * 128, **long)
    assert len(patterns) == 3
    assert {name: len(p) for name, p in patterns.items() if len(p) > 1024} == {}


def test_alarm_sums_what_all_filters_count_and_is_there_if_asked_for():
    resources = template()["Resources"]
    alarm = resources["ForeignAccessAlarm"]
    assert "Dimensions" not in alarm["Properties"]
    assert alarm["Condition"] == "HasForeignAccessAlarm"
    for name in filters():
        (counted,) = resources[name]["Properties"]["MetricTransformations"]
        assert counted["MetricName"] == alarm["Properties"]["MetricName"]
        assert counted["MetricNamespace"] == alarm["Properties"]["Namespace"]
        assert (counted["MetricValue"], counted["DefaultValue"]) == ("1", 0)
        assert resources[name]["Type"] == "AWS::Logs::MetricFilter"
        assert resources[name]["Properties"]["LogGroupName"] == {"Ref": "AlarmOnForeignAccess"}
    assert not Resolver(template(), {}).is_met("HasForeignAccessAlarm")
    assert Resolver(template(), VALUES).is_met("HasForeignAccessAlarm")


@pytest.mark.parametrize(
    ("parameter", "value", "is_accepted"),
    [
        ("AlarmOnForeignAccess", "aws-cloudtrail-logs-111122223333-1a2b", True),
        ("AlarmOnForeignAccess", "/org/CloudTrail_all.events#1", True),
        ("AlarmOnForeignAccess", "arn:aws:logs:eu-west-1:111122223333:log-group:x", False),
        ("OperatorRole", "", True),
        ("OperatorRole", "broker-operator", True),
        ("OperatorRole", "ops*", False),
        ("OperatorRole", 'x" || ($.a = "', False),
        ("OperatorRole", "path/operator", False),
    ],
)
def test_parameter_takes_a_name_alone(parameter: str, value: str, is_accepted: bool):  # noqa: FBT001
    pattern = template()["Parameters"][parameter]["AllowedPattern"]
    assert bool(re.fullmatch(pattern, value)) is is_accepted
