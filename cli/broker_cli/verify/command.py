"""The command: runs the checks one after the other, and says what is broken."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated

import typer

from broker_cli.aws import Stack
from broker_cli.console import printable, say, say_json, working
from broker_cli.failures import ExitCode
from broker_cli.options import Json, StackName
from broker_cli.verify import active as trials
from broker_cli.verify import alarms, functions, network, roles, schedule, token_api
from broker_cli.verify.result import Check, Deployment, Failed, NotChecked, Passed, Result, judge


@dataclass(frozen=True, slots=True)
class Line:
    """One check and its result."""

    check: str
    result: Result

    def as_json(self) -> dict[str, str]:
        """As `broker verify --json` prints it."""
        match self.result:
            case Passed(found):
                return {"check": self.check, "verdict": "passed", "found": found, "next": ""}
            case Failed(found, step):
                return {"check": self.check, "verdict": "failed", "found": found, "next": step}
            case NotChecked(why):
                return {"check": self.check, "verdict": "not_checked", "found": why, "next": ""}

    def show(self) -> None:
        """Print it: a line, and below a failure the next step."""
        match self.result:
            case Passed(found):
                say(f"✓ {self.check}: {printable(found)}", style="green")
            case Failed(found, step):
                say(f"✗ {self.check}: {printable(found)}", style="red")
                say(f"  next: {step}")
            case NotChecked(why):
                say(f"- {self.check}: not checked: {printable(why)}", style="yellow")


def checks(deployment: Deployment) -> Iterable[tuple[str, Check]]:
    """Every check that only reads, by name, in the order in which they are shown."""
    yield "schedule", schedule.schedule
    yield "rule for changed secrets", schedule.rule
    yield "event pattern", schedule.pattern
    yield "role of the schedule", roles.schedule_role
    yield "role of token-refresher", roles.refresher_role
    yield "key use of token-refresher", roles.refresher_key
    yield "role of token-vendor", roles.vendor_role
    yield "key use of token-vendor", roles.vendor_key
    yield from functions.runtime_checks(deployment)
    yield "network of token-refresher", network.reach
    yield "log retention", functions.log_retention
    yield "key", functions.key
    yield "Lambda concurrency", functions.concurrency
    yield "Parameter Store throughput", functions.throughput
    yield "API policy", token_api.policy
    yield "API endpoint", token_api.endpoint
    yield "API throttling", token_api.throttling
    yield "API authorisation", token_api.authorisation
    yield "unsigned calls", token_api.unsigned
    yield "alarm actions", alarms.actions
    yield "alarm receivers", alarms.receivers
    yield from alarms.metric_checks(deployment)
    yield "metric lines", alarms.metric_lines


def active_checks() -> Iterable[tuple[str, Check]]:
    """Every check that changes something and puts it back."""
    yield "large token", trials.large_token
    yield "alarm reaches the topic", trials.alarm_action
    yield "failed run reaches the queue", trials.failed_run


def verify(
    stack: StackName,
    active: Annotated[
        bool,
        typer.Option(
            "--active",
            help="Also store a large token, set off an alarm and start a run that fails. Undoes "
            "each; receivers of alarms get messages.",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Check that a deployed stack keeps its promises in this account.

    Checks schedule, event pattern, roles, key, functions, network, quotas, token API, alarms and
    metrics, as AWS has them now. "Not checked" is what AWS does not show, or not to you. Exits with
    1 if anything is broken. `broker doctor` checks that tokens are renewed and vended.
    """
    with working("looking the stack up"):
        deployment = Deployment.of(Stack.open(stack))
    lines: list[Line] = []
    for line in look(deployment, [*checks(deployment), *(active_checks() if active else ())]):
        lines.append(line)
        if not json:
            line.show()
    broken = [line.check for line in lines if isinstance(line.result, Failed)]
    if json:
        output = [line.as_json() for line in lines]
        say_json({"stack": stack, "is_kept": not broken, "broken": broken, "checks": output})
    else:
        say(f"\n{summary(lines, broken)}")
    if broken:
        raise typer.Exit(ExitCode.WRONG)


def look(deployment: Deployment, chosen: Iterable[tuple[str, Check]]) -> Iterator[Line]:
    """Run checks one after the other."""
    for name, check in chosen:
        with working(name):
            result = judge(check, deployment)
        yield Line(name, result)


def summary(lines: list[Line], broken: list[str]) -> str:
    """What came of all checks, in a line."""
    passed = sum(isinstance(line.result, Passed) for line in lines)
    unknown = sum(isinstance(line.result, NotChecked) for line in lines)
    counts = f"{passed} kept, {unknown} not checked"
    return f"broken: {', '.join(broken)} ({counts})" if broken else f"nothing is broken: {counts}"
