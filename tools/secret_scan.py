"""What looks like a secret in a file: detect-secrets, with a rule for Enable's own.

Its rules by entropy and by keyword are left out: in a project about secrets they cry all day.
"""

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, cast

from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
from detect_secrets.core.scan import scan_file
from detect_secrets.plugins.base import RegexBasedDetector
from detect_secrets.settings import default_settings, get_plugins, transient_settings

from tools.accepted import AcceptedFindings, Finding

TOOL: Final = "detect-secrets"
UUID: Final = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
CRIES_ALL_DAY: Final = {"Base64HighEntropyString", "HexHighEntropyString", "KeywordDetector"}
PLAIN: Final = {".json", ".md", ".py", ".svg", ".txt"}
"""Files that detect-secrets reads line by line, as they are."""
TAKES_UUIDS_FOR_HARMLESS: Final = "detect_secrets.filters.heuristic.is_potential_uuid"


class ClientSecretDetector(RegexBasedDetector):
    """Enable hands out UUIDs: one of them beside the name that it must never be seen beside."""

    secret_type = "Enable client secret"  # noqa: S105 - what it is called
    denylist = (re.compile(rf"client_secret\W{{1,8}}({UUID})", re.IGNORECASE),)


def secrets_in(files: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """Each file that seems to contain a secret, with the kind of it."""
    with default_settings() as every:
        rules = [{"name": name} for name in every.plugins if name not in CRIES_ALL_DAY]
        filters = [{"path": path} for path in every.filters if path != TAKES_UUIDS_FOR_HARMLESS]
    get_mapping_from_secret_type_to_class.cache_clear()  # it knows no rule but detect-secrets' own
    own = {"name": ClientSecretDetector.__name__, "path": f"file://{Path(__file__).resolve()}"}
    with transient_settings({"plugins_used": [*rules, own], "filters_used": filters}):
        may_match = _quick_check()
        for file in files:
            if file.suffix in PLAIN and not may_match(file.read_text(errors="replace")):
                continue
            for kind in sorted({secret.type for secret in scan_file(str(file))}):
                yield file, kind
    get_mapping_from_secret_type_to_class.cache_clear()


def _quick_check() -> Callable[[str], bool]:
    """Whether a rule matches anywhere in a text; 20 times faster than line by line."""
    rules = [
        re.compile(rule.pattern, rule.flags | re.MULTILINE)
        for plugin in get_plugins()
        for rule in cast("RegexBasedDetector", plugin).denylist
    ]
    return lambda text: any(rule.search(text) for rule in rules)


def main(arguments: list[str]) -> int:
    """Scan files, as the commit hook does; 1 if one of them seems to contain a secret."""
    root = Path(__file__).resolve().parent.parent
    found = AcceptedFindings.read().not_accepted(
        Finding(tool=TOOL, rule=kind, where=str(file.resolve()).removeprefix(f"{root}/"))
        for file, kind in secrets_in(map(Path, arguments))
    )
    for finding in found:
        print(f"{finding.where}: {finding.rule}", file=sys.stderr)
    if found:
        print(
            "take it out, or give in tools/accepted.toml the reason why it is none", file=sys.stderr
        )
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
