"""Refuses a faulty grants.toml at build time: `python -m token_refresher.check_grants [FILE]`."""

import argparse
import json
import sys
import tomllib
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from token_broker.grants import GRANTS_FILE, GrantsFile
from token_refresher.enable.validation import fault_texts

_ADAPTER: Final = TypeAdapter(GrantsFile)
_TOO_DEEP: Final = "nested too deeply"


def faults(toml: str) -> list[str]:
    """What is wrong with a grants file, each fault naming the key it is about.

    Returns:
        Texts such as `grants.deals.scope: Field required`; none if the file is sound.
    """
    try:
        # Strictness differs by input: only as JSON is an array a tuple. A TOML date, which JSON
        # lacks, becomes an object, which no field takes.
        document = json.dumps(tomllib.loads(toml), default=lambda _date: {})
    except ValueError as error:  # a TOMLDecodeError, or a number of thousands of digits
        return [f"not TOML: {error}"]
    except RecursionError:
        return [_TOO_DEEP]
    try:
        _ADAPTER.validate_json(document, strict=True)
    except ValidationError as error:
        # The JSON is our own: its reader gives up on nothing but its depth.
        is_too_deep = error.errors(include_input=False)[0]["type"] == "json_invalid"
        return [_TOO_DEEP] if is_too_deep else fault_texts(error)
    return []


def main() -> int:
    """Check a file; print what is wrong with it.

    Returns:
        The exit code: 0 sound, 1 faulty or unreadable.
    """
    parser = argparse.ArgumentParser(description="Check a grants file as the build does.")
    parser.add_argument("file", nargs="?", type=Path, default=GRANTS_FILE)
    file: Path = parser.parse_args().file
    try:
        found = faults(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        found = [f"cannot be read: {error}"]
    for fault in found:
        print(f"{file.name}: {fault}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
