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
from local.callers import assume_role, create_user
from local.embedded_aws import REGION
from local.fake_enable import Client, FakeEnable
from tests.deployed.conftest import Deployed
from tests.deployed.test_7_grants_layer import code
from tests.node_client import BUILT, is_built
from tools import release

ACCOUNT = "666677778889"
CDK_ACCOUNT = "666677770000"
CDK = ROOT / ".venv-cdk"
NO_CDK = "node or aws-cdk-lib is missing: `make cdk-check` installs aws-cdk-lib into .venv-cdk"
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


def architecture() -> str:
    return "arm64" if platform.machine() in {"arm64", "aarch64"} else "x86_64"


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
    adopter.broker(
        "deploy",
        "--bucket",
        BUCKET,
        f"TokenUrl={enable.token_url}",
        "RefreshSchedule=rate(1 hour)",
        f"Architecture={architecture()}",
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


def synthesise(dist: Path, out: Path, **properties: str) -> str:
    """Synthesise the construct of iac/cdk, compare it with the release; the name of the stack."""
    given = [f"{name}={value}" for name, value in properties.items()]
    run = subprocess.run(
        [CDK / "bin/python", ROOT / "iac/cdk/check.py", dist, out, *given],
        env=os.environ
        | {
            "CDK_VALIDATION": "false",  # eight seconds of rules; the deployment shows more
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    (name,) = (file.name.partition(".")[0] for file in out.glob("*.assets.json"))
    return name


def deploy_assembly(stack: BrokerStack, out: Path) -> None:
    """What `cdk bootstrap` and `cdk deploy` do: a bucket, the assets, a change set."""

    def here(text: str) -> str:
        named = {"${AWS::AccountId}": stack.account, "${AWS::Region}": REGION}
        for name, value in named.items():
            text = text.replace(name, value)
        return text

    s3, cloudformation = (stack.administrator.client(n) for n in ("s3", "cloudformation"))
    properties = json.loads((out / "manifest.json").read_text())["artifacts"][stack.name]
    properties = properties["properties"]
    stack.administrator.client("ssm").put_parameter(
        Name=properties["bootstrapStackVersionSsmParameter"], Value="30", Type="String"
    )
    template = here(properties["stackTemplateAssetObjectUrl"]).removeprefix("s3://")
    bucket = template.partition("/")[0]
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    for file in json.loads((out / f"{stack.name}.assets.json").read_text())["files"].values():
        (target,) = file["destinations"].values()
        content = (out / file["source"]["path"]).read_bytes()
        s3.put_object(Bucket=here(target["bucketName"]), Key=target["objectKey"], Body=content)
    change = {"StackName": stack.name, "ChangeSetName": "cdk-deploy-change-set"}
    cloudformation.create_change_set(
        **change,
        ChangeSetType="CREATE",
        TemplateURL=f"{s3.meta.endpoint_url}/{template}",
        Capabilities=["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"],
    )
    quickly = {"Delay": 1, "MaxAttempts": 120}
    cloudformation.get_waiter("change_set_create_complete").wait(**change, WaiterConfig=quickly)
    cloudformation.execute_change_set(**change)
    created = cloudformation.get_waiter("stack_create_complete")
    created.wait(StackName=stack.name, WaiterConfig=quickly)


@pytest.mark.skipif(not (CDK / ".installed").exists() or not shutil.which("node"), reason=NO_CDK)
def test_construct_is_deployed_and_grant_read_allows_one_grant(
    adopter: Adopter, stack: BrokerStack, enable: FakeEnable, enable_client: Client, tmp_path: Path
):
    built = synthesise(
        adopter.folder / "dist",
        tmp_path / "cdk.out",
        token_url=enable.token_url,
        architecture=architecture(),
        refresh_schedule="rate(1 hour)",
        alarm_email="ops@example.com",
    )
    own = BrokerStack(stack.aws, account=CDK_ACCOUNT, source=stack.source, stage="prod")
    assert built == own.name
    deploy_assembly(own, tmp_path / "cdk.out")
    mine = {name for name in own.outputs if name.startswith("My")}
    assert len(mine) == 5
    assert [n for n in mine if own.outputs[n] != own.outputs[n.removeprefix("My")]] == []
    own.store_secret(enable_client)
    renewed = own.refresh({"grants": ["deals", "users"]})["grants"]
    assert set(renewed) == {"deals", "users"}
    job = assume_role(own.administrator, own.outputs["JobRoleArn"])
    allowed = own.api.get("/tokens/deals", job)
    assert allowed.status == 200
    assert allowed.access_token in enable.issued_tokens()
    reported = {"method": "POST", "body": b'{"fingerprint": "0123456789ab"}'}
    assert own.api.request("/tokens/deals/rejection", job, **reported).status == 200
    refused = [own.api.get(path, job) for path in ("/tokens/users", "/tokens/dealsx", "/grants")]
    refused.append(own.api.request("/tokens/users/rejection", job, **reported))
    assert {response.status for response in refused} == {403}
