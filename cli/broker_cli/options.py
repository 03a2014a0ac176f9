"""Options and arguments that several commands share."""

import inspect
import tomllib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from broker_cli.console import parse_span
from broker_cli.failures import ExitCode, Failure
from token_broker.errors import ConfigurationError
from token_broker.grants import GRANTS_FILE, GrantsFile, load_grants_file

_SAMCONFIG = Path(__file__).resolve().parents[2] / "samconfig.toml"


def default_stack() -> str:
    """What `sam deploy` would deploy from this checkout; without one, a release's name."""
    try:
        config = tomllib.loads(_SAMCONFIG.read_text(encoding="utf-8"))
        return str(config["default"]["global"]["parameters"]["stack_name"])
    except (OSError, ValueError, KeyError):
        return "enable-token-broker"


def default_grants_file() -> Path:
    """This checkout's grants.toml; without one, that of the current folder."""
    return GRANTS_FILE if GRANTS_FILE.is_file() else Path(GRANTS_FILE.name)


def read_grants(file: Path) -> GrantsFile:
    """The grants of a file.

    Raises:
        Failure: it cannot be read or is faulty.
    """
    try:
        return load_grants_file(file)
    except ConfigurationError:
        raise Failure(
            f"{file} is not a sound grants file",
            f"`broker grants check {file}` says what is wrong with it",
            ExitCode.USAGE,
        ) from None


def grant_names(incomplete: str) -> list[str]:
    """For shell completion."""
    try:
        return [name for name in load_grants_file().grants if name.startswith(incomplete)]
    except ConfigurationError:
        return []


def _parse_span(text: str) -> timedelta:
    try:
        return parse_span(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def examples(*lines: str) -> str:
    """The epilog of a command's help."""
    return "\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def help_of(command: Callable[..., None]) -> str:
    """A command's docstring as its help: Typer would keep the line breaks of the source."""
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


StackName = Annotated[
    str,
    typer.Option(
        "--stack",
        envvar="BROKER_STACK",
        help="The deployed stack.",
        default_factory=default_stack,
        show_default="samconfig.toml's, or enable-token-broker",
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print JSON; `broker schema` describes its shape.")
]
Grants = Annotated[
    Path,
    typer.Option(
        "--grants-file",
        envvar="BROKER_GRANTS_FILE",
        help="The grants.toml that was deployed.",
        default_factory=default_grants_file,
        show_default="this checkout's, or ./grants.toml",
    ),
]
GrantName = Annotated[
    str, typer.Argument(help="A grant of grants.toml.", autocompletion=grant_names)
]
GrantNames = Annotated[
    list[str] | None,
    typer.Argument(help="Grants of grants.toml; all if none is named.", autocompletion=grant_names),
]
Span = Annotated[
    timedelta,
    typer.Option(parser=_parse_span, metavar="SPAN", help="How far back: 90s, 15m, 1h, 7d."),
]
