"""One target for each untrusted input: what it may look like, and what must be true of it.

Whatever comes in, nothing but the declared errors comes out, and no secret with them: in no
message, no log line and no metric, with urllib3's and botocore's own logs at DEBUG.
"""

import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, cast
from unittest.mock import patch
from urllib.parse import parse_qs

import pytest
from botocore.credentials import Credentials
from hypothesis import strategies as st

from enable_broker_client.api import TokenApi
from enable_broker_client.errors import BrokerClientError, NotNow
from enable_broker_client.signing import Signer
from enable_broker_client.source import TokenSource
from tests.fuzz import inputs
from tests.fuzz.memory_http import ClientTransport, refreshers_http
from tests.unit.fakes import (
    NOW,
    SECRET,
    SECRET_PREFIX,
    TOKEN,
    URL,
    VERSION,
    Broker,
    FakeClock,
    FakeContext,
    FakeSsm,
    FrozenDatetime,
    all_said,
    leaks,
    rejection,
    seconds,
    secrets_client,
    stored,
)
from token_broker.callers import is_allowed
from token_broker.errors import (
    ConfigurationError,
    CorruptStoredToken,
    GrantBlocked,
    InvalidRequest,
    InvalidTokenResponse,
    RenewalFailed,
    TokenEndpointError,
    TokenEndpointUnavailable,
)
from token_broker.expiry import MAX_LIFETIME
from token_broker.grants import GRANTS_FILE, Grant, load_grants_file
from token_broker.models import StoredToken, block_record, fingerprint
from token_broker.token_store import ParameterTokenStore
from token_refresher import app as refresher_app
from token_refresher.backoff import LONGEST_BACKOFF
from token_refresher.check_grants import faults
from token_refresher.connection_state import LEASE, ConnectionState
from token_refresher.credentials import SecretReader
from token_refresher.enable.acceptance import accept
from token_refresher.enable.endpoint import LONGEST_WAIT, MAX_ATTEMPTS, TokenEndpoint
from token_refresher.enable.http_client import HttpClient
from token_vendor import app as vendor_app
from token_vendor.refresh_starter import RefreshStarter
from token_vendor.vend import Vendor

GRANTS: Final = {
    "deals": Grant(scope=("read:deals",)),
    "reporting": Grant(
        scope=("read:deals", "read:users"),
        callers=("arn:aws:iam::111122223333:role/reporting-*",),
    ),
}
DEALS: Final = {"deals": GRANTS["deals"]}
LOOPBACK: Final = "http://127.0.0.1/oauth2/token"
_REASON: Final = re.compile(r"[a-z0-9_]{1,40}")
_HEADER_VALUE: Final = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An input, and the property it must keep.

    Attributes:
        inputs: what an untrusted source may send.
        check: fails for an input that the code does not bear.
        weight: its share of the inputs tried: a cheap check gets more of them.
        from_bytes: makes an input of any bytes, for the fuzzer that follows the coverage.
        examples: sound inputs that it begins with.
    """

    inputs: st.SearchStrategy[Any]
    check: Callable[[Any], None]
    weight: int
    from_bytes: Callable[[bytes], object] | None = None
    examples: tuple[bytes, ...] = ()


# ── What is stated, and by whom ───────────────────────────────────────────────────────────────────


class _Overheard(logging.Handler):
    """Every record of every library, and what the handlers log and print."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.spoken = io.StringIO()

    def emit(self, record: logging.LogRecord) -> None:
        self.spoken.write(f"{record.getMessage()}\n{record.exc_info or ''}\n")

    def leaks(self) -> list[str]:
        return leaks(self.spoken.getvalue())


@contextmanager
def overhearing() -> Iterator[_Overheard]:
    """Listen; at the end nothing may have been stated that contains a secret."""
    heard, root = _Overheard(), logging.getLogger()
    level = root.level
    streams: list[tuple[Any, Any]] = []
    for logger in (refresher_app.logger, vendor_app.logger):
        handler: Any = logger.registered_handler
        streams.append((handler, handler.setStream(heard.spoken)))
    root.addHandler(heard)
    root.setLevel(logging.DEBUG)
    try:
        with redirect_stdout(heard.spoken):
            yield heard
    finally:
        root.setLevel(level)
        root.removeHandler(heard)
        for handler, stream in streams:
            handler.setStream(stream)
    assert not heard.leaks()


@contextmanager
def refresher_of(broker: Broker) -> Iterator[Callable[[object], dict[str, Any]]]:
    """The refresh function's handler over a broker of fakes; its clock is the broker's."""

    class Clock(FrozenDatetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:  # noqa: ARG003
            return broker.clock()

    with ExitStack() as stack:
        stack.enter_context(patch.object(refresher_app, "_refresher", broker.refresher))
        stack.enter_context(patch.object(refresher_app, "datetime", Clock))
        yield lambda given: refresher_app.lambda_handler(given, FakeContext())


@contextmanager
def vendor_of(store: Any) -> Iterator[Callable[[object], dict[str, Any]]]:
    """The vend function's handler over a store."""
    clock = FakeClock()
    vendor = Vendor(
        grants=GRANTS,
        store=store,
        cache_window=seconds(60),
        refresh_ahead=seconds(600),
        on_read_fault=lambda _error: None,
        now=clock,
        monotonic=clock.monotonic,
    )
    starter = RefreshStarter(invoke=lambda _event: None, on_fault=_unexpected, now=clock)
    wiring = vendor_app.Wiring(vendor, starter)
    with ExitStack() as stack:
        stack.enter_context(patch.object(vendor_app, "_wiring", lambda: wiring))
        stack.enter_context(patch.object(vendor_app, "datetime", FrozenDatetime))
        yield lambda given: cast("Any", vendor_app.lambda_handler(given, FakeContext()))


def _unexpected(error: Exception) -> None:
    raise error


def _run(refresh: Callable[[object], dict[str, Any]], given: object) -> dict[str, Any]:
    """Each grant's summary; of those that failed, only that they did."""
    try:
        summary = refresh(given)
    except RenewalFailed as error:
        assert not leaks(all_said(error))  # noqa: PT017
        return {grant: {"state": "failed", "cause": cause} for grant, cause in error.causes.items()}
    assert not leaks(json.dumps(summary))
    return cast("dict[str, Any]", summary["grants"])


# ── grants.toml ──────────────────────────────────────────────────────────────────────────────────


class _File:
    """As much of a Path as reading it takes."""

    def __init__(self, text: str) -> None:
        self._text = text

    def read_text(self, **_options: object) -> str:
        return self._text


_CALLERS: Final = (
    "",
    "arn:aws:iam::111122223333:user/ops/" + "a" * 500,
    "arn:aws:sts::111122223333:assumed-role/reporting-nightly/session",
    "arn:aws:sts::111122223333:assumed-role/" + "-" * 64 + "/session",
)


def check_grants(toml: str) -> None:
    """The functions refuse what the build refuses, and read the rest in the same way."""
    found = faults(toml)
    assert all(isinstance(fault, str) and fault for fault in found)
    if found:
        with pytest.raises(ConfigurationError):
            load_grants_file(cast("Any", _File(toml)))
        return
    file = load_grants_file(cast("Any", _File(toml)))
    for name, grant in file.grants.items():
        assert re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", name)
        assert all(isinstance(scope, str) and scope and " " not in scope for scope in grant.scope)
        for caller in _CALLERS:
            # Nobody gets past a lock who is not a principal.
            assert not (is_allowed(caller, grant.callers or ()) and not caller)


# ── The token endpoint ───────────────────────────────────────────────────────────────────────────


def check_answer(data: bytes, url: str = "", http: HttpClient | None = None) -> None:
    """A response is a token worth storing, or one of the declared errors.

    Args:
        data: the response's bytes, read from memory.
        url: of a server that gives the response instead, through `http`.
        http: the refresher's client.
    """
    clock, waits = FakeClock(), list[float]()
    ends = clock() + seconds(50)

    def sleep(wait: float) -> None:
        waits.append(wait)
        clock.wind(wait)

    endpoint = TokenEndpoint(
        url or LOOPBACK,
        http=http or refreshers_http(data),
        now=clock,
        sleep=sleep,
        jitter=lambda: 0.5,
    )
    scope = ("read:deals",)
    with overhearing():
        try:
            issued = endpoint.request_token(
                VERSION.request(scope), time_left=lambda: ends - clock()
            )
            token = accept(issued, scope=scope, now=clock())
        except TokenEndpointError as error:
            _check_refusal(error, waits)
            return
    assert _HEADER_VALUE.fullmatch(token.access_token)
    assert timedelta() < token.expires_at - clock() <= MAX_LIFETIME
    assert StoredToken.from_json(token.to_json()) == token


def _check_refusal(error: TokenEndpointError, waits: list[float]) -> None:
    assert not leaks(all_said(error))
    assert _REASON.fullmatch(error.reason)
    assert len(str(error)) < 500
    assert error.attempts <= MAX_ATTEMPTS
    assert all(0 <= wait <= LONGEST_WAIT.total_seconds() for wait in waits)
    assert error.retry_after is None or error.retry_after >= timedelta()
    if not isinstance(error, TokenEndpointUnavailable | InvalidTokenResponse):
        assert error.attempts == 1


# ── The secret ───────────────────────────────────────────────────────────────────────────────────


class _Secrets:
    """Secrets Manager, with one secret of one version."""

    exceptions = secrets_client().exceptions

    def __init__(self, text: str) -> None:
        self._text = text

    def get_secret_value(self, VersionStage: str, **_options: object) -> dict[str, str]:  # noqa: N803
        if VersionStage != "AWSCURRENT":
            raise self.exceptions.ResourceNotFoundException({"Error": {}}, "GetSecretValue")
        return {"SecretString": self._text, "VersionId": "v1"}


def check_secret(text: str) -> None:
    """A secret arrives at the token endpoint exactly, or is refused without a word of it."""
    broker = Broker(grants=DEALS)
    broker.store.tokens.clear()
    reader = SecretReader(cast("Any", _Secrets(text)), prefix=SECRET_PREFIX)
    broker.secrets = cast("Any", reader)
    with overhearing(), refresher_of(broker) as refresh:
        [output] = _run(refresh, {}).values()
    if output["state"] == "renewed":
        [request] = broker.endpoint.requests
        written, sent = (
            json.loads(text.removeprefix("\ufeff")),
            parse_qs(request.form().decode(), strict_parsing=True),
        )
        for name in ("client_id", "client_secret", "dealtrack_registration_id"):
            assert sent[name] == [written[name]]
    else:
        assert output["cause"].startswith(f"the secret {SECRET_PREFIX}default")
        assert broker.endpoint.requests == []


# ── Events ───────────────────────────────────────────────────────────────────────────────────────

_API_STATUSES: Final = {200, 202, 400, 403, 404, 429, 503}


def check_api_event(given: Any) -> None:
    """Any event gets a response, and no fault of ours is counted for it."""
    store = ParameterTokenStore(cast("Any", FakeSsm()), prefix="/p", key_id="key")
    store.write("deals", stored(age=300))
    store.write("reporting", stored("other", scope=GRANTS["reporting"].scope))
    with overhearing() as heard, vendor_of(store) as vend:
        response = vend(given)
    assert response["statusCode"] in _API_STATUSES
    assert response["headers"]["Cache-Control"] == "no-store"
    body = json.loads(response["body"])
    assert "VendFault" not in heard.spoken.getvalue()
    if response["statusCode"] >= 400:
        assert set(body) == {"error", "error_description"}
        assert len(body["error_description"]) < 200
    if "access_token" not in body:
        assert not leaks(response["body"])
        return
    asked = given["pathParameters"]["grant"] if "{grant}" in given["resource"] else None
    assert response["statusCode"] == 200
    assert given["requestContext"]["identity"]["userArn"]
    assert asked in {None, *GRANTS}
    if body["access_token"] == "other":
        assert ":assumed-role/reporting-" in given["requestContext"]["identity"]["userArn"]


def check_refresh_event(given: object) -> None:
    """An event is a run, or is refused with a word on what is wrong."""
    broker = Broker(grants=GRANTS)
    with overhearing(), refresher_of(broker) as refresh:
        try:
            output = _run(refresh, given)
        except InvalidRequest as error:
            assert not leaks(all_said(error))  # noqa: PT017
            assert broker.store.reads == []
            return
    assert set(output) <= set(GRANTS)
    assert {facts["state"] for facts in output.values()} <= {"renewed", "not_due"}


# ── What is stored ───────────────────────────────────────────────────────────────────────────────

_EVENT: Final = {
    "httpMethod": "GET",
    "resource": "/tokens/{grant}",
    "path": "/tokens/deals",
    "pathParameters": {"grant": "deals"},
    "requestContext": {"identity": {"userArn": "arn:aws:iam::111122223333:user/a"}},
}


def check_stored_token(text: str) -> None:
    """Whatever stands in a token's place is vended if it will do, else replaced by the next run."""
    ssm = FakeSsm()
    ssm.values["/p/deals"] = [text]
    store = ParameterTokenStore(cast("Any", ssm), prefix="/p", key_id="key")
    broker = Broker(grants=DEALS)
    broker.store = cast("Any", store)
    is_blocked, is_corrupt = _kind_of(store)
    with overhearing() as heard, vendor_of(store) as vend, refresher_of(broker) as refresh:
        response = vend(_EVENT)
        _check_vended(response)
        assert ("VendFault" in heard.spoken.getvalue()) is is_corrupt  # which is what alarms
        [output] = _run(refresh, {}).values()
    if is_blocked:
        assert output["state"] == "blocked"
        assert ssm.values["/p/deals"] == [text]
        assert broker.endpoint.requests == []
        return
    assert output["state"] in {"renewed", "not_due"}
    assert not is_corrupt or output["reason"] == "corrupt_parameter"
    recovered = store.read("deals")
    assert recovered is not None
    assert recovered.scope == DEALS["deals"].scope
    assert timedelta() < recovered.time_left(NOW) <= MAX_LIFETIME
    with vendor_of(store) as vend, overhearing():
        assert vend(_EVENT)["statusCode"] == 200


def _kind_of(store: ParameterTokenStore) -> tuple[bool, bool]:
    """Whether a block is stored, and whether nothing is that the broker knows."""
    try:
        store.read("deals")
    except GrantBlocked:
        return True, False
    except CorruptStoredToken as error:
        assert not leaks(all_said(error))  # noqa: PT017
        return False, True
    return False, False


def _check_vended(response: dict[str, Any]) -> None:
    body = json.loads(response["body"])
    if response["statusCode"] != 200:
        assert response["statusCode"] == 503
        assert not leaks(response["body"])
        return
    assert body["scope"] == "read:deals"
    assert body["expires_in"] >= 0


def check_stored_state(text: str) -> None:
    """Nothing that stands there stops renewal for longer than a lease and the longest backoff.

    A backoff that ends too late to be valid counts from that time before its end on.
    """
    broker = Broker(grants=DEALS)
    broker.store.tokens.clear()
    with overhearing(), refresher_of(broker) as refresh:
        for response in (rejection("invalid_scope"), rejection("invalid_client"), None):
            broker.clock = FakeClock()
            broker.states.put_text(text)
            broker.endpoint.responses = {"read:deals": response} if response else {}
            for _ in range(3):  # a lease by a fast clock ends after twice its time
                [output] = _run(refresh, {}).values()
                if output["state"] != "in_progress":
                    break
                broker.clock.wind(LEASE.total_seconds())
            assert len(broker.states.texts["default"][-1]) <= max(len(text), 4_000)
            asked = len(broker.endpoint.requests)
            broker.clock.wind(60)  # the schedule's next run
            _run(refresh, {})
            broker.clock.wind(LONGEST_BACKOFF.total_seconds())
            [output] = _run(refresh, {}).values()
            if output["state"] == "in_progress":  # a lease that begins just now
                broker.clock.wind(2 * LEASE.total_seconds())
                [output] = _run(refresh, {}).values()
            assert len(broker.endpoint.requests) > asked or output["state"] == "not_due"
        assert output["state"] in {"renewed", "not_due"}
        assert "deals" in broker.store.tokens


def check_state_round_trip(text: str) -> None:
    """Reading a state never fails, and what is read can be written again."""
    state = ConnectionState.from_json(text)
    written = state.to_json()
    assert len(written) <= 4_000
    again = ConnectionState.from_json(written)
    assert again.backoff == state.backoff
    assert all(backoff == state.grants[name] for name, backoff in again.grants.items())


# ── The client library ───────────────────────────────────────────────────────────────────────────


class _Session:
    """Credentials that never change."""

    def get_credentials(self) -> Credentials:
        return Credentials("AKIAEXAMPLE", SECRET)


def check_client_answer(data: bytes) -> None:
    """Anyone who returns instead of the broker: the caller gets a token, or a declared error."""
    clock, url = FakeClock(), "http://127.0.0.1/v1"
    signer = Signer(url, session=_Session(), region="eu-west-1", host=None)
    transport = ClientTransport(data)
    with overhearing():
        api = TokenApi(url, "deals", signer, transport)
        try:
            token, expires_in = api.vend(5.0)
        except (BrokerClientError, NotNow) as error:
            _check_client_error(error)
        else:
            assert _HEADER_VALUE.fullmatch(token.access_token)
            assert 0 <= expires_in < 10**9
            assert not leaks(repr(token).replace(f"scope={token.scope!r}", ""))
        source = TokenSource(
            url,
            "deals",
            session=_Session(),
            region="eu-west-1",
            retry_budget=seconds(2),
            transport=transport,
            clock=lambda: clock().timestamp(),
            sleep=clock.wind,
        )
        try:
            access_token = source.get()
        except BrokerClientError as error:
            assert not isinstance(error, NotNow)  # noqa: PT017
            _check_client_error(error)
            access_token = "refused"
        source.reject(access_token)


def _check_client_error(error: BrokerClientError) -> None:
    assert not leaks(all_said(error))
    assert len(str(error)) < 500


# ── All of them ──────────────────────────────────────────────────────────────────────────────────


_TOKEN_RESPONSE: Final = (
    b'{"access_token": "%b", "token_type": "Bearer", "expires_in": 900, "scope": "read:deals"}'
    % TOKEN.encode()
)
_RESPONSES: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(_TOKEN_RESPONSE), _TOKEN_RESPONSE),
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
    % (len(_TOKEN_RESPONSE), _TOKEN_RESPONSE),
    b'HTTP/1.1 400 No\r\nConnection: close\r\n\r\n{"error": "invalid_scope"}',
    b"HTTP/1.1 429 No\r\nRetry-After: Sat, 01 Mar 2025 12:00:05 GMT\r\nContent-Length: 0\r\n\r\n",
)
_STATE: Final = (
    b'{"backoff":["http_429",0,1740830490,""],"grants":{"deals":["invalid_scope",1,1740830455.5,'
    b'"0123456789ab"]},"unanswered":["deals"],"leased_at":1740830400,"owner":"0123456789ab"}'
)
_SECRET: Final = json.dumps(
    {"client_id": "7f0c", "client_secret": SECRET, "dealtrack_registration_id": "c3b2"}
)


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")


_KEYS: Final = [fingerprint("\n".join(["v1", URL, *more])) for more in ((), ("read:deals",))]

TARGETS: Final = {
    "grants.toml": Target(
        inputs=inputs.grants_files(),
        check=check_grants,
        weight=20,
        from_bytes=_text,
        examples=(GRANTS_FILE.read_bytes(),),
    ),
    "token endpoint's responses": Target(
        inputs=inputs.http_answers(inputs.token_answers | inputs.refusals),
        check=check_answer,
        weight=5,
        from_bytes=bytes,
        examples=_RESPONSES,
    ),
    "API events": Target(inputs=inputs.api_events(), check=check_api_event, weight=4),
    "refresh events": Target(inputs=inputs.refresh_events(), check=check_refresh_event, weight=3),
    "stored tokens and blocks": Target(
        inputs=inputs.stored_tokens,
        check=check_stored_token,
        weight=3,
        from_bytes=_text,
        examples=(stored().to_json().encode(), block_record("leak", now=NOW).encode()),
    ),
    "stored states": Target(
        inputs=inputs.stored_states(*_KEYS), check=check_stored_state, weight=1
    ),
    "states, read and written": Target(
        inputs=inputs.stored_states(*_KEYS),
        check=check_state_round_trip,
        weight=30,
        from_bytes=_text,
        examples=(_STATE,),
    ),
    "secrets": Target(
        inputs=inputs.secrets,
        check=check_secret,
        weight=3,
        from_bytes=_text,
        examples=(_SECRET.encode(),),
    ),
    "broker's responses to the client library": Target(
        inputs=inputs.http_answers(inputs.vended | inputs.refusals),
        check=check_client_answer,
        weight=3,
        from_bytes=bytes,
        examples=_RESPONSES,
    ),
}
