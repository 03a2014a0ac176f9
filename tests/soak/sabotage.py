"""Breaks the broker on purpose, in one place at a time, and has the soak find each.

`make sabotage`. A sabotage is one edit of the code that `sam build` left, its place found in the
syntax tree. The soak runs on it with up to three seeds, until the checker, which knows nothing of
it, finds a violation.
"""

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from local.broker_stack import BrokerStack
from local.embedded_aws import EmbeddedAws
from tests.mutants.guards import Guard, file_of, spoil
from tests.soak.checker import check
from tests.soak.record import Record, now
from tests.soak.soak import Stop, soak
from tests.soak.world import copy_source

SEEDS: Final = (1, 2, 3)
SECONDS: Final = 180.0
SETTLED_SECONDS: Final = 5.0
"""The log and the store have been looked at by then, also on a busy machine."""

BUILT: Final = (
    "SharedLayer/python/token_broker",
    "TokenRefresherFunction/token_refresher",
    "TokenVendorFunction/token_vendor",
)


def _sabotage(file: str, place: str, code: str, instead: str) -> Guard:
    return Guard(file=file, tests=(), place=place, code=code, instead=instead)


_CALL: Final = "self._secrets.get_secret_value(SecretId=name, VersionStage=stage)"
_VEND: Final = "token_vendor/vend.py"

SABOTAGES: Final = {
    "an expired token is vended": _sabotage(
        _VEND, "Vendor._judge", "self.now()", "self.now() - timedelta(minutes=1)"
    ),
    "the vend function remembers tokens without their grant": _sabotage(
        _VEND,
        "Vendor._verdict.known",
        "self._remembered.get(request.grant)",
        "next(iter(self._remembered.values()), None)",
    ),
    "`callers` is ignored": _sabotage(
        _VEND,
        "Vendor._admit",
        "grant.callers is None or is_allowed(caller_arn, grant.callers)",
        "True",
    ),
    "a token that expires earlier replaces the stored one": _sabotage(
        "token_refresher/policy.py",
        "Replaces.is_replaced",
        "new.expires_at > stored.expires_at",
        "True",
    ),
    "the lease is ignored": _sabotage(
        "token_refresher/connection_state.py",
        "ConnectionState.is_leased",
        "abs(now - self.leased_at) < LEASE",
        "False",
    ),
    "the backoff is ignored": _sabotage(
        "token_refresher/renewal.py",
        "ConnectionRenewal._skipped",
        "(wait := backoffs.of(grant))",
        "None",
    ),
    "a block is ignored": _sabotage(
        "token_refresher/refresh.py", "Refresher._select", "return item.blocked(block)", "pass"
    ),
    "the secret is kept in memory": _sabotage(
        "token_refresher/credentials.py",
        "SecretReader.read.response",
        _CALL,
        f"self.__dict__.get(stage) or self.__dict__.setdefault(stage, {_CALL})",
    ),
    "force is ignored": _sabotage(
        "token_refresher/refresh_request.py", "RefreshRequest.policy", "self.force", "False"
    ),
    "Retry-After is ignored": _sabotage(
        "token_refresher/enable/responses.py",
        "read_token",
        "retry_after(response.headers, now)",
        "None",
    ),
    "a token that did not fit is not read again": _sabotage(
        _VEND, "recheck_after", "RECHECK_AFTER", "timedelta.max"
    ),
    "a corrupt parameter is not replaced": _sabotage(
        "token_refresher/due_grant.py", "renew_reason", "RenewReason.CORRUPT", "None"
    ),
}


@dataclass(frozen=True, slots=True)
class Found:
    """The first violation.

    Attributes:
        violation: as the checker names it; empty if none was found.
        seed: of the soak.
        seconds: that it soaked.
    """

    violation: str
    seed: int
    seconds: float


def apply(guard: Guard, build: Path) -> None:
    """Break what was built, and remove its bytecode, which is never checked against it."""
    file = file_of(guard, build, BUILT)
    file.write_text(spoil(file.read_text(encoding="utf-8"), guard), encoding="utf-8")
    for bytecode in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
        bytecode.unlink()


def find(build: Path, seed: int, tell: Callable[[str], None]) -> Found:
    """Soak what was built until something is found, or the time is over."""
    record, stop = Record(), Stop()

    def judge() -> None:
        ends = now()
        time.sleep(SETTLED_SECONDS)  # until log and store have been looked at
        if check([*record.entries, {"kind": "end", "at": ends}]).violations:
            stop.at = ends
            stop.set()

    soak(
        record,
        seed=seed,
        seconds=SECONDS,
        tell=tell,
        stop=stop,
        built=build,
        after_round=judge,
    )
    report = check(record.entries)
    violation = next(iter(report.violations), "")
    return Found(violation, seed, report.counts["seconds soaked"])


def _build(folder: Path) -> Path:
    with EmbeddedAws() as aws:
        stack = BrokerStack(aws, source=copy_source(folder / "source"))
        stack.build()
        shutil.copytree(stack.build_folder, folder / "build")
    return folder / "build"


def _sabotaged(guard: Guard, build: Path, seed: int, tell: Callable[[str], None]) -> Found:
    with tempfile.TemporaryDirectory(prefix="sabotage-") as temporary:
        broken = Path(temporary) / "build"
        shutil.copytree(build, broken)
        apply(guard, broken)
        return find(broken, seed, tell)


def main(arguments: Sequence[str] | None = None) -> int:
    """Try every sabotage; 0 if the soak found each, 1 if not."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.sabotage", description=__doc__)
    parser.add_argument("only", nargs="*", help="words of the sabotages to try (default: all)")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it cleans up as well
    only, console, begun = parser.parse_args(arguments).only, Console(), time.monotonic()
    chosen = {
        name: guard for name, guard in SABOTAGES.items() if all(word in name for word in only)
    }
    if not chosen:
        parser.error(f"no sabotage is called {' '.join(only)!r}: {', '.join(SABOTAGES)}")
    found: dict[str, Found] = {}

    def tell(text: str) -> None:
        line = f"{time.monotonic() - begun:6.0f} s  {text}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    try:
        with tempfile.TemporaryDirectory(prefix="sabotage-") as folder:
            tell("building the broker")
            build = _build(Path(folder))
            for name, guard in chosen.items():
                for seed in SEEDS:
                    tell(f"── {name}, seed {seed}")
                    found[name] = _sabotaged(guard, build, seed, tell)
                    if found[name].violation:
                        break
                tell(found[name].violation or "not found")
    except KeyboardInterrupt:
        tell("ended early")
    console.print(_table(chosen, found))
    caught = sum(bool(one.violation) for one in found.values())
    console.print(f"{caught} of {len(chosen)} found")
    return 0 if caught == len(chosen) else 1


def _table(chosen: Iterable[str], found: Mapping[str, Found]) -> Table:
    table = Table("sabotage", "found by the rule", "seed", "seconds")
    for name in chosen:
        one = found.get(name)
        rule = (one.violation.partition(":")[0] or "none") if one else "not tried to the end"
        table.add_row(name, rule, *((str(one.seed), f"{one.seconds:.0f}") if one else ("", "")))
    return table


if __name__ == "__main__":
    sys.exit(main())
