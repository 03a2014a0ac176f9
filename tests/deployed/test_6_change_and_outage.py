"""Changing the client secret, a second Enable instance, and outages: callers keep their token."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

import pytest

from local.broker_stack import STACK_NAME, wait_until
from local.fake_enable import Client, FakeEnable, Outage
from tests.deployed.conftest import LIFETIME, Deployed


@contextmanager
def polling_caller(deployed: Deployed, grant: str) -> Iterator[list[int]]:
    """Poll ten times a second in the background; yields the statuses."""
    statuses: list[int] = []
    stop = threading.Event()

    def poll() -> None:
        while not stop.wait(0.1):
            statuses.append(deployed.get(f"/tokens/{grant}", "role for all").status)

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield statuses
    finally:
        stop.set()
        thread.join()


def renewed_after(deployed: Deployed, grant: str, moment: datetime | None) -> Callable[[], bool]:
    return lambda: deployed.stack.stored_since(grant) != moment


def stored_version(deployed: Deployed, grant: str) -> str:
    prefix = deployed.stack.outputs["TokenParameterPrefix"]
    value = deployed.stack.administrator.client("ssm").get_parameter(
        Name=f"{prefix}/{grant}", WithDecryption=True
    )["Parameter"]["Value"]
    return json.loads(value)["secret_version"]


def current_version(deployed: Deployed) -> str:
    secret = deployed.stack.administrator.client("secretsmanager").get_secret_value(
        SecretId=deployed.stack.outputs["ClientSecretArn"]
    )
    return secret["VersionId"]


@pytest.fixture(scope="module", autouse=True)
def secret_of_other_files(renewed: Deployed, enable_client: Client) -> Iterator[None]:
    """Whatever file comes next in this process expects Enable to accept the client's secret."""
    yield
    renewed.enable.change_secret(enable_client.client_id, enable_client.client_secret)
    renewed.stack.store_secret(enable_client)
    renewed.stack.refresh({"force": True})


@pytest.mark.parametrize("enable_is_changed", ["before", "at the same time", "after"])
def test_changing_the_secret_fails_no_caller(
    renewed: Deployed, enable_client: Client, enable_is_changed: str
):
    new = f'another p+ss w&rd=%/ü€"\\ {enable_is_changed}'
    changed = Client(
        client_id=enable_client.client_id,
        client_secret=new,
        dealtrack_registration_id=enable_client.dealtrack_registration_id,
    )
    renewed.stack.refresh({"force": True})
    with polling_caller(renewed, "deals") as statuses:
        if enable_is_changed == "before":
            renewed.enable.change_secret(enable_client.client_id, new)
            time.sleep(3)
        renewed.stack.store_secret(changed)
        if enable_is_changed == "after":
            time.sleep(3)
        if enable_is_changed != "before":
            renewed.enable.change_secret(enable_client.client_id, new)
        wanted = current_version(renewed)
        wait_until(
            lambda: stored_version(renewed, "deals") == wanted,
            seconds=45,
            what="a token of the new secret",
        )
    assert set(statuses) == {200}
    assert statuses


def test_bad_new_secret_alarms_at_once_and_the_previous_one_serves(
    renewed: Deployed, enable_client: Client
):
    good = renewed.stack.administrator.client("secretsmanager").get_secret_value(
        SecretId=renewed.stack.outputs["ClientSecretArn"]
    )["SecretString"]
    before = renewed.stack.stored_since("deals")
    seen = len(renewed.stack.log_records("token-refresher"))
    bad = Client(client_id="x", client_secret="mistyped", dealtrack_registration_id="y")
    with polling_caller(renewed, "deals") as statuses:
        renewed.stack.store_secret(bad)
        wait_until(renewed_after(renewed, "deals", before), seconds=15, what="the change event")

        def records() -> list[dict[str, object]]:
            return renewed.stack.log_records("token-refresher")[seen:]

        def is_counted() -> bool:
            return any("SecretFallbackUsed" in record for record in records())

        wait_until(is_counted, seconds=30, what="the end of the run")
    assert {r["secret_stage"] for r in records() if r.get("secret_stage")} == {"AWSPREVIOUS"}
    assert set(statuses) == {200}
    renewed.stack.administrator.client("secretsmanager").put_secret_value(
        SecretId=renewed.stack.outputs["ClientSecretArn"], SecretString=good
    )


def test_rejected_connection_costs_one_request_not_one_per_grant(
    renewed: Deployed, uat: FakeEnable, uat_secret: None
):
    renewed.stack.refresh({"grants": ["uat-deals"]})
    good = renewed.stack.administrator.client("secretsmanager").get_secret_value(
        SecretId=renewed.stack.outputs["ClientSecretArn"]
    )["SecretString"]
    client_id = json.loads(good)["client_id"]
    renewed.enable.change_secret(client_id, "known to nobody")
    requests_before = len(renewed.enable.token_requests)
    error = renewed.stack.refresh({"force": True})
    assert "invalid_client" in str(error["errorMessage"])
    # Two secrets, each tried with one grant; the schedule may have had a run meanwhile.
    assert len(renewed.enable.token_requests) - requests_before <= 4
    renewed.enable.change_secret(client_id, json.loads(good)["client_secret"])
    renewed.stack.refresh({"force": True})


@pytest.fixture(scope="module")
def uat_secret(renewed: Deployed, uat: FakeEnable) -> None:
    """As docs/connections.md says: the secret of another connection, with the stack's key."""
    renewed.stack.administrator.client("secretsmanager").create_secret(
        Name=f"{STACK_NAME}/connections/uat",
        KmsKeyId=renewed.stack.resource("BrokerKey"),
        SecretString=json.dumps(
            {
                "client_id": "uat",
                "client_secret": "uat-only",
                "dealtrack_registration_id": "uat-registration",
            }
        ),
    )


def test_one_stack_serves_two_enable_instances(
    renewed: Deployed, uat: FakeEnable, uat_secret: None
):
    renewed.stack.refresh({"force": True, "grants": ["uat-deals", "deals"]})
    ours = renewed.get("/tokens/deals", "user for all").access_token
    theirs = renewed.get("/tokens/uat-deals", "user for all").access_token
    assert ours in set(renewed.enable.issued_tokens()) - set(uat.issued_tokens())
    assert theirs in set(uat.issued_tokens()) - set(renewed.enable.issued_tokens())


def test_outage_of_another_instance_does_not_touch_this_one(
    renewed: Deployed, uat: FakeEnable, uat_secret: None
):
    uat.stop_answering(Outage(status=None))
    error = renewed.stack.refresh({"force": True, "grants": ["uat-deals", "deals"]})
    uat.stop_answering(None)
    assert str(error["errorMessage"]).startswith("not renewed: uat-deals:")


@pytest.mark.slow("an outage lasts 80 percent of the time that a token has before it is due")
def test_outage_of_80_percent_of_the_time_before_due_is_invisible_to_callers(renewed: Deployed):
    due_window = LIFETIME / 2
    outage = 0.8 * (LIFETIME - due_window)
    renewed.stack.refresh({"force": True, "grants": ["deals"]})
    with polling_caller(renewed, "deals") as statuses:
        renewed.enable.stop_answering(Outage(status=503))
        time.sleep(outage.total_seconds())
        renewed.enable.stop_answering(None)
        time.sleep(LIFETIME.total_seconds() - outage.total_seconds() + 2)
    assert set(statuses) == {200}


def test_longer_outage_gives_503_with_retry_after_and_recovers_without_help(renewed: Deployed):
    renewed.enable.stop_answering(Outage(status=None))
    try:
        wait_until(
            lambda: renewed.get("/tokens/users", "role for users").status == 503,
            seconds=LIFETIME.total_seconds() + 30,
            what="the token to expire",
        )
        response = renewed.get("/tokens/users", "role for users")
        assert int(response.headers["retry-after"]) > 0
    finally:
        renewed.enable.stop_answering(None)
    wait_until(
        lambda: renewed.get("/tokens/users", "role for users").status == 200,
        seconds=30,
        what="the first renewal after the outage",
    )


def test_retry_after_is_honoured_across_runs(renewed: Deployed):
    renewed.stack.refresh({"force": True})
    renewed.enable.stop_answering(Outage(status=429, retry_after=timedelta(seconds=20)))
    requests_before = len(renewed.enable.token_requests)
    renewed.stack.refresh({"force": True, "grants": ["deals"]})
    assert len(renewed.enable.token_requests) - requests_before == 1
    renewed.enable.stop_answering(None)
    wait_until(
        lambda: any(
            r.get("state") == "waiting" and r.get("reason") == "http_429"
            for r in renewed.stack.log_records("token-refresher")[-40:]
        ),
        seconds=40,
        what="a run after the end of Retry-After",
    )
    renewed.stack.refresh({"force": True})
