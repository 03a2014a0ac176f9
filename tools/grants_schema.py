"""`make grants-schema`: docs/grants.schema.json, by which editors check grants.toml.

Keys, types and defaults are the model's, descriptions its docstrings', patterns those that the
functions check. What spans tables (a connection that no table names, `mode` without `callers`)
only `broker grants check` finds.
"""

import inspect
import json
import re
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter

from token_broker import callers, grants, models

ROOT: Final = Path(__file__).resolve().parent.parent
FILE: Final = ROOT / "docs" / "grants.schema.json"


def _pattern(python: re.Pattern[str]) -> str:
    """A pattern for the whole text, as ECMAScript reads it: its names of groups are others."""
    return f"^({re.sub(r'\?P<\w+>', '', python.pattern)})$"


_NON_EMPTY: Final[dict[str, Any]] = {"minItems": 1}
_MORE: Final[dict[tuple[str, str], dict[str, Any]]] = {
    ("Grant", "scope"): _NON_EMPTY | {"uniqueItems": True},
    ("Grant", "callers"): _NON_EMPTY,
    ("Connection", "token_url"): {"pattern": _pattern(grants._TOKEN_URL)},
}
_ITEMS: Final = {
    "scope": _pattern(models._SCOPE_TOKEN),
    "callers": _pattern(callers._PATTERN),
}


def document() -> dict[str, Any]:
    """The schema, in JSON Schema 2020-12."""
    schema = TypeAdapter(grants.GrantsFile).json_schema()
    for name in ("Grant", "Connection"):
        _describe(schema["$defs"][name], getattr(grants, name))
    for name, table in schema["properties"].items():
        table["propertyNames"] = {"pattern": _pattern(grants._NAME)}
        table["description"] = schema["$defs"][name.removesuffix("s").title()]["description"]
    schema["properties"]["grants"]["minProperties"] = 1
    schema |= {"title": "grants.toml", "description": "The grants of an Enable token broker."}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _describe(schema: dict[str, Any], model: type) -> None:
    """Put the docstring's sentences and the patterns where editors show and check them."""
    summary, attributes = _docstring(model)
    schema["description"] = summary
    for name, values in schema["properties"].items():
        if "anyOf" in values:  # TOML has no null
            values.update(values.pop("anyOf")[0])
            del values["default"]
        if name in _ITEMS:
            values["items"]["pattern"] = _ITEMS[name]
        values.update(_MORE.get((model.__name__, name), {}))
        values.pop("title")
        if name in attributes:
            values["description"] = attributes[name]


def _docstring(model: type) -> tuple[str, dict[str, str]]:
    """The first sentence of a model's docstring, and what it says of each attribute."""
    text = inspect.cleandoc(model.__doc__ or "")
    section = text.partition("Attributes:\n")[2].partition("\n\n")[0]
    found = re.findall(r"^    (\w+): ((?:.|\n {8})+)", section, re.MULTILINE)
    attributes = {name: " ".join(about.split()) for name, about in found}
    return text.partition("\n")[0], attributes


def text() -> str:
    """What docs/grants.schema.json contains."""
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
    print(f"wrote {FILE.relative_to(ROOT)}")
