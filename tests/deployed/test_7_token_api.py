"""IAM and the allow-list in every combination, recovery, reports of dead tokens, other routes."""

import itertools
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import pytest
import urllib3
from botocore.credentials import Credentials

from broker_cli.api import Response
from local.broker_stack import wait_until
from local.callers import create_role, create_user
from tests.deployed.conftest import LIFETIME, STANDARD_GRANTS, Deployed
from token_broker.models import fingerprint, rfc3339

KINDS = ("user", "role", "role with path")
IAM = ("allows", "denies")
CALLERS = ("absent", "match", "no match")


@pytest.fixture(scope="module")
def principals(renewed: Deployed) -> dict[tuple[str, str, bool], Credentials]:
    """By kind, what IAM says, and whether the grant `locked` names it; each with its own name."""
    made = {}
    everything = renewed.stack.api.policy("/tokens/*")
    for kind, iam, is_named in itertools.product(KINDS, IAM, (True, False)):
        number = len(made)
        name = ("locked-" if is_named else "other-") + f"matrix-{number}"
        policy = everything if iam == "allows" else None
        if kind == "user":
            # Users are named in `locked` by path and name: only ops/keyholder.
            credentials = (
                renewed.callers["user keyholder"]
                if is_named and policy
                else create_user(renewed.stack.administrator, name, policy)
            )
        else:
            path = "/team/a/" if kind == "role with path" else "/"
            credentials = create_role(renewed.stack.administrator, name, policy, path=path)
        made[kind, iam, is_named] = credentials
    return made


@pytest.mark.parametrize(("kind", "iam", "callers"), list(itertools.product(KINDS, IAM, CALLERS)))
def test_token_needs_both_iam_and_callers(
    renewed: Deployed,
    principals: dict[tuple[str, str, bool], Credentials],
    kind: str,
    iam: str,
    callers: str,
):
    grant = "deals" if callers == "absent" else "locked"
    seen = len(renewed.stack.log_records("token-vendor"))
    response = renewed.stack.api.get(f"/tokens/{grant}", principals[kind, iam, callers == "match"])

    def is_audited(record: dict[str, object]) -> bool:
        return record.get("grant") == grant and "message" in record

    if iam == "denies":
        assert response.status == 403
        assert not [*filter(is_audited, renewed.stack.log_records("token-vendor")[seen:])]
        return
    audit = renewed.stack.logged("token-vendor", is_audited, since=seen)
    if callers == "no match":
        assert (response.status, response.body["error"]) == (403, "access_denied")
        assert [r["message"] for r in audit] == ["token refused"]
    else:
        assert response.status == 200
        assert [r["message"] for r in audit] == ["token vended"]


@pytest.mark.parametrize("caller", [None, "wrong signature"])
@pytest.mark.parametrize("grant", ["deals", "locked"])
def test_unauthenticated_caller_is_refused(renewed: Deployed, caller: str, grant: str):
    assert renewed.get(f"/tokens/{grant}", caller).status == 403


def test_tried_out_callers_let_a_caller_through_and_log_that_they_would_refuse_it(
    renewed: Deployed,
):
    renewed.stack.refresh({"force": True, "grants": ["tried-out"]})
    response = renewed.get("/tokens/tried-out", "role for all")
    assert response.status == 200
    (record,) = renewed.stack.logged("token-vendor", lambda r: r.get("would_be_refused"))
    assert (record["grant"], record["caller"].split("/")[1]) == ("tried-out", "reporting-job")
    assert renewed.stack.logged("token-vendor", lambda r: r.get("WouldRefuse"))


def oauth2_token(deployed: Deployed, caller: str, **form: str) -> Response:
    return deployed.get(
        "/oauth2/token",
        caller,
        method="POST",
        headers={"Content-Type": "application/x-www-form-urlencoded"},
        body=urlencode(form).encode(),
    )


def test_existing_request_is_served_once_it_is_signed(renewed: Deployed):
    response = oauth2_token(
        renewed,
        "role locked",
        grant_type="client_credentials",
        scope="read:deals",
        client_id="still sent",
        client_secret="p+ss w&rd=%/ü",
    )
    assert response.status == 200
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["pragma"] == "no-cache"
    assert response.body["token_type"] == "Bearer"
    assert response.body["scope"] == "read:deals"


@pytest.mark.parametrize(
    ("caller", "form", "error"),
    [
        (
            "role locked",
            {"grant_type": "password", "scope": "read:deals"},
            "unsupported_grant_type",
        ),
        ("role locked", {"grant_type": "client_credentials"}, "invalid_request"),
        ("role locked", {"scope": "read:deals"}, "invalid_request"),
        (
            "role locked",
            {"grant_type": "client_credentials", "scope": "read:users"},
            "invalid_scope",
        ),
        (
            "user for all",
            {"grant_type": "client_credentials", "scope": "read:deals"},
            "invalid_scope",
        ),
    ],
)
def test_other_requests_get_the_errors_of_rfc_6749(
    renewed: Deployed, caller: str, form: dict[str, str], error: str
):
    response = oauth2_token(renewed, caller, **form)
    assert (response.status, response.body["error"]) == (400, error)


def test_caller_sees_the_grants_open_to_it_without_a_token(renewed: Deployed):
    def grants_of(caller: str) -> dict[str, dict[str, object]]:
        response = renewed.get("/grants", caller)
        assert response.status == 200
        assert not [t for t in renewed.enable.issued_tokens() if t in json.dumps(response.body)]
        return {grant["name"]: grant for grant in response.body["grants"]}

    mine, keyholders = grants_of("user for all"), grants_of("user keyholder")
    assert keyholders.keys() - mine.keys() == {"locked"}
    assert mine["reporting"]["scope"] == "read:deals read:activity read:users"
    assert mine["forbidden"]["state"] == "expired"
    assert keyholders["locked"]["state"] in {"live", "renewing"}
    assert 0 <= int(mine["deals"]["seconds_left"]) <= 20


def report(deployed: Deployed, token: str, caller: str = "user for all") -> Response:
    return deployed.get(
        "/tokens/users/rejection",
        caller,
        method="POST",
        headers={"Content-Type": "application/json"},
        body=json.dumps({"fingerprint": fingerprint(token)}).encode(),
    )


def test_new_token_that_is_reported_is_not_renewed_at_once(renewed: Deployed):
    renewed.enable.token_lifetime = 3 * LIFETIME  # the schedule leaves it alone meanwhile
    renewed.stack.refresh({"force": True, "grants": ["users"]})
    renewed.enable.token_lifetime = LIFETIME
    time.sleep(1.1)  # the vendor looks again after a second
    token = renewed.get(
        f"/tokens/users?min_ttl={LIFETIME.seconds + 1}", "user for all"
    ).access_token
    time.sleep(1.1)  # so does another of its environments
    response = report(renewed, token)
    assert (response.status, response.body["error"]) == (429, "slow_down")
    assert 0 < int(response.headers["retry-after"]) <= 60


def test_report_of_a_replaced_token_returns_replaced(renewed: Deployed):
    old = renewed.get("/tokens/users", "user for all").access_token
    renewed.stack.refresh({"force": True, "grants": ["users"]})
    time.sleep(1.1)  # the vendor looks again after a second
    response = report(renewed, old)
    assert (response.status, response.body) == (200, {"status": "replaced"})
    newer = renewed.get(f"/tokens/users?other_than={fingerprint(old)}", "user for all")
    assert newer.access_token != old


def test_current_token_that_is_reported_is_replaced_within_seconds(renewed: Deployed):
    prefix = renewed.stack.outputs["TokenParameterPrefix"]
    ssm = renewed.stack.administrator.client("ssm")
    # A report that meets another run's lease has no effect until it is repeated.
    have_nothing_due(renewed)
    renewed.enable.token_lifetime = 10 * LIFETIME
    renewed.stack.refresh({"force": True, "grants": ["users"]})
    renewed.enable.token_lifetime = LIFETIME
    # The token is made to look older than a minute, the least age at which it is replaced.
    value = ssm.get_parameter(Name=f"{prefix}/users", WithDecryption=True)["Parameter"]["Value"]
    record = json.loads(value)
    dead = record["access_token"]
    record["issued_at"] = rfc3339(datetime.now(UTC) - timedelta(minutes=2))
    ssm.put_parameter(
        Name=f"{prefix}/users", Value=json.dumps(record), Type="SecureString", Overwrite=True
    )
    renewed.enable.revoke(fingerprint(dead))
    used = urllib3.request(
        "GET",
        f"{renewed.enable.url}/v1/users",
        headers={"Authorization": f"Bearer {dead}"},
        retries=False,
    )
    assert used.status == 401
    time.sleep(1.1)
    response = report(renewed, dead)
    assert (response.status, response.body) == (202, {"status": "renewing"})

    def is_replaced() -> bool:
        newer = renewed.get(f"/tokens/users?other_than={fingerprint(dead)}", "user for all")
        return newer.status == 200 and newer.access_token != dead

    wait_until(is_replaced, seconds=20, what="another token")


ONCE = {
    "read:deals": 2,  # the scope of `deals` and of `locked`
    "read:activity": 1,
    "read:users": 1,
    "read:activity read:deals read:users": 1,
}
"""Each grant's scope, requested once."""
POLLING = 8
"""Callers that poll at once, two for each grant."""


def delete_all_tokens(deployed: Deployed) -> None:
    prefix = deployed.stack.outputs["TokenParameterPrefix"]
    ssm = deployed.stack.administrator.client("ssm")
    for grant in STANDARD_GRANTS:
        ssm.delete_parameter(Name=f"{prefix}/{grant}")


def nothing_is_due(deployed: Deployed) -> bool:
    outcomes = deployed.stack.refresh({"grants": list(STANDARD_GRANTS)})["grants"]
    return {outcome["state"] for outcome in outcomes.values()} == {"not_due"}


def have_nothing_due(deployed: Deployed) -> None:
    """Renew all grants, for so long that the schedule has nothing to do meanwhile."""
    deployed.enable.token_lifetime = 4 * LIFETIME
    deployed.stack.refresh({"force": True})
    wait_until(lambda: nothing_is_due(deployed), seconds=30, what="the schedule's own run to end")


def test_all_tokens_deleted_while_callers_poll_are_renewed(renewed: Deployed):
    """Every caller that waits for Retry-After gets the new token; nobody is refused for longer
    than the second in which a vendor does not look again, once that token is stored.
    """
    responses: list[tuple[str, datetime, int]] = []
    together = threading.Barrier(POLLING + 1, timeout=60)
    lasting = f"min_ttl={int(LIFETIME.total_seconds()) + 1}"

    def poll(number: int) -> bool:
        grant = STANDARD_GRANTS[number % 4]
        path = f"/tokens/{grant}"
        while (first := renewed.get(f"{path}?{lasting}", "user for all")).status != 200:
            time.sleep(1)
        together.wait()
        together.wait()
        ends = time.monotonic() + 60
        while time.monotonic() < ends:
            begun = datetime.now(UTC)
            response = renewed.get(path, "user for all")
            responses.append((grant, begun, response.status))
            if response.status == 200 and response.access_token != first.access_token:
                return True
            time.sleep(float(response.headers.get("retry-after", "0.5")))
        return False

    have_nothing_due(renewed)
    with ThreadPoolExecutor(POLLING) as callers:
        recovered = callers.map(poll, range(POLLING))
        together.wait()
        requests_before = len(renewed.enable.token_requests)
        delete_all_tokens(renewed)
        together.wait()
        assert all(recovered)
    renewed.enable.token_lifetime = LIFETIME
    since = {grant: renewed.stack.stored_since(grant) for grant in STANDARD_GRANTS}
    late = {status for grant, at, status in responses if at > since[grant] + timedelta(seconds=1.5)}
    assert late <= {200}
    requests = [r.scope for r in renewed.enable.token_requests[requests_before:] if r.status == 200]
    assert {scope: requests.count(scope) for scope in ONCE} == ONCE
