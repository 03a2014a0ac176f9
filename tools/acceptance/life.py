"""The steps of an acceptance run, and what is looked at after each."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from botocore.exceptions import BotoCoreError, ClientError

from broker_cli.aws import CONFIG
from broker_cli.failures import Failure, failure_of
from broker_cli.verify.command import active_checks, checks, look, summary
from broker_cli.verify.result import Deployment, Failed
from local.broker_stack import wait_until
from tools.acceptance.account import ROLE, Account, Place
from tools.sam import ToolFailed

ONE: Final = "enable-token-broker-acceptance-1"
TWO: Final = "enable-token-broker-acceptance-2"
_TOKEN_SECONDS: Final = 300.0
_CHANGE: Final = {"RefreshAheadSeconds": "900"}
"""What the update changes."""

STEP_ERRORS: Final = (ToolFailed, Failure, ClientError, BotoCoreError, TimeoutError)

type Step = tuple[str, Callable[[], None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was typed.

    Attributes:
        regions: the two.
        credentials: Enable's, JSON as `broker secret set` takes it; None leaves secrets unfilled.
        parameters: of the template, for every stack.
        grant: whose token must be served.
        is_built: whether the artifacts are there.
        is_read_only: `broker verify` without `--active`.
    """

    regions: tuple[str, str]
    credentials: str | None = field(repr=False)
    parameters: Mapping[str, str]
    grant: str
    is_built: bool
    is_read_only: bool


class Life:
    """One run in an account.

    Attributes:
        broken: what was not as promised, by place and check.
    """

    def __init__(self, account: Account, options: Options) -> None:
        self._account, self._options = account, options
        first, second = options.regions
        self._one, self._two, self._far = Place(ONE, first), Place(TWO, first), Place(ONE, second)
        self._deployed: dict[Place, None] = {}
        self.broken: list[str] = []

    @property
    def _places(self) -> tuple[Place, ...]:
        return self._one, self._two, self._far

    def steps(self) -> list[Step]:
        """All of them in order, each with what it does."""
        one, two, far = self._places
        build = [] if self._options.is_built else [("build the artifacts", self._account.build)]
        return [
            *build,
            (f"make the role {ROLE} of docs/deployer-policy.json", self._account.make_deployer),
            (f"deploy {one}", lambda: self._deploy(one)),
            (f"deploy {two}: two in one account and Region", lambda: self._deploy(two)),
            (f"deploy {far}: one name in two Regions", lambda: self._deploy(far)),
            (f"update {one}", lambda: self._deploy(one, _CHANGE)),
            (f"delete {one}", lambda: self._delete(one)),
            (f"deploy {one} again", lambda: self._deploy(one)),
        ]

    def leftovers(self) -> list[str]:
        """What is there of an earlier run."""
        found = [str(place) for place in self._places if self._account.status(place)]
        return [*found, *([f"the role {ROLE}"] if self._account.has_deployer() else [])]

    def run(self) -> None:
        """Make each step, and look at what is deployed after it.

        Raises:
            ToolFailed: `sam` failed.
            Failure: a stack is not what a broker's is.
            TimeoutError: something was not ready in time.
        """
        steps = self.steps()
        for number, (text, step) in enumerate(steps, 1):
            print(f"\n[{number}/{len(steps)}] {text}", flush=True)
            step()
            for place in self._deployed:
                self._verify(place)

    def clean(self) -> list[str]:
        """Remove all that a run makes, in whatever state; what could not be removed is returned."""
        removals: list[Step] = [
            *((f"{place}", partial(self._account.begin_removal, place)) for place in self._places),
            *((f"{place}", partial(self._account.finish_removal, place)) for place in self._places),
            (f"the role {ROLE}", self._account.remove_deployer),
        ]
        left = []
        for text, remove in removals:
            try:
                remove()
            except Exception as error:
                left.append(f"{text}: {describe(error)}")
        return left

    def _deploy(self, place: Place, parameters: Mapping[str, str] | None = None) -> None:
        self._account.deploy(place, {**self._options.parameters, **(parameters or {})})
        self._deployed[place] = None
        self._serve(place)

    def _delete(self, place: Place) -> None:
        self._account.delete(place)
        del self._deployed[place]

    def _serve(self, place: Place) -> None:
        """Store Enable's credentials and wait until the schedule alone has brought a token."""
        if self._options.credentials is None:
            print("  - tokens: not checked: without --credentials no secret is stored")
            return
        stack, grant, started = self._account.open(place), self._options.grant, time.monotonic()
        stack.session.client("secretsmanager", config=CONFIG).put_secret_value(
            SecretId=stack.outputs["ClientSecretArn"], SecretString=self._options.credentials
        )
        try:
            wait_until(
                lambda: stack.api.token(grant, stack.session).status == 200,
                seconds=_TOKEN_SECONDS,
                what=f"a token of {grant}",
            )
        except TimeoutError as error:
            self.broken.append(f"{place}: {error}")
        else:
            print(f"  ✓ tokens: {grant} is served after {time.monotonic() - started:.0f} s")

    def _verify(self, place: Place) -> None:
        deployment = Deployment.of(self._account.open(place))
        active = () if self._options.is_read_only else active_checks()
        lines = list(look(deployment, [*checks(deployment), *active]))
        failed = [line for line in lines if isinstance(line.result, Failed)]
        print(f"  {place}: {summary(lines, [line.check for line in failed])}", flush=True)
        for line in failed:
            line.show()
        self.broken += [f"{place}: {line.check}" for line in failed]


def describe(error: Exception) -> str:
    """An error of a step in words; no request or response of AWS is quoted."""
    ours = isinstance(error, ToolFailed | Failure | TimeoutError)
    return str(error) if ours else str(failure_of(error))
