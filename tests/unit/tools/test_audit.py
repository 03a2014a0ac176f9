"""What `make audit` takes for clean, and the part of it that every run of the tests does."""

import json
import subprocess
import uuid
from pathlib import Path

import pytest

from local.broker_stack import ROOT
from tests.template.test_template import transformed
from tools import audit
from tools.accepted import AcceptedFindings, Finding
from tools.secret_scan import TOOL, main, secrets_in

FOUND = Finding(tool="checkov", rule="CKV_AWS_1", where="Queue", text="as of today")
ACCEPTED = (
    '[[accepted]]\ntool = "checkov"\nrule = "CKV_AWS_1"\nwhere = ["Queue"]\nreason = "{reason}"\n'
)
CREDENTIALS = {name: str(uuid.uuid4()) for name in ("client_id", "client_secret")}


def read(tmp_path: Path, text: str) -> AcceptedFindings:
    file = tmp_path / "accepted.toml"
    file.write_text(text)
    return AcceptedFindings.read(file)


def test_accepted_finding_does_not_depend_on_what_the_tool_says_of_it(tmp_path: Path):
    accepted = read(tmp_path, ACCEPTED.format(reason="because"))
    assert accepted.not_accepted([FOUND]) == []
    elsewhere = Finding(tool="checkov", rule="CKV_AWS_1", where="Topic")
    assert accepted.not_accepted([FOUND, elsewhere]) == [elsewhere]


def test_argument_whose_finding_is_gone_is_told(tmp_path: Path):
    accepted = read(tmp_path, ACCEPTED.format(reason="because"))
    assert accepted.stale("checkov", [FOUND]) == []
    assert accepted.stale("checkov", []) == ["checkov CKV_AWS_1 Queue"]
    assert accepted.stale("cfn-lint", []) == []


@pytest.mark.parametrize(
    "text", [ACCEPTED.format(reason=" "), ACCEPTED.format(reason="because") * 2]
)
def test_accepted_finding_needs_a_reason_and_has_one_entry(tmp_path: Path, text: str):
    with pytest.raises(ValueError, match="accepted twice, or without a reason"):
        read(tmp_path, text)


def test_template_as_deployed_has_no_new_finding_of_cfn_lint_at_its_strictest():
    findings = list(audit.cfn_lint(transformed()))
    accepted = AcceptedFindings.read()
    assert accepted.not_accepted(findings) == []
    assert accepted.stale("cfn-lint", findings) == []


def test_cfn_lint_at_its_strictest_tells_more_than_errors():
    group = {"Type": "AWS::Logs::LogGroup"}
    found = list(
        audit.cfn_lint(
            {"Resources": {"Group": group}, "Parameters": {"Unused": {"Type": "String"}}}
        )
    )
    assert {(f.rule, f.where) for f in found} >= {("I3011", "Group"), ("W2001", "Unused")}


def test_policies_of_a_condition_are_looked_at_whichever_way_it_turns_out():
    first, second, third = ({"PolicyName": name, "PolicyDocument": {}} for name in "abc")
    nothing = {"Ref": "AWS::NoValue"}
    conditional = {"Fn::If": ["One", second, {"Fn::If": ["Two", third, nothing]}]}
    assert list(audit.every_policy([first, conditional])) == [first, second, third]
    refresher = transformed()["Resources"]["TokenRefresherRole"]["Properties"]["Policies"]
    assert len(list(audit.every_policy(refresher))) == len(refresher) == 3


def test_mirror_without_vulnerabilities_is_not_taken_for_clean_pins(
    monkeypatch: pytest.MonkeyPatch,
):
    responses = iter(
        [
            {"dependencies": [{"name": "requests", "version": "2.19.0", "vulns": []}]},
            {"dependencies": [{"name": "requests", "skip_reason": "not found"}]},
        ]
    )
    monkeypatch.setattr(audit, "_run", lambda *_: json.dumps(next(responses)))
    for _ in range(2):
        with pytest.raises(audit.NotChecked, match="cannot be reached from here"):
            list(audit.pip_audit())


def test_vulnerability_of_a_pinned_package_is_found(monkeypatch: pytest.MonkeyPatch):
    fault = {"id": "PYSEC-2018-28", "fix_versions": ["2.20.0"]}
    package = {"name": "requests", "version": "2.19.0", "vulns": [fault]}
    monkeypatch.setattr(audit, "_run", lambda *_: json.dumps({"dependencies": [package]}))
    found = set(audit.pip_audit())
    assert found == {
        Finding(
            tool="pip-audit",
            rule="PYSEC-2018-28",
            where="requests",
            text="2.19.0; fixed in 2.20.0",
        )
    }


@pytest.mark.parametrize(
    "form",
    ["{quoted}", "client_secret = '{secret}'", "client_secret={secret}&scope=read:deals"],
    ids=["JSON", "assignment", "form"],
)
def test_client_secret_of_enable_is_seen(tmp_path: Path, form: str):
    text = form.format(quoted=json.dumps(CREDENTIALS), secret=CREDENTIALS["client_secret"].upper())
    file = tmp_path / "notes.md"
    file.write_text(text)
    assert list(secrets_in([file])) == [(file, "Enable client secret")]
    file.write_text("client_secret is the password, client_id " + CREDENTIALS["client_id"])
    assert list(secrets_in([file])) == []


def test_commit_hook_names_the_file_and_not_the_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "left-behind.json"
    file.write_text(json.dumps(CREDENTIALS))
    assert main([str(file)]) == 1
    output = capsys.readouterr().err
    assert "left-behind.json: Enable client secret" in output
    assert CREDENTIALS["client_secret"] not in output


def test_no_file_of_the_repository_seems_to_hold_a_secret_that_is_not_accepted():
    names = subprocess.run(
        ["git", "ls-files"],  # noqa: S607
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    files = [ROOT / name for name in names if (ROOT / name).is_file()]
    found = [
        Finding(tool=TOOL, rule=kind, where=str(file.relative_to(ROOT)))
        for file, kind in secrets_in(files)
    ]
    assert found
    assert AcceptedFindings.read().not_accepted(found) == []
    stale = AcceptedFindings.read().stale(TOOL, found)
    assert [key for key in stale if (ROOT / key.split()[-1]).is_file()] == []  # not the history's
