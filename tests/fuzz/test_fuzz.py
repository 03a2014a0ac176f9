"""A small, always equal share of `make fuzz`."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.targets import TARGETS, Target


@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_no_input_of_another_hand_breaks_the_law_of_its_target(target: Target) -> None:
    @settings(
        derandomize=True,
        database=None,
        deadline=None,
        max_examples=300,
        suppress_health_check=list(HealthCheck),
    )
    @given(target.inputs)
    def check(given_input: Any) -> None:
        target.check(given_input)

    check()
