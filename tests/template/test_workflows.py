"""The workflows for forks trust nothing that can change under them, and hold no right or secret."""

import re
from pathlib import Path

import pytest
import yaml

from tests.template.test_template import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").iterdir())
TARGETS = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))


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
