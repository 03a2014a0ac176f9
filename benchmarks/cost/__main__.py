"""What a month costs for the grants and vends that the reader names, or as a plot.

`python -m benchmarks.cost --grants 50 --vends 100000` prints the table;
`python -m benchmarks.cost --plot docs/images/cost.svg` draws cost against grants.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

import pygal
from pygal.style import Style
from rich.console import Console
from rich.table import Table

from benchmarks import cost

BROKER: Final = "the broker"
PLOT_GRANTS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500)
COLOURS: Final = ("#1b6ac9", "#c0392b", "#7f8c8d")
PLOT_VENDS: Final = 100_000
"""A month; more or fewer move only the lines of the broker and of API destinations."""


def main() -> int:
    """Print the table, or draw the plot.

    Returns:
        0; argparse ends a wrong call with 2.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cost",
        description=f"USD a month at AWS's list prices, Europe (Ireland), {cost.LISTED_ON}.",
    )
    parser.add_argument("--grants", type=_whole_number, default=4, help="grants (default 4)")
    parser.add_argument("--vends", type=_whole_number, default=0, help="vends a month (default 0)")
    parser.add_argument("--metrics-by-grant", action="store_true", help="MetricsByGrant is true")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw cost against grants: SVG")
    arguments = parser.parse_args()
    if arguments.plot:
        arguments.plot.write_text(plot(), encoding="utf-8")
    else:
        units = cost.broker(
            arguments.grants, arguments.vends, metrics_by_grant=arguments.metrics_by_grant
        )
        Console(highlight=False).print(table(arguments.grants, arguments.vends, units))
    return 0


def table(grants: int, vends: int, units: Mapping[str, float]) -> Table:
    """Each item of the broker with its units, and the totals of the three choices."""
    free, full = cost.usd(units), cost.usd(units, has_allowance=False)
    title = f"{grants:,} grants, {vends:,} vends a month"
    rows = Table("item", "units", "USD", "allowances used up", box=None, title=title)
    for column in rows.columns[1:]:
        column.justify = "right"
    for name in sorted(units, key=lambda name: -full[name]):
        rows.add_row(name, f"{units[name]:,.0f}", f"{free[name]:,.2f}", f"{full[name]:,.2f}")
    rows.add_section()
    for name, items in (_choices(grants, vends) | {BROKER: units}).items():
        totals = [sum(cost.usd(items, has_allowance=has).values()) for has in (True, False)]
        rows.add_row(f"[bold]{name}[/]", "", *(f"[bold]{total:,.2f}[/]" for total in totals))
    return rows


def plot() -> str:
    """Cost against grants for the three choices, as SVG that is the same at each call."""
    chart = pygal.XY(
        title=f"USD a month, {PLOT_VENDS:,} vends, free allowances used up",
        x_title="grants",
        y_title="USD a month",
        logarithmic=True,
        xrange=(PLOT_GRANTS[0], PLOT_GRANTS[-1]),
        x_labels=PLOT_GRANTS,
        y_labels=(0.1, 1, 10, 100, 1_000),
        style=Style(
            background="white",
            plot_background="white",
            colors=COLOURS,
            stroke_width=2,
            guide_stroke_color="#dddddd",
            major_guide_stroke_color="#dddddd",
        ),
        js=(),
        width=900,
        height=500,
        legend_at_bottom=True,
        truncate_legend=-1,
    )
    chart.uuid = "cost"
    chart.add_xml_filter(_without_scripts)
    for name in _choices(1, 1):
        chart.add(name, [(grants, _total(name, grants)) for grants in PLOT_GRANTS])
    return str(chart.render(is_unicode=True, pretty_print=True)) + "\n"


def _without_scripts(root: ET.Element) -> ET.Element:
    """Keep no script and no comment: one names the day on which it was drawn."""
    for parent in list(root.iter()):
        for child in list(parent):
            if not isinstance(child.tag, str) or child.tag == "script":
                parent.remove(child)
    return root


def _choices(grants: int, vends: int) -> dict[str, Mapping[str, float]]:
    return {
        BROKER: cost.broker(grants, vends),
        "a secret in every service": cost.secret_in_every_service(cost.SERVICES_PER_GRANT * grants),
        "API destinations (they give no token)": cost.api_destinations(vends),
    }


def _total(choice: str, grants: int) -> float:
    items = _choices(grants, PLOT_VENDS)[choice]
    return round(sum(cost.usd(items, has_allowance=False).values()), 2)


def _whole_number(text: str) -> int:
    """A number of things, with or without separators of thousands."""
    digits = text.replace(",", "").replace("_", "")
    if not (digits.isascii() and digits.isdigit()):
        raise argparse.ArgumentTypeError("a whole number, such as 500 or 100,000")
    return int(digits)


if __name__ == "__main__":
    raise SystemExit(main())
