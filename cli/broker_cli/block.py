"""`broker block` and `broker unblock`: the kill switch of a grant.

A block stands in the token's place: the vendor refuses when it next reads the parameter, which is
within its cache window, and the refresher leaves the grant alone.
"""

from datetime import UTC, datetime
from typing import Annotated, Final

import typer

from broker_cli.aws import CONFIG, Stack
from broker_cli.console import say, working
from broker_cli.failures import ExitCode, Failure
from broker_cli.options import GrantName, Grants, StackName, read_grants
from broker_cli.principals import grant_of
from broker_cli.refresh import show
from token_broker.errors import CorruptStoredToken, GrantBlocked
from token_broker.models import block_record
from token_broker.token_store import ParameterTokenStore

_MAX_REASON: Final = 200
"""Characters: it is kept in the parameter's description as well, beside AWS's 1,024."""


def block(
    grant: GrantName,
    stack: StackName,
    grants_file: Grants,
    reason: Annotated[str, typer.Option(help="Why. Status and log show it: write no secret.")],
) -> None:
    """Stop a grant: nothing is vended or renewed until it is unblocked.

    Callers get 503 after TokenCacheSeconds at the latest. Tokens that callers already have work
    until they expire or Enable revokes them.
    """
    reason = reason.strip()
    if not reason or len(reason) > _MAX_REASON or not reason.isprintable():
        raise Failure(
            "the reason is empty, too long or not one line of plain text",
            f"give up to {_MAX_REASON} characters",
            ExitCode.USAGE,
        )
    grant_of(read_grants(grants_file), grant)
    with working("blocking"):
        opened = Stack.open(stack)
        _write(opened, grant, reason)
        opened.start_refresh({"grants": [grant]})  # it leaves the grant alone, and says so
    window = opened.parameters.get("TokenCacheSeconds", "60")
    say(f"{grant} is blocked; the last caller is served within {window} seconds from now")
    say(f"`broker unblock {grant}` ends it", stderr=True)


def _write(stack: Stack, grant: str, reason: str) -> int:
    """Put the block in the token's place; the parameter's new version."""
    store = ParameterTokenStore(
        stack.session.client("ssm", config=CONFIG),
        prefix=stack.prefix,
        key_id=stack.resource("BrokerKey"),
    )
    return store.block(grant, GrantBlocked(reason, block_record(reason, now=datetime.now(UTC))))


def unblock(grant: GrantName, stack: StackName, grants_file: Grants) -> None:
    """End the block of a grant, and request a new token."""
    grant_of(read_grants(grants_file), grant)
    with working("unblocking"):
        opened = Stack.open(stack)
        client = opened.session.client("ssm", config=CONFIG)
        try:
            ParameterTokenStore(client, prefix=opened.prefix).read(grant)
            is_blocked = False
        except GrantBlocked:
            is_blocked = True
        except CorruptStoredToken:
            is_blocked = False
        if not is_blocked:
            say(f"{grant} is not blocked: nothing to do")
            return
        client.delete_parameter(Name=f"{opened.prefix}/{grant}")
        run = opened.refresh({"grants": [grant]})
    say(f"{grant} is no longer blocked")
    show(run)
    if run.error:
        raise typer.Exit(ExitCode.WRONG)
