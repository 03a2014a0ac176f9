"""`broker token` and `broker policy`: being a caller, and letting one in."""

from typing import Annotated, Final

import typer

from broker_cli.api import Response, TokenApi
from broker_cli.aws import Stack, new_session
from broker_cli.console import printable, say, say_json, working
from broker_cli.failures import ExitCode, Failure
from broker_cli.options import GrantName, Grants, StackName, read_grants
from broker_cli.principals import grant_of, is_named, normalized

_SIGNATURE: Final = (
    "InvalidSignature",
    "IncompleteSignature",
    "UnrecognizedClient",
    "ExpiredToken",
    "MissingAuthentication",
)
"""How API Gateway's error types begin where it does not know who asks."""


def token(
    grant: GrantName,
    stack: StackName,
    header: Annotated[
        bool, typer.Option("--header", help="Print it as an Authorization header.")
    ] = False,
    min_ttl: Annotated[
        int, typer.Option(min=0, metavar="SECONDS", help="Only a token that lives this long.")
    ] = 0,
    url: Annotated[
        str | None,
        typer.Option(
            envvar="BROKER_URL",
            help="The output TokenApiUrl, if you may not read the stack.",
        ),
    ] = None,
) -> None:
    """Request a grant's token with your AWS credentials, and print it.

    Anyone who has this bearer token can use it until it expires. Exits with 4 if you may not
    have it, with 5 if there is none now.
    """
    with working("asking"):
        session = new_session()
        api = TokenApi(url, session) if url else Stack.open(stack).api
        response = api.token(grant, session, f"?min_ttl={min_ttl}" if min_ttl else "")
    if response.status != 200:
        raise refusal(response, grant)
    value = response.access_token
    say(f"Authorization: Bearer {value}" if header else value)


def refusal(response: Response, grant: str) -> Failure:
    """What a response without a token means to anyone who asked."""
    output = printable(response.body.get("error_description", "no reason given"))
    if response.status == 404:
        return Failure(
            f"there is no grant {printable(grant)}",
            "`broker status` shows which there are",
            ExitCode.USAGE,
        )
    if response.status == 403:
        return _forbidden(response, grant)
    if response.status in {429, 503}:
        again = response.headers.get("retry-after", "a few")
        return Failure(
            f"no token of {grant} now: {output}",
            f"try again in {printable(again)} seconds; `broker status` shows why",
            ExitCode.NOT_NOW,
        )
    if response.status == 400:
        return Failure(output, "`broker token --help`", ExitCode.USAGE)
    return Failure(f"the token API returned HTTP {response.status}", "`broker doctor`")


def _forbidden(response: Response, grant: str) -> Failure:
    """Which lock it was."""
    if response.body.get("error") == "access_denied":
        return Failure(
            f"the callers of {grant} in grants.toml do not name you",
            f"`broker explain {grant} --as` your ARN shows it; add yourself there and deploy",
            ExitCode.REFUSED,
        )
    if response.headers.get("x-amzn-errortype", "").startswith(_SIGNATURE):
        return Failure(
            "the signature was not accepted",
            "check the AWS credentials and this machine's clock",
            ExitCode.AWS,
        )
    return Failure(
        f"IAM does not let you have {grant}",
        f"`broker policy {grant}` prints the policy that does",
        ExitCode.REFUSED,
    )


def policy(
    grant: GrantName,
    stack: StackName,
    grants_file: Grants,
    principal: Annotated[
        str | None,
        typer.Option(metavar="ARN", help="Also say whether the grant's callers name it."),
    ] = None,
) -> None:
    """Print the IAM identity policy that a caller of a grant needs, ready to paste.

    It allows the caller to get the token and to report one that Enable refused. The policy goes
    to standard output, the URL that the caller uses and remarks to standard error.
    """
    found = grant_of(read_grants(grants_file), grant)
    caller = normalized(principal) if principal else None
    with working("looking"):
        opened = Stack.open(stack)
    say_json(policy_document(opened, grant))
    _say_urls(opened)
    if caller is None:
        return
    if found.callers is None:
        say(f"{grant} names no callers: IAM alone decides", stderr=True)
    elif is_named(caller, found.callers):
        say(f"the callers of {grant} name {caller}", stderr=True)
    else:
        mode = "lets it through and logs it" if found.mode == "audit" else "refuses it"
        say(f"the callers of {grant} do not name {caller}: the allow-list {mode}", stderr=True)
        say(f'next:  add "{caller}" to callers in grants.toml, and deploy', stderr=True)
    if caller.split(":")[4:5] != [opened.account]:
        say("it is of another account: CallerAccounts must let it in (docs/reach.md)", stderr=True)


def _say_urls(stack: Stack) -> None:
    """The callers' URL, and that a custom domain does not change what the policy names."""
    url = stack.outputs["TokenApiUrl"]
    if domain := stack.outputs.get("TokenApiDomainUrl"):
        say(f"url:   {domain}, or {url}", stderr=True)
        say("the policy names the API's id: a new stack needs new policies", stderr=True)
    else:
        say(f"url:   {url}", stderr=True)


def policy_document(stack: Stack, grant: str) -> dict[str, object]:
    """The policy of `broker policy`."""
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "EnableToken",
                "Effect": "Allow",
                "Action": "execute-api:Invoke",
                "Resource": [
                    stack.api_arn("GET", f"/tokens/{grant}"),
                    stack.api_arn("POST", f"/tokens/{grant}/rejection"),
                ],
            }
        ],
    }
