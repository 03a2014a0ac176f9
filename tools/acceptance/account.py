"""The test account: a deployer with few rights, stacks, and what stacks leave behind."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import boto3
from botocore.exceptions import ClientError

from broker_cli.aws import CONFIG, Stack, new_session
from broker_cli.cleanup import Leavings, delete
from local.broker_stack import ROOT, wait_until
from tools.sam import ToolFailed, run_sam

ROLE: Final = "acceptance-of-token-broker"
"""Unlike the stacks' names: a deployer must not be able to change itself."""

POLICY_FILE: Final = ROOT / "docs" / "deployer-policy.json"
_POLICY_ACCOUNT: Final = "111122223333"
_ROLE_SECONDS: Final = 90.0
"""How long IAM may take until a new role can be assumed and its policy decides."""

_STACK_SECONDS: Final = 1800.0
_CREDENTIALS: Final = {
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
}

type Environ = dict[str, str]


@dataclass(frozen=True, slots=True)
class Place:
    """A stack's name and Region."""

    stack: str
    region: str

    def __str__(self) -> str:
        return f"{self.stack} in {self.region}"


class Account:
    """The account of the ordinary AWS environment, whose administrator runs this.

    Args:
        build_folder: of `sam build`.
    """

    def __init__(self, build_folder: Path) -> None:
        self._build_folder = build_folder
        identity = new_session().client("sts", config=CONFIG).get_caller_identity()
        self.id, self._partition = identity["Account"], identity["Arn"].split(":")[1]

    def open(self, place: Place) -> Stack:
        """A deployed stack, as its administrator."""
        return Stack.open(place.stack, self._session(place.region))

    def status(self, place: Place) -> str:
        """CloudFormation's status of a stack; empty if there is none."""
        client = self._session(place.region).client("cloudformation", config=CONFIG)
        try:
            return client.describe_stacks(StackName=place.stack)["Stacks"][0]["StackStatus"]
        except ClientError as error:
            if error.response["Error"]["Code"] == "ValidationError":
                return ""
            raise

    def build(self) -> None:
        """`sam build`."""
        _sam(dict(os.environ), "build", "--build-dir", str(self._build_folder))

    def deploy(self, place: Place, parameters: Mapping[str, str]) -> None:
        """`sam deploy`, by the deployer."""
        _sam(
            self._as_deployer(place.region),
            "deploy",
            *("--template-file", str(self._build_folder / "template.yaml")),
            *("--config-file", str(ROOT / "samconfig.toml")),
            *("--stack-name", place.stack, "--region", place.region),
            "--parameter-overrides",
            *(f'ParameterKey={k},ParameterValue="{v}"' for k, v in parameters.items()),
        )

    def delete(self, place: Place) -> None:
        """`sam delete`, by the deployer."""
        _sam(
            self._as_deployer(place.region),
            "delete",
            *("--stack-name", place.stack, "--region", place.region, "--no-prompts"),
        )

    def begin_removal(self, place: Place) -> None:
        """Have CloudFormation delete a stack, in whatever state it is; by the administrator."""
        wait_until(
            lambda: not self.status(place).endswith("_IN_PROGRESS"),
            seconds=_STACK_SECONDS,
            what=f"the end of a change of {place}",
        )
        if self.status(place):
            client = self._session(place.region).client("cloudformation", config=CONFIG)
            client.delete_stack(StackName=place.stack)

    def finish_removal(self, place: Place) -> None:
        """Wait for the stack's end, and remove what it leaves: tokens and the client's layer.

        Raises:
            ToolFailed: CloudFormation could not delete it.
            TimeoutError: it took too long.
        """
        wait_until(
            lambda: self.status(place) in {"", "DELETE_FAILED"},
            seconds=_STACK_SECONDS,
            what=f"the end of {place}",
        )
        if self.status(place):
            raise ToolFailed(f"CloudFormation could not delete {place}; its events say why")
        session = self._session(place.region)
        delete(Leavings.by(place.stack, session), place.stack, session)

    # ── The deployer ─────────────────────────────────────────────────────────────────────────────

    def make_deployer(self) -> None:
        """Make the role with the documented policy, and wait until it can be used."""
        iam = self._session(None).client("iam", config=CONFIG)
        trust = {
            "Effect": "Allow",
            "Principal": {"AWS": f"arn:{self._partition}:iam::{self.id}:root"},
            "Action": "sts:AssumeRole",
        }
        document = json.dumps({"Version": "2012-10-17", "Statement": trust})
        iam.create_role(RoleName=ROLE, AssumeRolePolicyDocument=document)
        text = POLICY_FILE.read_text(encoding="utf-8").replace(_POLICY_ACCOUNT, self.id)
        policy = json.dumps(json.loads(text), separators=(",", ":"))
        iam.put_role_policy(RoleName=ROLE, PolicyName="deployer", PolicyDocument=policy)
        wait_until(self._is_deployer_known, seconds=_ROLE_SECONDS, what="IAM to know the new role")

    def has_deployer(self) -> bool:
        """Whether the role is there."""
        try:
            self._session(None).client("iam", config=CONFIG).get_role(RoleName=ROLE)
        except ClientError as error:
            if error.response["Error"]["Code"] == "NoSuchEntity":
                return False
            raise
        return True

    def remove_deployer(self) -> None:
        """Remove the role, if it is there."""
        iam = self._session(None).client("iam", config=CONFIG)
        if self.has_deployer():
            for name in iam.list_role_policies(RoleName=ROLE)["PolicyNames"]:
                iam.delete_role_policy(RoleName=ROLE, PolicyName=name)
            iam.delete_role(RoleName=ROLE)

    def _is_deployer_known(self) -> bool:
        """Whether the role can be assumed, and its policy lets it look for a stack."""
        try:
            given = self._as_deployer("us-east-1")
            client = boto3.client(
                "cloudformation",
                config=CONFIG,
                region_name="us-east-1",
                aws_access_key_id=given["AWS_ACCESS_KEY_ID"],
                aws_secret_access_key=given["AWS_SECRET_ACCESS_KEY"],
                aws_session_token=given["AWS_SESSION_TOKEN"],
            )
            client.describe_stacks(StackName="enable-token-broker-nothing")
        except ClientError as error:
            return error.response["Error"]["Code"] == "ValidationError"
        return True

    def _as_deployer(self, region: str) -> Environ:
        """The environment of a new session of the deployer, which lasts an hour."""
        given = (
            self._session(region)
            .client("sts", config=CONFIG)
            .assume_role(
                RoleArn=f"arn:{self._partition}:iam::{self.id}:role/{ROLE}",
                RoleSessionName="acceptance",
            )["Credentials"]
        )
        own = {name: value for name, value in os.environ.items() if name not in _CREDENTIALS}
        return (
            own
            | _region(region)
            | {
                "AWS_ACCESS_KEY_ID": given["AccessKeyId"],
                "AWS_SECRET_ACCESS_KEY": given["SecretAccessKey"],
                "AWS_SESSION_TOKEN": given["SessionToken"],
            }
        )

    @staticmethod
    @cache
    def _session(region: str | None) -> boto3.Session:
        """One for each Region: it keeps what botocore has read of each service."""
        return new_session(region=region)


def _region(region: str) -> Environ:
    return {"AWS_DEFAULT_REGION": region, "AWS_REGION": region}


def _sam(environ: Environ, *arguments: str) -> None:
    run_sam(*arguments, cwd=ROOT, environ=environ, seconds=_STACK_SECONDS)
