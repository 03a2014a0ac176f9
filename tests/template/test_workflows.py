"""The workflows for forks trust only what cannot change, and have no permission or secret."""

import re
from pathlib import Path

import pytest
import yaml

from tests.template.test_template import ROOT

WORKFLOWS = [
    f
    for f in sorted((ROOT / ".github" / "workflows").iterdir())
    if f.stem not in {"acceptance", "release"}
]
TARGETS = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))


ACCEPTANCE = ROOT / ".github" / "workflows" / "acceptance.yml"
RELEASE = ROOT / ".github" / "workflows" / "release.yml"
PINNED = r"(actions|aws-actions)/[a-z-]+@[0-9a-f]{40}"


def test_acceptance_is_off_until_somebody_names_a_role_and_starts_it():
    workflow = yaml.safe_load(ACCEPTANCE.read_text())
    assert workflow[True] == {"workflow_dispatch": None}  # YAML 1.1 reads `on` as true
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["cancel-in-progress"] is False  # a run cleans up after itself
    (job,) = workflow["jobs"].values()
    assert job["if"] == "vars.ACCEPTANCE_ROLE != ''"
    assert job["permissions"] == {"contents": "read", "id-token": "write"}
    assert job["environment"] == "acceptance"
    checkout, sign_in, run = job["steps"]
    assert checkout["with"]["persist-credentials"] is False
    assert sign_in["with"]["role-to-assume"] == "${{ vars.ACCEPTANCE_ROLE }}"
    assert sign_in["with"]["role-duration-seconds"] >= 60 * job["timeout-minutes"]
    assert all(re.fullmatch(PINNED, step["uses"]) for step in (checkout, sign_in))
    assert run == {"run": "make acceptance OPTIONS=--yes"}
    assert "secrets." not in ACCEPTANCE.read_text()


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_workflow_pins_actions_by_commit_needs_no_secret_and_calls_make(file: Path):
    text = file.read_text()
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    assert set(workflow[True]) == {"push", "pull_request"}  # YAML 1.1 reads `on` as true
    assert "secrets." not in text
    assert "github.event" not in text
    for job in workflow["jobs"].values():
        assert "permissions" not in job
        assert job["timeout-minutes"] <= 30
        for step in job["steps"]:
            assert set(step) <= {"uses", "with", "run"}
            if "uses" in step:
                assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", step["uses"])
                assert step["with"]["persist-credentials"] is False
            else:
                assert step["run"].removeprefix("make ") in TARGETS
    pinned = re.findall(r"uses: \S+ # v[0-9]+\.[0-9]+\.[0-9]+$", text, re.MULTILINE)
    assert len(pinned) == text.count("uses:") > 0


def test_release_is_built_without_a_permission_and_published_without_a_secret():
    text = RELEASE.read_text()
    workflow = yaml.safe_load(text)
    assert set(workflow[True]) == {"push"}
    assert set(workflow[True]["push"]) == {"tags"}
    assert "secrets." not in text
    assert "github.event" not in text
    assert workflow["permissions"] == {"contents": "read"}
    permissions = {name: job.get("permissions", {}) for name, job in workflow["jobs"].items()}
    identity = {"contents": "read", "id-token": "write"}
    assert permissions == {
        "build": {},  # it runs what packages bring, and gets no identity
        "publish": {"contents": "write", "id-token": "write", "attestations": "write"},
        "pypi": identity,
        "npm": identity,
    }
    for name in ("pypi", "npm"):
        job = workflow["jobs"][name]
        assert job["if"] == f"vars.PUBLISH_TO_{name.upper()} == 'true'"
        assert job["environment"] == name
    pinned = re.findall(rf"uses: {PINNED} # v[0-9]+\.[0-9]+\.[0-9]+$", text, re.MULTILINE)
    assert len(pinned) == text.count("uses:") > 0
    assert text.count("checkout@") == text.count("persist-credentials: false")


def test_release_is_made_checked_and_verified_before_it_is_published():
    jobs = yaml.safe_load(RELEASE.read_text())["jobs"]
    made = [step.get("run", "") for step in jobs["build"]["steps"]]
    assert {"make release", "make release-check"} <= set(made)
    published = [step.get("run", step.get("uses")) for step in jobs["publish"]["steps"]]
    assert published[1] == "cd dist && sha256sum --check SHA256SUMS"
    assert published[2].startswith("actions/attest-build-provenance@")
    assert jobs["publish"]["needs"] == "build"
    uses_node = [s for j in jobs.values() for s in j["steps"] if "setup-node@" in s.get("uses", "")]
    assert [s["with"]["package-manager-cache"] for s in uses_node] == [False, False]
    assert jobs["pypi"]["needs"] == jobs["npm"]["needs"] == "publish"
