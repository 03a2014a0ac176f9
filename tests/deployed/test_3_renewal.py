"""Short-lived tokens, renewed by the schedule alone while callers keep asking."""

import time
from collections import Counter
from datetime import UTC, datetime

from tests.deployed.conftest import LIFETIME, Deployed


def test_schedule_renews_before_expiry_and_the_predecessor_is_served_until_then(
    renewed: Deployed,
):
    seen: dict[str, datetime] = {}
    asked_before = len(renewed.enable.token_requests)
    began = time.monotonic()
    while time.monotonic() - began < 2.2 * LIFETIME.total_seconds():
        answer = renewed.get("/tokens/activity", "role for all")
        assert answer.status == 200
        assert int(answer.body["expires_in"]) >= 1
        seen[answer.access_token] = datetime.now(UTC)
        time.sleep(0.1)
    assert len(seen) >= 3
    requests = renewed.enable.token_requests[asked_before:]
    by_scope = Counter(request.scope for request in requests if request.status == 200)
    assert by_scope["read:activity"] <= 5  # one for each renewal, whatever the callers do


def test_nothing_is_asked_for_while_nothing_is_due(renewed: Deployed):
    renewed.stack.refresh({"force": True, "grants": ["users"]})
    asked = len(renewed.enable.token_requests)
    assert renewed.stack.refresh({"grants": ["users"]})["grants"]["users"]["state"] == "not_due"
    mine = [r for r in renewed.enable.token_requests[asked:] if r.scope == "read:users"]
    assert mine == []
