"""A short soak: faults upon faults on the deployed broker, checked from the record alone."""

import threading
from pathlib import Path

import pytest

from tests.soak.checker import check
from tests.soak.record import Record
from tests.soak.soak import soak

SECONDS = 40


@pytest.mark.timeout(400)
def test_short_soak_breaks_no_promise_and_its_record_holds_no_token(tmp_path: Path):
    path, said = tmp_path / "record.jsonl", []
    with path.open("w") as file:
        record = Record(file)
        soak(record, seed=1, seconds=SECONDS, tell=said.append, stop=threading.Event())
    report = check(record.entries)
    assert not report.violations, report.text()
    assert report.is_conclusive, report.text()
    assert report.faults.total() >= 3
    assert len(said) > report.faults.total(), said
    kept = path.read_text()
    assert kept.count("\n") == len(record.entries)
    assert "eyJ" not in kept  # how every JWT begins
    assert "p+ss" not in kept  # part of every client secret here
