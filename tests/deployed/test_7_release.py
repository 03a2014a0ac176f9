"""A release without a clone: from an empty folder with dist/ alone, with grants of its own."""

import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from local.broker_stack import ROOT, BrokerStack
from local.callers import create_user
from local.embedded_aws import REGION
from local.fake_enable import Client, FakeEnable
from tests.deployed.conftest import Deployed
from tests.deployed.test_7_grants_layer import code
from tests.node_client import BUILT, is_built
from tools import release

ACCOUNT = "666677778889"
DOMAIN = "tokens.example.com"
CERTIFICATE = f"arn:aws:acm:{REGION}:{ACCOUNT}:certificate/01234567-89ab-cdef-0123-456789abcdef"
BUCKET = "releases-of-the-platform-team"
BROKER = "from broker_cli.main import main; main()"
GET_TOKEN = """
from enable_broker_client import TokenSource
source = TokenSource(os.environ["TOKEN_API_URL"], "first", host=os.environ["TOKEN_API_HOST"])
print(source.get())
"""
GET_TOKEN_BY_PROXY = """
import asyncio, aiohttp
from aiohttp import web
from enable_broker_client import TokenSource
from enable_broker_client.proxy import TOKEN_HEADER, Proxy, Settings

async def main():
    source = TokenSource(os.environ["TOKEN_API_URL"], "first", host=os.environ["TOKEN_API_HOST"])
    proxy = Proxy(source, Settings(origin="https://enable.example", has_token_route=True))
    runner = proxy.runner()
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession(headers={TOKEN_HEADER: "true"}) as session:
        async with session.get("http://{}:{}/token".format(*runner.addresses[0])) as response:
            print((await response.json())["access_token"])
    await runner.cleanup()

asyncio.run(main())
"""
GET_TOKEN_BY_NODE = """
import { TokenSource } from "./package/dist/index.js";
const { TOKEN_API_URL, TOKEN_API_HOST: host } = process.env;
console.log(await new TokenSource(TOKEN_API_URL, "first", { host }).get());
"""
OWN_GRANTS = "".join(
    f'[grants.{name}]\nscope = ["read:{scope}"]\n'
    for name, scope in (("first", "deals"), ("second", "users"), ("third", "activity"))
)


@dataclass(frozen=True)
class Adopter:
    """A folder with dist/, and a Python with the wheels, their dependencies and nothing else."""

    folder: Path
    environ: dict[str, str]

    def run(self, program: str, *arguments: str, **environ: str) -> str:
        path = [str(self.folder.parent / "site"), sysconfig.get_path("purelib")]
        start = f"import os, sys; sys.path[:0] = {path}; {program}"  # -S: no editable install
        run = subprocess.run(
            [sys.executable, "-I", "-S", "-c", start, *arguments],
            cwd=self.folder,
            env=self.environ | environ,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        return run.stdout

    def run_node(self, program: str, **environ: str) -> str:
        """Run a program beside the Node package of dist/ and its dependencies."""
        folder = self.folder.parent / "node"
        folder.mkdir()
        (package,) = (self.folder / "dist").glob("*.tgz")
        shutil.unpack_archive(package, folder, filter="data")
        (folder / "node_modules").symlink_to(BUILT / "node_modules")
        command = ["node", "--input-type=module", "-e", program]
        own = self.environ | environ | {"PATH": os.environ["PATH"]}
        run = subprocess.run(
            command, cwd=folder, env=own, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stderr
        return run.stdout

    def broker(self, *arguments: str) -> str:
        return self.run(BROKER, *arguments)

    def publish(self, grants: str) -> str:
        (self.folder / "grants.toml").write_text(grants)
        return self.broker("grants", "publish", "grants.toml").strip()


@pytest.fixture(scope="module")
def stack(deployed: Deployed) -> BrokerStack:
    return BrokerStack(
        deployed.stack.aws, account=ACCOUNT, source=deployed.stack.source, stage="prod"
    )


@pytest.fixture(scope="module")
def adopter(stack: BrokerStack, tmp_path_factory: pytest.TempPathFactory) -> Adopter:
    folder = tmp_path_factory.mktemp("adopter") / "empty"
    dist = folder / "dist"
    dist.mkdir(parents=True)
    names = release.write_artifacts(stack.build_folder, dist)
    release.write_template(ROOT, names, dist)
    release.write_wheels(ROOT, dist)
    if is_built():
        release.write_node(ROOT, dist)
    release.write_sums(dist)
    for wheel in dist.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder.parent / "site")
    own = stack.aws.environ(ACCOUNT)
    return Adopter(folder, {name: value for name, value in own.items() if name.startswith("AWS_")})


@pytest.fixture(scope="module")
def enable(enable_client: Client) -> Iterator[FakeEnable]:
    with FakeEnable(enable_client) as fake_enable:
        yield fake_enable


@pytest.mark.slow("a release is packed, deployed, and deployed again")
def test_release_is_deployed_with_own_grants_and_a_change_of_them_leaves_the_code(
    adopter: Adopter, stack: BrokerStack, enable: FakeEnable, enable_client: Client
):
    s3 = stack.administrator.client("s3")
    s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    architecture = "arm64" if platform.machine() in {"arm64", "aarch64"} else "x86_64"
    adopter.broker(
        "deploy",
        "--bucket",
        BUCKET,
        f"TokenUrl={enable.token_url}",
        "RefreshSchedule=rate(1 hour)",
        f"Architecture={architecture}",
        adopter.publish(OWN_GRANTS),
    )
    stack.store_secret(enable_client)
    assert set(stack.refresh({"force": True})["grants"]) == {"first", "second", "third"}
    caller = create_user(stack.administrator, "caller", stack.api.policy("/tokens/*"))
    as_caller = {
        "TOKEN_API_URL": f"{stack.api.endpoint_url}/{stack.api.stage}",
        "TOKEN_API_HOST": stack.api.host,
        "AWS_ACCESS_KEY_ID": caller.access_key,
        "AWS_SECRET_ACCESS_KEY": caller.secret_key,
    }
    tokens = [adopter.run(program, **as_caller) for program in (GET_TOKEN, GET_TOKEN_BY_PROXY)]
    if is_built():
        tokens.append(adopter.run_node(GET_TOKEN_BY_NODE, **as_caller))
    assert {token.strip() for token in tokens} <= {*enable.issued_tokens()}
    before, uploaded = code(stack), s3.list_objects_v2(Bucket=BUCKET)["Contents"]
    changed = adopter.publish(OWN_GRANTS.replace("third", "fourth"))
    domain = (f"DomainName={DOMAIN}", f"CertificateArn={CERTIFICATE}")
    assert "is deployed\n" in adopter.broker("deploy", changed, *domain)
    assert set(stack.refresh({"force": True})["grants"]) == {"first", "second", "fourth"}
    assert code(stack) == before
    assert s3.list_objects_v2(Bucket=BUCKET)["Contents"] == uploaded
    assert "nothing changed" in adopter.broker("deploy")
    by_domain = {"TOKEN_API_HOST": DOMAIN, "AWS_DEFAULT_REGION": REGION}
    token = adopter.run(GET_TOKEN, **(as_caller | by_domain))
    assert token.strip() in enable.issued_tokens()
    assert json.loads(adopter.broker("status", "--json"))["stack"] == stack.name
