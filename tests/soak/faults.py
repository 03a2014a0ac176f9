"""The faults of a soak: drawn from a seed, begun and ended, recorded.

A round draws up to three faults that do not need the same thing, lets them overlap, and then
leaves the broker alone until two refresh runs have been seen. Each family's members are dealt
like cards: all come up before one comes again.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final

from botocore.exceptions import ClientError

from local.fake_enable import Client, fingerprint
from tests.faults.fault_table import (
    AWS_FAULTS,
    UPSTREAM_FAULTS,
    AwsFault,
    On,
    UpstreamFault,
    Where,
)
from tests.faults.fault_table import Wait as After
from tests.soak.callers import Callers
from tests.soak.record import now
from tests.soak.world import GRANTS, REFRESHER, VENDOR, FaultProxy, World
from token_broker.errors import GrantBlocked
from token_broker.models import block_record
from token_broker.token_store import ParameterTokenStore
from token_refresher.outcomes import State

LIFETIMES: Final = (20, 30, 40, 60, 120)
"""Seconds that tokens live, drawn again in some rounds; with the longest a refusal's backoff passes
before callers notice."""

MOST_AT_A_TIME: Final = 3
SECRET_CHANGES: Final = "the secret changes"
EVENT_SECONDS: Final = 10
FORCED: Final = 0.5
"""How often somebody forces a renewal into a failing Enable, so that it is met, and nothing that
is forced may make things worse."""

LIFETIME_CHANGES: Final = 0.3
"""Not in each: while tokens have just become shorter, the one at hand outlives every new one."""

LONGEST_ASKED_SECONDS: Final = 10
"""Rows in which Enable asks for more are left out: a soak would see nothing else."""

JUNK: Final = (
    "",
    "null",
    "{",
    '{"access_token": 1}',
    '{"access_token": "x", "scope": "read:deals", "expires_at": "2999-01-01T00:00:00"}',
    "[" * 2000,
    "\N{SNOWMAN}" * 100,
    '{"access_token": "x", "token_type": "Bearer", "scope": "read:deals", "issued_at": "soon"}',
)

type Facts = dict[str, Any]
type Fault = AbstractContextManager[Facts]
"""Entered when it begins, left when it ends; yields facts for the record, which it may add to."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A family of faults.

    Attributes:
        name: as the checker knows it.
        needs: what no two faults of a round may both have.
        weight: how often it is drawn.
        members: what there is to draw from; each is reported in the record.
        make: makes the fault of a member.
        seconds: between its begin and its end, drawn.
    """

    name: str
    needs: frozenset[str]
    weight: int
    members: Sequence[Any]
    make: Callable[[Any], Fault]
    seconds: tuple[float, float] = (0, 0)


@dataclass
class Injector:
    """Makes the faults; knows Enable's secret, which some of them change."""

    world: World
    callers: Callers
    random: Random
    current: int = 0
    """The number of the fault that is being begun."""
    _secrets: int = 0

    # Enable

    @contextlib.contextmanager
    def row(self, row: UpstreamFault) -> Iterator[Facts]:
        facts: Facts = {
            "group": row.group,
            "backoff": row.backoff.name.lower(),
            "held_seconds": row.held_seconds,
        }
        self.world.enable.misbehave(row, self.current)
        # What is asked for seconds alone would seldom be asked in them, for tokens of minutes.
        if row.backoff is After.ASKED or self.random.random() < FORCED:
            facts |= {"forced": True, "grants": [self.random.choice(list(GRANTS))]}
            self._force(facts["grants"])
        try:
            yield facts
        finally:
            self.world.enable.behave()

    @contextlib.contextmanager
    def slow(self, seconds: float) -> Iterator[Facts]:
        self.world.enable.fake_enable.latency = timedelta(seconds=seconds)
        try:
            yield {}
        finally:
            self.world.enable.fake_enable.latency = timedelta()

    @contextlib.contextmanager
    def stopped(self, _member: str) -> Iterator[Facts]:
        self.world.enable.stop()
        try:
            yield {}
        finally:
            self.world.enable.start()

    @contextlib.contextmanager
    def enable_clock(self, seconds: float) -> Iterator[Facts]:
        self.world.enable.clock_ahead = timedelta(seconds=seconds)
        try:
            yield {"seconds": seconds}
        finally:
            self.world.enable.clock_ahead = timedelta()

    @contextlib.contextmanager
    def revoked(self, grant: str) -> Iterator[Facts]:
        """The stored token dies at Enable before its time."""
        facts: Facts = {"grants": [grant]}
        # What another fault has put there, or taken away, has no token to revoke.
        with contextlib.suppress(ClientError, ValueError, KeyError, TypeError, AttributeError):
            ssm = self.world.administrator.client("ssm")
            value = ssm.get_parameter(Name=self.world.parameter(grant), WithDecryption=True)
            token = json.loads(value["Parameter"]["Value"])["access_token"]
            self.world.enable.fake_enable.revoke(fingerprint(token))
            facts["fingerprint"] = fingerprint(token)
        yield facts

    def _force(self, grants: list[str]) -> None:
        """An operator has grants renewed, whatever is left of their tokens."""
        self.world.administrator.client("lambda").invoke(
            FunctionName=self.world.stack.outputs[REFRESHER],
            InvocationType="Event",
            Payload=json.dumps({"force": True, "grants": grants}).encode(),
        )

    # The secret

    @contextlib.contextmanager
    def secret(self, order: str) -> Iterator[Facts]:
        self._secrets += 1
        client = self.world.client
        new = f"another p+ss w&rd=%/ü€ {self._secrets} {self.random.randbytes(16).hex()}"
        at_enable = lambda: self.world.enable.fake_enable.change_secret(client.client_id, new)  # noqa: E731
        in_aws = lambda: self.world.stack.store_secret(  # noqa: E731
            Client(
                client_id=client.client_id,
                client_secret=new,
                dealtrack_registration_id=client.dealtrack_registration_id,
            )
        )
        first, last = (at_enable, in_aws) if order == "Enable first" else (in_aws, at_enable)
        first()
        if order == "both at once":
            last()
        try:
            yield {}
        finally:
            if order != "both at once":
                last()

    # AWS

    @contextlib.contextmanager
    def aws(self, row: AwsFault, proxy: FaultProxy) -> Iterator[Facts]:
        facts: Facts = {"on": row.on.name}
        proxy.fired()
        proxy.follow(row.on.rule(row.fault))
        try:
            yield facts
        finally:
            proxy.follow()
            facts["fired"] = proxy.fired()

    @contextlib.contextmanager
    def deleted(self, grant: str) -> Iterator[Facts]:
        with contextlib.suppress(ClientError):
            self.world.administrator.client("ssm").delete_parameter(
                Name=self.world.parameter(grant)
            )
        yield {"grants": [grant]}

    @contextlib.contextmanager
    def state_deleted(self, _member: str) -> Iterator[Facts]:
        with contextlib.suppress(ClientError):
            self.world.administrator.client("ssm").delete_parameter(
                Name=self.world.parameter("connections/default")
            )
        yield {}

    @contextlib.contextmanager
    def corrupted(self, member: tuple[str, str]) -> Iterator[Facts]:
        grant, junk = member
        self.world.administrator.client("ssm").put_parameter(
            Name=self.world.parameter(grant),
            Value=junk or " ",
            Type="SecureString",
            KeyId=self.world.stack.resource("BrokerKey"),
            Overwrite=True,
        )
        yield {"grants": [grant]}

    @contextlib.contextmanager
    def blocked(self, grant: str) -> Iterator[Facts]:
        ssm, stack = self.world.administrator.client("ssm"), self.world.stack
        ParameterTokenStore(
            ssm,
            prefix=stack.outputs["TokenParameterPrefix"],
            key_id=stack.resource("BrokerKey"),
        ).block(grant, GrantBlocked("soak", block_record("soak", now=datetime.now(UTC))))
        try:
            yield {"grants": [grant]}
        finally:
            with contextlib.suppress(ClientError):
                ssm.delete_parameter(Name=self.world.parameter(grant))

    @contextlib.contextmanager
    def vendor_killed(self, _member: str) -> Iterator[Facts]:
        yield {"killed": self.world.kill(VENDOR)}

    @contextlib.contextmanager
    def refresher_killed(self, what: str) -> Iterator[Facts]:
        """At the end of the fault, so that a run is under way: slow Enable, and a forced run."""
        fake_enable = self.world.enable.fake_enable
        fake_enable.latency = timedelta(seconds=1.5)
        facts: Facts = {"forced": what == "in a forced run", "grants": list(GRANTS)}
        if facts["forced"]:
            self._force(list(GRANTS))
        try:
            yield facts
        finally:
            facts["killed"] = self.world.kill(REFRESHER)
            fake_enable.latency = timedelta()

    # The callers

    @contextlib.contextmanager
    def callers_clock(self, seconds: float) -> Iterator[Facts]:
        self.callers.clock_ahead = seconds
        try:
            yield {"seconds": seconds}
        finally:
            self.callers.clock_ahead = 0


def _what(member: Any) -> str:
    """What a member is, for people."""
    if isinstance(member, AwsFault):
        return f"{member.on.name}: {member.what}"
    if isinstance(member, tuple):
        grant, junk = member
        return f"{grant}: {junk[:30]!r}"
    return str(getattr(member, "what", member))


def _is_of_use(row: UpstreamFault) -> bool:
    """A failure by HTTP on loopback, whatever scope is asked for and however often."""
    return (
        row.where is Where.HTTP
        and len(row.script) == 1
        and row.state is State.FAILED
        and not row.group.startswith("Its scope")
        and row.held_seconds <= LONGEST_ASKED_SECONDS
    )


def kinds(injector: Injector) -> list[Kind]:
    """All families."""
    rows = [row for row in UPSTREAM_FAULTS if _is_of_use(row)]
    passing = [row for row in rows if row.backoff is After.NONE]
    busy = [row for row in rows if row.backoff is After.ASKED]
    refused = [row for row in rows if row.backoff is After.GRANT]
    rejected = [row for row in rows if row.backoff is After.CONNECTION]
    reads = [row for row in AWS_FAULTS if row.on is On.TOKEN_READ]
    store = ["store"]

    def kind(
        name: str, needs: Sequence[str], weight: int, members: Any, make: Any, *seconds: float
    ) -> Kind:
        span = (seconds[0], seconds[1]) if seconds else (0.0, 0.0)
        return Kind(
            name=name,
            needs=frozenset(needs),
            weight=weight,
            members=list(members),
            make=make,
            seconds=span,
        )

    return [
        kind("Enable fails", ["door"], 6, passing, injector.row, 3, 10),
        kind("Enable asks for patience", ["door"], 2, busy, injector.row, 3, 8),
        kind(
            "Enable misbehaves or refuses a grant",
            ["door"],
            4,
            refused,
            injector.row,
            3,
            8,
        ),
        kind("Enable refuses the client", ["door"], 1, rejected, injector.row, 3, 8),
        kind("Enable is slow", ["door"], 2, (2.0, 4.0, 6.0), injector.slow, 6, 12),
        kind("Enable stops and starts again", ["door"], 2, [""], injector.stopped, 3, 10),
        kind("Enable's clock jumps", ["clock"], 2, (-5, -2, 2, 5), injector.enable_clock, 5, 15),
        kind("Enable revokes the token", store, 1, GRANTS, injector.revoked),
        kind(
            SECRET_CHANGES,
            ["secret", "door"],
            3,
            ("Enable first", "both at once", "Secrets Manager first"),
            injector.secret,
            1,
            4,
        ),
        kind(
            "AWS fails the refresher",
            ["refresher"],
            6,
            AWS_FAULTS,
            lambda row: injector.aws(row, injector.world.refresher_proxy),
            2,
            6,
        ),
        kind(
            "AWS fails the vendor",
            ["vendor"],
            3,
            reads,
            lambda row: injector.aws(row, injector.world.vendor_proxy),
            1,
            3,
        ),
        kind("a token is deleted", store, 2, GRANTS, injector.deleted),
        kind(
            "a token is corrupted",
            store,
            2,
            [(grant, junk) for grant in GRANTS for junk in JUNK],
            injector.corrupted,
        ),
        kind(
            "an operator blocks a grant", ["store", "refresher"], 2, GRANTS, injector.blocked, 6, 16
        ),
        kind("the connection's state is deleted", ["state"], 1, [""], injector.state_deleted),
        kind("the vendor is killed", ["vendor"], 2, [""], injector.vendor_killed),
        kind(
            "the refresher is killed",
            ["door", "refresher", "secret"],
            2,
            ("in a forced run", "in a run if there is one"),
            injector.refresher_killed,
            0.5,
            2,
        ),
        kind(
            "the callers' clocks jump", ["callers"], 1, (3600, -3600), injector.callers_clock, 3, 8
        ),
    ]


@dataclass
class _Open:
    number: int
    kind: Kind
    what: str
    facts: Facts
    begin: float
    begun: float
    stack: ExitStack
    ends: float


class Storm:
    """Rounds of faults.

    Args:
        injector: makes them.
        seed: decides which, when and for how long.
        tell: is reported of each fault.
    """

    def __init__(self, injector: Injector, seed: int, tell: Callable[[str], None]) -> None:
        self._injector = injector
        self._random = Random(f"{seed} storm")  # noqa: S311 - reproducible on purpose
        self._kinds = kinds(injector)
        self._decks: dict[str, list[Any]] = {}
        # One of each first, so that a soak of three minutes has nearly all.
        self._names = [kind.name for kind in self._kinds]
        self._random.shuffle(self._names)
        self._tell = tell
        self.injected = 0

    def round(self, wait: Callable[[float], bool]) -> float:
        """One round; `wait` waits so many seconds, and says whether to end early.

        Returns:
            When the broker is left alone: its last fault has ended, and the event of a changed
            secret has arrived.
        """
        random, world = self._random, self._injector.world
        if random.random() < LIFETIME_CHANGES:
            world.enable.fake_enable.token_lifetime = timedelta(seconds=random.choice(LIFETIMES))
        chosen = self._choose(random.randint(1, MOST_AT_A_TIME))
        plan = [
            (random.uniform(0, 3) if number else 0.0, kind, random.uniform(*kind.seconds))
            for number, kind in enumerate(chosen)
        ]
        plan.sort(key=lambda item: item[0])
        begun, is_ended = time.monotonic(), False
        running: list[_Open] = []
        try:
            while (plan or running) and not is_ended:
                elapsed = time.monotonic() - begun
                for fault in [f for f in running if f.ends <= elapsed]:
                    running.remove(fault)
                    self._end(fault)
                while plan and plan[0][0] <= elapsed:
                    _, kind, seconds = plan.pop(0)
                    running.append(self._begin(kind, ends=elapsed + seconds))
                is_ended = wait(0.1)
        finally:
            for fault in running:
                self._end(fault)
        has_event = any(kind.name == SECRET_CHANGES for kind in chosen)
        return now() + (EVENT_SECONDS if has_event else 1)

    def _choose(self, count: int) -> list[Kind]:
        chosen: list[Kind] = []
        taken: set[str] = set()
        for _ in range(count):
            free = [kind for kind in self._kinds if not kind.needs & taken]
            # Each name as often as its weight before the deck is dealt again.
            names = [name for name in self._names if any(k.name == name for k in free)]
            if not names:
                deck = [kind.name for kind in self._kinds for _ in range(kind.weight)]
                self._random.shuffle(deck)
                self._names += deck
                names = [name for name in self._names if any(k.name == name for k in free)]
            self._names.remove(names[0])
            [kind] = [kind for kind in free if kind.name == names[0]]
            chosen.append(kind)
            taken |= kind.needs
        return chosen

    def _member(self, kind: Kind) -> Any:
        deck = self._decks.get(kind.name)
        if not deck:
            deck = self._decks[kind.name] = list(kind.members)
            self._random.shuffle(deck)
        return deck.pop()

    def _begin(self, kind: Kind, *, ends: float) -> _Open:
        member = self._member(kind)
        self.injected += 1
        self._injector.current = self.injected
        what = _what(member)
        stack, begin = ExitStack(), now()
        facts = stack.enter_context(kind.make(member))
        self._tell(f"{kind.name}: {what}" if what else kind.name)
        return _Open(
            number=self.injected,
            kind=kind,
            what=what,
            facts=facts,
            begin=begin,
            begun=now(),
            stack=stack,
            ends=ends,
        )

    def _end(self, fault: _Open) -> None:
        ending = now()
        fault.stack.close()
        self._injector.world.record.add(
            "fault",
            number=fault.number,
            name=fault.kind.name,
            what=fault.what,
            begin=fault.begin,
            begun=fault.begun,
            ending=ending,
            end=now(),
            **fault.facts,
        )
