"""The client against the broker's API on a loopback socket and the fake Enable."""

import asyncio
import importlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
import requests
import urllib3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from enable_broker_client import NotAllowed, NoTokenInTime, TokenSource
from enable_broker_client.requests import BrokerAuth
from local.broker_stack import ROOT
from local.fake_enable import Client, FakeEnable, fingerprint
from tests.servers import LoopbackServer

HOST = "abc123.execute-api.localhost"
REGION = "eu-west-1"
CREDENTIALS = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI")


class Broker(LoopbackServer):
    """Mimics the token API: signatures are checked, tokens are those of the fake Enable."""

    def __init__(self, enable: FakeEnable, client: Client) -> None:
        super().__init__(Handler)
        self.enable = enable
        self.client = client
        self.pool = urllib3.PoolManager()
        self.outage: int | None = None
        self.calls: list[tuple[str, int]] = []
        self.renew()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def renew(self) -> None:
        response = self.pool.request_encode_body(
            "POST",
            self.enable.token_url,
            encode_multipart=False,
            fields={
                "grant_type": "client_credentials",
                "scope": "read:deals",
                "client_id": self.client.client_id,
                "client_secret": self.client.client_secret,
                "dealtrack_registration_id": self.client.dealtrack_registration_id,
            },
        ).json()
        self.expires_at = time.time() + response["expires_in"]
        self.token = response["access_token"]

    def respond(self, method: str, path: str, body: bytes) -> tuple[int, Mapping[str, object]]:
        if self.outage:
            return self.outage, {"error": "temporarily_unavailable"}
        match method, path:
            case "GET", "/v1/tokens/deals":
                return 200, {
                    "access_token": self.token,
                    "token_type": "Bearer",
                    "expires_in": int(self.expires_at - time.time()),
                    "expires_at": datetime.fromtimestamp(self.expires_at, UTC).isoformat(),
                    "scope": "read:deals",
                }
            case "POST", "/v1/tokens/deals/rejection":
                if json.loads(body)["fingerprint"] != fingerprint(self.token):
                    return 200, {"status": "replaced"}
                threading.Timer(0.3, self.renew).start()
                return 202, {"status": "renewing"}
        return 404, {"error": "unknown_grant"}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Broker

    def handle_one_call(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if is_signed(self.command, self.server.url[:-3] + self.path, self.headers, body):
            status, response = self.server.respond(self.command, self.path.partition("?")[0], body)
        else:
            status, response = 403, {"message": "Forbidden"}
        self.server.calls.append((self.command, status))
        content = json.dumps(response).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = handle_one_call  # noqa: N815  http.server's names

    def log_message(self, *_: object) -> None:
        pass


def is_signed(method: str, url: str, headers: Mapping[str, str], body: bytes) -> bool:
    """Sign the request again, at its own time, and compare."""
    authorization = headers.get("Authorization") or ""
    if f"Credential={CREDENTIALS.access_key}/" not in authorization or headers["Host"] != HOST:
        return False
    names = re.search("SignedHeaders=([^,]+)", authorization)[1].split(";")
    again = AWSRequest(method, url, data=body, headers={name: headers[name] for name in names})
    again.context["timestamp"] = headers["X-Amz-Date"]
    auth = SigV4Auth(CREDENTIALS, "execute-api", REGION)
    signature = auth.signature(auth.string_to_sign(again, auth.canonical_request(again)), again)
    return authorization.endswith(f"Signature={signature}")


class Session:
    def __init__(self, credentials: Credentials = CREDENTIALS) -> None:
        self.credentials = credentials

    def get_credentials(self) -> Credentials:
        return self.credentials


@pytest.fixture
def broker(enable: FakeEnable, enable_client: Client) -> Iterator[Broker]:
    with Broker(enable, enable_client) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()
        server.pool.clear()


def source_of(broker: Broker, session: Session | None = None, **options: Any) -> TokenSource:
    return TokenSource(
        broker.url, "deals", session=session or Session(), region=REGION, host=HOST, **options
    )


def in_a_while(seconds: float, do: Callable[[], None]) -> None:
    threading.Timer(seconds, do).start()


def test_signed_request_gets_a_token_that_enable_accepts(broker: Broker, enable: FakeEnable):
    token = source_of(broker).token()
    assert token.access_token == broker.token
    assert token.expires_at.timestamp() == pytest.approx(broker.expires_at)
    response = requests.get(
        f"{enable.url}/v1/deals",
        headers={"Authorization": f"Bearer {token.access_token}"},
        timeout=10,
    )
    assert response.status_code == 200


def documented(heading: str) -> str:
    """The first Python example below a heading of docs/callers.md."""
    page = (ROOT / "docs/callers.md").read_text(encoding="utf-8")
    return page.partition(f"### {heading}\n")[2].partition("```python\n")[2].partition("```")[0]


def test_documented_poll_of_a_report_outlasts_the_tokens(
    broker: Broker,
    enable: FakeEnable,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """Half an hour and tokens of ten minutes: each sleep of the example winds every clock on."""
    elapsed = timedelta(0)

    def sleep(_seconds: float) -> None:
        nonlocal elapsed
        elapsed += timedelta(minutes=5)
        broker.renew()  # as the refresher does before a token ends

    monkeypatch.setattr(enable, "_clock", lambda: datetime.now(UTC) + elapsed)
    enable.token_lifetime, enable.report_time = timedelta(minutes=10), timedelta(minutes=30)
    broker.renew()
    source = source_of(broker, clock=lambda: time.monotonic() + elapsed.total_seconds())
    monkeypatch.setattr("enable_broker_client.TokenSource", lambda *_, **__: source)
    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setenv("ENABLE_URL", enable.url)
    monkeypatch.setenv("TOKEN_API_URL", broker.url)
    exec(documented("A report that takes longer than a token lives"), {})  # noqa: S102
    assert "'type': 'earnings'" in capsys.readouterr().out
    seen = enable.api_requests
    assert {request.status for request in seen} == {202, 200, 303}
    assert len({request.fingerprint for request in seen}) >= 3


def test_wrong_key_is_not_allowed(broker: Broker):
    with pytest.raises(NotAllowed):
        source_of(broker, Session(Credentials("AKIDEXAMPLE", "another"))).get()


def test_client_retries_a_503(broker: Broker):
    broker.outage = 503
    in_a_while(1, lambda: setattr(broker, "outage", None))
    assert source_of(broker).get() == broker.token
    assert ("GET", 503) in broker.calls
    assert broker.calls[-1] == ("GET", 200)


def test_unreachable_broker_raises_no_token_in_time(broker: Broker):
    source = source_of(broker, retry_budget=timedelta(seconds=1))
    broker.shutdown()
    broker.server_close()
    began = time.monotonic()
    with pytest.raises(NoTokenInTime) as raised:
        source.get()
    assert raised.value.last_status is None
    assert time.monotonic() - began < 20


def test_broker_that_hangs_is_given_up_within_the_budget(broker: Broker):
    respond = broker.respond
    broker.respond = lambda *request: (time.sleep(60), respond(*request))[1]
    began = time.monotonic()
    with pytest.raises(NoTokenInTime, match="Timeout"):
        source_of(broker, retry_budget=timedelta(seconds=1)).get()
    assert time.monotonic() - began < 20


def test_20_callers_over_three_lifetimes_and_an_outage_are_never_refused(
    broker: Broker, enable: FakeEnable
):
    """Four-second tokens, renewed when half is left, and a broker that is down for a second."""
    enable.token_lifetime = timedelta(seconds=4)
    broker.renew()
    source, url, stop = source_of(broker), f"{enable.url}/v1/deals", time.monotonic() + 13
    began = time.monotonic()

    def keep_house() -> None:
        while time.monotonic() < stop:
            if broker.expires_at - time.time() < 2:
                broker.renew()
            broker.outage = 503 if 5 < time.monotonic() - began < 6 else None
            time.sleep(0.1)

    def call(_: int) -> set[int]:
        statuses = set()
        with requests.Session() as session:
            while time.monotonic() < stop - 1:
                bearer = {"Authorization": f"Bearer {source.get()}"}
                statuses.add(session.get(url, headers=bearer).status_code)
                time.sleep(
                    0.2
                )  # 100 requests a second leave the renewal its share of the processor
        return statuses

    with ThreadPoolExecutor(21) as pool:
        house = pool.submit(keep_house)
        assert set().union(*pool.map(call, range(20))) == {200}
        house.result()
    used = {request.fingerprint for request in enable.api_requests}
    vended = broker.calls.count(("GET", 200))
    assert len(used) >= 4
    assert len(used) <= vended <= len(used) + 5, "a call for each token, and few in vain"


@pytest.mark.parametrize("kind", ["requests", "httpx.Client", "httpx.AsyncClient"])
def test_revoked_token_is_reported_and_replaced_within_the_callers_one_request(
    broker: Broker, enable: FakeEnable, kind: str
):
    get = {"requests": by_requests, "httpx.Client": by_httpx, "httpx.AsyncClient": by_async_httpx}
    source, url = source_of(broker), f"{enable.url}/v1/deals"
    assert get[kind](source, url) == [200]
    enable.revoke(fingerprint(broker.token))
    assert get[kind](source, url) == [401, 200]
    assert get[kind](source, url) == [200]
    assert broker.calls.count(("POST", 202)) == 1


def by_requests(source: TokenSource, url: str) -> list[int]:
    with requests.Session() as session:
        session.auth = BrokerAuth(source, url.removesuffix("/v1/deals"))
        response = session.get(url, timeout=10)
    return [r.status_code for r in (*response.history, response)]


def by_httpx(source: TokenSource, url: str) -> list[int]:
    httpx, auth = httpx_and_auth(source, url)
    with httpx.Client(auth=auth) as client:
        response = client.get(url)
    return [r.status_code for r in (*response.history, response)]


def by_async_httpx(source: TokenSource, url: str) -> list[int]:
    async def fetch() -> list[int]:
        httpx, auth = httpx_and_auth(source, url)
        async with httpx.AsyncClient(auth=auth) as client:
            response = await client.get(url)
        return [r.status_code for r in (*response.history, response)]

    return asyncio.run(fetch())


def httpx_and_auth(source: TokenSource, url: str):
    httpx = pytest.importorskip("httpx")
    adapter = importlib.import_module("enable_broker_client.httpx")
    return httpx, adapter.BrokerAuth(source, url.removesuffix("/v1/deals"))
