"""Each sabotage still has its place in the code."""

import pytest

from tests.mutants.guards import Guard, file_of, spoil
from tests.mutants.laboratory import PACKAGES, ROOT
from tests.soak.sabotage import SABOTAGES, main


@pytest.mark.parametrize("sabotage", SABOTAGES.values(), ids=SABOTAGES)
def test_sabotage_has_its_place_in_the_code(sabotage: Guard):
    source = file_of(sabotage, ROOT, PACKAGES).read_text(encoding="utf-8")
    broken = spoil(source, sabotage)
    assert broken != source
    compile(broken, sabotage.file, "exec")


def test_words_of_no_sabotage_are_refused_with_the_names(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="2"):
        main(["lese"])
    assert "the lease is ignored" in capsys.readouterr().err
