"""`make acceptance` on the embedded AWS: its whole run, and one that is interrupted."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from local.broker_stack import ROOT, wait_until
from local.embedded_aws import REGION
from local.fake_enable import Client, FakeEnable
from tests.deployed.conftest import Deployed
from tools.acceptance.account import ROLE
from tools.acceptance.life import ONE, TWO

pytestmark = [pytest.mark.timeout(1500), pytest.mark.slow("six deployments, one after the other")]

SECOND_REGION = "eu-central-1"
RUN = """
import runpy
from tests.forked_sam import run_forked_sam
from tools.acceptance import account
account.run_sam = run_forked_sam
runpy.run_module("tools.acceptance", run_name="__main__")
"""
PLACES = [(ONE, REGION), (TWO, REGION), (ONE, SECOND_REGION)]


@contextmanager
def started(
    deployed: Deployed, enable: FakeEnable, *arguments: str
) -> Iterator[subprocess.Popen[str]]:
    """A run as the account's administrator, with the artifacts that are deployed."""
    own = deployed.stack.aws.environ(deployed.stack.account)
    environ = {**own, "TMPDIR": str(deployed.stack.aws.folder / "tmp"), "NO_COLOR": "1"}
    typed = ["--yes", "--read-only", "--region", REGION, "--second-region", SECOND_REGION]
    typed += ["--build-dir", str(deployed.stack.build_folder)]
    typed += ["--parameter", f"TokenUrl={enable.token_url}"]
    typed += ["--parameter", "Architecture=x86_64", "--parameter", "RefreshAheadSeconds=30"]
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, *typed, *arguments],
        cwd=ROOT,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()


def there(deployed: Deployed) -> list[str]:
    """What there is of a run: stacks in either Region, the role, tokens and layers."""
    administrator, found = deployed.stack.administrator, []
    for stack, region in PLACES:
        stacks = administrator.client("cloudformation", region_name=region).describe_stacks()
        found += [s["StackName"] for s in stacks["Stacks"] if s["StackName"] == stack]
        kept = administrator.client("ssm", region_name=region).describe_parameters()["Parameters"]
        found += [p["Name"] for p in kept if f"/{stack}/" in p["Name"]]
        layers = administrator.client("lambda", region_name=region).list_layer_versions(
            LayerName=f"{stack}-client"
        )
        found += [version["LayerVersionArn"] for version in layers["LayerVersions"]]
    roles = administrator.client("iam").list_roles()["Roles"]
    return found + [role["RoleName"] for role in roles if role["RoleName"] == ROLE]


@pytest.fixture
def credentials(tmp_path: Path, enable_client: Client) -> Path:
    file = tmp_path / "enable.json"
    file.write_text(enable_client.secret_json(), encoding="utf-8")
    return file


def test_stacks_live_side_by_side_by_few_rights_and_nothing_is_left(
    deployed: Deployed, enable: FakeEnable, credentials: Path
):
    with started(deployed, enable, "--credentials", str(credentials)) as process:
        output, _ = process.communicate()
    assert process.returncode == 0, output
    assert "✗" not in output
    assert "all was as promised" in output
    assert output.count("is served after") == 5
    assert output.count(": nothing is broken: ") == 1 + 2 + 3 + 3 + 2 + 3
    assert there(deployed) == []


def test_interrupted_run_removes_what_it_made(deployed: Deployed, enable: FakeEnable):
    with started(deployed, enable) as process:
        wait_until(lambda: ONE in there(deployed), seconds=600, what="the first stack")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate()
    assert process.returncode == 130, output
    assert "removing everything" in output
    assert there(deployed) == []
