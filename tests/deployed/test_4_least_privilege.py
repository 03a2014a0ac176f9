"""With IAM enforced, each function's role can do its job and nothing else that was tried."""

import json
from collections.abc import Callable

import boto3
import pytest
from botocore.exceptions import ClientError

from tests.deployed.conftest import Deployed

REFUSED = {"AccessDenied", "AccessDeniedException"}
type Attempt = Callable[[boto3.Session, Deployed], object]


def _secret(session: boto3.Session, deployed: Deployed) -> object:
    return session.client("secretsmanager").get_secret_value(
        SecretId=deployed.stack.outputs["ClientSecretArn"]
    )


def _other_secret(session: boto3.Session, deployed: Deployed) -> object:
    return session.client("secretsmanager").get_secret_value(SecretId="another-secret")


def _change_secret(session: boto3.Session, deployed: Deployed) -> object:
    return session.client("secretsmanager").put_secret_value(
        SecretId=deployed.stack.outputs["ClientSecretArn"], SecretString="{}"
    )


def _put(name: str) -> Attempt:
    def attempt(session: boto3.Session, deployed: Deployed) -> object:
        prefix = deployed.stack.outputs["TokenParameterPrefix"]
        return session.client("ssm").put_parameter(
            Name=name.format(prefix=prefix), Value="x", Type="SecureString", Overwrite=True
        )

    return attempt


def _get(name: str) -> Attempt:
    def attempt(session: boto3.Session, deployed: Deployed) -> object:
        prefix = deployed.stack.outputs["TokenParameterPrefix"]
        return session.client("ssm").get_parameter(
            Name=name.format(prefix=prefix), WithDecryption=True
        )

    return attempt


def _delete(session: boto3.Session, deployed: Deployed) -> object:
    prefix = deployed.stack.outputs["TokenParameterPrefix"]
    return session.client("ssm").delete_parameter(Name=f"{prefix}/deals")


def _invoke(output: str) -> Attempt:
    def attempt(session: boto3.Session, deployed: Deployed) -> object:
        return session.client("lambda").invoke(FunctionName=deployed.stack.outputs[output])

    return attempt


def _become_another(session: boto3.Session, deployed: Deployed) -> object:
    return session.client("sts").assume_role(
        RoleArn=f"arn:aws:iam::{deployed.stack.account}:role/hr-job", RoleSessionName="x1"
    )


def _direct_decrypt(session: boto3.Session, deployed: Deployed) -> object:
    key = deployed.stack.resource("BrokerKey")
    blob = deployed.stack.administrator.client("kms").encrypt(KeyId=key, Plaintext=b"x")
    return session.client("kms").decrypt(CiphertextBlob=blob["CiphertextBlob"], KeyId=key)


OVERREACH: list[tuple[str, str, Attempt]] = [
    ("VendFunctionName", "read the secret", _secret),
    ("VendFunctionName", "write a token", _put("{prefix}/deals")),
    ("VendFunctionName", "delete a token", _delete),
    ("VendFunctionName", "read a parameter elsewhere", _get("/elsewhere/deals")),
    ("VendFunctionName", "call itself", _invoke("VendFunctionName")),
    ("VendFunctionName", "take another role", _become_another),
    ("VendFunctionName", "decrypt directly", _direct_decrypt),
    ("RefreshFunctionName", "read another secret", _other_secret),
    ("RefreshFunctionName", "change the secret", _change_secret),
    ("RefreshFunctionName", "write outside its prefix", _put("/elsewhere/deals")),
    ("RefreshFunctionName", "write beside its prefix", _put("{prefix}-2/deals")),
    ("RefreshFunctionName", "read outside its prefix", _get("/elsewhere/deals")),
    ("RefreshFunctionName", "delete a token", _delete),
    ("RefreshFunctionName", "start the vendor", _invoke("VendFunctionName")),
    ("RefreshFunctionName", "take another role", _become_another),
    ("RefreshFunctionName", "decrypt directly", _direct_decrypt),
]
JOB: list[tuple[str, str, Attempt]] = [
    ("VendFunctionName", "read a token", _get("{prefix}/deals")),
    ("RefreshFunctionName", "read the secret", _secret),
    ("RefreshFunctionName", "read a token", _get("{prefix}/deals")),
    ("RefreshFunctionName", "write a token", _put("{prefix}/no-grant-of-this-name")),
]


@pytest.fixture(scope="module")
def others(renewed: Deployed) -> Deployed:
    """Something of somebody else's to reach for."""
    administrator = renewed.stack.administrator
    administrator.client("secretsmanager").create_secret(
        Name="another-secret", SecretString=json.dumps({"password": "x"})
    )
    prefix = renewed.stack.outputs["TokenParameterPrefix"]
    for name in ("/elsewhere/deals", f"{prefix}-2/deals"):
        administrator.client("ssm").put_parameter(Name=name, Value="x", Type="SecureString")
    return renewed


def _session(deployed: Deployed, function: str) -> boto3.Session:
    credentials = deployed.stack.function_credentials(deployed.stack.outputs[function])
    return deployed.stack.aws.session(credentials)


@pytest.mark.parametrize(("function", "what", "attempt"), OVERREACH)
def test_role_cannot(others: Deployed, function: str, what: str, attempt: Attempt):
    with pytest.raises(ClientError) as refusal:
        attempt(_session(others, function), others)
    assert refusal.value.response["Error"]["Code"] in REFUSED


@pytest.mark.parametrize(("function", "what", "attempt"), JOB)
def test_role_can(others: Deployed, function: str, what: str, attempt: Attempt):
    assert attempt(_session(others, function), others)
