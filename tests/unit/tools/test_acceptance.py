"""How `make acceptance` begins and ends, and what its steps are."""

import io
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tools.acceptance import __main__ as command
from tools.acceptance.life import Life, Options
from tools.sam import ToolFailed


@dataclass
class FakeLife:
    """A run that ends as it was reported; it notes whether it was cleaned up."""

    end: Callable[[], None] = lambda: None
    broken: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)

    def steps(self) -> list:
        return [("deploy everything", lambda: None)]

    def leftovers(self) -> list[str]:
        return self.before

    def run(self) -> None:
        self.calls.append("run")
        self.end()

    def clean(self) -> list[str]:
        self.calls.append("clean")
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        return self.left


def raises(error: BaseException) -> Callable[[], None]:
    def end() -> None:
        raise error

    return end


@pytest.fixture(autouse=True)
def account(monkeypatch: pytest.MonkeyPatch) -> None:
    class FakeAccount:
        id = "111122223333"

        def __init__(self, build_folder: Path) -> None:
            pass

    monkeypatch.setattr(command, "Account", FakeAccount)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")


def start(monkeypatch: pytest.MonkeyPatch, life: FakeLife, *arguments: str) -> int:
    monkeypatch.setattr(command, "Life", lambda *_: life)
    return command.main(arguments)


@pytest.mark.parametrize(
    ("life", "code"),
    [
        (FakeLife(), 0),
        (FakeLife(broken=["here: key"]), 1),
        (FakeLife(end=raises(ToolFailed("sam deploy failed"))), 1),
        (FakeLife(end=raises(TimeoutError("waited"))), 1),
        (FakeLife(end=raises(KeyError("defect"))), 1),
        (FakeLife(end=raises(KeyboardInterrupt())), 130),
        (FakeLife(left=["a stack: denied"]), 1),
    ],
    ids=["well", "broken", "step failed", "too slow", "defect", "interrupted", "something left"],
)
def test_run_cleans_up_however_it_ends(monkeypatch: pytest.MonkeyPatch, life: FakeLife, code: int):
    before = signal.getsignal(signal.SIGINT)
    assert start(monkeypatch, life, "--yes") == code
    assert life.calls == ["run", "clean"]
    assert signal.getsignal(signal.SIGINT) is before


def test_plan_is_shown_and_nothing_begins_without_a_yes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    life = FakeLife()
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert start(monkeypatch, life) == 2
    assert life.calls == []
    output = capsys.readouterr()
    assert "1. deploy everything" in output.out
    assert "less than 1 USD" in output.out
    assert "give --yes" in output.err


def test_leftovers_of_an_earlier_run_are_named_and_removed_on_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    life = FakeLife(before=["a stack in eu-west-1"])
    assert start(monkeypatch, life, "--yes") == 2
    assert "a stack in eu-west-1" in capsys.readouterr().err
    assert start(monkeypatch, life, "--clean") == 0
    assert life.calls == ["clean"]


def test_steps_name_two_stacks_two_regions_and_the_whole_life():
    class Nothing:
        def __getattr__(self, name: str) -> Callable[..., None]:
            return lambda *_: None

    options = Options(
        regions=("eu-west-1", "eu-central-1"),
        credentials=None,
        parameters={},
        grant="deals",
        is_built=True,
        is_read_only=True,
    )
    text = "\n".join(text for text, _ in Life(Nothing(), options).steps())
    for word in ("acceptance-2 in eu-west-1", "acceptance-1 in eu-central-1", "update", "delete"):
        assert word in text
    assert text.endswith("again")


def test_second_region_must_be_another(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(SystemExit) as caught:
        start(monkeypatch, FakeLife(), "--yes", "--second-region", "eu-west-1")
    assert caught.value.code == 2
