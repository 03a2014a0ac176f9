"""`make pictures`: docs/images of the demo and of `broker status`, from what they really print.

A picture is an SVG of text, with no font and no script from elsewhere.
"""

import io
import re
import sys
from collections import defaultdict
from datetime import UTC, datetime
from html import unescape
from pathlib import Path
from typing import Final

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console, RenderableType
from rich.padding import Padding

from broker_cli.aws import Stack
from broker_cli.render import StatusView
from broker_cli.status import look
from local.broker_stack import ROOT, STACK_NAME
from local.demo import Demo

IMAGES: Final = ROOT / "docs" / "images"
DEMO: Final = IMAGES / "demo.svg"
STATUS: Final = IMAGES / "status.svg"
_WIDTH: Final = 88
_FORMAT: Final = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
_FONT: Final = "ui-monospace, Menlo, Consolas, monospace"
_TEXT: Final = re.compile(r'<text class="[^"]*-r\d+" x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]*)</text>')


def new_console() -> Console:
    """A console that remembers what is printed on it, in colour."""
    return Console(
        file=io.StringIO(), record=True, width=_WIDTH, color_system="truecolor", highlight=False
    )


def svg(console: Console, title: str) -> str:
    """What was printed on a console, as a picture."""
    drawn = console.export_svg(title=title, code_format=_FORMAT, unique_id=title.replace(" ", "-"))
    return drawn.replace("Fira Code, monospace", _FONT).replace("font-family: arial", _FONT)


def lines(picture: Path) -> list[str]:
    """The lines of text in a picture, as `comparable` gives them."""
    found: dict[float, list[tuple[float, str]]] = defaultdict(list)
    for x, y, text in _TEXT.findall(picture.read_text(encoding="utf-8")):
        found[float(y)].append((float(x), unescape(text)))
    rows = ("".join(text for _, text in sorted(found[y])) for y in sorted(found))
    return [line for row in rows if (line := comparable(row))]


def comparable(line: str) -> str:
    """A printed line without what differs from run to run: numbers and gaps."""
    return re.sub(r"(?:[\d.]*\d[dhms]?)+", "0", re.sub(r"\s+", "", line))


def status_view(stack: Stack) -> RenderableType:
    """One frame of `broker status --watch`."""
    rows = look(stack)
    return Padding(StatusView(title=STACK_NAME, rows=rows, now=datetime.now(UTC)), (1, 2))


def main() -> int:
    """Play the demo and draw it: 0, or 1 if it did not go as expected."""
    shown = new_console()
    demo = Demo(shown)
    with demo.cloud() as cloud:
        if not demo.play(cloud):
            print("the demo did not go as expected; see `make demo`", file=sys.stderr)
            return 1
        status = new_console()
        status.print(status_view(Stack.open(STACK_NAME, cloud.stack.administrator)))
    IMAGES.mkdir(exist_ok=True)
    DEMO.write_text(svg(shown, "make demo"), encoding="utf-8")
    STATUS.write_text(svg(status, "broker status --watch"), encoding="utf-8")
    print(f"{DEMO.relative_to(ROOT)}, {STATUS.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
