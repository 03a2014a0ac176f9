"""What several tiers of tests share."""

import gc
import signal
from collections.abc import Generator, Iterator
from unittest.mock import patch

import botocore.session
import pytest
from botocore.loaders import create_loader
from coverage import Coverage

from local.embedded_aws import EmbeddedAws
from local.fake_enable import Client, FakeEnable
from tests.forked_sam import run_forked_sam
from tests.reports import NASTY_SECRET, pytest_runtest_makereport

__all__ = ["NASTY_SECRET", "pytest_runtest_makereport"]

UNCOVERED = {
    "client_matrix",
    "deployed",
    "simulation",
    "interleavings",
    "fuzz",
    "soak",
    "template",
    "mutants",
    "cli",
    "tools",
    "client",
    "local",
    "benchmarks",
}
"""Their code runs in other processes, or again and again what others' examples have shown."""


# A shell that puts a job into the background has it ignore Ctrl-C, and whatever it starts: then no
# test could interrupt what it has started.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


SLOW_SECONDS = 20
"""A test that takes longer says why, with the mark `slow`."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures that tests have recorded, and which tests were slow for no reason given.

    What a session has set up counts for the test that came first, hence only calls.
    """
    for report in terminalreporter.getreports("passed"):
        if report.when != "call":
            continue
        for name, value in report.user_properties:
            if name == "figure":
                terminalreporter.write_line(str(value))
        if report.duration > SLOW_SECONDS and "slow" not in report.keywords:
            terminalreporter.write_line(f"{report.duration:.0f} s, no reason: {report.nodeid}")


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Trace a test that does not count in no way: in a worker, pytest-cov has begun twice.

    Its own pause then only leaves the tracing to the first of the two.
    """
    first = Coverage.current() if item.get_closest_marker("no_cover") else None
    if first is None:
        return (yield)
    first.stop()
    try:
        return (yield)
    finally:
        first.start()


def pytest_collection_finish() -> None:
    """Look for garbage less often, and not among what was imported: a fifth of what some take."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Count as covered what examples cover: chance is no proof, and twice as slow when traced."""
    for item in items:
        is_by_chance = getattr(getattr(item, "obj", None), "is_hypothesis_test", False)
        if is_by_chance or item.path.parent.name in UNCOVERED:
            item.add_marker("no_cover")


@pytest.fixture(scope="session", autouse=True)
def _one_loader() -> Iterator[None]:
    """Read each of botocore's service models once in a process, not once in each session.

    Each `broker` command that a test runs in its own process begins a session.
    """
    loader = create_loader()
    with patch.object(botocore.session, "create_loader", lambda _path: loader):
        yield


@pytest.fixture(scope="session", autouse=True)
def _sam_in_forks() -> Iterator[None]:
    """Import the SAM CLI once in a worker, not once in each deployment."""
    with patch("local.broker_stack.run_sam", run_forked_sam):
        yield


@pytest.fixture(scope="session")
def enable_client() -> Client:
    return Client(
        client_id="0b8c2ab6-6f1c-4a8b-9f57-3f2c2c6f3d1e",
        client_secret=NASTY_SECRET,
        dealtrack_registration_id="5d6a2a6e-93c4-4a57-8a8e-2f9a6f1d7b10",
    )


@pytest.fixture(scope="session")
def embedded_aws() -> Iterator[EmbeddedAws]:
    """One embedded AWS for a whole run: each group of tests takes an account of its own."""
    with EmbeddedAws(schedule_minute_seconds=5) as aws:
        yield aws


@pytest.fixture
def enable(enable_client: Client) -> Iterator[FakeEnable]:
    with FakeEnable(enable_client) as fake_enable:
        yield fake_enable
