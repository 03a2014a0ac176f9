"""`make cdk-check`: what the construct synthesises is the release, and nothing is lost on the way.

It needs the packages of requirements/cdk.txt and node, and a release in dist/.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from aws_cdk import App, Stack
from aws_cdk.aws_iam import Role, ServicePrincipal
from enable_broker_cdk import BrokerParameters, EnableTokenBroker

NAME = "enable-token-broker"
EMAIL = "ops@example.com"


def synthesised(dist: Path) -> dict[str, Any]:
    """The template of an application with the broker, and a role that may have one grant."""
    with tempfile.TemporaryDirectory() as folder:
        app = App(outdir=folder)
        stack = Stack(app, NAME)
        parameters = BrokerParameters(alarm_email=EMAIL, metrics_by_grant=True)
        broker = EnableTokenBroker(stack, "Broker", release=dist, parameters=parameters)
        job = Role(stack, "Job", assumed_by=ServicePrincipal("lambda.amazonaws.com"))
        broker.grant_read(job, "deals")
        app.synth()
        template: dict[str, Any] = json.loads((Path(folder) / f"{NAME}.template.json").read_text())
        return template


def differences(released: dict[str, Any], found: dict[str, Any]) -> set[str]:
    """The properties of the release's resources that the synthesised template has otherwise."""
    different = set()
    for logical_id, resource in released["Resources"].items():
        other = found["Resources"][logical_id]
        for name in resource.keys() | other.keys() - {"Properties"}:
            if name != "Properties" and resource.get(name) != other.get(name):
                different.add(f"{logical_id} {name}")
        own, others = resource["Properties"], other["Properties"]
        for name in own.keys() | others.keys():
            if own.get(name) != others.get(name):
                different.add(f"{logical_id} {name}")
    return different


def grant_statement(found: dict[str, Any]) -> dict[str, Any]:
    """The statement by which the role may have the grant."""
    (policy,) = (r for r in found["Resources"].values() if r["Type"] == "AWS::IAM::Policy")
    (statement,) = policy["Properties"]["PolicyDocument"]["Statement"]
    return dict(statement)


def main(dist: Path) -> None:
    """Synthesise, compare, and print what is equal.

    Raises:
        SystemExit: something differs.
    """
    released = json.loads((dist / "template.json").read_text(encoding="utf-8"))
    found = synthesised(dist)
    expected = {"AlarmEmailSubscription Endpoint"} | {
        f"{logical_id} {name}"
        for logical_id, resource in released["Resources"].items()
        for name in {"CodeUri", "ContentUri"} & resource["Properties"].keys()
    }
    given = {"TokenRefresherFunction Environment", "TokenVendorFunction Environment"}
    if left := differences(released, found) - expected - given:
        raise SystemExit(f"the construct changes: {', '.join(sorted(left))}")
    if found["Resources"]["AlarmEmailSubscription"]["Properties"]["Endpoint"] != EMAIL:
        raise SystemExit("a parameter's value does not arrive")
    if missing := released["Outputs"].keys() - found["Outputs"].keys():
        raise SystemExit(f"outputs are missing: {', '.join(sorted(missing))}")
    statement = grant_statement(found)
    paths = [resource["Fn::Join"][1][-1] for resource in statement["Resource"]]
    if (statement["Action"], paths) != (
        "execute-api:Invoke",
        ["/v1/GET/tokens/deals", "/v1/POST/tokens/deals/rejection"],
    ):
        raise SystemExit(f"grant_read allows {statement}")
    sys.stdout.write(
        f"{len(released['Resources'])} resources are those of the release; grant_read allows one "
        "grant\n"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
