"""The deployed stack, reached through the ordinary AWS environment.

`AWS_ENDPOINT_URL` at this machine is the embedded AWS (`make up`): its API Gateway listens
there too, and goes by the Host header.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cached_property
from ipaddress import ip_address
from typing import Final, Self
from urllib.parse import urlsplit

import boto3
import urllib3
from botocore.config import Config
from botocore.exceptions import ClientError, NoRegionError

from broker_cli.failures import ExitCode, Failure
from enable_broker_client.errors import NotConfigured
from enable_broker_client.signing import Signer
from token_refresher.credentials import SecretReader

CONFIG: Final = Config(
    connect_timeout=3, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 3}
)
_INVOKE: Final = Config(connect_timeout=3, read_timeout=60, retries={"total_max_attempts": 1})
"""A refresh run may take 55 seconds, and one that is slow is not to be started twice."""

_API_TIMEOUT: Final = urllib3.Timeout(connect=3, read=29)


def new_session(profile: str | None = None) -> boto3.Session:
    """A session of the ordinary environment; AWS_REGION too, which boto3 does not read."""
    return boto3.Session(profile_name=profile, region_name=os.environ.get("AWS_REGION") or None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the token API answered; its repr holds no token."""

    status: int
    headers: Mapping[str, str]
    body: Mapping[str, object] = field(repr=False)


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
    def open(cls, name: str) -> Self:
        """Look the stack up.

        Raises:
            Failure: there is none of this name, or it is no token broker.
        """
        session, asked_at = new_session(), datetime.now(UTC)
        if not session.region_name:
            raise NoRegionError
        try:
            answer = session.client("cloudformation", config=CONFIG).describe_stacks(StackName=name)
        except ClientError as error:
            if error.response["Error"]["Code"] != "ValidationError":
                raise
            raise Failure(
                f"there is no stack {name} in {session.region_name} of this account",
                "name it with --stack or BROKER_STACK; AWS_PROFILE and AWS_REGION say where",
                ExitCode.AWS,
            ) from None
        stack = answer["Stacks"][0]
        date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
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
        """Of the parameters that hold the tokens."""
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
        answer = client.describe_stack_resource(StackName=self.name, LogicalResourceId=logical_id)
        return answer["StackResourceDetail"]["PhysicalResourceId"]

    def start_refresh(self, event: Mapping[str, object]) -> None:
        """Have the refresh function run, without waiting for it."""
        self.session.client("lambda", config=CONFIG).invoke(
            FunctionName=self.outputs["RefreshFunctionName"],
            InvocationType="Event",
            Payload=json.dumps(event).encode(),
        )

    def refresh(self, event: Mapping[str, object]) -> Run:
        """Have the refresh function run, and wait for what it says."""
        answer = self.session.client("lambda", config=_INVOKE).invoke(
            FunctionName=self.outputs["RefreshFunctionName"], Payload=json.dumps(event).encode()
        )
        said = json.loads(answer["Payload"].read())
        if "FunctionError" not in answer:
            return Run(grants=said["grants"])
        message = str(said.get("errorMessage", "")).removeprefix("not renewed: ")
        kind = str(said.get("errorType", "Unknown"))
        return Run(grants={}, error=kind, causes=tuple(message.split(" | ")))

    def get(self, path: str, session: boto3.Session | None) -> Answer:
        """GET a path of the token API, signed by a session, or anonymously with None.

        Raises:
            Failure: it does not answer, or the request cannot be signed.
        """
        url, host = self._api()
        url += path
        try:
            if session is None:
                headers = {"Host": host} if host else {}
            else:
                region = self.session.region_name
                signer = Signer(url, session=session, region=region, host=host)
                headers = signer.headers("GET", url, None)
            answer = urllib3.request(
                "GET", url, headers=headers, timeout=_API_TIMEOUT, retries=False, redirect=False
            )
        except NotConfigured as error:
            step = "log in (`aws sso login`), or set AWS_PROFILE"
            raise Failure(str(error), step, ExitCode.AWS) from None
        except urllib3.exceptions.HTTPError as error:
            raise Failure(
                f"the token API did not answer ({type(error).__name__})",
                "check the network; a private API (VpcEndpointIds) answers inside its VPC alone",
                ExitCode.AWS,
            ) from None
        try:
            body = json.loads(answer.data)
        except ValueError:
            body = {}
        names = {name.lower(): value for name, value in answer.headers.items()}
        return Answer(
            status=answer.status, headers=names, body=body if isinstance(body, dict) else {}
        )

    def _api(self) -> tuple[str, str | None]:
        """The API's URL, and its Host header where that is not the URL's."""
        url = self.outputs["TokenApiUrl"]
        endpoint = urlsplit(self.session.client("cloudformation").meta.endpoint_url)
        if not _is_loopback(endpoint.hostname or ""):
            return url, None
        parts = urlsplit(url)
        api_id = (parts.hostname or "").split(".")[0]
        return (
            f"{endpoint.scheme}://{endpoint.netloc}{parts.path}",
            f"{api_id}.execute-api.localhost:{endpoint.port}",
        )


def _is_loopback(hostname: str) -> bool:
    try:
        return ip_address(hostname).is_loopback
    except ValueError:
        return hostname == "localhost"
