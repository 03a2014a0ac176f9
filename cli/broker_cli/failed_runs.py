"""`broker failures`: the refresh runs that failed for good, and an end to their alarm."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final, Self

import typer

from broker_cli.aws import CONFIG, Stack
from broker_cli.console import clock, printable, say, say_json, working
from broker_cli.failures import ExitCode
from broker_cli.options import Json, StackName
from token_broker.models import rfc3339

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient
    from types_boto3_sqs.type_defs import DeleteMessageBatchRequestEntryTypeDef, MessageTypeDef

QUEUE: Final = "RefreshFailuresQueue"
_BATCH: Final = 10
"""Messages at a time, the most that SQS takes."""

_MOST: Final = 500
"""Reports that are shown; a night of failures, a run a minute."""

_HIDDEN_SECONDS: Final = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What Lambda put into the queue about a run that it gave up.

    Attributes:
        at: when it did, aware UTC.
        error: the name of the function's error, or why it was not run (`EventAgeExceeded`).
        causes: in sentences, one for each grant if the run got as far.
        tries: how often Lambda ran it.
    """

    at: datetime
    error: str
    causes: tuple[str, ...]
    tries: int

    @classmethod
    def of(cls, message: "MessageTypeDef") -> Self:
        """Read a message; what Lambda did not write is `Unreadable`."""
        at = datetime.fromtimestamp(int(message["Attributes"]["SentTimestamp"]) / 1000, UTC)
        try:
            record = json.loads(message["Body"])
            context, response = record["requestContext"], record.get("responsePayload") or {}
            return cls(
                at=at,
                error=printable(response.get("errorType") or context["condition"]),
                causes=_causes(str(response.get("errorMessage") or "")),
                tries=int(context["approximateInvokeCount"]),
            )
        except (ValueError, TypeError, KeyError, AttributeError):
            return cls(at=at, error="Unreadable", causes=(), tries=0)

    def as_json(self) -> dict[str, object]:
        """As `broker failures --json` prints it."""
        return asdict(self) | {"at": rfc3339(self.at)}


def _causes(message: str) -> tuple[str, ...]:
    parts = message.removeprefix("not renewed: ").split(" | ")
    return tuple(printable(part) for part in parts if part)


def failures(
    stack: StackName,
    clear: Annotated[
        bool, typer.Option("--clear", help="Then delete these reports, which clears the alarm.")
    ] = False,
    json: Json = False,
) -> None:
    """Show the runs that failed, their retries too: when, how often they were tried, and why.

    Run nothing again: the next run does the same work. Fix the cause, then clear the queue.
    Exits with 1 if any reports are left.
    """
    with working("reading the queue"):
        opened = Stack.open(stack)
        client, url = opened.session.client("sqs", config=CONFIG), opened.resource(QUEUE)
    with received(client, url) as messages:
        reports = [Report.of(message) for message in messages]
        if json:
            output = [report.as_json() for report in reports]
            say_json({"reports": output, "is_cleared": clear})
        else:
            _show(reports, clear=clear)
        if clear:
            delete(client, url, messages)
    if reports and not clear:
        raise typer.Exit(ExitCode.WRONG)


def _show(reports: list[Report], *, clear: bool) -> None:
    for report in sorted(reports, key=lambda report: report.at):
        at = clock(report.at, datetime.now(UTC))
        say(f"{at}  {report.error}, tried {report.tries} times", style="red")
        for cause in report.causes:
            say(f"  {cause}")
    if not reports:
        say("no run failed for good")
    elif clear:
        say(f"{len(reports)} cleared")
    else:
        say("next:  fix the cause, then `broker failures --clear`", stderr=True)


@contextmanager
def received(client: "SQSClient", url: str) -> Iterator["list[MessageTypeDef]"]:
    """All messages, hidden from others meanwhile; those not deleted are in the queue again after.

    Hidden, they would end the alarm and the doctor would find the queue empty.
    """
    messages: list[MessageTypeDef] = []
    try:
        with working("reading the queue"):
            while len(messages) < _MOST and (found := _receive(client, url)):
                messages += found
        yield messages
    finally:
        for batch in _batches(messages):
            client.change_message_visibility_batch(
                QueueUrl=url, Entries=[{**entry, "VisibilityTimeout": 0} for entry in batch]
            )


def _receive(client: "SQSClient", url: str) -> "list[MessageTypeDef]":
    response = client.receive_message(
        QueueUrl=url,
        MaxNumberOfMessages=_BATCH,
        MessageSystemAttributeNames=["SentTimestamp"],
        VisibilityTimeout=_HIDDEN_SECONDS,
        WaitTimeSeconds=1,  # asks all of SQS's servers, where a short poll asks some
    )
    return response.get("Messages", [])


def delete(client: "SQSClient", url: str, messages: "list[MessageTypeDef]") -> None:
    """Delete received messages, and forget them."""
    for batch in _batches(messages):
        client.delete_message_batch(QueueUrl=url, Entries=batch)
    messages.clear()


def _batches(
    messages: "list[MessageTypeDef]",
) -> "Iterator[list[DeleteMessageBatchRequestEntryTypeDef]]":
    for first in range(0, len(messages), _BATCH):
        yield [
            {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
            for number, message in enumerate(messages[first : first + _BATCH])
        ]
