"""The page of licences is what the pins and the packages say."""

import pytest

from tools import sbom


def test_page_of_licences_is_current():
    assert sbom.PAGE.read_text() == sbom.page(), "run make sbom"


@pytest.mark.parametrize("pins", sbom.ARTIFACTS.values())
def test_every_pin_is_seen(pins: str):
    lines = (sbom.ROOT / "requirements" / pins).read_text().splitlines()
    assert len(sbom.pinned(pins)) == sum("==" in line and line[0].isalpha() for line in lines) > 3


def test_package_without_a_licence_is_named(monkeypatch: pytest.MonkeyPatch):
    class Nothing:
        def get_all(self, _name: str, default: object = None) -> object:
            return default

    monkeypatch.setattr("importlib.metadata.metadata", lambda _name: Nothing())
    with pytest.raises(ValueError, match="boto3 names no licence"):
        sbom.licence("boto3")
