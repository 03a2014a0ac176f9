"""What starts the refresher: its schedule, and the rule for changes of a secret."""

import json
import re
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from broker_cli.aws import CONFIG
from broker_cli.verify.result import REFRESHER, Deployment, Failed, NotChecked, Passed, Result

if TYPE_CHECKING:
    from types_boto3_scheduler.type_defs import GetScheduleOutputTypeDef

_HERE: Final = Path(__file__).resolve()
_PACKAGED: Final = _HERE.parents[1] / "events"
EVENTS: Final = _PACKAGED if _PACKAGED.is_dir() else _HERE.parents[3] / "events"
"""What AWS sends: in the wheel of `broker`, or else in the checkout."""

_SCHEDULE, _RULE = f"{REFRESHER}Schedule", f"{REFRESHER}SecretChanged"


def get_schedule(deployment: Deployment) -> "GetScheduleOutputTypeDef":
    """The schedule as EventBridge Scheduler has it."""
    client = deployment.stack.session.client("scheduler", config=CONFIG)
    return client.get_schedule(Name=deployment.resources[_SCHEDULE].rpartition("/")[2])


def schedule(deployment: Deployment) -> Result:
    """The schedule is enabled, as often as the parameter says, and starts this stack's function."""
    found, wanted = get_schedule(deployment), deployment.stack.parameters["RefreshSchedule"]
    if found["State"] != "ENABLED":
        return Failed(f"it is {found['State']}: nothing is renewed")
    if found["ScheduleExpression"] != wanted:
        return Failed(f"it is {found['ScheduleExpression']}, and RefreshSchedule is {wanted}")
    if found["Target"]["Arn"] != deployment.function_arn(REFRESHER):
        return Failed(f"it starts {found['Target']['Arn']}, not this stack's refresher")
    return Passed(f"enabled, {wanted}, starts {deployment.resources[REFRESHER]}")


def rule(deployment: Deployment) -> Result:
    """The rule for changes of the secret is enabled and starts this stack's function."""
    client = deployment.stack.session.client("events", config=CONFIG)
    name = deployment.resources[_RULE]
    state = client.describe_rule(Name=name)["State"]
    if state != "ENABLED":
        return Failed(f"it is {state}: a changed secret is noticed when a token is due")
    targets = [target["Arn"] for target in client.list_targets_by_rule(Rule=name)["Targets"]]
    if deployment.function_arn(REFRESHER) not in targets:
        return Failed("it does not start this stack's refresher")
    return Passed("enabled, starts the refresher")


def pattern(deployment: Deployment) -> Result:
    """The rule's deployed pattern takes the events of this stack's secrets, and of no others."""
    client = deployment.stack.session.client("events", config=CONFIG)
    deployed = client.describe_rule(Name=deployment.resources[_RULE])["EventPattern"]

    def takes(event: Mapping[str, Any], pattern: str = deployed) -> bool:
        output = client.test_event_pattern(EventPattern=pattern, Event=json.dumps(event))
        return output["Result"] is True

    events = secret_events(deployment.stack.outputs["ClientSecretArn"])
    first = next(iter(events.values()))
    never = json.dumps({"source": ["nobody"]})
    if takes(first, never) or not takes(first, json.dumps({"source": [first["source"]]})):
        return NotChecked("TestEventPattern gives the wrong result for a pattern that is known")
    missed = [name for name, event in events.items() if not takes(event)]
    if missed:
        return Failed(f"it does not take: {', '.join(missed)}")
    foreign = secret_events(deployment.arn("secretsmanager", "secret:another/x-AbCdEf"))
    taken = [name for name, event in foreign.items() if takes(event)]
    if taken:
        return Failed(f"it takes events of other secrets: {', '.join(taken)}")
    return Passed(f"it takes {len(events)} events of this stack's secret, and none of another")


def secret_events(arn: str) -> Mapping[str, dict[str, Any]]:
    """The four ways in which AWS reports a changed secret, for a secret's ARN, by name.

    The label event is native; CloudTrail names the secret in three places.
    """
    label, change = _recorded("secret_label_updated.json", arn), _recorded(_CLOUDTRAIL, arn)
    return {
        "Secret Label Updated": label,
        "PutSecretValue of CloudTrail": _cloudtrail(change, responseElements={"arn": arn}),
        "UpdateSecret of CloudTrail": _cloudtrail(
            change, eventName="UpdateSecret", responseElements={"aRN": arn}
        ),
        "RotationSucceeded of CloudTrail": _cloudtrail(
            change,
            eventName="RotationSucceeded",
            responseElements=None,
            additionalEventData={"SecretId": arn},
        ),
    }


_CLOUDTRAIL: Final = "secret_changed_cloudtrail.json"


def _recorded(file: str, arn: str) -> dict[str, Any]:
    text = (EVENTS / file).read_text(encoding="utf-8")
    region, account = arn.split(":")[3:5]
    event: dict[str, Any] = json.loads(re.sub(r'arn:aws:secretsmanager:[^"]+', arn, text))
    return event | {"region": region, "account": account}


def _cloudtrail(change: dict[str, Any], **detail: object) -> dict[str, Any]:
    event = deepcopy(change)
    event["detail"] |= {"requestParameters": None, **detail}
    return event
