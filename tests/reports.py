"""No report of a test contains a secret: pytest shows what an assertion compared, and all output.

What looks like one of Enable's tokens, or is the tests' client secret, is taken out; a test whose
output held one has failed.
"""

import json
import re
from collections.abc import Generator

import pytest

NASTY_SECRET = 'p+ss w&rd=%/ü€"\\'
_FORMS = {
    NASTY_SECRET,
    repr(NASTY_SECRET)[1:-1],
    ascii(NASTY_SECRET)[1:-1],
    json.dumps(NASTY_SECRET)[1:-1],
    repr(NASTY_SECRET.encode())[2:-1],
}
SECRET = re.compile(
    r"eyJ[\w-]{8,}\.eyJ[\w-]{8,}(?:\.[\w-]*)?|" + "|".join(map(re.escape, sorted(_FORMS)))
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.longrepr and SECRET.search(report.longreprtext):
        report.longrepr = SECRET.sub("(a secret)", report.longreprtext)
    if any(SECRET.search(text) for _, text in report.sections):
        report.sections = [(name, SECRET.sub("(a secret)", text)) for name, text in report.sections]
        report.outcome = "failed"
        report.longrepr = f"{report.longrepr or ''}\nThe output of this test held a secret."
    return report
