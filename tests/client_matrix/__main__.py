"""The client library in each way under each condition: `python -m tests.client_matrix`.

Exits with 1 if a call got an expired or a foreign token, or took longer than its budget and a
second, or if a cell got no token at all.
"""

# ruff: noqa: T201 - a command line prints
import argparse
import json
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.client_matrix.broker import serving
from tests.client_matrix.cases import BUDGET, CONDITIONS, HARD, WAYS
from tests.client_matrix.judge import TOO_SLOW
from tests.client_matrix.ways import Cell, Result, run_all

_SECONDS, _SHORT_SECONDS = 12.0, 5.0


def main() -> int:
    """Run the cells of the arguments, or all of them with a process for each way."""
    parser = argparse.ArgumentParser(prog="python -m tests.client_matrix", description=__doc__)
    parser.add_argument("--short", action="store_true", help=f"{_SHORT_SECONDS:.0f} s a cell")
    parser.add_argument("--way", choices=WAYS, help="one way alone")
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    seconds = _SHORT_SECONDS if options.short else _SECONDS
    if options.port:
        print(json.dumps(_conditions(options.way, options.port, seconds)))
        return 0
    ways = [options.way] if options.way else WAYS
    if "node" not in WAYS:
        print("node: skipped, for want of Node 20 or of `make node-client`")
    at_once = len(ways) if options.short else 1
    print(
        f"{len(ways) * len(CONDITIONS)} cells, {seconds:.0f} s each; budget {BUDGET} s", flush=True
    )
    with serving() as broker, ThreadPoolExecutor(at_once) as pool:
        tables = pool.map(lambda way: _in_process(way, broker.server_port, options.short), ways)
        verdicts = [_show(way, table) for way, table in zip(ways, tables, strict=True)]
    return 0 if all(verdicts) else 1


def _conditions(way: str, port: int, seconds: float) -> dict[str, Result]:
    """All conditions of a way at once."""
    warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
    cells = [Cell(way, condition, port, seconds) for condition in CONDITIONS]
    return dict(zip(CONDITIONS, run_all(cells), strict=True))


def _in_process(way: str, port: int, is_short: bool) -> dict[str, Any]:  # noqa: FBT001
    arguments = ["--way", way, "--port", str(port), *(["--short"] if is_short else [])]
    command = [sys.executable, "-m", "tests.client_matrix", *arguments]
    ended = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=120)
    table: dict[str, Any] = json.loads(ended.stdout)
    return table


def _show(way: str, table: dict[str, Result]) -> bool:
    """Print a line for each condition; whether all is as it should be."""
    is_well = True
    for condition, result in table.items():
        counts = dict(result["counts"])
        tokens = counts.pop("tokens", 0)
        violations = result["violations"] + _shortage(condition, tokens, counts)
        is_well = is_well and not violations
        errors = ", ".join(f"{number} {name}" for name, number in counts.items())
        print(
            f"{'ok  ' if not violations else 'FAIL'} {way:12} {condition:14} {tokens:6} tokens,"
            f" longest call {result['longest']:.2f} s{', ' + errors if errors else ''}"
        )
        for text in violations:
            print(f"     {text}")
    sys.stdout.flush()
    return is_well


def _shortage(condition: str, tokens: int, errors: dict[str, int]) -> list[str]:
    """What is wrong with how many calls got a token; a few may fail on a busy machine."""
    failed = sum(number for name, number in errors.items() if name != TOO_SLOW)
    if condition not in HARD and failed > tokens / 5:
        return [f"{tokens} calls got a token, {failed} did not"]
    return []


if __name__ == "__main__":
    sys.exit(main())
