"""Whatever ends a run, nothing that it started outlives it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from local.broker_stack import ROOT, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

RUN_UNTIL_ENDED = """
import time
from local.embedded_aws import EmbeddedAws
with EmbeddedAws() as aws:
    print(aws.folder, flush=True)
    time.sleep(600)
"""


def _processes_with(text: str) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if text in (process / "environ").read_bytes().decode(errors="replace"):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def _start(*command: str, tmp: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_embedded_aws_ends_with_the_process_that_started_it(tmp_path: Path, how: signal.Signals):
    with _start("-c", RUN_UNTIL_ENDED, tmp=tmp_path) as process:
        folder = process.stdout.readline().strip()
        assert _processes_with(f"HOME={folder}")
        process.send_signal(how)
        process.wait(20)
        wait_until(
            lambda: not _processes_with(f"HOME={folder}"), seconds=30, what="the server to end"
        )


def test_demo_ends_in_order_on_ctrl_c(tmp_path: Path):
    with _start("-m", "local.demo", tmp=tmp_path) as process:
        wait_until(
            lambda: bool(_processes_with(f"HOME={tmp_path}/embedded-aws")),
            seconds=60,
            what="the embedded AWS",
        )
        time.sleep(2)  # half-way: in the middle of sam build
        os.killpg(process.pid, signal.SIGINT)
        output = process.communicate(timeout=60)[0]
    assert process.returncode == 130
    assert "nothing is left running" in output
    wait_until(lambda: not _processes_with(str(tmp_path)), seconds=30, what="the processes to end")
    assert not list(tmp_path.glob("embedded-aws-*"))
