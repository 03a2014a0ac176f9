"""Zip files of which the same content gives the same bytes, on any machine."""

import io
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
_UNIX: Final = 3
_READABLE_FILE: Final = 0o100644 << 16


def zipped(files: Iterable[tuple[str, bytes]]) -> bytes:
    """A zip file of these files, in this order, all with one time and one mode.

    They are stored, not deflated: the bytes of a deflated file depend on the version of zlib.

    Args:
        files: name and content of each.
    """
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files:
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.create_system = _UNIX
            entry.external_attr = _READABLE_FILE
            archive.writestr(entry, data)
    return content.getvalue()


def files_of(folder: Path) -> list[tuple[str, bytes]]:
    """Name and content of each file below a folder, sorted by name."""
    return sorted(
        (file.relative_to(folder).as_posix(), file.read_bytes())
        for file in folder.rglob("*")
        if file.is_file()
    )
