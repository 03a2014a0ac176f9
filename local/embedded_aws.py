"""The embedded AWS: IAM enforced, on loopback, gone when its user is."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

import boto3
import botocore.session
import urllib3
from botocore.credentials import Credentials

REGION: Final = "eu-west-1"
ACCOUNT: Final = "111122223333"
START_TIMEOUT_SECONDS: Final = 240.0
"""Ends the wait for a server that hangs. One that cannot start ends by itself, which is seen at
once; how long a start takes is for the machine and its other work to say."""

STOP_TIMEOUT_SECONDS: Final = 10.0


class EmbeddedAwsFailed(Exception):
    """The embedded AWS did not come up; the message says what it printed."""


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class EmbeddedAws:
    """Starts on entering, ends on leaving; its files live in a temporary folder of its own.

    Args:
        schedule_minute_seconds: how long a scheduler's minute lasts, in seconds.
        port: where to listen on 127.0.0.1; 0 takes a free one.

    A 12-digit access key id is an account's administrator, with any secret; every other
    caller needs real credentials and an IAM policy. Accounts do not see each other.
    """

    def __init__(self, *, schedule_minute_seconds: float = 60.0, port: int = 0) -> None:
        self._minute = schedule_minute_seconds
        self.port = port or free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._folder: Path | None = None

    @property
    def endpoint_url(self) -> str:
        """The one endpoint of all services."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def folder(self) -> Path:
        """Where it keeps its files, among them `server.log` and `iam.jsonl`, what roles asked for.

        Raises:
            RuntimeError: it has not been started.
        """
        if self._folder is None:
            raise RuntimeError("the embedded AWS has not been started")
        return self._folder

    @property
    def process_id(self) -> int:
        """The server's, whose children run the functions.

        Raises:
            RuntimeError: it is not running.
        """
        if self._process is None:
            raise RuntimeError("the embedded AWS is not running")
        return self._process.pid

    def environ(self, account: str) -> dict[str, str]:
        """The environment for a tool that administers an account here, and nothing else of AWS."""
        own = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "SAM_"))}
        return own | {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": account,
            "AWS_SECRET_ACCESS_KEY": "any",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_REGION": REGION,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "SAM_CLI_TELEMETRY": "0",
            "SAM_CLI_POLL_DELAY": "0.1",
        }

    def session(self, credentials: Credentials) -> boto3.Session:
        """A session of a principal whose clients reach this cloud."""
        core = botocore.session.Session()
        core.set_config_variable("config_file", str(self.folder / "config"))
        return boto3.Session(
            aws_access_key_id=credentials.access_key,
            aws_secret_access_key=credentials.secret_key,
            aws_session_token=credentials.token,
            region_name=REGION,
            botocore_session=core,
        )

    def administrator(self, account: str) -> boto3.Session:
        """A session of an account's administrator."""
        return self.session(Credentials(account, "any"))

    def __enter__(self) -> Self:
        """Start, and wait until it responds.

        Raises:
            EmbeddedAwsFailed: it ended, or did not respond in time.
        """
        self._folder = Path(tempfile.mkdtemp(prefix="embedded-aws-"))
        try:
            self._start()
            self._wait_until_healthy()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it and remove its files."""
        self.stop()

    def _start(self) -> None:
        bare = self.folder / "lambda-python"
        venv.create(bare, with_pip=False, symlinks=True)
        (self.folder / "tmp").mkdir()
        (self.folder / "config").write_text(
            f"[default]\nregion = {REGION}\nendpoint_url = {self.endpoint_url}\n"
        )
        self._log = (self.folder / "server.log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", *self._module(bare / "bin" / "python")],
            cwd=Path(__file__).resolve().parent.parent,
            env={
                "PATH": os.environ.get("PATH", ""),
                "HOME": str(self.folder),
                "TMPDIR": str(self.folder / "tmp"),
                "AUTH": "true",
                "BIND_HOST": "127.0.0.1",
                "GATEWAY_PORT": str(self.port),
                "IOT_MTLS_ENABLED": "0",
                "SFTP_ENABLED": "0",
                "MINISTACK_REGION": REGION,
                "MINISTACK_ACCOUNT_ID": ACCOUNT,  # where an unsigned request is looked at
                "STATE_DIR": str(self.folder / "state"),
                "S3_DATA_DIR": str(self.folder / "s3"),
                "LOG_LEVEL": "WARNING",
            },
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def _module(self, lambda_python: Path) -> list[str]:
        """What Python runs as the server, with its arguments."""
        return ["local.embedded_aws_server", str(lambda_python), str(self._minute)]

    def _wait_until_healthy(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        with urllib3.PoolManager(retries=False, timeout=1.0) as pool:
            while time.monotonic() < deadline:
                if self._process is None or self._process.poll() is not None:
                    break
                try:
                    if pool.request("GET", f"{self.endpoint_url}/_ministack/health").status == 200:
                        return
                except urllib3.exceptions.HTTPError:
                    time.sleep(0.05)
        raise EmbeddedAwsFailed(
            f"the embedded AWS did not start on port {self.port}:\n{self.printed()}"
        )

    def printed(self) -> str:
        """The end of what the server printed: warnings and errors."""
        return (self.folder / "server.log").read_text(errors="replace")[-2000:]

    def stop(self) -> None:
        """End the server and its functions, and remove its files; may be called twice."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            if self._process.stdin:
                self._process.stdin.close()
            self._process = None
        if self._log is not None:
            self._log.close()
            self._log = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
