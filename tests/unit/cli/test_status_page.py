"""The page of `broker status --html`, read by an HTML parser: no browser is needed to build it."""

import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from broker_cli import page
from broker_cli.failures import ExitCode
from broker_cli.logs import LogLine
from broker_cli.main import app
from broker_cli.page import Alarm, StatusPage
from broker_cli.render import GrantRow
from broker_cli.usage import Use
from token_vendor.vend import GrantState

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
HOUR = timedelta(hours=1)
HOSTILE = "</style></title><script>alert(1)</script><img src=x onerror='alert(1)'>&\"\u202e\x1b[2J"


def status_page(name: str) -> StatusPage:
    """A page whose every name and text from outside is this one."""
    line = {"grant": name, "state": "failed", "reason": name, "cause": name, "level": "ERROR"}
    rows = [
        GrantRow(
            grant=name,
            state=state,
            renewed_at=NOW - HOUR,
            expires_at=NOW + HOUR,
            due_at=NOW + HOUR / 2,
            seen_at=NOW - timedelta(seconds=9),
            reason=name,
            cause=name,
            retry_at=NOW + HOUR,
        )
        for state in GrantState
    ]
    return StatusPage(
        stack=name,
        now=NOW,
        rows=rows,
        alarms=[Alarm(name=name, state=state, since=NOW) for state in ("OK", "ALARM", name)],
        runs=[LogLine(at=NOW, record=line)],
        uses=[Use(grant=name, caller=name, vended=3, last_vended_at=NOW)],
    )


class Page(HTMLParser):
    """The elements and texts of a page; elements that stay open are an error."""

    VOID = ("meta",)

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_hostile_name_is_text_everywhere_and_changes_no_element():
    hostile, plain = Page(status_page(HOSTILE).html()), Page(status_page("deals").html())
    assert hostile.tags == plain.tags
    shown = page.printable(HOSTILE)
    assert sum(text.startswith(shown) for text in hostile.texts) > 10
    assert "\x1b" not in "".join(hostile.texts)
    assert "\u202e" not in "".join(hostile.texts)


def test_page_loads_nothing_and_runs_nothing():
    found = Page(status_page("deals").html())
    assert {tag for tag, _ in found.tags} <= {
        *("html", "head", "meta", "title", "style", "body"),
        *("h1", "h2", "p", "table", "tr", "th", "td", "span"),
    }
    names = {name for _, attributes in found.tags for name in attributes}
    assert names <= {"lang", "charset", "name", "content", "http-equiv", "class", "data-label"}
    assert not re.search(r"url\(|@import|https?:", status_page("deals").html())
    policies = [a["content"] for _, a in found.tags if "Policy" in str(a.get("http-equiv"))]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_page_shows_grants_alarms_runs_and_callers():
    texts = Page(status_page("deals").html()).texts
    headings = ("Grants", "Alarms", "Runs of the last day", "Callers of the last day")
    assert set(headings) <= set(texts)
    for expected in ("live", "expired", "1h 00m", "30m 00s", "ALARM", "failed", "3", "0s ago"):
        assert expected in texts, expected
    assert "the refresher last ran 9s ago." in " ".join(texts)


def test_nothing_to_show_is_said():
    empty = StatusPage(stack="dev", now=NOW, rows=[], alarms=[], runs=[], uses=[])
    assert Page(empty.html()).texts.count("none") == 4
    assert "no run for a day" in empty.html()


def luminance(colour: str) -> float:
    """Web Content Accessibility Guidelines 2.2, "relative luminance"."""
    shares = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_colours_are_readable_in_light_and_in_dark():
    style = status_page("deals").html().partition("<style>")[2]
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    brightness = []
    for rules in (light, dark.partition("* {")[0]):
        colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", rules))
        assert set(colours) == {"back", "text", "quiet", "line", "good", "warn", "bad"}
        brightness.append(back := luminance(colours["back"]))
        for name in ("text", "quiet", "good", "warn", "bad"):
            darker, lighter = sorted((back, luminance(colours[name])))
            assert (lighter + 0.05) / (darker + 0.05) >= 4.5, name  # WCAG, level AA
    assert brightness[0] > 0.9
    assert brightness[1] < 0.1
    for name in re.findall(r"var\(--(\w+)\)", style):
        assert name in colours


def test_page_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "status.html"
    page.write("first", file)
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        page.write("second", file)
    assert file.read_text() == "first"
    assert list(tmp_path.iterdir()) == [file]


def test_page_json_and_watch_exclude_each_other():
    result = CliRunner().invoke(app, ["status", "--html", "x.html", "--json"])
    assert result.exit_code == ExitCode.USAGE
    assert "exclude each other" in result.output
