"""The fake Enable: what it grants, what it refuses, and what it must never repeat."""

import json
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import jwt
import pytest
from werkzeug.test import Client as WebClient
from werkzeug.test import TestResponse

from local import fake_enable
from local.fake_enable import (
    SCOPES,
    ApiRequestSeen,
    Client,
    FakeEnable,
    Outage,
    TokenRequestSeen,
    fingerprint,
)

NASTY_SECRET = 'p+ss w&rd=%/ü€"\\'
CLIENT = Client(
    client_id="7f0c1a52-buyer",
    client_secret=NASTY_SECRET,
    dealtrack_registration_id="c3b2-registration",
    permitted_scopes=frozenset({"read:deals", "read:users"}),
)
FIELDS = {
    "client_id": CLIENT.client_id,
    "client_secret": CLIENT.client_secret,
    "dealtrack_registration_id": CLIENT.dealtrack_registration_id,
    "scope": "read:deals",
    "grant_type": "client_credentials",
}
FORM = "application/x-www-form-urlencoded"
START = datetime(2025, 3, 1, 12, 0, tzinfo=UTC)


class Clock:
    """A clock that stands still until it is wound on."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def enable(clock: Clock) -> FakeEnable:
    return FakeEnable(CLIENT, clock=clock)


def post(enable: FakeEnable, body: str | bytes, content_type: str = FORM) -> TestResponse:
    return WebClient(enable).post("/oauth2/token", data=body, content_type=content_type)


def document(response: TestResponse) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(response.data)
    return parsed


def ask(enable: FakeEnable, **changes: str) -> TestResponse:
    return post(enable, urlencode(FIELDS | changes))


def get_token(enable: FakeEnable, **changes: str) -> str:
    response = ask(enable, **changes)
    assert response.status_code == 200, response.text
    return str(document(response)["access_token"])


def get(enable: FakeEnable, path: str, authorization: str | None) -> TestResponse:
    headers = {} if authorization is None else {"Authorization": authorization}
    return WebClient(enable).get(path, headers=headers)


def assert_refused(response: TestResponse, status: int, error: str) -> None:
    assert (response.status_code, document(response)["error"]) == (status, error)
    assert document(response).keys() == {"error", "error_description"}
    assert response.content_type == "application/json"
    assert response.headers["Cache-Control"] == "no-store"


# Tokens granted


def test_token_answer_is_what_enable_documents(enable: FakeEnable) -> None:
    response = ask(enable)

    assert response.status_code == 200
    assert response.content_type == "application/json"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["Pragma"] == "no-cache"
    reply = document(response)
    token = reply.pop("access_token")
    assert reply == {
        "token_type": "bearer",
        "expires_in": 900,
        "scope": "read:deals",
    }
    assert jwt.get_unverified_header(token)["alg"] == "HS256"
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims.pop("jti")
    assert claims == {
        "iss": fake_enable.ISSUER,
        "sub": CLIENT.client_id,
        "iat": int(START.timestamp()),
        "exp": int(START.timestamp()) + 900,
        "scope": "read:deals",
    }


@pytest.mark.parametrize(
    "secret",
    [NASTY_SECRET, " ", "+", "%2B", "a=b&client_secret=c", "\t\r\n", "😀", "\u00e9", "e\u0301"],
)
@pytest.mark.parametrize("encode", [urlencode, lambda form: urlencode(form, quote_via=quote)])
def test_secret_is_decoded_exactly(secret: str, encode: Callable[[dict[str, str]], str]) -> None:
    nasty = Client(client_id="id", client_secret=secret, dealtrack_registration_id=secret[::-1])
    form = FIELDS | {
        "client_id": "id",
        "client_secret": secret,
        "dealtrack_registration_id": secret[::-1],
    }

    assert post(FakeEnable(nasty), encode(form)).status_code == 200


def test_scope_has_neither_order_nor_doubles(enable: FakeEnable) -> None:
    response = ask(enable, scope="read:users read:deals read:users")

    assert document(response)["scope"] == "read:deals read:users"


def test_scope_that_opens_nothing_here_can_be_permitted() -> None:
    future = Client(
        client_id=CLIENT.client_id,
        client_secret=CLIENT.client_secret,
        dealtrack_registration_id=CLIENT.dealtrack_registration_id,
        permitted_scopes=SCOPES | {"read:schemes"},
    )

    assert ask(FakeEnable(future), scope="read:schemes").status_code == 200


def test_tokens_are_unique_under_concurrent_requests(enable: FakeEnable) -> None:
    with ThreadPoolExecutor(8) as threads:
        tokens = set(threads.map(lambda _: get_token(enable), range(40)))

    assert len(tokens) == 40
    assert set(enable.issued_tokens()) == tokens
    assert {seen.fingerprint for seen in enable.token_requests} == set(map(fingerprint, tokens))


# Tokens refused


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("fault", ["missing", "empty", "repeated"])
def test_faulty_field_is_named(enable: FakeEnable, name: str, fault: str) -> None:
    pairs = [(key, value) for key, value in FIELDS.items() if key != name]
    if fault == "empty":
        pairs.append((name, ""))
    if fault == "repeated":
        pairs.extend([(name, FIELDS[name])] * 2)

    response = post(enable, urlencode(pairs))

    assert_refused(response, 400, "invalid_request")
    assert document(response)["error_description"] == f"{name} is {fault}"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(urlencode(FIELDS | {"audience": "x"}), id="unknown-field"),
        pytest.param(f"client_secret=p&rd=1&{urlencode(FIELDS)}", id="bare-ampersand"),
        pytest.param(urlencode(FIELDS).replace("%25", "%"), id="bare-percent"),
        pytest.param(urlencode(FIELDS).replace("%3D", "&x"), id="no-equals-sign"),
        pytest.param(urlencode(FIELDS, encoding="utf-16"), id="not-utf-8"),
        pytest.param(urlencode(FIELDS).replace("%C3%BC", "ü").encode(), id="raw-utf-8"),
        pytest.param(urlencode(FIELDS) + "&", id="trailing-ampersand"),
        pytest.param(json.dumps(FIELDS), id="json"),
        pytest.param("", id="no-body"),
    ],
)
def test_malformed_form_is_refused_without_an_echo(enable: FakeEnable, body: str | bytes) -> None:
    response = post(enable, body)

    assert_refused(response, 400, "invalid_request")
    for text in (*FIELDS.values(), "rd", "audience"):
        assert text not in document(response)["error_description"].split()


@pytest.mark.parametrize("content_type", ["application/json", "multipart/form-data", ""])
def test_other_content_type_is_refused(enable: FakeEnable, content_type: str) -> None:
    assert_refused(post(enable, urlencode(FIELDS), content_type), 400, "invalid_request")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS"])
def test_other_method_is_refused(enable: FakeEnable, method: str) -> None:
    response = WebClient(enable).open("/oauth2/token", method=method, query_string=FIELDS)

    assert_refused(response, 405, "invalid_request")
    assert response.headers["Allow"] == "POST"


@pytest.mark.parametrize(
    ("changes", "status", "error"),
    [
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
        ({"grant_type": "Client_Credentials"}, 400, "unsupported_grant_type"),
        ({"client_id": "nobody"}, 401, "invalid_client"),
        ({"client_secret": NASTY_SECRET + " "}, 401, "invalid_client"),
        ({"client_secret": "wrong"}, 401, "invalid_client"),
        ({"dealtrack_registration_id": "wrong-ü"}, 401, "invalid_client"),
        ({"scope": "read:activity"}, 400, "invalid_scope"),
        ({"scope": "read:deals read:activity"}, 400, "invalid_scope"),
        ({"scope": "READ:DEALS"}, 400, "invalid_scope"),
        ({"scope": "read:everything"}, 400, "invalid_scope"),
        ({"scope": "read:deals  read:users"}, 400, "invalid_scope"),
        ({"scope": " read:deals"}, 400, "invalid_scope"),
        ({"scope": "read:deals\tread:users"}, 400, "invalid_scope"),
        ({"scope": '"read:deals"'}, 400, "invalid_scope"),
        ({"scope": "read:däls"}, 400, "invalid_scope"),
    ],
)
def test_refusal_has_its_oauth_error(
    enable: FakeEnable, changes: dict[str, str], status: int, error: str
) -> None:
    response = ask(enable, **changes)

    assert_refused(response, status, error)
    assert not list(enable.issued_tokens())
    known = None if "client_id" in changes else CLIENT.client_id
    assert enable.token_requests == (
        TokenRequestSeen(at=START, client_id=known, status=status, error=error),
    )


def test_wrong_credentials_are_not_told_apart(enable: FakeEnable) -> None:
    responses = {
        ask(enable, **{name: "wrong"}).data
        for name in ("client_id", "client_secret", "dealtrack_registration_id")
    }

    assert len(responses) == 1


# Secrets rotated, endpoint broken


def test_changed_secret_replaces_the_old_one(enable: FakeEnable) -> None:
    enable.change_secret(CLIENT.client_id, "new")

    assert_refused(ask(enable), 401, "invalid_client")
    assert ask(enable, client_secret="new").status_code == 200


def test_old_secret_can_be_accepted_until_the_next_change(enable: FakeEnable) -> None:
    enable.change_secret(CLIENT.client_id, "new", also_accept_old=True)
    assert ask(enable).status_code == 200
    assert ask(enable, client_secret="new").status_code == 200

    enable.change_secret(CLIENT.client_id, "newer", also_accept_old=True)
    assert_refused(ask(enable), 401, "invalid_client")
    assert ask(enable, client_secret="new").status_code == 200


def test_secret_of_an_unknown_client_cannot_be_changed(enable: FakeEnable) -> None:
    with pytest.raises(KeyError):
        enable.change_secret("nobody", "new")


@pytest.mark.parametrize(
    ("outage", "retry_after"),
    [
        (Outage(status=503), None),
        (Outage(status=503, retry_after=timedelta(seconds=1.2)), "2"),
        (Outage(status=429, retry_after=timedelta(minutes=1)), "60"),
    ],
)
def test_outage_lasts_until_it_is_lifted(
    enable: FakeEnable, outage: Outage, retry_after: str | None
) -> None:
    enable.stop_answering(outage)
    response = ask(enable)
    assert response.status_code == outage.status
    assert response.headers.get("Retry-After") == retry_after
    assert enable.token_requests == (TokenRequestSeen(at=START, status=outage.status),)

    enable.stop_answering(None)
    assert ask(enable).status_code == 200


def test_outage_can_close_the_connection(enable: FakeEnable) -> None:
    enable.stop_answering(Outage(status=None))

    with pytest.raises(ConnectionAbortedError):
        ask(enable)
    assert enable.token_requests == (TokenRequestSeen(at=START, status=None),)


def test_latency_delays_the_token_endpoint(enable: FakeEnable) -> None:
    enable.latency = timedelta(milliseconds=50)
    before = time.monotonic()

    assert ask(enable).status_code == 200
    assert time.monotonic() - before >= 0.05


# The API


OF_ALL = {"client_id": "a", "client_secret": "b", "dealtrack_registration_id": "c"}


@pytest.mark.parametrize("area", [path.removeprefix("/v1/") for path in fake_enable._AREAS])
def test_area_opens_for_its_scope(area: str) -> None:
    enable = FakeEnable(Client(**OF_ALL))
    scope = f"read:{area}" if f"read:{area}" in SCOPES else "read:deals"
    token = get_token(enable, **OF_ALL, scope=scope)

    response = get(enable, f"/v1/{area}", f"bearer {token}")

    assert response.status_code == 200
    assert response.content_type == "application/vnd.api+json"
    resources = document(response)["data"]
    assert resources
    assert all(resource.keys() == {"type", "id", "attributes"} for resource in resources)
    assert {resource["type"] for resource in resources} == {area}


@pytest.mark.parametrize("signature", ["HS256", "RS256"])
def test_signature_can_be_either(signature: fake_enable.Signature) -> None:
    enable = FakeEnable(CLIENT, signature=signature)
    token = get_token(enable)
    assert jwt.get_unverified_header(token)["alg"] == signature
    assert get(enable, "/v1/deals", f"Bearer {token}").status_code == 200


# Reports


def start_report(enable: FakeEnable, token: str) -> TestResponse:
    return WebClient(enable).post(
        "/v1/reports/earnings", headers={"Authorization": f"Bearer {token}"}
    )


def test_report_is_polled_and_then_redirects_to_its_result(
    enable: FakeEnable, clock: Clock
) -> None:
    enable.report_time = timedelta(minutes=30)
    started = start_report(enable, get_token(enable))
    job = started.headers["Content-Location"]
    bearer = f"Bearer {get_token(enable)}"

    pending = get(enable, job, bearer)
    result = job.replace("queue-jobs", "results")
    early = get(enable, result, bearer)
    clock.now += enable.report_time
    bearer = f"Bearer {get_token(enable)}"  # the report took longer than the first token lived
    done = get(enable, job, bearer)

    assert (started.status_code, pending.status_code, early.status_code) == (202, 200, 404)
    assert document(pending)["data"]["type"] == "queue-jobs"
    assert pending.headers["Retry-After"] == "1"
    assert (done.status_code, done.headers["Location"]) == (303, result)
    assert document(get(enable, result, bearer))["data"][0]["type"] == "earnings"


def test_report_needs_a_live_token_and_its_scope_at_every_step(
    enable: FakeEnable, clock: Clock
) -> None:
    token = get_token(enable)
    job = start_report(enable, token).headers["Content-Location"]
    clock.now += enable.token_lifetime

    assert_token_refused(get(enable, job, f"Bearer {token}"))
    assert_token_refused(start_report(enable, token))
    assert start_report(enable, get_token(enable, scope="read:users")).status_code == 403


def test_report_of_another_client_is_not_there(clock: Clock) -> None:
    enable = FakeEnable(CLIENT, Client(**OF_ALL), clock=clock)
    job = start_report(enable, get_token(enable)).headers["Content-Location"]
    other = f"Bearer {get_token(enable, **OF_ALL)}"
    clock.now += enable.report_time

    assert get(enable, job, other).status_code == 404
    assert get(enable, job.replace("queue-jobs", "results"), other).status_code == 404
    assert get(enable, job.replace("earnings", "turnover"), other).status_code == 404


def tampered(token: str) -> str:
    head, claims, signature = token.split(".")
    return f"{head}.{claims[:-2]}AA.{signature}"


def respelled(token: str) -> str:
    """Return another spelling of the same signature: its last base64 digit has spare bits."""
    spelling = token[:-1] + chr(ord(token[-1]) + 1)
    signatures = [text.rpartition(".")[2] + "=" for text in (token, spelling)]
    assert urlsafe_b64decode(signatures[0]) == urlsafe_b64decode(signatures[1])
    return spelling


@pytest.mark.parametrize(
    "authorize",
    [
        pytest.param(lambda _: None, id="missing"),
        pytest.param(lambda _: "", id="empty"),
        pytest.param(lambda token: token, id="no-scheme"),
        pytest.param(lambda token: f"Basic {token}", id="other-scheme"),
        pytest.param(lambda _: "Bearer ", id="no-token"),
        pytest.param(lambda _: "Bearer not-a-jwt", id="no-jwt"),
        pytest.param(lambda token: f"Bearer {tampered(token)}", id="tampered"),
        pytest.param(lambda token: f"Bearer {respelled(token)}", id="respelled"),
        pytest.param(lambda _: f"Bearer {get_token(FakeEnable(CLIENT))}", id="other-key"),
    ],
)
def test_bad_token_is_refused(enable: FakeEnable, authorize: Callable[[str], str | None]) -> None:
    response = get(enable, "/v1/deals", authorize(get_token(enable)))

    assert_token_refused(response)


def assert_token_refused(response: TestResponse) -> None:
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
    assert response.content_type == "application/vnd.api+json"
    assert document(response)["errors"][0]["status"] == "401"


def test_token_dies_at_its_expiry(enable: FakeEnable, clock: Clock) -> None:
    clock.now += timedelta(milliseconds=300)
    enable.token_lifetime = timedelta(seconds=2)
    token = get_token(enable)

    clock.now += timedelta(seconds=2)
    assert get(enable, "/v1/deals", f"Bearer {token}").status_code == 200, "expires_in is kept"

    clock.now = START + timedelta(seconds=3)
    assert_token_refused(get(enable, "/v1/deals", f"Bearer {token}"))


def test_revoked_token_is_refused_and_others_live_on(enable: FakeEnable) -> None:
    revoked, other = get_token(enable), get_token(enable)
    enable.revoke(fingerprint(revoked))

    assert_token_refused(get(enable, "/v1/deals", f"Bearer {revoked}"))
    assert get(enable, "/v1/deals", f"Bearer {other}").status_code == 200
    with pytest.raises(KeyError):
        enable.revoke("000000000000")


def test_token_without_the_scope_is_forbidden(enable: FakeEnable) -> None:
    response = get(enable, "/v1/users", f"Bearer {get_token(enable)}")

    assert response.status_code == 403
    challenge = 'Bearer error="insufficient_scope", scope="read:users"'
    assert response.headers["WWW-Authenticate"] == challenge
    assert document(response)["errors"][0]["code"] == "insufficient_scope"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/deals", 405),
        ("GET", "/v1/deals/", 404),
        ("GET", "/", 404),
        ("GET", "/v1/reports/x", 404),
    ],
)
def test_rest_of_the_api_is_not_there(
    enable: FakeEnable, method: str, path: str, status: int
) -> None:
    response = WebClient(enable).open(path, method=method)

    assert response.status_code == status
    assert document(response)["errors"][0]["status"] == str(status)


# What it remembers, and what it must not show


def test_records_say_what_happened(enable: FakeEnable, clock: Clock) -> None:
    deals = get_token(enable)
    clock.now += timedelta(seconds=1)
    both = get_token(enable, scope="read:users read:deals")
    get(enable, "/v1/users", f"Bearer {deals}")
    get(enable, "/v1/users", None)

    assert enable.token_requests == (
        TokenRequestSeen(
            at=START,
            client_id=CLIENT.client_id,
            scope="read:deals",
            status=200,
            fingerprint=fingerprint(deals),
        ),
        TokenRequestSeen(
            at=START + timedelta(seconds=1),
            client_id=CLIENT.client_id,
            scope="read:deals read:users",
            status=200,
            fingerprint=fingerprint(both),
        ),
    )
    assert enable.api_requests == (
        ApiRequestSeen(at=clock.now, path="/v1/users", status=403, fingerprint=fingerprint(deals)),
        ApiRequestSeen(at=clock.now, path="/v1/users", status=401, fingerprint=None),
    )
    assert enable.count_issued_by_scope() == {"read:deals": 1, "read:deals read:users": 1}


def test_no_repr_record_or_log_holds_a_secret_or_a_token(
    enable: FakeEnable, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    enable.change_secret(CLIENT.client_id, "n3w-s3cret", also_accept_old=True)
    token = get_token(enable, client_secret="n3w-s3cret")
    ask(enable, client_id=NASTY_SECRET, scope=NASTY_SECRET)  # put where they do not belong
    post(enable, f"{urlencode(FIELDS)}&{quote(NASTY_SECRET)}=1")
    get(enable, "/v1/deals", f"Bearer {token}")

    shown = [CLIENT, enable, enable.token_requests, enable.api_requests, enable._issued.keys()]
    written = "".join([*map(repr, shown), repr(enable._issued), caplog.text, *capfd.readouterr()])
    for guarded in (NASTY_SECRET, repr(NASTY_SECRET)[1:-1], "n3w-s3cret", token):
        assert guarded not in written


# Settings and the command's files


@pytest.mark.parametrize("field", ["client_id", "client_secret", "dealtrack_registration_id"])
def test_empty_credential_is_refused(field: str) -> None:
    credentials = {name: FIELDS[name] for name in list(FIELDS)[:3]}

    with pytest.raises(ValueError, match=f"^{field} must be a non-empty string$"):
        Client(**credentials | {field: ""})  # type: ignore[arg-type]


@pytest.mark.parametrize("seconds", [-1, 0, 0.5, 1.5])
def test_lifetime_is_whole_seconds(enable: FakeEnable, seconds: float) -> None:
    with pytest.raises(ValueError, match="whole number of seconds"):
        enable.token_lifetime = timedelta(seconds=seconds)


def test_url_needs_a_running_server(enable: FakeEnable) -> None:
    with pytest.raises(RuntimeError, match="not serving"):
        _ = enable.token_url


def test_client_file_is_private_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "client.json"
    fake_enable._write_client(CLIENT, path)

    assert path.stat().st_mode & 0o777 == 0o600
    assert fake_enable._load_client(path).client_secret == NASTY_SECRET
    with pytest.raises(FileExistsError):
        fake_enable._write_client(CLIENT, path)


@pytest.mark.parametrize(
    "text",
    [
        "hunter2",
        '["hunter2"]',
        '{"client_id": "hunter2"}',
        '{"client_id": "", "client_secret": "hunter2", "dealtrack_registration_id": "r"}',
        '{"client_id": "i", "client_secret": "hunter2", "dealtrack_registration_id": "r",'
        ' "permitted_scopes": "hunter2"}',
    ],
)
def test_command_refuses_a_bad_client_file_without_quoting_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    path = tmp_path / "client.json"
    path.write_text(text)

    with pytest.raises(SystemExit, match="2"):
        fake_enable.main(["--client", str(path)])
    assert "hunter2" not in capsys.readouterr().err
