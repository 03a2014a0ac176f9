"""`broker verify`, network: whether the refresher's subnets have a way to what it calls."""

from datetime import UTC, datetime

import boto3
import pytest
from botocore.stub import Stubber

from broker_cli.aws import Stack
from broker_cli.verify import network
from broker_cli.verify.result import REFRESHER, Deployment, Failed, Passed, Result

NOW = datetime(2026, 1, 2, tzinfo=UTC)
REGION, VPC = "eu-west-1", "vpc-1"
BOTH = [("ssm", "available", True), ("secretsmanager", "available", True)]
NAT = {"NatGatewayId": "nat-1"}
INTERNET_GATEWAY = {"GatewayId": "igw-1"}


def table(route: dict, **association: object) -> dict:
    route = {"DestinationCidrBlock": "0.0.0.0/0", "State": "active"} | route
    return {"Associations": [association], "Routes": [route]}


def judge(
    endpoints: list[tuple[str, str, bool]] = [],  # noqa: B006 - not changed
    tables: list[dict] | None = None,
    subnets: tuple[str, ...] = ("subnet-a", "subnet-b"),
    **parameters: str,
) -> Result:
    """The result for a VPC; its route tables may only be read where `tables` is given."""
    client = boto3.client("ec2", REGION, aws_access_key_id="id", aws_secret_access_key="key")
    filters = {"Filters": [{"Name": "vpc-id", "Values": [VPC]}]}
    listed = [
        {
            "ServiceName": f"com.amazonaws.{REGION}.{name}",
            "State": state,
            "PrivateDnsEnabled": has_dns,
        }
        for name, state, has_dns in endpoints
    ]
    session = boto3.Session(region_name=REGION)
    session.client = lambda *_, **__: client  # type: ignore[method-assign,assignment]
    stack = Stack(
        name="broker",
        session=session,
        status="CREATE_COMPLETE",
        outputs={},
        parameters={"SubnetIds": "subnet-a,subnet-b", "NoProxy": ".amazonaws.com"} | parameters,
        aws_time=NOW,
        asked_at=NOW,
    )
    deployment = Deployment(stack=stack, resources={}, alarm_names=())
    found = {"VpcConfig": {"VpcId": VPC, "SubnetIds": list(subnets)}}
    deployment.__dict__["functions"] = {REFRESHER: found}
    with Stubber(client) as stubber:
        stubber.add_response("describe_vpc_endpoints", {"VpcEndpoints": listed}, filters)
        if tables is not None:
            stubber.add_response("describe_route_tables", {"RouteTables": tables}, filters)
        return network.reach(deployment)


def test_function_in_no_subnets_is_as_promised():
    assert isinstance(judge(subnets=(), SubnetIds=""), Passed)


def test_function_in_other_subnets_than_the_parameter_names_is_not():
    result = judge(subnets=("subnet-a",))
    assert isinstance(result, Failed)
    assert result.found == "it runs in subnet-a, not in subnet-a, subnet-b"


def test_endpoints_for_both_services_suffice():
    assert judge(BOTH) == Passed("VPC endpoints for secretsmanager and ssm")


@pytest.mark.parametrize(
    ("endpoint", "missing"),
    [
        (("ssm", "available", False), "secretsmanager and ssm"),
        (("ssm", "pendingAcceptance", True), "secretsmanager and ssm"),
        (("ssm", "available", True), "secretsmanager"),
        (("ssmmessages", "available", True), "secretsmanager and ssm"),
    ],
)
def test_endpoint_that_does_not_serve_the_ordinary_name_counts_as_missing(
    endpoint: tuple[str, str, bool], missing: str
):
    result = judge([endpoint], [table(INTERNET_GATEWAY, Main=True)])
    assert isinstance(result, Failed)
    assert result.found.startswith(f"no way to {missing} from subnet-a, subnet-b: ")
    assert "docs/reach.md#network-of-the-refresher" in result.next_step


@pytest.mark.parametrize(
    "tables",
    [
        [table(NAT, Main=True)],
        [table(NAT, SubnetId="subnet-a"), table(NAT, SubnetId="subnet-b")],
        [table(INTERNET_GATEWAY, SubnetId="subnet-c"), table(NAT, Main=True)],
    ],
)
def test_nat_gateway_suffices(tables: list[dict]):
    assert judge([], tables) == Passed("secretsmanager and ssm through a NAT gateway")


def test_subnet_without_a_way_out_is_named():
    result = judge([], [table(NAT, Main=True), table(INTERNET_GATEWAY, SubnetId="subnet-b")])
    assert isinstance(result, Failed)
    assert "from subnet-b:" in result.found


def test_route_whose_gateway_was_deleted_leads_nowhere():
    assert isinstance(judge([], [table(NAT | {"State": "blackhole"}, Main=True)]), Failed)


@pytest.mark.parametrize(("no_proxy", "kind"), [("", Passed), (".amazonaws.com", Failed)])
def test_proxy_counts_for_the_hosts_that_it_is_used_for(no_proxy: str, kind: type):
    tables = None if kind is Passed else []
    result = judge([], tables, HttpsProxy="****", NoProxy=no_proxy)
    assert isinstance(result, kind)
