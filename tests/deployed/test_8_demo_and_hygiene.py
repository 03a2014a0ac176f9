"""The demo, and after it a search for the secret and the tokens everywhere they must not be."""

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from local import demo as demo_module
from local.demo import Demo
from tests.deployed.leaks import all_places, files, leaks
from tools.pictures import DEMO, STATUS, comparable, lines


@pytest.mark.slow("`make demo` as a whole")
def test_demo_is_as_expected_and_leaves_no_secret_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(demo_module, "MINUTE_SECONDS", 3)
    out = StringIO()
    demo = Demo(Console(file=out, width=80))
    with demo.cloud() as cloud:
        assert demo.play(cloud), out.getvalue()
        assert "4 of 4 grants served" in out.getvalue()  # as `broker status` draws it
        assert "\x1b" not in out.getvalue()
        secrets = [cloud.client.client_secret, *cloud.enable.issued_tokens()]
        assert len(secrets) >= 5
        (tmp_path / "output").write_text(out.getvalue())
        assert leaks(all_places(cloud.stack, tmp_path), secrets) == set()
        process = cloud.stack.aws._process
    assert process.poll() is not None
    printed = [line for text in out.getvalue().splitlines() if (line := comparable(text))]
    assert lines(DEMO) == printed, "run `make pictures`"
    view = printed[printed.index(lines(STATUS)[0]) :]
    assert lines(STATUS) == view[: len(lines(STATUS))], "run `make pictures`"


def test_search_finds_a_planted_secret(tmp_path: Path):
    (tmp_path / "leak").write_text('{"secret": "p+ss w&rd=%/\\u20ac"}')
    assert leaks(files(tmp_path), ["p+ss w&rd=%/€"]) == {str(tmp_path / "leak")}
