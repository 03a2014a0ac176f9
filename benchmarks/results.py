"""Rows of the table, and what each must reach."""

from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Self

from rich.table import Table


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        what: what was measured.
        figure: the ratio, or what takes its place.
        must: the limit in words; empty where there is none.
        is_reached: whether the limit is kept; None where there is none.
        detail: the absolute figures, of this run on this machine alone.
    """

    what: str
    _: KW_ONLY
    figure: str
    must: str = ""
    is_reached: bool | None = None
    detail: str = ""

    @classmethod
    def at_most(cls, what: str, value: float, limit: float, unit: str, detail: str = "") -> Self:
        """A figure that must not be larger."""
        return cls(
            what,
            figure=f"{value:.3g} {unit}",
            must=f"≤ {limit:g}",
            is_reached=value <= limit,
            detail=detail,
        )

    @classmethod
    def at_least(cls, what: str, value: float, limit: float, unit: str, detail: str = "") -> Self:
        """A figure that must not be smaller."""
        return cls(
            what,
            figure=f"{value:.3g} {unit}",
            must=f"≥ {limit:g}",
            is_reached=value >= limit,
            detail=detail,
        )

    @property
    def mark(self) -> str:
        """Reached, not reached, or neither."""
        return {True: "✓", False: "✗", None: " "}[self.is_reached]


def percentile(values: Iterable[float], share: float) -> float:
    """The value that this share of all is not larger than."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


@dataclass(frozen=True, slots=True)
class Turns:
    """Processor times of two candidates that took turns.

    Attributes:
        ours: of the runs of one candidate.
        theirs: of the other's, as many.
    """

    ours: Sequence[float]
    theirs: Sequence[float]

    @property
    def ratio(self) -> float:
        """What is judged: the least of each, to which other work of the machine added least."""
        return min(self.ours) / min(self.theirs)

    @property
    def spread(self) -> str:
        """The least and the largest ratio of the pairs, in words."""
        ratios = [one / other for one, other in zip(self.ours, self.theirs, strict=True)]
        return f"pairs {min(ratios):.3g} to {max(ratios):.3g}"


def as_table(sections: Iterable[tuple[str, Sequence[Row]]]) -> Table:
    """All rows, for a terminal."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True, min_width=1)
    for heading in ("what", "measured", "must reach", "in this run, on this machine"):
        table.add_column(heading)
    colours = {True: "green", False: "red", None: "dim"}
    for title, rows in sections:
        table.add_row("", f"[bold]{title}[/]")
        for row in rows:
            mark = f"[{colours[row.is_reached]}]{row.mark}[/]"
            table.add_row(mark, row.what, row.figure, row.must, f"[dim]{row.detail}[/]")
    return table


def as_markdown(sections: Iterable[tuple[str, Sequence[Row]]]) -> str:
    """All rows, for README.md."""
    lines = ["| | what | measured | must reach | in that run |", "| - | - | - | - | - |"]
    for title, rows in sections:
        lines.append(f"| | **{title}** | | | |")
        lines += [
            f"| {row.mark.strip()} | {row.what} | {row.figure} | {row.must} | {row.detail} |"
            for row in rows
        ]
    return "\n".join(lines) + "\n"
