"""The client secret: read exactly, refused plainly, never repeated."""

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, cast

import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber

from tests.unit.fakes import CREDENTIALS, SECRET, FakeSecrets, all_said, leaks, secrets_client
from token_broker.errors import ConfigurationError
from token_refresher.credentials import ClientCredentials, SecretReader, SecretVersion

if TYPE_CHECKING:
    from types_boto3_secretsmanager import SecretsManagerClient

PREFIX = "token-broker/connections/"
NAME = PREFIX + "default"
ARN = f"arn:aws:secretsmanager:eu-west-1:111122223333:secret:{NAME}-AbCdEf"
VERSION_ID = "6f0d3c9a-2b1e-4d8f-a7c5-0e9b8d7c6f5a"
SOUND = {"client_id": "7f0c1a52", "client_secret": SECRET, "dealtrack_registration_id": "c3b2&=%"}


@pytest.fixture(scope="module")
def secrets() -> Iterator[Stubber]:
    with Stubber(secrets_client()) as stub:
        yield stub


@pytest.fixture
def reader(secrets: Stubber) -> Iterator[SecretReader]:
    yield SecretReader(cast("SecretsManagerClient", secrets.client), prefix=PREFIX)
    secrets.assert_no_pending_responses()


def version(text: str) -> dict[str, object]:
    return {"SecretString": text, "VersionId": VERSION_ID}


@pytest.mark.parametrize("ascii_only", [True, False])
def test_secret_is_read_exactly(
    secrets: Stubber,
    reader: SecretReader,
    ascii_only: bool,  # noqa: FBT001
) -> None:
    text = json.dumps(SOUND | {"note": "ignored"}, ensure_ascii=ascii_only)
    expected = {"SecretId": NAME, "VersionStage": "AWSCURRENT"}
    secrets.add_response("get_secret_value", version(text), expected)
    assert reader.read("default") == SecretVersion(
        version_id=VERSION_ID, stage="AWSCURRENT", credentials=CREDENTIALS
    )


def test_version_is_read_by_connection_and_stage(secrets: Stubber, reader: SecretReader) -> None:
    expected = {"SecretId": PREFIX + "uat", "VersionStage": "AWSPREVIOUS"}
    secrets.add_response("get_secret_value", version(json.dumps(SOUND)), expected)
    found = reader.read("uat", "AWSPREVIOUS")
    assert found is not None
    assert (found.version_id, found.stage) == (VERSION_ID, "AWSPREVIOUS")


OTHER_ID = VERSION_ID[::-1]


@pytest.mark.parametrize(
    ("pending", "previous", "found"),
    [
        (OTHER_ID, VERSION_ID, [("AWSCURRENT", VERSION_ID), ("AWSPENDING", OTHER_ID)]),
        (VERSION_ID, OTHER_ID, [("AWSCURRENT", VERSION_ID), ("AWSPREVIOUS", OTHER_ID)]),
        (
            "ResourceNotFoundException",
            OTHER_ID,
            [("AWSCURRENT", VERSION_ID), ("AWSPREVIOUS", OTHER_ID)],
        ),
        (
            "AccessDeniedException",
            OTHER_ID,
            [("AWSCURRENT", VERSION_ID), ("AWSPREVIOUS", OTHER_ID)],
        ),
        (
            "AccessDeniedException",
            "ResourceNotFoundException",
            [("AWSCURRENT", VERSION_ID)],
        ),
    ],
)
def test_versions_are_the_current_one_and_whichever_others_there_are(
    secrets: Stubber,
    reader: SecretReader,
    pending: str,
    previous: str,
    found: list[tuple[str, str]],
) -> None:
    versions = reader.versions("uat")
    stages = {"AWSCURRENT": VERSION_ID, "AWSPENDING": pending, "AWSPREVIOUS": previous}
    for stage, returned in stages.items():
        expected = {"SecretId": PREFIX + "uat", "VersionStage": stage}
        if returned.endswith("Exception"):
            secrets.add_client_error("get_secret_value", returned, expected_params=expected)
        else:
            response = {"SecretString": json.dumps(SOUND), "VersionId": returned}
            secrets.add_response("get_secret_value", response, expected)
    assert [(version.stage, version.version_id) for version in versions] == found


def test_other_versions_are_read_when_they_are_asked_for(
    secrets: Stubber, reader: SecretReader
) -> None:
    secrets.add_response("get_secret_value", version(json.dumps(SOUND)))
    assert next(reader.versions("default")).version_id == VERSION_ID
    secrets.assert_no_pending_responses()


def test_current_version_that_cannot_be_read_is_an_error(
    secrets: Stubber, reader: SecretReader
) -> None:
    secrets.add_client_error("get_secret_value", "AccessDeniedException")
    with pytest.raises(ClientError):
        next(reader.versions("default"))


def test_request_carries_the_credentials_and_the_scope() -> None:
    found = SecretVersion(version_id=VERSION_ID, stage="AWSCURRENT", credentials=CREDENTIALS)
    request = found.request(("read:deals", "read:users"))
    assert (request.client_id, request.client_secret) == ("7f0c1a52", SECRET)
    assert request.dealtrack_registration_id == "c3b2&=%"
    assert request.scope == ("read:deals", "read:users")


@pytest.mark.parametrize(
    ("text", "output"),
    [
        (
            json.dumps(dict.fromkeys(SOUND, "REPLACE-ME")),
            "has not been filled in yet: client_id, client_secret, dealtrack_registration_id. ",
        ),
        (json.dumps(SOUND | {"client_id": "REPLACE-ME"}), "filled in yet: client_id. Store"),
        (json.dumps(SOUND | {"client_id": ""}), "empty: client_id. "),
        (
            json.dumps(dict.fromkeys(SOUND, "")),
            "empty: client_id, client_secret, dealtrack_registration_id. ",
        ),
        (json.dumps(SOUND | {"client_secret": [SECRET]}), "client_secret: Input should be"),
        (json.dumps(SOUND | {"client_id": 7}), "client_id: Input should be a valid string"),
        (json.dumps({"client_secret": SECRET}), "client_id: Field required; dealtrack"),
        (json.dumps([SECRET]), "Input should be"),
        (SECRET, "not valid JSON"),
        (json.dumps(SOUND)[:-1], "not valid JSON"),
    ],
)
@pytest.mark.parametrize("stage", ["AWSCURRENT", "AWSPENDING"])
def test_unusable_secret_is_named_but_not_repeated(
    secrets: Stubber, reader: SecretReader, stage: str, text: str, output: str
) -> None:
    secrets.add_response("get_secret_value", version(text))
    with pytest.raises(ConfigurationError) as caught:
        reader.read("default", stage)
    assert f"the secret {NAME}: " in str(caught.value)
    assert output in str(caught.value)
    assert str(caught.value).endswith(
        ". Store a JSON object with client_id, client_secret and dealtrack_registration_id"
    )
    assert not leaks(all_said(caught.value))


def test_binary_secret_is_refused(secrets: Stubber, reader: SecretReader) -> None:
    binary = {"SecretBinary": SECRET.encode(), "VersionId": VERSION_ID}
    secrets.add_response("get_secret_value", binary)
    with pytest.raises(ConfigurationError, match="is binary; store the JSON as text") as caught:
        reader.read("default")
    assert not leaks(all_said(caught.value))


def test_missing_secret_is_named(secrets: Stubber, reader: SecretReader) -> None:
    secrets.add_client_error("get_secret_value", "ResourceNotFoundException")
    with pytest.raises(ConfigurationError, match="token-broker/connections/uat does not exist"):
        reader.read("uat")


@pytest.mark.parametrize("stage", ["AWSPENDING", "AWSPREVIOUS"])
def test_missing_version_is_none(secrets: Stubber, reader: SecretReader, stage: str) -> None:
    secrets.add_client_error("get_secret_value", "ResourceNotFoundException")
    assert reader.read("default", stage) is None


@pytest.mark.parametrize("stage", ["AWSCURRENT", "AWSPREVIOUS"])
def test_other_refusals_by_aws_pass_through(
    secrets: Stubber, reader: SecretReader, stage: str
) -> None:
    secrets.add_client_error("get_secret_value", "AccessDeniedException")
    with pytest.raises(ClientError, match="AccessDenied"):
        reader.read("default", stage)


@pytest.mark.parametrize(
    ("secret", "connection"),
    [
        (ARN, "default"),
        (NAME, "default"),
        (ARN.replace("default", "uat-2"), "uat-2"),
        (ARN.replace("arn:aws:", "arn:aws-us-gov:"), "default"),
        (PREFIX + "uat-2", "uat-2"),
        (ARN.replace("token-broker/", "other-broker/"), None),
        ("db/" + NAME, None),
        ("default", None),
        ("arn:aws:s3:::bucket", None),
        ("arn:", None),
        ("", None),
    ],
)
def test_connection_of_a_secret_is_told_by_its_arn_or_name(
    reader: SecretReader, secret: str, connection: str | None
) -> None:
    assert reader.connection_of(secret) == connection


def test_fake_tells_connections_as_the_reader_does(reader: SecretReader) -> None:
    for secret in (ARN, NAME, "", "db/" + NAME, ARN.replace("default", "uat-2")):
        assert FakeSecrets().connection_of(secret) == reader.connection_of(secret)


@pytest.mark.parametrize("printed", [repr, str, "{}".format])
def test_secret_that_is_printed_keeps_its_secret(printed: Callable[[object], str]) -> None:
    found = SecretVersion(version_id=VERSION_ID, stage="AWSCURRENT", credentials=CREDENTIALS)
    assert not leaks(printed(found), printed(found.request(("a",))))


@pytest.mark.parametrize("end", [" ", "\n", "\r\n", "\t", "\u00a0", "\u200b", "\ufeff"])
def test_fields_that_begin_or_end_with_white_space_are_named(end: str) -> None:
    credentials = ClientCredentials(
        client_id="a b", client_secret=f"secret{end}", dealtrack_registration_id=f"{end}id"
    )
    assert credentials.padded == ("client_secret", "dealtrack_registration_id")
    assert credentials.client_secret == f"secret{end}"  # it may be meant


def test_white_space_within_a_field_is_not_named() -> None:
    assert CREDENTIALS.padded == ()
