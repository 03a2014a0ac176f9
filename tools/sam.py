"""The SAM CLI, as it is installed beside this interpreter."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


class ToolFailed(Exception):
    """`sam` ended with an error or did not end; the message is what it printed last."""


def run_sam(*arguments: str, cwd: Path, environ: Mapping[str, str], seconds: float) -> None:
    """Run it, without a terminal.

    Args:
        arguments: of the command line.
        cwd: where it runs.
        environ: its whole environment, with the account's credentials.
        seconds: how long it may take.

    Raises:
        ToolFailed: with what it printed last.
    """
    sam = Path(sys.executable).parent / "sam"
    path = f"{sam.parent}{os.pathsep}{environ.get('PATH', '')}"
    try:
        run = subprocess.run(
            [sam, *arguments],
            cwd=cwd,
            env={**environ, "PATH": path, "SAM_CLI_TELEMETRY": "0"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ToolFailed(_failure(arguments, f"did not end in {seconds:.0f} s", error)) from None
    if run.returncode:
        raise ToolFailed(_failure(arguments, "failed", run))


def _failure(
    arguments: tuple[str, ...],
    what: str,
    run: subprocess.CompletedProcess[bytes] | subprocess.TimeoutExpired,
) -> str:
    printed = (run.stdout or b"").decode(errors="replace")
    return f"sam {arguments[0]} {what}:\n{printed[-3000:]}"
