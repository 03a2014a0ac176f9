"""A fresh deployment without a secret: callers and the operator get an error that says so."""

from local.broker_stack import wait_until
from tests.deployed.conftest import BeforeTheSecret, Deployed


def test_outputs_are_those_of_the_contract(deployed: Deployed):
    assert set(deployed.stack.outputs) == {
        "TokenApiUrl",
        "ClientSecretArn",
        "RefreshFunctionName",
        "VendFunctionName",
        "TokenParameterPrefix",
    }
    assert deployed.stack.outputs["TokenApiUrl"].endswith("/v1")


def test_caller_gets_503_with_retry_after_before_the_first_token(
    before_the_secret: BeforeTheSecret,
):
    response = before_the_secret.caller
    assert response.status == 503
    assert int(response.headers["retry-after"]) > 0
    assert response.body["error"] == "temporarily_unavailable"


def test_refresh_names_the_unfilled_secret(before_the_secret: BeforeTheSecret):
    error = str(before_the_secret.operator["errorMessage"])
    assert "the secret has not been filled in yet" in error
    assert "/connections/default" in error
    assert before_the_secret.token_requests == 0


def test_failed_runs_reach_the_failure_queue(renewed: Deployed):
    sqs = renewed.stack.administrator.client("sqs")
    url = renewed.stack.resource("RefreshFailuresQueue")

    def messages() -> int:
        attributes = sqs.get_queue_attributes(
            QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"]
        )["Attributes"]
        return int(attributes["ApproximateNumberOfMessages"])

    before = messages()
    # The embedded scheduler invokes without Lambda's asynchronous queue; this goes through it.
    renewed.stack.administrator.client("lambda").invoke(
        FunctionName=renewed.stack.outputs["RefreshFunctionName"],
        InvocationType="Event",
        Payload=b'{"grants": ["forbidden"], "force": true}',
    )
    wait_until(lambda: messages() > before, seconds=30, what="a message in the failure queue")
