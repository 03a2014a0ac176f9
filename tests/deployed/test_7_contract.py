"""The published contract, held against the deployed API: hostile requests, then generated ones.

What API Gateway refuses by itself has a `message` (IAM's refusals: `Message`) and no `error`,
names its kind in `x-amzn-errortype` and says nothing of caches; what the function refuses has
`error` and `error_description`. That tells the two apart, and each is held to its own shape.
"""

import http.client
import json
import socket
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, urlsplit

import pytest
import requests
import schemathesis
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi import checks

from local.broker_stack import STACK_NAME
from local.callers import TokenApi, create_user
from local.embedded_aws import REGION
from tests.deployed.conftest import Deployed
from token_vendor.api_event import MAX_BODY_CHARS
from tools.openapi import FILE

LOG_GROUP = f"/enable-token-broker/{STACK_NAME}/token-vendor"
SIGNED_HERE = schemathesis.Config.from_dict({"generation": {"with-security-parameters": False}})
OPERATIONS = {
    operation.ok().definition.raw["operationId"]: operation.ok()
    for operation in schemathesis.openapi.from_path(FILE, config=SIGNED_HERE).get_all_operations()
}
KNOWN = ("deals", "activity", "users", "reporting", "locked", "tried-out", "forbidden")
VALID_FORM = {"grant_type": "client_credentials", "scope": "read:deals"}
NOISE = st.dictionaries(st.text(min_size=1, max_size=8), st.text(max_size=8), max_size=3)
CONFORMANCE = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
]
PLAN = [
    ("getToken", GenerationMode.POSITIVE, 60),
    ("getToken", GenerationMode.NEGATIVE, 60),
    ("reportRejection", GenerationMode.POSITIVE, 40),
    ("reportRejection", GenerationMode.NEGATIVE, 60),
    ("listGrants", GenerationMode.POSITIVE, 10),
    ("requestToken", GenerationMode.POSITIVE, 60),
    ("requestToken", GenerationMode.NEGATIVE, 60),
]


def sign(
    api: TokenApi, credentials: Credentials, method: str, url: str, body: object
) -> dict[str, str]:
    """The headers that sign a request; none but Host and the date are signed.

    The query goes in decoded, so that it is signed in its canonical spelling, whatever its own.
    """
    path, _, query = url.partition("?")
    parameters = parse_qsl(query, keep_blank_values=True)
    request = AWSRequest(method, path, {"Host": api.host}, body, parameters)
    SigV4Auth(credentials, "execute-api", REGION).add_auth(request)
    return dict(request.headers.items())


class Signature(requests.auth.AuthBase):
    def __init__(self, api: TokenApi, credentials: Credentials) -> None:
        self.api, self.credentials = api, credentials

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        signed = sign(self.api, self.credentials, request.method, request.url, request.body)
        request.headers.update(signed)
        return request


def assert_response(status: int, headers: Mapping[str, str], body: bytes) -> str | None:
    """The function's error code, or None: the response is the function's or the gateway's."""
    assert status < 500 or status == 503, body
    document = json.loads(body)
    if "message" in document or "Message" in document:
        assert status in {400, 403, 413, 429}
        assert "error" not in document
        assert headers["x-amzn-errortype"]
        return None
    assert headers["content-type"] == "application/json"
    assert headers["cache-control"] == "no-store"
    assert headers["pragma"] == "no-cache"
    assert ("retry-after" in headers) is (status in {429, 503})
    if status < 400:
        return None
    assert document.keys() == {"error", "error_description"}
    return str(document["error"])


def log_lines(deployed: Deployed) -> Iterator[str]:
    """All that the vendor logged; some of it twice, because pages overlap."""
    logs, start = deployed.stack.administrator.client("logs"), 0
    while True:
        events = logs.filter_log_events(logGroupName=LOG_GROUP, startTime=start)["events"]
        yield from (event["message"] for event in events)
        if len(events) < 10_000:
            return
        start = events[-1]["timestamp"]


@pytest.fixture(scope="module", autouse=True)
def log_of_its_own(renewed: Deployed) -> Iterator[None]:
    """What comes after does not search thousands of lines, nor find these callers in them.

    The embedded CloudWatch gives out the oldest 10,000 lines of a log and no token for more.
    """
    yield
    logs = renewed.stack.administrator.client("logs")
    filters = logs.describe_metric_filters(logGroupName=LOG_GROUP)["metricFilters"]
    logs.delete_log_group(logGroupName=LOG_GROUP)
    logs.create_log_group(logGroupName=LOG_GROUP)
    logs.put_retention_policy(logGroupName=LOG_GROUP, retentionInDays=30)
    for found in filters:
        names = ("logGroupName", "filterName", "filterPattern", "metricTransformations")
        logs.put_metric_filter(**{name: found[name] for name in names})


# ── Hostile requests ─────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Reply:
    """What came back; no status when the connection was closed without a word."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def error(self) -> str | None:
        return json.loads(self.body).get("error") if self.body[:1] == b"{" else None


def send(
    deployed: Deployed,
    caller: str | None,
    method: str,
    target: str,
    *,
    headers: tuple[tuple[str, bytes], ...] = (),
    body: bytes = b"",
) -> Reply:
    """Send exactly these bytes: no client library tidies up the target or the headers."""
    api = deployed.stack.api
    target = f"/{api.stage}{target}"
    url = urlsplit(api.endpoint_url)
    lines = [f"{method} {target} HTTP/1.1".encode()]
    if caller:
        request_url = f"{api.endpoint_url}{target}"
        signed = sign(api, deployed.callers[caller], method, request_url, body)
    else:
        signed = {"Host": api.host}
    lines += [f"{name}: {value}".encode() for name, value in signed.items()]
    lines += [name.encode() + b": " + value for name, value in headers]
    if not any(name.lower() in {"content-length", "transfer-encoding"} for name, _ in headers):
        lines.append(b"Content-Length: %d" % len(body))
    with socket.create_connection((url.hostname, url.port), timeout=20) as connection:
        try:
            connection.sendall(b"\r\n".join([*lines, b"Connection: close", b"", body]))
            with http.client.HTTPResponse(connection, method=method) as response:
                response.begin()
                received = {name.lower(): value for name, value in response.getheaders()}
                return Reply(response.status, received, response.read())
        except (ConnectionError, http.client.HTTPException):
            return Reply(0, {}, b"")


def assert_refused(reply: Reply, method: str = "GET") -> None:
    """By the function or by API Gateway, and with no token."""
    assert 400 <= reply.status < 500, reply
    assert b"access_token" not in reply.body
    if method != "HEAD":
        assert_response(reply.status, reply.headers, reply.body)


OTHERS = ("users", "locked")
SPELLINGS = [
    "/tokens/{other}",
    "/tokens/{other}/",
    "//tokens/{other}",
    "/tokens//{other}",
    "/./tokens/{other}",
    "/tokens/./{other}",
    "/tokens/deals/../{other}",
    "/tokens/deals/..//{other}",
    "/tokens/deals/%2e%2e/{other}",
    "/tokens/deals/.%2e/{other}",
    "/tokens/deals/..%2f{other}",
    "/tokens/deals%2f..%2f{other}",
    "/tokens/deals%2F%2e%2e%2F{other}",
    "/tokens/deals%252f..%252f{other}",
    "/tokens/deals%5c..%5c{other}",
    "/tokens/deals/..;/{other}",
    "/tokens/{other}/../deals",
    "/tokens/{other}%2f..%2fdeals",
    "/tokens/{other}/%2e%2e/deals",
    "/../v1/tokens/{other}",
    "/%2e%2e/v1/tokens/{other}",
    "/tokens/deals/{other}",
    "/tokens/deals%2f{other}",
    "/tokens/deals%00{other}",
    "/tokens/{other}%00deals",
    "/tokens/{other}%00",
    "/tokens/{other}%0a",
    "/tokens/{other}%20",
    "/tokens/deals%0d%0a{other}",
    "/tokens/deals,{other}",
    "/tokens/deals;grant={other}",
    "/tokens/deals?grant={other}",
    "/tokens/deals?path=/tokens/{other}&resource={other}&pathParameters.grant={other}",
    "/tokens/deals%3fgrant={other}",
    "/tokens/deals%23/{other}",
    "/tokens/{upper}",
    "/TOKENS/{other}",
    "/tokens/{encoded}",
    "/tokens/{wide}",
    "/tokens/{other}%e2%80%8b",
    "/tokens/%e2%80%ae{other}",
    "/tokens/*",
    "/tokens/d*",
    "/tokens/?????",
    "/tokens/%7bgrant%7d",
    "/tokens/%2a",
    "/tokens",
    "/tokens/",
    "/",
    "",
]
DISGUISES: list[tuple[tuple[str, bytes], ...]] = [
    (("X-Original-URL", b"/v1/tokens/{other}"), ("X-Rewrite-URL", b"/v1/tokens/{other}")),
    (("X-Forwarded-Path", b"/tokens/{other}"), ("X-Forwarded-Prefix", b"/tokens/{other}")),
    (("X-HTTP-Method-Override", b"POST"), ("X-HTTP-Method", b"POST")),
    (("X-Amzn-Apigateway-Api-Id", b"other"), ("X-Amz-Grant", b"{other}")),
    (("Grant", b"{other}"), ("Path", b"/tokens/{other}")),
]


def tokens_of(deployed: Deployed, user: str) -> set[object]:
    """The grants whose tokens a user has been given, as the audit log says."""
    return {
        record["grant"]
        for record in deployed.stack.log_records("token-vendor")
        if record.get("message") == "token vended" and str(record["caller"]).endswith(user)
    }


@pytest.fixture(scope="module")
def wildcard(renewed: Deployed) -> str:
    """A user whose policy is careless: whatever begins with /tokens/d."""
    policy = renewed.stack.api.policy("/tokens/d*")
    renewed.callers["user for d*"] = create_user(renewed.stack.administrator, "careless", policy)
    return "user for d*"


def test_no_spelling_gets_a_grant_that_iam_does_not_allow(renewed: Deployed, wildcard: str):
    for caller in ("user for deals", wildcard):
        for other in OTHERS:
            spelled = {
                "other": other,
                "upper": other.upper(),
                "encoded": "".join(f"%{ord(letter):02x}" for letter in other),
                "wide": quote("".join(chr(ord(letter) + 0xFEE0) for letter in other)),
            }
            for spelling in SPELLINGS:
                target = spelling.format_map(spelled)
                reply = send(renewed, caller, "GET", target)
                if reply.status == 200:  # what it may have, however oddly spelled
                    assert urlsplit(target).path == "/tokens/deals", target
                else:
                    assert_refused(reply)
            for disguise in DISGUISES:
                disguised = tuple((k, v.replace(b"{other}", other.encode())) for k, v in disguise)
                reply = send(renewed, caller, "GET", "/tokens/deals", headers=disguised)
                assert reply.status == 200
    assert tokens_of(renewed, ":user/sync") == {"deals"}
    assert tokens_of(renewed, ":user/careless") == {"deals"}


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/tokens/deals/rejection"),
        ("GET", "/tokens/deals/rejection"),
        ("POST", "/tokens/deals"),
        ("GET", "/grants"),
        ("POST", "/oauth2/token"),
        ("HEAD", "/tokens/deals"),
        ("OPTIONS", "/tokens/deals"),
    ],
)
def test_permission_for_one_token_is_for_nothing_else(renewed: Deployed, method: str, target: str):
    form = (("Content-Type", b"application/x-www-form-urlencoded"),)
    body = b"grant_type=client_credentials&scope=read:deals" if method == "POST" else b""
    reply = send(renewed, "user for deals", method, target, headers=form, body=body)
    assert reply.status == 403
    assert_refused(reply, method)


@pytest.mark.parametrize(
    "method", ["PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "GETS", "X"]
)
@pytest.mark.parametrize("target", ["/tokens/deals", "/tokens/deals/rejection", "/grants"])
def test_other_method_is_refused(renewed: Deployed, method: str, target: str):
    assert_refused(send(renewed, "user for all", method, target), method)


@pytest.mark.parametrize(
    ("target", "status", "error"),
    [
        ("/tokens/deals?min_ttl=1&min_ttl=2", 400, "invalid_request"),
        ("/tokens/deals?min_ttl=1&min%5fttl=1", 400, "invalid_request"),
        ("/tokens/deals?min_ttl=%31%00", 400, "invalid_request"),
        ("/tokens/deals?min_ttl=0x10", 400, "invalid_request"),
        ("/tokens/deals?min_ttl=1_0", 400, "invalid_request"),
        ("/tokens/deals?min_ttl=%201", 400, "invalid_request"),
        ("/tokens/deals?min_ttl=1%0a", 400, "invalid_request"),
        ("/tokens/deals?min_ttl=%EF%BC%91", 400, "invalid_request"),
        ("/tokens/deals?min_ttl=%D9%A3", 400, "invalid_request"),
        ("/tokens/deals?min_ttl=%C2%B2", 400, "invalid_request"),
        ("/tokens/deals?min_ttl=1e3", 400, "invalid_request"),
        ("/tokens/deals?min_ttl=NaN", 400, "invalid_request"),
        (f"/tokens/deals?min_ttl={'9' * 7_000}", 503, "temporarily_unavailable"),
        ("/tokens/deals?other_than=", 400, "invalid_request"),
        ("/tokens/deals?other_than=0123456789AB", 400, "invalid_request"),
        ("/tokens/deals?other_than=0123456789ab%0a", 400, "invalid_request"),
        ("/tokens/deals?other_than=0123456789ab&other_than=0123456789ab", 400, "invalid_request"),
        ("/tokens/deals?min_ttl=1;min_ttl=2", 400, "invalid_request"),
        ("/tokens/deals?&&&min_ttl&=&min_ttl=x", 400, "invalid_request"),
        ("/tokens/deals/", 404, "unknown_grant"),
        ("/tokens/%00", 404, "unknown_grant"),
        ("/tokens/%ff", 404, "unknown_grant"),
        ("/tokens/%F0%9F%94%91", 404, "unknown_grant"),
        (f"/tokens/{'d' * 8_000}", 404, "unknown_grant"),
        ("/tokens/__proto__", 404, "unknown_grant"),
        ("/tokens/$%7bjndi:ldap:%7d", 404, "unknown_grant"),
        ("/tokens/%27%20or%201=1--", 404, "unknown_grant"),
        ("/tokens/..%5c..%5cetc", 404, "unknown_grant"),
    ],
)
def test_odd_path_or_query_is_refused(renewed: Deployed, target: str, status: int, error: str):
    reply = send(renewed, "user for all", "GET", target)
    assert (reply.status, reply.error) == (status, error)
    assert_response(reply.status, reply.headers, reply.body)


@pytest.mark.parametrize("odd", ["\u2028", "\u2029", "\x85", "\u202e", "\x0b", "\x1c", '"}'])
def test_no_name_breaks_a_line_of_the_audit_log(renewed: Deployed, odd: str):
    name = f'a{odd}{{"message": "token vended"}}'
    assert send(renewed, "user for all", "GET", f"/tokens/{quote(name, safe='')}").status == 404
    assert renewed.stack.logged(
        "token-vendor", lambda r: (r.get("message"), r.get("grant")) == ("token refused", name)
    )


def test_unknown_query_parameter_is_ignored(renewed: Deployed):
    # RFC 6749 section 3.2: unrecognized request parameters are ignored.
    target = f"/tokens/deals?minttl=9999&grant=users&%00=%ff&x={'y' * 2_000}"
    reply = send(renewed, "user for deals", "GET", target)
    assert reply.status == 200
    assert json.loads(reply.body)["scope"] == "read:deals"


JSON_TYPE = (("Content-Type", b"application/json"),)
FORM_TYPE = (("Content-Type", b"application/x-www-form-urlencoded"),)
FORM = b"grant_type=client_credentials&scope=read:deals"
PRINT = b'{"fingerprint": "0123456789ab"}'
BODIES: list[tuple[str, tuple[tuple[str, bytes], ...], bytes]] = [
    *(
        ("/tokens/deals/rejection", JSON_TYPE, body)
        for body in (
            b"",
            b"null",
            b"[]",
            b'"0123456789ab"',
            b"0123456789ab",
            b"NaN",
            b"9" * 5_000,
            b"\xff\xfe{\x00}\x00",
            b"\x00",
            PRINT[:-1],
            PRINT + PRINT,
            b'{"fingerprint": "0123456789ab\\n"}',
            b'{"fingerprint": "0123456789AB"}',
            b'{"fingerprint": "\\ud800"}',
            b'{"fingerprint": 123456789012}',
            b'{"fingerprint": ["0123456789ab"]}',
            b'{"fingerprint": {"fingerprint": "0123456789ab"}}',
            b'{"fingerprint": "0123456789ab", "fingerprint": null}',
            b'{"Fingerprint": "0123456789ab"}',
            b"eyJmaW5nZXJwcmludCI6ICIwMTIzNDU2Nzg5YWIifQ==",
            b"\x1f\x8b\x08\x00" + PRINT,
            b"[" * (MAX_BODY_CHARS - 1),
            b'{"a":' * 1_600,
            b"[" * 1_000_000,
            PRINT + b" " * MAX_BODY_CHARS,
            b" " * 6_000_000,
            b"\xff" * 6_000_000,
        )
    ),
    *(
        ("/oauth2/token", FORM_TYPE, body)
        for body in (
            b"",
            b"=",
            b"&",
            b"grant_type",
            b"\xff\xfe",
            b"%",
            FORM + b"&x=%ff",
            FORM + b"&scope=read:users",
            FORM + b"&grant_type=client_credentials",
            FORM.replace(b"read:deals", b""),
            FORM.replace(b"read:deals", b"read%3adeals%00"),
            FORM.replace(b"read:deals", b"read:deals+"),
            FORM.replace(b"read:deals", b"read:deals%20%20read:users"),
            FORM.replace(b"read:deals", b"READ:DEALS"),
            FORM.replace(b"read:deals", b"*"),
            FORM.replace(b"grant_type", b"grant%255ftype"),
            FORM.replace(b"&", b";"),
            FORM.replace(b"client_credentials", b"refresh_token"),
            FORM + b"&a=b" * 40,
            b'{"grant_type": "client_credentials", "scope": "read:deals"}',
            b"Z3JhbnRfdHlwZT1jbGllbnRfY3JlZGVudGlhbHMmc2NvcGU9cmVhZDpkZWFscw==",
            FORM + b"&x=" + b"y" * 6_000_000,
        )
    ),
    *(
        ("/oauth2/token", content_type, FORM)
        for content_type in (
            (),
            JSON_TYPE,
            (("Content-Type", b"text/plain"),),
            (("Content-Type", b"multipart/form-data; boundary=x"),),
            (("Content-Type", b"application/x-www-form-urlencoded/../json"),),
            (("Content-Type", b"\xff\xfe"),),
            (("Content-Type", b""),),
        )
    ),
]


@pytest.mark.parametrize(("target", "headers", "body"), BODIES)
def test_odd_body_is_refused(
    renewed: Deployed, target: str, headers: tuple[tuple[str, bytes], ...], body: bytes
):
    reply = send(renewed, "user keyholder", "POST", target, headers=headers, body=body)
    assert_refused(reply)
    assert reply.error in {"invalid_request", "invalid_scope", "unsupported_grant_type"}


@pytest.mark.parametrize(
    ("headers", "statuses"),
    [
        ((("X-Long", b"x" * 60_000),), {200, 0, 400, 431}),
        (tuple((f"X-{number}", b"x") for number in range(300)), {200, 0, 400, 431}),
        ((("X-Latin", b"\xe9\xff\x80"),), {200, 0, 400}),
        ((("X-Utf8", "é€🔑".encode()),), {200, 0, 400}),
        ((("X-Empty", b""),), {200}),
        ((("X Space", b"x"),), {0, 400}),
        ((("X-Null", b"a\x00b"),), {0, 400}),
        ((("X-Folded", b"a\r\n b"),), {200, 0, 400}),
        ((("Accept", b"text/html"), ("Accept-Encoding", b"nonsense")), {200}),
        ((("Range", b"bytes=0-3"), ("If-None-Match", b"*")), {200}),
        ((("Expect", b"200-ok"),), {200, 0, 400, 417}),
        ((("X-Forwarded-For", b"' or 1=1"), ("X-Forwarded-Proto", b"gopher")), {200}),
        ((("Forwarded", b"for=user/everything"), ("X-Amzn-Caller", b"root")), {200}),
    ],
)
def test_odd_headers_change_nothing_or_are_refused(
    renewed: Deployed, headers: tuple[tuple[str, bytes], ...], statuses: set[int]
):
    reply = send(renewed, "user for deals", "GET", "/tokens/deals", headers=headers)
    assert reply.status in statuses
    if reply.status == 200:
        assert_response(reply.status, reply.headers, reply.body)
        assert json.loads(reply.body)["scope"] == "read:deals"


# ── Generated requests ───────────────────────────────────────────────────────────────────────────


@dataclass
class Tally:
    """What came of the generated requests, by operation."""

    seen: Counter[tuple[str, int, str | None]] = field(default_factory=Counter)
    scopes: dict[str, str] = field(default_factory=dict)


@pytest.fixture(scope="module")
def tally(renewed: Deployed) -> Tally:
    grants = renewed.get("/grants", "user keyholder").body["grants"]
    return Tally(scopes={grant["name"]: grant["scope"] for grant in grants})


def cases(name: str, mode: GenerationMode) -> st.SearchStrategy[Case]:
    """Half of them of grants that there are; some with parameters that the contract lacks."""
    operation = OPERATIONS[name]
    made = operation.as_strategy(generation_mode=mode)
    if "{grant}" in operation.path:
        known = [
            operation.as_strategy(generation_mode=mode, path_parameters={"grant": grant})
            for grant in KNOWN
        ]
        made |= st.one_of(known)
    if name == "requestToken" and mode == GenerationMode.POSITIVE:
        made |= operation.as_strategy(body=VALID_FORM)
    return made


@pytest.mark.parametrize(("name", "mode", "number"), PLAN)
def test_responses_to_generated_requests_follow_the_contract(
    renewed: Deployed, tally: Tally, name: str, mode: GenerationMode, number: int
):
    api = renewed.stack.api
    caller = "user keyholder" if name == "requestToken" else "user for all"
    signature = Signature(api, renewed.callers[caller])
    wanted = [*CONFORMANCE]
    if name != "requestToken":  # a well-formed scope need not be a grant's
        wanted.append(checks.positive_data_acceptance)

    @seed(4)
    @settings(
        max_examples=number,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases(name, mode), NOISE)
    def check_case(case: Case, noise: dict[str, str]) -> None:
        if name == "listGrants":
            case.query = noise
        response = case.call(f"{api.endpoint_url}/{api.stage}", session, auth=signature)
        case.validate_response(response, checks=wanted)
        headers = {header: values[0] for header, values in response.headers.items()}
        error = assert_response(response.status_code, headers, response.content)
        kind = error or headers.get("x-amzn-errortype")
        tally.seen[name, response.status_code, kind] += 1
        if response.status_code == 200 and name == "getToken":
            grant = str(case.path_parameters["grant"])
            assert response.json()["scope"] == tally.scopes[grant]

    with requests.Session() as session:
        session.trust_env = False
        check_case()


def test_generated_requests_were_of_every_kind(tally: Tally):
    assert tally.seen.total() == sum(number for _, _, number in PLAN)
    assert tally.seen.keys() >= {
        ("getToken", 200, None),
        ("getToken", 400, "invalid_request"),
        ("getToken", 403, "access_denied"),
        ("getToken", 404, "unknown_grant"),
        ("getToken", 503, "temporarily_unavailable"),
        ("reportRejection", 200, None),
        ("reportRejection", 400, "invalid_request"),
        ("reportRejection", 403, "access_denied"),
        ("reportRejection", 404, "unknown_grant"),
        ("listGrants", 200, None),
        ("requestToken", 200, None),
        ("requestToken", 400, "invalid_request"),
        ("requestToken", 400, "invalid_scope"),
        ("requestToken", 400, "unsupported_grant_type"),
    }


def test_no_request_put_a_token_into_the_log(renewed: Deployed):
    lines = "\n".join(log_lines(renewed))
    assert lines.count("START RequestId") > 100
    assert not [token for token in renewed.enable.issued_tokens() if token in lines]
