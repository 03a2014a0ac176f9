"""Warm vends in process: a cached token, logging and metrics on."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.lab import Lab
from benchmarks.results import Row, Turns, percentile


@dataclass(frozen=True, slots=True)
class Warm:
    """The requests of one candidate, in microseconds.

    Attributes:
        cpu: the thread's processor time, which no other process on the machine adds to.
        clock: the time that passed.
        aws_calls: made meanwhile.
    """

    cpu: list[float]
    clock: list[float]
    aws_calls: int


def measure(lab: Lab, rounds: int, requests: int) -> list[Row]:
    """Processes of both in turn, so many requests in each."""
    candidates = {
        "ours": ("token_vendor.app", lab.vendor),
        "peer": ("powertools_handler", lab.peer_built),
    }
    found: dict[str, list[Warm]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, (module, folders) in candidates.items():
            found[name].append(_run(lab, module, folders, requests))
    medians = {name: [percentile(run.cpu, 0.5) for run in runs] for name, runs in found.items()}
    against = Turns(medians["ours"], medians["peer"])
    ours, peer = (_together(found[name]) for name in ("ours", "peer"))
    p50, p99 = percentile(ours.cpu, 0.5), percentile(ours.cpu, 0.99)
    peer_p50, peer_p99 = percentile(peer.cpu, 0.5), percentile(peer.cpu, 0.99)
    passed = f"on the clock {percentile(ours.clock, 0.5):.0f} µs"
    return [
        Row.at_most(
            "p50 against the usual Powertools handler, max_age=60",
            against.ratio,
            0.6,
            "×",
            f"{against.spread}; {p50:.0f} µs : {peer_p50:.0f} µs",
        ),
        Row("p50", figure=f"{p50:.0f} µs", detail=passed),
        Row(
            "p99 against p50",
            figure=f"{p99 / p50:.3g} ×",
            detail=f"p99 {p99:.0f} µs, the peer's {peer_p99:.0f} µs",
        ),
        Row.at_most(
            "AWS calls",
            ours.aws_calls,
            0,
            "calls",
            f"in {len(ours.cpu)} requests; the peer's {peer.aws_calls}",
        ),
    ]


def _together(runs: list[Warm]) -> Warm:
    return Warm(
        cpu=[time for run in runs for time in run.cpu],
        clock=[time for run in runs for time in run.clock],
        aws_calls=sum(run.aws_calls for run in runs),
    )


def _run(lab: Lab, module: str, folders: tuple[Path, ...], requests: int) -> Warm:
    found = lab.child("warm_requests.py", module, lab.event_file, str(requests), *folders)
    cpu, clock, calls = found["cpu"], found["clock"], found["aws_calls"]
    if not isinstance(cpu, list) or not isinstance(clock, list) or not isinstance(calls, int):
        raise TypeError("warm_requests.py printed something else")
    return Warm([ns / 1000 for ns in cpu], [ns / 1000 for ns in clock], calls)
