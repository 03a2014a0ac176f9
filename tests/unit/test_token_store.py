"""The store: one SecureString for each grant, read by name."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber

from tests.unit.fakes import all_said, leaks, ssm_client, stored
from token_broker.errors import CorruptStoredToken
from token_broker.token_store import ParameterTokenStore

if TYPE_CHECKING:
    from types_boto3_ssm import SSMClient

NAME = "/enable-tokens/stack/deals"
READ = {"Name": NAME, "WithDecryption": True}


@pytest.fixture(scope="module")
def stub() -> Iterator[Stubber]:
    with Stubber(ssm_client()) as stub:
        yield stub


@pytest.fixture
def store(stub: Stubber) -> Iterator[ParameterTokenStore]:
    yield ParameterTokenStore(
        cast("SSMClient", stub.client), prefix="/enable-tokens/stack", key_id="key-arn"
    )
    stub.assert_no_pending_responses()


def test_stored_token_is_read_by_its_name(stub: Stubber, store: ParameterTokenStore) -> None:
    stub.add_response("get_parameter", {"Parameter": {"Value": stored().to_json()}}, READ)
    assert store.read("deals") == stored()


def test_missing_parameter_is_no_token(stub: Stubber, store: ParameterTokenStore) -> None:
    stub.add_client_error("get_parameter", "ParameterNotFound", expected_params=READ)
    assert store.read("deals") is None


def test_other_refusals_pass_through(stub: Stubber, store: ParameterTokenStore) -> None:
    stub.add_client_error("get_parameter", "AccessDeniedException")
    with pytest.raises(ClientError, match="AccessDenied"):
        store.read("deals")


def test_foreign_value_is_corrupt_and_not_quoted(stub: Stubber, store: ParameterTokenStore) -> None:
    stub.add_response("get_parameter", {"Parameter": {"Value": stored().to_json()[:-1]}}, READ)
    with pytest.raises(CorruptStoredToken) as caught:
        store.read("deals")
    assert not leaks(all_said(caught.value))


def test_token_is_written_encrypted_over_the_old_one_and_without_a_label(
    stub: Stubber, store: ParameterTokenStore
) -> None:
    expected = {
        "Name": NAME,
        "Description": "Enable access token of the grant deals; written by the token broker",
        "Value": stored().to_json(),
        "Type": "SecureString",
        "KeyId": "key-arn",
        "Tier": "Intelligent-Tiering",
        "Overwrite": True,
    }
    stub.add_response("put_parameter", {"Version": 2}, expected)  # and no further call
    store.write("deals", stored())
