"""`sam` in forks of one process that has imported it.

An import of the SAM CLI takes more than a second of processor time, and each deployment and each
deletion of the tests began with one.
"""

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tools.sam import failure, late, sam_environ

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        "samcli.cli.main",
        "samcli.commands.build.build_context",
        "samcli.commands.deploy.deploy_context",
        "samcli.commands.package.package_context",
        "samcli.commands.delete.delete_context",
        "samtranslator.translator.transform",
    ]
)


def run_forked_sam(*arguments: str, cwd: Path, environ: Mapping[str, str], seconds: float) -> None:
    """In the place of `tools.sam.run_sam`."""
    with tempfile.NamedTemporaryFile() as printed:
        settings = (arguments, cwd, sam_environ(environ), printed.name)
        fork = _FORKS.Process(target=_sam, args=settings)
        fork.start()
        try:
            fork.join(seconds)
            is_late = fork.is_alive()
        finally:
            fork.kill()
            fork.join()
        if fork.exitcode:
            raise failure(arguments, late(seconds) if is_late else "failed", printed.read())


def _sam(arguments: tuple[str, ...], cwd: Path, environ: dict[str, str], printed: str) -> None:
    from samcli.cli.main import cli  # noqa: PLC0415

    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environ)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(os.open(printed, os.O_WRONLY | os.O_APPEND), stream.fileno())
    cli([str(argument) for argument in arguments], prog_name="sam")
