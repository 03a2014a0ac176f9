"""Services that get their tokens themselves, each with the client secret: processes of one kind.

ARGV is LIBRARY (`requests_oauth2client` or `authlib`), the folder of the packages, TOKEN_URL,
PROCESSES, CALLERS in each, VENDS of each caller, SECONDS to spread them over and
LEEWAY_SECONDS. A vend puts a live token on a request, as the library does before sending it.
"""

import multiprocessing
import sys
import time
from collections.abc import Callable

library, folder, token_url, *numbers = sys.argv[1:]
sys.path.insert(0, folder)
processes, callers, vends, seconds, leeway = (int(number) for number in numbers)

from requests import Request  # noqa: E402

SCOPES = ("read:deals", "read:activity", "read:users", "read:activity read:deals read:users")

type Vend = Callable[[], object]


def with_requests_oauth2client() -> Callable[[str], Vend]:
    """`OAuth2ClientCredentialsAuth` renews what expires within the leeway."""
    from requests_oauth2client import (  # noqa: PLC0415 - one of two
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
    from authlib.integrations.requests_client import OAuth2Session  # noqa: PLC0415 - one of two

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


def serve(open_for: Callable[[str], Vend], number: int) -> None:
    """One service process: its callers share a client for each grant."""
    clients = [open_for(scope) for scope in SCOPES]
    began = time.monotonic()
    for turn in range(vends):
        for caller in range(callers):
            clients[(number + caller) % len(clients)]()
        time.sleep(max(began + (turn + 1) * seconds / vends - time.monotonic(), 0))


def main() -> None:
    """Start all processes at once, and wait for them."""
    open_for = {
        "requests_oauth2client": with_requests_oauth2client,
        "authlib": with_authlib,
    }[library]()
    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=serve, args=(open_for, n)) for n in range(processes)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    if any(child.exitcode for child in children):
        raise SystemExit(f"{library}: a process failed")


if __name__ == "__main__":
    main()
