"""The vend function's edge: API Gateway's events in, proxy returns out."""

import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from botocore.stub import Stubber

from benchmarks import cost
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
from token_vendor.refresh_starter import RefreshStarter
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
POWERTOOLS = {"level", "message", "timestamp", "service", "cold_start"}
LAMBDA = {"function_request_id"}


@dataclass
class Function:
    """The handler, wired to fakes."""

    store: FakeStore = field(default_factory=lambda: FakeStore(dict.fromkeys(GRANTS, stored())))
    clock: FakeClock = field(default_factory=FakeClock)
    started: list[Mapping[str, object]] = field(default_factory=list)

    def start(self, event: Mapping[str, object]) -> None:
        self.started.append(event)

    def __call__(self, given: object) -> tuple[int, dict[str, Any], dict[str, str]]:
        response: Any = app.lambda_handler(given, FakeContext())
        assert set(response) == {"statusCode", "headers", "body"}
        assert response["headers"]["Content-Type"] == "application/json"
        assert response["headers"]["Cache-Control"] == "no-store"
        body = json.loads(response["body"])
        if response["statusCode"] >= 400:
            assert set(body) == {"error", "error_description"}
            assert not leaks(response["body"])
        return response["statusCode"], body, response["headers"]


@pytest.fixture
def function(monkeypatch: pytest.MonkeyPatch) -> Function:
    function = Function()
    vendor = Vendor(
        grants=GRANTS,
        store=function.store,
        cache_window=seconds(60),
        refresh_ahead=seconds(600),
        on_read_fault=lambda error: app._log_fault("remembered token vended", error),
        now=function.clock,
        monotonic=function.clock.monotonic,
    )
    starter = RefreshStarter(
        invoke=function.start,
        on_fault=lambda _error: None,
        now=function.clock,
        monotonic=function.clock.monotonic,
    )
    monkeypatch.setattr(app, "_wiring", lambda: app.Wiring(vendor, starter))
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
        "scope": "read:deals",
        "fingerprint": fingerprint(TOKEN),
        "expires_at": "2025-03-01T13:00:00Z",
        "seconds_left": 3600,
    }
    assert {name: line[name] for name in set(line) - POWERTOOLS - LAMBDA} == facts
    assert (line["message"], line["service"]) == ("token vended", app.SERVICE)  # counted from it
    assert output.metrics() == []


def test_audit_line_of_a_vend_has_the_bytes_that_the_cost_model_counts(
    function: Function, output: Output
) -> None:
    for _ in range(2):
        assert function(BY_ROLE)[0] == 200
    cold, line = output.log.getvalue().splitlines()
    line = line.replace(FakeContext().aws_request_id, "8fc6f963-411b-58b5-8483-a32130c0f45d")
    assert abs(len(line) + 1 - cost.VEND_LOG_BYTES) <= 10
    assert len(cold) <= len(line) + len(',"cold_start":false')


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
    responded, body, headers = function(given)
    assert (responded, body["error"]) == (status, error)
    assert headers.get("Retry-After") == ("5" if status == 503 else None)
    [line] = output.lines()
    assert (line["level"], line["message"], line["reason"]) == ("WARNING", "token refused", error)
    assert set(line) - POWERTOOLS - LAMBDA == {"grant", "caller", "reason", "cause"}
    [metric] = output.metrics()  # a refusal is no fault of ours
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
    assert (status, headers["Retry-After"]) == (503, "5")
    assert body["error_description"] == "there is no live token"


def test_token_of_more_scope_than_the_grant_now_has_is_a_503(function: Function) -> None:
    function.store.tokens["deals"] = stored(scope=("read:deals", "read:users"))
    status, body, _ = function(BY_USER)
    assert (status, body["error"]) == (503, "temporarily_unavailable")


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
        (
            CorruptStoredToken("as the store words it"),
            "CorruptStoredToken",
            "the parameter contains no stored token",
        ),
        (
            RuntimeError(f"{SECRET} {TOKEN}"),
            "InternalError",
            "unexpected RuntimeError; please report it",
        ),
    ],
)
def test_fault_of_the_broker_is_bland_in_the_response_and_named_in_the_log(
    function: Function, output: Output, fault: Exception, reason: str, cause: str
) -> None:
    function.store.faults["deals"] = fault
    status, body, headers = function(BY_USER)
    assert (status, headers["Retry-After"]) == (503, "5")
    assert body == {
        "error": "temporarily_unavailable",
        "error_description": "the token cannot be read now",
    }
    [line] = output.lines()
    assert (line["level"], line["reason"], line["cause"]) == ("ERROR", reason, cause)
    assert (line["grant"], line["caller"]) == ("deals", USER_ARN)
    refused, fault_of_ours = output.metrics()
    assert (refused["VendRefused"], refused["reason"]) == ([1.0], reason)
    assert (fault_of_ours["VendFault"], "reason" in fault_of_ours) == ([1.0], False)


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


def request(method: str, resource: str, **more: Any) -> dict[str, Any]:
    """An event of another route, signed by alice."""
    path = resource.replace("{grant}", "deals")
    return BY_USER | {"httpMethod": method, "resource": resource, "path": path, **more}


REJECTION = "/tokens/{grant}/rejection"


def report(fingerprint: str) -> dict[str, Any]:
    return request("POST", REJECTION, body=json.dumps({"fingerprint": fingerprint}))


def test_missing_token_starts_a_refresh_run_once(function: Function, output: Output) -> None:
    function.store.tokens.clear()
    assert [function(BY_USER)[0] for _ in range(2)] == [503, 503]
    assert function.started == [{}]
    assert [line.get("refresh") for line in output.lines()] == ["started", None]


def test_token_that_only_would_not_do_starts_none(function: Function) -> None:
    assert function(with_min_ttl("3601"))[0] == 503
    assert function.started == []


def test_report_of_the_current_token_starts_its_renewal(function: Function, output: Output) -> None:
    token = function.store.tokens["deals"] = stored(age=60)
    assert function(report(token.fingerprint))[:2] == (202, {"status": "renewing"})
    assert function.started == [{"grants": ["deals"], "rejected": token.fingerprint}]
    [line] = output.lines()
    assert (line["level"], line["fingerprint"], line["refresh"]) == (
        "WARNING",
        token.fingerprint,
        "started",
    )
    assert [m["TokenRejected"] for m in output.metrics()] == [[1.0]]


def test_report_of_a_replaced_token_starts_nothing(function: Function) -> None:
    assert function(report("0123456789ab"))[:2] == (200, {"status": "replaced"})
    assert function.started == []


@pytest.mark.parametrize(
    ("given", "status", "error", "retry_after"),
    [
        (report(fingerprint(TOKEN)), 429, "slow_down", "60"),
        (report("no fingerprint"), 400, "invalid_request", None),
        (request("POST", REJECTION, path="/tokens/deals", body="{}"), 404, "unknown_grant", None),
        (request("POST", "/oauth2/token", body="x"), 400, "invalid_request", None),
    ],
)
def test_refused_report_or_form_is_an_oauth_error(
    function: Function, given: dict[str, Any], status: int, error: str, retry_after: str | None
) -> None:
    responded, body, headers = function(given)
    assert (responded, body["error"], headers.get("Retry-After")) == (status, error, retry_after)


def form(scope: str, grant_type: str = "client_credentials") -> dict[str, Any]:
    return request(
        "POST",
        "/oauth2/token",
        headers={"Content-Type": "application/x-www-form-urlencoded"},
        body=f"grant_type={grant_type}&client_secret=unneeded&scope={scope}",
    )


def by_role(given: dict[str, Any]) -> dict[str, Any]:
    return given | {"requestContext": BY_ROLE["requestContext"]}


def test_form_of_existing_code_is_answered_by_the_grant_of_its_scope(
    function: Function, output: Output
) -> None:
    status, body, _ = function(by_role(form("read:users+read:deals")))
    assert (status, body["access_token"]) == (200, TOKEN)
    assert output.lines()[0]["grant"] == "reporting"


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (form("read:users+read:deals"), "invalid_scope"),
        (by_role(form("read:deals")), "invalid_scope"),
        (by_role(form("read:users+read:deals", "password")), "unsupported_grant_type"),
    ],
)
def test_other_form_is_refused(function: Function, given: dict[str, Any], error: str) -> None:
    assert function(given)[0] == 400
    assert function(given)[1]["error"] == error


def test_grants_are_listed_as_the_caller_may_have_them(function: Function) -> None:
    assert function(request("GET", "/grants"))[:2] == (
        200,
        {
            "grants": [
                {"name": "deals", "scope": "read:deals", "state": "live", "seconds_left": 3600}
            ]
        },
    )
    listed = function(by_role(request("GET", "/grants")))[1]["grants"]
    assert [grant["name"] for grant in listed] == ["deals", "reporting"]


def test_unknown_resource_is_a_404(function: Function) -> None:
    status, body, _ = function(request("GET", "/secrets"))
    assert (status, body["error"]) == (404, "not_found")


def test_caller_whom_an_allow_list_in_audit_mode_would_refuse_is_counted(
    function: Function, output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    audited = Grant(scope=("read:deals",), callers=GRANTS["reporting"].callers, mode="audit")
    monkeypatch.setitem(GRANTS, "deals", audited)
    assert function(BY_USER)[0] == 200
    assert output.lines()[0]["would_be_refused"] is True
    assert [m.get("WouldRefuse") for m in output.metrics()] == [[1.0]]


def test_vends_are_counted_by_grant_if_that_is_switched_on(
    function: Function, output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METRICS_BY_GRANT", "true")
    assert function(BY_USER)[0] == 200
    [metric] = output.metrics()
    assert (metric["Vended"], metric["grant"]) == ([1.0], "deals")
    assert metric["_aws"]["CloudWatchMetrics"][0]["Dimensions"] == [["service", "grant"]]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in {
        "TOKEN_PARAMETER_PREFIX": "/enable-tokens/stack",
        "TOKEN_CACHE_SECONDS": "45",
        "REFRESH_AHEAD_SECONDS": "600",
        "REFRESH_FUNCTION_NAME": "refresher",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "key",
    }.items():
        monkeypatch.setenv(name, value)
    _forget()
    yield
    _forget()


def _forget() -> None:
    for made in (app._session, app._wiring, app._lambda_client):
        made.cache_clear()


def test_wiring_follows_the_environment_and_is_done_once(environment: None) -> None:
    vendor = app._wiring().vendor
    assert app._wiring().vendor is vendor
    assert vendor.cache_window == seconds(45)
    assert set(vendor.grants) == {"deals", "activity", "users", "reporting"}
    with Stubber(cast("Any", vendor.store)._ssm) as ssm:
        expected = {"Name": "/enable-tokens/stack/deals", "WithDecryption": True}
        ssm.add_client_error("get_parameter", "ParameterNotFound", expected_params=expected)
        assert vendor.store.read("deals") is None


def test_refresh_run_is_started_asynchronously(environment: None) -> None:
    client = app._lambda_client()
    with Stubber(cast("Any", client)) as stub:
        expected = {"FunctionName": "refresher", "InvocationType": "Event", "Payload": b"{}"}
        stub.add_response("invoke", {"StatusCode": 202}, expected)
        assert app._wiring().starter.renew_due()
        stub.assert_no_pending_responses()


def test_faults_that_no_response_reports_are_logged(environment: None, output: Output) -> None:
    wiring = app._wiring()
    wiring.vendor.on_read_fault(client_error("ThrottlingException", "GetParameter"))
    wiring.starter.on_fault(client_error("TooManyRequestsException", "Invoke"))
    assert [(line["message"], line["reason"]) for line in output.lines()] == [
        ("remembered token vended", "ThrottlingException"),
        ("refresh run not started", "TooManyRequestsException"),
    ]


def test_throttled_read_alone_has_a_second_chance_after_a_random_wait(
    environment: None, output: Output
) -> None:
    second_chance_after = app._wiring().vendor.second_chance_after
    assert second_chance_after(client_error("AccessDeniedException", "GetParameter")) is None
    assert output.lines() == []
    throttled = client_error("ThrottlingException", "GetParameter")
    waits = [wait for _ in range(20) if (wait := second_chance_after(throttled)) is not None]
    assert len(set(waits)) == 20  # so that environments do not read again together
    assert seconds(0) <= min(waits) <= max(waits) <= seconds(4)
    assert output.lines()[0]["message"] == "token read once more"


def test_unset_variable_is_a_fault_of_the_broker(
    environment: None, monkeypatch: pytest.MonkeyPatch, output: Output
) -> None:
    monkeypatch.delenv("TOKEN_CACHE_SECONDS")
    assert Function()(BY_USER)[0] == 503
    assert "TOKEN_CACHE_SECONDS is not set" in output.lines()[0]["cause"]
