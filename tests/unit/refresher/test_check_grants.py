"""The build's check: a faulty grants file is refused, the faulty key named."""

from pathlib import Path

import pytest

from token_broker.errors import ConfigurationError
from token_broker.grants import GRANTS_FILE, load_grants
from token_refresher.check_grants import faults, main

HEAD = "[grants.deals]\n"
SCOPE = 'scope = ["read:deals"]\n'
UAT = '[connections.uat]\ntoken_url = "https://uat.example/oauth2/token"\n'


def test_shipped_file_is_sound() -> None:
    assert faults(GRANTS_FILE.read_text(encoding="utf-8")) == []


FAULTY = [
    ("[grants.deals", "not TOML: "),
    (HEAD + SCOPE + SCOPE, "not TOML: "),
    (HEAD + "scope = " + "1" * 5_000, "not TOML: "),
    (HEAD + "scope = " + "[" * 5_000, "nested too deeply"),
    (f"[grants.{'a.' * 5_000}a]", "nested too deeply"),
    ("", "grants: "),
    ("[grants]", "there is no [grants.…] table"),
    ("grants = 3", "grants: "),
    ("[grants]\ndeals = 3", "grants.deals: "),
    (HEAD, "grants.deals.scope: "),
    (HEAD + 'scope = "read:deals"', "grants.deals.scope: "),
    (HEAD + "scope = [3]", "grants.deals.scope.0: "),
    (HEAD + "scope = []", "grants.deals: scope is empty"),
    (HEAD + 'scope = ["a b"]', "grants.deals: scope 'a b' is not a scope-token"),
    (HEAD + SCOPE + 'caller = ["x"]', "grants.deals.caller: "),
    (HEAD + SCOPE + "callers = []", "grants.deals: callers is empty"),
    (HEAD + SCOPE + 'callers = ["*"]', "grants.deals: callers: the pattern '*'"),
    ("[grants.Deals]\n" + SCOPE, "the grant's name 'Deals'"),
    ("[grant.deals]\n" + SCOPE, "grants: "),
    ("since = 2025-03-01\n" + HEAD + SCOPE, "since: "),
    (HEAD + "scope = [2025-03-01]", "grants.deals.scope.0: "),
    (HEAD + SCOPE + 'mode = "audit"', "grants.deals: mode is for a grant with callers"),
    (HEAD + SCOPE + 'mode = "try"', "grants.deals.mode: "),
    (HEAD + SCOPE + "connection = 3", "grants.deals.connection: "),
    (HEAD + SCOPE + 'connection = "uat"', "grants.deals: there is no [connections.uat]"),
    (HEAD + SCOPE + "[connections.uat]", "connections.uat.token_url: "),
    (HEAD + SCOPE + UAT + 'url = "x"', "connections.uat.url: "),
    (HEAD + SCOPE + UAT.replace("https", "http"), "connections.uat: token_url is not"),
    (HEAD + SCOPE + UAT.replace("uat]", "Uat]"), "the connection's name 'Uat'"),
    (HEAD + SCOPE + UAT.replace("uat]", "default]"), "[connections.default] is the template"),
    (HEAD + SCOPE + "connections = 3", "grants.deals.connections: "),
]


@pytest.mark.parametrize(("toml", "fault"), FAULTY)
def test_faulty_file_is_refused_and_the_key_named(toml: str, fault: str) -> None:
    assert any(found.startswith(fault) for found in faults(toml)), faults(toml)


@pytest.mark.parametrize("toml", [toml for toml, _ in FAULTY])
def test_file_that_the_check_refuses_is_one_that_the_functions_refuse(
    tmp_path: Path, toml: str
) -> None:
    file = tmp_path / "grants.toml"
    file.write_text(toml)
    with pytest.raises(ConfigurationError, match=r"is faulty: .*; correct it"):
        load_grants(file)


def test_all_faults_are_told_at_once() -> None:
    assert len(faults("[grants.a]\n[grants.b]\nscope = 1\n[grants.c]\nscope = ['x']\ny = 1")) == 3


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["check_grants", *arguments])
    return main()


def test_command_passes_the_shipped_file_in_silence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("content", "output"),
    [
        (b"[grants.deals]", "grants.toml: grants.deals.scope: "),
        (b"\xff\xfe", "grants.toml: cannot be read: "),
        (None, "grants.toml: cannot be read: "),
    ],
)
def test_command_fails_on_a_faulty_or_unreadable_file(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    content: bytes | None,
    output: str,
) -> None:
    file = tmp_path / "grants.toml"
    if content is not None:
        file.write_bytes(content)
    assert run(monkeypatch, str(file)) == 1
    assert capsys.readouterr().err.startswith(output)


@pytest.mark.parametrize(
    "more",
    ["", 'callers = ["arn:aws:iam::111122223333:user/ops/*"]', UAT, 'connection = "uat"\n' + UAT],
)
def test_file_that_passes_the_check_is_one_that_the_functions_load(
    tmp_path: Path, more: str
) -> None:
    file = tmp_path / "grants.toml"
    file.write_text(HEAD + SCOPE + more)
    assert faults(file.read_text()) == []
    assert set(load_grants(file)) == {"deals"}
