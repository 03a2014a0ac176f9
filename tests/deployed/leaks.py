"""Where a secret must not be after a run: log groups, queue, files, processes."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from local.broker_stack import BrokerStack

type Place = tuple[str, bytes]
"""Its name and its content."""

BROKEN_OFF: Final = "Worker process died"
"""What ministack logs and returns of a run that ended with its environment."""


def log_groups(stack: BrokerStack) -> Iterator[tuple[str, str]]:
    """Every message of the account's log groups, those of other and of deleted stacks included."""
    for group in stack.administrator.client("logs").describe_log_groups()["logGroups"]:
        for message in stack.messages_of(group["logGroupName"]):
            yield group["logGroupName"], message


def queue(stack: BrokerStack) -> Iterator[Place]:
    response = stack.administrator.client("sqs").receive_message(
        QueueUrl=stack.resource("RefreshFailuresQueue"), MaxNumberOfMessages=10
    )
    for message in response.get("Messages", []):
        yield "failure queue", message["Body"].encode()


def files(*folders: Path) -> Iterator[Place]:
    for folder in folders:
        for file in folder.rglob("*"):
            if file.is_file() and not file.is_symlink() and ".venv" not in file.parts:
                try:
                    content = file.read_bytes()
                except FileNotFoundError:  # of a function's environment that ended just now
                    continue
                yield str(file), content


def processes() -> Iterator[Place]:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            for name in ("cmdline", "environ"):
                yield f"{process}/{name}", (process / name).read_bytes()
        except OSError:
            continue


def all_places(stack: BrokerStack, *folders: Path) -> Iterator[Place]:
    for name, message in log_groups(stack):
        yield name, message.encode()
    yield from queue(stack)
    yield from files(stack.aws.folder, *folders)
    if Path("/proc/self/environ").exists():
        yield from processes()


def leaks(places: Iterable[Place], secrets: Iterable[str]) -> set[str]:
    """The places that contain a secret, as it is or as Python or JSON would escape it."""
    wanted: dict[bytes, set[bytes]] = {}  # by their beginnings, which tokens have in common
    for secret in secrets:
        for form in (secret.encode(), secret.encode("unicode_escape")):
            wanted.setdefault(form[:8], set()).add(form)
    return {
        place
        for place, content in places
        for beginning, forms in wanted.items()
        if beginning in content and any(form in content for form in forms)
    }
