"""Mutation testing of the layer, the refresh logic and the matcher: `make mutants`.

mutmut changes one thing at a time in a copy of the modules; the unit tests must notice.
Survivors are printed as diffs; why those that are known may live is in survivors.md.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from tests.mutants.laboratory import copy_to, environment

LEAST: Final = 90
"""Percent of the mutants that the tests must kill."""

_SOCKETS: Final = (
    "refresher/enable/test_http_client",
    *(
        f"../faults/{name}"
        for name in ("test_http_client", "test_proxy", "fault_server", "connect_proxy")
    ),
)
_RUN: Final = ("refresher/test_refresh", "refresher/test_renewal", "test_properties")
MODULES: Final = {
    "token_refresher.policy": _RUN,
    "token_refresher.backoff": ("refresher/test_backoff",),
    "token_refresher.connection_state": ("refresher/test_connection_state",),
    "token_refresher.enable.acceptance": ("refresher/enable/test_acceptance", "test_properties"),
    "token_refresher.renewal": _RUN,
    "token_refresher.refresh": _RUN[:2],
    "token_refresher.attempt": _RUN,
    "token_refresher.attempts": _RUN,
    "token_refresher.connection_backoffs": _RUN,
    "token_refresher.turns": _RUN,
    "token_refresher.due_grant": _RUN[:2],
    "token_refresher.outcomes": ("refresher/test_app",),
    "token_refresher.refresh_request": ("refresher/test_refresh_request",),
    "token_refresher.parameter_reader": ("refresher/test_parameter_reader",),
    "token_refresher.credentials": ("refresher/test_credentials",),
    "token_refresher.enable.connections": _SOCKETS,
    "token_refresher.enable.deadline": ("refresher/enable/test_deadline",),
    "token_refresher.enable.endpoint": ("refresher/enable/test_endpoint",),
    "token_refresher.enable.http_client": _SOCKETS,
    "token_refresher.enable.models": ("refresher/enable/test_models",),
    "token_refresher.enable.responses": ("refresher/enable/test_responses",),
    "token_refresher.enable.route": ("refresher/enable/test_route", "../faults/fault_server"),
    "token_refresher.enable.validation": ("refresher/enable/test_validation",),
    "token_broker.callers": ("layer/test_callers",),
    "token_broker.expiry": ("layer/test_expiry",),
    "token_broker.grants": ("layer/test_grants", "refresher/test_check_grants"),
    "token_broker.models": ("layer/test_models", "layer/test_token_store"),
    "token_broker.settings": ("layer/test_settings",),
    "token_broker.token_store": ("layer/test_token_store",),
    "token_broker.versions": ("layer/test_versions",),
    "token_vendor.api_event": ("vendor/test_api_event", "vendor/test_app"),
    "token_vendor.audit_record": ("vendor/test_audit_record", "vendor/test_app"),
    "token_vendor.vend": ("vendor/test_vend", "vendor/test_app"),
}
"""What is mutated, and the tests that have to kill it, with what they need: below tests/unit."""

_RESULT: Final = re.compile(r"^\s+(\S+): (.+)$", re.MULTILINE)
_NOTICED: Final = {"killed", "timeout", "suspicious", "segfault", "caught by type check"}
_UNDER_MUTMUT: Final = "test_record_that_is_printed_or_logged_keeps_its_secret"
"""Reads log lines, which mutmut takes away; what it guards is in `guards`."""

_SHOW: Final = """
import sys
from mutmut.__main__ import show

for name in sys.argv[1:]:
    print(end="\\0")
    show.callback(name)
"""

console = Console()


def mutmut(folder: Path, *arguments: str) -> str:
    """What mutmut prints in a laboratory."""
    return _printed(folder, str(Path(sys.executable).with_name("mutmut")), *arguments)


def diffs(folder: Path, names: list[str]) -> dict[str, str]:
    """The diffs of mutants, by one process: each `mutmut show` takes seconds to start."""
    shown = _printed(folder, sys.executable, "-c", _SHOW, *names).split("\0")[1:]
    return dict(zip(names, shown, strict=True))


def _printed(folder: Path, *command: str) -> str:
    # All mutants are in one file, which does not change: what is compiled once is true for each.
    env = environment(folder) | {"PYTHONDONTWRITEBYTECODE": ""}
    ended = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    if ended.returncode:
        console.print(ended.stdout[-3000:], ended.stderr[-3000:], markup=False)
        raise SystemExit(2)
    return ended.stdout


def settings(modules: list[str]) -> str:
    """mutmut's, for some of the modules."""
    files = [f"src/{module.replace('.', '/')}.py" for module in modules]
    return (
        f'[tool.mutmut]\nsource_paths = ["src"]\nonly_mutate = {files!r}\n'
        'pytest_add_cli_args_test_selection = ["tests"]\n'
        f'pytest_add_cli_args = ["-k", "not {_UNDER_MUTMUT}"]\n'
        'also_copy = ["events", "src/grants.toml"]\n'
    )


def mutate(modules: list[str]) -> tuple[dict[str, Counter[str]], dict[str, str]]:
    """Mutate modules; what became of their mutants, and the survivors' diffs."""
    counts = {module: Counter[str]() for module in modules}
    survivors: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tests = sorted({f"{test}.py" for module in modules for test in MODULES[module]})
        copy_to(folder, tests, settings(modules))
        mutmut(folder, "run", "--max-children", "1")
        for name, result in _RESULT.findall(mutmut(folder, "results", "--all", "true")):
            module = name.rpartition(".")[0]
            noticed = result if result in _NOTICED else f"not noticed: {result}"
            counts[module][noticed] += 1
            if result not in _NOTICED:
                survivors.append(name)
        return counts, diffs(folder, survivors)


def table_of(counts: dict[str, Counter[str]]) -> tuple[Table, float]:
    """By module and in all, and the percentage that was killed."""
    table = Table("module", title="mutants")
    for column in ("killed", "of", "percent", "killed by a timeout"):
        table.add_column(column, justify="right")
    rows = dict(counts)
    rows["total"] = Counter[str]()
    for count in counts.values():
        rows["total"] += count
    percent = 0.0
    for name, count in rows.items():
        noticed = sum(number for result, number in count.items() if result in _NOTICED)
        percent = 100 * noticed / (count.total() or 1)
        timeouts = str(count["timeout"])
        table.add_row(name, str(noticed), str(count.total()), f"{percent:.1f}", timeouts)
    return table, percent


def main() -> int:
    """Mutate module after module.

    Returns:
        The exit code: 0 if at least LEAST percent of the mutants were killed, else 1.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"of {', '.join(MODULES)}")
    modules = parser.parse_args().modules or list(MODULES)
    if unknown := set(modules) - set(MODULES):
        parser.error(f"not mutated: {', '.join(sorted(unknown))}")
    counts: dict[str, Counter[str]] = {}
    try:
        for number, module in enumerate(modules, 1):
            console.print(f"mutating {module} ({number} of {len(modules)}), minutes each")
            found, survivors = mutate([module])
            counts |= found
            for name, diff in survivors.items():
                console.print(f"survived: {name}\n{diff}", markup=False, highlight=False)
            console.print(table_of(counts)[0])
    except KeyboardInterrupt:
        console.print("ended before all modules were mutated")
        return 130
    return 0 if table_of(counts)[1] >= LEAST else 1


if __name__ == "__main__":
    raise SystemExit(main())
