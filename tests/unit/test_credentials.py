"""The client secret: read exactly, refused plainly, never repeated."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber

from tests.unit.fakes import CREDENTIALS, SECRET, all_said, leaks, secrets_client
from token_broker.errors import ConfigurationError
from token_refresher.credentials import ClientCredentials, read_credentials

if TYPE_CHECKING:
    from types_boto3_secretsmanager import SecretsManagerClient

ARN = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:stack/connections/default-AbCdEf"
SOUND = {"client_id": "7f0c1a52", "client_secret": SECRET, "dealtrack_registration_id": "c3b2&=%"}


@pytest.fixture(scope="module")
def secrets() -> Iterator[Stubber]:
    with Stubber(secrets_client()) as stub:
        yield stub


def read(secrets: Stubber) -> ClientCredentials:
    return read_credentials(cast("SecretsManagerClient", secrets.client), ARN)


@pytest.mark.parametrize("ascii_only", [True, False])
def test_secret_is_read_exactly(secrets: Stubber, ascii_only: bool) -> None:  # noqa: FBT001
    text = json.dumps(SOUND | {"note": "ignored"}, ensure_ascii=ascii_only)
    secrets.add_response("get_secret_value", {"SecretString": text}, {"SecretId": ARN})
    assert read(secrets) == CREDENTIALS


def test_request_carries_the_credentials_and_the_scope() -> None:
    request = CREDENTIALS.request(("read:deals", "read:users"))
    assert (request.client_id, request.client_secret) == ("7f0c1a52", SECRET)
    assert request.dealtrack_registration_id == "c3b2&=%"
    assert request.scope == ("read:deals", "read:users")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (json.dumps(dict.fromkeys(SOUND, "REPLACE-ME")), "has not been filled in yet: client_id, "),
        (json.dumps(SOUND | {"client_id": "REPLACE-ME"}), "filled in yet: client_id. Store"),
        (json.dumps(SOUND | {"client_id": ""}), "empty: client_id"),
        (json.dumps(SOUND | {"client_secret": [SECRET]}), "client_secret: Input should be"),
        (json.dumps(SOUND | {"client_id": 7}), "client_id: Input should be a valid string"),
        (json.dumps({"client_secret": SECRET}), "client_id: Field required; dealtrack"),
        (json.dumps([SECRET]), "Input should be"),
        (SECRET, "not valid JSON"),
        (json.dumps(SOUND)[:-1], "not valid JSON"),
    ],
)
def test_unusable_secret_is_named_but_not_repeated(secrets: Stubber, text: str, said: str) -> None:
    secrets.add_response("get_secret_value", {"SecretString": text})
    with pytest.raises(ConfigurationError) as caught:
        read(secrets)
    assert ARN in str(caught.value)
    assert said in str(caught.value)
    assert not leaks(all_said(caught.value))


def test_binary_secret_is_refused(secrets: Stubber) -> None:
    secrets.add_response("get_secret_value", {"SecretBinary": SECRET.encode()})
    with pytest.raises(ConfigurationError, match="binary data; store the JSON as text") as caught:
        read(secrets)
    assert not leaks(all_said(caught.value))


def test_refusal_by_aws_passes_through(secrets: Stubber) -> None:
    secrets.add_client_error("get_secret_value", "ResourceNotFoundException")
    with pytest.raises(ClientError, match="ResourceNotFound"):
        read(secrets)
