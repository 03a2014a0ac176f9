"""`broker grants check`: what the build would say of a grants file."""

from pathlib import Path
from typing import Annotated

import typer

from broker_cli.console import say, say_json
from broker_cli.failures import ExitCode, Failure
from broker_cli.options import Json, examples
from token_broker.grants import GRANTS_FILE
from token_refresher.check_grants import faults

app = typer.Typer(help="The grants file.", no_args_is_help=True)


@app.callback()
def _grants() -> None:
    """Make `check` a command of its own, though it is the only one."""


@app.command(
    epilog=examples("broker grants check", "broker grants check layers/grants/grants.toml --json")
)
def check(
    file: Annotated[Path, typer.Argument(help="By default this checkout's.")] = GRANTS_FILE,
    json: Json = False,
) -> None:
    """Check a grants file as the build does; exits with 1 and names each fault if it is faulty."""
    try:
        found = faults(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(
            f"{file} cannot be read ({type(error).__name__})",
            "name a grants file, such as layers/grants/grants.toml",
            ExitCode.USAGE,
        ) from None
    if json:
        say_json({"file": str(file), "faults": found})
    else:
        for fault in found:
            say(f"{file.name}: {fault}", style="red")
        if not found:
            say(f"{file.name} is sound")
    if found:
        raise typer.Exit(ExitCode.WRONG)
