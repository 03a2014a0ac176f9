"""Cuts botocore's data down to what the functions call: half of a client's start is reading it.

Called by the Makefile on a layer that is being built, never on an installed botocore:
`python -m tools.prune_botocore FOLDER`. A call that is missing in OPERATIONS fails in the
deployed tests, as `AttributeError: 'SSM' object has no attribute …`.
"""

import gzip
import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

OPERATIONS: Final[Mapping[str, frozenset[str]]] = {
    "lambda": frozenset({"Invoke"}),
    "secretsmanager": frozenset({"GetSecretValue"}),
    "ssm": frozenset({"GetParameter", "GetParameters", "PutParameter"}),
}
"""What the functions call, by service as botocore names it."""

type Document = dict[str, Any]


def prune(data: Path) -> None:
    """Cut down a `botocore/data` folder, in place.

    Raises:
        KeyError: botocore does not know one of OPERATIONS.
    """
    for folder in filter(Path.is_dir, list(data.iterdir())):
        if folder.name not in OPERATIONS:
            shutil.rmtree(folder)
            continue
        *older, version = sorted(folder.iterdir())
        for other in older:
            shutil.rmtree(other)
        for file in version.iterdir():
            if not file.name.startswith(("service-2.", "endpoint-rule-set-1.")):
                file.unlink()
        packed = version / "service-2.json.gz"
        model = json.loads(gzip.decompress(packed.read_bytes()))
        _write(version / "service-2.json", _pruned_model(model, OPERATIONS[folder.name]))
        packed.unlink()
    endpoints = json.loads((data / "endpoints.json").read_bytes())
    for partition in endpoints["partitions"]:
        known = partition["services"]
        partition["services"] = {name: known[name] for name in OPERATIONS if name in known}
    _write(data / "endpoints.json", endpoints)


def _pruned_model(model: Document, operations: frozenset[str]) -> Document:
    """A service's model with only these operations, and the shapes that they mention."""
    kept = {name: model["operations"][name] for name in sorted(operations)}
    needed: set[str] = set()
    found = set(_mentioned(kept))
    while found:
        needed |= found
        found = {name for f in found for name in _mentioned(model["shapes"][f])} - needed
    shapes = {name: shape for name, shape in model["shapes"].items() if name in needed}
    return {
        **model,
        "operations": {name: _undocumented(operation) for name, operation in kept.items()},
        "shapes": {name: _undocumented(shape) for name, shape in shapes.items()},
    }


def _undocumented(node: Any) -> Any:
    """A part of a model without its documentation, which only botocore's docstrings show."""
    if isinstance(node, list):
        return [_undocumented(item) for item in node]
    if isinstance(node, dict):
        return {
            key: _undocumented(value)
            for key, value in node.items()
            if not (key == "documentation" and isinstance(value, str))
        }
    return node


def _mentioned(node: object) -> Iterator[str]:
    """The names behind every `shape` key below a part of a model."""
    if isinstance(node, list):
        for item in node:
            yield from _mentioned(item)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key == "shape" and isinstance(value, str):
                yield value
            else:
                yield from _mentioned(value)


def _write(file: Path, document: Document) -> None:
    file.write_text(json.dumps(document, separators=(",", ":")), encoding="utf-8")


if __name__ == "__main__":
    prune(Path(sys.argv[1]))
