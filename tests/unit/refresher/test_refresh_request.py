"""What an invocation is asked to do: schedules, people, and the changes of a secret."""

from copy import deepcopy
from typing import Any

import pytest

from tests.unit.fakes import event
from token_broker.errors import InvalidRequest
from token_broker.grants import Grant
from token_refresher.refresh_request import RefreshRequest

ALL = RefreshRequest()
ARN = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:token-broker/connections/default-AbCdEf"
NAME = "token-broker/connections/default"
CLOUDTRAIL = event("secret_changed_cloudtrail.json")
LABEL = event("secret_label_updated.json")
ROTATED = CLOUDTRAIL | {"detail-type": "AWS Service Event via CloudTrail"}


@pytest.mark.parametrize(
    ("given", "request_"),
    [
        (event("schedule.json"), ALL),
        (event("schedule.json") | {"source": "aws.events", "detail": {}}, ALL),
        ({}, ALL),
        (event("forced_refresh.json"), RefreshRequest(force=True, grants=("deals",))),
        ({"force": False}, ALL),
        ({"force": True}, RefreshRequest(force=True)),
        ({"grants": None}, ALL),
        ({"grants": []}, RefreshRequest(grants=())),
        ({"grants": ["users", "deals", "users"]}, RefreshRequest(grants=("users", "deals"))),
        (
            {"grants": ["deals"], "rejected": "0123456789ab"},
            RefreshRequest(grants=("deals",), rejected="0123456789ab"),
        ),
        ({"rejected": "0123456789ab"}, RefreshRequest(rejected="0123456789ab")),
        (CLOUDTRAIL, RefreshRequest(changed_secret=ARN)),
        (LABEL, RefreshRequest(changed_secret=ARN)),
    ],
)
def test_event_says_what_to_renew(given: object, request_: RefreshRequest) -> None:
    assert RefreshRequest.from_event(given) == request_


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (None, "the event is not a JSON object"),
        (["deals"], "the event is not a JSON object"),
        ({"Force": True}, "unknown in the event: Force; use force, grants"),
        ({"source": "aws.events"}, "unknown in the event: source; use force, grants"),
        (
            {"changed_secret": NAME, "all": True},
            "unknown in the event: all, changed_secret; use force, grants",
        ),
        ({"rejected": ["0123456789ab"]}, "rejected is not a fingerprint"),
        ({"force": "true"}, "force is not true or false"),
        ({"force": 1}, "force is not true or false"),
        ({"grants": "deals"}, "grants is not a list of grant names"),
        ({"grants": [["deals"]]}, "grants is not a list of grant names"),
    ],
)
def test_event_that_is_not_understood_is_refused(given: object, complaint: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        RefreshRequest.from_event(given)
    assert str(caught.value) == complaint


def test_label_event_has_the_documented_shape_and_names_the_secret_of_the_api_call() -> None:
    # AWS Secrets Manager User Guide, "Secret Label Updated event"
    assert (LABEL["source"], LABEL["detail-type"]) == (
        "aws.secretsmanager",
        "Secret Label Updated",
    )
    assert LABEL["detail"].keys() == {"name", "labelUpdated", "versionId"}
    assert LABEL["resources"] == [CLOUDTRAIL["detail"]["responseElements"]["arn"]]
    assert LABEL["detail"]["name"] == CLOUDTRAIL["detail"]["requestParameters"]["secretId"]
    token = CLOUDTRAIL["detail"]["requestParameters"]["clientRequestToken"]
    assert LABEL["detail"]["versionId"] == token


def with_detail(given: dict[str, Any], **parts: object) -> dict[str, Any]:
    """An event that names its secret nowhere but in these parts of its detail."""
    changed = deepcopy(given) | {"resources": []}
    changed["detail"] |= {"responseElements": None, "requestParameters": None, "name": None}
    changed["detail"] |= parts
    return changed


@pytest.mark.parametrize(
    ("given", "secret"),
    [
        (with_detail(CLOUDTRAIL, responseElements={"arn": ARN}), ARN),
        (with_detail(CLOUDTRAIL, responseElements={"aRN": ARN}), ARN),
        (with_detail(CLOUDTRAIL, responseElements={"ARN": ARN, "name": NAME}), ARN),
        (with_detail(ROTATED, additionalEventData={"SecretId": ARN}), ARN),
        (with_detail(ROTATED, additionalEventData={"aRN": ARN}), ARN),
        (with_detail(ROTATED, additionalEventData={"arn": ARN}), ARN),
        (with_detail(CLOUDTRAIL, arn=ARN), ARN),
        (with_detail(CLOUDTRAIL, secretId=NAME), NAME),
        (with_detail(CLOUDTRAIL, requestParameters={"secretId": ARN}), ARN),
        (with_detail(CLOUDTRAIL, requestParameters={"secretId": NAME}), NAME),
        (
            with_detail(
                CLOUDTRAIL, requestParameters={"secretId": NAME}, responseElements={"aRN": ARN}
            ),
            ARN,
        ),
        (with_detail(CLOUDTRAIL, responseElements={"arn": 7}, aRN=ARN), ARN),
        (with_detail(LABEL, name=NAME), NAME),
        (with_detail(LABEL) | {"resources": [None, "", ARN]}, ARN),
        (with_detail(LABEL) | {"resources": ARN}, ""),
        (with_detail(CLOUDTRAIL), ""),
        (with_detail(CLOUDTRAIL, requestParameters={"secretId": [ARN]}), ""),
        (CLOUDTRAIL | {"detail": "text"}, ""),
        ({"source": "aws.secretsmanager", "detail-type": "anything"}, ""),
    ],
)
def test_change_event_names_its_secret_in_any_of_its_places(given: object, secret: str) -> None:
    assert RefreshRequest.from_event(given) == RefreshRequest(changed_secret=secret)


GRANTS = {name: Grant(scope=(f"read:{name}",)) for name in ("deals", "users")}


def test_request_is_about_all_grants_or_those_it_names() -> None:
    assert ALL.names(GRANTS) == ("deals", "users")
    assert RefreshRequest(grants=("users",)).names(GRANTS) == ("users",)
    assert RefreshRequest(grants=()).names(GRANTS) == ()


def test_unknown_grant_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match="no such grant: deal, use; there are deals, users"):
        RefreshRequest(grants=("users", "deal", "use")).names(GRANTS)
