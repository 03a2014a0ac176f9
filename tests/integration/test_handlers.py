import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from local.fake_enable import Client, FakeEnable
from tests.integration.conftest import Account, LambdaContext, event, secret_json
from token_broker.errors import RenewalFailed
from token_broker.models import StoredToken
from token_broker.token_store import ParameterTokenStore
from token_refresher.app import lambda_handler as refresh
from token_vendor.app import lambda_handler as vend

GRANTS = {"deals", "activity", "users", "reporting"}
CONTEXT = LambdaContext()


def states(summary: dict[str, object]) -> dict[str, str]:
    return {grant: facts["state"] for grant, facts in summary["grants"].items()}


def test_schedule_event_renews_every_missing_token_once(account: Account, enable: FakeEnable):
    assert states(refresh(event("schedule"), CONTEXT)) == dict.fromkeys(GRANTS, "renewed")
    assert {request.scope for request in enable.token_requests} == {
        "read:deals",
        "read:activity",
        "read:users",
        "read:activity read:deals read:users",
    }
    assert states(refresh(event("schedule"), CONTEXT)) == dict.fromkeys(GRANTS, "not_due")
    assert len(enable.token_requests) == len(GRANTS)


def test_stored_token_has_the_documented_shape(account: Account, enable: FakeEnable):
    refresh(event("forced_refresh"), CONTEXT)
    stored = account.stored("deals")
    assert set(stored) == {
        "access_token",
        "token_type",
        "scope",
        "issued_at",
        "expires_at",
        "secret_version",
        "follows",
    }
    assert stored["access_token"] in enable.issued_tokens()
    assert stored["scope"] == "read:deals"
    left = datetime.fromisoformat(stored["expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=14, seconds=50) < left <= timedelta(minutes=15)


def test_rejected_secret_leaves_the_stored_token_and_names_the_cause(
    account: Account, enable: FakeEnable, enable_client: Client
):
    refresh({}, CONTEXT)
    before = account.stored("deals")
    for wrong in ("wrong", "wrong as well"):  # so that the previous version is wrong, too
        account.set_secret(secret_json(replace(enable_client, client_secret=wrong)))
    with pytest.raises(RenewalFailed, match=r"deals, .*reporting: .*invalid_client \(HTTP 401\)"):
        refresh({"force": True}, CONTEXT)
    assert account.stored("deals") == before


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("not json", "not valid JSON"),
        ('{"client_id": "a", "client_secret": "b"}', "dealtrack_registration_id: Field required"),
        (
            '{"client_id": "REPLACE-ME", "client_secret": "b", "dealtrack_registration_id": "c"}',
            "the secret has not been filled in yet: client_id",
        ),
    ],
)
def test_unusable_secret_is_named_before_any_request(
    account: Account, enable: FakeEnable, text: str, cause: str
):
    account.set_secret(text)
    with pytest.raises(RenewalFailed, match=cause):
        refresh({}, CONTEXT)
    assert enable.token_requests == ()


@pytest.mark.parametrize("name", ["get_token_by_role", "get_token_by_user"])
def test_renewed_token_is_vended(account: Account, enable: FakeEnable, name: str):
    refresh({}, CONTEXT)
    response = vend(event(name), CONTEXT)
    assert response["statusCode"] == 200
    assert json.loads(response["body"])["access_token"] in enable.issued_tokens()


def test_cached_live_token_is_vended_while_the_store_is_unreachable(
    account: Account, monkeypatch: pytest.MonkeyPatch
):
    refresh({}, CONTEXT)
    first = vend(event("get_token_by_role"), CONTEXT)
    account.store("deals", "overwritten outside the broker")
    second = vend(event("get_token_by_role"), CONTEXT)
    token = [json.loads(response["body"])["access_token"] for response in (first, second)]
    assert token[0] == token[1]


def test_corrupt_parameter_is_no_token_and_is_renewed(account: Account):
    account.store("deals", "written outside the broker")
    assert vend(event("get_token_by_user"), CONTEXT)["statusCode"] == 503
    assert states(refresh({}, CONTEXT))["deals"] == "renewed"


def test_unknown_grant_is_404(account: Account):
    assert vend(event("get_unknown_grant"), CONTEXT)["statusCode"] == 404


def test_token_of_6_kilobytes_is_stored_and_read_back(account: Account):
    store = ParameterTokenStore(
        account.session.client("ssm"), prefix="/enable-tokens/integration", key_id=account.key_arn
    )
    now = datetime.now(UTC).replace(microsecond=0)
    token = StoredToken(
        access_token="x" * 6_144,
        scope=("read:deals",),
        issued_at=now,
        expires_at=now + timedelta(minutes=15),
    )
    store.write("large", token)
    assert store.read("large") == token
    described = account.session.client("ssm").describe_parameters(
        ParameterFilters=[{"Key": "Name", "Values": ["/enable-tokens/integration/large"]}]
    )["Parameters"][0]
    assert described["KeyId"] == account.key_arn
    assert described["Tier"] != "Standard"


def test_absent_token_is_none(account: Account):
    store = ParameterTokenStore(account.session.client("ssm"), prefix="/enable-tokens/integration")
    assert store.read("deals") is None
