"""AWS's pages as the command line reads them, when AWS returns a page token again."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from broker_cli import logs
from broker_cli.aws import Stack, read_all

type Pages = list[tuple[list[str], str | None]]


def serve(pages: Pages) -> Callable[..., dict]:
    """Each call gets the next page; the last one again and again."""
    rest = list(pages)

    def describe_things(**request: str) -> dict:
        items, token = rest.pop(0) if len(rest) > 1 else rest[0]
        return {"Items": items, "NextToken": token} if token else {"Items": items}

    return describe_things


CUT = "describe_things: AWS repeated a page token"


@pytest.mark.parametrize(
    ("pages", "expected", "remark"),
    [
        ([(["a"], None)], "a", ""),
        ([(["a"], "1"), ([], "2"), (["b", "b"], None)], "abb", ""),
        ([(["a"], "1"), (["b"], "1"), (["c"], "1"), (["d"], None)], "abcd", ""),
        ([(["a"], "1"), (["b"], "1"), (["b"], "1")], "ab", CUT),
        ([(["a"], "1"), (["b"], "1"), (["b", "c"], "1"), (["c"], None)], "abc", ""),
        ([(["a"], "1"), (["b"], "1"), (["b"], "2"), (["c"], None)], "abc", ""),
        ([(["a"], "1"), (["b"], "2"), (["c"], "1"), (["b"], "2"), (["c"], "1")], "abc", CUT),
    ],
    ids=["one page", "an empty page", "new", "nothing new", "partly new", "new token", "cycle"],
)
def test_pages_of_a_repeated_token_are_read_while_they_bring_new_items(
    pages: Pages, expected: str, remark: str, capsys: pytest.CaptureFixture[str]
):
    assert "".join(read_all(serve(pages), "Items")) == expected
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(remark) if remark else output.err == ""


def test_log_lines_are_read_although_cloudwatch_repeats_its_token(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    class Logs:
        calls = 0

        def filter_log_events(self, **_: object) -> dict:
            Logs.calls += 1
            event = {"eventId": str(min(Logs.calls, 3)), "timestamp": 1, "message": '{"n": 1}'}
            return {"events": [event], "nextToken": "same"}

    class Session:
        def client(self, *_: object, **__: object) -> Logs:
            return Logs()

    now = datetime(2026, 1, 2, tzinfo=UTC)
    stack = Stack(
        name="dev",
        session=Session(),
        status="",
        outputs={},
        parameters={},
        aws_time=now,
        asked_at=now,
    )
    assert len(list(logs.read(stack, "token-vendor", "", since=now))) == 3
    assert Logs.calls == 4
    assert "filter_log_events: AWS repeated a page token; 3 events were read" in (
        capsys.readouterr().err
    )
