"""IAM callers of the token API: making them, and asking as them."""

import json
from dataclasses import KW_ONLY, dataclass
from typing import Final, Self
from urllib.parse import urlsplit

import boto3
import urllib3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from broker_cli.api import Response, embedded_url
from local.embedded_aws import REGION

_POOL: Final = urllib3.PoolManager(maxsize=64, retries=False, timeout=240.0)
"""The time-out ends a hang. A busy machine that starts 32 environments at once takes a minute."""


@dataclass(frozen=True, slots=True)
class TokenApi:
    """The deployed API as the embedded API Gateway serves it.

    Attributes:
        endpoint_url: where it listens.
        host: the Host header it routes by.
        stage: the first segment of every path.
    """

    endpoint_url: str
    _: KW_ONLY
    host: str
    stage: str

    @classmethod
    def of(cls, token_api_url: str, endpoint_url: str) -> Self:
        """Translate the stack's `TokenApiUrl` to this machine."""
        url, host = embedded_url(token_api_url, endpoint_url)
        return cls(endpoint_url, host=host, stage=urlsplit(url).path.strip("/"))

    @property
    def api_id(self) -> str:
        """The id of the REST API."""
        return self.host.split(".")[0]

    def request(
        self,
        path: str,
        credentials: Credentials | None,
        *,
        method: str = "GET",
        headers: dict[str, str] | None = None,
        body: bytes = b"",
    ) -> Response:
        """Ask, signed by `credentials` (Signature Version 4), or anonymously with None."""
        url = f"{self.endpoint_url}/{self.stage}{path}"
        request = AWSRequest(method, url, {"Host": self.host, **(headers or {})}, body)
        if credentials:
            SigV4Auth(credentials, "execute-api", REGION).add_auth(request)
        signed = dict(request.headers.items())
        response = _POOL.request(method, url, headers=signed, body=body or None)
        return Response.of(response.status, response.headers, response.data)

    def get(self, path: str, credentials: Credentials | None) -> Response:
        """GET a path, signed or anonymously."""
        return self.request(path, credentials)

    def policy(self, *paths: str, method: str = "GET") -> str:
        """An identity policy that allows a method (`*`: any) on these paths, as JSON."""
        arn = f"arn:aws:execute-api:{REGION}:*:{self.api_id}/{self.stage}/{method}"
        return json.dumps(
            {
                "Version": "2012-10-17",
                "Statement": {
                    "Effect": "Allow",
                    "Action": "execute-api:Invoke",
                    "Resource": [arn + path for path in paths],
                },
            }
        )


def create_user(
    administrator: boto3.Session, name: str, policy: str | None, *, path: str = "/"
) -> Credentials:
    """An IAM user with an access key, and with a policy unless that is None."""
    iam = administrator.client("iam")
    iam.create_user(UserName=name, Path=path)
    if policy:
        iam.put_user_policy(UserName=name, PolicyName="token-api", PolicyDocument=policy)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return Credentials(key["AccessKeyId"], key["SecretAccessKey"])


def create_role(
    administrator: boto3.Session, name: str, policy: str | None, *, path: str = "/"
) -> Credentials:
    """An IAM role with a policy unless that is None, and a session of it named `job-1`."""
    iam = administrator.client("iam")
    account = administrator.client("sts").get_caller_identity()["Account"]
    trust = {
        "Version": "2012-10-17",
        "Statement": {
            "Effect": "Allow",
            "Principal": {"AWS": f"arn:aws:iam::{account}:root"},
            "Action": "sts:AssumeRole",
        },
    }
    role = iam.create_role(RoleName=name, Path=path, AssumeRolePolicyDocument=json.dumps(trust))
    if policy:
        iam.put_role_policy(RoleName=name, PolicyName="token-api", PolicyDocument=policy)
    return assume_role(administrator, role["Role"]["Arn"])


def assume_role(administrator: boto3.Session, role_arn: str) -> Credentials:
    """A session of a role, named `job-1`."""
    reply = administrator.client("sts").assume_role(RoleArn=role_arn, RoleSessionName="job-1")
    key = reply["Credentials"]
    return Credentials(key["AccessKeyId"], key["SecretAccessKey"], key["SessionToken"])
