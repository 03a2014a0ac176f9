"""What is shipped: `make sbom` writes a CycloneDX bill of materials of each artifact, and licences.

The bills are for a scanner and end in dist/; the licences are for a reader: docs/licences.md.
"""

import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any, Final, cast

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "licences.md"
ARTIFACTS: Final = {"SharedLayer": "layer.txt", "TokenRefresherFunction": "refresher.txt"}
"""The artifacts that contain packages of others, and their pins."""

VERSION: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
INTRODUCTION: Final = """# Licences

What is deployed contains these packages of others, unchanged but for the parts that are left out.
Each package's own licence text is in its `dist-info` folder in the artifact. The broker itself is
under the [MIT licence](../LICENSE). `make sbom` writes this page, and for scanners a CycloneDX bill
of materials of each artifact into `dist/`.

| package | version | licence | in |
| --- | --- | --- | --- |
"""


def pinned(pins: str) -> dict[str, str]:
    """Each package of a requirements file, with its version."""
    text = (ROOT / "requirements" / pins).read_text()
    return dict(cast("list[tuple[str, str]]", re.findall(r"(?m)^([a-z0-9._-]+)==([^ ]+)", text)))


def licence(package: str) -> str:
    """What a package, installed here, says that its licence is.

    Raises:
        ValueError: it does not say.
    """
    found = importlib.metadata.metadata(package)
    classified = [
        line.rpartition(" :: ")[2]
        for line in found.get_all("Classifier", [])
        if line.startswith("License :: ") and line.count(" :: ") > 1
    ]
    for names in (found.get_all("License-Expression"), classified, found.get_all("License")):
        if names:
            return ", ".join(names)
    raise ValueError(f"{package} names no licence; look it up, and add it here")


def page() -> str:
    """docs/licences.md, from the pins and the packages' own metadata."""
    rows = sorted(
        f"| {package} | {version} | {licence(package)} | {artifact} |"
        for artifact, pins in ARTIFACTS.items()
        for package, version in pinned(pins).items()
    )
    return INTRODUCTION + "\n".join(rows) + "\n"


def bill(artifact: str) -> dict[str, Any]:
    """The bill of an artifact, the same for the same pins.

    What the tool says of itself is cut to its name and version: it names a package index.
    """
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "bin" / "python"
        uv = [str(Path(sys.executable).parent / "uv")]
        _run(*uv, "venv", "--quiet", "--python", sys.executable, folder)
        install = (
            "pip",
            "sync",
            "--quiet",
            "--require-hashes",
            f"requirements/{ARTIFACTS[artifact]}",
        )
        _run(*uv, *install, "--python", str(python))
        found = _run(
            str(ROOT / ".venv-audit" / "bin" / "cyclonedx-py"),
            *("environment", "--PEP-639", "--output-reproducible"),
            *("--schema-version", "1.6", "--output-format", "JSON", str(python)),
        )
    document = cast("dict[str, Any]", json.loads(found))
    document["metadata"]["component"] = {
        "type": "application",
        "bom-ref": artifact,
        "name": artifact,
        "version": VERSION,
    }
    tools = document["metadata"]["tools"]
    document["metadata"]["tools"] = [
        {key: tool[key] for key in ("vendor", "name", "version") if key in tool} for tool in tools
    ]
    return document


def _run(*command: str) -> str:
    run = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return run.stdout


def write_bills(folder: Path) -> None:
    """Write the bill of each artifact into a folder."""
    for artifact, pins in ARTIFACTS.items():
        file = folder / f"{artifact}.cdx.json"
        file.write_text(json.dumps(bill(artifact), indent=2) + "\n")
        print(f"{file.name}: {len(pinned(pins))} packages")


def main() -> None:
    """Write the page and the bills."""
    PAGE.write_text(page())
    print(PAGE.relative_to(ROOT))
    folder = ROOT / "dist"
    folder.mkdir(exist_ok=True)
    write_bills(folder)


if __name__ == "__main__":
    main()
