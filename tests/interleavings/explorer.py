"""Runs every interleaving of refresh runs, or seeded random ones, and checks how each one ends.

What is explored: every order of the calls of all runs to Parameter Store, Secrets Manager and
Enable, and every point at which a disturbance can happen, an operator's included. What is reduced:

- Interleavings that come to the same state (all versions of all parameters, the results of each
  run's calls, the time, the disturbances left) continue in the same way, so the continuation is
  executed once. It is counted, and its properties are checked, for all of them.
- A run that waits for another one polls each second. Its pause ends when the other one has written
  something, or when no other run is left: a poll in between returns what the one before returned.
- The calls of one run have one order: its requests for several grants follow one another.
- Time passes in pauses alone.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Final, NamedTuple

from tests.interleavings.world import (
    LIFETIME,
    LOST,
    PREFIX,
    Parameters,
    Run,
    RunSettings,
    Trigger,
    begin,
    old_tokens,
)
from tests.unit.fakes import NOW, seconds
from token_broker.models import block_record

BLOCK: Final = block_record("leaked", now=NOW)


class Disturbance(Enum):
    """What may happen once, at any point."""

    CRASH = "a run is killed before a call"
    REPEAT = "the response to a write is lost, and botocore writes again"
    LOSE = "a write is done, and no response to any attempt comes"
    LONG_PAUSE = "a waiting run's pause lasts until it may overtake"
    BLOCK = "an operator blocks a grant"
    DELETE = "an operator deletes a grant's parameter"


class Choice(NamedTuple):
    """Who acts next.

    Attributes:
        actor: a run's number; the number of a grant if the operator acts.
        disturbance: that happens; None if a run's call is made and returns.
    """

    actor: int
    disturbance: Disturbance | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What is explored.

    Attributes:
        triggers: one for each run.
        disturbances: each may happen once, in any order, or not at all.
        step: how much longer the tokens of each later run live, in seconds.
        left: what is left of the tokens that are stored at first, in seconds.
        grants: names.
    """

    triggers: tuple[Trigger, ...]
    disturbances: tuple[Disturbance, ...] = ()
    step: int = 60
    left: int = 30
    grants: tuple[str, ...] = ("deals",)

    def run(self, number: int, trigger: Trigger, start: datetime = NOW) -> RunSettings:
        """The settings of one run."""
        return RunSettings(
            number=number,
            trigger=trigger,
            lifetime=LIFETIME + self.step * number,
            old=old_tokens(self.grants, left=self.left),
            start=start,
        )


class State(NamedTuple):
    """All that decides what can still happen.

    Attributes:
        now: the time.
        parameters: what is stored, and was.
        runs: how far each has come.
        killed: numbers of the runs that go on no more.
        woken: numbers of the waiting runs whose pause ends.
        happened: the disturbances so far, each with its actor.
    """

    now: datetime
    parameters: Parameters
    runs: tuple[Run, ...]
    killed: frozenset[int] = frozenset()
    woken: frozenset[int] = frozenset()
    happened: tuple[Choice, ...] = ()

    def is_at_work(self, number: int) -> bool:
        """Whether a run makes another call."""
        return number not in self.killed and not self.runs[number].is_over

    def has_happened(self, *disturbances: Disturbance) -> bool:
        """Whether one of the disturbances has happened."""
        return any(choice.disturbance in disturbances for choice in self.happened)


type Check = Callable[[Scenario, State], list[str]]


@dataclass
class Explored:
    """What an exploration came to.

    Attributes:
        interleavings: all that there are.
        states: that they come through.
        faults: each with one interleaving that shows it.
    """

    interleavings: int = 0
    states: int = 0
    faults: list[str] = field(default_factory=list)


class Explorer:
    """Explores scenarios; what a run does after the same results is executed once for all.

    Args:
        always: the properties of each state.
        at_end: the properties of the state after all runs have ended.
    """

    def __init__(self, always: Check, at_end: Check) -> None:
        self._always, self._at_end = always, at_end

    def explore(self, scenario: Scenario) -> Explored:
        """Run all interleavings of a scenario."""
        explored, known, trail = Explored(), dict[State, int](), list[Choice]()

        def count(state: State) -> int:
            """How many ways lead from a state to an end."""
            if state in known:
                return known[state]
            choices = self.choices(scenario, state)
            faults = self._always(scenario, state)
            faults += [] if choices else self._at_end(scenario, state)
            explored.faults += [f"{_story(trail)}: {fault}" for fault in faults]
            ways = 0 if choices else 1
            for choice in choices:
                trail.append(choice)
                ways += count(self.take(scenario, state, choice))
                trail.pop()
            known[state] = ways
            return ways

        explored.interleavings = count(self.start(scenario))
        explored.states = len(known)
        return explored

    def walk(self, scenario: Scenario, seed: int) -> list[str]:
        """Run one random interleaving; return the properties that it breaks."""
        chance = random.Random(seed)  # noqa: S311 - reproducible on purpose
        state, trail, faults = self.start(scenario), list[Choice](), list[str]()
        while choices := self.choices(scenario, state):
            trail.append(chance.choice(choices))
            state = self.take(scenario, state, trail[-1])
            faults += self._always(scenario, state)
        faults += self._at_end(scenario, state)
        return [f"{_story(trail)}: {fault}" for fault in faults]

    def start(self, scenario: Scenario) -> State:
        """The state before anything has happened."""
        old = old_tokens(scenario.grants, left=scenario.left)
        values = tuple((f"{PREFIX}/{name}", (token.to_json(),)) for name, token in old)
        runs = [begin(scenario.run(*item)) for item in enumerate(scenario.triggers)]
        return State(NOW, Parameters(values), tuple(runs))

    def choices(self, scenario: Scenario, state: State) -> list[Choice]:
        """What can happen next; nothing if all runs have ended."""
        working = [number for number in range(len(state.runs)) if state.is_at_work(number)]
        # Nobody is left that could wake those that wait: their pauses end.
        able = [number for number in working if _is_awake(state, number)] or working
        found = [Choice(number) for number in able]
        for disturbance in scenario.disturbances:
            if working and not state.has_happened(disturbance):
                actors = _actors(scenario, state, disturbance, working)
                found += [Choice(actor, disturbance) for actor in actors]
        return found

    def take(self, scenario: Scenario, state: State, choice: Choice) -> State:
        """The state after a choice."""
        if choice.disturbance:
            state = state._replace(happened=(*state.happened, choice))
        match choice.disturbance:
            case Disturbance.CRASH:
                return state._replace(killed=state.killed | {choice.actor})
            case Disturbance.BLOCK:
                name = f"{PREFIX}/{scenario.grants[choice.actor]}"
                return _written(state, state.parameters.put(name, BLOCK)[0])
            case Disturbance.DELETE:
                name = f"{PREFIX}/{scenario.grants[choice.actor]}"
                return _written(state, state.parameters.without(name))
        return _called(state, choice)


def _actors(
    scenario: Scenario, state: State, disturbance: Disturbance, working: Sequence[int]
) -> Sequence[int]:
    """Whom a disturbance can hit: runs; grants if the operator acts."""
    match disturbance:
        case Disturbance.CRASH:
            return working
        case Disturbance.REPEAT | Disturbance.LOSE:
            return [number for number in working if _is_writing(state.runs[number])]
        case Disturbance.LONG_PAUSE:
            return [number for number in working if _is_pausing(state.runs[number])]
    return range(len(scenario.grants))


def _is_awake(state: State, number: int) -> bool:
    return number in state.woken or not _is_pausing(state.runs[number])


def _is_writing(run: Run) -> bool:
    return run.pending is not None and run.pending.kind == "put"


def _is_pausing(run: Run) -> bool:
    return run.pending is not None and run.pending.kind == "pause"


def _called(state: State, choice: Choice) -> State:
    """A run's pending call is made."""
    run, now = state.runs[choice.actor], state.now
    call = run.pending
    assert call is not None
    result: object = None
    match call.kind:
        case "get":
            result = state.parameters.returned(call)
        case "put":
            parameters, result = state.parameters.put(str(call.subject), str(call.detail))
            state = _written(state, parameters)
        case "pause":
            is_long = choice.disturbance is Disturbance.LONG_PAUSE
            now += seconds(30 if is_long else float(call.detail))
            state = state._replace(now=now, woken=state.woken - {choice.actor})
    match choice.disturbance:
        case Disturbance.REPEAT:
            return state
        case Disturbance.LOSE:
            result = LOST
    runs = list(state.runs)
    runs[choice.actor] = run.after(result, now)
    return state._replace(runs=tuple(runs))


def _written(state: State, parameters: Parameters) -> State:
    """Those who wait check again."""
    waiting = {number for number, run in enumerate(state.runs) if _is_pausing(run)}
    return state._replace(parameters=parameters, woken=state.woken | waiting)


def _story(trail: Sequence[Choice]) -> str:
    return ", ".join(
        f"{choice.actor}{f' {choice.disturbance.name}' if choice.disturbance else ''}"
        for choice in trail
    )
