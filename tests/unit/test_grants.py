"""grants.toml as the functions read it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from token_broker.grants import Grant, GrantsFile, load_grants

DEALS = Grant(scope=("read:deals",))


def test_shipped_grants_are_the_documented_four() -> None:
    grants = load_grants()
    assert {name: grant.scope for name, grant in grants.items()} == {
        "deals": ("read:deals",),
        "activity": ("read:activity",),
        "users": ("read:users",),
        "reporting": ("read:deals", "read:activity", "read:users"),
    }
    assert all(grant.callers is None for grant in grants.values())


def test_callers_of_a_file_are_read(tmp_path: Path) -> None:
    file = tmp_path / "grants.toml"
    file.write_text(
        '[grants.open]\nscope = ["a"]\n[grants.locked]\nscope = ["a", "b"]\n'
        'callers = ["arn:aws:iam::111122223333:role/etl-*"]\n'
    )
    assert load_grants(file) == {
        "open": Grant(scope=("a",)),
        "locked": Grant(scope=("a", "b"), callers=("arn:aws:iam::111122223333:role/etl-*",)),
    }


@pytest.mark.parametrize("text", ["", "grants = 1", "[grants.deals]", "[grants]", "[[["])
def test_file_that_no_build_has_checked_is_not_served(tmp_path: Path, text: str) -> None:
    file = tmp_path / "grants.toml"
    file.write_text(text)
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
        load_grants(file)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Grant(scope=()), "scope is empty"),
        (lambda: Grant(scope=("read deals",)), "'read deals' is not a scope-token"),
        (lambda: Grant(scope=("a", "b", "a")), "names a scope twice"),
        (lambda: Grant(scope=("a",), callers=()), "nobody could have the grant"),
        (lambda: Grant(scope=("a",), callers=("*",)), r"the pattern '\*' is not arn"),
        (lambda: GrantsFile(grants={}), "nothing to do"),
        (lambda: GrantsFile(grants={"Deals": DEALS}), "'Deals' is not a lower-case letter"),
        (lambda: GrantsFile(grants={"1st": DEALS}), "'1st'"),
        (lambda: GrantsFile(grants={"a/b": DEALS}), "'a/b'"),
        (lambda: GrantsFile(grants={"deals\n": DEALS}), "lower-case letter"),
        (lambda: GrantsFile(grants={"a" * 64: DEALS}), "up to 62"),
    ],
)
def test_malformed_grant_is_refused_by_name(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_longest_and_oddest_grant_names_are_good() -> None:
    assert set(GrantsFile(grants={"a" * 63: DEALS, "a-1_b": DEALS}).grants) == {"a" * 63, "a-1_b"}
