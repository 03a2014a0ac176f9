"""`broker deploy`: uploads the artifacts of a release and deploys its template."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Self

import typer
from botocore.exceptions import ClientError

from broker_cli.aws import CONFIG, new_session, read_all
from broker_cli.console import printable, say, working
from broker_cli.failures import ExitCode, Failure
from broker_cli.options import StackName

if TYPE_CHECKING:
    from types_boto3_cloudformation.client import CloudFormationClient
    from types_boto3_cloudformation.type_defs import ParameterTypeDef
    from types_boto3_s3.client import S3Client

TEMPLATE: Final = "template.json"
SUMS: Final = "SHA256SUMS"
BUCKET: Final = "ArtifactBucket"
PREFIX: Final = "ArtifactPrefix"

_CREATE: Final = {
    "ChangeSetType": "CREATE",
    "Tags": [{"Key": "application", "Value": "enable-token-broker"}],
}
"""The deployer may create a key with this tag alone (docs/deployer-policy.json)."""

_UPDATE: Final = {"ChangeSetType": "UPDATE"}
"""The stack keeps its tags."""

_POLL_SECONDS: Final = 0.5
_NO_CHANGES: Final = ("didn't contain changes", "No updates are to be performed")
_ONLY_TO_BE_DELETED: Final = {"ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "DELETE_FAILED"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """The files of a release that a deployment uses, as SHA256SUMS lists them.

    Attributes:
        parameters: each parameter's definition, by name.
        files: what the bucket needs: the zip files and the template, by names that contain a part
            of their hash.
        template: the name of the template among them.
    """

    parameters: Mapping[str, Mapping[str, Any]]
    files: Mapping[str, Path]
    template: str

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read a release, and compare it with its sums.

        Raises:
            Failure: a file is missing, or is not the one that was released.
        """
        try:
            lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
            listed = [(folder / name, digest) for digest, _, name in map(_parted, lines)]
            files = [(f, d) for f, d in listed if f.suffix == ".zip" or f.name == TEMPLATE]
            changed = [file.name for file, digest in files if _sha256(file) != digest]
            template = (folder / TEMPLATE).read_text(encoding="utf-8")
        except OSError as error:
            raise Failure(
                f"{folder} contains no whole release ({type(error).__name__}: {error.filename})",
                "name its folder with --release; `make release` makes one, dist/",
                ExitCode.USAGE,
            ) from None
        if changed:
            raise Failure(
                f"{', '.join(changed)} of {folder} is not what {SUMS} lists",
                "get the release again, and deploy it unchanged",
                ExitCode.USAGE,
            )
        name = f"template-{dict(files)[folder / TEMPLATE][:12]}.json"
        return cls(
            parameters=json.loads(template)["Parameters"],
            files={file.name if file.suffix == ".zip" else name: file for file, _ in files},
            template=name,
        )


def _parted(line: str) -> tuple[str, str, str]:
    return line.partition("  ")


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def deploy(
    stack: StackName,
    parameters: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=VALUE]...",
            help="Parameters of the template; the others keep their values.",
            show_default=False,
        ),
    ] = None,
    release: Annotated[Path, typer.Option(help="The folder of the release.")] = Path("dist"),
    bucket: Annotated[
        str,
        typer.Option(
            help="S3 bucket for the artifacts, in the stack's Region.",
            show_default="the last deployment's",
        ),
    ] = "",
) -> None:
    """Deploy a release: upload its artifacts, create or update the stack, and wait for it.

    Uploads what the bucket does not have. CloudFormation rolls a failed deployment back.
    """
    files = Release.open(release)
    given = _given(parameters or [], files.parameters)
    session = new_session()
    client = session.client("cloudformation", config=CONFIG)
    deployed = _deployed(client, stack)
    given[BUCKET] = bucket or given.get(BUCKET, "") or deployed.get(BUCKET, "")
    if not given[BUCKET]:
        raise Failure(
            "no bucket for the artifacts is named",
            "name one of the stack's Region with --bucket; `aws s3 mb s3://…` makes one",
            ExitCode.USAGE,
        )
    prefix = given.get(PREFIX) or deployed.get(PREFIX) or files.parameters[PREFIX]["Default"]
    s3 = session.client("s3")
    with working("uploading"):
        _upload(s3, files.files, given[BUCKET], prefix)
    url = f"{s3.meta.endpoint_url}/{given[BUCKET]}/{prefix}{files.template}"
    with working(f"deploying {stack}"):
        kind = _UPDATE if deployed else _CREATE
        is_changed = _apply(client, stack, kind, url, _wanted(files, given, deployed))
    say(f"{stack} is {'deployed' if is_changed else 'deployed already; nothing changed'}")
    if not deployed:
        say("next:  broker secret set", stderr=True)


def _given(arguments: list[str], known: Mapping[str, object]) -> dict[str, str]:
    given = dict(argument.partition("=")[::2] for argument in arguments)
    for name, argument in zip(given, arguments, strict=False):
        if name not in known or "=" not in argument:
            raise Failure(
                f"{printable(argument)} is not NAME=VALUE of a parameter",
                f"use {', '.join(sorted(known))}",
                ExitCode.USAGE,
            )
    return given


def _deployed(client: "CloudFormationClient", stack: str) -> dict[str, str]:
    """The parameters of the stack; none if it is to be created.

    Raises:
        Failure: it can only be deleted.
    """
    try:
        found = client.describe_stacks(StackName=stack)["Stacks"][0]
    except ClientError as error:
        if error.response["Error"]["Code"] != "ValidationError":
            raise
        return {}
    if found["StackStatus"] in _ONLY_TO_BE_DELETED:
        raise Failure(
            f"{stack} is {found['StackStatus']}: it can only be deleted",
            f"`aws cloudformation delete-stack --stack-name {stack}`, then deploy again",
        )
    if found["StackStatus"] == "REVIEW_IN_PROGRESS":
        return {}
    return {p["ParameterKey"]: p["ParameterValue"] for p in found.get("Parameters", [])}


def _wanted(
    release: Release, given: Mapping[str, str], deployed: Mapping[str, str]
) -> list["ParameterTypeDef"]:
    """What is given, else what the stack has, else the template's default."""
    kept = deployed.keys() & release.parameters.keys() - given.keys()
    wanted: list[ParameterTypeDef] = [
        {"ParameterKey": name, "ParameterValue": value} for name, value in given.items()
    ]
    wanted.extend({"ParameterKey": name, "UsePreviousValue": True} for name in sorted(kept))
    return wanted


def _upload(client: "S3Client", files: Mapping[str, Path], bucket: str, prefix: str) -> None:
    for name, file in files.items():
        key = f"{prefix}{name}"
        try:
            client.head_object(Bucket=bucket, Key=key)
        except ClientError:  # absent, or not to be listed: then the next line has AWS's reason
            client.put_object(Bucket=bucket, Key=key, Body=file.read_bytes())


def _apply(
    client: "CloudFormationClient",
    stack: str,
    kind: Mapping[str, Any],
    template_url: str,
    parameters: list["ParameterTypeDef"],
) -> bool:
    """Create or update the stack; whether anything changed.

    Raises:
        Failure: with CloudFormation's reason.
    """
    change_set = client.create_change_set(
        StackName=stack,
        ChangeSetName=f"release-{int(time.time())}",
        **kind,
        TemplateURL=template_url,
        Parameters=parameters,
        Capabilities=["CAPABILITY_IAM"],
    )["Id"]

    def change() -> tuple[str, str]:
        found = client.describe_change_set(ChangeSetName=change_set)
        return found["Status"], found.get("StatusReason", "")

    def whole() -> tuple[str, str]:
        found = client.describe_stacks(StackName=stack)["Stacks"][0]
        return found["StackStatus"], found.get("StackStatusReason", "")

    status, reason = _settled(change)
    if status == "FAILED":
        client.delete_change_set(ChangeSetName=change_set)
        if any(text in reason for text in _NO_CHANGES):
            return False
        raise Failure(f"no change set: {printable(reason)}", "correct that, then deploy again")
    client.execute_change_set(ChangeSetName=change_set)
    status, reason = _settled(whole)
    if status not in {"CREATE_COMPLETE", "UPDATE_COMPLETE"}:
        cause = _first_failure(client, stack) or reason
        raise Failure(f"{stack} is {status}: {printable(cause)}", "correct that, then deploy again")
    return True


def _settled(read: Callable[[], tuple[str, str]]) -> tuple[str, str]:
    """Status and reason, once nothing is in progress."""
    while True:
        status, reason = read()
        if not status.endswith(("_IN_PROGRESS", "_PENDING")):
            return status, reason
        time.sleep(_POLL_SECONDS)


def _first_failure(client: "CloudFormationClient", stack: str) -> str:
    """Which resource failed first in the deployment that ended last, and why."""
    first = ""
    for event in read_all(client.describe_stack_events, "StackEvents", StackName=stack):
        status = event.get("ResourceStatus", "")
        if event["LogicalResourceId"] == stack and status in {
            "CREATE_IN_PROGRESS",
            "UPDATE_IN_PROGRESS",
        }:
            break
        if status.endswith("_FAILED"):
            first = f"{event['LogicalResourceId']}: {event.get('ResourceStatusReason', status)}"
    return first
