"""`broker probe`: one caller that must get a token, one that must not; for a scheduler."""

from typing import Annotated

import typer

from broker_cli.aws import Stack, new_session
from broker_cli.console import say, say_json, working
from broker_cli.failures import ExitCode
from broker_cli.options import Json, StackName, grant_names


def probe(
    stack: StackName,
    grant: Annotated[
        str, typer.Option(help="The grant to request.", autocompletion=grant_names)
    ] = "deals",
    allowed_profile: Annotated[
        str | None,
        typer.Option(
            metavar="PROFILE",
            help="AWS profile that must get the token; by default yours.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Check that an allowed caller gets a token, and that an unsigned request gets none.

    Drops the token. Exits with 1 if one of the two is not so.
    """
    with working("asking twice"):
        opened = Stack.open(stack)
        session = new_session(allowed_profile) if allowed_profile else opened.session
        calls = [
            (allowed_profile or "you", 200, opened.api.token(grant, session).status),
            ("anonymous", 403, opened.api.token(grant, None).status),
        ]
    is_well = all(expected == status for _, expected, status in calls)
    if json:
        output = [
            {"caller": who, "expected": expected, "status": status, "is_well": expected == status}
            for who, expected, status in calls
        ]
        say_json({"grant": grant, "is_well": is_well, "calls": output})
    else:
        for who, expected, status in calls:
            good = expected == status
            mark, style = ("✓", "green") if good else ("✗", "red")
            remark = "" if good else f", not {expected}"
            say(f"{mark} {who}: {grant} returned {status}{remark}", style=style)
    if not is_well:
        say("next:  `broker doctor`", stderr=True)
        raise typer.Exit(ExitCode.WRONG)
