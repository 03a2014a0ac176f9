"""The table itself: long enough, nothing twice, and what docs/faults.md shows."""

from collections import Counter
from pathlib import Path

from tests.faults.fault_table import AWS_FAULTS, UPSTREAM_FAULTS, VEND_FAULTS, page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "faults.md"


def test_page_shows_the_table() -> None:
    current = PAGE.read_text(encoding="utf-8")
    assert current == page(), "run: python -m tests.faults.fault_table > docs/faults.md"


def test_rows_are_many_and_each_is_there_once() -> None:
    names = Counter((row.group, row.what) for row in UPSTREAM_FAULTS)
    names.update((row.on.name, row.what) for row in AWS_FAULTS)
    assert [name for name, count in names.items() if count > 1] == []
    assert len(UPSTREAM_FAULTS) >= 60


def test_tests_of_the_vend_function_are_there() -> None:
    unit = PAGE.parents[1] / "tests" / "unit"
    texts = "".join(path.read_text(encoding="utf-8") for path in unit.rglob("test_*.py"))
    assert [test for *_, test in VEND_FAULTS if f"def {test}(" not in texts] == []
