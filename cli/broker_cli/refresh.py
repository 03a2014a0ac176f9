"""`broker refresh`: has the refresh function run now, and says what became of each grant."""

from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from broker_cli.aws import Run, Stack
from broker_cli.console import printable, say, say_json, working
from broker_cli.failures import ExitCode
from broker_cli.options import GrantNames, Json, StackName


def refresh(
    stack: StackName,
    grants: GrantNames = None,
    force: Annotated[
        bool, typer.Option("--force", help="Renew grants that are not due or in backoff, too.")
    ] = False,
    json: Json = False,
) -> None:
    """Renew the grants that are due; with --force also those that are not.

    Exits with 1 if a grant that was due was not renewed; its stored token stays.
    """
    with working("renewing"):
        event = {"grants": list(grants)} if grants else {}
        run = Stack.open(stack).refresh(event | ({"force": True} if force else {}))
    if json:
        say_json(asdict(run))
    else:
        show(run)
    if run.error:
        raise typer.Exit(ExitCode.USAGE if run.error == "InvalidRequest" else ExitCode.WRONG)


def show(run: Run) -> None:
    """Print how a run ended."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for grant, outcome in run.grants.items():
        why = printable(outcome.get("cause", ""))
        table.add_row(grant, str(outcome["state"]), str(outcome.get("expires_at") or ""), why)
    if run.grants:
        say(table)
    for cause in run.causes:
        say(f"not renewed: {printable(cause)}", style="red", stderr=True)
    if run.error:
        say("next:  `broker doctor`; grants not named here were renewed or not due", stderr=True)
