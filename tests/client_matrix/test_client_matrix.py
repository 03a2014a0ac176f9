"""The short form of `python -m tests.client_matrix`, in a process of its own: it forks."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from local.broker_stack import ROOT
from tests.client_matrix.cases import CONDITIONS, WAYS
from tests.client_matrix.judge import TOO_SLOW, Judge, Machine, World


def test_each_way_under_each_condition_keeps_the_clients_promises():
    """No expired token, no foreign one, and no call beyond its budget and a second."""
    command = [sys.executable, "-m", "tests.client_matrix", "--short"]
    ended = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False, timeout=240
    )
    assert ended.returncode == 0, ended.stdout
    assert ended.stdout.count("\nok ") == len(WAYS) * len(CONDITIONS)


@pytest.mark.parametrize(
    ("token", "fault"),
    [
        ("users.1.{now}", "a token of users"),
        ("deals.1.{old}", "past its end"),
        ("deals.1.{now}", None),
    ],
)
def test_judge_sees_foreign_and_expired_tokens(token: str, fault: str | None):
    world = World(CONDITIONS["healthy"])
    judge = Judge(world, Machine())
    now = int(world.started_at * 1000)
    with judge.call("deals") as got:
        got.append(token.format(now=now, old=now - 3100))
    judge.machine.is_over.set()
    assert [fault in text for text in judge.violations] == ([True] if fault else [])


def test_judge_sees_a_call_beyond_its_budget():
    judge = Judge(World(CONDITIONS["healthy"]), Machine())
    judge.machine.is_over.set()
    judge.machine.thread.join()
    with judge.call("deals"):
        judge.machine.lost -= 2.6  # as if the call had taken that much longer
    assert len(judge.violations) == 1


class NoTokenInTime(Exception):
    """As the client's error is called."""


@pytest.mark.parametrize(("lost", "name"), [(0.0, "NoTokenInTime"), (0.4, TOO_SLOW)])
def test_judge_excuses_what_the_machine_took(lost: float, name: str):
    judge = Judge(World(CONDITIONS["healthy"]), Machine())
    judge.machine.is_over.set()
    judge.machine.thread.join()
    with judge.call("deals"):
        judge.machine.lost += lost
        raise NoTokenInTime
    assert judge.counts == {name: 1}
    assert bool(judge.result()["violations"]) == (name != TOO_SLOW)


@pytest.mark.parametrize(
    ("condition", "late", "violations"),
    [("broker down", 2.0, 0), ("broker down", 0.0, 1), ("healthy", 2.0, 1)],
)
def test_judge_excuses_a_late_process_without_a_token_where_calls_may_fail(
    condition: str, late: float, violations: int
):
    judge = Judge(World(CONDITIONS[condition]), Machine())
    judge.machine.is_over.set()
    judge.created_at += late
    assert len(judge.result()["violations"]) == violations


def test_event_waits_until_the_client_has_seen_the_one_before():
    world = World(CONDITIONS["clock set back"])
    world.started_at -= 2.0  # set back at 0.5 s, asleep at 1.5 s: both before the first look
    assert world.slept() == 0.0
    assert world.wall() - time.time() == pytest.approx(-3600, abs=60)
    assert world.slept() == 3000.0
    assert world.wall() - time.time() == pytest.approx(-600, abs=60)


def test_cases_are_data_for_clients_in_any_language():
    text = (Path(__file__).parent / "cases.json").read_text(encoding="utf-8")
    kinds = {"at", "broker", "enable", "wall_seconds", "sleep_seconds"}
    events = [event for case in json.loads(text)["conditions"] for event in case["events"]]
    assert {key for event in events for key in event} == kinds
