"""grants.toml as the functions read it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from token_broker.errors import ConfigurationError
from token_broker.grants import (
    Connection,
    Grant,
    GrantsFile,
    load_grants,
    load_grants_file,
    locate,
)

DEALS = Grant(scope=("read:deals",))
UAT = Connection(token_url="https://uat.example/oauth2/token")


def test_shipped_grants_are_the_documented_four() -> None:
    grants = load_grants()
    assert {name: grant.scope for name, grant in grants.items()} == {
        "deals": ("read:deals",),
        "activity": ("read:activity",),
        "users": ("read:users",),
        "reporting": ("read:deals", "read:activity", "read:users"),
    }
    assert all(grant.callers is None for grant in grants.values())
    assert all(grant.connection == "default" for grant in grants.values())
    assert load_grants_file().connections == {}


def test_callers_of_a_file_are_read(tmp_path: Path) -> None:
    file = tmp_path / "grants.toml"
    file.write_text(
        '[grants.open]\nscope = ["a"]\n[grants.locked]\nscope = ["a", "b"]\n'
        'callers = ["arn:aws:iam::111122223333:role/etl-*"]\nmode = "audit"\n'
    )
    assert load_grants(file) == {
        "open": Grant(scope=("a",)),
        "locked": Grant(
            scope=("a", "b"), callers=("arn:aws:iam::111122223333:role/etl-*",), mode="audit"
        ),
    }


def test_connections_of_a_file_are_read(tmp_path: Path) -> None:
    file = tmp_path / "grants.toml"
    file.write_text(
        '[connections.uat]\ntoken_url = "https://uat.example/oauth2/token"\n'
        '[grants.deals]\nscope = ["a"]\n'
        '[grants.uat_deals]\nscope = ["a"]\nconnection = "uat"\n'
    )
    assert load_grants_file(file) == GrantsFile(
        grants={
            "deals": Grant(scope=("a",)),
            "uat_deals": Grant(scope=("a",), connection="uat"),
        },
        connections={"uat": Connection(token_url="https://uat.example/oauth2/token")},
    )


@pytest.mark.parametrize(
    "url",
    [
        "https://api.deal-track.com/oauth2/token",
        "https://uat.example:8443",
        "http://127.0.0.1:9000/oauth2/token",
        "http://localhost/oauth2/token",
        "http://[::1]:9000/token",
    ],
)
def test_token_url_is_https_or_on_loopback(url: str) -> None:
    assert Connection(token_url=url).token_url == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "uat.example/token",
        "http://uat.example/token",
        "http://127.0.0.1.example/token",
        "http://localhost@evil.example/token",
        "http://localhost:1@evil.example/token",
        "https://user:word@uat.example/token",
        "https://uat.example/token?x=1",
        "https://uat.example/token#x",
        "https:///token",
        "https://uat.example/to ken",
        "https://uat.example/token\n",
        "ftp://uat.example/token",
        "HTTPS://uat.example/token",
    ],
)
def test_other_token_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="token_url is not an https URL"):
        Connection(token_url=url)


DEALS_TABLE = "[grants.deals]\nscope = ['read:deals']\n"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "the file: grants is missing"),
        ("grants = 1", "the file: grants is not a table"),
        ("x = 1", "the file: the key 'x' is unknown"),
        ("[grants]", "there is no [grants.…] table"),
        ("[grants]\ndeals = 3", "grants.deals: is not a table"),
        ("[grants.deals]", "grants.deals: scope is missing"),
        ("[grants.deals]\nscope = 'a'", "grants.deals: scope is not a list of texts"),
        ("[grants.deals]\nscope = [1, 'a']", "grants.deals: scope is not a list of texts"),
        ("[grants.deals]\nscope = []", "grants.deals: scope is empty"),
        (DEALS_TABLE + "connection = 3", "grants.deals: connection is not a text"),
        (DEALS_TABLE + "connection = ['a']", "grants.deals: connection is not a text"),
        (DEALS_TABLE + "mode = 'try'", "grants.deals: mode is neither 'enforce' nor 'audit'"),
        (DEALS_TABLE + "[connections]\nuat = 3", "connections.uat: is not a table"),
        (DEALS_TABLE + "[connections.uat]", "connections.uat: token_url is missing"),
        (
            DEALS_TABLE + "[connections.uat]\ntoken_url = 'x'",
            "connections.uat: token_url is not an https URL",
        ),
        ("[[[", "Invalid initial character"),
        ("[grants.deals]\nscope = " + "[" * 5000, "nested too deeply"),
    ],
)
def test_file_that_no_build_has_checked_is_not_served(
    tmp_path: Path, text: str, fault: str
) -> None:
    file = tmp_path / "grants.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_grants(file)
    assert str(caught.value).startswith(f"{file} is faulty: {fault}")
    assert str(caught.value).endswith("; correct it, then `broker grants publish` it or deploy")


def test_missing_file_is_named_with_its_place_in_a_layer(tmp_path: Path) -> None:
    (tmp_path / "grants.toml").touch()  # at the top of the layer
    (tmp_path / "python").mkdir()
    file = locate([str(tmp_path / "python")])
    assert file == Path("python/grants.toml")
    with pytest.raises(ConfigurationError) as caught:
        load_grants(file)
    assert str(caught.value) == (
        "no layer of the function contains python/grants.toml; "
        "`broker grants publish FILE` makes a layer that does"
    )


def test_file_is_looked_for_in_every_folder_of_the_path(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "grants.toml").touch()
    folders = ["", str(tmp_path / "one"), str(tmp_path / "two")]
    assert locate(folders) == tmp_path / "two" / "grants.toml"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Grant(scope=()), "scope is empty"),
        (lambda: Grant(scope=("read deals",)), "'read deals' is not a scope-token"),
        (lambda: Grant(scope=("a", "b", "a")), "names a scope twice"),
        (lambda: Grant(scope=("a",), callers=()), "nobody could have the grant"),
        (lambda: Grant(scope=("a",), mode="audit"), "there is nobody to audit"),
        (lambda: Grant(scope=("a",), callers=("*",)), r"the pattern '\*' is not arn"),
        (lambda: GrantsFile(grants={}), "nothing to do"),
        (lambda: GrantsFile(grants={"Deals": DEALS}), "'Deals' is not a lower-case letter"),
        (lambda: GrantsFile(grants={"1st": DEALS}), "'1st'"),
        (lambda: GrantsFile(grants={"a/b": DEALS}), "'a/b'"),
        (lambda: GrantsFile(grants={"deals\n": DEALS}), "lower-case letter"),
        (lambda: GrantsFile(grants={"a" * 64: DEALS}), "up to 62"),
        (
            lambda: GrantsFile(grants={"deals": DEALS}, connections={"UAT": UAT}),
            "the connection's name 'UAT' is not a lower-case letter",
        ),
        (
            lambda: GrantsFile(grants={"deals": DEALS}, connections={"default": UAT}),
            "set its TokenUrl parameter instead",
        ),
        (
            lambda: GrantsFile(grants={"deals": Grant(scope=("a",), connection="uta")}),
            r"grants.deals: there is no \[connections.uta\] table",
        ),
    ],
)
def test_malformed_grant_is_refused_by_name(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_longest_and_oddest_grant_names_are_good() -> None:
    assert set(GrantsFile(grants={"a" * 63: DEALS, "a-1_b": DEALS}).grants) == {"a" * 63, "a-1_b"}
