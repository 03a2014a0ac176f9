"""How the refresher reaches AWS if it runs in subnets: endpoints, the proxy, or a NAT gateway."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # not in its stubs

from broker_cli.aws import CONFIG, read_all
from broker_cli.verify.result import REFRESHER, Deployment, Failed, Passed, Result

if TYPE_CHECKING:
    from types_boto3_ec2.client import EC2Client

SERVICES: Final = ("secretsmanager", "ssm")
"""What the refresher's code calls. Lambda itself sends its logs and the reports of failed runs."""

_STEP: Final = "make what docs/reach.md#network-of-the-refresher lists"
_ALL: Final = "0.0.0.0/0"


def reach(deployment: Deployment) -> Result:
    """From its subnets the refresher has a way to each service of AWS that it calls."""
    found = deployment.functions[REFRESHER].get("VpcConfig", {})
    subnets = set(found.get("SubnetIds", ()))
    wanted = set(filter(None, deployment.stack.parameters.get("SubnetIds", "").split(",")))
    if subnets != wanted:
        return Failed(f"it runs in {_listed(subnets)}, not in {_listed(wanted)}")
    if not subnets:
        return Passed("in no subnets: it reaches AWS and Enable over the internet")
    client = deployment.stack.session.client("ec2", config=CONFIG)
    missing = _without_endpoint(client, found["VpcId"])
    if not missing:
        return Passed(f"VPC endpoints for {' and '.join(SERVICES)}")
    names = " and ".join(missing)
    if all(_is_proxied(deployment, service) for service in missing):
        return Passed(f"{names} through the proxy, which no check here tries")
    closed = sorted(subnets - _with_nat(client, found["VpcId"], subnets))
    if closed:
        return Failed(f"no way to {names} from {_listed(closed)}: no endpoint, no NAT", _STEP)
    return Passed(f"{names} through a NAT gateway")


def _listed(subnets: Iterable[str]) -> str:
    return ", ".join(sorted(subnets)) or "no subnets"


def _host(deployment: Deployment, service: str) -> str:
    return f"{service}.{deployment.stack.session.region_name}.amazonaws.com"


def _without_endpoint(client: "EC2Client", vpc: str) -> list[str]:
    """The services without an endpoint that takes over their ordinary names."""
    here = [{"Name": "vpc-id", "Values": [vpc]}]
    endpoints = read_all(client.describe_vpc_endpoints, "VpcEndpoints", Filters=here)
    served = {
        endpoint["ServiceName"].rpartition(".")[2]
        for endpoint in endpoints
        if endpoint["State"].lower() == "available" and endpoint.get("PrivateDnsEnabled")
    }
    return [service for service in SERVICES if service not in served]


def _is_proxied(deployment: Deployment, service: str) -> bool:
    parameters = deployment.stack.parameters
    exceptions = {"no": parameters.get("NoProxy", "")}
    host = _host(deployment, service)
    return bool(parameters.get("HttpsProxy")) and not proxy_bypass_environment(host, exceptions)


def _with_nat(client: "EC2Client", vpc: str, subnets: set[str]) -> set[str]:
    """The subnets from which traffic to the internet goes anywhere but to an internet gateway.

    A function has no public address, so that an internet gateway is no way out for it.
    """
    here = [{"Name": "vpc-id", "Values": [vpc]}]
    tables = list(read_all(client.describe_route_tables, "RouteTables", Filters=here))
    by_subnet = {
        association["SubnetId"]: table
        for table in tables
        for association in table["Associations"]
        if "SubnetId" in association
    }
    main = next((t for t in tables if any(a.get("Main") for a in t["Associations"])), None)
    return {subnet for subnet in subnets if _leads_out(by_subnet.get(subnet, main))}


def _leads_out(table: dict[str, Any] | None) -> bool:
    return any(
        route.get("DestinationCidrBlock") == _ALL
        and route.get("State") == "active"
        and not route.get("GatewayId", "").startswith("igw-")
        for route in (table or {}).get("Routes", ())
    )
