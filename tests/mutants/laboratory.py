"""A copy of the packages and their unit tests in a temporary folder, to be spoilt there."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
_ENDLESS_SECONDS: Final = 300
"""A mutant may wait for ever; the tests of one take seconds, those of all a minute."""

PACKAGES: Final = (
    "layers/shared/token_broker",
    "functions/token_refresher/token_refresher",
    "functions/token_vendor/token_vendor",
    "clients/python/enable_broker_client",
)


def copy_to(folder: Path, tests: Sequence[str], settings: str = "") -> None:
    """Lay out `src/` with the packages side by side, and `tests/unit` with some of its files.

    Args:
        folder: where to; empty.
        tests: paths of test files below `tests/unit`.
        settings: more for `pyproject.toml`.
    """
    source = folder / "src"
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package,
            source / Path(package).name,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    shutil.copy(ROOT / "layers/grants/grants.toml", source)
    shutil.copytree(ROOT / "events", folder / "events")
    unit = folder / "tests/unit"
    for name in ("conftest.py", "fakes.py", *tests):
        (unit / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "tests/unit" / name, unit / name)
    (folder / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\naddopts = "--import-mode=importlib"\n'
        f'filterwarnings = ["error"]\n{settings}'
    )


def environment(folder: Path) -> dict[str, str]:
    """Where the copies are found before what is installed, and what tests share after them."""
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([str(folder / "src"), str(folder), str(ROOT)]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def are_green(folder: Path, tests: Sequence[str]) -> bool:
    """Whether the tests pass; the first that fails, or that never ends, ends them."""
    paths = [f"tests/unit/{name}" for name in tests]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *paths]
    try:
        ended = subprocess.run(
            command,
            cwd=folder,
            env=environment(folder),
            capture_output=True,
            check=False,
            timeout=_ENDLESS_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return False
    return ended.returncode == 0
