"""The deployer's policy allows what a deployment does, and nothing that none does.

What CloudFormation does for a resource is what its type's handlers declare, in the resource schemas
that cfn-lint brings; whether an action has resource-level permission, in the data of its IAM rules.
"""

import json
import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files

import pytest
from cfnlint.schema import PROVIDER_SCHEMA_MANAGER
from samcli.lib.bootstrap.bootstrap import _get_stack_template

from tests.template.policy import OWNER, Call, Resolver, allows, matches
from tests.template.test_template import ROOT
from tools import audit

STACK = "enable-token-broker-dev"
HERE = f"eu-west-1:{OWNER}"
BUCKET = "arn:aws:s3:::aws-sam-cli-managed-default-samclisourcebucket-1a2b3c"
KEY = f"arn:aws:kms:{HERE}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
ROLE = f"arn:aws:iam::{OWNER}:role/{STACK}-TokenRefresherRole-1A2B3C"
SECRET = f"arn:aws:secretsmanager:{HERE}:secret:{STACK}/connections/default-AbCdEf"
APIS = "arn:aws:apigateway:eu-west-1::"

ARNS = {
    "AWS::ApiGateway::BasePathMapping": [f"{APIS}/domainnames/tokens.example.com/basepathmappings"],
    "AWS::ApiGateway::Deployment": [f"{APIS}/restapis/a1b2c3/deployments/d1"],
    "AWS::ApiGateway::DomainName": [
        f"{APIS}/domainnames",
        f"{APIS}/domainnames/tokens.example.com",
    ],
    "AWS::ApiGateway::RestApi": [f"{APIS}/restapis", f"{APIS}/restapis/a1b2c3"],
    "AWS::ApiGateway::Stage": [f"{APIS}/restapis/a1b2c3/stages/v1", f"{APIS}/tags/arn"],
    "AWS::CloudWatch::Alarm": [f"arn:aws:cloudwatch:{HERE}:alarm:{{name}}"],
    "AWS::CloudWatch::Dashboard": [f"arn:aws:cloudwatch::{OWNER}:dashboard/{{name}}"],
    "AWS::Events::Rule": [f"arn:aws:events:{HERE}:rule/{{name}}"],
    "AWS::IAM::Role": [f"arn:aws:iam::{OWNER}:role/{{name}}"],
    "AWS::KMS::Key": [KEY],
    "AWS::Lambda::EventInvokeConfig": [f"arn:aws:lambda:{HERE}:function:{STACK}-Function-1A2B"],
    "AWS::Lambda::Function": [f"arn:aws:lambda:{HERE}:function:{{name}}"],
    "AWS::Lambda::LayerVersion": [f"arn:aws:lambda:{HERE}:layer:{{name}}"],
    "AWS::Lambda::Permission": [f"arn:aws:lambda:{HERE}:function:{STACK}-Function-1A2B"],
    "AWS::Logs::LogGroup": [f"arn:aws:logs:{HERE}:log-group:{{name}}"],
    "AWS::Logs::MetricFilter": [
        f"arn:aws:logs:{HERE}:log-group:/enable-token-broker/{STACK}/x",
        f"arn:aws:logs:{HERE}:log-group:aws-cloudtrail-logs-{OWNER}-1a2b",
    ],
    "AWS::Logs::QueryDefinition": ["*"],
    "AWS::S3::Bucket": [BUCKET],
    "AWS::S3::BucketPolicy": [BUCKET],
    "AWS::SNS::Subscription": [f"arn:aws:sns:{HERE}:{STACK}-AlarmTopic-1A2B3C"],
    "AWS::SNS::Topic": [f"arn:aws:sns:{HERE}:{{name}}"],
    "AWS::SQS::Queue": [f"arn:aws:sqs:{HERE}:{{name}}"],
    "AWS::Scheduler::Schedule": [f"arn:aws:scheduler:{HERE}:schedule/default/{{name}}"],
    "AWS::SecretsManager::Secret": [f"arn:aws:secretsmanager:{HERE}:secret:{{name}}-AbCdEf"],
}
"""What a resource of each type is called. AWS adds characters to a name that has none."""

NAMES = {
    "AlarmName",
    "DashboardName",
    "LayerName",
    "LogGroupName",
    "Name",
}

ELSEWHERE = {
    "iam:PassRole": ROLE,
    "lambda:GetLayerVersion": f"arn:aws:lambda:{HERE}:layer:SharedLayer:1",
    "iam:GetRole": ROLE,
    "s3:GetObject": f"{BUCKET}/4f2a",
    "s3:GetObjectVersion": f"{BUCKET}/4f2a",
}
"""Actions of a handler that are about something else than its resource."""

ITS_OWN = {
    ("AWS::IAM::Role", "iam:GetRole"),
    ("AWS::Lambda::LayerVersion", "lambda:GetLayerVersion"),
}

ON_EVERYTHING = {
    "sns:GetSubscriptionAttributes",
    "sns:SetSubscriptionAttributes",
    "sns:Unsubscribe",
    "cloudwatch:DescribeAlarms",
}
"""Evaluated against `*`, by the Service Authorization Reference or by what accounts show, although
the data names a resource; the policy allows them there."""

NOT_NEEDED = {
    "no function has a file system": r"elasticfilesystem:.*|s3files:.*",
    "Lambda encrypts the variables with its own key": r"AWS::Lambda::Function kms:.*",
    "functions have no signing, concurrency, capacity or runtime setting, and no version": (
        r"lambda:(GetCodeSigningConfig|(Put|Delete)FunctionCodeSigningConfig|PassCapacityProvider"
        r"|(Put|Delete)FunctionConcurrency|PutFunction(Recursion|Scaling)Config"
        r"|PutRuntimeManagementConfig|PublishVersion)"
    ),
    "Lambda and the Scheduler alone are given a role": (
        r"AWS::(ApiGateway::RestApi|Events::Rule|SNS::\w+|S3::Bucket) iam:(PassRole|GetRole)"
    ),
    "the API's definition is in the template": r"AWS::ApiGateway::RestApi s3:GetObject",
    "a managed policy or a boundary would be an escalation": (
        r"iam:(AttachRolePolicy|(Delete|Put)RolePermissionsBoundary)"
    ),
    "the key is enabled and rotated, always": r"kms:(DisableKey|EnableKey|DisableKeyRotation)",
    "the secret's value is write-only, not generated and not replicated": (
        r"secretsmanager:(GetSecretValue|GetRandomPassword|\w+Region\w+)"
    ),
    "log groups have a name and a retention, and no policy, key or delivery": (
        r"logs:(CreateLogDelivery|(Put|Delete)(Resource|Index)Policy|PutDataProtectionPolicy"
        r"|(Dis)?[Aa]ssociateKmsKey|PutBearerTokenAuthentication|PutLogGroupDeletionProtection)"
        r"|s3:REST.PUT.OBJECT|firehose:.*"
    ),
    "the topic has no data protection policy": r"sns:PutDataProtectionPolicy",
    "SAM's bucket has encryption, a public access block, versions and tags": (
        r"s3tables:.*|AWS::S3::Bucket s3:(Put(?!BucketTagging|EncryptionConfiguration"
        r"|BucketPublicAccessBlock|BucketVersioning).*|Create\w+Table\w+|DeleteObject)"
    ),
}
"""Permissions that handlers declare for what the template does not use; the policy denies them."""

SAM_CLI = {
    f"arn:aws:cloudformation:{HERE}:stack/{name}/guid": (
        "DescribeStacks DescribeStackEvents DescribeChangeSet ExecuteChangeSet CreateChangeSet "
        "ListChangeSets GetTemplate GetTemplateSummary DeleteStack TagResource"
    )
    for name in (STACK, "aws-sam-cli-managed-default")
} | {
    "arn:aws:cloudformation:eu-west-1:aws:transform/Serverless-2016-10-31": "CreateChangeSet",
    "*": "GetTemplateSummary ValidateTemplate",
}
"""What `sam deploy` and `sam delete` request of CloudFormation, in the SAM CLI's source."""


@cache
def policy() -> dict:
    return json.loads((ROOT / "docs/deployer-policy.json").read_text("utf-8"))


@cache
def services() -> dict:
    path = files("cfnlint") / "data/AdditionalSpecs/Policies.json"
    return json.loads(path.read_text("utf-8"))


def has_resource(action: str) -> bool:
    service, _, name = action.partition(":")
    known = services()[service]["Actions"].get(name.lower(), {})
    return bool(known.get("Resources")) and action not in ON_EVERYTHING


@cache
def schema(kind: str) -> dict:
    return PROVIDER_SCHEMA_MANAGER.get_resource_schema("eu-west-1", kind).schema


def arns(logical_id: str, kind: str, properties: dict) -> list[str]:
    found = [properties[name] for name in sorted(NAMES & set(properties))]
    name = found[0] if found else f"{STACK}-{logical_id}-1A2B3C4D"
    version = ":1" if kind == "AWS::Lambda::LayerVersion" else ""
    plain = [arn.format(name=name) for arn in ARNS[kind]]
    return plain + [arn + version for arn in plain if version]


def handlers(kind: str) -> Iterator[str]:
    """The actions that a type's handlers declare; SAM only creates and reads its bucket."""
    wanted = {"create", "read"} if "::S3::" in kind else {*schema(kind)["handlers"]}
    for name, handler in schema(kind)["handlers"].items():
        if name in wanted:
            yield from (action[0].lower() + action[1:] for action in handler["permissions"])


def reason_not_needed(kind: str, action: str) -> str | None:
    return next(
        (
            reason
            for reason, pattern in NOT_NEEDED.items()
            if re.fullmatch(pattern, action) or re.fullmatch(pattern, f"{kind} {action}")
        ),
        None,
    )


@cache
def declared() -> tuple[tuple[str, str, Call], ...]:
    """Type, logical id and call of each permission that a handler declares."""
    template = audit.transformed((ROOT / "template.yaml").read_text("utf-8"))
    resolver = Resolver(template, {}, stack=STACK)
    bucket = json.loads(_get_stack_template())
    resources = template["Resources"] | bucket["Resources"]
    return tuple(
        (kind, logical_id, call)
        for logical_id, resource in resources.items()
        for kind in [resource["Type"]]
        for names in [{n: v for n, v in resource.get("Properties", {}).items() if n in NAMES}]
        for call in _calls(kind, arns(logical_id, kind, resolver.resolve(names)))
    )


def _calls(kind: str, own: list[str]) -> Iterator[Call]:
    passed_to = "scheduler" if "Scheduler" in kind else "lambda"
    context = {
        ("aws:CalledVia", "cloudformation.amazonaws.com"),
        ("aws:RequestTag/application", "enable-token-broker"),
        ("iam:PassedToService", f"{passed_to}.amazonaws.com"),
    }
    for action in dict.fromkeys(handlers(kind)):
        about = own if has_resource(action) else ["*"]
        if action in ELSEWHERE and (kind, action) not in ITS_OWN:
            about = [ELSEWHERE[action]]
        for resource in about:
            yield Call(action, resource, frozenset(context))


def needed() -> list[Call]:
    from_handlers = [c for kind, _, c in declared() if not reason_not_needed(kind, c.action)]
    from_sam = [
        Call(f"cloudformation:{action}", arn)
        for arn, actions in SAM_CLI.items()
        for action in actions.split()
    ]
    artifacts = [Call(f"s3:{name}Object", f"{BUCKET}/4f2a") for name in ("Get", "Put", "Delete")]
    # Secrets Manager User Guide, "Permissions for the KMS key"
    through = frozenset(
        {
            ("kms:ViaService", "secretsmanager.eu-west-1.amazonaws.com"),
            ("kms:EncryptionContext:SecretARN", SECRET),
        }
    )
    key = [Call(f"kms:{name}", KEY, through) for name in ("Decrypt", "GenerateDataKey")]
    return [*from_handlers, *from_sam, *artifacts, *key]


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def test_what_every_handler_declares_is_allowed_or_is_not_needed():
    refused = {(c.action, c.resource) for c in needed() if not allows(policy(), c)}
    assert refused == set()


def test_what_is_listed_as_not_needed_is_denied():
    allowed = {
        f"{kind} {call.action}"
        for kind, _, call in declared()
        if reason_not_needed(kind, call.action) and allows(policy(), call)
    }
    # Allowed for a stage's roles and artifacts, whichever handler calls.
    assert allowed <= {
        f"AWS::{kind} {action}"
        for kind in ("ApiGateway::RestApi", "Events::Rule", "SNS::Topic", "SNS::Subscription")
        for action in ("iam:GetRole", "iam:PassRole", "s3:GetObject")
    } | {"AWS::S3::Bucket iam:PassRole"}


def test_every_exception_is_about_a_permission_that_a_handler_declares():
    reasons = {reason_not_needed(kind, call.action) for kind, _, call in declared()}
    assert set(NOT_NEEDED) <= reasons
    secret = schema("AWS::SecretsManager::Secret")
    assert "/properties/SecretString" in secret["writeOnlyProperties"]


def test_no_action_is_allowed_that_none_needs():
    idle = [
        (statement["Sid"], action)
        for statement in policy()["Statement"]
        for action in _listed(statement["Action"])
        if not any(matches(statement | {"Action": action}, call) for call in needed())
    ]
    assert idle == []


def test_no_resource_is_named_that_none_needs():
    idle = [
        (statement["Sid"], resource)
        for statement in policy()["Statement"]
        for resource in _listed(statement["Resource"])
        if not any(matches(statement | {"Resource": resource}, call) for call in needed())
    ]
    assert idle == []


def test_only_actions_without_resource_level_permission_stand_on_everything():
    cli = {"cloudformation:GetTemplateSummary", "cloudformation:ValidateTemplate"}
    wide = {
        action
        for statement in policy()["Statement"]
        if statement["Resource"] == "*"
        for action in _listed(statement["Action"])
    }
    assert {action for action in wide - cli if has_resource(action)} == set()


def test_nothing_depends_on_a_tag_of_a_resource():
    conditions = [s.get("Condition", {}) for s in policy()["Statement"]]
    assert "ResourceTag" not in json.dumps(conditions)


@pytest.mark.parametrize(
    ("action", "resource"),
    [
        ("secretsmanager:GetSecretValue", SECRET),
        ("secretsmanager:PutSecretValue", SECRET),
        ("kms:PutKeyPolicy", KEY),
        ("kms:ScheduleKeyDeletion", KEY),
        ("kms:Decrypt", KEY),
        ("apigateway:DELETE", f"{APIS}/restapis/zzz"),
        ("apigateway:DELETE", f"{APIS}/domainnames/tokens.example.com"),
        ("iam:AttachRolePolicy", ROLE),
        ("iam:PutRolePolicy", f"arn:aws:iam::{OWNER}:role/administrator"),
        ("ssm:GetParameter", f"arn:aws:ssm:{HERE}:parameter/enable-tokens/{STACK}/deals"),
        ("lambda:InvokeFunction", f"arn:aws:lambda:{HERE}:function:{STACK}-Function-1A2B"),
    ],
)
def test_deployer_itself_is_denied(action: str, resource: str):
    assert not allows(policy(), Call(action, resource))


def test_change_set_that_imports_another_resource_is_denied():
    stack = f"arn:aws:cloudformation:{HERE}:stack/{STACK}/guid"
    imports = frozenset({("cloudformation:ImportResourceTypes", "AWS::KMS::Key")})
    assert allows(policy(), Call("cloudformation:CreateChangeSet", stack))
    assert not allows(policy(), Call("cloudformation:CreateChangeSet", stack, imports))


def test_role_is_passed_to_no_other_service():
    to_ec2 = frozenset({("iam:PassedToService", "ec2.amazonaws.com")})
    assert not allows(policy(), Call("iam:PassRole", ROLE, to_ec2))


def test_policy_fits_a_role_and_the_pipeline_trusts_one_environment():
    assert len(re.sub(r"\s", "", json.dumps(policy()))) < 10_240  # IAM: inline policies of a role
    trust = json.loads((ROOT / "docs/pipeline-policy.json").read_text("utf-8"))
    equal = trust["Statement"]["Condition"]["StringEquals"]
    assert equal["token.actions.githubusercontent.com:sub"].endswith(":environment:prod")
    page = (ROOT / "docs/deploy.md").read_text("utf-8")
    assert {"(deployer-policy.json)", "(pipeline-policy.json)"} <= set(re.findall(r"\(\S+\)", page))
