"""The embedded AWS refuses what AWS refuses; ministack alone would not."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from local.broker_stack import wait_until
from local.callers import create_role
from local.embedded_aws import REGION, EmbeddedAws
from tests.deployed.leaks import BROKEN_OFF

ACCOUNT = "121212121212"
KEYS = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/*"
TOKENS = f"arn:aws:ssm:{REGION}:{ACCOUNT}:parameter/tokens/*"
SECRETS = f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:corrected/*"


class Ministack(EmbeddedAws):
    """The embedded AWS without a correction."""

    def _module(self, lambda_python: Path) -> list[str]:  # noqa: ARG002 - its functions run in ours
        return ["ministack"]


@dataclass
class Cloud:
    aws: EmbeddedAws
    account: str = ACCOUNT

    @cached_property
    def owner(self) -> boto3.Session:
        return self.aws.administrator(self.account)

    def role(self, name: str, *statements: dict[str, Any]) -> boto3.Session:
        """A session of a new role that may do what the statements say, and nothing else."""
        policy = {
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow"} | s for s in statements],
        }
        return self.aws.session(create_role(self.owner, name, json.dumps(policy)))

    def key(self) -> str:
        return self.owner.client("kms").create_key()["KeyMetadata"]["Arn"]

    def put(self, name: str, key: str, session: boto3.Session | None = None, **more: str) -> None:
        (session or self.owner).client("ssm").put_parameter(
            **{"Name": name, "Value": "x", "Type": "SecureString", "KeyId": key} | more,
            Overwrite=True,
        )

    def deploy(self, stack: str, resource: dict[str, Any], region: str = REGION) -> tuple[str, str]:
        """Create a stack of one resource: its status, and why the resource failed."""
        cloudformation = self.owner.client("cloudformation", region_name=region)
        cloudformation.create_stack(
            StackName=stack,
            TemplateBody=json.dumps({"Resources": {"Only": resource}}),
            Capabilities=["CAPABILITY_IAM"],
        )

        def status() -> str:
            return cloudformation.describe_stacks(StackName=stack)["Stacks"][0]["StackStatus"]

        wait_until(
            lambda: not status().endswith("_IN_PROGRESS"), seconds=20, what=f"the stack {stack}"
        )
        events = cloudformation.describe_stack_events(StackName=stack)["StackEvents"]
        return status(), " ".join(event.get("ResourceStatusReason", "") for event in events)


@pytest.fixture(scope="module")
def corrected(embedded_aws: EmbeddedAws) -> Cloud:
    return Cloud(embedded_aws)


@pytest.fixture(scope="module")
def plain() -> Iterator[Cloud]:
    with Ministack() as aws:
        yield Cloud(aws)


def error_of(call: Any, **arguments: Any) -> str:
    """AWS's error code; empty if the call succeeds."""
    try:
        call(**arguments)
    except ClientError as error:
        return error.response["Error"]["Code"]
    return ""


# ── CloudFormation and CloudWatch ─────────────────────────────────────────────────────────────

ALARM = {
    "Namespace": "n",
    "MetricName": "m",
    "Statistic": "Sum",
    "ComparisonOperator": "GreaterThanThreshold",
    "Threshold": 1,
    "Period": 60,
    "EvaluationPeriods": 1,
}
TARGET = {"Arn": f"arn:aws:sqs:{REGION}:{ACCOUNT}:q", "RoleArn": f"arn:aws:iam::{ACCOUNT}:role/r"}
SCHEDULE = {
    "ScheduleExpression": "rate(1 hour)",
    "FlexibleTimeWindow": {"Mode": "OFF"},
    "Target": TARGET,
}
DASHBOARD = {"DashboardBody": '{"widgets": []}'}
NAMED = {
    "AWS::CloudWatch::Alarm": ("AlarmName", ALARM, REGION, "describe_alarms MetricAlarms"),
    "AWS::CloudWatch::Dashboard": (
        "DashboardName",
        DASHBOARD,
        "us-east-1",
        "list_dashboards DashboardEntries",
    ),
    "AWS::Scheduler::Schedule": ("Name", SCHEDULE, REGION, "list_schedules Schedules"),
    "AWS::SecretsManager::Secret": (
        "Name",
        {"SecretString": "x"},
        REGION,
        "list_secrets SecretList",
    ),
}
"""The property with the name, further ones, where a second one collides, and what lists them."""


@pytest.mark.parametrize("kind", NAMED)
def test_second_resource_of_a_name_fails_its_stack_and_leaves_the_first(
    corrected: Cloud, plain: Cloud, kind: str
):
    name, properties, region, listing = NAMED[kind]
    resource = {"Type": kind, "Properties": {name: "only-one", **properties}}
    first, second = (f"{kind.rpartition('::')[2]}-{number}" for number in (1, 2))

    def results(cloud: Cloud) -> tuple[str, str]:
        assert cloud.deploy(first, resource)[0] == "CREATE_COMPLETE"
        return cloud.deploy(second, resource, region)

    assert results(plain)[0] == "CREATE_COMPLETE"
    status, why = results(corrected)
    assert status == "ROLLBACK_COMPLETE"
    assert "'only-one' already exists" in why
    assert ("ConflictException" in why) == (kind == "AWS::Scheduler::Schedule")
    operation, items = listing.split()
    client = corrected.owner.client(kind.split("::")[1].lower())
    assert "only-one" in [item[name] for item in getattr(client, operation)()[items]]


def test_names_are_free_again_when_their_stack_is_deleted(corrected: Cloud):
    for kind, (name, properties, _, _) in NAMED.items():
        stack = f"again-{kind.rpartition('::')[2]}"
        resource = {"Type": kind, "Properties": {name: "again", **properties}}
        assert corrected.deploy(stack, resource)[0] == "CREATE_COMPLETE"
        cloudformation = corrected.owner.client("cloudformation")
        cloudformation.delete_stack(StackName=stack)
        cloudformation.get_waiter("stack_delete_complete").wait(
            StackName=stack, WaiterConfig={"Delay": 1}
        )
        assert corrected.deploy(stack, resource)[0] == "CREATE_COMPLETE"


def test_dashboards_are_listed_in_every_region(corrected: Cloud, plain: Cloud):
    def seen(cloud: Cloud) -> list[str]:
        body = '{"widgets": []}'
        cloud.owner.client("cloudwatch").put_dashboard(DashboardName="seen", DashboardBody=body)
        elsewhere = cloud.owner.client("cloudwatch", region_name="ap-south-1")
        entries = elsewhere.list_dashboards(DashboardNamePrefix="seen")["DashboardEntries"]
        return [entry["DashboardName"] for entry in entries]

    assert (seen(plain), seen(corrected)) == ([], ["seen"])


# ── Parameter Store ──────────────────────────────────────────────────────────────────────────


def names_allowed(cloud: Cloud) -> list[str]:
    """What a role that may read the tokens gets for names and paths within and outside them."""
    actions = ["ssm:GetParameters", "ssm:GetParametersByPath", "ssm:DeleteParameters"]
    within = [TOKENS, TOKENS.removesuffix("/*")]
    ssm = cloud.role("several", {"Action": actions, "Resource": within}).client("ssm")
    for name in ("/tokens/a", "/tokens/b", "/other/c"):
        cloud.owner.client("ssm").put_parameter(Name=name, Value="x", Type="String", Overwrite=True)
    return [
        error_of(ssm.get_parameters, Names=["/tokens/a", "/tokens/b"]),
        error_of(ssm.get_parameters_by_path, Path="/tokens"),
        error_of(ssm.get_parameters, Names=["/other/c"]),
        error_of(ssm.get_parameters, Names=["/tokens/a", "/other/c"]),
        error_of(ssm.get_parameters_by_path, Path="/other"),
        error_of(ssm.get_parameters_by_path, Path="/", Recursive=True),
        error_of(ssm.delete_parameters, Names=["/tokens/a", "/other/c"]),
        error_of(ssm.delete_parameters, Names=["/tokens/a", "/tokens/b"]),
    ]


def test_calls_with_several_names_are_authorized_by_each_parameter(corrected: Cloud, plain: Cloud):
    denied = "AccessDeniedException"
    assert names_allowed(plain) == [denied] * 8
    assert names_allowed(corrected) == ["", "", *[denied] * 5, ""]


def kms(
    *actions: str, service: str = "ssm", context: str = "PARAMETER_ARN", about: str = TOKENS
) -> dict[str, Any]:
    return {
        "Action": [f"kms:{action}" for action in actions],
        "Resource": KEYS,
        "Condition": {
            "StringEquals": {"kms:ViaService": f"{service}.{REGION}.amazonaws.com"},
            "StringLike": {f"kms:EncryptionContext:{context}": about},
        },
    }


BOTH = {
    "Action": ["ssm:GetParameter", "ssm:PutParameter", "ssm:GetParameterHistory"],
    "Resource": "*",
}
USES = {
    "no statement": ((), "denied"),
    "what it needs": ((kms("Decrypt", "Encrypt"),), ""),
    "of another service": ((kms("Decrypt", "Encrypt", service="s3"),), "denied"),
    "for another parameter": ((kms("Decrypt", "Encrypt", about=TOKENS + "/x"),), "denied"),
    "in another context": ((kms("Decrypt", "Encrypt", context="SecretARN"),), "denied"),
}


@pytest.mark.parametrize("what", USES)
def test_use_of_a_parameters_key_needs_its_own_permission(
    corrected: Cloud, plain: Cloud, what: str
):
    statements, expected = USES[what]
    name = "key-" + what.replace(" ", "-").replace("'", "")

    def results(cloud: Cloud) -> set[str]:
        key = cloud.key()
        session = cloud.role(name, BOTH, *statements)
        cloud.put("/tokens/deals", key)
        ssm = session.client("ssm")
        assert error_of(ssm.get_parameter, Name="/tokens/deals") == ""  # as it is stored
        return {
            error_of(ssm.get_parameter, Name="/tokens/deals", WithDecryption=True),
            error_of(ssm.get_parameter_history, Name="/tokens/deals", WithDecryption=True),
            error_of(cloud.put, name="/tokens/deals", key=key, session=session),
        }

    assert results(plain) == {""}
    assert results(corrected) == {"AccessDeniedException" if expected else ""}


def test_value_of_the_advanced_tier_needs_a_data_key(corrected: Cloud, plain: Cloud):
    def result(cloud: Cloud) -> str:
        session = cloud.role("advanced", BOTH, kms("Decrypt", "Encrypt"))
        tier = {"Value": "x" * 5000, "Tier": "Intelligent-Tiering"}
        return error_of(cloud.put, name="/tokens/long", key=cloud.key(), session=session, **tier)

    assert (result(plain), result(corrected)) == ("", "AccessDeniedException")


@pytest.mark.parametrize("end", ["disable_key", "schedule_key_deletion"])
def test_parameter_of_an_unusable_key_is_unreadable_until_it_is_overwritten(
    corrected: Cloud, plain: Cloud, end: str
):
    def results(cloud: Cloud) -> list[str]:
        key, ssm = cloud.key(), cloud.owner.client("ssm")
        cloud.put("/tokens/deals", key)
        getattr(cloud.owner.client("kms"), end)(KeyId=key)
        read = {"Name": "/tokens/deals", "WithDecryption": True}
        several = {"Names": ["/tokens/deals"], "WithDecryption": True}
        found = [
            error_of(ssm.get_parameter, **read),
            error_of(ssm.get_parameters, **several),
            error_of(cloud.put, name="/tokens/deals", key=key),
        ]
        cloud.put("/tokens/deals", cloud.key())
        return [*found, error_of(ssm.get_parameter, **read)]

    assert results(plain) == ["", "", "", ""]
    assert results(corrected) == ["InvalidKeyId", "InvalidKeyId", "InvalidKeyId", ""]


# ── Secrets Manager ──────────────────────────────────────────────────────────────────────────


def kms_of_secrets(*actions: str, context: str = "SecretARN") -> dict[str, Any]:
    return kms(*actions, service="secretsmanager", context=context, about=SECRETS)


DENIED = "AccessDeniedException"
SECRET_USES = {
    "nothing": ((), [DENIED, DENIED]),
    "reading": ((kms_of_secrets("Decrypt"),), ["", DENIED]),
    "reading and writing": ((kms_of_secrets("Decrypt", "GenerateDataKey"),), ["", ""]),
    "another context": ((kms_of_secrets("Decrypt", context="PARAMETER_ARN"),), [DENIED, DENIED]),
}


@pytest.mark.parametrize("what", SECRET_USES)
def test_use_of_a_secrets_key_needs_its_own_permission(corrected: Cloud, plain: Cloud, what: str):
    statements, expected = SECRET_USES[what]
    name = "secret-" + what.replace(" ", "-")

    def results(cloud: Cloud) -> list[str]:
        cloud.owner.client("secretsmanager").create_secret(
            Name=f"corrected/{name}", KmsKeyId=cloud.key(), SecretString="x"
        )
        actions = ["secretsmanager:GetSecretValue", "secretsmanager:PutSecretValue"]
        secrets = cloud.role(name, {"Action": actions, "Resource": "*"}, *statements).client(
            "secretsmanager"
        )
        return [
            error_of(secrets.get_secret_value, SecretId=f"corrected/{name}"),
            error_of(secrets.put_secret_value, SecretId=f"corrected/{name}", SecretString="y"),
        ]

    assert results(plain) == ["", ""]
    assert results(corrected) == expected


def test_secret_of_a_disabled_key_is_neither_read_nor_written(corrected: Cloud, plain: Cloud):
    def results(cloud: Cloud) -> list[str]:
        key, secrets = cloud.key(), cloud.owner.client("secretsmanager")
        secrets.create_secret(Name="corrected/disabled", KmsKeyId=key, SecretString="x")
        cloud.owner.client("kms").disable_key(KeyId=key)
        return [
            error_of(secrets.get_secret_value, SecretId="corrected/disabled"),
            error_of(secrets.put_secret_value, SecretId="corrected/disabled", SecretString="y"),
        ]

    assert results(plain) == ["", ""]
    assert results(corrected) == ["DecryptionFailure", "EncryptionFailure"]


# ── CloudFormation's names, and requests ─────────────────────────────────────────────────────


def test_role_of_one_stack_name_in_two_regions_is_two_roles(corrected: Cloud, plain: Cloud):
    trust = {"Effect": "Allow", "Principal": {"AWS": ACCOUNT}, "Action": "sts:AssumeRole"}
    document = {"Version": "2012-10-17", "Statement": trust}
    properties = {"AssumeRolePolicyDocument": document}
    resource = {"Type": "AWS::IAM::Role", "Properties": properties}

    def roles(cloud: Cloud) -> int:
        for region in (REGION, "us-east-1"):
            assert cloud.deploy("named", resource, region)[0] == "CREATE_COMPLETE"
        found = cloud.owner.client("iam").list_roles()["Roles"]
        return len([role for role in found if role["RoleName"].startswith("named-")])

    assert (roles(plain), roles(corrected)) == (1, 2)


def test_no_two_events_of_a_stack_have_one_time(corrected: Cloud):
    topics = {f"Topic{number}": {"Type": "AWS::SNS::Topic"} for number in range(20)}
    cloudformation = corrected.owner.client("cloudformation")
    cloudformation.create_stack(
        StackName="eventful", TemplateBody=json.dumps({"Resources": topics})
    )
    cloudformation.get_waiter("stack_create_complete").wait(
        StackName="eventful", WaiterConfig={"Delay": 0.1, "MaxAttempts": 200}
    )
    events = cloudformation.describe_stack_events(StackName="eventful")["StackEvents"]
    times = [event["Timestamp"] for event in events]
    assert len(set(times)) == len(times) > 40
    assert times == sorted(times, reverse=True)


def test_request_is_not_denied_for_want_of_tls(corrected: Cloud, plain: Cloud):
    deny = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": "arn:aws:s3:::encrypted-only/*",
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }

    def result(cloud: Cloud) -> str:
        s3 = cloud.owner.client("s3")
        location = {"LocationConstraint": REGION}
        s3.create_bucket(Bucket="encrypted-only", CreateBucketConfiguration=location)
        policy = json.dumps({"Version": "2012-10-17", "Statement": [deny]})
        s3.put_bucket_policy(Bucket="encrypted-only", Policy=policy)
        writer = cloud.role("writer", {"Action": "s3:PutObject", "Resource": "*"}).client("s3")
        return error_of(writer.put_object, Bucket="encrypted-only", Key="x", Body=b"x")

    assert (result(plain), result(corrected)) == ("AccessDenied", "")


# ── EC2 ───────────────────────────────────────────────────────────────────────────────────────


def test_endpoints_are_listed_by_vpc_and_with_their_private_names(corrected: Cloud, plain: Cloud):
    def listed(cloud: Cloud) -> list[bool | None]:
        """Of the endpoints of one of two VPCs, which have private names."""
        ec2 = cloud.owner.client("ec2")
        vpcs = [ec2.create_vpc(CidrBlock=f"10.{n}.0.0/16")["Vpc"]["VpcId"] for n in (1, 2)]
        for vpc, has_names in ((vpcs[0], True), (vpcs[1], True), (vpcs[1], False)):
            ec2.create_vpc_endpoint(
                VpcEndpointType="Interface",
                VpcId=vpc,
                ServiceName=f"com.amazonaws.{REGION}.ssm",
                PrivateDnsEnabled=has_names,
            )
        found = ec2.describe_vpc_endpoints(Filters=[{"Name": "vpc-id", "Values": vpcs[1:]}])
        return [endpoint.get("PrivateDnsEnabled") for endpoint in found["VpcEndpoints"]]

    assert listed(corrected) == [True, False]
    assert listed(plain) == [None, None, None]


def test_function_of_a_stack_keeps_its_subnets(corrected: Cloud, plain: Cloud):
    def kept(cloud: Cloud) -> tuple[bool, bool] | None:
        """Whether a function that a stack makes has its subnets, and the VPC that AWS adds."""
        ec2 = cloud.owner.client("ec2")
        vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.1.0/24")["Subnet"]["SubnetId"]
        function = {
            "Type": "AWS::Lambda::Function",
            "Properties": {
                "FunctionName": "inside",
                "Role": f"arn:aws:iam::{ACCOUNT}:role/r",
                "Runtime": "python3.13",
                "Handler": "index.handler",
                "Code": {"ZipFile": "handler = print"},
                "VpcConfig": {"SubnetIds": [subnet], "SecurityGroupIds": ["sg-12345678"]},
            },
        }
        assert cloud.deploy("network", function)[0] == "CREATE_COMPLETE"
        found = cloud.owner.client("lambda").get_function_configuration(FunctionName="inside")
        config = found.get("VpcConfig")
        return config and (config["SubnetIds"] == [subnet], config["VpcId"] == vpc)

    assert kept(corrected) == (True, True)
    assert kept(plain) is None


WAITING = """
import os, pathlib, time

def handler(event, context):
    folder = pathlib.Path(event)
    (folder / "begun").touch()
    while not (folder / "may-end").exists():
        time.sleep(0.01)
    return os.environ["FROM"]
"""


def waiting(origin: str) -> dict[str, Any]:
    return {
        "FunctionName": "waiting",
        "Role": f"arn:aws:iam::{ACCOUNT}:role/r",
        "Runtime": "python3.13",
        "Handler": "index.handler",
        "Code": {"ZipFile": WAITING},
        "Environment": {"Variables": {"FROM": origin}},
        "Timeout": 60,
    }


def update_it(cloud: Cloud) -> None:
    cloud.owner.client("lambda").update_function_configuration(
        FunctionName="waiting", Environment={"Variables": {"FROM": "an update"}}
    )


def create_elsewhere(cloud: Cloud) -> None:
    function = {"Type": "AWS::Lambda::Function", "Properties": waiting("another account")}
    other = Cloud(cloud.aws, "343434343434")
    assert other.deploy("of-that-name", function)[0] == "CREATE_COMPLETE"


@pytest.mark.parametrize(
    ("change", "then"), [(update_it, "an update"), (create_elsewhere, "the beginning")]
)
def test_change_of_a_function_ends_no_run(
    corrected: Cloud, plain: Cloud, tmp_path: Path, change: Callable[[Cloud], None], then: str
):
    def results(cloud: Cloud, folder: Path) -> list[str]:
        """What a run returns while the function is changed, and what the next one does."""
        folder.mkdir()
        function = {"Type": "AWS::Lambda::Function", "Properties": waiting("the beginning")}
        assert cloud.deploy(change.__name__.replace("_", "-"), function)[0] == "CREATE_COMPLETE"
        functions = cloud.owner.client("lambda")

        def invoke() -> str:
            result = functions.invoke(FunctionName="waiting", Payload=json.dumps(str(folder)))
            returned = json.load(result["Payload"])
            return returned["errorMessage"] if "FunctionError" in result else returned

        with ThreadPoolExecutor(1) as threads:
            run = threads.submit(invoke)
            try:
                wait_until((folder / "begun").exists, seconds=30, what="the run to begin")
                change(cloud)
            finally:
                (folder / "may-end").touch()
            return [run.result(), invoke()]

    assert results(corrected, tmp_path / "corrected") == ["the beginning", then]
    assert results(plain, tmp_path / "plain") == [BROKEN_OFF, then]
