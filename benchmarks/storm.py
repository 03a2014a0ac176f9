"""A cold storm through the real handler: fresh environments that read within the same second.

`python -m benchmarks.storm` runs the vend function's `lambda_handler` in one thread for each
environment, each wired by the function itself with a botocore client and nothing remembered. The
store's responses are made here, at the rate of a quota: botocore's retries and the function's
second chance are the real ones, on the real clock. `--environments 250 --grants 1 --per-second 10`
is a quarter of 1,000 environments at 40 reads a second.
"""

import argparse
import io
import json
import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast
from unittest.mock import patch

from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.compat import HTTPHeaders
from rich.console import Console
from rich.table import Table

from benchmarks.results import percentile
from benchmarks.scale import Quota
from token_broker.grants import load_grants
from token_broker.models import StoredToken
from token_vendor import app

ROOT: Final = Path(__file__).resolve().parents[1]
ENVIRON: Final[Mapping[str, str]] = {
    "TOKEN_PARAMETER_PREFIX": "/enable-tokens/storm",
    "TOKEN_CACHE_SECONDS": "60",
    "REFRESH_AHEAD_SECONDS": "600",
    "REFRESH_FUNCTION_NAME": "none",
    "AWS_DEFAULT_REGION": "eu-west-1",
    "AWS_ACCESS_KEY_ID": "none",
    "AWS_SECRET_ACCESS_KEY": "none",
}
_JSON: Final = "application/x-amz-json-1.1"


@dataclass(slots=True)
class Store:
    """Parameter Store's responses to GetParameter: a token, or that the quota is used up.

    Attributes:
        quota: reads a second, and as many at once.
        reads: that it served.
        throttled: that it did not.
    """

    quota: Quota
    reads: int = 0
    throttled: int = 0
    _began: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, request: AWSPreparedRequest, **_: object) -> AWSResponse:
        """Respond in place of the network (botocore's `before-send`)."""
        name = json.loads(cast("bytes", request.body))["Name"]
        with self._lock:
            if self.quota.take(time.monotonic() - self._began):
                self.reads += 1
                parameter = {"Value": _token(name.rpartition("/")[2]), "Version": 1}
                return _response(request, 200, {"Parameter": parameter})
            self.throttled += 1
        return _response(request, 400, {"__type": "ThrottlingException"})


@dataclass(frozen=True, slots=True)
class Storm:
    """What came of it.

    Attributes:
        seconds: of each request with a 200 response.
        failed: requests with a 503 response.
    """

    seconds: list[float]
    failed: int

    @property
    def failed_share(self) -> float:
        """Of all requests."""
        return self.failed / max(self.failed + len(self.seconds), 1)


def run(store: Store, environments: int, grants: list[str], *, has_second_chance: bool) -> Storm:
    """Have so many fresh environments vend each grant, one grant after the other.

    Raises:
        RuntimeError: a response was neither 200 nor 503.
    """
    here = threading.local()
    app.logger.setLevel("CRITICAL")
    with patch.dict(os.environ, ENVIRON), redirect_stdout(io.StringIO()):
        app._session.cache_clear()
        app._session().register("before-send.ssm.GetParameter", cast("Any", store))
        make = cast("Callable[[], app.Wiring]", app._wiring.__wrapped__)
        fresh = [make() for _ in range(environments)]
        app._session.cache_clear()
        if not has_second_chance:
            for wiring in fresh:
                wiring.vendor.second_chance_after = lambda _error: None
        began = time.monotonic()

        def environment(wiring: app.Wiring) -> list[tuple[int, float]]:
            here.wiring = wiring
            time.sleep(max(began + random.random() - time.monotonic(), 0))  # noqa: S311 - chance
            return [_vend(grant) for grant in grants]

        with (
            patch.object(app, "_wiring", lambda: here.wiring),
            ThreadPoolExecutor(environments) as threads,
        ):
            found = [one for some in threads.map(environment, fresh) for one in some]
    if others := {status for status, _ in found} - {200, 503}:
        raise RuntimeError(f"responses other than 200 and 503: {sorted(others)}")
    served = [seconds for status, seconds in found if status == 200]
    return Storm(served, len(found) - len(served))


def _vend(grant: str) -> tuple[int, float]:
    began = time.monotonic()
    response = app.lambda_handler(_event(grant), cast("Any", _CONTEXT))
    return cast("int", response["statusCode"]), time.monotonic() - began


def _event(grant: str) -> Mapping[str, object]:
    text = (ROOT / "events" / "get_token_by_role.json").read_text(encoding="utf-8")
    path = {"path": f"/tokens/{grant}", "pathParameters": {"grant": grant}}
    event: dict[str, object] = json.loads(text)
    return event | path


def _token(grant: str) -> str:
    now = datetime.now(UTC)
    scope = load_grants()[grant].scope
    token = StoredToken(
        access_token="storm", scope=scope, issued_at=now, expires_at=now + _LIFETIME
    )
    return token.to_json()


def _response(request: AWSPreparedRequest, status: int, body: object) -> AWSResponse:
    raw = SimpleNamespace(stream=lambda: iter([json.dumps(body).encode()]))
    return AWSResponse(request.url, status, HTTPHeaders.from_dict({"Content-Type": _JSON}), raw)


_LIFETIME: Final = timedelta(hours=1)
_CONTEXT: Final = SimpleNamespace(
    function_name="storm", memory_limit_in_mb=512, invoked_function_arn="", aws_request_id="storm"
)


def main() -> None:
    """Print what callers meet, without and with the second chance."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.storm", description=__doc__)
    parser.add_argument("--environments", type=int, default=100)
    parser.add_argument(
        "--grants", type=int, default=4, help="that each environment vends, in turn"
    )
    parser.add_argument("--per-second", type=float, default=40, help="reads that the store serves")
    arguments = parser.parse_args()
    console = Console(highlight=False, width=100)
    table = Table("vend function", "failed", "p50 s", "p99 s", "reads", "throttled", box=None)
    for name, has_second_chance in (("no second chance", False), ("as shipped", True)):
        with console.status(f"{name}: about 20 seconds"):
            store = Store(Quota(arguments.per_second))
            found = run(
                store,
                arguments.environments,
                list(load_grants())[: arguments.grants],
                has_second_chance=has_second_chance,
            )
        table.add_row(
            name,
            f"{found.failed_share:.0%}",
            f"{percentile(found.seconds, 0.5):.1f}",
            f"{percentile(found.seconds, 0.99):.1f}",
            str(store.reads),
            str(store.throttled),
        )
    console.print(table)


if __name__ == "__main__":
    main()
