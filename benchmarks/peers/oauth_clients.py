"""Services and how they get their tokens: processes of one kind.

ARGV is LIBRARY (a key of OPEN_FOR), the folder of the packages, the URL of the token endpoint or
of the token API, PROCESSES, CALLERS in each, VENDS of each caller, SECONDS to spread them over
and LEEWAY_SECONDS. A vend puts a live token on a request, as the library does before sending it.
Prints the microseconds that a vend took, as JSON: the median, the 99th percentile, and the
calls of AWS that the processes made.
"""

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

library, folder, token_url, *numbers = sys.argv[1:]
sys.path.insert(0, folder)
processes, callers, vends, seconds, leeway = (int(number) for number in numbers)

SCOPES = ("read:deals", "read:activity", "read:users", "read:activity read:deals read:users")

GRANTS: Final = ("deals", "activity", "users", "reporting")
CACHE_SECONDS: Final = 60
LIFE_SECONDS: Final = 3_000
"""What a parameter is remembered for, and what a token is: scaled to these tokens of seconds."""

aws_calls: list[str] = []
"""By name of the operation, in this process."""

type Vend = Callable[[], object]


def with_requests_oauth2client() -> Callable[[str], Vend]:
    """`OAuth2ClientCredentialsAuth` renews what expires within the leeway."""
    from requests import Request  # noqa: PLC0415 - one of several
    from requests_oauth2client import (  # noqa: PLC0415 - one of several
        OAuth2Client,
        OAuth2ClientCredentialsAuth,
    )

    def open_for(scope: str) -> Vend:
        client = OAuth2Client(
            token_endpoint=token_url, client_id="bench", client_secret="bench-secret", testing=True
        )
        auth = OAuth2ClientCredentialsAuth(
            client, scope=scope, leeway=leeway, dealtrack_registration_id="bench"
        )
        request = Request("GET", "https://api.example/v1/deals").prepare()
        return lambda: auth(request)

    return open_for


def with_authlib() -> Callable[[str], Vend]:
    """`OAuth2Session` tests the expiry; its own renewal cannot send Enable's extra field."""
    from authlib.integrations.requests_client import OAuth2Session  # noqa: PLC0415 - one of several

    def open_for(scope: str) -> Vend:
        session = OAuth2Session(
            "bench",
            "bench-secret",
            scope=scope,
            token_endpoint_auth_method="client_secret_post",
            leeway=leeway,
        )

        def vend() -> None:
            if session.token is None or session.token.is_expired(leeway=leeway):
                session.fetch_token(
                    token_url,
                    grant_type="client_credentials",
                    dealtrack_registration_id="bench",
                )

        return vend

    return open_for


def with_powertools() -> Callable[[str], Vend]:
    """Powertools' OAuth2Client (alpha) renews 30 seconds before the expiry."""
    from aws_lambda_powertools.utilities.auth_alpha.oauth2 import (  # noqa: PLC0415 - one of several
        OAuth2Client,
    )

    def open_for(scope: str) -> Vend:
        client = OAuth2Client(
            token_url=token_url,
            client_id="bench",
            client_secret="bench-secret",
            auth_method="client_secret_post",
            scopes=scope.split(),
            timeout_seconds=20,
        )
        return client.auth_headers

    return open_for


def with_parameter() -> Callable[[str], Vend]:
    """A service reads the parameter that the broker renews: Powertools' `get_parameter`."""
    import botocore.session  # noqa: PLC0415 - one of several
    from aws_lambda_powertools.utilities import parameters  # noqa: PLC0415 - one of several

    max_age: Any = CACHE_SECONDS * seconds / 2 / LIFE_SECONDS

    def open_for(scope: str) -> Vend:
        client = botocore.session.get_session().create_client("ssm")
        client.meta.events.register("before-call", _count_call)
        provider = parameters.SSMProvider(boto3_client=client)
        name = f"{os.environ['TOKEN_PARAMETER_PREFIX']}/{GRANTS[SCOPES.index(scope)]}"
        return lambda: json.loads(str(provider.get(name, decrypt=True, max_age=max_age)))

    return open_for


def with_broker() -> Callable[[str], Vend]:
    """The broker's client library keeps the token in its process until it is due."""
    import enable_broker_client  # noqa: PLC0415 - one of several
    from enable_broker_client.transport import HttpTransport  # noqa: PLC0415 - one of several

    def counted(request: Any) -> Any:
        aws_calls.append("execute-api")
        return HttpTransport()(request)

    def open_for(scope: str) -> Vend:
        source = enable_broker_client.TokenSource(
            token_url,
            GRANTS[SCOPES.index(scope)],
            host=os.environ["TOKEN_API_HOST"],
            transport=counted,
        )
        return source.token

    return open_for


def _count_call(model: Any, **_: object) -> None:
    aws_calls.append(model.name)


def serve(
    open_for: Callable[[str], Vend],
    number: int,
    found: "multiprocessing.SimpleQueue[tuple[list[float], int]]",
) -> None:
    """One service process: its callers share a client for each grant."""
    clients = [open_for(scope) for scope in SCOPES]
    took = []
    began = time.monotonic()
    for turn in range(vends):
        for caller in range(callers):
            vend = clients[(number + caller) % len(clients)]
            asked = time.perf_counter()
            vend()
            took.append(time.perf_counter() - asked)
        time.sleep(max(began + (turn + 1) * seconds / vends - time.monotonic(), 0))
    found.put((took, len(aws_calls)))


OPEN_FOR: Final[Mapping[str, Callable[[], Callable[[str], Vend]]]] = {
    "requests_oauth2client": with_requests_oauth2client,
    "authlib": with_authlib,
    "powertools": with_powertools,
    "parameter": with_parameter,
    "broker": with_broker,
}


def main() -> None:
    """Start all processes at once, and wait for them.

    Raises:
        SystemExit: one of them failed.
    """
    open_for = OPEN_FOR[library]()
    fork = multiprocessing.get_context("fork")
    found: multiprocessing.SimpleQueue[tuple[list[float], int]] = fork.SimpleQueue()
    children = [fork.Process(target=serve, args=(open_for, n, found)) for n in range(processes)]
    for child in children:
        child.start()
    reports: list[tuple[list[float], int]] = []
    while len(reports) < processes and (any(c.is_alive() for c in children) or not found.empty()):
        if found.empty():
            time.sleep(0.01)
        else:
            reports.append(found.get())
    for child in children:
        child.join()
    if any(child.exitcode for child in children):
        raise SystemExit(f"{library}: a process failed")
    took = sorted(seconds * 1e6 for some, _ in reports for seconds in some)
    p50, p99 = (took[int(share * len(took))] for share in (0.5, 0.99))
    print(json.dumps({"p50": p50, "p99": p99, "aws_calls": sum(calls for _, calls in reports)}))


if __name__ == "__main__":
    main()
