"""docs/openapi.json: made from the code as it is, and true of what the handlers response."""

import json
from collections.abc import Mapping
from typing import Any, cast

import jsonschema
import pytest
import yaml

from local.broker_stack import ROOT
from tests.unit.fakes import (
    SECRET,
    FakeClock,
    FakeContext,
    FakeStore,
    FrozenDatetime,
    event,
    output_of,
    seconds,
    stored,
)
from token_broker.errors import GrantBlocked
from token_broker.grants import Grant
from token_vendor import app
from token_vendor.refresh_starter import RefreshStarter
from token_vendor.responses import ERRORS, VendedToken
from token_vendor.vend import Vendor
from tools import openapi

CONTRACT: Mapping[str, Any] = json.loads(openapi.FILE.read_text(encoding="utf-8"))
BY_USER = event("get_token_by_user.json")
MINE = Grant(scope=("read:deals",), callers=("arn:aws:iam::111122223333:user/ops/alice",))
NOT_MINE = Grant(scope=("read:users",), callers=("arn:aws:iam::111122223333:role/other",))
FRESH, OLD = stored("fresh"), stored("old", age=60)
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def test_file_is_current() -> None:
    assert openapi.FILE.read_text(encoding="utf-8") == openapi.text(), "run `make openapi`"


def request(method: str, path: str, **more: object) -> dict[str, Any]:
    """An event of alice's as API Gateway would make it of this method and path."""
    grant = path.split("/")[2] if path.startswith("/tokens/") else ""
    resource = path.replace(f"/{grant}", "/{grant}") if grant else path
    parts = {"httpMethod": method, "resource": resource, "path": path}
    parameters = {"pathParameters": {"grant": grant}, "multiValueQueryStringParameters": None}
    return BY_USER | parts | parameters | more


def query(**parameters: list[str]) -> dict[str, Any]:
    return request("GET", "/tokens/mine", multiValueQueryStringParameters=parameters)


def report(fingerprint: str, grant: str = "mine") -> dict[str, Any]:
    body = json.dumps({"fingerprint": fingerprint})
    return request("POST", f"/tokens/{grant}/rejection", body=body)


def form(text: str) -> dict[str, Any]:
    return request("POST", "/oauth2/token", headers=FORM, body=text)


def assert_conforms(given: Mapping[str, Any], reply: Mapping[str, Any]) -> Mapping[str, Any]:
    """The response's body, once status, headers and body are as the contract says."""
    method, resource = given["httpMethod"].lower(), given["resource"]
    response = CONTRACT["paths"][resource][method]["responses"][str(reply["statusCode"])]
    headers, body = reply["headers"], json.loads(reply["body"])
    for name, about in response["headers"].items():
        kind = about["schema"]
        assert name in headers or not about["required"]
        if name in headers:
            value = int(headers[name]) if kind["type"] == "integer" else headers[name]
            jsonschema.validate(value, kind)
    assert headers.keys() == response["headers"].keys() | {"Content-Type"}
    [schema] = [content["schema"] for content in response["content"].values()]
    assert headers["Content-Type"] in response["content"]
    whole = schema | {"components": CONTRACT["components"]}
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.Draft202012Validator(whole, format_checker=checker).validate(body)
    return cast("Mapping[str, Any]", body)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> FakeStore:
    """What is stored; the handler is wired to it and to fakes."""
    store = FakeStore({"mine": FRESH, "aged": OLD})
    vendor = Vendor(
        grants={
            "mine": MINE,
            "aged": Grant(scope=("read:deals",)),
            "empty": Grant(scope=("read:deals",)),
            "others": NOT_MINE,
        },
        store=store,
        cache_window=seconds(0),
        refresh_ahead=seconds(600),
        on_read_fault=lambda _error: None,
        now=FakeClock(),
    )
    starter = RefreshStarter(invoke=lambda _event: None, on_fault=lambda _error: None)
    monkeypatch.setattr(app, "_wiring", lambda: app.Wiring(vendor, starter))
    monkeypatch.setattr(app, "datetime", FrozenDatetime)
    return store


RESPONSES = [
    (query(min_ttl=["60"]), 200, None),
    (query(min_ttl=["soon"]), 400, "invalid_request"),
    (request("GET", "/tokens/others"), 403, "access_denied"),
    (request("GET", "/tokens/nothing"), 404, "unknown_grant"),
    (query(other_than=[FRESH.fingerprint]), 503, "temporarily_unavailable"),
    (request("GET", "/tokens/empty"), 503, "temporarily_unavailable"),
    (report("0123456789ab"), 200, None),
    (report(OLD.fingerprint, "aged"), 202, None),
    (report("none"), 400, "invalid_request"),
    (report("0123456789ab", "others"), 403, "access_denied"),
    (report("0123456789ab", "nothing"), 404, "unknown_grant"),
    (report(FRESH.fingerprint), 429, "slow_down"),
    (request("GET", "/grants"), 200, None),
    (form("grant_type=client_credentials&scope=read:deals"), 200, None),
    (form("scope=read:deals"), 400, "invalid_request"),
    (form("grant_type=password&scope=read:deals"), 400, "unsupported_grant_type"),
    (form("grant_type=client_credentials&scope=read:users"), 400, "invalid_scope"),
]


@pytest.mark.parametrize(("given", "status", "error"), RESPONSES)
def test_answer_is_as_the_contract_says(
    store: FakeStore,
    capsys: pytest.CaptureFixture[str],
    given: dict[str, Any],
    status: int,
    error: str | None,
) -> None:
    with output_of(app.logger, capsys):
        reply: Any = app.lambda_handler(given, FakeContext())
    body = assert_conforms(given, reply)
    assert (reply["statusCode"], body.get("error")) == (status, error)


@pytest.mark.parametrize(
    ("given", "fault", "status"),
    [
        (request("GET", "/tokens/mine"), RuntimeError(SECRET), 503),
        (report("0123456789ab"), RuntimeError(SECRET), 503),
        (request("GET", "/grants"), RuntimeError(SECRET), 503),
        (form("grant_type=client_credentials&scope=read:deals"), RuntimeError(SECRET), 503),
        (request("GET", "/tokens/mine"), GrantBlocked("lost laptop"), 503),
        (report("0123456789ab"), GrantBlocked("lost laptop"), 503),
        (request("GET", "/grants"), GrantBlocked("lost laptop"), 200),
    ],
)
def test_fault_and_block_are_in_the_contract(
    store: FakeStore,
    capsys: pytest.CaptureFixture[str],
    given: dict[str, Any],
    fault: Exception,
    status: int,
) -> None:
    store.faults["mine"] = fault
    with output_of(app.logger, capsys):
        reply: Any = app.lambda_handler(given, FakeContext())
    assert_conforms(given, reply)
    assert reply["statusCode"] == status


def test_every_answer_of_the_contract_has_been_given_here() -> None:
    given = {
        (event["resource"], event["httpMethod"].lower(), str(status))
        for event, status, _ in RESPONSES
    }
    gateway = {str(status) for status in openapi._GATEWAY}
    fault = str(ERRORS[openapi._FAULT][0])
    documented = {
        (path, method, status)
        for path, methods in CONTRACT["paths"].items()
        for method, operation in methods.items()
        for status, response in operation["responses"].items()
        if status not in gateway | {fault} or "oneOf" in response["content"]["application/json"]
    }
    assert documented <= given


def test_every_error_is_one_of_some_operation() -> None:
    output = {error for operation in openapi._OPERATIONS.values() for error in operation.errors}
    assert output == set(ERRORS)
    assert set(openapi._CODES) == {code for _, code in ERRORS.values()}


def test_fields_are_those_that_are_answered() -> None:
    body = json.loads(VendedToken.of(FRESH, FakeClock()()).to_json())
    schema = CONTRACT["components"]["schemas"]["VendedToken"]
    assert set(body) == set(schema["properties"]) == set(schema["required"])


def test_routes_are_those_of_the_template() -> None:
    class Loader(yaml.SafeLoader):
        """Reads no short form: what is wanted has none."""

    Loader.add_multi_constructor("!", lambda _loader, _suffix, _node: None)
    template = yaml.load((ROOT / "template.yaml").read_text(), Loader)  # noqa: S506 - a SafeLoader
    events = template["Resources"]["TokenVendorFunction"]["Properties"]["Events"].values()
    wanted = {(e["Properties"]["Path"], e["Properties"]["Method"].lower()) for e in events}
    assert wanted == {(p, method) for p, methods in CONTRACT["paths"].items() for method in methods}


def test_renamed_field_is_not_overlooked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(cast("Any", openapi._FIELDS[VendedToken]), "expires_in")
    with pytest.raises(KeyError, match="expires_in"):
        openapi.document()


def test_route_that_is_not_described_is_not_overlooked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cast("Any", app._ROUTES), ("GET", "/secrets"), app._get_grants)
    with pytest.raises(KeyError, match="secrets"):
        openapi.document()
