"""The deployed stack, reached through the ordinary AWS environment."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cache, cached_property
from typing import Any, Final, Self
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError, NoRegionError

from broker_cli.api import TokenApi
from broker_cli.console import say
from broker_cli.failures import ExitCode, Failure
from token_refresher.credentials import SecretReader

CONFIG: Final = Config(
    connect_timeout=3, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 3}
)
_INVOKE: Final = Config(connect_timeout=3, read_timeout=60, retries={"total_max_attempts": 1})
"""A refresh run may take 55 seconds, and one that is slow is not to be started twice."""


def new_session(profile: str | None = None, *, region: str | None = None) -> boto3.Session:
    """A session of the ordinary environment; AWS_REGION too, which boto3 does not read.

    It makes each client once, so that a command that asks much keeps its connections.
    """
    region = region or os.environ.get("AWS_REGION") or None
    session = boto3.Session(profile_name=profile, region_name=region)
    session.client = cache(session.client)  # type: ignore[method-assign]
    return session


def read_all(
    call: Callable[..., Mapping[str, Any]],
    items: str,
    *,
    token: str = "NextToken",  # noqa: S107 - the name of a field
    next_token: str | None = None,
    **request: Any,
) -> Iterator[Any]:
    """The items of all pages of a client's operation, in AWS's order.

    Botocore's paginators end in an error if AWS returns a page token twice. Here the pages of a
    repeated token are read on while they bring new items or lead to a new token. If one does
    neither, reading ends, and a line on standard error says that the rest is missing.

    Args:
        call: the client's method, such as `filter_log_events`.
        items: the field of the response that lists the items.
        token: the field of request and response that leads to the next page.
        next_token: the response's, if it has another name.
        request: the operation's other parameters.
    """
    seen: set[int] = set()
    used: set[str | None] = set()
    while True:
        here = request.get(token)
        page = call(**request)
        new = [item for item in page.get(items, ()) if here not in used or _id(item) not in seen]
        seen.update(map(_id, new))
        yield from new
        following = page.get(next_token or token)
        if not following:
            return
        if not new and here in used and following in used:
            _report_cut(call.__name__, len(seen), items)
            return
        used.add(here)
        request[token] = following


def _id(item: object) -> int:
    return hash(repr(item))


def _report_cut(operation: str, count: int, items: str) -> None:
    text = f"{operation}: AWS repeated a page token; {count} {items} were read, the rest is missing"
    say(text, style="yellow", stderr=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How a refresh run ended: each grant's outcome, or the error's name and its parts."""

    grants: Mapping[str, Mapping[str, object]]
    error: str = ""
    causes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Stack:
    """One deployment of the template.

    Attributes:
        name: the stack's.
        session: whose credentials are used.
        status: CloudFormation's.
        outputs: by key.
        parameters: by key; those of the template, none secret.
        aws_time: AWS's own clock when it was asked.
        asked_at: this machine's.
    """

    name: str
    session: boto3.Session
    status: str
    outputs: Mapping[str, str]
    parameters: Mapping[str, str]
    aws_time: datetime
    asked_at: datetime

    @classmethod
    def open(cls, name: str, session: boto3.Session | None = None) -> Self:
        """Look the stack up, with a session or that of the ordinary environment.

        Raises:
            Failure: there is none of this name, or it is no token broker.
        """
        session, asked_at = session or new_session(), datetime.now(UTC)
        if not session.region_name:
            raise NoRegionError
        try:
            reply = session.client("cloudformation", config=CONFIG).describe_stacks(StackName=name)
        except ClientError as error:
            if error.response["Error"]["Code"] != "ValidationError":
                raise
            raise Failure(
                f"there is no stack {name} in {session.region_name} of this account",
                "name it with --stack; AWS_PROFILE and AWS_DEFAULT_REGION say where to look",
                ExitCode.AWS,
            ) from None
        stack = reply["Stacks"][0]
        date = reply["ResponseMetadata"]["HTTPHeaders"].get("date")
        found = cls(
            name=name,
            session=session,
            status=stack["StackStatus"],
            outputs={o["OutputKey"]: o["OutputValue"] for o in stack.get("Outputs", [])},
            parameters={
                p["ParameterKey"]: p["ParameterValue"] for p in stack.get("Parameters", [])
            },
            aws_time=parsedate_to_datetime(date) if date else asked_at,
            asked_at=asked_at,
        )
        wanted = {"TokenApiUrl", "ClientSecretArn", "RefreshFunctionName", "TokenParameterPrefix"}
        if not wanted <= found.outputs.keys():
            raise Failure(
                f"the stack {name} is {found.status} and no running token broker",
                "deploy it (`make deploy`), or name another with --stack",
            )
        return found

    @property
    def prefix(self) -> str:
        """Of the parameters that contain the tokens."""
        return self.outputs["TokenParameterPrefix"]

    @property
    def refresh_ahead(self) -> timedelta:
        """How long before its expiry a token is due, at most."""
        return timedelta(seconds=int(self.parameters["RefreshAheadSeconds"]))

    @property
    def interval(self) -> timedelta:
        """Between two runs of the schedule."""
        return timedelta(seconds=int(self.parameters["RefreshIntervalSeconds"]))

    @property
    def account(self) -> str:
        """The stack's account."""
        return self.outputs["ClientSecretArn"].split(":")[4]

    @property
    def api(self) -> TokenApi:
        """The stack's token API."""
        return TokenApi(self.outputs["TokenApiUrl"], self.session)

    def api_arn(self, method: str, path: str) -> str:
        """What a caller's policy must allow for a method and path."""
        partition = self.outputs["ClientSecretArn"].split(":")[1]
        url = urlsplit(self.outputs["TokenApiUrl"])
        api_id, stage = (url.hostname or "").split(".")[0], url.path.strip("/")
        region = self.session.region_name
        return (
            f"arn:{partition}:execute-api:{region}:{self.account}:{api_id}/{stage}/{method}{path}"
        )

    @cached_property
    def secrets(self) -> SecretReader:
        """The connections' secrets."""
        client = self.session.client("secretsmanager", config=CONFIG)
        return SecretReader(client, prefix=self.secret_name(""))

    def secret_name(self, connection: str) -> str:
        """The name of a connection's secret."""
        return f"{self.name}/connections/{connection}"

    def log_group(self, function: str) -> str:
        """The log group of `token-refresher` or `token-vendor`."""
        return f"/enable-token-broker/{self.name}/{function}"

    def resource(self, logical_id: str) -> str:
        """The physical id of a resource of the template."""
        client = self.session.client("cloudformation", config=CONFIG)
        reply = client.describe_stack_resource(StackName=self.name, LogicalResourceId=logical_id)
        return reply["StackResourceDetail"]["PhysicalResourceId"]

    def start_refresh(self, event: Mapping[str, object]) -> None:
        """Have the refresh function run, without waiting for it."""
        self.session.client("lambda", config=CONFIG).invoke(
            FunctionName=self.outputs["RefreshFunctionName"],
            InvocationType="Event",
            Payload=json.dumps(event).encode(),
        )

    def refresh(self, event: Mapping[str, object]) -> Run:
        """Have the refresh function run, and wait for what it says."""
        reply = self.session.client("lambda", config=_INVOKE).invoke(
            FunctionName=self.outputs["RefreshFunctionName"], Payload=json.dumps(event).encode()
        )
        output = json.loads(reply["Payload"].read())
        if "FunctionError" not in reply:
            return Run(grants=output["grants"])
        message = str(output.get("errorMessage", "")).removeprefix("not renewed: ")
        kind = str(output.get("errorType", "Unknown"))
        return Run(grants={}, error=kind, causes=tuple(message.split(" | ")))
