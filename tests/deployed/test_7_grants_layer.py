"""Grants from a layer that is given: the code stays as it is, and a faulty layer is named."""

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.credentials import Credentials
from typer.testing import CliRunner, Result

from broker_cli.failures import ExitCode
from broker_cli.main import app
from local.broker_stack import BrokerStack
from local.callers import create_user
from local.fake_enable import Client, FakeEnable
from tests.deployed.conftest import Deployed

ACCOUNT = "444455556667"
FUNCTIONS = ("TokenRefresherFunction", "TokenVendorFunction")
OWN_GRANTS = '[grants.own-deals]\nscope = ["read:deals"]\n'


@pytest.fixture(scope="module")
def stack(deployed: Deployed, enable_client: Client) -> Iterator[BrokerStack]:
    aws = deployed.stack.aws
    stack = BrokerStack(aws, account=ACCOUNT, source=deployed.stack.source)
    with FakeEnable(enable_client) as enable:
        stack.deploy(TokenUrl=enable.token_url, RefreshSchedule="rate(1 hour)")
        stack.store_secret(enable_client)
        stack.refresh({"force": True, "grants": ["deals"]})
        yield stack


@pytest.fixture(scope="module")
def caller(stack: BrokerStack) -> Credentials:
    return create_user(stack.administrator, "caller", stack.api.policy("/*", method="*"))


def broker(stack: BrokerStack, *arguments: str) -> Result:
    environ = stack.aws.environ(ACCOUNT) | {"BROKER_STACK": stack.name}
    return CliRunner().invoke(app, arguments, env=environ, prog_name="broker")


def code(stack: BrokerStack) -> dict[str, str]:
    """The hash of each function's code, and the version of SharedLayer."""
    client = stack.administrator.client("lambda")
    found = {}
    for function in FUNCTIONS:
        configuration = client.get_function_configuration(FunctionName=stack.resource(function))
        found[function] = configuration["CodeSha256"]
        layers = [layer["Arn"] for layer in configuration["Layers"]]
        (found["SharedLayer"],) = [arn for arn in layers if ":SharedLayer" in arn]
    return found


def attach(stack: BrokerStack, function: str, files: dict[str, str]) -> None:
    """Replace the grants layer of a function by one with these files."""
    client, content = stack.administrator.client("lambda"), io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    layer = client.publish_layer_version(
        LayerName="by-hand", Content={"ZipFile": content.getvalue()}
    )["LayerVersionArn"]
    client.update_function_configuration(
        FunctionName=stack.resource(function), Layers=[code(stack)["SharedLayer"], layer]
    )


def test_change_of_grants_deploys_no_code(stack: BrokerStack, tmp_path: Path):
    before = code(stack)
    file = tmp_path / "grants.toml"
    file.write_text(OWN_GRANTS)
    published = broker(stack, "grants", "publish", str(file))
    assert published.exit_code == ExitCode.OK, published.output
    name, _, arn = published.stdout.strip().partition("=")
    stack.deploy(**{name: arn})
    assert code(stack) == before
    assert set(stack.refresh({"force": True})["grants"]) == {"own-deals"}


@pytest.mark.parametrize(
    ("files", "cause"),
    [
        ({"grants.toml": OWN_GRANTS}, "no layer of the function contains python/grants.toml; "),
        (
            {"python/grants.toml": "[grants.own-deals]\nscope = 3\n"},
            "grants.toml is faulty: grants.own-deals: scope is not a list of texts; ",
        ),
    ],
)
def test_faulty_layer_stops_the_functions_names_itself_and_keeps_the_tokens(
    stack: BrokerStack, caller: Credentials, files: dict[str, str], cause: str
):
    stored = stack.stored_since("deals")
    for function in FUNCTIONS:
        attach(stack, function, files)
    failed = stack.refresh({})
    assert cause in str(failed["errorMessage"])
    assert stack.api.request("/tokens/deals", caller).status == 503
    for function in ("token-refresher", "token-vendor"):
        assert stack.logged(
            function, lambda r: r.get("level") == "ERROR" and cause in str(r.get("cause"))
        )
    assert stored
    assert stack.stored_since("deals") == stored
    output = json.loads(broker(stack, "doctor", "--json").stdout)
    (found,) = [check for check in output["checks"] if check["check"] == "refresher"]
    assert found["verdict"] == "wrong"
    assert cause in found["found"]
