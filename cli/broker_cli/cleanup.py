"""`broker cleanup`: removes what a stack leaves in the account when it is deleted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Self

import boto3
import typer
from botocore.exceptions import ClientError

from broker_cli.aws import CONFIG, new_session, read_all
from broker_cli.console import say, working
from broker_cli.failures import ExitCode, Failure
from broker_cli.options import StackName


@dataclass(frozen=True, slots=True, kw_only=True)
class Leavings:
    """What a deleted stack left.

    Attributes:
        parameters: names of the stored tokens and of the runs' states.
        layer_versions: numbers of the client layer's versions.
        secrets: names of further connections' secrets, made by hand.
    """

    parameters: Sequence[str]
    layer_versions: Sequence[int]
    secrets: Sequence[str]

    @classmethod
    def by(cls, stack: str, session: boto3.Session) -> Self:
        """Look for it; reads no value."""
        ssm = session.client("ssm", config=CONFIG)
        below = {"Key": "Path", "Option": "Recursive", "Values": [f"/enable-tokens/{stack}"]}
        found = read_all(ssm.describe_parameters, "Parameters", ParameterFilters=[below])
        mine = [{"Key": "name", "Values": [f"{stack}/connections/"]}]
        secrets = session.client("secretsmanager", config=CONFIG)
        return cls(
            parameters=[parameter["Name"] for parameter in found],
            layer_versions=list(_layer_versions(f"{stack}-client", session)),
            secrets=[s["Name"] for s in read_all(secrets.list_secrets, "SecretList", Filters=mine)],
        )


def _layer_versions(layer: str, session: boto3.Session) -> Iterator[int]:
    functions = session.client("lambda", config=CONFIG)
    try:
        for version in read_all(
            functions.list_layer_versions,
            "LayerVersions",
            token="Marker",  # noqa: S106 - the name of a field
            next_token="NextMarker",  # noqa: S106
            LayerName=layer,
        ):
            yield version["Version"]
    except functions.exceptions.ResourceNotFoundException:
        return


def cleanup(
    stack: StackName,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before deleting.")] = False,
) -> None:
    """Delete what a deleted stack has left: tokens, the runs' states, the client layer's versions.

    Refuses while the stack exists. Names the secrets of further connections, but keeps them.
    """
    session = new_session()
    with working("looking"):
        _check_that_it_is_gone(stack, session)
        left = Leavings.by(stack, session)
    if left.parameters or left.layer_versions:
        what = (
            f"{len(left.parameters)} parameters below /enable-tokens/{stack} and "
            f"{len(left.layer_versions)} versions of the layer {stack}-client"
        )
        if not yes:
            typer.confirm(f"Delete {what}?", abort=True, err=True)
        with working("deleting"):
            delete(left, stack, session)
        say(f"deleted {what}")
    else:
        say(f"{stack} has left no parameter and no layer version: nothing to do")
    for secret in left.secrets:
        say(f"kept: the secret {secret}; `aws secretsmanager delete-secret --secret-id {secret}`")


def _check_that_it_is_gone(stack: str, session: boto3.Session) -> None:
    client = session.client("cloudformation", config=CONFIG)
    try:
        status = client.describe_stacks(StackName=stack)["Stacks"][0]["StackStatus"]
    except ClientError as error:
        if error.response["Error"]["Code"] == "ValidationError":
            return
        raise
    raise Failure(
        f"the stack {stack} exists ({status}); its next run would store the tokens again",
        f"delete it first: `sam delete --stack-name {stack}`",
        ExitCode.USAGE,
    )


def delete(left: Leavings, stack: str, session: boto3.Session) -> None:
    """Delete the parameters and layer versions that a stack left."""
    ssm, functions = session.client("ssm", config=CONFIG), session.client("lambda", config=CONFIG)
    for start in range(0, len(left.parameters), 10):  # as many as one call takes
        ssm.delete_parameters(Names=left.parameters[start : start + 10])
    for version in left.layer_versions:
        functions.delete_layer_version(LayerName=f"{stack}-client", VersionNumber=version)
