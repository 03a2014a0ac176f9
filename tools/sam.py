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
    try:
        run = subprocess.run(
            [Path(sys.executable).parent / "sam", *arguments],
            cwd=cwd,
            env=sam_environ(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise failure(arguments, late(seconds), error.stdout) from None
    if run.returncode:
        raise failure(arguments, "failed", run.stdout)


def sam_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """With the tools beside `sam` on the path, and without its telemetry."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{environ.get('PATH', '')}"
    return {**environ, "PATH": path, "SAM_CLI_TELEMETRY": "0"}


def late(seconds: float) -> str:
    """What is wrong with a run that lasted longer."""
    return f"did not end in {seconds:.0f} s"


def failure(arguments: tuple[str, ...], what: str, printed: bytes | None) -> ToolFailed:
    """The error of a run, with the end of what it printed."""
    end = (printed or b"").decode(errors="replace")[-3000:]
    return ToolFailed(f"sam {arguments[0]} {what}:\n{end}")
