"""The demo, and after it a search for the secret and the tokens everywhere they must not be."""

from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from local import demo as demo_module
from local.broker_stack import BrokerStack
from local.demo import Demo
from tests.deployed.conftest import Deployed


def _log_groups(stack: BrokerStack) -> Iterator[tuple[str, str]]:
    logs = stack.administrator.client("logs")
    for group in logs.describe_log_groups()["logGroups"]:
        name = group["logGroupName"]
        for page in logs.get_paginator("filter_log_events").paginate(logGroupName=name):
            for event in page["events"]:
                yield name, event["message"]


def _queue(stack: BrokerStack) -> Iterator[tuple[str, str]]:
    answer = stack.administrator.client("sqs").receive_message(
        QueueUrl=stack.resource("RefreshFailuresQueue"), MaxNumberOfMessages=10
    )
    for message in answer.get("Messages", []):
        yield "failure queue", message["Body"]


def _files(*folders: Path) -> Iterator[tuple[str, str]]:
    for folder in folders:
        for file in folder.rglob("*"):
            if file.is_file() and not file.is_symlink() and ".venv" not in file.parts:
                yield str(file), file.read_bytes().decode("utf-8", errors="replace")


def _processes() -> Iterator[tuple[str, str]]:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            for name in ("cmdline", "environ"):
                yield f"{process}/{name}", (process / name).read_bytes().decode(errors="replace")
        except OSError:
            continue


def _leaks(places: Iterator[tuple[str, str]], secrets: list[str]) -> set[str]:
    escaped = [s.encode("unicode_escape").decode() for s in secrets]
    wanted = {*secrets, *escaped}
    return {place for place, text in places if any(secret in text for secret in wanted)}


def _all_places(stack: BrokerStack, *folders: Path) -> Iterator[tuple[str, str]]:
    yield from _log_groups(stack)
    yield from _queue(stack)
    yield from _files(stack.aws.folder, *folders)
    if Path("/proc/self/environ").exists():
        yield from _processes()


def test_demo_is_as_expected_and_leaves_no_secret_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(demo_module, "MINUTE_SECONDS", 3)
    out = StringIO()
    demo = Demo(Console(file=out, width=80))
    with demo.cloud() as cloud:
        assert demo.play(cloud), out.getvalue()
        secrets = [cloud.client.client_secret, *cloud.enable.issued_tokens()]
        assert len(secrets) >= 5
        (tmp_path / "output").write_text(out.getvalue())
        assert _leaks(_all_places(cloud.stack, tmp_path), secrets) == set()
        process = cloud.stack.aws._process
    assert process.poll() is not None


def test_search_would_find_a_leak(tmp_path: Path):
    (tmp_path / "leak").write_text('{"secret": "p+ss w&rd=%/\\u20ac"}')
    assert _leaks(_files(tmp_path), ["p+ss w&rd=%/€"]) == {str(tmp_path / "leak")}


def test_whole_run_of_the_deployed_tests_left_no_secret_behind(renewed: Deployed, source: Path):
    secrets = ['p+ss w&rd=%/ü€"\\', *renewed.enable.issued_tokens()]
    assert _leaks(_all_places(renewed.stack, source), secrets) == set()
