"""Every row of the design's API table, black box, IAM enforced."""

import hashlib

import pytest
import urllib3

from tests.deployed.conftest import Deployed

ROWS = [
    ("user for deals", "/tokens/deals", 200, None),
    ("user for all", "/tokens/reporting", 200, None),
    ("role for all", "/tokens/activity", 200, None),
    ("role for users", "/tokens/users", 200, None),
    ("role locked", "/tokens/locked", 200, None),
    ("user keyholder", "/tokens/locked", 200, None),
    ("user for all", "/tokens/deals?min_ttl=soon", 400, "invalid_request"),
    ("user for all", "/tokens/deals?min_ttl=-1", 400, "invalid_request"),
    ("user for all", "/tokens/deals?min_ttl=1.5", 400, "invalid_request"),
    ("user for all", "/tokens/deals?min_ttl=", 400, "invalid_request"),
    ("user for all", "/tokens/deals?min_ttl=1&min_ttl=2", 400, "invalid_request"),
    ("user for deals", "/tokens/users", 403, None),
    ("role for users", "/tokens/deals", 403, None),
    ("user without policy", "/tokens/deals", 403, None),
    ("wrong signature", "/tokens/deals", 403, None),
    (None, "/tokens/deals", 403, None),
    ("user for all", "/tokens/locked", 403, "access_denied"),
    ("role for all", "/tokens/locked", 403, "access_denied"),
    ("user for all", "/tokens/invoices", 404, "unknown_grant"),
    ("user for all", "/tokens/deals/", 404, "unknown_grant"),
    ("user for all", "/tokens/deals?min_ttl=3600", 503, "temporarily_unavailable"),
    ("user for all", "/tokens/forbidden", 503, "temporarily_unavailable"),
]


@pytest.mark.parametrize(("caller", "path", "status", "error"), ROWS)
def test_status_of(renewed: Deployed, caller: str | None, path: str, status: int, error: str):
    response = renewed.get(path, caller)
    assert response.status == status
    if error:
        assert response.body["error"] == error
        assert response.body["error_description"]
    if status == 503:
        assert int(response.headers["retry-after"]) > 0
    if status != 200:
        assert "access_token" not in response.body


def test_token_response_follows_the_contract(renewed: Deployed):
    response = renewed.get("/tokens/reporting", "role for all")
    assert response.headers["cache-control"] == "no-store"
    assert set(response.body) == {"access_token", "token_type", "expires_in", "expires_at", "scope"}
    assert response.body["token_type"] == "Bearer"
    assert response.body["scope"] == "read:deals read:activity read:users"
    assert 0 < int(response.body["expires_in"]) <= 20


@pytest.mark.parametrize(("path", "status"), [("/v1/deals", 200), ("/v1/users", 403)])
def test_token_works_at_enable_for_its_scope_alone(renewed: Deployed, path: str, status: int):
    token = renewed.get("/tokens/deals", "user for deals").access_token
    response = urllib3.request(
        "GET",
        renewed.enable.url + path,
        headers={"Authorization": f"Bearer {token}"},
        retries=False,
    )
    assert response.status == status


def test_every_vend_and_refusal_is_audited_with_its_caller(renewed: Deployed):
    seen = len(renewed.stack.log_records("token-vendor"))
    token = renewed.get("/tokens/users", "role for users").access_token
    renewed.get("/tokens/locked", "user for all")

    account = renewed.stack.account
    for message, grant, caller in (
        ("token vended", "users", f"arn:aws:sts::{account}:assumed-role/hr-job/job-1"),
        ("token refused", "locked", f"arn:aws:iam::{account}:user/everything"),
    ):
        meant = {"message": message, "grant": grant, "caller": caller}
        (line,) = renewed.stack.logged(
            "token-vendor", lambda r, meant=meant: meant.items() <= r.items(), since=seen
        )
        if grant == "users":
            assert line["fingerprint"] == hashlib.sha256(token.encode()).hexdigest()[:12]


def test_one_forbidden_grant_does_not_stop_the_others(renewed: Deployed):
    error = renewed.stack.refresh({"force": True})
    assert "forbidden" in str(error["errorMessage"])
    assert "invalid_scope" in str(error["errorMessage"])
    assert "deals" not in str(error["errorMessage"]).split("forbidden", 1)[0]
    assert renewed.get("/tokens/deals?min_ttl=10", "user for deals").status == 200


def test_environment_of_a_failed_run_serves_the_next_one_as_in_aws(renewed: Deployed):
    assert "errorMessage" in renewed.stack.refresh({"force": True})
    seen = len(renewed.stack.log_records("token-refresher"))
    assert "errorMessage" in renewed.stack.refresh({"force": True})
    runs = renewed.stack.logged(
        "token-refresher", lambda r: r.get("message") == "refresh run", since=seen
    )
    assert "cold_start" not in runs[-1]


def test_forced_refresh_returns_a_summary_without_a_token(renewed: Deployed):
    summary = renewed.stack.refresh({"force": True, "grants": ["deals"]})
    assert set(summary) == {"grants"}
    assert summary["grants"]["deals"]["state"] == "renewed"
    assert list(summary["grants"]) == ["deals"]
    assert not any(token in str(summary) for token in renewed.enable.issued_tokens())
