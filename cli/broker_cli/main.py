"""Wires the commands together, and turns every error into one line, a next step and a code."""

import os
import signal
import sys
from io import TextIOWrapper
from types import FrameType
from typing import Any

import typer
from typer import rich_utils
from typer.core import TyperGroup

from broker_cli import (
    audit,
    block,
    cleanup,
    deploy,
    doctor,
    explain,
    failed_runs,
    grants,
    probe,
    refresh,
    secret,
    status,
    token,
    trace,
    usage,
)
from broker_cli.console import is_plain, say
from broker_cli.failures import ExitCode, failure_of
from broker_cli.options import examples, help_of
from broker_cli.schemas import schema
from broker_cli.verify.command import verify

_CODES = """
Exit codes:
  0    the command succeeded, and all is well
  1    something is wrong: the output says what
  2    the command line, a file or a value is invalid
  3    AWS refused, or could not be reached
  4    the token API refuses this caller
  5    no live token now: try again later
  130  interrupted; nothing is left half-done"""


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.TyperException):
            raise  # Typer's own: it prints a usage error and exits with 2
        except (KeyboardInterrupt, typer.Abort):
            say("interrupted", stderr=True)
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        except BrokenPipeError:
            raise
        except Exception as error:
            if os.environ.get("BROKER_TRACEBACK"):  # for anyone who develops this
                raise
            failure = failure_of(error)
            say(f"error: {failure}", style="red", stderr=True)
            say(f"next:  {failure.next_step}", stderr=True)
            raise typer.Exit(failure.code) from None


app = typer.Typer(
    name="broker",
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Operate an Enable token broker.\n\nThe AWS environment (AWS_PROFILE, AWS_DEFAULT_REGION, "
        "AWS_ENDPOINT_URL …) selects the account, --stack the deployment. No command takes a "
        "secret as an argument, and only `token` prints a token."
    ),
    epilog=_CODES
    + "\n"
    + examples(
        "broker doctor",
        "broker status --watch",
        "AWS_PROFILE=prod broker --help",
        "broker --install-completion",
    ),
)

_LOOK, _ACT, _CALLERS = "Look", "Act", "Callers"


def _add(command: Any, name: str, panel: str, *lines: str) -> None:
    described = app.command(
        name, help=help_of(command), rich_help_panel=panel, epilog=examples(*lines)
    )
    described(command)


_add(
    status.status,
    "status",
    _LOOK,
    "broker status --watch",
    "broker status --html status.html",
    "broker status --json | jq '.grants[] | select(.state != \"live\")'",
)
_add(
    doctor.doctor,
    "doctor",
    _LOOK,
    "broker doctor",
    "broker doctor --stack enable-token-broker --json",
)
_add(
    verify,
    "verify",
    _LOOK,
    "broker verify --active",
    "broker verify --json | jq '.checks[] | select(.verdict != \"passed\")'",
)
_add(
    audit.audit,
    "audit",
    _LOOK,
    "broker audit --since 1d --grant deals",
    "broker audit --caller role/reporting-job --json",
)
_add(trace.trace, "trace", _LOOK, "broker trace 3f2a9c41d0be", "broker trace 3f2a9c41d0be --json")
_add(
    usage.usage,
    "usage",
    _LOOK,
    "broker usage --since 30d",
    "broker usage --csv > usage.csv",
)
_add(probe.probe, "probe", _LOOK, "broker probe --grant deals", "broker probe --allowed-profile ci")
_add(failed_runs.failures, "failures", _LOOK, "broker failures", "broker failures --clear")
app.add_typer(secret.app, name="secret", rich_help_panel=_ACT)
_add(
    refresh.refresh,
    "refresh",
    _ACT,
    "broker refresh",
    "broker refresh deals users --force",
)
_add(block.block, "block", _ACT, "broker block deals --reason 'token leaked, case 1234'")
_add(block.unblock, "unblock", _ACT, "broker unblock deals")
_add(
    deploy.deploy,
    "deploy",
    _ACT,
    "broker deploy --bucket my-artifacts AlarmEmail=ops@example.com",
    "broker deploy GrantsLayerArn=arn:aws:lambda:…:layer:…:7",
)
_add(cleanup.cleanup, "cleanup", _ACT, "broker cleanup --stack enable-token-broker-dev")
app.add_typer(grants.app, name="grants", rich_help_panel=_CALLERS)
_add(
    token.policy,
    "policy",
    _CALLERS,
    "broker policy deals > policy.json",
    "broker policy deals --principal arn:aws:iam::111122223333:role/reporting-job",
)
_add(
    explain.explain,
    "explain",
    _CALLERS,
    "broker explain deals --as arn:aws:iam::111122223333:role/reporting-job",
)
_add(
    token.token,
    "token",
    _CALLERS,
    "broker token deals --header | curl -H @- https://…",
    "broker token deals --min-ttl 300",
)
_add(schema, "schema", _LOOK, "broker schema status")


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line; SIGTERM and a closed terminal end it in order, as Ctrl-C does."""
    for number in (
        signal.SIGTERM,
        getattr(signal, "SIGHUP", signal.SIGTERM),
    ):  # no SIGHUP on Windows
        signal.signal(number, _interrupt)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a mark that an old terminal lacks is no reason
    if is_plain():
        rich_utils.COLOR_SYSTEM = None
    app()


if __name__ == "__main__":
    main()
