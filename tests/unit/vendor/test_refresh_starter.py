"""Starting refresh runs on demand: asynchronously, and seldom."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from tests.unit.fakes import FakeClock
from token_vendor.refresh_starter import RefreshStarter


@dataclass
class Starts:
    """A starter among fakes."""

    clock: FakeClock = field(default_factory=FakeClock)
    events: list[Mapping[str, object]] = field(default_factory=list)
    faults: list[Exception] = field(default_factory=list)
    fault: Exception | None = None

    def __post_init__(self) -> None:
        self.starter = RefreshStarter(
            invoke=self.invoke,
            on_fault=self.faults.append,
            now=self.clock,
            monotonic=self.clock.monotonic,
        )

    def invoke(self, event: Mapping[str, object]) -> None:
        if self.fault:
            raise self.fault
        self.events.append(event)


@pytest.fixture
def starts() -> Starts:
    return Starts()


def test_what_is_due_is_renewed_once_in_ten_seconds(starts: Starts) -> None:
    assert [starts.starter.renew_due() for _ in range(3)] == [True, False, False]
    starts.clock.wind(9.9)
    assert not starts.starter.renew_due()
    starts.clock.wind(0.1)
    assert starts.starter.renew_due()
    assert starts.events == [{}, {}]


def test_each_rejected_grant_is_renewed_on_its_own_account(starts: Starts) -> None:
    assert starts.starter.renew_due()
    assert starts.starter.renew_rejected("deals", "0123456789ab")
    assert not starts.starter.renew_rejected("deals", "another")
    assert starts.starter.renew_rejected("users", "0123456789ab")
    assert starts.events[1:] == [
        {"grants": ["deals"], "rejected": "0123456789ab"},
        {"grants": ["users"], "rejected": "0123456789ab"},
    ]


def test_refresh_run_is_started_again_after_the_clock_is_corrected(starts: Starts) -> None:
    assert starts.starter.renew_due()
    starts.clock.set_by(-1800)
    assert starts.starter.renew_due()
    assert not starts.starter.renew_due()
    starts.clock.wind(10)
    starts.clock.set_by(-9)
    assert starts.starter.renew_due()


def test_run_that_cannot_be_started_is_reported_and_not_requested_again_at_once(
    starts: Starts,
) -> None:
    starts.fault = RuntimeError("no Lambda")
    assert not starts.starter.renew_due()
    assert not starts.starter.renew_due()
    assert starts.faults == [starts.fault]
