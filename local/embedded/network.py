"""EC2 and Lambda: the endpoints of a VPC, and the functions in its subnets."""

from collections.abc import Callable
from typing import Any

from ministack.services import ec2, lambda_svc
from ministack.services.cloudformation import provisioners

type Form = dict[str, list[str]]
type Provision = Callable[..., tuple[str, dict[str, str]]]


def functions_have_subnets() -> None:
    """Keep the `VpcConfig` of a function that a stack creates or updates.

    CloudFormation Template Reference, "AWS::Lambda::Function": `VpcConfig`. ministack drops it, and
    keeps that of CreateFunction alone. Neither runs the function in the subnets.
    """
    handlers = provisioners._RESOURCE_HANDLERS["AWS::Lambda::Function"]
    handlers["create"] = _keep_subnets(handlers["create"], properties=1)
    handlers["update"] = _keep_subnets(handlers["update"], properties=2)


def _keep_subnets(provision: Provision, *, properties: int) -> Provision:
    def provision_and_keep(*args: Any, **more: Any) -> tuple[str, dict[str, str]]:
        name, attributes = provision(*args, **more)
        found = lambda_svc._vpc_config_with_id(args[properties].get("VpcConfig"))
        lambda_svc._functions[name]["config"]["VpcConfig"] = found
        return name, attributes

    return provision_and_keep


def endpoints_belong_to_a_vpc() -> None:
    """List the endpoints of the VPCs that a filter names, and whether they have private names.

    Amazon EC2 API Reference, CreateVpcEndpoint and DescribeVpcEndpoints: the filter `vpc-id`, and
    `PrivateDnsEnabled`, true unless it is given. ministack ignores both.
    """
    create, describe = ec2._create_vpc_endpoint, ec2._describe_vpc_endpoints
    fields = ec2._vpce_fields_xml

    def create_with_names(form: Form) -> object:
        before = {*ec2._vpc_endpoints}
        response: object = create(form)
        for endpoint in {*ec2._vpc_endpoints} - before:
            ec2._vpc_endpoints[endpoint]["PrivateDns"] = ec2._p(form, "PrivateDnsEnabled", "true")
        return response

    def describe_filtered(form: Form) -> object:
        vpcs = ec2._parse_filters(form).get("vpc-id")
        endpoints = ec2._vpc_endpoints.values()
        found = [e["VpcEndpointId"] for e in endpoints if vpcs and e["VpcId"] in vpcs]
        named = {f"VpcEndpointId.{n}": [name] for n, name in enumerate(found or ["none"], 1)}
        response: object = describe(form | named if vpcs else form)
        return response

    def fields_with_names(endpoint: dict[str, str], tag: str = "item") -> str:
        has_names = f"<privateDnsEnabled>{endpoint.get('PrivateDns', 'false')}</privateDnsEnabled>"
        found: str = fields(endpoint, tag)
        return found.replace(f"</{tag}>", f"{has_names}</{tag}>")

    ec2._ACTION_MAP["CreateVpcEndpoint"] = create_with_names
    ec2._ACTION_MAP["DescribeVpcEndpoints"] = describe_filtered
    ec2._vpce_fields_xml = fields_with_names
