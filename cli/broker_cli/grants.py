"""`broker grants`: makes, checks and publishes a grants file, the input of a deployment."""

from pathlib import Path
from typing import Annotated, Final

import typer

from broker_cli.archives import zipped
from broker_cli.aws import CONFIG, new_session
from broker_cli.console import say, say_json, working
from broker_cli.failures import ExitCode, Failure
from broker_cli.options import Json, StackName, default_grants_file, examples, help_of
from token_refresher.check_grants import faults

PARAMETER: Final = "GrantsLayerArn"
STARTER: Final = """\
# Who may have what. One table per grant: the broker keeps one live token for each.
# `broker grants check` names each fault; `broker grants publish` makes the layer of a deployment.

[grants.deals]
scope = ["read:deals"]
# callers = ["arn:aws:iam::111122223333:role/reporting-*"]   # an allow-list behind IAM

# Another Enable instance, whose secret is {StackName}/connections/uat:
#
# [connections.uat]
# token_url = "https://uat.example/oauth2/token"
#
# [grants.uat-deals]
# scope = ["read:deals"]
# connection = "uat"
"""

_NEW: Final = Path("grants.toml")

app = typer.Typer(help="The grants file.", no_args_is_help=True)


def init(
    file: Annotated[Path, typer.Argument(help="A new file; keeps an existing one.")] = _NEW,
) -> None:
    """Write a grants file to begin with."""
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(STARTER)
    except FileExistsError:
        raise Failure(
            f"{file} exists", f"edit it, then `broker grants check {file}`", ExitCode.USAGE
        ) from None
    except OSError as error:
        raise Failure(
            f"{file} cannot be written ({type(error).__name__})",
            "name a file in a folder that you may write to",
            ExitCode.USAGE,
        ) from None
    say(f"{file} is written\nnext:  edit it, then `broker grants publish {file}`")


def check(
    file: Annotated[
        Path,
        typer.Argument(
            default_factory=default_grants_file, show_default="this checkout's, or ./grants.toml"
        ),
    ],
    json: Json = False,
) -> None:
    """Check a grants file as the build does; name each fault, and exit with 1 if there are any."""
    found = faults(_read(file))
    if json:
        say_json({"file": str(file), "faults": found})
    elif not found:
        say(f"{file.name} is valid")
    if found:
        if not json:
            _show(file, found)
        raise typer.Exit(ExitCode.WRONG)


def publish(
    file: Annotated[Path, typer.Argument(help="The grants file.")],
    stack: StackName,
    layer: Annotated[
        str, typer.Option(help="Name of the layer.", show_default="{stack}-grants")
    ] = "",
    json: Json = False,
) -> None:
    """Check a grants file, publish it as a layer, and print the parameter that deploys it.

    Changes no stack: deploy with the parameter. Publishes nothing and exits with 1 if the file is
    faulty.
    """
    text = _read(file)
    if found := faults(text):
        _show(file, found)
        raise typer.Exit(ExitCode.WRONG)
    with working("publishing"):
        published = (
            new_session()
            .client("lambda", config=CONFIG)
            .publish_layer_version(
                LayerName=layer or f"{stack}-grants",
                Description=f"grants.toml of {stack}",
                Content={"ZipFile": archive(text)},
                CompatibleRuntimes=["python3.13"],
            )
        )
    arn = published["LayerVersionArn"]
    if json:
        say_json({"parameter": PARAMETER, "value": arn})
    else:
        say(f"{PARAMETER}={arn}")
        say(f"next:  broker deploy {PARAMETER}={arn}", stderr=True)
        say(f"or:    sam deploy --parameter-overrides {PARAMETER}={arn}", stderr=True)


def archive(text: str) -> bytes:
    """A layer's zip, with the file where the functions look for it; the same for the same text."""
    return zipped([("python/grants.toml", text.encode())])


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(
            f"{file} cannot be read ({type(error).__name__})",
            "name a grants file; `broker grants init` writes one",
            ExitCode.USAGE,
        ) from None


def _show(file: Path, found: list[str]) -> None:
    for fault in found:
        say(f"{file.name}: {fault}", style="red")


for _command, _example in (
    (init, "broker grants init my-grants.toml"),
    (check, "broker grants check my-grants.toml --json"),
    (publish, "broker grants publish my-grants.toml --stack enable-token-broker"),
):
    app.command(_command.__name__, help=help_of(_command), epilog=examples(_example))(_command)
