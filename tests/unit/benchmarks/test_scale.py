"""The simulation, where queueing theory knows the response, and what docs/scale.md says of it."""

import math
import random
from statistics import fmean

import pytest

from benchmarks.scale import (
    Outcome,
    Places,
    Quota,
    Scenario,
    Timeline,
    World,
    run_reads,
)


def mean_wait(*, rate: float, service_seconds: float, is_exponential: bool) -> float:
    """The mean time in the queue of one server, over 60,000 arrivals at random."""
    timeline, server = Timeline(), Places(1, longest_queue=math.inf)
    chance = random.Random(7)  # noqa: S311 - chance, not secrecy
    waits: list[float] = []

    def arrive(moment: float) -> None:
        def begin() -> None:
            waits.append(timeline.now - moment)
            mean = service_seconds
            service = chance.expovariate(1 / mean) if is_exponential else mean
            timeline.after(service, server.give_back)

        server.take(begin)

    moment = 0.0
    for _ in range(60_000):
        moment += chance.expovariate(rate)
        timeline.after(moment, lambda moment=moment: arrive(moment))
    timeline.run()
    return fmean(waits)


def test_one_server_with_exponential_service_waits_as_m_m_1() -> None:
    load = 0.6
    expected = load / (1 - load)  # Wq = rho / (mu - lambda), mu = 1
    found = mean_wait(rate=load, service_seconds=1, is_exponential=True)
    assert found == pytest.approx(expected, rel=0.05)


def test_one_server_with_constant_service_waits_half_of_that_as_m_d_1() -> None:
    load = 0.6
    expected = load / (2 * (1 - load))  # Pollaczek-Khinchine
    found = mean_wait(rate=load, service_seconds=1, is_exponential=False)
    assert found == pytest.approx(expected, rel=0.05)


def erlang_b(load: float, places: int) -> float:
    blocked = 1.0
    for number in range(1, places + 1):
        blocked = load * blocked / (number + load * blocked)
    return blocked


def test_full_lambda_refuses_as_erlang_b() -> None:
    # 10 warm environments, a vend of 0.1 s, nothing to read: a loss system without a queue.
    scenario = Scenario(
        callers_per_second=80,
        seconds=400,
        environments=10,
        warm=10,
        vend_seconds=0.1,
        read_seconds=0,
        grants=1,
        cache_window=math.inf,
    )
    found = World(scenario, seed=3).run()
    assert found.unavailable == 0
    assert found.failed_share == pytest.approx(erlang_b(8, 10), rel=0.1)


def test_quota_serves_its_rate_and_one_second_at_once() -> None:
    quota = Quota(40)
    assert sum(quota.take(0.0) for _ in range(100)) == 40
    assert sum(quota.take(0.5) for _ in range(100)) == 20
    assert sum(quota.take(60.0) for _ in range(100)) == 40


def run(**settings: float) -> Outcome:
    return World(Scenario(**settings)).run()  # type: ignore[arg-type]


def test_same_seed_gives_the_same_outcome() -> None:
    assert run(callers_per_second=20, seconds=60) == run(callers_per_second=20, seconds=60)


def test_every_caller_is_answered() -> None:
    found = run(storm=500)
    assert found.vended + found.unavailable + found.refused == 500


def test_environment_reads_each_grant_once_in_a_cache_window() -> None:
    found = run(callers_per_second=50, seconds=240, vend_seconds=0.0001, read_seconds=0.0001)
    assert found.reads <= found.environments * 4 * 240 / 60 * 1.05


def test_storm_within_the_quota_fails_nobody() -> None:
    assert run(storm=40).failed_share == 0


def test_storm_beyond_the_quota_fails_some_and_higher_throughput_mends_it() -> None:
    assert run(storm=1_000).failed_share > 0.15
    assert run(storm=1_000, store_per_second=1_000).failed_share == 0


def test_second_chance_turns_a_third_of_the_failures_into_waits_and_slows_no_small_storm() -> None:
    assert run(storm=1_000).failed_share < 2 / 3 * run(storm=1_000, reads=1).failed_share
    assert run(storm=100).seconds == run(storm=100, reads=1).seconds


def test_warm_environments_do_not_help_against_the_quota() -> None:
    assert run(storm=1_000, warm=1_000).failed_share > 0.15


def test_idle_run_of_many_grants_leaves_the_quota_to_others() -> None:
    failed, seconds = run_reads(500, 40)
    assert failed == 0
    assert seconds <= 2  # 51 calls; the quota allows 40 at once
    assert run_reads(2_000, 1_000)[1] < 1
