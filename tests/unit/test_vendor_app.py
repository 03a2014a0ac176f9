"""The vend function's edge: API Gateway's events in, proxy answers out."""

import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from botocore.stub import Stubber

from tests.unit.fakes import (
    SECRET,
    TOKEN,
    FakeClock,
    FakeContext,
    FakeStore,
    FrozenDatetime,
    Output,
    client_error,
    event,
    leaks,
    output_of,
    seconds,
    stored,
)
from token_broker.errors import CorruptStoredToken
from token_broker.grants import Grant
from token_broker.models import fingerprint
from token_vendor import app
from token_vendor.vend import Vendor

BY_ROLE = event("get_token_by_role.json")
BY_USER = event("get_token_by_user.json")
UNKNOWN = event("get_unknown_grant.json")
ROLE_ARN = "arn:aws:sts::111122223333:assumed-role/reporting-nightly/nightly-20250301"
USER_ARN = "arn:aws:iam::111122223333:user/ops/alice"
GRANTS = {
    "deals": Grant(scope=("read:deals",)),
    "reporting": Grant(
        scope=("read:deals", "read:users"),
        callers=("arn:aws:iam::111122223333:role/reporting-*",),
    ),
}
POWERTOOLS = {"level", "location", "message", "timestamp", "service", "cold_start"}
LAMBDA = {"function_name", "function_memory_size", "function_arn", "function_request_id"}


@dataclass
class Function:
    """The handler, wired to fakes."""

    store: FakeStore = field(default_factory=lambda: FakeStore(dict.fromkeys(GRANTS, stored())))
    clock: FakeClock = field(default_factory=FakeClock)

    def __call__(self, given: object) -> tuple[int, dict[str, Any], dict[str, str]]:
        answer: Any = app.lambda_handler(given, FakeContext())
        assert set(answer) == {"statusCode", "headers", "body"}
        assert answer["headers"]["Content-Type"] == "application/json"
        assert answer["headers"]["Cache-Control"] == "no-store"
        body = json.loads(answer["body"])
        if answer["statusCode"] != 200:
            assert set(body) == {"error", "error_description"}
            assert not leaks(answer["body"])
        return answer["statusCode"], body, answer["headers"]


@pytest.fixture
def function(monkeypatch: pytest.MonkeyPatch) -> Function:
    function = Function()
    vendor = Vendor(
        grants=GRANTS,
        store=function.store,
        cache_window=seconds(60),
        on_read_fault=app._log_read_fault,
        now=function.clock,
    )
    monkeypatch.setattr(app, "_vendor", lambda: vendor)
    monkeypatch.setattr(app, "datetime", FrozenDatetime)
    return function


@pytest.fixture(autouse=True)
def output(capsys: pytest.CaptureFixture[str]) -> Iterator[Output]:
    """All that is logged and printed; no test of this file may let a token or header out."""
    with output_of(app.logger, capsys) as output:
        yield output
        text = output.text()
        assert not leaks(text)
        for header in ("X-Amz-Security-Token", "User-Agent", "X-Amzn-Trace-Id"):
            assert BY_ROLE["headers"][header] not in text


def changed(given: dict[str, Any], *path: str, value: object) -> dict[str, Any]:
    """An event with one value replaced."""
    event = deepcopy(given)
    at = event
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return event


def with_min_ttl(*values: str) -> dict[str, Any]:
    event = changed(BY_USER, "queryStringParameters", value={"min_ttl": values[-1]})
    return changed(event, "multiValueQueryStringParameters", value={"min_ttl": list(values)})


@pytest.mark.parametrize(
    ("given", "grant", "caller"),
    [(BY_ROLE, "reporting", ROLE_ARN), (BY_USER, "deals", USER_ARN)],
    ids=["role", "user"],
)
def test_token_is_vended_to_who_signed_the_request(
    function: Function, output: Output, given: dict[str, Any], grant: str, caller: str
) -> None:
    status, body, headers = function(given)
    assert (status, headers["Pragma"]) == (200, "no-cache")
    assert body == {
        "access_token": TOKEN,
        "token_type": "Bearer",
        "expires_in": 3600,
        "expires_at": "2025-03-01T13:00:00Z",
        "scope": "read:deals",
    }
    [line] = output.lines()
    facts = {
        "grant": grant,
        "caller": caller,
        "scope": ["read:deals"],
        "fingerprint": fingerprint(TOKEN),
        "expires_at": "2025-03-01T13:00:00Z",
        "seconds_left": 3600,
    }
    assert {name: line[name] for name in set(line) - POWERTOOLS - LAMBDA} == facts
    [metric] = output.metrics()
    assert (metric["Vended"], metric["grant"]) == ([1.0], grant)


@pytest.mark.parametrize(
    ("given", "status", "error"),
    [
        (UNKNOWN, 404, "unknown_grant"),
        (changed(BY_ROLE, "pathParameters", value=None), 404, "unknown_grant"),
        (changed(BY_ROLE, "path", value="/tokens/reporting/"), 404, "unknown_grant"),
        (changed(BY_ROLE, "path", value="/tokens/xreporting"), 404, "unknown_grant"),
        (changed(BY_ROLE, "pathParameters", "grant", value="deals"), 404, "unknown_grant"),
        (changed(BY_ROLE, "pathParameters", "grant", value=["deals"]), 404, "unknown_grant"),
        (changed(BY_ROLE, "path", value=None), 404, "unknown_grant"),
        (
            changed(BY_ROLE, "requestContext", "identity", "userArn", value=USER_ARN),
            403,
            "access_denied",
        ),
        (
            changed(BY_USER, "requestContext", "identity", "userArn", value=None),
            403,
            "access_denied",
        ),
        (changed(BY_USER, "requestContext", "identity", "userArn", value=""), 403, "access_denied"),
        (changed(BY_USER, "requestContext", value={}), 403, "access_denied"),
        ({}, 403, "access_denied"),
        (None, 403, "access_denied"),
        (with_min_ttl("-1"), 400, "invalid_request"),
        (with_min_ttl("1.5"), 400, "invalid_request"),
        (with_min_ttl("+5"), 400, "invalid_request"),
        (with_min_ttl("٣"), 400, "invalid_request"),
        (with_min_ttl(""), 400, "invalid_request"),
        (with_min_ttl("60", "0"), 400, "invalid_request"),
        (with_min_ttl("3601"), 503, "temporarily_unavailable"),
        (with_min_ttl("9" * 5000), 503, "temporarily_unavailable"),
    ],
)
def test_refusal_is_an_oauth_error_that_is_logged_and_counted(
    function: Function, output: Output, given: dict[str, Any], status: int, error: str
) -> None:
    answered, body, headers = function(given)
    assert (answered, body["error"]) == (status, error)
    assert headers.get("Retry-After") == ("30" if status == 503 else None)
    [line] = output.lines()
    assert (line["level"], line["message"], line["reason"]) == ("WARNING", "token refused", error)
    assert set(line) - POWERTOOLS - LAMBDA == {"grant", "caller", "reason", "cause"}
    [metric] = output.metrics()
    assert (metric["VendRefused"], metric["reason"]) == ([1.0], error)


@pytest.mark.parametrize("seconds_asked", ["0", "0300", "3600", "00000000000003600"])
def test_min_ttl_up_to_what_is_left_is_met(function: Function, seconds_asked: str) -> None:
    assert function(with_min_ttl(seconds_asked))[0] == 200


def test_absent_min_ttl_asks_for_nothing(function: Function) -> None:
    function.store.tokens["reporting"] = stored(left=1)
    assert BY_ROLE["multiValueQueryStringParameters"] is None
    assert function(BY_ROLE)[1]["expires_in"] == 1
    other = changed(BY_ROLE, "multiValueQueryStringParameters", value={"x": ["1"]})
    assert function(other)[0] == 200


def test_expired_token_is_a_503(function: Function) -> None:
    function.store.tokens["reporting"] = stored(left=0, age=60)
    status, body, headers = function(BY_ROLE)
    assert (status, headers["Retry-After"]) == (503, "30")
    assert body["error_description"] == "there is no live token"


def test_long_grant_name_is_cut_in_the_log(function: Function, output: Output) -> None:
    name = "x" * 5000
    given = changed(UNKNOWN, "pathParameters", "grant", value=name)
    assert function(changed(given, "path", value=f"/tokens/{name}"))[0] == 404
    assert output.lines()[0]["grant"] == "x" * 64


@pytest.mark.parametrize(
    ("fault", "reason", "cause"),
    [
        (
            client_error("AccessDeniedException", "GetParameter"),
            "AccessDeniedException",
            "GetParameter was refused by AWS: AccessDeniedException",
        ),
        (CorruptStoredToken("holds no token"), "CorruptStoredToken", "holds no token"),
        (
            RuntimeError(f"{SECRET} {TOKEN}"),
            "InternalError",
            "unexpected RuntimeError; please report it",
        ),
    ],
)
def test_fault_of_ours_is_bland_to_the_caller_and_named_in_the_log(
    function: Function, output: Output, fault: Exception, reason: str, cause: str
) -> None:
    function.store.faults["deals"] = fault
    status, body, headers = function(BY_USER)
    assert (status, headers["Retry-After"]) == (503, "30")
    assert body == {
        "error": "temporarily_unavailable",
        "error_description": "the token cannot be read now",
    }
    [line] = output.lines()
    assert (line["level"], line["reason"], line["cause"]) == ("ERROR", reason, cause)
    assert (line["grant"], line["caller"]) == ("deals", USER_ARN)
    assert output.metrics()[0]["reason"] == reason


def test_failed_read_behind_a_remembered_token_is_logged(
    function: Function, output: Output
) -> None:
    function(BY_USER)
    function.store.faults["deals"] = client_error("ThrottlingException", "GetParameter")
    function.clock.wind(61)
    assert function(BY_USER)[0] == 200
    assert [(line["message"], line.get("reason")) for line in output.lines()] == [
        ("token vended", None),
        ("remembered token vended", "ThrottlingException"),
        ("token vended", None),
    ]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in {
        "TOKEN_PARAMETER_PREFIX": "/enable-tokens/stack",
        "TOKEN_CACHE_SECONDS": "45",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "key",
    }.items():
        monkeypatch.setenv(name, value)
    app._vendor.cache_clear()
    yield
    app._vendor.cache_clear()


def test_wiring_follows_the_environment_and_is_done_once(environment: None) -> None:
    vendor = app._vendor()
    assert app._vendor() is vendor
    assert vendor.cache_window == seconds(45)
    assert set(vendor.grants) == {"deals", "activity", "users", "reporting"}
    with Stubber(cast("Any", vendor.store)._ssm) as ssm:
        expected = {"Name": "/enable-tokens/stack/deals", "WithDecryption": True}
        ssm.add_client_error("get_parameter", "ParameterNotFound", expected_params=expected)
        assert vendor.store.read("deals") is None


def test_unset_variable_is_a_fault_of_ours(
    environment: None, monkeypatch: pytest.MonkeyPatch, output: Output
) -> None:
    monkeypatch.delenv("TOKEN_CACHE_SECONDS")
    assert Function()(BY_USER)[0] == 503
    assert "TOKEN_CACHE_SECONDS is not set" in output.lines()[0]["cause"]
