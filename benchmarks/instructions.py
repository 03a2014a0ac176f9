"""Instructions that a fresh process executes, as valgrind's callgrind counts them.

No other work of the machine adds to them: two counts of a start differ by less than 0.2 %.
"""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from benchmarks.lab import Lab
from benchmarks.results import Row

VALGRIND: Final = shutil.which("valgrind")

VEND_LIMIT: Final = 0.65
"""Of the floor: 0.63 when it was last looked at, and a new botocore moves both."""

REFRESH_LIMIT: Final = 1.2


def rows(lab: Lab) -> list[Row]:
    """Both starts against their floors; what the interpreter executes before is in none of them."""
    if VALGRIND is None:
        return [Row("instructions", figure="not counted", detail="install valgrind")]
    bare = count(lab, "bare.py")
    return [
        _row("vend", vend_starts(lab), bare, count_in=lab, limit=VEND_LIMIT),
        _row("refresh", refresh_starts(lab), bare, count_in=lab, limit=REFRESH_LIMIT),
    ]


def _row(
    what: str,
    starts: Mapping[str, tuple[str | Path, ...]],
    bare: int,
    *,
    count_in: Lab,
    limit: float,
) -> Row:
    ours, floor = (count(count_in, *starts[name]) - bare for name in ("ours", "floor"))
    detail = f"{ours / 1e6:.0f} million : {floor / 1e6:.0f} million"
    return Row.at_most(f"{what}, against its floor", ours / floor, limit, "×", detail)


def vend_starts(lab: Lab) -> Mapping[str, tuple[str | Path, ...]]:
    """The script and arguments of both starts."""
    return {
        "ours": ("cold_start.py", "token_vendor.app", lab.event_file, *lab.vendor),
        "floor": ("floor_vend.py", *lab.floor),
    }


def refresh_starts(lab: Lab) -> Mapping[str, tuple[str | Path, ...]]:
    """The script and arguments of both starts, which renew one grant."""
    event = lab.folder / "force.json"
    event.write_text('{"force": true, "grants": ["deals"]}', encoding="utf-8")
    return {
        "ours": ("cold_start.py", "token_refresher.app", event, *lab.refresher),
        "floor": ("floor_refresh.py", *lab.floor),
    }


def count(lab: Lab, script: str | Path, *arguments: str | Path) -> int:
    """Of one run of a script of `children/`.

    Raises:
        RuntimeError: the script failed, or valgrind is missing or printed no count.
    """
    if VALGRIND is None:
        raise RuntimeError("valgrind is not installed: install it to count instructions")
    tool = (VALGRIND, "--tool=callgrind", "--callgrind-out-file=/dev/null")
    printed = lab.run(str(script), *arguments, under=tool).stderr
    if not (found := re.search(r"Collected *: *(\d+)", printed)):
        raise RuntimeError(f"valgrind printed no count: {printed[-500:]}")
    return int(found[1])
