"""`broker deploy`: the parameters that it passes on, and CloudFormation's reasons."""

from collections.abc import Callable

import pytest

from broker_cli import deploy
from broker_cli.failures import Failure

KNOWN = {"AlarmEmail": {}, "TokenUrl": {}, "ArtifactBucket": {}}
RELEASE = deploy.Release(template="template.json", parameters=KNOWN, files={})


class CloudFormation:
    """Responds with what a test gives it, by operation; each list one item a call."""

    def __init__(self, **responses: object) -> None:
        self.responses = responses
        self.requests: list[str] = []

    def __getattr__(self, operation: str) -> Callable[..., object]:
        def call(**_request: object) -> object:
            self.requests.append(operation)
            response = self.responses.get(operation, {})
            return response.pop(0) if isinstance(response, list) else response

        return call


def event(logical_id: str, status: str, reason: str = "") -> dict:
    return {
        "LogicalResourceId": logical_id,
        "ResourceStatus": status,
        "ResourceStatusReason": reason,
    }


def apply(client: CloudFormation) -> bool:
    return deploy._apply(client, "broker", deploy._UPDATE, "https://bucket/template.json", [])


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    pauses: list[float] = []
    monkeypatch.setattr("broker_cli.deploy.time.sleep", pauses.append)
    return pauses


def test_value_may_contain_an_equals_sign():
    assert deploy._given(["TokenUrl=https://a/?b=c"], KNOWN) == {"TokenUrl": "https://a/?b=c"}


@pytest.mark.parametrize("argument", ["AlarmEmail", "AlarmMail=x", "=x", "alarmemail=x"])
def test_argument_that_sets_no_parameter_is_refused_with_the_names(argument: str):
    with pytest.raises(Failure, match="is not NAME=VALUE of a parameter") as refused:
        deploy._given([argument], KNOWN)
    assert refused.value.next_step == "use AlarmEmail, ArtifactBucket, TokenUrl"


def test_parameters_that_are_not_given_keep_the_stacks_values():
    wanted = deploy._wanted(RELEASE, {"TokenUrl": "u"}, {"AlarmEmail": "a", "Gone": "g"})
    assert wanted == [
        {"ParameterKey": "TokenUrl", "ParameterValue": "u"},
        {"ParameterKey": "AlarmEmail", "UsePreviousValue": True},
    ]


def test_change_set_without_changes_is_removed_and_changes_nothing():
    reason = "The submitted information didn't contain changes."
    client = CloudFormation(
        create_change_set={"Id": "c"},
        describe_change_set={"Status": "FAILED", "StatusReason": reason},
    )
    assert not apply(client)
    assert client.requests[-1] == "delete_change_set"


def test_change_set_that_fails_is_removed_and_its_reason_reported():
    client = CloudFormation(
        create_change_set={"Id": "c"},
        describe_change_set=[
            {"Status": "CREATE_PENDING"},
            {"Status": "FAILED", "StatusReason": "Parameters: [X] must have values"},
        ],
    )
    with pytest.raises(Failure, match=r"no change set: Parameters: \[X\] must have values"):
        apply(client)
    assert client.requests[-1] == "delete_change_set"


def test_deployment_that_fails_names_the_resource_that_failed_first(pauses: list[float]):
    client = CloudFormation(
        create_change_set={"Id": "c"},
        describe_change_set={"Status": "CREATE_COMPLETE"},
        describe_stacks=[
            {"Stacks": [{"StackStatus": "UPDATE_ROLLBACK_IN_PROGRESS"}]},
            {"Stacks": [{"StackStatus": "UPDATE_ROLLBACK_COMPLETE"}]},
        ],
        describe_stack_events={
            "StackEvents": [
                event("broker", "UPDATE_ROLLBACK_COMPLETE"),
                event("Dashboard", "CREATE_FAILED", "Resource creation cancelled"),
                event("AlarmTopic", "CREATE_FAILED", "not authorized"),
                event("broker", "UPDATE_IN_PROGRESS", "User Initiated"),
                event("ClientSecret", "CREATE_FAILED", "of an earlier deployment"),
            ]
        },
    )
    with pytest.raises(Failure, match="UPDATE_ROLLBACK_COMPLETE: AlarmTopic: not authorized"):
        apply(client)
    assert len(pauses) == 1


def test_stack_that_failed_at_its_creation_is_to_be_deleted_first():
    client = CloudFormation(describe_stacks={"Stacks": [{"StackStatus": "ROLLBACK_COMPLETE"}]})
    with pytest.raises(Failure, match="can only be deleted") as refused:
        deploy._deployed(client, "broker")
    assert "delete-stack --stack-name broker" in refused.value.next_step
