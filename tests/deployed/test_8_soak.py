"""A short soak: faults upon faults on the deployed broker, checked from the record alone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from local.broker_stack import ROOT, wait_until
from tests.deployed.conftest import Deployed
from tests.soak.checker import RULES, Report, check

SEED = "8"
"""Begins with a token that is deleted; the vend function lives."""
ENOUGH = 1
"""Faults that have ended."""
EVENTFUL = {"backoff", "retry_after", "attempts", "forced", "blocked"}
"""Rules that decide only where a fault of their own comes up, which takes `make soak` minutes."""


@pytest.mark.slow(
    "a deployment of its own, and faults until every rule has had something to decide"
)
@pytest.mark.timeout(900)
def test_soak_breaks_no_promise_and_ctrl_c_ends_it_in_order(deployed: Deployed, tmp_path: Path):
    record = tmp_path / "record" / f"seed-{SEED}.jsonl"
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.soak", "--seed", SEED),
            *("--built", str(deployed.stack.build_folder), "--record", str(record.parent)),
        ],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            next(line for line in process.stdout if "first tokens" in line)
            wait_until(lambda: is_enough(record), seconds=400, what="every rule", poll_seconds=1)
        finally:
            os.killpg(process.pid, signal.SIGINT)
            output = process.communicate(timeout=300)[0]
    assert process.returncode == 130, output
    assert "0 violations" in output
    assert "ended early" in output
    assert not undecided(judged(record))
    kept = record.read_text()
    assert "eyJ" not in kept  # how every JWT begins
    assert "p+ss" not in kept  # part of every client secret here
    assert {path.name for path in tmp_path.iterdir()} == {"record"}
    wait_until(lambda: is_gone(process.pid), seconds=30, what="the last of its group to end")


def is_enough(record: Path) -> bool:
    report = judged(record, {"kind": "end", "at": time.time() - 2})
    return report.faults.total() >= ENOUGH and not undecided(report)


def judged(record: Path, *more: dict[str, object]) -> Report:
    lines = record.read_text().rpartition("\n")[0].splitlines()
    return check([*map(json.loads, lines), *more])


def undecided(report: Report) -> set[str]:
    return {rule for rule in set(RULES) - EVENTFUL if not report.rules[rule]}


def is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False
