"""The refresh function's edge: events in, a summary, log lines and metrics out."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest
from botocore.stub import Stubber

from tests.unit.fakes import (
    SECRET,
    TOKEN,
    VERSION,
    Broker,
    FakeContext,
    FrozenDatetime,
    Output,
    client_error,
    event,
    leaks,
    output_of,
    rejection,
    response,
    seconds,
    stored,
)
from token_broker.errors import (
    ConfigurationError,
    CorruptStoredToken,
    GrantBlocked,
    InvalidRequest,
    RenewalFailed,
)
from token_broker.grants import Connection, Grant, GrantsFile
from token_broker.models import fingerprint
from token_refresher import app
from token_refresher.outcomes import Outcome, State
from token_refresher.reported import Reported

GRANTS = {"deals": Grant(scope=("read:deals",)), "users": Grant(scope=("read:users",))}
RENEWED = {
    "state": "renewed",
    "renew_reason": "missing",
    "expires_at": "2025-03-01T13:00:00Z",
    "fingerprint": fingerprint(TOKEN),
    "attempts": 1,
}
FRESH = {
    "state": "not_due",
    "expires_at": "2025-03-01T13:00:00Z",
    "fingerprint": fingerprint("users"),
}
AUDIT = {"grant", "scope", "connection", "secret_version", "seconds_left"}
OUTPUT = {
    "state",
    "renew_reason",
    "expires_at",
    "fingerprint",
    "secret_stage",
    "reason",
    "cause",
    "retry_at",
}
POWERTOOLS = {"level", "location", "message", "timestamp", "service", "cold_start"}
LAMBDA = {"function_name", "function_memory_size", "function_arn", "function_request_id"}


@dataclass
class Function:
    """The handler, wired to fakes; the token of `users` is fresh, that of `deals` missing."""

    broker: Broker = field(default_factory=lambda: Broker(grants=GRANTS))
    context: FakeContext = field(default_factory=FakeContext)

    def __post_init__(self) -> None:
        del self.broker.store.tokens["deals"]
        self.broker.endpoint.responses["read:deals"] = response(TOKEN)

    def __call__(self, given: object) -> dict[str, Any]:
        summary: dict[str, Any] = app.lambda_handler(given, self.context)
        assert not leaks(json.dumps(summary))
        return summary


@pytest.fixture
def function(monkeypatch: pytest.MonkeyPatch) -> Function:
    function = Function()
    monkeypatch.setattr(app, "_refresher", function.broker.refresher)
    monkeypatch.setattr(app, "datetime", FrozenDatetime)
    monkeypatch.setattr(app, "_reported", Reported())
    return function


@pytest.fixture(autouse=True)
def output(capsys: pytest.CaptureFixture[str]) -> Iterator[Output]:
    """All that is logged and printed; no test of this file may let a secret out."""
    with output_of(app.logger, capsys) as output:
        yield output
        assert not leaks(output.text())


def metrics(output: Output) -> list[dict[str, Any]]:
    """What was measured: names and values, and the details."""
    return [
        {name: value for name, value in line.items() if name not in {"_aws", "service"}}
        for line in output.metrics()
    ]


@pytest.mark.parametrize("given", [event("schedule.json"), {}], ids=["schedule", "empty"])
def test_schedule_renews_what_is_due_and_says_so_without_a_token(
    function: Function, output: Output, given: object
) -> None:
    assert function(given) == {"grants": {"deals": RENEWED, "users": FRESH}}
    assert function.broker.store.tokens["deals"].access_token == TOKEN
    assert metrics(output) == [
        {"Renewed": [1.0], "SecondsToExpiry": [3600.0], "DueWindowLeft": [100.0]}
    ]


def test_metrics_of_a_run_are_the_least_of_all_grants_and_counts(
    function: Function, output: Output
) -> None:
    function.broker.store.tokens["users"] = stored(left=300, age=3300, scope=("read:users",))
    function.broker.endpoint.responses["read:users"] = rejection("invalid_scope")
    function.broker.endpoint.responses["read:deals"] = rejection("invalid_scope")
    function.broker.store.tokens["deals"] = stored(left=120, age=3480)
    with pytest.raises(RenewalFailed):
        function({})
    assert metrics(output) == [
        {"RenewalFailed": [2.0], "SecondsToExpiry": [120.0], "DueWindowLeft": [20.0]}
    ]


def test_metrics_by_grant_are_added_if_they_are_switched_on(
    function: Function, output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METRICS_BY_GRANT", "true")
    function.broker.endpoint.responses["read:deals"] = rejection("invalid_scope")
    with pytest.raises(RenewalFailed):
        function({})
    assert metrics(output) == [
        {"RenewalFailed": [1.0], "SecondsToExpiry": [0.0], "DueWindowLeft": [0.0]},
        {"grant": "deals", "SecondsToExpiry": [0.0], "DueWindowLeft": [0.0]},
        {"grant": "deals", "reason": "invalid_scope", "RenewalFailed": [1.0]},
        {"grant": "users", "SecondsToExpiry": [3600.0], "DueWindowLeft": [100.0]},
    ]


def test_run_leaves_one_line_and_an_audit_line_for_what_it_renewed(
    function: Function, output: Output
) -> None:
    function({})
    run, renewed = output.lines()
    assert (run["message"], run["level"]) == (app.RUN, "INFO")
    assert run["grants"] == {
        "deals": ["renewed", "2025-03-01T13:00:00Z", "default", "read:deals"],
        "users": ["not_due", "2025-03-01T13:00:00Z", "default", "read:users"],
    }
    assert {name: renewed[name] for name in set(renewed) - POWERTOOLS - LAMBDA} == {
        "grant": "deals",
        "scope": "read:deals",
        "connection": "default",
        "secret_version": "v1",
        "seconds_left": 3600,
        **RENEWED,
    }
    assert (renewed["message"], renewed["level"]) == ("grant renewed", "INFO")
    assert renewed["function_request_id"] == function.context.aws_request_id


def test_idle_run_leaves_one_line_however_many_grants_there_are(
    function: Function, output: Output
) -> None:
    function.broker.store.tokens["deals"] = stored("fresh too")
    function({})
    [line] = output.lines()
    assert [facts[0] for facts in line["grants"].values()] == ["not_due", "not_due"]


def test_line_of_a_run_is_divided_before_it_is_too_long_for_a_log_event(
    output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "GRANTS_A_LINE", 2)
    outcome = Outcome(grant="", state=State.NOT_DUE)
    app._log_run([replace(outcome, grant=name) for name in ("a", "b", "c")])
    assert [list(line["grants"]) for line in output.lines()] == [["a", "b"], ["c"]]


def test_forced_run_renews_the_named_grant_alone(function: Function) -> None:
    function.broker.store.tokens["deals"] = stored("fresh too")
    assert function(event("forced_refresh.json")) == {
        "grants": {"deals": RENEWED | {"renew_reason": "forced"}}
    }
    assert function.broker.endpoint.scopes == ["read:deals"]


@pytest.mark.parametrize("name", ["secret_changed_cloudtrail.json", "secret_label_updated.json"])
def test_changed_secret_renews_what_was_issued_for_another(function: Function, name: str) -> None:
    function.broker.store.tokens["users"] = stored(
        "old", left=60, scope=("read:users",), secret_version="v0"
    )
    summary = function(event(name))
    assert [facts["state"] for facts in summary["grants"].values()] == ["renewed", "renewed"]


def test_failed_grant_fails_the_invocation_after_the_others_are_told(
    function: Function, output: Output
) -> None:
    function.broker.endpoint.responses["read:deals"] = rejection("invalid_scope")
    with pytest.raises(
        RenewalFailed, match=r"^not renewed: deals: the token endpoint returned invalid_scope$"
    ):
        function({"force": True})
    run, failed, renewed = output.lines()
    assert [facts[:2] for facts in run["grants"].values()] == [
        ["failed", ""],
        ["renewed", "2025-03-01T13:00:00Z"],
    ]
    assert (failed["level"], failed["reason"]) == ("ERROR", "invalid_scope")
    assert failed["cause"] == "the token endpoint returned invalid_scope"
    assert (failed["retry_at"], failed["seconds_left"]) == ("2025-03-01T12:00:55Z", 0)
    assert set(failed) - POWERTOOLS - LAMBDA <= AUDIT | OUTPUT | {"attempts"}
    assert renewed["state"] == "renewed"
    assert metrics(output) == [
        {
            "Renewed": [1.0],
            "RenewalFailed": [1.0],
            "SecondsToExpiry": [0.0],
            "DueWindowLeft": [0.0],
        }
    ]


def test_grant_that_waits_after_a_refusal_is_counted_as_failed(
    function: Function, output: Output
) -> None:
    function.broker.endpoint.responses["read:deals"] = rejection("invalid_scope")
    for _ in range(2):
        with pytest.raises(RenewalFailed):
            function({})
    waiting = output.lines()[3]
    assert (waiting["level"], waiting["message"]) == ("ERROR", "grant waiting")
    assert waiting["retry_at"] == "2025-03-01T12:00:55Z"
    assert [m["RenewalFailed"] for m in metrics(output) if "RenewalFailed" in m] == [[1.0], [1.0]]


def test_grants_that_wait_or_are_blocked_get_a_line_once_and_are_in_every_runs_line(
    function: Function, output: Output
) -> None:
    function.broker.endpoint.responses["read:deals"] = rejection("invalid_scope")
    function.broker.store.faults["users"] = GrantBlocked("leaked on a screen")
    for _ in range(4):
        with pytest.raises(RenewalFailed):
            function({})
    runs = [line for line in output.lines() if line["message"] == app.RUN]
    assert [[facts[0] for facts in run["grants"].values()] for run in runs] == [
        ["failed", "blocked"],
        *3 * [["waiting", "blocked"]],
    ]
    assert [line["message"] for line in output.lines() if line["message"] != app.RUN] == [
        "grant failed",
        "grant blocked",
        "grant waiting",
    ]
    assert [m["RenewalFailed"] for m in metrics(output)] == 4 * [[1.0]]


def test_fallback_to_another_secret_is_warned_of_and_counted(
    function: Function, output: Output
) -> None:
    function.broker.secrets.put("v2", "bad")
    function.broker.secrets.put("v1", stage="AWSPREVIOUS")
    function.broker.endpoint.refused_secrets["bad"] = "invalid_client"
    summary = function({})["grants"]["deals"]
    assert summary == RENEWED | {"secret_stage": "AWSPREVIOUS", "attempts": 2}
    line = output.lines()[1]
    assert (line["level"], line["secret_version"]) == ("WARNING", "v1")
    assert metrics(output)[0]["SecretFallbackUsed"] == [1.0]


def test_healed_parameter_is_warned_of(function: Function, output: Output) -> None:
    function.broker.store.faults["deals"] = CorruptStoredToken("no token")
    assert function({})["grants"]["deals"] == RENEWED | {
        "renew_reason": "corrupt",
        "reason": "corrupt_parameter",
    }
    assert output.lines()[1]["level"] == "WARNING"
    assert metrics(output)[0]["CorruptToken"] == [1.0]
    assert not any("RenewalFailed" in metric for metric in metrics(output))


def test_blocked_grant_is_counted(function: Function, output: Output) -> None:
    function.broker.store.faults["deals"] = GrantBlocked("leaked on a screen")
    assert function({})["grants"]["deals"]["state"] == "blocked"
    assert metrics(output)[0]["Blocked"] == [1.0]
    assert not any("RenewalFailed" in metric for metric in metrics(output))


def test_sound_parameter_is_not_told_as_corrupt(function: Function, output: Output) -> None:
    function({"force": True})
    assert not any("CorruptToken" in metric for metric in metrics(output))


@pytest.mark.parametrize(
    ("left", "shown", "window"), [(-90, 0, 0), (300, 300, 50), (600, 600, 100)]
)
def test_token_that_cannot_be_renewed_shows_what_is_left_of_it(
    function: Function, output: Output, left: float, shown: float, window: float
) -> None:
    function.broker.store.tokens["users"] = stored(left=left, age=3600, scope=("read:users",))
    function.broker.endpoint.responses["read:users"] = rejection("invalid_scope")
    with pytest.raises(RenewalFailed):
        function({"grants": ["users"]})
    assert metrics(output) == [
        {"RenewalFailed": [1.0], "SecondsToExpiry": [shown], "DueWindowLeft": [window]}
    ]


def test_token_that_cannot_be_read_is_not_said_to_have_expired(
    function: Function, output: Output
) -> None:
    function.broker.store.faults["users"] = client_error("ThrottlingException", "GetParameter")
    with pytest.raises(RenewalFailed):
        function({"grants": ["users"]})
    assert metrics(output) == [{"RenewalFailed": [1.0]}]


def test_fault_that_quotes_secrets_is_told_without_them(function: Function, output: Output) -> None:
    denied = client_error("AccessDeniedException", "PutParameter")
    function.broker.store.unwritable["deals"] = denied
    function.broker.endpoint.responses["read:users"] = ValueError(f"{SECRET} {TOKEN} {VERSION}")
    with pytest.raises(RenewalFailed) as caught:
        function({"force": True})
    assert "PutParameter was refused by AWS: AccessDeniedException" in str(caught.value)
    assert not leaks(str(caught.value), output.text())


def test_time_to_report_is_kept_back(function: Function, output: Output) -> None:
    function.context.milliseconds = 16_999
    assert function({})["grants"]["deals"] == {
        "state": "deferred",
        "renew_reason": "missing",
    }
    assert (output.lines()[1]["level"], output.lines()[1]["state"]) == ("INFO", "deferred")
    assert metrics(output)[0]["Deferred"] == [1.0]
    function.context.milliseconds = 17_000
    assert function({})["grants"]["deals"]["state"] == "renewed"


@pytest.mark.parametrize("given", [{"forced": True}, {"grants": ["invoices"]}, "deals"])
def test_event_that_is_not_understood_fails(function: Function, given: object) -> None:
    with pytest.raises(InvalidRequest):
        function(given)
    assert function.broker.store.reads == []


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in {
        "TOKEN_URL": "https://api.example/oauth2/token",
        "SECRET_PREFIX": "stack/connections/",
        "TOKEN_PARAMETER_PREFIX": "/enable-tokens/stack",
        "TOKEN_KEY_ARN": "key-arn",
        "REFRESH_AHEAD_SECONDS": "900",
        "RENEWAL_PARALLELISM": "5",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "key",
    }.items():
        monkeypatch.setenv(name, value)
    app._refresher.cache_clear()
    yield
    app._refresher.cache_clear()


def test_wiring_follows_the_environment_and_is_done_once(environment: None) -> None:
    refresher = app._refresher()
    assert app._refresher() is refresher
    assert (refresher.refresh_ahead, refresher.parallelism) == (seconds(900), 5)
    assert set(refresher.grants) == {"deals", "activity", "users", "reporting"}
    assert {name: endpoint.url for name, endpoint in refresher.endpoints.items()} == {
        "default": "https://api.example/oauth2/token"
    }
    store, states = cast("Any", refresher.store), cast("Any", refresher.states)
    reader = cast("Any", refresher.reader)
    assert (reader._ssm, reader._store, reader._states) == (store._ssm, store, states)
    assert store.key_id == "key-arn"
    with Stubber(store._ssm) as ssm:
        ssm.add_client_error(
            "get_parameter",
            "ParameterNotFound",
            expected_params={"Name": "/enable-tokens/stack/deals", "WithDecryption": True},
        )
        ssm.add_client_error(
            "get_parameter",
            "ParameterNotFound",
            expected_params={"Name": "/enable-tokens/stack/connections/default"},
        )
        assert store.read("deals") is None
        assert states._ssm is store._ssm
        assert states.read("default").version == 0
    assert refresher.secrets.connection_of("stack/connections/uat") == "uat"
    secrets = cast("Any", refresher.secrets)._secrets
    assert secrets.meta.service_model.service_name == "secretsmanager"


def test_every_connection_of_the_file_has_its_endpoint_and_all_share_an_http_client(
    environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    uat = Connection(token_url="https://uat.example/oauth2/token")
    file = GrantsFile(
        grants={"deals": Grant(scope=("a",), connection="uat")}, connections={"uat": uat}
    )
    monkeypatch.setattr(app, "load_grants_file", lambda: file)
    endpoints = cast("Any", app._refresher().endpoints)
    assert {name: endpoint.url for name, endpoint in endpoints.items()} == {
        "default": "https://api.example/oauth2/token",
        "uat": "https://uat.example/oauth2/token",
    }
    assert endpoints["uat"]._http is endpoints["default"]._http


def test_unset_variable_fails_the_invocation_by_its_name(
    environment: None, monkeypatch: pytest.MonkeyPatch, output: Output
) -> None:
    monkeypatch.delenv("TOKEN_URL")
    with pytest.raises(ConfigurationError, match="TOKEN_URL is not set"):
        app.lambda_handler({}, FakeContext())
    (line,) = output.lines()
    assert (line["level"], line["message"]) == ("ERROR", app.NOT_STARTED)
    assert line["reason"] == "ConfigurationError"
    assert "TOKEN_URL is not set" in line["cause"]
