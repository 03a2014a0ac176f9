"""A short soak: faults upon faults on the deployed broker, checked from the record alone."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from local.broker_stack import ROOT, wait_until
from tests.soak.checker import check
from tests.soak.record import Record
from tests.soak.soak import Stop, soak

SECONDS = (15, 90)
"""On a machine so slow that the first leaves a rule undecided, the second is tried, too."""


@pytest.mark.timeout(600)
def test_short_soak_breaks_no_promise_and_its_record_contains_no_token(tmp_path: Path):
    path = tmp_path / "record.jsonl"
    for seconds in SECONDS:
        progress: list[str] = []
        with path.open("w") as file:
            record = Record(file)
            soak(record, seed=1, seconds=seconds, tell=progress.append, stop=Stop())
        report = check(record.entries)
        assert not report.violations, report.text()
        assert len(progress) > report.faults.total() > 0
        kept = path.read_text()
        assert kept.count("\n") == len(record.entries)
        assert "eyJ" not in kept  # how every JWT begins
        assert "p+ss" not in kept  # part of every client secret here
        if report.is_conclusive:
            return
    pytest.fail(report.text())


@pytest.mark.timeout(600)
def test_ctrl_c_ends_a_soak_in_order_and_it_still_reports(tmp_path: Path):
    with subprocess.Popen(
        [sys.executable, "-m", "tests.soak", "--seed", "1", "--record", str(tmp_path / "record")],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        next(line for line in process.stdout if "first tokens" in line)
        begun = next(process.stdout)  # the first fault
        os.killpg(process.pid, signal.SIGINT)
        output = process.communicate(timeout=300)[0]
    assert process.returncode == 130, begun + output
    assert "0 violations" in output
    assert "ended early" in output
    assert (tmp_path / "record" / "seed-1.jsonl").stat().st_size
    assert {path.name for path in tmp_path.iterdir()} == {"record"}
    wait_until(lambda: is_gone(process.pid), seconds=30, what="the last of its group to end")


def is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False
