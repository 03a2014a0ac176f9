"""The deployed broker that is soaked, with what stands around it."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

import boto3
import urllib3
from botocore.credentials import Credentials

from local.broker_stack import ROOT, BrokerStack
from local.callers import create_role, create_user
from local.embedded_aws import ACCOUNT, START_TIMEOUT_SECONDS, EmbeddedAws, free_port
from local.fake_enable import Client
from tests import fault_proxy
from tests.soak.enable import Enable
from tests.soak.record import Record

GRANTS: Final[Mapping[str, str]] = {
    "deals": "read:deals",
    "activity": "read:activity",
    "users": "read:users",
    "reporting": "read:activity read:deals read:users",
    "locked": "read:deals read:users",
}
"""By name, the scope, sorted: every one another, so that a request to Enable tells its grant."""

LOCKED: Final = f"""
[grants.locked]
scope = ["read:deals", "read:users"]
callers = ["arn:aws:iam::{ACCOUNT}:role/locked-*", "arn:aws:iam::{ACCOUNT}:user/ops/keyholder"]
"""
REFRESHER: Final = "RefreshFunctionName"
VENDOR: Final = "VendFunctionName"
RUNS_AT_A_TIME: Final = 4
"""The schedule waits for no slow machine, on which runs would pile up until nothing moves."""


class FaultProxy:
    """microburst between one function's AWS clients and the embedded AWS."""

    def __init__(self, upstream: str) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._pool = urllib3.PoolManager(retries=False, timeout=60.0)
        self._process = subprocess.Popen(
            fault_proxy.command(upstream, port),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,  # Ctrl-C is the soak's to handle
        )

    def wait_until_healthy(self) -> None:
        """Wait until it serves.

        Raises:
            TimeoutError: it does not.
        """
        ends = time.monotonic() + START_TIMEOUT_SECONDS
        while time.monotonic() < ends and self._process.poll() is None:
            with contextlib.suppress(urllib3.exceptions.HTTPError):
                if self._pool.request("GET", f"{self.url}/_microburst/health").status == 200:
                    return
            time.sleep(0.1)
        raise TimeoutError("microburst did not start")

    def follow(self, *rules: Mapping[str, Any]) -> None:
        """Inject these faults from now on, and no others."""
        self._pool.request("POST", f"{self.url}/_microburst/rules", json=list(rules))

    def fired(self) -> int:
        """How many requests met a fault since the last call."""
        fired = self._pool.request("GET", f"{self.url}/_microburst/fired").json()
        self._pool.request("DELETE", f"{self.url}/_microburst/fired")
        return len(fired)

    def close(self) -> None:
        """End it."""
        self._process.kill()  # asked to end, it would wait for the connections of the functions
        self._process.wait()
        self._pool.clear()


@dataclass(frozen=True, kw_only=True)
class Identity:
    """One IAM identity.

    Attributes:
        expects: what the record may show of it: `token`, or who refuses it: `iam`, `callers`.
        count: how many callers have it.
    """

    name: str
    grant: str
    expects: str
    count: int
    credentials: Credentials = field(repr=False)


@dataclass(kw_only=True)
class World:
    """All that a soak runs on.

    Attributes:
        secrets: Enable's client as the operator knows it, oldest secret first.
    """

    aws: EmbeddedAws
    stack: BrokerStack
    enable: Enable
    record: Record
    client: Client
    refresher_proxy: FaultProxy
    vendor_proxy: FaultProxy
    identities: list[Identity]

    @property
    def administrator(self) -> boto3.Session:
        """Whose hand is not the broker's."""
        return self.stack.administrator

    def parameter(self, grant: str) -> str:
        """The name of a grant's parameter."""
        return f"{self.stack.outputs['TokenParameterPrefix']}/{grant}"

    def kill(self, function: str) -> int:
        """Kill a function's environments as they are; how many there were."""
        name = self.stack.outputs[function]
        killed = 0
        for process, command in _commands():
            is_ours = str(self.aws.folder) in command and f"ministack-lambda-{name}-" in command
            if is_ours:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
                    killed += 1
        return killed


def _commands() -> Iterator[tuple[int, str]]:
    """All processes that can be seen, with their command lines."""
    command = [shutil.which("ps") or "ps", "-axww", "-o", "pid=,command="]
    listing = subprocess.run(command, capture_output=True, text=True, check=True)
    for line in listing.stdout.splitlines():
        number, _, command = line.strip().partition(" ")
        yield int(number), command


def copy_source(folder: Path) -> Path:
    """The working tree's own files, with one more grant that has `callers`."""
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("layers", "functions", "clients"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for name in (
        "template.yaml",
        "samconfig.toml",
        "Makefile",
        "pyproject.toml",
        "README.md",
        "LICENSE",
    ):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "requirements", folder / "requirements")
    (folder / ".venv").symlink_to(ROOT / ".venv")
    with (folder / "layers/grants/grants.toml").open("a") as grants:
        grants.write(LOCKED)
    return folder


def _copy_build(built: Path, stack: BrokerStack) -> None:
    """Take what was built from another copy of the source, but the soak's own grants."""
    shutil.copytree(built, stack.build_folder)
    grants = stack.source / "layers/grants/grants.toml"
    shutil.copy(grants, stack.build_folder / "GrantsLayer/python/grants.toml")
    template = stack.build_folder / "template.yaml"
    theirs = re.compile(r"[^\s\"]+/(LICENSE|README\.md)\b")
    text = theirs.sub(rf"{stack.source}/\1", template.read_text())
    template.write_text(text)


def _through_proxy(stack: BrokerStack, function: str, proxy: FaultProxy) -> None:
    """Give a deployed function a proxy to AWS; botocore takes it from the environment."""
    client = stack.administrator.client("lambda")
    name = stack.outputs[function]
    variables = client.get_function_configuration(FunctionName=name)["Environment"]["Variables"]
    client.update_function_configuration(
        FunctionName=name,
        Environment={"Variables": {**variables, "HTTP_PROXY": proxy.url, "NO_PROXY": ""}},
    )


def _identities(stack: BrokerStack) -> list[Identity]:
    """42 callers who may, and 8 who may not."""
    api, administrator = stack.api, stack.administrator
    everything = api.policy("/*", method="*")
    one = create_user(administrator, "deals-sync", api.policy("/tokens/deals"))
    every = create_user(administrator, "everything", everything)
    keyholder = create_user(administrator, "keyholder", everything, path="/ops/")
    outsider = create_user(administrator, "outsider", everything)
    newcomer = create_user(administrator, "newcomer", None)
    reporting = create_role(
        administrator, "reporting-job", api.policy("/tokens/*", method="*"), path="/jobs/"
    )
    locked = create_role(administrator, "locked-job", everything, path="/jobs/")
    users = create_role(administrator, "hr-job", api.policy("/tokens/users*", method="*"))
    forger = Credentials(one.access_key, "not the secret key")
    return [
        Identity(name="deals-sync", grant="deals", expects="token", count=10, credentials=one),
        Identity(name="everything", grant="activity", expects="token", count=10, credentials=every),
        Identity(name="hr-job", grant="users", expects="token", count=7, credentials=users),
        Identity(
            name="reporting-job", grant="reporting", expects="token", count=8, credentials=reporting
        ),
        Identity(name="keyholder", grant="locked", expects="token", count=4, credentials=keyholder),
        Identity(name="locked-job", grant="locked", expects="token", count=3, credentials=locked),
        Identity(name="outsider", grant="locked", expects="callers", count=3, credentials=outsider),
        Identity(name="newcomer", grant="deals", expects="iam", count=2, credentials=newcomer),
        Identity(name="hr-job on deals", grant="deals", expects="iam", count=2, credentials=users),
        Identity(name="forger", grant="deals", expects="iam", count=1, credentials=forger),
    ]


@contextlib.contextmanager
def world(
    seed: int, *, folder: Path, minute_seconds: float, record: Record, built: Path | None
) -> Iterator[World]:
    """Deploy the broker and start all that it needs; on leaving, nothing is left running."""
    random = Random(f"{seed} client")  # noqa: S311 - reproducible on purpose
    client = Client(
        client_id=f"client-{random.randbytes(8).hex()}",
        client_secret=f"p+ss w&rd=%/ü€ {random.randbytes(16).hex()}",
        dealtrack_registration_id=f"registration-{random.randbytes(8).hex()}",
    )
    with contextlib.ExitStack() as stack_of:
        aws = stack_of.enter_context(EmbeddedAws(schedule_minute_seconds=minute_seconds))
        enable = Enable(client, record)
        stack_of.callback(enable.close)
        enable.start()
        proxies = []
        for _ in range(2):
            proxies.append(FaultProxy(aws.endpoint_url))
            stack_of.callback(proxies[-1].close)
        stack = BrokerStack(aws, source=copy_source(folder))
        if built:
            _copy_build(built, stack)
        else:
            stack.build()
        stack.deploy(TokenUrl=enable.token_url)
        for proxy in proxies:
            proxy.wait_until_healthy()
        stack.administrator.client("lambda").put_function_concurrency(
            FunctionName=stack.outputs[REFRESHER], ReservedConcurrentExecutions=RUNS_AT_A_TIME
        )
        _through_proxy(stack, REFRESHER, proxies[0])
        _through_proxy(stack, VENDOR, proxies[1])
        yield World(
            aws=aws,
            stack=stack,
            enable=enable,
            record=record,
            client=client,
            refresher_proxy=proxies[0],
            vendor_proxy=proxies[1],
            identities=_identities(stack),
        )
