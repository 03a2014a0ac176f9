"""Two stacks in one account do not collide, and one that was deleted comes back under its name."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import pytest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from typer.testing import CliRunner, Result

from broker_cli.failures import ExitCode
from broker_cli.main import app
from local.broker_stack import BrokerStack, wait_until
from local.callers import create_user
from local.fake_enable import Client, FakeEnable
from tests.deployed.conftest import Deployed, end_schedules

ACCOUNT = "333344445555"
GRANTS = ("deals", "activity", "users", "reporting")
LIFETIME = timedelta(hours=1)


@dataclass(frozen=True)
class Account:
    """One account with both stages, whose schedules have brought their first tokens."""

    dev: BrokerStack
    prod: BrokerStack
    enable: FakeEnable
    client: Client

    def begin(self, stack: BrokerStack, **parameters: str) -> None:
        stack.deploy(TokenUrl=self.enable.token_url, RefreshAheadSeconds="30", **parameters)
        stack.store_secret(self.client)


@pytest.fixture(scope="module")
def account(deployed: Deployed, enable_client: Client) -> Iterator[Account]:
    aws, source = deployed.stack.aws, deployed.stack.source
    dev, prod = (
        BrokerStack(aws, account=ACCOUNT, source=source, stage=stage)
        for stage in ("default", "prod")
    )
    with FakeEnable(enable_client, token_lifetime=LIFETIME) as enable:
        account = Account(dev, prod, enable, enable_client)
        account.begin(dev)
        account.begin(prod)
        yield account
        end_schedules(prod)


def are_stored(stack: BrokerStack) -> bool:
    return all(stack.stored_since(grant) for grant in GRANTS)


def token_versions(stack: BrokerStack) -> dict[str, int]:
    """The version of each parameter below the stack's prefix."""
    pages = (
        stack.administrator.client("ssm")
        .get_paginator("describe_parameters")
        .paginate(
            ParameterFilters=[
                {"Key": "Path", "Option": "Recursive", "Values": [f"/enable-tokens/{stack.name}"]}
            ]
        )
    )
    return {p["Name"]: p["Version"] for page in pages for p in page["Parameters"]}


def owned(stack: BrokerStack) -> dict[str, list[str]]:
    """The names in the account that begin with the stack's, but for those of `{stack}-dev`."""
    session = stack.administrator
    names = {
        "schedules": [s["Name"] for s in session.client("scheduler").list_schedules()["Schedules"]],
        "alarms": [
            alarm["AlarmName"]
            for alarm in session.client("cloudwatch").describe_alarms()["MetricAlarms"]
        ],
        "dashboards": [
            dashboard["DashboardName"]
            for dashboard in session.client("cloudwatch").list_dashboards()["DashboardEntries"]
        ],
    }
    other = f"{stack.name}-dev"
    return {
        kind: sorted(n for n in found if n.startswith(f"{stack.name}-") and not n.startswith(other))
        for kind, found in names.items()
    }


def vended(stack: BrokerStack, caller: Credentials) -> dict[str, int]:
    return {g: stack.api.request(f"/tokens/{g}", caller).status for g in GRANTS}


def test_both_stages_of_one_account_renew_by_their_own_schedules(account: Account):
    for stack in (account.dev, account.prod):
        wait_until(lambda stack=stack: are_stored(stack), seconds=60, what=f"{stack.name}'s tokens")
        has = owned(stack)
        assert [len(has["schedules"]), len(has["dashboards"])] == [1, 1]
        assert len(has["alarms"]) >= 9
    assert owned(account.dev) != owned(account.prod)


def test_deleting_one_stage_leaves_the_other_alone(account: Account):
    before = owned(account.prod)
    account.dev.delete()
    assert owned(account.dev) == {"schedules": [], "alarms": [], "dashboards": []}
    assert owned(account.prod) == before
    assert are_stored(account.prod)
    ssm = account.prod.administrator.client("ssm")
    ssm.delete_parameter(Name=f"/enable-tokens/{account.prod.name}/deals")
    wait_until(
        lambda: account.prod.stored_since("deals") is not None,
        seconds=60,
        what="prod's schedule to renew a token that was deleted",
    )


def test_stage_that_was_deleted_comes_back_in_two_runs(account: Account):
    left = token_versions(account.dev)
    names = {f"/enable-tokens/{account.dev.name}/{grant}" for grant in GRANTS}
    assert names <= set(left)
    with pytest.raises(ClientError, match="InvalidKeyId"):  # its key is pending deletion
        account.dev.administrator.client("ssm").get_parameter(Name=min(names), WithDecryption=True)
    # The change of the secret starts the first run and the next line is the second: no other.
    account.begin(account.dev, RefreshSchedule="rate(1 hour)")
    account.dev.refresh({})
    caller = create_user(account.dev.administrator, "returned", account.dev.api.policy("/tokens/*"))
    wait_until(
        lambda: set(vended(account.dev, caller).values()) == {200},
        seconds=60,
        what="every grant of the stack that came back",
    )
    renewed = token_versions(account.dev)
    assert all(renewed[name] == left[name] + 1 for name in names)
    reasons = {
        record["reason"]
        for record in account.dev.log_records("token-refresher")
        if record.get("state") == "renewed"
    }
    assert reasons == {"unreadable_parameter"}


def broker(stack: BrokerStack, *arguments: str, stdin: str = "") -> Result:
    environ = stack.aws.environ(ACCOUNT) | {"BROKER_STACK": stack.name}
    return CliRunner().invoke(app, arguments, input=stdin, env=environ, prog_name="broker")


def layer_versions(stack: BrokerStack) -> int:
    functions = stack.administrator.client("lambda")
    return len(functions.list_layer_versions(LayerName=f"{stack.name}-client")["LayerVersions"])


def test_cleanup_removes_what_a_deleted_stage_left_and_nothing_else(account: Account):
    dev, prod = account.dev, account.prod
    refused = broker(dev, "cleanup", "--yes")
    assert refused.exit_code == ExitCode.USAGE
    assert f"the stack {dev.name} exists" in refused.stderr
    dev.administrator.client("secretsmanager").create_secret(
        Name=f"{dev.name}/connections/uat", SecretString="{}"
    )
    dev.delete()
    kept, layers = token_versions(prod), layer_versions(prod)
    left = token_versions(dev)
    assert layer_versions(dev) > 0
    assert broker(dev, "cleanup", stdin="n\n").exit_code == ExitCode.INTERRUPTED
    assert token_versions(dev) == left
    done = broker(dev, "cleanup", stdin="y\n")
    assert done.exit_code == ExitCode.OK, done.output
    assert f"deleted {len(left)} parameters" in done.stdout
    assert f"kept: the secret {dev.name}/connections/uat" in done.stdout
    assert (token_versions(dev), layer_versions(dev)) == ({}, 0)
    assert set(token_versions(prod)) == set(kept)
    assert layer_versions(prod) == layers
    assert "nothing to do" in broker(dev, "cleanup").stdout
