"""Every interleaving of two runs on one grant ends well, and ends badly if a safeguard is missing.

Each pair of triggers, with one disturbance at any point: a crash, a lost response, a pause of the
machine, an operator's block or deletion. And a block in the same seconds as a crash.
`make interleavings` explores the other pairs of disturbances, and more grants and runs.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import combinations_with_replacement
from unittest.mock import patch

import pytest

from tests.interleavings.explorer import Disturbance, Explorer, Scenario
from tests.interleavings.properties import at_the_end, in_each_state
from tests.interleavings.world import Trigger, begin
from token_broker.token_store import ParameterTokenStore
from token_refresher.connection_state import ConnectionStateStore

EXPLORER = Explorer(in_each_state, at_the_end)
PAIRS = list(combinations_with_replacement(Trigger, 2))
SINGLE = [(disturbance,) for disturbance in Disturbance]
WITH_BLOCK = (Disturbance.CRASH, Disturbance.BLOCK)


@pytest.fixture(autouse=True)
def _runs_begin_anew() -> Iterator[None]:
    """What a run did in one test, under a mutant, is not what it does in the next one."""
    begin.cache_clear()
    yield
    begin.cache_clear()


@pytest.mark.slow("millions of interleavings")
def test_every_interleaving_of_two_runs_keeps_the_properties(
    record_property: Callable[[str, object], None],
) -> None:
    scenarios = [
        Scenario(triggers=triggers, disturbances=disturbances, step=step)
        for triggers in PAIRS
        for disturbances, step in [
            *((single, -60) for single in SINGLE),
            *(((disturbance,), 60) for disturbance in (Disturbance.CRASH, Disturbance.LOSE)),
            (WITH_BLOCK, -60),
        ]
    ]
    explored = [EXPLORER.explore(scenario) for scenario in scenarios]
    interleavings = sum(one.interleavings for one in explored)
    record_property("figure", f"{interleavings:,} interleavings of two refresh runs")
    assert [fault for one in explored for fault in one.faults] == []


def broken_lease() -> AbstractContextManager[object]:
    """Every run that requests the lease gets it."""
    return patch.object(ConnectionStateStore, "acquire", lambda *_arguments: True)


def missing_compare() -> AbstractContextManager[object]:
    """A token store that does not compare after its write."""
    return patch("token_broker.token_store.written_between", lambda *_read, **_versions: [])


def missing_block_check() -> AbstractContextManager[object]:
    """A token store that puts later tokens back, but no block."""
    return patch("token_broker.token_store._last_block", lambda _between: None)


def missing_predecessor() -> AbstractContextManager[object]:
    """A token store that does not notice what a killed run has overwritten."""
    return patch.object(ParameterTokenStore, "_block_under", lambda *_arguments: None)


@pytest.mark.parametrize(
    ("mutant", "scenario", "fault"),
    [
        (
            broken_lease,
            Scenario(triggers=(Trigger.SCHEDULE, Trigger.SCHEDULE)),
            "2 requests, at most 1",
        ),
        (
            missing_compare,
            Scenario(triggers=(Trigger.SCHEDULE, Trigger.FORCED)),
            "run-0-read:deals is stored, and run-1-read:deals was",
        ),
        (
            missing_block_check,
            Scenario(
                triggers=(Trigger.SCHEDULE, Trigger.SCHEDULE), disturbances=(Disturbance.BLOCK,)
            ),
            "the block is gone",
        ),
        (
            missing_predecessor,
            Scenario(triggers=(Trigger.SCHEDULE, Trigger.SCHEDULE), disturbances=WITH_BLOCK),
            "vended although it is blocked",
        ),
    ],
)
def test_missing_safeguard_is_found(
    mutant: type[AbstractContextManager[object]], scenario: Scenario, fault: str
) -> None:
    assert EXPLORER.explore(scenario).faults == []
    begin.cache_clear()
    with mutant():
        found = EXPLORER.explore(scenario).faults
    assert any(fault in each for each in found), found[:3]


def test_seeded_walk_finds_it_and_is_reproducible() -> None:
    scenario = Scenario(triggers=(Trigger.SCHEDULE,) * 3)
    with broken_lease():
        first = [EXPLORER.walk(scenario, seed) for seed in range(5)]
        assert any(first)
        assert [EXPLORER.walk(scenario, seed) for seed in range(5)] == first
