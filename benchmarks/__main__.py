"""`make bench` and `make bench-quick`: all of it side by side, and one table."""

import argparse
import re
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich.console import Console

from benchmarks import api, cold_start, cost, idle, instructions, renewal, sizes, upstream, warm
from benchmarks.lab import Lab, open_lab
from benchmarks.results import Row, as_markdown, as_table
from local.embedded_aws import EmbeddedAwsFailed
from tools.sam import ToolFailed

README: Final = Path(__file__).resolve().parent / "README.md"
_BEGIN: Final = "<!-- table: python -m benchmarks --record -->"
_END: Final = "<!-- end -->"


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How often each thing is measured."""

    cold_starts: int
    counts_instructions: bool
    warm_processes: int
    warm_requests: int
    api_rounds: int
    api_requests: int
    oauth_processes: int
    lifetime_seconds: int
    renewals: tuple[int, ...]
    renewal_runs: int


FULL: Final = Effort(
    cold_starts=25,
    counts_instructions=True,
    warm_processes=4,
    warm_requests=4_000,
    api_rounds=12,
    api_requests=320,
    oauth_processes=50,
    lifetime_seconds=6,
    renewals=(1, 10, 100, 200, 500),
    renewal_runs=3,
)
QUICK: Final = Effort(
    cold_starts=5,
    counts_instructions=False,
    warm_processes=3,
    warm_requests=1_000,
    api_rounds=3,
    api_requests=128,
    oauth_processes=10,
    lifetime_seconds=4,
    renewals=(10, 50),
    renewal_runs=1,
)


def main() -> int:
    """Measure and print.

    Returns:
        0 if everything that must be reached is, 1 if not or if a step failed, 130 when stopped.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer runs: a first impression")
    parser.add_argument("--record", action="store_true", help="keep the table in README.md")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it cleans up as well
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 150)
    console.print("\n[bold]The Enable token broker, beside floors and peers[/]\n")
    try:
        sections = _measure(console, QUICK if arguments.quick else FULL)
    except KeyboardInterrupt:
        console.print("\nstopped; nothing is left running")
        return 130
    except (ToolFailed, EmbeddedAwsFailed, RuntimeError, TimeoutError, OSError) as error:
        print(f"\nthe benchmark failed: {error}", file=sys.stderr)
        return 1
    console.print()
    console.print(as_table(sections))
    judged = [row.is_reached for _, rows in sections for row in rows if row.is_reached is not None]
    console.print(f"\n{sum(judged)} of {len(judged)} reached.\n")
    if arguments.record:
        _record(as_markdown(sections))
    return 0 if all(judged) else 1


def _measure(console: Console, effort: Effort) -> list[tuple[str, list[Row]]]:
    sections: list[tuple[str, list[Row]]] = []

    def section(title: str, measure: Callable[[], list[Row]]) -> None:
        began = time.monotonic()
        with console.status(title):
            sections.append((title, measure()))
        console.print(f"  [green]✓[/] {title:<66} {time.monotonic() - began:5.1f} s")

    began = time.monotonic()
    with console.status("sam build, sam deploy, and the peers' packages"), open_lab() as lab:
        console.print(f"  [green]✓[/] {'built, deployed':<66} {time.monotonic() - began:5.1f} s")
        _measure_in(lab, effort, section)
    section(
        "Renewal of N grants, Enable taking 200 ms",
        lambda: renewal.rows(effort.renewals, effort.renewal_runs),
    )
    section("Cost a month, public list prices", cost.rows)
    return sections


def _measure_in(
    lab: Lab, effort: Effort, section: Callable[[str, Callable[[], list[Row]]], None]
) -> None:
    section("Cold start of vend", lambda: cold_start.measure_vend(lab, effort.cold_starts))
    if effort.counts_instructions:
        section("Instructions of the cold starts", lambda: instructions.rows(lab))
    section("Cold start of refresh", lambda: cold_start.measure_refresh(lab, effort.cold_starts))
    section(
        "Warm vend, in process",
        lambda: warm.measure(lab, effort.warm_processes, effort.warm_requests),
    )
    section(
        "Through the API, beside a bare handler",
        lambda: api.measure(lab, effort.api_rounds, effort.api_requests),
    )
    section(
        "Requests to Enable",
        lambda: upstream.measure(lab, effort.oauth_processes, effort.lifetime_seconds),
    )
    section("A refresh run that finds nothing due", lambda: idle.rows(lab))
    section("Artifacts, zipped", lambda: sizes.measure(lab))


def _record(table: str) -> None:
    """Put the table between README.md's markers."""
    day = datetime.now(UTC).date().isoformat()
    text = README.read_text(encoding="utf-8")
    block = f"{_BEGIN}\n\nMeasured on {day}.\n\n{table}\n{_END}"
    pattern = f"{re.escape(_BEGIN)}.*{re.escape(_END)}"
    README.write_text(re.sub(pattern, lambda _: block, text, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
