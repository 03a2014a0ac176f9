"""What shows only when something is changed: each check puts it back, also if it is interrupted."""

import json
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from botocore.exceptions import ClientError

from broker_cli.aws import CONFIG, read_all
from broker_cli.console import say
from broker_cli.failed_runs import QUEUE, delete, received
from broker_cli.failures import DENIED
from broker_cli.verify.result import Deployment, Failed, NotChecked, Passed, Result

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient
    from types_boto3_sqs.type_defs import MessageTypeDef

TOKEN_BYTES: Final = 6000
"""More than a standard parameter takes (4096), less than an advanced one does (8192)."""

ACTION_SECONDS: Final = 15.0
"""How long CloudWatch may take to write an action into the alarm's history."""

REPORT_SECONDS: Final = 420.0
"""Lambda retries after one and after two minutes, and gives up an event that is 300 s old."""

_POLL_SECONDS: Final = 1.0
_MARK: Final = "broker-verify"
_REASON: Final = "broker verify --active tries the action of this alarm"


def large_token(deployment: Deployment) -> Result:
    """A token of more than 4 KB can be stored and read back, with the stack's key."""
    client = deployment.stack.session.client("ssm", config=CONFIG)
    name, value = f"{deployment.stack.prefix}/verify/large", secrets.token_hex(TOKEN_BYTES // 2)
    try:
        stored = client.put_parameter(
            Name=name,
            Description="A trial of broker verify --active; safe to delete",
            Value=value,
            Type="SecureString",
            KeyId=deployment.resources["BrokerKey"],
            Tier="Intelligent-Tiering",
            Overwrite=True,
        )
        found = client.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"]
    except ClientError as error:
        if error.response["Error"]["Code"] in DENIED:
            raise
        return Failed(f"{error.operation_name} refused it: {error.response['Error']['Code']}")
    finally:
        _remove(deployment, name)
    if found != value:
        return Failed("what was read back is not what was stored")
    if stored["Tier"] != "Advanced":
        return NotChecked(f"Parameter Store took it as {stored['Tier']}: it knows no tiers here")
    return Passed(f"{TOKEN_BYTES} bytes stored in an advanced parameter and read back")


def _remove(deployment: Deployment, name: str) -> None:
    client = deployment.stack.session.client("ssm", config=CONFIG)
    try:
        client.delete_parameter(Name=name)
    except ClientError as error:
        if error.response["Error"]["Code"] != "ParameterNotFound":
            say(f"remove the parameter {name} by hand", style="yellow", stderr=True)


def alarm_action(deployment: Deployment) -> Result:
    """An alarm's action reaches the topic: CloudWatch may use its key.

    One alarm is enough: the check of all alarms' actions says that they have the same.
    """
    quiet = [n for n, alarm in deployment.alarms.items() if alarm["StateValue"] != "ALARM"]
    name = next((n for n in quiet if n.endswith("-vend-faults")), next(iter(quiet), None))
    if name is None:
        return NotChecked("every alarm is on")
    client = deployment.stack.session.client("cloudwatch", config=CONFIG)
    since = datetime.now(UTC) - timedelta(seconds=1)
    before = deployment.alarms[name]
    try:
        client.set_alarm_state(AlarmName=name, StateValue="ALARM", StateReason=_REASON)
        output = _executed(deployment, name, since)
    finally:
        client.set_alarm_state(
            AlarmName=name, StateValue=before["StateValue"], StateReason=before["StateReason"]
        )
    topic = deployment.resources["AlarmTopic"]
    if output is None:
        return NotChecked(f"the history of {name} names no action after {ACTION_SECONDS:.0f} s")
    if not output.startswith("Successfully executed action") or topic not in output:
        return Failed(output, "look at the topic's policy and at the key's (AlarmsArePublished)")
    return Passed(f"{name} reached the topic; its receivers have two messages")


def _executed(deployment: Deployment, name: str, since: datetime) -> str | None:
    """What the alarm's history says of its action, once it says anything."""
    client = deployment.stack.session.client("cloudwatch", config=CONFIG)
    ends = time.monotonic() + ACTION_SECONDS
    while True:
        items = read_all(
            client.describe_alarm_history,
            "AlarmHistoryItems",
            AlarmName=name,
            HistoryItemType="Action",
            StartDate=since,
            EndDate=datetime.now(UTC) + timedelta(minutes=5),
        )
        if item := next(iter(items), None):
            return str(item["HistorySummary"])
        if time.monotonic() > ends:
            return None
        time.sleep(_POLL_SECONDS)


def failed_run(deployment: Deployment) -> Result:
    """An asynchronous run that fails is retried, and its report comes to the failures queue."""
    session, mark = deployment.stack.session, secrets.token_hex(8)
    client, url = session.client("sqs", config=CONFIG), deployment.resources[QUEUE]
    say("failed run: waiting for Lambda's retries, up to 5 minutes", stderr=True)
    with _say_if_interrupted():
        deployment.stack.start_refresh({_MARK: mark})
        ends = time.monotonic() + REPORT_SECONDS
        while time.monotonic() < ends:
            if _take_report(client, url, mark):
                return Passed("its report came to the failures queue, and was removed")
            time.sleep(_POLL_SECONDS)
    return Failed(
        f"no report came to the failures queue in {REPORT_SECONDS:.0f} s",
        "look at the refresher's asynchronous invocation: destination, retries, right to send",
    )


def _take_report(client: "SQSClient", url: str, mark: str) -> bool:
    """Remove this trial's report, and those that interrupted ones left; whether this one's came."""
    with received(client, url) as messages:
        trials = [message for message in messages if _mark(message)]
        for message in trials:
            messages.remove(message)
        is_here = mark in map(_mark, trials)
        delete(client, url, trials)
    return is_here


def _mark(message: "MessageTypeDef") -> str:
    """Which trial a report is about; empty if it is about another run."""
    try:
        return str(json.loads(message["Body"])["requestPayload"][_MARK])
    except (ValueError, TypeError, KeyError):
        return ""


@contextmanager
def _say_if_interrupted() -> Iterator[None]:
    try:
        yield
    except BaseException:
        text = (
            "the report of the trial run comes to the failures queue within 5 minutes: "
            "`broker failures --clear` removes it, or the next `broker verify --active`"
        )
        say(text, style="yellow", stderr=True)
        raise
