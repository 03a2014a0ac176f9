"""What a caller gets: a token's response body, and its fields."""

import json

from tests.unit.fakes import NOW, seconds, stored
from token_vendor.responses import VendedToken


def test_vended_scopes_are_delimited_by_one_space() -> None:
    token = stored(scope=("read:deals", "read:users"))
    assert json.loads(VendedToken.of(token, NOW).to_json())["scope"] == "read:deals read:users"


def test_vended_token_counts_whole_seconds_rounded_down() -> None:
    vended = VendedToken.of(stored("opaque", left=60), NOW + seconds(0.001))
    assert json.loads(vended.to_json()) == {
        "access_token": "opaque",
        "token_type": "Bearer",
        "expires_in": 59,
        "expires_at": "2025-03-01T12:01:00Z",
        "scope": "read:deals",
    }
