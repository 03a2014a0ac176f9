"""Where all is measured: the deployed stack, the artifacts on read-only folders, the peers."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from local.broker_stack import ROOT, BrokerStack
from local.embedded_aws import ACCOUNT, EmbeddedAws
from local.fake_enable import Client, FakeEnable
from tools.prune_botocore import prune

NO_SCHEDULE_SECONDS: Final = 36_000.0
"""The scheduler's minute: nothing is to run that is not measured."""

CLIENT: Final = Client(
    client_id="bench", client_secret="bench-secret", dealtrack_registration_id="bench"
)
_ZIP_EPOCH: Final = 315_532_800
"""1980-01-01, which SAM's zip gives to every file."""


@dataclass(frozen=True, slots=True)
class Lab:
    """What the sections measure with.

    Attributes:
        stack: the broker, deployed, a token stored for each grant.
        enable: the fake Enable.
        folder: this run's own.
        vendor: the folders that stand for /var/task and the layers in /opt/python, read-only.
        refresher: the same of the refresh function.
        peer_plain: the usual Powertools handler, as plain `sam build` leaves it.
        peer_built: the same with our build.
        floor: boto3 and urllib3 with bytecode, all services, as the runtime brings them.
    """

    stack: BrokerStack
    enable: FakeEnable
    folder: Path
    vendor: tuple[Path, ...]
    refresher: tuple[Path, ...]
    peer_plain: tuple[Path, ...]
    peer_built: tuple[Path, ...]
    floor: tuple[Path, ...]

    @property
    def python(self) -> Path:
        """An interpreter that has nothing but its standard library."""
        return self.stack.aws.folder / "lambda-python" / "bin" / "python"

    @property
    def event_file(self) -> Path:
        """API Gateway's event of a `GET /tokens/deals`."""
        return self.folder / "get_token.json"

    def child(self, script: str, *arguments: str | Path) -> dict[str, object]:
        """Run a script of `children/` in a fresh bare interpreter; its last line, as JSON.

        Raises:
            RuntimeError: it failed; with the end of what it printed.
        """
        found: dict[str, object] = json.loads(self.run(script, *arguments).stdout.splitlines()[-1])
        return found

    def run(
        self,
        script: str,
        *arguments: str | Path,
        options: Sequence[str] = (),
        under: Sequence[str] = (),
    ) -> subprocess.CompletedProcess[str]:
        """Run a script of `children/` in a fresh bare interpreter.

        Args:
            script: its file name.
            arguments: what it gets.
            options: the interpreter's own, as `-X importtime`.
            under: a command that runs the interpreter and watches it.

        Raises:
            RuntimeError: it failed; with the end of what it printed.
        """
        child = ROOT / "benchmarks" / "children" / script
        run = subprocess.run(
            [*under, self.python, "-I", "-B", *options, child, *arguments],
            env=self.environ,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode:
            raise RuntimeError(f"{' '.join(map(str, (script, *arguments)))}: {run.stderr[-2000:]}")
        return run

    @property
    def environ(self) -> dict[str, str]:
        """What the template and Lambda set, and where the embedded AWS is."""
        outputs = self.stack.outputs
        return {
            "AWS_ENDPOINT_URL": self.stack.aws.endpoint_url,
            "AWS_ACCESS_KEY_ID": ACCOUNT,
            "AWS_SECRET_ACCESS_KEY": "any",
            "AWS_REGION": "eu-west-1",
            "AWS_DEFAULT_REGION": "eu-west-1",
            "AWS_LAMBDA_FUNCTION_NAME": "bench",
            "LAMBDA_TASK_ROOT": "/var/task",
            "_X_AMZN_TRACE_ID": (
                "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"
            ),
            "POWERTOOLS_LOG_LEVEL": "INFO",
            "POWERTOOLS_METRICS_NAMESPACE": "Bench",
            "TOKEN_PARAMETER_PREFIX": outputs["TokenParameterPrefix"],
            "TOKEN_CACHE_SECONDS": "60",
            "REFRESH_AHEAD_SECONDS": "600",
            "REFRESH_FUNCTION_NAME": outputs["RefreshFunctionName"],
            "TOKEN_URL": self.enable.token_url,
            "SECRET_PREFIX": "enable-token-broker-dev/connections/",
            "TOKEN_KEY_ARN": self.stack.resource("BrokerKey"),
            "RENEWAL_PARALLELISM": "8",
        }


@contextmanager
def open_lab() -> Iterator[Lab]:
    """Build, deploy, renew, copy and install; on leaving, end and remove all of it."""
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        with (
            FakeEnable(CLIENT) as enable,
            EmbeddedAws(schedule_minute_seconds=NO_SCHEDULE_SECONDS) as aws,
        ):
            stack = BrokerStack(aws)
            stack.build()
            stack.deploy(TokenUrl=enable.token_url)
            stack.store_secret(CLIENT)
            stack.refresh({"force": True})
            yield _furnish(folder, stack, enable)
    finally:
        _set_modes(folder, folders=0o755, files=0o644)
        shutil.rmtree(folder)


def _furnish(folder: Path, stack: BrokerStack, enable: FakeEnable) -> Lab:
    for name in ("SharedLayer", "GrantsLayer", "TokenVendorFunction", "TokenRefresherFunction"):
        shutil.copytree(stack.build_folder / name, folder / name)
    install("bench-lambda", folder / "peer-plain")
    shutil.copytree(folder / "peer-plain", folder / "floor")
    handler = ROOT / "benchmarks" / "peers" / "powertools_handler.py"
    shutil.copy(handler, folder / "peer-plain")
    shutil.copytree(folder / "peer-plain", folder / "peer-built")
    prune(folder / "peer-built" / "botocore" / "data")
    for name in ("peer-built", "floor"):
        _compile(folder / name)
    for path in (folder / "peer-plain").rglob("*"):
        os.utime(path, (_ZIP_EPOCH, _ZIP_EPOCH))
    event = json.loads((ROOT / "events" / "get_token_by_role.json").read_text(encoding="utf-8"))
    event |= {"path": "/tokens/deals", "pathParameters": {"grant": "deals"}}
    event["requestContext"]["resourcePath"] = event["resource"]
    _set_modes(folder, folders=0o555, files=0o444)
    folder.chmod(0o755)
    (folder / "get_token.json").write_text(json.dumps(event), encoding="utf-8")
    layers = [folder / name / "python" for name in ("SharedLayer", "GrantsLayer")]
    return Lab(
        stack,
        enable,
        folder,
        vendor=(folder / "TokenVendorFunction", *layers),
        refresher=(folder / "TokenRefresherFunction", *layers),
        peer_plain=(folder / "peer-plain",),
        peer_built=(folder / "peer-built",),
        floor=(folder / "floor",),
    )


def install(requirements: str, target: Path) -> None:
    """Unpack pinned wheels without bytecode, as `sam build` does."""
    subprocess.run(
        [
            *(Path(sys.executable).parent / "uv", "pip", "install", "--quiet", "--no-deps"),
            *("--require-hashes", "--only-binary", ":all:", "--python", sys.executable),
            *("--target", target, "-r", ROOT / "requirements" / f"{requirements}.txt"),
        ],
        check=True,
    )


def _compile(folder: Path) -> None:
    """Bytecode as our build makes it."""
    subprocess.run(
        [
            *(sys.executable, "-m", "compileall", "-q", "-j", "2"),
            *("--invalidation-mode", "unchecked-hash", folder),
        ],
        check=True,
    )


def _set_modes(folder: Path, *, folders: int, files: int) -> None:
    for path in (folder, *folder.rglob("*")):
        path.chmod(folders if path.is_dir() else files)
