"""The list of guards is true to the source: each stands where the list says."""

import ast

import pytest

from tests.mutants.guards import GUARDS, Guard, file_of, spoil
from tests.mutants.laboratory import PACKAGES, ROOT

ALL = [(kind, guard) for kind, guards in GUARDS.items() for guard in guards]


@pytest.mark.parametrize(("kind", "guard"), ALL)
def test_guard_stands_where_it_is_taken_away(kind: str, guard: Guard) -> None:
    source = file_of(guard, ROOT, PACKAGES).read_text(encoding="utf-8")
    spoilt = spoil(source, guard)
    assert spoilt != source
    ast.parse(spoilt)
