"""Throws inputs at every target and counts them: `make fuzz`, `COUNT=1000000 make fuzz`.

Hypothesis makes inputs that are almost sound. Where an input is plain bytes or text and atheris
is there (`make fuzz` brings it), most of the share goes to atheris, which is faster, mutates
bytes and keeps those that reach new code.
"""

import argparse
import importlib.util
import re
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hypothesis import HealthCheck, Phase, given, seed, settings
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tests.fuzz.targets import TARGETS, Target

BATCH: Final = 10_000
"""Hypothesis remembers all inputs of a run, so that none comes twice: runs are kept short."""

_DONE: Final = re.compile(r"Done (\d+) runs")
console = Console()


@dataclass(slots=True)
class Count:
    """What a target has met.

    Attributes:
        tried: inputs, by who made them.
        seconds: that took.
        findings: what was violated, for a person to read.
    """

    tried: dict[str, int]
    seconds: float
    findings: list[str]


def by_hypothesis(
    target: Target, number: int, seed_number: int, advance: Callable[[int], object]
) -> tuple[int, list[str]]:
    """Try inputs that Hypothesis makes; how many it were, and what was found."""
    tried = 0
    while tried < number:
        before, batch = tried, min(BATCH, number - tried)

        @seed(seed_number + tried)
        @settings(
            max_examples=batch,
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(target.inputs)
        def check(given_input: Any) -> None:
            nonlocal tried
            tried += 1
            if tried % 100 == 0:
                advance(100)
            target.check(given_input)

        try:
            check()
        except Exception as error:
            return tried, ["".join(traceback.format_exception(error))]
        if tried == before:
            break
    return tried, []


def by_atheris(
    name: str, number: int, seed_number: int, advance: Callable[[int], object]
) -> tuple[int, list[str]]:
    """Try inputs that atheris makes, in a process of its own, as it ends its process."""
    command = [sys.executable, "-m", "tests.fuzz.coverage_guided", name, str(number)]
    with tempfile.TemporaryDirectory() as folder:
        output = subprocess.run(
            [*command, str(seed_number), folder], capture_output=True, text=True, check=False
        )
        inputs = [file.read_bytes()[:400] for file in Path(folder).glob("crash-*")]
    done = _DONE.findall(output.stderr)
    tried = int(done[-1]) if done else 0
    advance(tried)
    if output.returncode == 0 and done:
        return tried, []
    return tried, [f"{output.stdout[-3000:]}\n{output.stderr[-3000:]}\ninput: {inputs}"]


def run(name: str, number: int, seed_number: int, advance: Callable[[int], object]) -> Count:
    """Try a number of inputs on one target."""
    target, began = TARGETS[name], time.monotonic()
    has_atheris = importlib.util.find_spec("atheris") is not None and target.from_bytes
    share = number // 10 if has_atheris else number
    tried, findings = by_hypothesis(target, share, seed_number, advance)
    count = Count({"Hypothesis": tried}, 0, findings)
    if has_atheris:
        count.tried["atheris"], more = by_atheris(name, number - share, seed_number, advance)
        count.findings += more
    count.seconds = time.monotonic() - began
    return count


def table_of(counts: dict[str, Count]) -> Table:
    """What was tried, by target and in total."""
    table = Table("target", title="inputs tried")
    makers = ["Hypothesis", "atheris"]
    for column in (*makers, "in all", "seconds", "findings"):
        table.add_column(column, justify="right")
    for name, count in counts.items():
        tried = [count.tried.get(maker, 0) for maker in makers]
        table.add_row(
            name,
            *(f"{number:,}" if number else "" for number in tried),
            f"{sum(tried):,}",
            f"{count.seconds:.0f}",
            str(len(count.findings)),
        )
    totals = [sum(count.tried.get(maker, 0) for count in counts.values()) for maker in makers]
    table.add_section()
    table.add_row(
        "total",
        *(f"{number:,}" for number in totals),
        f"{sum(totals):,}",
        f"{sum(count.seconds for count in counts.values()):.0f}",
        str(sum(len(count.findings) for count in counts.values())),
    )
    return table


def main() -> int:
    """Try inputs on all targets.

    Returns:
        The exit code: 0 nothing found, 1 something found, 130 ended by Ctrl-C.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--count", type=int, default=100_000, help="inputs in all (100000)")
    parser.add_argument("--seed", type=int, default=1, help="another one, other inputs (1)")
    given_arguments = parser.parse_args()
    if unknown := set(given_arguments.targets) - set(TARGETS):
        parser.error(f"no such target: {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    names = given_arguments.targets or list(TARGETS)
    weights = sum(TARGETS[name].weight for name in names)
    counts: dict[str, Count] = {}
    warnings.filterwarnings("ignore", message="Generating overly large repr")
    code = 0
    with Progress(console=console) as progress:
        try:
            for name in names:
                number = -(-given_arguments.count * TARGETS[name].weight // weights)
                task = progress.add_task(name, total=number)

                def advance(by: int, task: Any = task) -> None:
                    progress.advance(task, by)

                counts[name] = run(name, number, given_arguments.seed, advance)
                tried = sum(counts[name].tried.values())
                progress.update(task, completed=tried, total=tried)
                progress.console.print(f"{name}: {tried:,} in {counts[name].seconds:.0f} s")
        except KeyboardInterrupt:
            code = 130
    for name, count in counts.items():
        for finding in count.findings:
            console.print(f"── {name} ──", style="bold red")
            console.print(finding, markup=False, highlight=False)
    console.print(table_of(counts))
    return code or int(any(count.findings for count in counts.values()))


if __name__ == "__main__":
    raise SystemExit(main())
