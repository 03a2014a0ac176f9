"""docs/grants.schema.json: made from the model as it is, and in accord with the build's check."""

import json
import tomllib

import jsonschema
import pytest

from token_broker.grants import GRANTS_FILE
from token_refresher.check_grants import faults
from tools import grants_schema

SCHEMA = json.loads(grants_schema.FILE.read_text(encoding="utf-8"))
DEALS = '[grants.deals]\nscope = ["read:deals"]\n'
UAT = '[connections.uat]\ntoken_url = "https://uat.example/oauth2/token"\n'


def is_valid(toml: str) -> bool:
    return jsonschema.Draft202012Validator(SCHEMA).is_valid(tomllib.loads(toml))


def test_committed_schema_is_what_the_model_gives() -> None:
    assert grants_schema.FILE.read_text(encoding="utf-8") == grants_schema.text(), (
        "run `make grants-schema`"
    )


def test_patterns_are_those_of_ecmascript() -> None:
    assert "?P<" not in grants_schema.text()


def test_shipped_file_names_the_schema_and_is_valid() -> None:
    toml = GRANTS_FILE.read_text(encoding="utf-8")
    named = toml.splitlines()[0].removeprefix("#:schema ")
    assert (GRANTS_FILE.parent / named).resolve() == grants_schema.FILE
    assert is_valid(toml)


@pytest.mark.parametrize(
    "toml",
    [
        DEALS,
        DEALS + 'connection = "uat"\n' + UAT,
        DEALS + 'callers = ["arn:aws:iam::111122223333:role/etl-*"]\nmode = "audit"\n',
        DEALS + UAT.replace("https://uat.example", "http://127.0.0.1:9"),
    ],
)
def test_file_that_the_build_takes_is_valid(toml: str) -> None:
    assert faults(toml) == []
    assert is_valid(toml)


@pytest.mark.parametrize(
    "toml",
    [
        "",
        "[grants]",
        "[grants.deals]",
        DEALS.replace("deals]", "Deals]", 1),
        '[grants.deals]\nscope = "read:deals"',
        "[grants.deals]\nscope = []",
        '[grants.deals]\nscope = ["a b"]',
        '[grants.deals]\nscope = ["a", "a"]',
        DEALS + "callers = []",
        DEALS + 'callers = ["*"]',
        DEALS + 'caller = ["x"]',
        DEALS + 'mode = "try"',
        DEALS + "[connections.uat]",
        DEALS + UAT.replace("https", "http"),
        DEALS + UAT.replace("uat]", "Uat]"),
    ],
)
def test_fault_that_an_editor_can_show_is_one_of_the_build(toml: str) -> None:
    assert faults(toml)
    assert not is_valid(toml)
