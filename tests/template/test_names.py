"""No physical name of the template is one that another stack may have.

AWS's resource schemas, which cfn-lint brings, say what a physical name is. The names are read from
the template as SAM hands it to CloudFormation, because SAM adds names of its own.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from cfnlint.schema import PROVIDER_SCHEMA_MANAGER

from tools import audit

TEMPLATE = (Path(__file__).resolve().parent.parent.parent / "template.yaml").read_text()

IN_ONE_REGION = {
    "AWS::CloudWatch::Alarm",
    "AWS::Events::Rule",
    "AWS::Lambda::Function",
    "AWS::Lambda::LayerVersion",
    "AWS::Logs::LogGroup",
    "AWS::SNS::Topic",
    "AWS::SQS::Queue",
    "AWS::Scheduler::Schedule",
    "AWS::SecretsManager::Secret",
}
"""Types whose ARN contains a Region (Service Authorization Reference). The names of every other
type count as the account's, such as those of a dashboard, a role or a bucket."""

SHARED = "SharedLayer"
"""The one exception. SAM names a layer after its logical id. Publishing under a name that exists is
no conflict: it makes the next version, with a number and an ARN of its own. A stack attaches and
deletes its versions by ARN (Lambda API, PublishLayerVersion and DeleteLayerVersion)."""


@cache
def physical_names(template: str) -> dict[str, tuple[str, object]]:
    """Type and value of each name, by logical id."""
    document = audit.transformed(template)
    resources, parameters = document["Resources"], set(document["Parameters"])
    return {
        logical_id: (resource["Type"], name)
        for logical_id, resource in resources.items()
        for name in _names(resource, set(resources), parameters)
    }


def _names(resource: dict, resources: set[str], parameters: set[str]) -> Iterator[object]:
    schema = PROVIDER_SCHEMA_MANAGER.get_resource_schema("eu-west-1", resource["Type"]).schema
    properties = resource.get("Properties", {})
    identifier = _last_parts(schema["primaryIdentifier"])
    if any(_refers_to(properties.get(part), resources) for part in identifier):
        return  # it lives within another resource of the stack, or is about one
    if len(identifier) > 1 and any(_refers_to(properties.get(p), parameters) for p in identifier):
        return  # it lives within a resource that a parameter names
    fixed = identifier | _last_parts(schema.get("createOnlyProperties", []))
    for name in sorted(fixed & set(properties)):
        value = properties[name]
        if name.endswith("Name") and not (_refers_to(value, resources) or _is_given(value)):
            yield value


def _last_parts(paths: list[str]) -> set[str]:
    return {path.removeprefix("/properties/") for path in paths}


def _refers_to(value: object, resources: set[str]) -> bool:
    return isinstance(value, dict) and (value.get("Ref") in resources or "Fn::GetAtt" in value)


def _is_given(value: object) -> bool:
    """Whether it is a parameter's value: who deploys two stacks gives them two names."""
    return isinstance(value, dict) and not str(value.get("Ref", "AWS::")).startswith("AWS::")


def collisions(template: str) -> set[str]:
    """Logical ids of the resources that another stack's may collide with."""
    return {
        logical_id
        for logical_id, (kind, name) in physical_names(template).items()
        if "AWS::StackName" not in str(name)
        or (kind not in IN_ONE_REGION and "AWS::Region" not in str(name))
    }


def test_every_physical_name_contains_the_stacks_and_an_account_wide_one_the_region():
    (shared,) = collisions(TEMPLATE)
    assert physical_names(TEMPLATE)[shared] == ("AWS::Lambda::LayerVersion", SHARED)


def test_names_of_all_kinds_are_checked():
    kinds = {kind for kind, _ in physical_names(TEMPLATE).values()}
    assert kinds == {
        "AWS::CloudWatch::Alarm",
        "AWS::CloudWatch::Dashboard",
        "AWS::Lambda::LayerVersion",
        "AWS::Logs::LogGroup",
        "AWS::SecretsManager::Secret",
    }


@pytest.mark.parametrize(
    ("good", "bad", "collides"),
    [
        ("OmitName: true", "State: ENABLED", "TokenRefresherFunctionSchedule"),
        ("OmitName: true", "Name: renewals", "TokenRefresherFunctionSchedule"),
        ("${AWS::StackName}-${AWS::Region}", "${AWS::StackName}", "Dashboard"),
        ("${AWS::StackName}-${AWS::Region}", "broker-${AWS::Region}", "Dashboard"),
        ("${AWS::StackName}/connections/default", "connections/default", "ClientSecret"),
        ("${AWS::StackName}-vend-faults", "vend-faults", "VendFaultsAlarm"),
        (
            "MessageRetentionPeriod:",
            "QueueName: failures\n      MessageRetentionPeriod:",
            "RefreshFailuresQueue",
        ),
        (
            "Description: May read the tokens",
            "RoleName: !Sub ${AWS::StackName}-v\n      Description: May read the tokens",
            "TokenVendorRole",
        ),
    ],
)
def test_name_that_another_stack_may_have_is_found(good: str, bad: str, collides: str):
    assert TEMPLATE.count(good) == 1
    assert collides in collisions(TEMPLATE.replace(good, bad))
