"""Where the certificates of CaBundleParameter come from, and what is wrong if they do not."""

from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber

from token_broker.errors import ConfigurationError
from token_refresher.authorities import read_authorities

NAME = "/network/authorities"


@pytest.fixture
def ssm():
    return boto3.client("ssm", "eu-west-1", aws_access_key_id="id", aws_secret_access_key="key")


def test_value_of_the_parameter_is_returned(ssm: Any):
    with Stubber(ssm) as stubber:
        stubber.add_response("get_parameter", {"Parameter": {"Value": "PEM"}}, {"Name": NAME})
        assert read_authorities(ssm, NAME) == "PEM"


def test_nothing_is_read_without_a_name(ssm: Any):
    with Stubber(ssm):
        assert read_authorities(ssm, "") == ""


@pytest.mark.parametrize(
    ("code", "why"),
    [("ParameterNotFound", "there is none"), ("AccessDeniedException", "may not read it")],
)
def test_parameter_that_cannot_be_read_is_named_with_the_next_step(ssm: Any, code: str, why: str):
    with Stubber(ssm) as stubber:
        stubber.add_client_error("get_parameter", code)
        expected = f"^CaBundleParameter names {NAME}, and .*{why}.*; store the certificates"
        with pytest.raises(ConfigurationError, match=expected):
            read_authorities(ssm, NAME)


def test_fault_of_parameter_store_stays_one_of_aws(ssm: Any):
    with Stubber(ssm) as stubber:
        stubber.add_client_error("get_parameter", "ThrottlingException")
        with pytest.raises(ClientError):
            read_authorities(ssm, NAME)
