"""One soak: the broker deployed, fifty callers, faults that overlap, and everything recorded."""

import contextlib
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Final

from local.broker_stack import wait_until
from tests.soak.callers import Callers
from tests.soak.faults import LIFETIMES, Injector, Storm
from tests.soak.record import Record, now
from tests.soak.watch import Watch
from tests.soak.world import GRANTS, World, world

SCHEDULE_SECONDS: Final = 5.0
"""How long the schedule's minute lasts."""

PATIENCE_SECONDS: Final = 12 * SCHEDULE_SECONDS
"""A round that is followed by no two runs in this time is followed by the next round: a slow
machine then recovers in fewer places, and nothing false is found."""

PROGRESS_SECONDS: Final = 30.0


class Stop(threading.Event):
    """Asks a soak to end; what is seen from then on is not judged.

    Ctrl-C reaches the functions' environments, too, and the caller that they serve gets a 502.
    """

    at: float = float("inf")

    def ask(self) -> None:
        """End in order."""
        self.at = min(self.at, now() - 0.5)
        self.set()


def soak(
    record: Record,
    *,
    seed: int,
    seconds: float,
    tell: Callable[[str], None],
    stop: Stop,
    built: Path | None = None,
    after_round: Callable[[], None] = lambda: None,
) -> None:
    """Soak a broker.

    Args:
        record: where everything is kept; it is closed at the end.
        seed: decides the faults.
        seconds: how long faults are injected.
        tell: is reported of progress.
        stop: ends it early, in order.
        built: what `sam build` left, with whatever grants; None builds it.
        after_round: is called when the broker had its time after each round of faults.
    """
    # What the callers warn of is in the record.
    logging.getLogger("enable_broker_client").addHandler(logging.NullHandler())
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        tell(f"{'' if built else 'building and '}deploying the broker, IAM enforced")
        with world(
            seed,
            folder=Path(folder) / "source",
            minute_seconds=SCHEDULE_SECONDS,
            record=record,
            built=built,
        ) as ground:
            try:
                if not stop.is_set():
                    _soak(ground, seed, seconds, tell, stop, after_round=after_round)
            finally:
                record.close()


def _soak(
    ground: World,
    seed: int,
    seconds: float,
    tell: Callable[[str], None],
    stop: Stop,
    *,
    after_round: Callable[[], None],
) -> None:
    record = ground.record
    callers, watch = Callers(ground, seed), Watch(ground)
    record.add(
        "header",
        at=now(),
        seed=seed,
        schedule_seconds=SCHEDULE_SECONDS,
        grants=dict(GRANTS),
        callers=callers.expectations,
    )
    ground.enable.fake_enable.token_lifetime = timedelta(seconds=LIFETIMES[0])
    ground.stack.store_secret(ground.client)
    watch.start()
    try:
        tell("waiting for the schedule to bring the first tokens")
        with contextlib.suppress(TimeoutError):
            wait_until(
                lambda: stop.is_set() or _grants_stored(record) == set(GRANTS),
                seconds=120,
                what="the first tokens",
            )
        callers.start()
        random = Random(f"{seed} injector")  # noqa: S311 - reproducible on purpose
        storm = Storm(Injector(ground, callers, random), seed, tell)
        begun = time.monotonic()
        with _progress(record, storm, seconds, begun, tell):
            while not stop.is_set() and time.monotonic() - begun < seconds:
                ended = storm.round(stop.wait)
                _wait_for_runs(record, ended, stop)
                after_round()
        record.add("end", at=min(now(), stop.at))
    finally:
        tell("ending")
        callers.stop(seconds=2 if stop.is_set() else 30)
        watch.stop()


def _grants_stored(record: Record) -> set[str]:
    return {entry["grant"] for entry in record.of("stored") if entry["state"] == "token"}


def _wait_for_runs(record: Record, since: float, stop: Stop) -> None:
    """Leave the broker alone until two runs, one after the other, have begun since then."""
    ends = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < ends and not stop.wait(0.5):
        runs = sorted(
            (run["begin"], run["end"])
            for run in record.of("run")
            if run["begin"] >= since and run["grants"]
        )
        if runs and any(begin >= runs[0][1] for begin, _ in runs):
            return


@contextlib.contextmanager
def _progress(
    record: Record, storm: Storm, seconds: float, begun: float, tell: Callable[[str], None]
) -> Iterator[None]:
    """Tell every half minute how far it is."""
    is_over = threading.Event()

    def repeat() -> None:
        while not is_over.wait(PROGRESS_SECONDS):
            issued = sum(entry.get("status") == 200 for entry in record.of("token_request"))
            tell(
                f"{int(time.monotonic() - begun)} of {seconds:.0f} s: "
                f"{len(record.of('request'))} requests, {len(record.of('use'))} uses, "
                f"{storm.injected} faults, {issued} tokens issued, {len(record.of('run'))} runs"
            )

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
