"""Short-lived tokens, renewed by the schedule alone while callers keep asking."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import pytest
import urllib3
from botocore.credentials import Credentials

from enable_broker_client import TokenSource
from local.embedded_aws import REGION
from tests.deployed.conftest import LIFETIME, Deployed


@dataclass
class FixedSession:
    credentials: Credentials

    def get_credentials(self) -> Credentials:
        return self.credentials


@contextmanager
def client_in_20_threads(deployed: Deployed, caller: str) -> Iterator[Counter[object]]:
    """A service that uses the client library: the statuses of Enable's responses, and errors."""
    api = deployed.stack.api
    source = TokenSource(
        f"{api.endpoint_url}/{api.stage}",
        "deals",
        session=FixedSession(deployed.callers[caller]),
        region=REGION,
        host=api.host,
        min_ttl=timedelta(seconds=3),
    )
    responses: Counter[object] = Counter()
    stop = threading.Event()

    def work() -> None:
        with urllib3.PoolManager() as pool:
            while not stop.wait(0.5):
                try:
                    bearer = {"Authorization": f"Bearer {source.get()}"}
                    url = f"{deployed.enable.url}/v1/deals"
                    responses[pool.request("GET", url, headers=bearer).status] += 1
                except Exception as error:
                    responses[repr(error)] += 1

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    try:
        yield responses
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.slow("two lifetimes of a token")
def test_schedule_renews_before_expiry_and_the_predecessor_is_served_until_then(
    renewed: Deployed,
):
    seen: set[str] = set()
    requests_before = len(renewed.enable.token_requests)
    lines_before = len(renewed.stack.log_records("token-vendor"))
    began = time.monotonic()
    with client_in_20_threads(renewed, "user keyholder") as responses:
        while len(seen) < 3:
            assert time.monotonic() - began < 6 * LIFETIME.total_seconds()
            response = renewed.get("/tokens/activity", "role for all")
            assert response.status == 200
            assert int(response.body["expires_in"]) >= 1
            seen.add(response.access_token)
            time.sleep(0.5)
    requests = renewed.enable.token_requests[requests_before:]
    by_scope = Counter(request.scope for request in requests if request.status == 200)
    assert by_scope["read:activity"] <= 5  # one for each renewal, whatever the callers do

    assert set(responses) == {200}
    mine = [
        record
        for record in renewed.stack.log_records("token-vendor")[lines_before:]
        if record.get("message") == "token vended" and record["caller"].endswith("ops/keyholder")
    ]
    tokens = {record["fingerprint"] for record in mine}
    assert len(tokens) >= 2  # the last renewal may have come after its last request
    assert len(mine) <= 2 * len(tokens)  # shared by 20 threads; a second call is an early one


def test_no_token_is_requested_while_none_is_due(renewed: Deployed):
    renewed.stack.refresh({"force": True, "grants": ["users"]})
    requests_before = len(renewed.enable.token_requests)
    assert renewed.stack.refresh({"grants": ["users"]})["grants"]["users"]["state"] == "not_due"
    mine = [r for r in renewed.enable.token_requests[requests_before:] if r.scope == "read:users"]
    assert mine == []
