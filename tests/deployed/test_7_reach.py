"""The documented deployments of the Reach parameters, each an update of one stack."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from secrets import token_hex
from urllib.parse import urlsplit

import pytest
from botocore.credentials import Credentials

from broker_cli.aws import Stack
from broker_cli.verify.network import reach as reach_of_refresher
from broker_cli.verify.result import Deployment, Failed, Passed, Result
from local.broker_stack import STACK_NAME, BrokerStack
from local.callers import create_user
from local.embedded_aws import REGION
from local.fake_enable import Client, FakeEnable
from tests.deployed.conftest import Deployed
from tests.faults.connect_proxy import HOST, Proxy, connect_proxy
from tests.faults.fault_server import Certificates
from tests.template.policy import Caller, Resolver, gets_in
from tests.template.test_reach import documented
from tests.template.test_template import template

DEPLOYMENTS = [parameters for parameters in documented() if parameters]
# The first deployment lists its own account, which must not open it to everybody there.
ACCOUNT = "444455556666"


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

    def user(self, policy: str | None) -> Credentials:
        """A new user of the stack's account."""
        return create_user(self.stack.administrator, f"user-{token_hex(4)}", policy)


@pytest.fixture(scope="module")
def stack(deployed: Deployed) -> BrokerStack:
    """A stack in an account of its own, whose schedule does not disturb."""
    stack = BrokerStack(deployed.stack.aws, account=ACCOUNT, source=deployed.stack.source)
    stack.deploy(RefreshSchedule="rate(1 day)")
    return stack


def update(stack: BrokerStack, parameters: dict[str, str]) -> None:
    """Change the parameters of the deployed template: those given, and no other one."""
    known = stack.administrator.client("cloudformation")
    values = {"RefreshSchedule": "rate(1 day)", **parameters}
    kept = {"ParameterKey": "Architecture", "UsePreviousValue": True}
    known.update_stack(
        StackName=stack.name,
        UsePreviousTemplate=True,
        Parameters=[kept, *({"ParameterKey": k, "ParameterValue": v} for k, v in values.items())],
        Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
    )
    waiter = known.get_waiter("stack_update_complete")
    waiter.wait(StackName=stack.name, WaiterConfig={"Delay": 0.1, "MaxAttempts": 600})
    stack.__dict__.pop("outputs", None)  # the embedded AWS makes the API again in some updates
    stack.__dict__.pop("api", None)


@pytest.fixture(
    scope="module",
    params=range(len(DEPLOYMENTS) + 1),
    ids=["+".join(d) or "none" for d in [*DEPLOYMENTS, {}]],
)
def reach(request: pytest.FixtureRequest, deployed: Deployed, stack: BrokerStack) -> Reach:
    if request.param == len(DEPLOYMENTS):
        return Reach(deployed.stack, {})
    parameters = DEPLOYMENTS[request.param]
    update(stack, parameters)
    return Reach(stack, parameters)


@pytest.fixture
def policy(reach: Reach) -> dict:
    return reach.policy_as_deployed()


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
    for identity_policy in (api.policy("/tokens/deals"), None):
        user = reach.user(identity_policy)
        caller = Caller(reach.stack.account, has_policy=bool(identity_policy))
        is_in = gets_in(policy, caller, owner=reach.stack.account)
        assert is_in is (caller.has_policy and "VpcEndpointIds" not in reach.parameters)
        assert (api.get("/tokens/deals", user).status != 403) is is_in
    # 404: an unsigned request is looked for in one account, where all defaults are deployed.
    assert api.get("/tokens/deals", None).status == (404 if reach.parameters else 403)


def test_only_a_limit_makes_a_429(reach: Reach):
    api = reach.stack.api
    user = reach.user(api.policy("/tokens/*"))
    is_private = "VpcEndpointIds" in reach.parameters  # and this request comes through none
    assert (api.get("/tokens/deals", user).status == 403) is is_private
    statuses: set[int] = set()
    is_limited = "RequestsPerSecond" in reach.parameters

    def send(_number: int) -> None:
        if not (is_limited and 429 in statuses):
            statuses.add(api.get("/tokens/deals", user).status)

    # Faster than the limit on a slow machine too, though each thread starts an environment.
    with ThreadPoolExecutor(4 if is_limited else 1) as callers:
        deque(callers.map(send, range(2_000 if is_limited else 30)), maxlen=0)
    if is_private:
        assert statuses <= {403, 429}
    else:
        assert (429 in statuses) is is_limited


def test_each_switch_goes_both_ways_in_a_deployed_stack(stack: BrokerStack):
    gateway = stack.administrator.client("apigateway")
    deployments = []
    endpoint = "vpce-0a1b2c3d4e5f60718"
    steps = ({}, {"VpcEndpointIds": endpoint}, {}, {"CallerOrgId": "o-a1b2c3d4e5"}, DEPLOYMENTS[0])
    for step in steps:
        update(stack, step)
        (stage,) = gateway.get_stages(restApiId=stack.resource("TokenApi"))["item"]
        deployments.append(stage["deploymentId"])
        policy = Reach(stack, step).policy_as_deployed()
        assert {s["Sid"] for s in policy["Statement"]} == {
            "NobodyElse",
            *(["OnlyThroughTheEndpoints"] if "VpcEndpointIds" in step else []),
            *(["CallerOrg"] if "CallerOrgId" in step else []),
            *(["CallerAccounts"] if "CallerAccounts" in step else []),
        }
    assert len(set(deployments)) == len(steps)


AUTHORITIES = "/network/authorities"


@dataclass(frozen=True)
class Network:
    """A VPC with two subnets; the refresher runs there, behind a proxy."""

    stack: BrokerStack
    proxy: Proxy
    enable: FakeEnable
    vpc: str
    subnets: tuple[str, ...]
    group: str

    @classmethod
    def of(cls, stack: BrokerStack, proxy: Proxy, enable: FakeEnable) -> "Network":
        ec2 = stack.administrator.client("ec2")
        vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        made = [ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{n}.0/24") for n in (1, 2)]
        group = ec2.create_security_group(GroupName="refresher", Description="443", VpcId=vpc)
        subnets = tuple(response["Subnet"]["SubnetId"] for response in made)
        return cls(stack, proxy, enable, vpc, subnets, group["GroupId"])

    @property
    def token_url(self) -> str:
        """Where only the proxy leads."""
        url = urlsplit(self.enable.token_url)
        return url._replace(netloc=f"{HOST}:{url.port}").geturl()

    def lead_out(self) -> None:
        """Lead the subnets to a NAT gateway."""
        ec2 = self.stack.administrator.client("ec2")
        table = ec2.create_route_table(VpcId=self.vpc)["RouteTable"]["RouteTableId"]
        gateway = ec2.create_nat_gateway(SubnetId=self.subnets[0])["NatGateway"]["NatGatewayId"]
        ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", NatGatewayId=gateway)
        for subnet in self.subnets:
            ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)

    def add_endpoint(self, service: str) -> None:
        """An interface endpoint that takes over the service's ordinary name."""
        self.stack.administrator.client("ec2").create_vpc_endpoint(
            VpcEndpointType="Interface",
            VpcId=self.vpc,
            ServiceName=f"com.amazonaws.{REGION}.{service}",
            PrivateDnsEnabled=True,
        )

    def verified(self) -> Result:
        """What `broker verify` finds of it."""
        opened = Stack.open(self.stack.name, self.stack.administrator)
        return reach_of_refresher(Deployment.of(opened))


@pytest.fixture(scope="module")
def behind_proxy(
    stack: BrokerStack, enable_client: Client, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Network]:
    folder = tmp_path_factory.mktemp("network")
    certificates = Certificates(folder)
    stack.administrator.client("ssm").put_parameter(
        Name=AUTHORITIES, Type="String", Value=certificates.authority.read_text()
    )
    server = FakeEnable(enable_client, tls=certificates.context(host=HOST))
    with connect_proxy(folder) as proxy, server as enable:
        network = Network.of(stack, proxy, enable)
        parameters = {
            "TokenUrl": network.token_url,
            "SubnetIds": ",".join(network.subnets),
            "SecurityGroupIds": network.group,
            "HttpsProxy": proxy.url,
            "CaBundleParameter": AUTHORITIES,
        }
        update(stack, parameters)
        yield network


def test_refresher_renews_through_a_proxy_with_a_private_authority(
    behind_proxy: Network, enable_client: Client
):
    stack, host = behind_proxy.stack, urlsplit(behind_proxy.token_url).netloc
    rule = stack.resource("TokenRefresherFunctionSecretChanged")
    stack.administrator.client("events").disable_rule(Name=rule)  # its run would be counted
    stack.store_secret(enable_client)
    renewed = stack.refresh({"grants": ["deals", "users"]})["grants"]
    assert {grant["state"] for grant in renewed.values()} == {"renewed"}
    assert len(behind_proxy.enable.token_requests) == 2
    assert behind_proxy.proxy.connected() == [host] * 2


def test_only_the_refresher_runs_in_the_subnets(behind_proxy: Network):
    stack = behind_proxy.stack
    functions = stack.administrator.client("lambda")
    found = {
        name: functions.get_function_configuration(FunctionName=stack.outputs[name])["VpcConfig"]
        for name in ("RefreshFunctionName", "VendFunctionName")
    }
    assert found["VendFunctionName"]["SubnetIds"] == []
    refresher = found["RefreshFunctionName"]
    assert refresher["SubnetIds"] == [*behind_proxy.subnets]
    assert refresher["SecurityGroupIds"] == [behind_proxy.group]
    assert refresher["VpcId"] == behind_proxy.vpc


def test_verify_looks_for_a_way_to_each_service_from_the_subnets(behind_proxy: Network):
    services, both = "secretsmanager and ssm", ", ".join(sorted(behind_proxy.subnets))
    closed = behind_proxy.verified()
    assert isinstance(closed, Failed)
    assert closed.found == f"no way to {services} from {both}: no endpoint, no NAT"
    behind_proxy.lead_out()
    assert behind_proxy.verified() == Passed(f"{services} through a NAT gateway")
    behind_proxy.add_endpoint("ssm")
    assert behind_proxy.verified() == Passed("secretsmanager through a NAT gateway")
    behind_proxy.add_endpoint("secretsmanager")
    assert behind_proxy.verified() == Passed(f"VPC endpoints for {services}")
