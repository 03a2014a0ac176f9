"""`make demo`: the broker's whole job on an embedded AWS, and what each caller gets."""

import argparse
import secrets
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import urllib3
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from rich.console import Console
from rich.live import Live
from rich.padding import Padding
from rich.table import Table

from broker_cli.api import Response
from broker_cli.aws import Stack
from broker_cli.console import is_plain
from broker_cli.render import GrantRow, StatusView
from broker_cli.status import look
from local.broker_stack import STACK_NAME, BrokerStack, wait_until
from local.callers import create_role, create_user
from local.embedded_aws import EmbeddedAws, EmbeddedAwsFailed
from local.fake_enable import Client, FakeEnable
from token_vendor.vend import GrantState
from tools.sam import ToolFailed

MINUTE_SECONDS: Final = 10
GRANTS: Final = ("deals", "activity", "users", "reporting")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the result: who asked for what, what should come back, what did."""

    who: str
    asked: str
    _: KW_ONLY
    expected: str
    got: str
    remark: str = ""

    @property
    def is_as_expected(self) -> bool:
        """Whether the response is the one that it should be."""
        return self.expected == self.got


@dataclass(frozen=True, slots=True)
class Cloud:
    """What the demo runs on."""

    stack: BrokerStack
    enable: FakeEnable
    client: Client


class Demo:
    """Runs the steps, printing each with the time it took."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rows: list[Row] = []

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Show a step while it runs, and how long it took."""
        began = time.monotonic()
        with self._console.status(text):
            yield
        self._done(text, began)

    def _done(self, text: str, began: float) -> None:
        self._console.print(f"  [green]✓[/] {text:<66} {time.monotonic() - began:5.1f} s")

    @contextmanager
    def cloud(self) -> Iterator[Cloud]:
        """The embedded AWS and the fake Enable, ended on leaving."""
        self._console.print("\n[bold]The Enable token broker, on an embedded AWS[/]\n")
        client = Client(
            client_id=str(uuid.uuid4()),
            client_secret=secrets.token_urlsafe(24) + '+&=%/ü€" \\',
            dealtrack_registration_id=str(uuid.uuid4()),
        )
        with (
            FakeEnable(client, token_lifetime=timedelta(minutes=15)) as enable,
            EmbeddedAws(schedule_minute_seconds=MINUTE_SECONDS) as aws,
        ):
            try:
                yield Cloud(BrokerStack(aws), enable, client)
            except TimeoutError as error:
                raise TimeoutError(f"{error}\n{aws.printed()}".strip()) from error

    def play(self, cloud: Cloud) -> bool:
        """Build, deploy, renew, ask; then print who got what.

        Returns:
            Whether every row is as expected.
        """
        stack, enable = cloud.stack, cloud.enable
        with self.step("sam build"):
            stack.build()
        with self.step("sam deploy, IAM enforced"):
            stack.deploy(TokenUrl=enable.token_url)
        callers = self._callers(stack)
        self._before_the_first_token(stack, callers["reporting-job"])
        with self.step("secret stored in Secrets Manager"):
            stack.store_secret(cloud.client)
        self._watch_the_schedule(stack)
        time.sleep(1.1)  # the vendor looks again after a second
        with self.step("callers ask, and use what they get"):
            self._ask(stack, callers, enable)
            self._overreach(stack)
        self._print(len(enable.token_requests))
        return all(row.is_as_expected for row in self._rows)

    def _watch_the_schedule(self, stack: BrokerStack) -> None:
        """What `broker status --watch` shows, until every grant is served."""
        text = f"the schedule renews all grants (its minute lasts {MINUTE_SECONDS} s)"
        began, opened = time.monotonic(), Stack.open(STACK_NAME, stack.administrator)
        rows = [GrantRow(grant=grant, state=GrantState.EXPIRED) for grant in GRANTS]

        def view() -> Padding:
            now = datetime.now(UTC)
            return Padding(StatusView(title=STACK_NAME, rows=rows, now=now), (1, 4, 1, 4))

        def is_served() -> bool:
            rows[:] = look(opened) or rows
            return sum(row.is_served for row in rows) == len(GRANTS)

        with Live(get_renderable=view, console=self._console, transient=True):
            wait_until(
                is_served, seconds=6 * MINUTE_SECONDS, what="the schedule to renew all grants"
            )
        self._done(text, began)
        self._console.print(view())

    def _callers(self, stack: BrokerStack) -> dict[str, Credentials]:
        api, administrator = stack.api, stack.administrator
        with self.step("IAM callers: a role, a user, and one whom IAM allows nothing"):
            return {
                "reporting-job": create_role(
                    administrator, "reporting-job", api.policy("/tokens/*")
                ),
                "deals-sync": create_user(administrator, "deals-sync", api.policy("/tokens/deals")),
                "newcomer": create_user(administrator, "newcomer", None),
            }

    def _add(self, who: str, asked: str, expected: str, reply: Response, remark: str = "") -> None:
        got = str(reply.status)
        if reply.status == 200:
            scopes = str(reply.body["scope"]).split()
            scope = scopes[0] if len(scopes) == 1 else f"{len(scopes)} scopes"
            remark = f"{scope}, {reply.body['expires_in']} s left"
        elif reply.status == 503:
            remark = f"retry after {reply.headers.get('retry-after')} s"
        elif not remark:
            remark = str(reply.body.get("error", "refused by IAM"))
        self._rows.append(Row(who, asked, expected=expected, got=got, remark=remark))

    def _before_the_first_token(self, stack: BrokerStack, job: Credentials) -> None:
        reply = stack.api.get("/tokens/deals", job)
        self._add("reporting-job", "deals (no token yet)", "503", reply)

    def _ask(self, stack: BrokerStack, callers: dict[str, Credentials], enable: FakeEnable) -> None:
        api = stack.api
        job, sync, newcomer = callers["reporting-job"], callers["deals-sync"], callers["newcomer"]
        for grant in GRANTS:
            self._add("reporting-job", grant, "200", api.get(f"/tokens/{grant}", job))
        deals = api.get("/tokens/deals", sync)
        self._add("deals-sync", "deals", "200", deals)
        self._use(enable, "/v1/deals", deals, "200")
        self._use(enable, "/v1/users", deals, "403")
        self._add("deals-sync", "users", "403", api.get("/tokens/users", sync))
        self._add("newcomer", "deals", "403", api.get("/tokens/deals", newcomer))
        forged = Credentials(sync.access_key, "not the secret key")
        self._add("wrong signature", "deals", "403", api.get("/tokens/deals", forged))
        self._add("anonymous", "deals", "403", api.get("/tokens/deals", None))
        self._add("reporting-job", "invoices", "404", api.get("/tokens/invoices", job))
        for query, expected in (("soon", "400"), ("86400", "503")):
            reply = api.get(f"/tokens/deals?min_ttl={query}", job)
            self._add("reporting-job", f"deals, min_ttl={query}", expected, reply)

    def _use(self, enable: FakeEnable, path: str, token: Response, expected: str) -> None:
        response = urllib3.request(
            "GET",
            f"{enable.url}{path}",
            headers={"Authorization": f"Bearer {token.access_token}"},
            retries=False,
        )
        remark = f"{len(response.json()['data'])} records" if response.status == 200 else "scope"
        row = Row(
            "deals-sync",
            f"Enable's {path}",
            expected=expected,
            got=str(response.status),
            remark=remark,
        )
        self._rows.append(row)

    def _overreach(self, stack: BrokerStack) -> None:
        """What can be called cannot reach the secret."""
        vendor = stack.aws.session(stack.function_credentials(stack.outputs["VendFunctionName"]))
        try:
            vendor.client("secretsmanager").get_secret_value(
                SecretId=stack.outputs["ClientSecretArn"]
            )
            got = "readable"
        except ClientError as error:
            got = error.response["Error"]["Code"].replace("AccessDeniedException", "denied")
        self._rows.append(Row("vend function", "the secret", expected="denied", got=got))

    def _print(self, requests: int) -> None:
        table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("", no_wrap=True, min_width=1)
        for heading in ("who", "asked for", "got", ""):
            table.add_column(heading, no_wrap=True)
        for row in self._rows:
            mark = "[green]✓[/]" if row.is_as_expected else "[red]✗[/]"
            got = row.got if row.is_as_expected else f"[red]{row.got}, not {row.expected}[/]"
            table.add_row(mark, row.who, row.asked, got, f"[dim]{row.remark}[/]")
        good = sum(row.is_as_expected for row in self._rows)
        self._console.print()
        self._console.print(table)
        self._console.print(
            f"\n{good} of {len(self._rows)} as expected; Enable was asked {requests} times for "
            f"{len(GRANTS)} grants.\n"
        )


def main() -> int:
    """Run the demo.

    Returns:
        0 if every row is as expected, 1 if not or if a step failed, 130 after Ctrl-C.
    """
    argparse.ArgumentParser(description=__doc__).parse_args()
    console = Console(highlight=False, force_terminal=False if is_plain() else None)
    try:
        demo = Demo(console)
        with demo.cloud() as cloud:
            is_good = demo.play(cloud)
    except KeyboardInterrupt:
        console.print("\nstopped; nothing is left running")
        return 130
    except (ToolFailed, EmbeddedAwsFailed, TimeoutError, OSError) as error:
        print(f"\nthe demo failed: {error}", file=sys.stderr)
        return 1
    console.print("Nothing is left running; `make up` keeps it running.\n")
    return 0 if is_good else 1


if __name__ == "__main__":
    raise SystemExit(main())
