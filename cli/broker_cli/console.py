"""Where the words go: plain text unless it is a terminal, and nothing a log line could play with.

Results go to standard output; progress, remarks and errors to standard error.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from rich.console import Console, RenderableType

_SPAN = re.compile(r"([0-9]{1,6})([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def is_plain() -> bool:
    """Whether NO_COLOR (no-color.org) asks for text alone."""
    return bool(os.environ.get("NO_COLOR"))


def console(*, stderr: bool = False) -> Console:
    """A console for this moment's standard output or error."""
    return Console(
        stderr=stderr,
        highlight=False,
        markup=False,
        emoji=False,
        force_terminal=False if is_plain() else None,
    )


def say(what: RenderableType = "", *, style: str | None = None, stderr: bool = False) -> None:
    """Print a line, however long, or anything else that rich can draw."""
    console(stderr=stderr).print(what, style=style, soft_wrap=isinstance(what, str))


def say_json(what: object) -> None:
    """Print JSON, as it is, whatever the terminal."""
    console().file.write(json.dumps(what, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def working(text: str) -> Iterator[Callable[[str], None]]:
    """Show a spinner meanwhile, on a terminal only; what it yields changes the text."""
    here = console(stderr=True)
    if not here.is_terminal:
        yield lambda _text: None
        return
    with here.status(text) as spinner:
        yield spinner.update


def printable(text: object) -> str:
    """Text from outside without what a terminal would act on."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))


def span(length: timedelta) -> str:
    """A duration in its two largest units: `1h 05m`, `12m 03s`, `9s`."""
    seconds = max(int(length.total_seconds()), 0)
    for unit, smaller in (("d", "h"), ("h", "m"), ("m", "s")):
        if seconds >= _UNITS[unit]:
            rest = seconds % _UNITS[unit] // _UNITS[smaller]
            return f"{seconds // _UNITS[unit]}{unit} {rest:02d}{smaller}"
    return f"{seconds}s"


def ago(moment: datetime, now: datetime) -> str:
    """When something happened: `9s ago`; `in 30m 00s` if its clock and this one disagree."""
    return f"{span(now - moment)} ago" if moment <= now else f"in {span(moment - now)}"


def parse_span(text: str) -> timedelta:
    """`90s`, `15m`, `1h` or `7d`.

    Raises:
        ValueError: it is none of these.
    """
    found = _SPAN.fullmatch(text.strip())
    if not found or not int(found[1]):
        raise ValueError(f"{printable(text)!r} is not like 90s, 15m, 1h or 7d")
    return timedelta(seconds=int(found[1]) * _UNITS[found[2]])


def clock(moment: datetime, now: datetime) -> str:
    """A moment in UTC, with its date unless that is today's."""
    moment = moment.astimezone(UTC)
    is_today = moment.date() == now.astimezone(UTC).date()
    return moment.strftime("%H:%M:%SZ" if is_today else "%Y-%m-%d %H:%M:%SZ")
