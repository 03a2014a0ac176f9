"""What breaks first beyond this machine: a simulation of storms, quotas and environments.

`python -m benchmarks.scale` prints the tables of docs/scale.md. Time is simulated, chance is
seeded; the quotas are AWS's defaults. tests/unit/benchmarks/test_scale.py compares the parts with
the queueing results that they must match where theory has one.
"""

import heapq
import itertools
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.results import percentile
from token_refresher.parameter_reader import MOST_NAMES
from token_vendor.vend import SECOND_CHANCE_WITHIN

READ_TRIES: Final = 4
"""As `token_broker.aws.CLIENT_CONFIG`, whose waits are a random share of 1, 2 and 4 seconds."""

type Action = Callable[[], None]


@dataclass(slots=True)
class Timeline:
    """What happens when: the simulated clock."""

    now: float = 0.0
    _due: list[tuple[float, int, Action]] = field(default_factory=list)
    _number: Iterator[int] = field(default_factory=itertools.count)

    def after(self, seconds: float, action: Action) -> None:
        """Have something happen later."""
        heapq.heappush(self._due, (self.now + seconds, next(self._number), action))

    def run(self) -> None:
        """Until nothing is left to happen."""
        while self._due:
            self.now, _, action = heapq.heappop(self._due)
            action()


@dataclass(slots=True)
class Places:
    """A number of places, and a queue before them. Lambda has none: who finds no place is refused.

    Attributes:
        free: places nobody has.
        longest_queue: how many may wait.
    """

    free: int
    longest_queue: float = 0
    _queue: list[Action] = field(default_factory=list)

    def take(self, then: Action) -> bool:
        """Go on with a place, now or later; False if even the queue is full."""
        if self.free > 0:
            self.free -= 1
            then()
            return True
        if len(self._queue) < self.longest_queue:
            self._queue.append(then)
            return True
        return False

    def give_back(self) -> None:
        """Leave a place to the next."""
        if self._queue:
            self._queue.pop(0)()
        else:
            self.free += 1


@dataclass(slots=True)
class Quota:
    """Requests per second, and as many at once: a token bucket."""

    per_second: float
    _left: float = field(init=False)
    _at: float = 0.0

    def __post_init__(self) -> None:
        """Begin full."""
        self._left = self.per_second

    def take(self, now: float) -> bool:
        """Whether one more request is served."""
        gained = (now - self._at) * self.per_second
        self._left, self._at = min(self._left + gained, self.per_second), now
        if self._left < 1:
            return False
        self._left -= 1
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A load and the settings it meets; times in seconds.

    Attributes:
        callers_per_second: vends that arrive at random, all along.
        storm: callers more, all within `storm_seconds` from the middle on.
        seconds: how long callers arrive.
        ramp_seconds: how long it takes until all of them do.
        grants: each caller asks for one of them, whichever.
        cache_window: how long an environment remembers a token.
        store_per_second: Parameter Store's quota, for the account and Region.
        environments: the most that Lambda starts (the account's concurrency).
        warm: environments that are ready from the beginning (provisioned concurrency).
        start_seconds: a cold start, or the restoring of a snapshot.
        read_seconds: Parameter Store's and KMS's response.
        vend_seconds: the rest of a request.
        reads: how often a request without a remembered token reads, READ_TRIES tries each.
        first_read_spread: a fresh environment waits for a random share of it before it reads.
        reads_all_grants: one read brings the tokens of all grants (up to ten: `GetParameters`).
        api_per_second: what API Gateway lets through; the template's RequestsPerSecond.
    """

    callers_per_second: float = 0.0
    storm: int = 0
    storm_seconds: float = 1.0
    seconds: float = 240.0
    ramp_seconds: float = 0.0
    grants: int = 4
    cache_window: float = 60.0
    store_per_second: float = 40.0
    environments: int = 1_000
    warm: int = 0
    start_seconds: float = 0.6
    read_seconds: float = 0.02
    vend_seconds: float = 0.005
    reads: int = 2
    first_read_spread: float = 0.0
    reads_all_grants: bool = False
    api_per_second: float = 10_000.0


@dataclass(slots=True)
class Environment:
    """One execution environment: when each grant was last read."""

    read_at: dict[int, float] = field(default_factory=dict)


@dataclass(slots=True)
class Outcome:
    """What callers met.

    Attributes:
        vended: 200.
        unavailable: 503, every try to read the store was throttled.
        refused: 429 by API Gateway or Lambda.
        seconds: of each request with a 200 response.
        reads: requests to Parameter Store that it served.
        throttled_reads: that it did not.
        environments: started, the warm ones included.
    """

    vended: int = 0
    unavailable: int = 0
    refused: int = 0
    seconds: list[float] = field(default_factory=list)
    reads: int = 0
    throttled_reads: int = 0
    environments: int = 0

    @property
    def failed_share(self) -> float:
        """Of all requests."""
        failed = self.unavailable + self.refused
        return failed / max(failed + self.vended, 1)


class World:
    """Callers, API Gateway, Lambda and Parameter Store."""

    def __init__(self, scenario: Scenario, *, seed: int = 1) -> None:
        self.scenario = scenario
        self.timeline = Timeline()
        self.outcome = Outcome(environments=scenario.warm)
        self._random = random.Random(seed)  # noqa: S311 - chance, not secrecy
        self._api = Quota(scenario.api_per_second)
        self._store = Quota(scenario.store_per_second)
        self._places = Places(scenario.environments)
        self._idle = [Environment() for _ in range(scenario.warm)]

    def run(self) -> Outcome:
        """Let all callers arrive, and wait for the last response."""
        for moment in self._arrivals():
            self.timeline.after(moment, self._arrive)
        self.timeline.run()
        return self.outcome

    def _arrivals(self) -> Iterator[float]:
        scenario, moment = self.scenario, 0.0
        while scenario.callers_per_second:
            moment += self._random.expovariate(scenario.callers_per_second)
            if moment > scenario.seconds:
                break
            if moment >= scenario.ramp_seconds * self._random.random():
                yield moment
        for _ in range(scenario.storm):
            yield scenario.seconds / 2 + self._random.random() * scenario.storm_seconds

    def _arrive(self) -> None:
        began = self.timeline.now
        if not self._api.take(began) or not self._places.take(lambda: self._begin(began)):
            self.outcome.refused += 1

    def _begin(self, began: float) -> None:
        grant = self._random.randrange(self.scenario.grants)
        if self._idle:
            self._vend(self._idle.pop(), grant, began)
            return
        self.outcome.environments += 1
        fresh = Environment()
        self.timeline.after(self.scenario.start_seconds, lambda: self._vend(fresh, grant, began))

    def _vend(self, environment: Environment, grant: int, began: float) -> None:
        read_at = environment.read_at.get(grant)
        if read_at is not None and self.timeline.now - read_at < self.scenario.cache_window:
            self._respond(environment, began, is_live=True)
            return
        spread = 0 if environment.read_at else self.scenario.first_read_spread
        self.timeline.after(
            self._random.random() * spread,
            lambda: self._read(environment, grant, began, tries=1),
        )

    def _read(self, environment: Environment, grant: int, began: float, *, tries: int) -> None:
        if self._store.take(self.timeline.now):
            self.outcome.reads += 1
            known = range(self.scenario.grants) if self.scenario.reads_all_grants else [grant]
            environment.read_at |= dict.fromkeys(known, self.timeline.now)
            self.timeline.after(
                self.scenario.read_seconds,
                lambda: self._respond(environment, began, is_live=True),
            )
            return
        self.outcome.throttled_reads += 1
        is_remembered = grant in environment.read_at  # it is vended on while it lives
        if tries < READ_TRIES * (1 if is_remembered else self.scenario.reads):
            wait = self._random.random() * _longest_wait(tries)
            self.timeline.after(
                wait, lambda: self._read(environment, grant, began, tries=tries + 1)
            )
            return
        if is_remembered:
            environment.read_at[grant] = self.timeline.now
        self._respond(environment, began, is_live=is_remembered)

    def _respond(self, environment: Environment, began: float, *, is_live: bool) -> None:
        def end() -> None:
            self._idle.append(environment)
            self._places.give_back()
            if is_live:
                self.outcome.vended += 1
                self.outcome.seconds.append(self.timeline.now - began)
            else:
                self.outcome.unavailable += 1

        self.timeline.after(self.scenario.vend_seconds, end)


def _longest_wait(tries: int) -> float:
    """Between two tries, in seconds: botocore's own, then the vend function's."""
    in_this_read = (tries - 1) % READ_TRIES
    if in_this_read == READ_TRIES - 1:
        return SECOND_CHANCE_WITHIN.total_seconds()
    return float(2**in_this_read)


def run_reads(grants: int, store_per_second: float, *, seed: int = 1) -> tuple[int, float]:
    """An idle run's calls, 8 at a time, 4 tries each: how many failed, and the seconds."""
    calls = math.ceil((grants + 1) / MOST_NAMES)  # with the state of one connection
    timeline, store = Timeline(), Quota(store_per_second)
    threads, chance, failed = Places(8, longest_queue=calls), random.Random(seed), 0  # noqa: S311

    def read(tries: int) -> None:
        nonlocal failed
        if store.take(timeline.now):
            timeline.after(0.02, threads.give_back)
        elif tries < READ_TRIES:
            timeline.after(chance.random() * 2 ** (tries - 1), lambda: read(tries + 1))
        else:
            failed += 1
            threads.give_back()

    for _ in range(calls):
        threads.take(lambda: read(1))
    timeline.run()
    return failed, timeline.now


STEADY: Final = (1, 10, 100, 1_000, 5_000)
STORMS: Final = (30, 100, 300, 1_000, 3_000)
SETTINGS: Final = {
    "as shipped": Scenario(),
    "higher throughput, 1,000/s": Scenario(store_per_second=1_000),
    "cache window 300 s": Scenario(cache_window=300),
    "restored snapshots (SnapStart), 0.25 s": Scenario(start_seconds=0.25),
    "200 provisioned": Scenario(warm=200),
    "RequestsPerSecond 40": Scenario(api_per_second=40),
    "1 grant": Scenario(grants=1),
    "one read, no second chance": Scenario(reads=1),
    "three reads": Scenario(reads=3),
    "first reads spread over 4 s": Scenario(reads=1, first_read_spread=4),
    "one read for all grants": Scenario(reads=1, reads_all_grants=True),
    "the same, with a second chance": Scenario(reads_all_grants=True),
}


def _steady_table() -> Table:
    table = Table("callers/s", "environments", "reads/s", "failed", "p50 ms", "p99 ms", box=None)
    for rate in STEADY:
        ramp = min(120.0, 100_000 / rate)
        scenario = Scenario(callers_per_second=rate, seconds=2 * ramp, ramp_seconds=ramp)
        found = World(scenario).run()
        table.add_row(
            f"{rate:,}",
            str(found.environments),
            f"{found.reads / scenario.seconds:.2f}",
            f"{found.failed_share:.2%}",
            f"{percentile(found.seconds, 0.5) * 1000:.0f}",
            f"{percentile(found.seconds, 0.99) * 1000:.0f}",
        )
    return table


def _storm_table() -> Table:
    table = Table("setting", *(f"{storm:,} at once" for storm in STORMS), box=None)
    for name, setting in SETTINGS.items():
        cells = []
        for storm in STORMS:
            found = World(replace(setting, storm=storm, callers_per_second=1)).run()
            late = percentile(found.seconds, 0.99)
            cells.append(f"{found.failed_share:.0%} failed, p99 {late:.1f} s")
        table.add_row(name, *cells)
    return table


def _run_table() -> Table:
    table = Table("grants", "at 40/s", "at 1,000/s", box=None)
    for grants in (100, 200, 500, 2_000):
        runs = [run_reads(grants, rate) for rate in (40, 1_000)]
        table.add_row(f"{grants:,}", *(f"{failed} failed, {took:.1f} s" for failed, took in runs))
    return table


def main() -> None:
    """Print the tables."""
    console = Console(highlight=False, width=170)
    for title, table in (
        ("Callers at random", _steady_table()),
        ("A storm beside one caller a second", _storm_table()),
        ("One refresh run", _run_table()),
    ):
        console.print(f"\n[bold]{title}[/]\n", table)


if __name__ == "__main__":
    main()
