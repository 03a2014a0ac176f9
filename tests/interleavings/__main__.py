"""Explores larger worlds: `make interleavings`, `COUNT=50000 SEED=7 make interleavings`.

First every interleaving of two runs on one grant with two disturbances, then as many random ones
of three runs on up to three grants with up to three disturbances, each by its own seed.
"""

import argparse
import random
import sys
from itertools import combinations, combinations_with_replacement

from rich.console import Console
from rich.progress import track

from tests.interleavings.explorer import Disturbance, Explorer, Scenario
from tests.interleavings.properties import at_the_end, in_each_state
from tests.interleavings.world import Trigger, begin

IMPOSSIBLE = {Disturbance.BLOCK, Disturbance.DELETE}
"""Both while a run is at work: docs/guarantees.md says what that may end in."""

console = Console()


def pairs() -> list[Scenario]:
    """Two runs, one grant, two disturbances; one of them may also not happen."""
    return [
        Scenario(triggers=triggers, disturbances=disturbances, step=step, left=left)
        for triggers in combinations_with_replacement(Trigger, 2)
        for disturbances in combinations(Disturbance, 2)
        for step, left in ((60, 30), (-60, 30), (60, 3000))
        if set(disturbances) != IMPOSSIBLE
    ]


def larger(seed: int) -> Scenario:
    """Three runs; everything else by chance."""
    chance = random.Random(seed)  # noqa: S311 - reproducible on purpose
    left_out = chance.choice(sorted(IMPOSSIBLE, key=str))
    possible = [disturbance for disturbance in Disturbance if disturbance is not left_out]
    return Scenario(
        triggers=tuple(chance.choices(list(Trigger), k=3)),
        disturbances=tuple(chance.sample(possible, k=chance.randint(0, 3))),
        step=chance.choice((60, -60)),
        left=chance.choice((30, 3000)),
        grants=("deals", "activity", "users")[: chance.randint(1, 3)],
    )


def main() -> int:
    """Explore, walk, and print what was found."""
    parser = argparse.ArgumentParser(prog="make interleavings", description=__doc__)
    parser.add_argument("--count", type=int, default=5000, help="random interleavings")
    parser.add_argument("--seed", type=int, default=1, help="of the first one")
    arguments = parser.parse_args()
    explorer = Explorer(in_each_state, at_the_end)
    interleavings, faults, triggers = 0, list[str](), tuple[Trigger, ...]()
    for scenario in track(pairs(), "all of two runs", console=console):
        if scenario.triggers != triggers:  # other runs: what these did takes memory
            begin.cache_clear()
            triggers = scenario.triggers
        explored = explorer.explore(scenario)
        interleavings += explored.interleavings
        faults += [f"{scenario}: {fault}" for fault in explored.faults]
    seeds = range(arguments.seed, arguments.seed + arguments.count)
    for seed in track(seeds, "some of three runs", console=console):
        begin.cache_clear()
        scenario = larger(seed)
        faults += [f"seed {seed}, {scenario}: {fault}" for fault in explorer.walk(scenario, seed)]
    for fault in faults[:20]:
        console.print(fault, markup=False, highlight=False)
    console.print(
        f"{interleavings:,} interleavings of two runs and two disturbances, {len(seeds):,} random "
        f"ones of three runs: {len(faults):,} faults"
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
