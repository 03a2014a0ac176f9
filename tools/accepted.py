"""Findings of the audit's tools, and `accepted.toml`: why some of them stay."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

ACCEPTED: Final = Path(__file__).with_suffix(".toml")


@dataclass(frozen=True, order=True, slots=True, kw_only=True)
class Finding:
    """What a tool has found.

    Attributes:
        tool: which, as in `accepted.toml`.
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
        """What it is accepted by: a tool may change what it says of a finding."""
        return self.tool, self.rule, self.where


@dataclass(frozen=True, slots=True)
class AcceptedFindings:
    """The findings that stay, with the reason of each."""

    reasons: Mapping[tuple[str, str, str], str]

    @classmethod
    def read(cls, file: Path = ACCEPTED) -> Self:
        """Read `accepted.toml`.

        Raises:
            ValueError: an entry has no reason, or a finding is accepted twice.
        """
        reasons: dict[tuple[str, str, str], str] = {}
        for entry in tomllib.loads(file.read_text())["accepted"]:
            for where in entry["where"]:
                key = (entry["tool"], entry["rule"], where)
                if key in reasons or not entry["reason"].strip():
                    raise ValueError(f"{key}: accepted twice, or without a reason")
                reasons[key] = entry["reason"]
        return cls(reasons)

    def not_accepted(self, findings: Iterable[Finding]) -> list[Finding]:
        """The findings that have no entry."""
        return sorted({f for f in findings if f.key not in self.reasons})

    def stale(self, tool: str, findings: Iterable[Finding]) -> list[str]:
        """The entries whose finding the tool does not find any more."""
        found = {finding.key for finding in findings}
        mine = (key for key in self.reasons if key[0] == tool)
        return [" ".join(key) for key in mine if key not in found]
