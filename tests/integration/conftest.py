"""The handlers, in this process, against an account of the embedded AWS of their own."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest

from local.embedded_aws import EmbeddedAws
from local.fake_enable import Client, FakeEnable
from token_refresher import app as refresher_app
from token_vendor import app as vendor_app

ACCOUNT = "444455556666"
PREFIX = "/enable-tokens/integration"


@dataclass(frozen=True)
class Account:
    session: boto3.Session
    secret_arn: str
    key_arn: str

    def stored(self, grant: str) -> dict[str, str]:
        parameter = self.session.client("ssm").get_parameter(
            Name=f"{PREFIX}/{grant}", WithDecryption=True
        )["Parameter"]
        assert parameter["Type"] == "SecureString"
        return json.loads(parameter["Value"])

    def store(self, grant: str, value: str) -> None:
        self.session.client("ssm").put_parameter(
            Name=f"{PREFIX}/{grant}", Value=value, Type="SecureString", Overwrite=True
        )

    def set_secret(self, text: str) -> None:
        self.session.client("secretsmanager").put_secret_value(
            SecretId=self.secret_arn, SecretString=text
        )


class LambdaContext:
    function_name = "integration"
    memory_limit_in_mb = 512
    invoked_function_arn = f"arn:aws:lambda:eu-west-1:{ACCOUNT}:function:integration"
    aws_request_id = "52fdfc07-2182-454f-963f-5f0f9a621d72"

    @staticmethod
    def get_remaining_time_in_millis() -> int:
        return 30_000


@pytest.fixture(scope="session")
def account_resources(embedded_aws: EmbeddedAws) -> Account:
    session = embedded_aws.administrator(ACCOUNT)
    key = session.client("kms").create_key()["KeyMetadata"]["Arn"]
    secret = session.client("secretsmanager").create_secret(
        Name="integration/connections/default", SecretString="{}"
    )
    return Account(session, secret["ARN"], key)


@pytest.fixture
def account(
    account_resources: Account,
    embedded_aws: EmbeddedAws,
    enable: FakeEnable,
    enable_client: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Account]:
    """The environment as the template sets it, the secret filled in, nothing stored."""
    account_resources.set_secret(secret_json(enable_client))
    for name, value in {
        "AWS_ENDPOINT_URL": embedded_aws.endpoint_url,
        "AWS_ACCESS_KEY_ID": ACCOUNT,
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "TOKEN_URL": enable.token_url,
        "SECRET_PREFIX": "integration/connections/",
        "RENEWAL_PARALLELISM": "8",
        "TOKEN_KEY_ARN": account_resources.key_arn,
        "TOKEN_PARAMETER_PREFIX": PREFIX,
        "REFRESH_AHEAD_SECONDS": "600",
        "TOKEN_CACHE_SECONDS": "60",
        "REFRESH_FUNCTION_NAME": "none-here",
    }.items():
        monkeypatch.setenv(name, value)
    _forget()
    yield account_resources
    _forget()
    ssm = account_resources.session.client("ssm")
    for page in ssm.get_paginator("describe_parameters").paginate():
        for parameter in page["Parameters"]:
            ssm.delete_parameter(Name=parameter["Name"])


def _forget() -> None:
    refresher_app._refresher.cache_clear()
    vendor_app._session.cache_clear()
    vendor_app._wiring.cache_clear()


def secret_json(client: Client) -> str:
    return json.dumps(
        {
            "client_id": client.client_id,
            "client_secret": client.client_secret,
            "dealtrack_registration_id": client.dealtrack_registration_id,
        }
    )


def event(name: str) -> dict[str, object]:
    folder = Path(__file__).resolve().parent.parent.parent / "events"
    return json.loads((folder / f"{name}.json").read_text())
