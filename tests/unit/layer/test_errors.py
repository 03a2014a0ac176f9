"""Faults, named without any text from outside."""

import pytest
from botocore.exceptions import EndpointConnectionError

from tests.unit.fakes import SECRET, TOKEN, all_said, client_error, leaks
from token_broker.aws import describe_fault
from token_broker.errors import ConfigurationError, RenewalFailed


@pytest.mark.parametrize(
    ("error", "reason", "message"),
    [
        (
            client_error("AccessDeniedException", "GetParameter"),
            "AccessDeniedException",
            "GetParameter was refused by AWS: AccessDeniedException",
        ),
        (
            EndpointConnectionError(endpoint_url=f"https://{SECRET}"),
            "EndpointConnectionError",
            "AWS could not be reached or did not respond: EndpointConnectionError",
        ),
        (ConfigurationError("X is not set"), "ConfigurationError", "X is not set"),
        (KeyError(SECRET), "InternalError", "unexpected KeyError; please report it"),
        (ValueError(TOKEN), "InternalError", "unexpected ValueError; please report it"),
    ],
)
def test_fault_is_named_without_what_was_sent_or_received(
    error: Exception, reason: str, message: str
) -> None:
    assert describe_fault(error) == (reason, message)
    assert bool(leaks(all_said(error))) is not isinstance(error, ConfigurationError)


def test_client_error_without_a_code_is_unknown() -> None:
    error = client_error("", "PutParameter")
    error.response = {}
    assert describe_fault(error) == ("Unknown", "PutParameter was refused by AWS: Unknown")


def test_failed_run_says_each_cause_once() -> None:
    error = RenewalFailed({"deals": "no route", "users": "no scope", "activity": "no route"})
    assert str(error) == "not renewed: deals, activity: no route | users: no scope"
    assert error.causes["users"] == "no scope"
