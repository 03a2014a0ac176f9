"""Where a vend's start goes, by package and by module, beside the floor's.

`python -m benchmarks.start_profile` builds and deploys as `make bench` does, then prints the least
self time of each import (`-X importtime`, which itself makes a start a tenth longer) over starts
in turn, and the instructions of both starts where valgrind is installed.
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks import instructions
from benchmarks.lab import Lab, open_lab

_PREFIX: Final = "import time:"

type Imports = Mapping[str, int]
"""Microseconds by module."""


def main() -> None:
    """Print the profile."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start_profile", description=__doc__)
    parser.add_argument("--starts", type=int, default=8, help="of each candidate, in turn")
    parser.add_argument("--lines", type=int, default=30, help="of each table")
    arguments = parser.parse_args()
    console = Console(highlight=False, width=100)
    console.print("building and deploying: about a minute")
    with open_lab() as lab:
        found = _take_turns(lab, arguments.starts)
        by_package = {name: _packages(modules) for name, modules in found.items()}
        console.print(_table("package", by_package, arguments.lines))
        console.print(_table("module", found, arguments.lines))
        for row in instructions.rows(lab):
            console.print(row.what, row.figure, row.detail, sep="  ")


def _take_turns(lab: Lab, starts: int) -> dict[str, Imports]:
    """The least self time of each module, by candidate."""
    least: dict[str, dict[str, int]] = {name: {} for name in instructions.vend_starts(lab)}
    for _ in range(starts):
        for name, (script, *arguments) in instructions.vend_starts(lab).items():
            run = lab.run(str(script), *arguments, options=("-X", "importtime"))
            for module, microseconds in imports(run.stderr):
                known = least[name].get(module, microseconds)
                least[name][module] = min(known, microseconds)
    return dict(least)


def imports(printed: str) -> Iterator[tuple[str, int]]:
    """Each module of what `-X importtime` printed, and its self time in microseconds."""
    for line in printed.splitlines():
        own, _, module = line.removeprefix(_PREFIX).replace("|", " ", 1).partition(" | ")
        if line.startswith(_PREFIX) and own.split()[0].isdigit():
            yield module.strip(), int(own.split()[0])


def _packages(modules: Imports) -> Imports:
    total: Counter[str] = Counter()
    for module, microseconds in modules.items():
        total[module.partition(".")[0]] += microseconds
    return total


def _table(what: str, found: Mapping[str, Imports], lines: int) -> Table:
    ours, floor = found["ours"], found["floor"]
    table = Table(what, "vend, ms", "floor, ms", box=None)
    table.add_row("all", f"{sum(ours.values()) / 1000:.1f}", f"{sum(floor.values()) / 1000:.1f}")
    for name in sorted(ours, key=lambda name: -ours[name])[:lines]:
        beside = f"{floor[name] / 1000:.1f}" if name in floor else "-"
        table.add_row(name, f"{ours[name] / 1000:.1f}", beside)
    return table


if __name__ == "__main__":
    main()
