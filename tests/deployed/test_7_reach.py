"""The documented deployments of the Reach parameters, each in an account of its own.

The embedded AWS does not read a resource policy from an API's definition. So that it is in
force, the policy of the template as deployed is set on the API.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from local.broker_stack import STACK_NAME, BrokerStack
from local.callers import create_user
from tests.deployed.conftest import Deployed
from tests.template.policy import Caller, Resolver, gets_in
from tests.template.test_reach import documented
from tests.template.test_template import template

DEPLOYMENTS = [parameters for parameters in documented() if parameters]
# The first deployment lists its own account, which must not open it to everybody there.
ACCOUNTS = [str(444455556666 + n) for n in range(len(DEPLOYMENTS))]


@dataclass(frozen=True)
class Reach:
    stack: BrokerStack
    parameters: dict[str, str]

    def policy_as_deployed(self) -> dict:
        processed = self.stack.administrator.client("cloudformation").get_template(
            StackName=STACK_NAME, TemplateStage="Processed"
        )["TemplateBody"]
        body = processed["Resources"]["TokenApi"]["Properties"]["Body"]
        resolver = Resolver(template(), self.parameters, owner=self.stack.account)
        return resolver.resolve(body["x-amazon-apigateway-policy"])

    def set_policy(self, text: str) -> None:
        self.stack.administrator.client("apigateway").update_rest_api(
            restApiId=self.stack.api.api_id,
            patchOperations=[{"op": "replace", "path": "/policy", "value": text}],
        )


@pytest.fixture(scope="module")
def reaches(deployed: Deployed) -> list[Reach]:
    def deploy(account: str, parameters: dict[str, str]) -> Reach:
        stack = BrokerStack(deployed.stack.aws, account=account, source=deployed.stack.source)
        stack.deploy(RefreshSchedule="rate(1 day)", **parameters)  # no token is waited for
        return Reach(stack, parameters)

    with ThreadPoolExecutor(2) as threads:
        return [*threads.map(deploy, ACCOUNTS, DEPLOYMENTS), Reach(deployed.stack, {})]


@pytest.fixture(
    params=range(len(DEPLOYMENTS) + 1), ids=["+".join(d) or "none" for d in [*DEPLOYMENTS, {}]]
)
def reach(request: pytest.FixtureRequest, reaches: list[Reach]) -> Reach:
    return reaches[request.param]


@pytest.fixture
def policy(reach: Reach) -> Iterator[dict]:
    policy = reach.policy_as_deployed()
    reach.set_policy(json.dumps(policy))
    yield policy
    reach.set_policy("")


def test_stage_and_log_group_are_as_the_parameters_say(reach: Reach):
    administrator = reach.stack.administrator
    settings = administrator.client("apigateway").get_stage(
        restApiId=reach.stack.api.api_id, stageName="v1"
    )["methodSettings"]
    limits = {
        path: (setting["throttlingRateLimit"], setting["throttlingBurstLimit"])
        for path, setting in settings.items()
    }
    assert limits == ({"*/*": (10.0, 10)} if "RequestsPerSecond" in reach.parameters else {})
    groups = administrator.client("logs").describe_log_groups(
        logGroupNamePrefix=f"/enable-token-broker/{STACK_NAME}/token-api"
    )["logGroups"]
    retentions = [group["retentionInDays"] for group in groups]
    assert retentions == ([30] if "AccessLogs" in reach.parameters else [])


def test_resource_policy_decides_about_the_own_account_as_evaluated(reach: Reach, policy: dict):
    api = reach.stack.api
    for name, identity_policy in (("with", api.policy("/tokens/deals")), ("without", None)):
        user = create_user(reach.stack.administrator, f"{name}-policy", identity_policy)
        caller = Caller(reach.stack.account, has_policy=bool(identity_policy))
        is_in = gets_in(policy, caller, owner=reach.stack.account)
        assert is_in is (caller.has_policy and "VpcEndpointIds" not in reach.parameters)
        assert (api.get("/tokens/deals", user).status != 403) is is_in
    # 404: an unsigned request is looked for in one account, where all defaults are deployed.
    assert api.get("/tokens/deals", None).status == (404 if reach.parameters else 403)


def test_only_a_limit_makes_a_429(reach: Reach, policy: dict):
    assert policy  # in force meanwhile
    api = reach.stack.api
    user = create_user(reach.stack.administrator, "hasty", api.policy("/tokens/*"))
    is_private = "VpcEndpointIds" in reach.parameters  # and this request comes through none
    assert (api.get("/tokens/deals", user).status == 403) is is_private
    statuses = {api.get("/tokens/deals", user).status for _ in range(60)}
    if is_private:
        assert statuses <= {403, 429}
    else:
        assert (429 in statuses) is ("RequestsPerSecond" in reach.parameters)


def test_each_switch_goes_both_ways_in_a_deployed_stack(reaches: list[Reach]):
    stack = reaches[0].stack
    gateway = stack.administrator.client("apigateway")
    deployments = []
    off = dict.fromkeys(("CallerAccounts", "CallerOrgId", "VpcEndpointIds"), "")
    endpoint = "vpce-0a1b2c3d4e5f60718"
    steps = ({}, {"VpcEndpointIds": endpoint}, {}, {"CallerOrgId": "o-a1b2c3d4e5"}, DEPLOYMENTS[0])
    for step in steps:
        stack.deploy(RefreshSchedule="rate(1 day)", **off | step)
        # The embedded AWS makes the API again in some updates; AWS keeps its id.
        (stage,) = gateway.get_stages(restApiId=stack.resource("TokenApi"))["item"]
        deployments.append(stage["deploymentId"])
        policy = Reach(stack, off | step).policy_as_deployed()
        assert {s["Sid"] for s in policy["Statement"]} == {
            "NobodyElse",
            *(["OnlyThroughTheEndpoints"] if "VpcEndpointIds" in step else []),
            *(["CallerOrg"] if "CallerOrgId" in step else []),
            *(["CallerAccounts"] if "CallerAccounts" in step else []),
        }
    assert len(set(deployments)) == len(steps)
