"""A copy of the packages and their unit tests in a temporary folder, to be spoilt there."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGES: Final = (
    "layers/shared/token_broker",
    "functions/token_refresher/token_refresher",
    "functions/token_vendor/token_vendor",
    "clients/python/enable_broker_client",
)


def copy_to(folder: Path, tests: Sequence[str]) -> None:
    """Lay out `src/` with the packages side by side, and `tests/unit` with some of its files.

    Args:
        folder: where to; empty.
        tests: names of test files.
    """
    source = folder / "src"
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package,
            source / Path(package).name,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    shutil.copy(ROOT / "layers/shared/grants.toml", source)
    shutil.copytree(ROOT / "events", folder / "events")
    unit = folder / "tests/unit"
    unit.mkdir(parents=True)
    for name in ("conftest.py", "fakes.py", *tests):
        shutil.copy(ROOT / "tests/unit" / name, unit)
    (folder / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\naddopts = "--import-mode=importlib"\n'
        'filterwarnings = ["error"]\n'
        f'[tool.mutmut]\nsource_paths = ["src"]\nonly_mutate = {list(MUTATED)!r}\n'
        'pytest_add_cli_args_test_selection = ["tests/unit"]\n'
        'also_copy = ["events", "src/grants.toml"]\n'
    )


MUTATED: Final = (
    "src/token_broker/callers.py",
    "src/token_broker/expiry.py",
    "src/token_broker/grants.py",
    "src/token_broker/models.py",
    "src/token_broker/settings.py",
    "src/token_broker/token_store.py",
    "src/token_refresher/credentials.py",
    "src/token_refresher/deadline.py",
    "src/token_refresher/holds.py",
    "src/token_refresher/outcomes.py",
    "src/token_refresher/refresh.py",
    "src/token_refresher/refresh_request.py",
    "src/token_refresher/renewal.py",
    "src/token_refresher/token_endpoint.py",
    "src/token_refresher/validation.py",
    "src/token_vendor/api_event.py",
    "src/token_vendor/vend.py",
)


def environment(folder: Path) -> dict[str, str]:
    """Where the copies are found before what is installed."""
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([str(folder / "src"), str(folder)]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def are_green(folder: Path, tests: Sequence[str]) -> bool:
    """Whether the tests pass; the first that fails ends them."""
    paths = [f"tests/unit/{name}" for name in tests]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *paths]
    ended = subprocess.run(
        command, cwd=folder, env=environment(folder), capture_output=True, check=False
    )
    return ended.returncode == 0
