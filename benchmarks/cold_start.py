"""Cold starts: fresh processes in turn, until the first token is served or stored.

The limits are on processor time, pair by pair; the time on the clock stands beside it. The
instructions of both starts are counted in `benchmarks/instructions.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks import instructions
from benchmarks.lab import Lab
from benchmarks.results import Row, Turns

REFRESH_LIMIT: Final = 2.0
"""1.05 to 1.68 beside other work; the instructions have the narrow limit."""

_UNMEASURED: Final = 1
"""Rounds that only bring the files into the page cache."""


@dataclass(frozen=True, slots=True)
class Start:
    """One cold start.

    Attributes:
        seconds: from the interpreter's first line to the response.
        cpu_seconds: the processor time of it.
    """

    seconds: float
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class Starts:
    """The cold starts of one candidate, in the order in which they took turns."""

    starts: Sequence[Start]

    def compared_with(self, other: "Starts") -> Turns:
        """The ratios of processor time."""
        return Turns([s.cpu_seconds for s in self.starts], [s.cpu_seconds for s in other.starts])

    def versus(self, other: "Starts") -> str:
        """The spread, and both medians on the clock in milliseconds."""
        mine, its = (median(s.seconds for s in starts.starts) for starts in (self, other))
        spread = self.compared_with(other).spread
        return f"{spread}; on the clock {mine * 1000:.0f} ms : {its * 1000:.0f} ms"


type Candidate = Callable[[], Mapping[str, object]]


def take_turns(candidates: Mapping[str, Candidate], rounds: int) -> dict[str, Starts]:
    """So many cold starts of each candidate, one after the other, and again."""
    found: dict[str, list[Start]] = {name: [] for name in candidates}
    for number in range(_UNMEASURED + rounds):
        for name, run in candidates.items():
            response = run()
            if number >= _UNMEASURED:
                seconds, cpu = response["seconds"], response["cpu_seconds"]
                found[name].append(Start(float(str(seconds)), float(str(cpu))))
    return {name: Starts(starts) for name, starts in found.items()}


def measure_vend(lab: Lab, rounds: int) -> list[Row]:
    """Until the first token has been served."""

    def vend(module: str, folders: tuple[Path, ...]) -> Candidate:
        return lambda: lab.child("cold_start.py", module, lab.event_file, *folders)

    found = take_turns(
        {
            "floor": lambda: lab.child("floor_vend.py", *lab.floor),
            "ours": vend("token_vendor.app", lab.vendor),
            "peer built": vend("powertools_handler", lab.peer_built),
            "peer plain": vend("powertools_handler", lab.peer_plain),
        },
        rounds,
    )
    limits = {
        "floor": (1.0, "only boto3, the ssm client and the parameter"),
        "peer plain": (0.3, "the usual Powertools handler, plain sam build"),
        "peer built": (0.8, "the usual Powertools handler, our build"),
    }
    rows = [
        Row.at_most(
            f"against {who}",
            found["ours"].compared_with(found[name]).ratio,
            limit,
            "×",
            found["ours"].versus(found[name]),
        )
        for name, (limit, who) in limits.items()
    ]
    usual = found["peer plain"].compared_with(found["peer built"]).ratio
    rows.append(
        Row(
            "what plain sam build costs the usual handler",
            figure=f"{usual:.2f} ×",
            detail=found["peer plain"].versus(found["peer built"]),
        )
    )
    return rows


def measure_refresh(lab: Lab, rounds: int) -> list[Row]:
    """Until the first renewal has been stored."""
    starts = instructions.refresh_starts(lab)
    found = take_turns(
        {
            "floor": lambda: lab.child(*map(str, starts["floor"])),
            "ours": lambda: lab.child(*map(str, starts["ours"])),
        },
        rounds,
    )
    return [
        Row.at_most(
            "against only boto3 (ssm, secretsmanager) and urllib3, the same calls",
            found["ours"].compared_with(found["floor"]).ratio,
            REFRESH_LIMIT,
            "×",
            found["ours"].versus(found["floor"]),
        )
    ]
