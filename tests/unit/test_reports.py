"""A report that a test's failure or output would put a secret in does not contain it."""

import subprocess
import sys
from pathlib import Path

import jwt

from local.broker_stack import ROOT
from tests.reports import NASTY_SECRET

TOKEN = jwt.encode({"sub": "somebody", "scope": "read:deals"}, "0" * 32)
TESTS = """
import logging
from pathlib import Path
import pytest

TOKEN, SECRET = Path(__file__).with_name("secrets.txt").read_text().splitlines()
each = pytest.mark.parametrize("number", [0, 1])

def secret(number):
    return (TOKEN, SECRET)[number]

@each
def test_in_an_assertion(number):
    assert secret(number) == ""

@each
def test_in_an_exception(number):
    raise ValueError(secret(number))

@each
def test_in_a_log(number):
    logging.getLogger().error(secret(number))

@each
def test_in_the_output(number):
    print({"body": secret(number)})

@each
def test_among_the_locals(number):
    copy = [secret(number).encode()]
    assert not copy

def test_harmless():
    print("nothing")
"""


def test_no_report_holds_a_secret_and_who_prints_one_has_failed(tmp_path: Path):
    (tmp_path / "secrets.txt").write_text(f"{TOKEN}\n{NASTY_SECRET}\n")
    (tmp_path / "test_leaks.py").write_text(TESTS)
    run = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "tests.reports", "-p", "no:cacheprovider"),
            *("-c", "/dev/null", "--rootdir", tmp_path, "--showlocals", "-vv", "-rA"),
            *("--junit-xml", tmp_path / "report.xml", tmp_path / "test_leaks.py"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "10 failed, 1 passed" in run.stdout, run.stderr
    reports = run.stdout + run.stderr + (tmp_path / "report.xml").read_text()
    for secret in (TOKEN, TOKEN[:60], NASTY_SECRET, repr(NASTY_SECRET)[1:-1]):
        assert secret not in reports
