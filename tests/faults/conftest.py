"""What both halves of the fault tests share: the function as a whole, and what it says."""

import html
import io
import json
import traceback
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, Final, cast
from urllib.parse import quote, quote_plus

import pytest
from aws_lambda_powertools.utilities.typing import LambdaContext

from tests.conftest import NASTY_SECRET
from tests.faults.fault_server import ACCESS_TOKEN, NEVER_SHOWN
from token_broker.errors import RenewalFailed
from token_broker.models import StoredToken
from token_refresher import app
from token_refresher.outcomes import Outcome
from token_refresher.refresh import Refresher

GRANT: Final = "deals"
SCOPE: Final = ("read:deals", "read:users")
OLD_TOKEN: Final = f"opaque-{NEVER_SHOWN}-old"
OLD_TOKEN_LEFT: Final = timedelta(minutes=5)
LIFETIME: Final = timedelta(hours=1)
REFRESH_AHEAD: Final = timedelta(minutes=10)
VEND_EVENT: Final = json.loads(
    (Path(__file__).resolve().parents[2] / "events" / "get_token_by_user.json").read_text()
) | {"queryStringParameters": None, "multiValueQueryStringParameters": None}
"""`GET /tokens/deals`"""


class Context(LambdaContext):
    """Lambda's, with a minute left at any time."""

    def __init__(self) -> None:
        self._function_name = "faults"
        self._memory_limit_in_mb = 512
        self._invoked_function_arn = "arn:aws:lambda:eu-west-1:555566667777:function:faults"
        self._aws_request_id = "0d4c1f6e-6a9b-4b11-9d0e-1f6f5b0f3a55"

    def get_remaining_time_in_millis(self) -> int:  # type: ignore[override]
        return 55_000


def old_token(now: datetime) -> StoredToken:
    """A token that is due, and live for a while."""
    expires_at = now.replace(microsecond=0) + OLD_TOKEN_LEFT
    return StoredToken(
        access_token=OLD_TOKEN, scope=SCOPE, issued_at=expires_at - LIFETIME, expires_at=expires_at
    )


def forget(module: ModuleType) -> None:
    """Have a function's module wire itself again, as in a fresh environment."""
    for value in vars(module).values():
        if hasattr(value, "cache_clear"):
            value.cache_clear()


def leaks(output: str) -> list[str]:
    """Which spellings of the client secret, and which tokens, a text contains."""
    as_json = (json.dumps(NASTY_SECRET)[1:-1], json.dumps(NASTY_SECRET, ensure_ascii=False)[1:-1])
    spellings = {
        NASTY_SECRET,
        *as_json,
        *(json.dumps(spelling)[1:-1] for spelling in as_json),  # a log line within a log line
        repr(NASTY_SECRET)[1:-1],
        repr(NASTY_SECRET.encode())[2:-1],
        repr(NASTY_SECRET.encode().decode("latin-1"))[1:-1],
        NASTY_SECRET.encode().decode("latin-1"),
        html.escape(NASTY_SECRET),
        quote(NASTY_SECRET),
        quote(NASTY_SECRET, safe=""),
        quote_plus(NASTY_SECRET),
        b64encode(NASTY_SECRET.encode()).decode(),
        NASTY_SECRET[:8],  # its ASCII beginning, whatever became of the rest
        NEVER_SHOWN,
        ACCESS_TOKEN,
        OLD_TOKEN,
    }
    return sorted(spelling for spelling in spellings if spelling in output)


def all_said(error: BaseException | None) -> str:
    """All that printing, logging or reporting an error could show, its whole chain included."""
    output: list[str] = []
    todo, seen = [error], set[int]()
    while todo:
        link = todo.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        output += [str(link), repr(link), repr(link.args), repr(getattr(link, "__dict__", ""))]
        output += traceback.format_exception(link)
        todo += [link.__cause__, link.__context__]
    return "\n".join(output)


@dataclass
class Shown:
    """What one invocation did, and everything that it printed."""

    outcomes: tuple[Outcome, ...]
    summary: dict[str, Any] | None
    error: RenewalFailed | None
    text: str

    @property
    def outcome(self) -> Outcome:
        [outcome] = self.outcomes
        return outcome


@dataclass
class Listening:
    """A refresher whose outcomes are kept, so that a test can look at them too."""

    refresher: Refresher
    outcomes: tuple[Outcome, ...] = ()

    def run(self, *arguments: Any, **options: Any) -> tuple[Outcome, ...]:
        self.outcomes = self.refresher.run(*arguments, **options)
        return self.outcomes

    def due_window_left(self, outcome: Outcome) -> float:
        return self.refresher.due_window_left(outcome)


@dataclass
class Handler:
    """The refresh function's handler, with its output."""

    monkeypatch: pytest.MonkeyPatch
    capfd: pytest.CaptureFixture[str]
    caplog: pytest.LogCaptureFixture
    log: io.StringIO = field(default_factory=io.StringIO)

    def __call__(self, refresher: Refresher, event: object | None = None) -> Shown:
        listening = Listening(refresher)
        self.monkeypatch.setattr(app, "_refresher", lambda: cast("Refresher", listening))
        summary, error = None, None
        try:
            summary = app.lambda_handler(event or {}, Context())
        except RenewalFailed as failed:
            error = failed
        printed = self.capfd.readouterr()
        output = [
            self.log.getvalue(),
            printed.out,
            printed.err,
            self.caplog.text,
            *(str(record.__dict__) for record in self.caplog.records),
            repr(listening.outcomes),
            json.dumps(summary),
            str(error.causes) if error else "",
            all_said(error),
        ]
        return Shown(listening.outcomes, summary, error, "\n".join(output))


@pytest.fixture
def handler(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Iterator[Handler]:
    handler = Handler(monkeypatch, capfd, caplog)
    stream: Any = app.logger.registered_handler
    before = stream.setStream(handler.log)
    yield handler
    stream.setStream(before)


@dataclass
class Clock:
    """The real time, wound on."""

    ahead: timedelta = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def wind(self, by: timedelta) -> None:
        self.ahead += by
