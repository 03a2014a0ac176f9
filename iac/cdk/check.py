"""What the construct synthesises is the release with its parameters' values, and nothing else.

    check.py DIST OUT [NAME=VALUE]...

synthesises the release in DIST into OUT, a new folder, with these properties of BrokerParameters.
It needs the packages of requirements/cdk.txt and node; `make cdk-check` deploys what it wrote.
"""

import json
import sys
from pathlib import Path
from typing import Any, Final

from aws_cdk import App, CfnOutput, Stack
from aws_cdk.aws_iam import AccountRootPrincipal, Role
from enable_broker_cdk import BrokerParameters, EnableTokenBroker

NAME: Final = "enable-token-broker"
GRANT: Final = "deals"
ATTRIBUTES: Final = (
    "token_api_url",
    "client_secret_arn",
    "token_parameter_prefix",
    "refresh_function_name",
    "vend_function_name",
)
"""Of the construct: outputs of the stack besides the release's, by the same names with `My`."""

_SECTIONS: Final = ("Globals", "Conditions", "Resources", "Outputs")
_FROM_THE_CDK: Final = {"CodeUri", "ContentUri"}


def synthesised(dist: Path, out: Path, parameters: BrokerParameters) -> dict[str, Any]:
    """The template of an application with the broker, and a role that may have one grant."""
    app = App(outdir=str(out))
    stack = Stack(app, NAME)
    broker = EnableTokenBroker(stack, "Broker", release=dist, parameters=parameters)
    job = Role(stack, "Job", assumed_by=AccountRootPrincipal())
    broker.grant_read(job, GRANT)
    CfnOutput(stack, "JobRoleArn", value=job.role_arn)
    for name in ATTRIBUTES:
        CfnOutput(stack, f"My{name.title().replace('_', '')}", value=getattr(broker, name))
    app.synth()
    template: dict[str, Any] = json.loads((out / f"{NAME}.template.json").read_text("utf-8"))
    return template


def with_values(node: Any, values: dict[str, str]) -> Any:
    """A part of the template with each reference to a parameter replaced by its value."""
    if isinstance(node, list):
        return [with_values(item, values) for item in node]
    if not isinstance(node, dict):
        return node
    if node.keys() == {"Ref"} and node["Ref"] in values:
        return values[node["Ref"]]
    return {name: with_values(item, values) for name, item in node.items()}


def differences(expected: Any, found: Any, path: str) -> list[str]:
    """Where the synthesised template lacks what the release has, or has it otherwise."""
    if not (isinstance(expected, dict) and isinstance(found, dict)):
        return [] if expected == found else [path]
    added = found.keys() - expected.keys() if path.count("/") > 1 else set()
    different = [f"{path}/{name}" for name in added]
    for name in expected.keys() - (_FROM_THE_CDK if path.endswith("/Properties") else set()):
        different += differences(expected[name], found.get(name), f"{path}/{name}")
    return different


def main(dist: str, out: str, *properties: str) -> None:
    """Synthesise, compare, and print what is equal.

    Raises:
        SystemExit: something differs.
    """
    parameters = BrokerParameters(**dict(text.split("=", 1) for text in properties))
    released = json.loads((Path(dist) / "template.json").read_text(encoding="utf-8"))
    found = synthesised(Path(dist), Path(out), parameters)
    different = [
        where
        for section in _SECTIONS
        for where in differences(
            with_values(released[section], parameters.values()), found[section], section
        )
    ]
    if different:
        raise SystemExit(f"the construct changes: {', '.join(sorted(different))}")
    sys.stdout.write(f"{len(released['Resources'])} resources are those of the release\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
