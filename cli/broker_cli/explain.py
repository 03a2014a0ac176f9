"""`broker explain`: would this caller get the token, and which lock refuses."""

from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import typer
from botocore.exceptions import ClientError

from broker_cli.aws import CONFIG, Stack
from broker_cli.console import say, say_json, working
from broker_cli.failures import ExitCode
from broker_cli.options import GrantName, Grants, Json, StackName, read_grants
from broker_cli.principals import grant_of, is_named, normalized
from broker_cli.render import GrantRow
from broker_cli.status import look
from token_broker.aws import describe_fault
from token_broker.grants import Grant

type Verdict = Literal["passes", "refuses", "unknown"]

_MARKS = {"passes": ("✓", "green"), "refuses": ("✗", "red"), "unknown": ("?", "yellow")}


@dataclass(frozen=True, slots=True)
class Lock:
    """One of what stands between a caller and a token."""

    lock: str
    verdict: Verdict
    why: str


def explain(
    grant: GrantName,
    stack: StackName,
    grants_file: Grants,
    principal: Annotated[
        str, typer.Option("--as", metavar="ARN", help="The caller: a user, role or session.")
    ],
    json: Json = False,
) -> None:
    """Say whether a caller would get a grant's token, and if not, what refuses it.

    Checks the account, the caller's IAM policies (by AWS's policy simulator), callers in
    grants.toml, and the token. Exits with 1 if the caller would not get it.
    """
    caller, found = normalized(principal), grant_of(read_grants(grants_file), grant)
    with working("looking"):
        opened = Stack.open(stack)
        row = next((row for row in look(opened) if row.grant == grant), None)
        locks = [
            _account(opened, caller),
            _iam(opened, caller, grant),
            callers_lock(found, caller),
            token_lock(row, found),
        ]
    verdict = gets_a_token(locks)
    if json:
        output = [asdict(lock) for lock in locks]
        say_json({"grant": grant, "principal": caller, "gets_a_token": verdict, "locks": output})
    else:
        for lock in locks:
            mark, style = _MARKS[lock.verdict]
            say(f"{mark} {lock.lock}: {lock.why}", style=style)
        first = next((lock.lock for lock in locks if lock.verdict == "refuses"), "")
        say(
            {
                "yes": f"{caller} gets the token of {grant}",
                "no": f"{caller} does not get the token of {grant}: refused by {first}",
                "unknown": f"{caller} gets the token of {grant}, as far as can be seen from here",
            }[verdict]
        )
    if verdict == "no":
        raise typer.Exit(ExitCode.WRONG)


def gets_a_token(locks: list[Lock]) -> str:
    """The verdict of all locks together: `yes`, `no` or `unknown`."""
    verdicts = {lock.verdict for lock in locks}
    if "refuses" in verdicts:
        return "no"
    return "unknown" if "unknown" in verdicts else "yes"


def _account(stack: Stack, caller: str) -> Lock:
    """The API's resource policy, as the stack's parameters write it."""
    account, more = caller.split(":")[4], stack.parameters.get("CallerAccounts", "").split(",")
    if stack.parameters.get("VpcEndpointIds"):
        return Lock("account", "unknown", "the API is private: only calls through its endpoints")
    if account == stack.account:
        return Lock("account", "passes", f"{account} is the broker's own")
    if account in more:
        return Lock("account", "passes", f"CallerAccounts names {account}")
    if organization := stack.parameters.get("CallerOrgId"):
        return Lock("account", "unknown", f"if {account} is in the organization {organization}")
    return Lock("account", "refuses", f"CallerAccounts does not name {account} (docs/reach.md)")


def _iam(stack: Stack, caller: str, grant: str) -> Lock:
    """The caller's identity policies, as far as AWS simulates them for us."""
    iam, resource = stack.session.client("iam", config=CONFIG), caller.split(":")[5]
    if caller.split(":")[4] != stack.account:
        return Lock("IAM", "unknown", "its policies are in another account: simulate them there")
    try:
        if resource.startswith("role/"):  # a session's ARN has lost the role's path
            caller = iam.get_role(RoleName=resource.rpartition("/")[2])["Role"]["Arn"]
        reply = iam.simulate_principal_policy(
            PolicySourceArn=caller,
            ActionNames=["execute-api:Invoke"],
            ResourceArns=[stack.api_arn("GET", f"/tokens/{grant}")],
        )
    except ClientError as error:
        if error.response["Error"]["Code"] == "NoSuchEntity":
            return Lock("IAM", "refuses", "there is no such principal in this account")
        return Lock("IAM", "unknown", describe_fault(error)[1])
    decision = reply["EvaluationResults"][0]["EvalDecision"]
    if decision == "allowed":
        return Lock("IAM", "passes", f"its policies allow GET /tokens/{grant}")
    if decision == "explicitDeny":
        return Lock("IAM", "refuses", f"a policy denies GET /tokens/{grant} explicitly")
    return Lock("IAM", "refuses", f"no policy allows it; `broker policy {grant}` prints the one")


def callers_lock(grant: Grant, caller: str) -> Lock:
    """The allow-list, `callers` in grants.toml."""
    if grant.callers is None:
        return Lock("callers", "passes", "grants.toml names none: IAM alone decides")
    if is_named(caller, grant.callers):
        return Lock("callers", "passes", "grants.toml names it")
    if grant.mode == "audit":
        return Lock("callers", "passes", "grants.toml does not name it, but is only tried out")
    return Lock("callers", "refuses", "grants.toml does not name it")


def token_lock(row: GrantRow | None, grant: Grant) -> Lock:
    """Whether there is a token to hand over."""
    if row is None:
        return Lock("token", "refuses", "the refresher knows no such grant: deploy grants.toml")
    if row.scope and set(row.scope) != set(grant.scope):
        return Lock(
            "token", "unknown", "the deployed grant has another scope than this grants.toml"
        )
    if row.is_served:
        return Lock("token", "passes", f"it is {row.state.value}")
    why = ": ".join(filter(None, [row.reason, row.cause])) or "`broker refresh` asks for one"
    return Lock("token", "refuses", f"it is {row.state.value} ({why})")
