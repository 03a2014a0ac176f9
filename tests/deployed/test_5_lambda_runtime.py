"""Both built artifacts as Lambda runs them: what they return, and every line that they log."""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import jsonschema
import pytest

from local.broker_stack import ROOT
from tests.deployed.conftest import Deployed

pytest.importorskip("awslambdaric", reason="Lambda's runtime client is for Linux alone")
from tests.deployed.lambda_runtime import Logs, Result, Sandbox

EMF = json.loads(Path(__file__).with_name("emf_schema.json").read_text(encoding="utf-8"))
FUNCTIONS = {
    "TokenRefresherFunction": "token_refresher.app.lambda_handler",
    "TokenVendorFunction": "token_vendor.app.lambda_handler",
}
LAYERS = ("SharedLayer", "GrantsLayer")
LOG_SETTINGS = {
    "Text": {"AWS_LAMBDA_LOG_FORMAT": "Text"},
    "JSON": {"AWS_LAMBDA_LOG_FORMAT": "JSON", "AWS_LAMBDA_LOG_LEVEL": "INFO"},
}
TIME_TO_REPORT_SECONDS = 2
UNFINISHED = {"grants": ["deals", "users"]}


@dataclass(frozen=True)
class Lambda:
    """Starts environments of the deployed functions, all with one log format.

    Attributes:
        log_format: `Text` or `JSON`.
        prefix: of the parameters that they read and write: these tests' own.
    """

    deployed: Deployed
    log_format: str
    prefix: str
    new_folder: Callable[[], Path]

    def sandbox(self, function: str, **environ: str) -> Sandbox:
        stack = self.deployed.stack
        name = stack.resource(function)
        client = stack.administrator.client("lambda")
        settings = client.get_function_configuration(FunctionName=name)["Environment"]["Variables"]
        role = stack.function_credentials(name)
        return Sandbox(
            python=stack.aws.folder / "lambda-python" / "bin" / "python",
            code=[
                stack.build_folder / function,
                *(stack.build_folder / layer / "python" for layer in LAYERS),
            ],
            handler=FUNCTIONS[function],
            environ=settings
            | LOG_SETTINGS[self.log_format]
            | {
                "AWS_ENDPOINT_URL": stack.aws.endpoint_url,
                "AWS_REGION": "eu-west-1",
                "AWS_DEFAULT_REGION": "eu-west-1",
                "AWS_ACCESS_KEY_ID": role.access_key,
                "AWS_SECRET_ACCESS_KEY": role.secret_key,
                "AWS_SESSION_TOKEN": role.token or "",
                "AWS_LAMBDA_FUNCTION_NAME": name,
                "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
                "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
                "TOKEN_PARAMETER_PREFIX": self.prefix,
            }
            | environ,
            folder=self.new_folder(),
        )


@pytest.fixture(scope="module", params=LOG_SETTINGS)
def runtime(
    renewed: Deployed, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Lambda:
    prefix = f"{renewed.stack.outputs['TokenParameterPrefix']}/runtime-{request.param}"
    return Lambda(renewed, request.param, prefix, lambda: tmp_path_factory.mktemp("sandbox"))


@dataclass(frozen=True)
class Seen:
    results: list[Result]
    logs: Logs


@pytest.fixture(scope="module")
def refresher(runtime: Lambda) -> Seen:
    """A cold start that renews two grants, a warm run, a bad event."""
    with runtime.sandbox("TokenRefresherFunction") as sandbox:
        results = [
            sandbox.invoke({"grants": ["deals", "reporting"]}),
            sandbox.invoke({"grants": ["deals"]}),
            sandbox.invoke({"grant": "deals"}),
        ]
        return Seen(results, sandbox.logs())


@pytest.fixture(scope="module")
def vendor(runtime: Lambda, refresher: Seen) -> Seen:
    """A cold start that vends what that refresher stored, an unknown grant, a bad event."""
    event = json.loads((ROOT / "events" / "get_token_by_role.json").read_text())
    event |= {"path": "/tokens/deals", "pathParameters": {"grant": "deals"}}
    unknown = json.loads((ROOT / "events" / "get_unknown_grant.json").read_text())
    with runtime.sandbox("TokenVendorFunction") as sandbox:
        results = [sandbox.invoke(e) for e in (event, event, unknown, ["not an event"])]
        return Seen(results, sandbox.logs())


@pytest.fixture
def silent_enable() -> Iterator[socket.socket]:
    """Accepts connections, and sends nothing on them."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        server.settimeout(60)
        yield server


def records(logs: Logs) -> list[dict]:
    """Every line of standard output; each is one JSON object, or the test fails."""
    found = [json.loads(line) for line in logs.output]
    assert all(isinstance(record, dict) for record in found)
    return found


def check(runtime: Lambda, seen: Seen) -> None:
    """Check what every environment's log must satisfy."""
    assert seen.logs.errors == ""
    found = records(seen.logs)
    assert not [r for r in found if r.get("logger", "").startswith(("botocore", "urllib3"))]
    for record in found:
        if "_aws" in record:
            check_metrics(record)
        else:
            assert {"level", "message", "service", "timestamp"} <= record.keys()
    failed = [result.body for result in seen.results if result.kind != "response"]
    assert len(seen.logs.runtime) == len(failed)  # the runtime's own report, once each, and no more
    for report, error in zip(seen.logs.runtime, failed, strict=True):
        if runtime.log_format == "JSON":
            assert json.loads(report)["errorMessage"] == error["errorMessage"]
        else:
            assert report.startswith(f"[ERROR] {error['errorType']}: {error['errorMessage']}")
    messages = [line for line in seen.logs.output if '"_aws"' not in line]
    assert len(set(messages)) == len(messages)
    written = "\n".join([*seen.logs.output, *seen.logs.runtime])
    assert not [t for t in runtime.deployed.enable.issued_tokens() if t in written]


def check_metrics(record: dict) -> None:
    """The documented schema, and its rules on target members that no schema expresses."""
    jsonschema.validate(record, EMF)
    for directive in record["_aws"]["CloudWatchMetrics"]:
        for dimension in {name for names in directive["Dimensions"] for name in names}:
            assert isinstance(record[dimension], str)
            assert 1 <= len(record[dimension]) <= 1024
        for metric in directive["Metrics"]:
            values = record[metric["Name"]]
            values = values if isinstance(values, list) else [values]
            assert 1 <= len(values) <= 100
            assert all(type(value) in {int, float} for value in values)


def test_refresher_renews_once_and_refuses_a_bad_event(refresher: Seen):
    first, second, bad = refresher.results
    assert {g: f["state"] for g, f in first.body["grants"].items()} == {
        "deals": "renewed",
        "reporting": "renewed",
    }
    assert first.kind == second.kind == "response"
    assert (bad.kind, bad.body["errorType"]) == ("error", "InvalidRequest")


def test_vendor_vends_what_the_refresher_stored(runtime: Lambda, vendor: Seen):
    assert [r.body["statusCode"] for r in vendor.results] == [200, 200, 404, 403]
    token = json.loads(vendor.results[0].body["body"])["access_token"]
    assert token in runtime.deployed.enable.issued_tokens()


def test_each_line_is_one_json_object_of_ours(runtime: Lambda, refresher: Seen, vendor: Seen):
    check(runtime, refresher)
    check(runtime, vendor)


def test_nothing_is_logged_twice(refresher: Seen, vendor: Seen):
    def logged(seen: Seen, message: str) -> int:
        return sum(record.get("message") == message for record in records(seen.logs))

    assert logged(refresher, "grant renewed") == 2 + sum(
        f["state"] == "renewed" for f in refresher.results[1].body["grants"].values()
    )
    counted = [sum(record.get("Renewed", ())) for record in records(refresher.logs)]
    assert sum(counted) == logged(refresher, "grant renewed")
    assert logged(refresher, "refresh run") == 2
    assert logged(vendor, "token vended") == 2
    assert logged(vendor, "token refused") == 2
    assert not any("Vended" in record for record in records(vendor.logs))  # counted from the line


def test_run_without_a_response_from_enable_ends_before_its_timeout(
    runtime: Lambda, silent_enable: socket.socket
):
    url = f"http://127.0.0.1:{silent_enable.getsockname()[1]}/oauth2/token"
    prefix = f"{runtime.prefix}-slow"
    with runtime.sandbox(
        "TokenRefresherFunction", TOKEN_URL=url, TOKEN_PARAMETER_PREFIX=prefix
    ) as sandbox:
        result = sandbox.invoke(UNFINISHED, seconds=TIME_TO_REPORT_SECONDS + 3)
        states = {facts["state"] for facts in result.body["grants"].values()}
        assert (result.kind, states) == ("response", {"deferred"})
        check(runtime, Seen([result], sandbox.logs()))


def test_run_that_lambda_ends_leaves_whole_lines(runtime: Lambda, silent_enable: socket.socket):
    url = f"http://127.0.0.1:{silent_enable.getsockname()[1]}/oauth2/token"
    prefix = f"{runtime.prefix}-ended"
    with runtime.sandbox(
        "TokenRefresherFunction", TOKEN_URL=url, TOKEN_PARAMETER_PREFIX=prefix
    ) as sandbox:
        bad = sandbox.invoke({"grant": "deals"})
        sandbox.send(UNFINISHED)
        with closing(silent_enable.accept()[0]):  # the run waits for Enable
            sandbox.kill()
        check(runtime, Seen([bad], sandbox.logs()))
