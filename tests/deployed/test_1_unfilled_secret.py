"""A fresh deployment without a secret: callers and the operator get an error that says so."""

from local.broker_stack import wait_until
from tests.deployed.conftest import Deployed


def test_outputs_are_those_of_the_contract(deployed: Deployed):
    assert set(deployed.stack.outputs) == {
        "TokenApiUrl",
        "ClientSecretArn",
        "RefreshFunctionName",
        "VendFunctionName",
        "TokenParameterPrefix",
    }
    assert deployed.stack.outputs["TokenApiUrl"].endswith("/v1")


def test_caller_gets_503_with_retry_after_before_the_first_token(deployed: Deployed):
    response = deployed.get("/tokens/deals", "user for deals")
    assert response.status == 503
    assert int(response.headers["retry-after"]) > 0
    assert response.body["error"] == "temporarily_unavailable"


def test_refresh_names_the_unfilled_secret(deployed: Deployed):
    error = deployed.stack.refresh({})
    assert "the secret has not been filled in yet" in str(error["errorMessage"])
    assert "/connections/default" in str(error["errorMessage"])
    assert deployed.enable.token_requests == ()


def test_failed_runs_reach_the_failure_queue(deployed: Deployed):
    sqs = deployed.stack.administrator.client("sqs")
    url = deployed.stack.resource("RefreshFailuresQueue")

    def messages() -> int:
        attributes = sqs.get_queue_attributes(
            QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"]
        )["Attributes"]
        return int(attributes["ApproximateNumberOfMessages"])

    # The embedded scheduler invokes without Lambda's asynchronous queue; this goes through it.
    deployed.stack.administrator.client("lambda").invoke(
        FunctionName=deployed.stack.outputs["RefreshFunctionName"], InvocationType="Event"
    )
    wait_until(lambda: messages() > 0, seconds=30, what="a message in the failure queue")
