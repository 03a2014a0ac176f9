"""`make up` and `make down`: the deployed broker, kept running for people who build callers."""

import argparse
import json
import os
import secrets
import shlex
import signal
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Final, Self

from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console

from broker_cli.console import is_plain
from local.broker_stack import ROOT, BrokerStack, wait_until
from local.callers import create_user
from local.embedded_aws import REGION, EmbeddedAws, EmbeddedAwsFailed
from local.fake_enable import Client, FakeEnable
from token_broker.grants import load_grants
from tools.sam import ToolFailed

STATE_FOLDER: Final = ROOT / ".local"
STATE_FILE: Final = STATE_FOLDER / "up.json"
LOG_FILE: Final = STATE_FOLDER / "up.log"
OPERATOR_FILE: Final = STATE_FOLDER / "operator.env"
CALLER_FILE: Final = STATE_FOLDER / "caller.env"
CREDENTIALS_FILE: Final = STATE_FOLDER / "enable.json"
START_TIMEOUT_SECONDS: Final = 180.0
STOP_TIMEOUT_SECONDS: Final = 20.0
MINUTE_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """What runs, as `.local/up.json` keeps it. All of it is of this machine alone."""

    pid: int
    endpoint_url: str
    enable_url: str
    token_api_url: str
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

    def write(self, client: Client) -> None:
        """Keep it for `make down`, and beside it what people need."""
        for file, environment in self.environments().items():
            _write(file, _sourced(environment))
        _write(CREDENTIALS_FILE, client.secret_json())
        _write(STATE_FILE, json.dumps(asdict(self), indent=2))

    def explain(self) -> str:
        """What a person needs next; no credential is shown, the files contain them."""
        return f"""
The broker is up, in an embedded AWS at {self.endpoint_url}. In a shell in this folder:

  . .local/operator.env    makes you the account's administrator: for broker, sam, aws, boto3
  . .local/caller.env      a caller whom IAM allows all: for the client and docs/callers.md

The token API      {self.endpoint_url}/v1   with the header   Host: {self.host}
The Enable API     {self.enable_url}/v1/deals
Its credentials    .local/enable.json

docs/operate.md is an hour with it. `make down` ends it and removes all of this.
"""

    def environments(self) -> dict[Path, dict[str, str]]:
        """What each of the files to be sourced sets, by file."""
        common = {"AWS_ENDPOINT_URL": self.endpoint_url, "AWS_DEFAULT_REGION": REGION}
        return {
            OPERATOR_FILE: common
            | {"AWS_ACCESS_KEY_ID": self.account, "AWS_SECRET_ACCESS_KEY": "any"},
            CALLER_FILE: common
            | {
                "AWS_ACCESS_KEY_ID": self.access_key_id,
                "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
                "BROKER_URL": self.token_api_url,
                "TOKEN_API_URL": f"{self.endpoint_url}/v1",
                "TOKEN_API_HOST": self.host,
                "ENABLE_URL": self.enable_url,
            },
        }


def _write(file: Path, text: str) -> None:
    """Write a file, whole or not at all, readable by this user alone."""
    partial = file.with_suffix(".partial")
    partial.touch(mode=0o600)
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)


def _sourced(environment: dict[str, str]) -> str:
    """A file for a shell to source; what would win over it or spoil it is unset."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    return "\n".join(["unset AWS_PROFILE AWS_REGION AWS_SESSION_TOKEN", *lines, ""])


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
            FakeEnable(client) as enable,
            EmbeddedAws(schedule_minute_seconds=MINUTE_SECONDS) as aws,
        ):
            _bring_up(aws, enable, client).write(client)
            print("up", flush=True)
            stop.wait()
    except KeyboardInterrupt:
        print("down", flush=True)
    finally:
        for file in (STATE_FILE, OPERATOR_FILE, CALLER_FILE, CREDENTIALS_FILE):
            file.unlink(missing_ok=True)


def _bring_up(aws: EmbeddedAws, enable: FakeEnable, client: Client) -> Running:
    stack = BrokerStack(aws)
    print("sam build", flush=True)
    stack.build()
    print("sam deploy", flush=True)
    stack.deploy(TokenUrl=enable.token_url)
    stack.store_secret(client)
    caller = create_user(stack.administrator, "example-caller", stack.api.policy("/*", method="*"))
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
        token_api_url=stack.outputs["TokenApiUrl"],
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
    console = Console(highlight=False, markup=False, force_terminal=False if is_plain() else None)
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
