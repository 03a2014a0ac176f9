"""Artifacts: what a deployment uploads, zipped as SAM zips it."""

import io
import zipfile
from pathlib import Path
from typing import Final

from benchmarks.lab import Lab
from benchmarks.results import Row

_MEGABYTE: Final = 1_000_000


def measure(lab: Lab) -> list[Row]:
    """Each artifact; the layer has a limit."""
    layer = _zipped(lab.stack.build_folder / "SharedLayer")
    rows = [Row.at_most("shared layer", layer / _MEGABYTE, 12, "MB")]
    for name, folder in {
        "vend function": "TokenVendorFunction",
        "refresh function": "TokenRefresherFunction",
        "client layer": "EnableBrokerClientLayer",
    }.items():
        size = _zipped(lab.stack.build_folder / folder)
        rows.append(Row(name, figure=f"{size / _MEGABYTE:.3g} MB"))
    peer = _zipped(lab.peer_plain[0])
    rows.append(
        Row(
            "vend function and layer against the usual Powertools handler, plain sam build",
            figure=f"{(layer + _zipped(lab.vendor[0])) / peer:.2f} ×",
            detail=f"its zip: {peer / _MEGABYTE:.1f} MB",
        )
    )
    return rows


def _zipped(folder: Path) -> int:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return len(buffer.getvalue())
