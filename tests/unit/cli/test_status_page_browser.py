"""The page of `broker status --html` in a real browser: two widths, light and dark."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from broker_cli.logs import by_grant, parse
from broker_cli.page import Alarm, StatusPage
from broker_cli.status import Kept, grant_rows
from broker_cli.usage import usage_of
from tests.unit.cli import browser
from tests.unit.cli.browser import Browser
from token_refresher.app import RUN

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
HOUR = timedelta(hours=1)
SCRIPT = "</style></title><script>alert(1)</script><img src=x onerror=alert(2)>"
HOSTILE = [
    SCRIPT,
    "\"quotes\"' onload='alert(3)' \"&amp;",
    "\u05e9\u05dc\u05d5\u05dd \u0627\u0644\u0639\u0631\u0628\u064a\u0629 right to left",
    "x" * 200,
    "\u202e\x1b[2Jreversed",
    "deals",
]


def hostile_page() -> str:
    """What the command makes of a log and of parameters that somebody else has filled."""
    states = ["not_due", "failed", "waiting", "not_due", "blocked", "not_due"]
    expires_at = "2026-01-02T04:04:05Z"
    grants = {
        name: [state, expires_at, name, name] for name, state in zip(HOSTILE, states, strict=True)
    }
    own = [
        {"grant": name, "state": state, "reason": name, "cause": name, "level": "ERROR"}
        for name, state in zip(HOSTILE, states, strict=True)
        if state != "not_due"
    ]
    milliseconds = int(NOW.timestamp() * 1000) - 9_000
    records = [{"message": RUN, "grants": grants}, *own]
    lines = [line for each in records if (line := parse(json.dumps(each), milliseconds))]
    parameters = {
        name: Kept(stored_at=NOW - HOUR, version=1, block=name if state == "blocked" else None)
        for name, state in zip(HOSTILE, states, strict=True)
        if name.isprintable()
    }
    at = "2026-01-02 03:00:00.000"
    uses = [
        {"grant": name, "caller": name, "message": "token vended", "requests": "3", "last_at": at}
        for name in HOSTILE
    ]
    return StatusPage(
        stack=SCRIPT,
        now=NOW,
        rows=grant_rows(by_grant(lines), parameters, now=NOW, refresh_ahead=timedelta(minutes=10)),
        alarms=[Alarm(name=name, state="ALARM", since=NOW - HOUR) for name in HOSTILE],
        runs=lines[1:],
        uses=usage_of(uses, {}).uses,
    ).html()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if not (program := browser.executable()):
        pytest.skip("Chromium is not installed: no browser has shown the page")
    with browser.running(program, tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "status.html"
    file.write_text(hostile_page(), "utf-8")
    return file


COLOURS = {"light": ("ffffff", "1b1f24"), "dark": ("0d1117", "e6edf3")}
"""Of the background and of the text."""


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", COLOURS)
def test_hostile_page_is_shown_whole_and_does_nothing(
    chromium: Browser, page: Path, width: int, scheme: str
):
    shown = chromium.show(page, width=width, scheme=scheme)
    assert shown.requests == [page.as_uri()]
    assert shown.acts == []
    assert not {"script", "img", "link", "iframe"} & set(shown.tags)
    assert not {"src", "href", "onerror", "onload"} & shown.attributes
    assert shown.content_width <= width
    for name in HOSTILE[:4]:
        assert name in shown.text
    assert "\u202e" not in shown.text
    found, (back, text) = browser.colours(shown.picture), COLOURS[scheme]
    assert bytes(found.most_common(1)[0][0]).hex() == back
    assert found[*bytes.fromhex(text)] > 100


def test_browser_reports_what_a_page_does(chromium: Browser, tmp_path: Path):
    file, wide = tmp_path / "bad.html", "<p style='width: 500px'>wide</p>"
    file.write_text(f"<title>{SCRIPT}{wide}", "utf-8")
    shown = chromium.show(file, width=390, scheme="light")
    assert "1" in shown.acts
    assert (tmp_path / "x").as_uri() in shown.requests
    assert shown.content_width > 390
    assert "script" in shown.tags
