"""`make up` and `make down`: the deployed broker, kept running for people who build callers."""

import argparse
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import asdict, dataclass
from types import FrameType
from typing import Final, Self

from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console

from local.broker_stack import ROOT, BrokerStack, ToolFailed, wait_until
from local.callers import create_user
from local.embedded_aws import REGION, EmbeddedAws, EmbeddedAwsFailed
from local.enable_stand_in import Client, EnableStandIn
from token_broker.grants import load_grants

STATE_FOLDER: Final = ROOT / ".local"
STATE_FILE: Final = STATE_FOLDER / "up.json"
LOG_FILE: Final = STATE_FOLDER / "up.log"
START_TIMEOUT_SECONDS: Final = 180.0
STOP_TIMEOUT_SECONDS: Final = 20.0
MINUTE_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """What runs, as `.local/up.json` keeps it. All of it is of this machine alone."""

    pid: int
    endpoint_url: str
    enable_url: str
    token_url: str
    host: str
    account: str
    access_key_id: str
    secret_access_key: str

    @classmethod
    def read(cls) -> Self | None:
        """What runs now; None if nothing does."""
        try:
            running = cls(**json.loads(STATE_FILE.read_text(encoding="utf-8")))
            os.kill(running.pid, 0)
        except (OSError, ValueError, TypeError):
            return None
        return running

    def write(self) -> None:
        """Keep it for `make down`, readable by this user alone."""
        partial = STATE_FILE.with_suffix(".partial")
        partial.touch(mode=0o600)
        partial.write_text(json.dumps(asdict(self), indent=2), encoding="utf-8")
        partial.replace(STATE_FILE)

    def explain(self) -> str:
        """How to call it, every line as it can be pasted."""
        url = f"{self.endpoint_url}/v1/tokens/deals"
        signed = f'--aws-sigv4 "aws:amz:{REGION}:execute-api"'
        user = f'--user "{self.access_key_id}:{self.secret_access_key}"'
        return f"""
The token API      {self.endpoint_url}/v1   with the header   Host: {self.host}
The Enable API     {self.enable_url}/v1/deals
A caller that IAM allows GET /tokens/*:
  AWS_ACCESS_KEY_ID={self.access_key_id}
  AWS_SECRET_ACCESS_KEY={self.secret_access_key}

Get a token:
  curl -s {signed} {user} -H "Host: {self.host}" {url}

Everything of AWS is at {self.endpoint_url}; account {self.account}'s administrator is
  AWS_ENDPOINT_URL={self.endpoint_url} AWS_ACCESS_KEY_ID={self.account} \
AWS_SECRET_ACCESS_KEY=any AWS_REGION={REGION}

`make down` ends it.
"""


def serve() -> None:
    """The background process: brings everything up, then waits for SIGTERM."""
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, on_signal)
    client = Client(
        client_id=str(uuid.uuid4()),
        client_secret=secrets.token_urlsafe(32),
        dealtrack_registration_id=str(uuid.uuid4()),
    )
    try:
        with (
            EnableStandIn(client) as enable,
            EmbeddedAws(schedule_minute_seconds=MINUTE_SECONDS) as aws,
        ):
            _bring_up(aws, enable, client).write()
            print("up", flush=True)
            stop.wait()
    except KeyboardInterrupt:
        print("down", flush=True)
    finally:
        STATE_FILE.unlink(missing_ok=True)


def _bring_up(aws: EmbeddedAws, enable: EnableStandIn, client: Client) -> Running:
    stack = BrokerStack(aws)
    print("sam build", flush=True)
    stack.build()
    print("sam deploy", flush=True)
    stack.deploy(TokenUrl=enable.token_url)
    stack.store_secret(client)
    caller = create_user(stack.administrator, "example-caller", stack.api.policy("/tokens/*"))
    print("waiting for the schedule to renew all grants", flush=True)
    wait_until(
        lambda: all(stack.stored_since(grant) for grant in load_grants()),
        seconds=6 * MINUTE_SECONDS,
        what="the schedule to renew all grants",
    )
    return Running(
        pid=os.getpid(),
        endpoint_url=aws.endpoint_url,
        enable_url=enable.url,
        token_url=enable.token_url,
        host=stack.api.host,
        account=stack.account,
        access_key_id=caller.access_key,
        secret_access_key=caller.secret_key,
    )


def up(console: Console) -> int:
    """Start the background process and wait until it is ready.

    Returns:
        The exit code: 0 up, 1 not.
    """
    if running := Running.read():
        console.print("It runs already.", running.explain(), soft_wrap=True)
        return 0
    STATE_FOLDER.mkdir(exist_ok=True)
    with LOG_FILE.open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "local.up", "--serve"],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        with console.status("starting") as status:
            deadline = time.monotonic() + START_TIMEOUT_SECONDS
            while not (running := Running.read()):
                if child.poll() is not None or time.monotonic() > deadline:
                    break
                status.update((_log_lines() or ["starting"])[-1])
                time.sleep(0.2)
    except KeyboardInterrupt:
        _end(child.pid)
        console.print("stopped; nothing is left running")
        return 130
    if running is None:
        _end(child.pid)
        print(f"it did not come up; {LOG_FILE.relative_to(ROOT)} ends with:", file=sys.stderr)
        print("\n".join(_log_lines()[-20:]), file=sys.stderr)
        return 1
    console.print(running.explain(), soft_wrap=True)
    return 0


def down(console: Console) -> int:
    """End what `up` started.

    Returns:
        The exit code: 0 whether or not anything ran.
    """
    running = Running.read()
    if running is None:
        console.print("nothing is up")
        return 0
    _end(running.pid)
    console.print("down")
    return 0


def _end(pid: int) -> None:
    """End a background process by its id, and wait until it has cleaned up."""
    try:
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not _is_alive(pid), seconds=STOP_TIMEOUT_SECONDS, what="the end")
    except ProcessLookupError:
        return
    except TimeoutError:
        os.kill(pid, signal.SIGKILL)


def _is_alive(pid: int) -> bool:
    try:
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            return False
    except ChildProcessError:
        pass  # started by another `make up`
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _log_lines() -> list[str]:
    return LOG_FILE.read_text(errors="replace").splitlines()


def main() -> int:
    """Run `up`, `down` or the background process.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--down", action="store_true", help="end what is up")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    console = Console(highlight=False, markup=False)
    if arguments.serve:
        try:
            serve()
        except (ToolFailed, EmbeddedAwsFailed, TimeoutError, ClientError, BotoCoreError) as error:
            print(error)
            return 1
        return 0
    return down(console) if arguments.down else up(console)


if __name__ == "__main__":
    raise SystemExit(main())
