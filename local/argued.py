"""Findings of the audit's tools, and `argued.toml`: why some of them stay."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

ARGUED: Final = Path(__file__).with_suffix(".toml")


@dataclass(frozen=True, order=True, slots=True, kw_only=True)
class Finding:
    """What a tool has found.

    Attributes:
        tool: which, as in `argued.toml`.
        rule: the tool's own name for it.
        where: a resource's logical id, or a file.
        text: what it says.
    """

    tool: str
    rule: str
    where: str
    text: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is argued by: what the tool says of it may change with the tool."""
        return self.tool, self.rule, self.where


@dataclass(frozen=True, slots=True)
class Argued:
    """The findings that are argued, with the reason of each."""

    reasons: Mapping[tuple[str, str, str], str]

    @classmethod
    def read(cls, file: Path = ARGUED) -> Self:
        """Read `argued.toml`.

        Raises:
            ValueError: an argument has no reason, or one finding is argued twice.
        """
        reasons: dict[tuple[str, str, str], str] = {}
        for entry in tomllib.loads(file.read_text())["argued"]:
            for where in entry["where"]:
                key = (entry["tool"], entry["rule"], where)
                if key in reasons or not entry["reason"].strip():
                    raise ValueError(f"{key}: argued twice, or without a reason")
                reasons[key] = entry["reason"]
        return cls(reasons)

    def unargued(self, findings: Iterable[Finding]) -> list[Finding]:
        """The findings that nobody has argued."""
        return sorted({f for f in findings if f.key not in self.reasons})

    def stale(self, tool: str, findings: Iterable[Finding]) -> list[str]:
        """The arguments for a tool's findings that it does not find any more."""
        found = {finding.key for finding in findings}
        mine = (key for key in self.reasons if key[0] == tool)
        return [" ".join(key) for key in mine if key not in found]
