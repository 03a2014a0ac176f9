"""The broker, built and deployed into the embedded AWS by the real SAM CLI."""

import json
import platform
import time
import tomllib
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import boto3
from botocore.credentials import Credentials

from local.callers import TokenApi, assume_role
from local.embedded_aws import ACCOUNT, REGION, EmbeddedAws
from tools.sam import run_sam

if TYPE_CHECKING:
    from types_boto3_ssm import SSMClient

    from local.fake_enable import Client

ROOT: Final = Path(__file__).resolve().parent.parent
STACK_NAME: Final = "enable-token-broker-dev"
"""The stack of samconfig.toml's section `default`."""

_SAM_SECONDS: Final = 240.0
"""No build or deployment takes so long, on a busy machine either."""


class BrokerStack:
    """One deployment of the template.

    Args:
        aws: the cloud it is deployed to.
        account: the 12-digit account; accounts do not see each other.
        source: the folder with template.yaml.
        stage: the section of samconfig.toml, as in `make deploy CONFIG=prod`.

    Attributes:
        name: of the stack, from that section.
        build_folder: where the artifacts are built: this run's own, so that runs do not
            meet in one `.aws-sam`.
    """

    def __init__(
        self,
        aws: EmbeddedAws,
        *,
        account: str = ACCOUNT,
        source: Path = ROOT,
        stage: str = "default",
    ) -> None:
        self.aws = aws
        self.account = account
        self.source = source
        self._stage = stage
        stages = tomllib.loads((source / "samconfig.toml").read_text(encoding="utf-8"))
        self.name: str = stages[stage]["global"]["parameters"]["stack_name"]
        self.build_folder = aws.folder / "sam-build"
        self.administrator: boto3.Session = aws.administrator(account)

    def build(self) -> None:
        """`sam build`.

        Raises:
            ToolFailed: with what it printed last.
        """
        self._sam("build", "--build-dir", str(self.build_folder))

    def deploy(self, **parameters: str) -> None:
        """`sam deploy`, nothing overridden but the parameters given and the architecture.

        Raises:
            ToolFailed: with what it printed last.
        """
        architecture = "arm64" if platform.machine() in {"arm64", "aarch64"} else "x86_64"
        overrides = {"Architecture": architecture, **parameters}
        self._sam(
            "deploy",
            "--template-file",
            str(self.build_folder / "template.yaml"),
            "--config-file",
            str(self.source / "samconfig.toml"),
            "--config-env",
            self._stage,
            "--parameter-overrides",
            *(f'ParameterKey={key},ParameterValue="{value}"' for key, value in overrides.items()),
        )

    def delete(self) -> None:
        """`sam delete`, and forget what was known of the stack.

        Raises:
            ToolFailed: with what it printed last.
        """
        self._sam("delete", "--stack-name", self.name, "--region", REGION, "--no-prompts")
        self.__dict__.pop("outputs", None)
        self.__dict__.pop("api", None)

    def _sam(self, *arguments: str) -> None:
        env = self.aws.environ(self.account)
        env["TMPDIR"] = str(self.aws.folder / "tmp")  # sam leaves empty folders there
        run_sam(*arguments, cwd=self.source, environ=env, seconds=_SAM_SECONDS)

    @cached_property
    def outputs(self) -> dict[str, str]:
        """The stack's outputs, by key."""
        stacks = self.administrator.client("cloudformation").describe_stacks(StackName=self.name)
        return {o["OutputKey"]: o["OutputValue"] for o in stacks["Stacks"][0]["Outputs"]}

    @cached_property
    def api(self) -> TokenApi:
        """The token API on this machine."""
        return TokenApi.of(self.outputs["TokenApiUrl"], self.aws.endpoint_url)

    def resource(self, logical_id: str) -> str:
        """The physical id of a resource."""
        detail = self.administrator.client("cloudformation").describe_stack_resource(
            StackName=self.name, LogicalResourceId=logical_id
        )
        return detail["StackResourceDetail"]["PhysicalResourceId"]

    def store_secret(self, client: "Client") -> None:
        """Store Enable credentials, as an operator would."""
        self.administrator.client("secretsmanager").put_secret_value(
            SecretId=self.outputs["ClientSecretArn"],
            SecretString=client.secret_json(),
        )

    def refresh(self, event: object) -> dict[str, object]:
        """Invoke the refresh function and wait for its response."""
        response = self.administrator.client("lambda").invoke(
            FunctionName=self.outputs["RefreshFunctionName"], Payload=json.dumps(event).encode()
        )
        payload: dict[str, object] = json.loads(response["Payload"].read())
        return payload

    def log_messages(self, function: str) -> Iterator[str]:
        """The log of `token-refresher` or `token-vendor`, oldest first."""
        return self.messages_of(f"/enable-token-broker/{self.name}/{function}")

    def messages_of(self, group: str) -> Iterator[str]:
        """A log group's messages, oldest first.

        The embedded CloudWatch responds with the oldest 10,000 events of a request and names no
        next page, hence the start times.
        """
        pages = self.administrator.client("logs").get_paginator("filter_log_events")
        start = seen = 0  # so many of the events at `start` have been yielded
        while True:
            found = [
                event
                for page in pages.paginate(logGroupName=group, startTime=start)
                for event in page["events"]
            ][seen:]
            if not found:
                return
            yield from (event["message"] for event in found)
            last = found[-1]["timestamp"]
            seen = sum(event["timestamp"] == last for event in found) + seen * (last == start)
            start = last

    def log_records(self, function: str) -> list[dict[str, object]]:
        """The structured lines of a function's log, metrics included."""
        return [json.loads(m) for m in self.log_messages(function) if m.startswith("{")]

    def logged(
        self, function: str, is_meant: Callable[[dict[str, Any]], object], *, since: int = 0
    ) -> list[dict[str, Any]]:
        """The lines of a function's log that are meant, as soon as there is one.

        The log is written beside the response, and on a busy machine after it.

        Args:
            function: `token-refresher` or `token-vendor`.
            is_meant: which lines.
            since: so many lines of the log are left out.

        Raises:
            TimeoutError: there is none within 30 seconds.
        """
        found: list[dict[str, Any]] = []

        def look() -> bool:
            found[:] = filter(is_meant, self.log_records(function)[since:])
            return bool(found)

        wait_until(look, seconds=30, what=f"a line in the log of {function}")
        return found

    def stored_since(self, grant: str) -> datetime | None:
        """When the stored token of a grant was last written; reads no token."""
        found = self._parameter_store.describe_parameters(
            ParameterFilters=[
                {"Key": "Name", "Values": [f"{self.outputs['TokenParameterPrefix']}/{grant}"]}
            ]
        )["Parameters"]
        return found[0]["LastModifiedDate"] if found else None

    @cached_property
    def _parameter_store(self) -> "SSMClient":
        """One client for all looks of a wait: making one takes 10 ms."""
        return self.administrator.client("ssm")

    def function_credentials(self, function_name: str) -> Credentials:
        """A session of the very role that a function runs as."""
        function = self.administrator.client("lambda").get_function(FunctionName=function_name)
        return assume_role(self.administrator, function["Configuration"]["Role"])


def wait_until(
    condition: Callable[[], bool], *, seconds: float, what: str, poll_seconds: float = 0.2
) -> None:
    """Wait for a condition.

    Raises:
        TimeoutError: it did not come true in time; names what was waited for.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(poll_seconds)
