"""One deployment of the very template for the whole run, with some grants more."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from botocore.credentials import Credentials

from broker_cli.api import Response
from local.broker_stack import ROOT, BrokerStack, wait_until
from local.callers import create_role, create_user
from local.embedded_aws import ACCOUNT, EmbeddedAws
from local.fake_enable import Client, FakeEnable
from tests.deployed.leaks import BROKEN_OFF, all_places, leaks, log_groups

LIFETIME = timedelta(seconds=20)
FULL_RUN_ACCOUNT = "222233334444"
STANDARD_GRANTS = ("deals", "activity", "users", "reporting", "locked")
MORE_GRANTS = f"""
[grants.locked]
scope = ["read:deals"]
callers = [
    "arn:aws:iam::{ACCOUNT}:role/locked-*",
    "arn:aws:iam::{ACCOUNT}:user/ops/keyholder",
    "arn:aws:iam::{FULL_RUN_ACCOUNT}:role/locked-*",
]

[grants.tried-out]
scope = ["read:users", "read:deals"]
callers = ["arn:aws:iam::{ACCOUNT}:role/nobody-yet"]
mode = "audit"

[grants.forbidden]
scope = ["read:everything"]

[connections.uat]
token_url = "{{uat_token_url}}"

[grants.uat-deals]
scope = ["read:deals"]
connection = "uat"
"""


UAT_CLIENT = Client(
    client_id="uat", client_secret="uat-only", dealtrack_registration_id="uat-registration"
)


@dataclass(frozen=True)
class Deployed:
    stack: BrokerStack
    enable: FakeEnable
    callers: dict[str, Credentials]

    def get(self, path: str, caller: str | None, **more: str):
        return self.stack.api.request(path, self.callers[caller] if caller else None, **more)


@pytest.fixture(scope="session")
def uat() -> Iterator[FakeEnable]:
    """A second Enable instance, with credentials of its own."""
    with FakeEnable(UAT_CLIENT, token_lifetime=LIFETIME) as fake_enable:
        yield fake_enable


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory, uat: FakeEnable) -> Path:
    """What is deployed: the working tree's own files, grants.toml with some grants more."""
    folder = tmp_path_factory.mktemp("source")
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("layers", "functions", "clients"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for name in ("template.yaml", "samconfig.toml", "Makefile", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "requirements", folder / "requirements")
    (folder / ".venv").symlink_to(ROOT / ".venv")
    with (folder / "layers/grants/grants.toml").open("a") as grants:
        grants.write(MORE_GRANTS.format(uat_token_url=uat.token_url))
    return folder


def build_once(stack: BrokerStack, shared: Path) -> None:
    """Build, or copy what another worker has built: only the grants differ."""
    with (shared / "sam-build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        built = shared / "sam-build"
        if not built.exists():
            stack.build()
            pack(stack.build_folder, stack.source)
            shutil.copytree(stack.build_folder, built)
            return
    shutil.copytree(built, stack.build_folder)
    grants = stack.source / "layers/grants/grants.toml"
    shutil.copy(grants, stack.build_folder / "GrantsLayer/python")


def pack(build: Path, source: Path) -> None:
    """Do once what each `sam deploy` of a build does: zip what is large, and read YAML.

    `make up` and `make demo` deploy what `sam build` leaves.
    """
    from samcli.lib.package.utils import make_zip_with_lambda_permissions  # noqa: PLC0415
    from samcli.yamlhelper import yaml_parse  # noqa: PLC0415

    file = build / "template.yaml"
    template = yaml_parse(file.read_text(encoding="utf-8"))
    for artifact, uri in {"SharedLayer": "ContentUri", "TokenRefresherFunction": "CodeUri"}.items():
        make_zip_with_lambda_permissions(build / artifact, build / artifact)
        template["Resources"][artifact]["Properties"][uri] = f"{artifact}.zip"
    application = template["Metadata"]["AWS::ServerlessRepo::Application"]
    application |= {"LicenseUrl": f"{source}/LICENSE", "ReadmeUrl": f"{source}/README.md"}
    file.write_text(json.dumps(template, indent=1), encoding="utf-8")


@pytest.fixture(scope="session")
def deployed(
    source: Path,
    embedded_aws: EmbeddedAws,
    enable_client: Client,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Deployed]:
    folder = tmp_path_factory.getbasetemp()
    with FakeEnable(enable_client, token_lifetime=LIFETIME) as enable:
        stack = BrokerStack(embedded_aws, source=source)
        is_worker = "PYTEST_XDIST_WORKER" in os.environ
        build_once(stack, folder.parent if is_worker else folder)
        stack.deploy(TokenUrl=enable.token_url, RefreshAheadSeconds="30")
        api, administrator = stack.api, stack.administrator
        callers = {
            "user for deals": create_user(administrator, "sync", api.policy("/tokens/deals")),
            "user for all": create_user(administrator, "everything", api.policy("/*", method="*")),
            "user keyholder": create_user(
                administrator, "keyholder", api.policy("/*", method="*"), path="/ops/"
            ),
            "user without policy": create_user(administrator, "newcomer", None),
            "role for all": create_role(
                administrator, "reporting-job", api.policy("/tokens/*"), path="/jobs/"
            ),
            "role for users": create_role(administrator, "hr-job", api.policy("/tokens/users")),
            "role locked": create_role(
                administrator, "locked-job", api.policy("/*", method="*"), path="/jobs/"
            ),
        }
        key = callers["user for deals"].access_key
        callers["wrong signature"] = Credentials(key, "not the secret key")
        yield Deployed(stack, enable, callers)
        # Each worker's own run, whatever tests it was given.
        secrets = [enable_client.client_secret, *enable.issued_tokens()]
        assert leaks(all_places(stack, source), secrets) == set()
        assert broken_off(stack) == []


def broken_off(stack: BrokerStack) -> list[str]:
    """The account's runs that ended with their environment.

    Such a refresh run leaves a lease, and for 55 seconds nothing is renewed: some other test fails.
    """
    return [group for group, text in log_groups(stack) if BROKEN_OFF in text]


def end_schedules(stack: BrokerStack) -> None:
    """Start no run of an account whose tests are over; its logs stay for the search for secrets."""
    scheduler = stack.administrator.client("scheduler")
    for schedule in scheduler.list_schedules()["Schedules"]:
        scheduler.delete_schedule(Name=schedule["Name"])


@dataclass(frozen=True)
class BeforeTheSecret:
    """What a deployment without a secret returned.

    Attributes:
        caller: the response to one who may have a token.
        operator: the error of a run.
        token_requests: how many Enable had received.
    """

    caller: Response
    operator: dict[str, object]
    token_requests: int


@pytest.fixture(scope="session")
def before_the_secret(deployed: Deployed) -> BeforeTheSecret:
    """Looked at before any other test can store one."""
    return BeforeTheSecret(
        caller=deployed.get("/tokens/deals", "user for deals"),
        operator=deployed.stack.refresh({}),
        token_requests=len(deployed.enable.token_requests),
    )


@pytest.fixture(scope="session")
def renewed(
    deployed: Deployed, enable_client: Client, before_the_secret: BeforeTheSecret
) -> Deployed:
    """The deployment once the schedule, and nothing else, has brought the first tokens."""
    deployed.stack.store_secret(enable_client)
    wait_until(
        lambda: all(deployed.stack.stored_since(grant) for grant in STANDARD_GRANTS),
        seconds=60,
        what="the schedule to renew the grants",
    )
    return deployed
