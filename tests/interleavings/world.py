"""A small AWS and Enable in memory, and refresh runs that stop before each of their calls.

The broker's own code runs on it unchanged: refresher, policy, lease, backoffs and both stores. No
thread is involved: what a run does next depends only on the results of its calls so far, so a run
is executed again with those results until it makes a call that has none yet. There it stops.
"""

from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from functools import cache
from types import SimpleNamespace
from typing import Any, Final, NamedTuple, cast, override
from unittest.mock import patch

from botocore.exceptions import ConnectionClosedError

from tests.unit.fakes import (
    CREDENTIALS,
    NOW,
    URL,
    FakeSsm,
    response,
    seconds,
    stored,
)
from token_broker.aws import describe_fault
from token_broker.grants import DEFAULT_CONNECTION, Grant
from token_broker.models import StoredToken
from token_broker.token_store import ParameterTokenStore
from token_refresher.connection_state import ConnectionStateStore
from token_refresher.credentials import CURRENT, SecretVersion
from token_refresher.enable.models import Issued, TokenRequest
from token_refresher.outcomes import Outcome
from token_refresher.parameter_reader import ParameterReader
from token_refresher.refresh import Refresher
from token_refresher.refresh_request import RefreshRequest

PREFIX: Final = "/p"
CONNECTION: Final = f"{PREFIX}/connections/{DEFAULT_CONNECTION}"
INVOCATION: Final = seconds(53)
LIFETIME: Final = 3600
SECRET: Final = SecretVersion(version_id="v2", stage=CURRENT, credentials=CREDENTIALS)
NOT_FOUND: Final = "ParameterNotFound"
LOST: Final = "no response"


class Trigger(Enum):
    """The rows of the policy table."""

    SCHEDULE = "schedule"
    REJECTED = "rejected"
    SECRET_CHANGED = "secret changed"
    FORCED = "forced"

    def request(self, name: str, old: StoredToken) -> RefreshRequest:
        """The event of a run with this trigger; `REJECTED` and `FORCED` name one grant."""
        match self:
            case Trigger.SCHEDULE:
                return RefreshRequest()
            case Trigger.REJECTED:
                return RefreshRequest(grants=(name,), rejected=old.fingerprint)
            case Trigger.SECRET_CHANGED:
                return RefreshRequest(changed_secret="secret")
            case Trigger.FORCED:
                return RefreshRequest(force=True, grants=(name,))


class Call(NamedTuple):
    """What a run is about to do.

    Attributes:
        kind: `get`, `put`, `secret`, `request` or `pause`.
        subject: the parameter's name, or the scope; names, if several parameters are read.
        detail: the value to be put, or the seconds of a pause.
    """

    kind: str
    subject: str | tuple[str, ...] = ""
    detail: str | float = ""


class _Suspended(BaseException):
    """The run stops here; nothing after it is executed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """What distinguishes one run from another.

    Attributes:
        number: of the run.
        trigger: why it starts.
        lifetime: of the tokens that Enable issues to it, in seconds.
        old: what is stored at first, by grant.
        start: when it starts.
    """

    number: int
    trigger: Trigger
    lifetime: int
    old: tuple[tuple[str, StoredToken], ...]
    start: datetime = NOW


@dataclass(eq=False, slots=True)
class Run:
    """A run after so many calls; two runs that had the same results are one object.

    Attributes:
        settings: which run.
        results: of its calls: what each returned, and the time after it.
        calls: as many, and the one before which it stops; none if it has ended.
        outcomes: of a run that has ended.
        error: what it raised, if it did.
    """

    settings: RunSettings
    results: tuple[tuple[Hashable, datetime], ...] = ()
    calls: list[Call] = field(default_factory=list)
    outcomes: tuple[Outcome, ...] = ()
    error: Exception | None = None
    is_over: bool = False
    _next: dict[Hashable, "Run"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Execute the run as far as its results go."""
        with _owners_by_number(self.settings.number):
            try:
                self.outcomes = self._refresher().run(
                    self.settings.trigger.request(*self.settings.old[0]),
                    time_left=lambda: self.settings.start + INVOCATION - self._now(),
                )
                self.is_over = True
            except _Suspended:
                pass
            except Exception as error:
                self.error, self.is_over = error, True

    @property
    def pending(self) -> Call | None:
        """The call before which it stops; None if it has ended."""
        return None if self.is_over else self.calls[-1]

    @property
    def requests(self) -> int:
        """Requests to Enable that have been made."""
        return sum(call.kind == "request" for call in self.calls[: len(self.results)])

    def after(self, result: Hashable, now: datetime) -> "Run":
        """The run once its pending call has returned a result, at a time."""
        if (result, now) not in self._next:
            results = (*self.results, (result, now))
            self._next[result, now] = Run(self.settings, results)
        return self._next[result, now]

    def call(self, *call: Any) -> Any:
        """The result of a call, or the end of what is executed."""
        number = len(self.calls)
        if number <= len(self.results):
            self.calls.append(Call(*call))
        if number >= len(self.results):  # also for what a run does to clean up
            raise _Suspended
        result, _ = self.results[number]
        if result == LOST:
            raise ConnectionClosedError(endpoint_url="https://ssm")
        return result

    def _now(self) -> datetime:
        """Time passes in calls alone."""
        done = min(len(self.calls), len(self.results))
        return self.results[done - 1][1] if done else self.settings.start

    def _refresher(self) -> Refresher:
        ssm = cast("Any", _RunsSsm(self))
        store = ParameterTokenStore(ssm, prefix=PREFIX, key_id="key")
        states = ConnectionStateStore(ssm, prefix=PREFIX)
        return Refresher(
            grants={name: Grant(scope=old.scope) for name, old in self.settings.old},
            endpoints={DEFAULT_CONNECTION: cast("Any", _RunsEndpoint(self))},
            reader=ParameterReader(ssm, store=store, states=states),
            store=store,
            states=states,
            secrets=cast("Any", _RunsSecrets(self)),
            refresh_ahead=timedelta(minutes=10),
            parallelism=8,
            describe_fault=describe_fault,
            now=self._now,
            pause=lambda length: self.call("pause", "", length),
            jitter=lambda: 0,
            threads=lambda _workers: _InlineExecutor(),
        )

    def issue(self, scope: str) -> Issued:
        """What Enable returns to this run."""
        token = response(f"run-{self.settings.number}-{scope}", self.settings.lifetime)
        return Issued(response=token, requested_at=self._now(), attempts=1)


@contextmanager
def _owners_by_number(number: int) -> Iterator[None]:
    """The ids of a run's leases are its number and a count: the same in each execution."""
    names = iter(range(1000))
    ids = SimpleNamespace(uuid4=lambda: SimpleNamespace(hex=f"run{number}lease{next(names)}"))
    with patch("token_refresher.connection_state.uuid", ids):
        yield


class _InlineExecutor(Executor):
    """Runs each function where it is submitted: the calls of one run have one order."""

    @override
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


class _RunsSsm:
    """Parameter Store as one run calls it."""

    exceptions = FakeSsm.exceptions

    def __init__(self, run: Run) -> None:
        self._run = run

    def get_parameter(self, Name: str, **_options: object) -> dict[str, Any]:  # noqa: N803
        found = self._run.call("get", Name)
        if found == NOT_FOUND:
            raise self.exceptions.ParameterNotFound({"Error": {}}, "GetParameter")
        value, version, _modified = found
        return {"Parameter": {"Name": Name, "Value": value, "Version": version}}

    def get_parameters(
        self,
        Names: list[str],  # noqa: N803
        WithDecryption: bool = False,  # noqa: FBT001, FBT002, N803
    ) -> dict[str, list[Any]]:
        found = dict(zip(Names, self._run.call("get", tuple(Names)), strict=True))
        return {
            "Parameters": [
                {
                    "Name": name,
                    "Value": each[0] if WithDecryption or name == CONNECTION else "encrypted",
                    "Version": each[1],
                    "LastModifiedDate": each[2],
                }
                for name, each in found.items()
                if each != NOT_FOUND
            ],
            "InvalidParameters": [name for name, each in found.items() if each == NOT_FOUND],
        }

    def put_parameter(self, Name: str, Value: str, **_options: object) -> dict[str, int]:  # noqa: N803
        return {"Version": self._run.call("put", Name, Value)}


class _RunsEndpoint:
    """Enable as one run calls it."""

    url = URL

    def __init__(self, run: Run) -> None:
        self._run = run

    def request_token(self, request: TokenRequest, **_options: object) -> Issued:
        self._run.call("request", request.scope[0])
        return self._run.issue(request.scope[0])


class _RunsSecrets:
    """The secret as one run reads it."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def connection_of(self, _secret: str) -> str:
        return DEFAULT_CONNECTION

    def versions(self, _connection: str) -> Iterator[SecretVersion]:
        self._run.call("secret")
        yield SECRET


class Parameters(NamedTuple):
    """The contents of Parameter Store, each parameter with all its versions.

    Attributes:
        versions: of each parameter, oldest first.
        deleted: the versions of a parameter that was deleted, by its name.
    """

    versions: tuple[tuple[str, tuple[str, ...]], ...]
    deleted: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def get(self, name: str) -> tuple[str, int, datetime] | str:
        """The value, version and modification date of `name` or `name:version`."""
        name, _, number = name.partition(":")
        values = dict(self.versions).get(name, ())
        version = int(number or len(values))
        if not 0 < version <= len(values):
            return NOT_FOUND
        modified = NOW + seconds(version + 1000 * len(self.deleted))  # another one each time
        return values[version - 1], version, modified

    def returned(self, call: Call) -> Hashable:
        """What a get returns: of one parameter, or of each."""
        if isinstance(call.subject, str):
            return self.get(call.subject)
        return tuple(map(self.get, call.subject))

    def put(self, name: str, value: str) -> tuple["Parameters", int]:
        """A copy with one more version, and its number."""
        versions = dict(self.versions)
        versions[name] = (*versions.get(name, ()), value)
        return self._replace(versions=tuple(versions.items())), len(versions[name])

    def without(self, name: str) -> "Parameters":
        """A copy in which a parameter is deleted."""
        versions = dict(self.versions)
        gone = (name, versions.pop(name, ()))
        return Parameters(tuple(versions.items()), (*self.deleted, gone))

    def ever(self, name: str) -> list[str]:
        """Every value that was ever stored under a name."""
        everything = [*self.deleted, *self.versions]
        return [value for other, values in everything if other == name for value in values]

    def client(self) -> Any:
        """A client that reads and writes a copy, for who comes later."""
        ssm = FakeSsm()
        ssm.values = {name: list(values) for name, values in self.versions}
        return ssm


@cache
def old_tokens(grants: tuple[str, ...], *, left: int) -> tuple[tuple[str, StoredToken], ...]:
    """What is stored at first: tokens of an hour, of the previous secret."""
    return tuple(
        (name, stored(f"old-{name}", left=left, age=LIFETIME - left, scope=(f"read:{name}",)))
        for name in grants
    )


@cache
def begin(settings: RunSettings) -> Run:
    """A run before its first call; the same object for all callers until the cache is cleared."""
    return Run(settings)
