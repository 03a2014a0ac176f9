"""Each sabotage still has its place in the code."""

import pytest

from tests.mutants.guards import Guard, file_of, spoil
from tests.mutants.laboratory import PACKAGES, ROOT
from tests.soak.sabotage import SABOTAGES


@pytest.mark.parametrize("sabotage", SABOTAGES.values(), ids=SABOTAGES)
def test_sabotage_has_its_place_in_the_code(sabotage: Guard):
    source = file_of(sabotage, ROOT, PACKAGES).read_text(encoding="utf-8")
    broken = spoil(source, sabotage)
    assert broken != source
    compile(broken, sabotage.file, "exec")
