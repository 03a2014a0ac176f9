"""Every fault that the broker is tested against, and what has to come of it.

The tests run these rows and docs/faults.md is made of them:

    python -m tests.faults.fault_table > docs/faults.md
"""

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from enum import Enum, StrEnum
from typing import Any, Final

from botocore.config import Config

from tests.conftest import NASTY_SECRET
from tests.faults.fault_server import (
    ABSENT,
    ACCESS_TOKEN,
    NEVER_SHOWN,
    Body,
    Exchange,
    Form,
    Step,
    chunked,
    close,
    drip_body,
    drip_headers,
    drip_interim,
    echo,
    endless,
    error,
    gzipped,
    interim,
    jwt,
    late,
    pipelined,
    raw,
    redirect,
    reset,
    respond,
    silence,
    token,
    unframed,
)
from token_broker.aws import CLIENT_CONFIG, WRITER_CONFIG
from token_refresher.due_grant import UNREADABLE
from token_refresher.outcomes import State

DAY: Final = 86_400.0
LONGEST_HOLD_SECONDS: Final = 900.0
SOUND: Final = respond(200, token())
QUOTED: Final = f"{NASTY_SECRET} {NEVER_SHOWN}"
"""What a careless message of AWS might repeat."""

JUNK: Final = b"<html><body>Down for maintenance</body></html>"
TOO_LARGE: Final = b'{"access_token": "' + b"x" * 65_536 + b'"}'


class Where(StrEnum):
    """What the token endpoint's URL leads to."""

    HTTP = "a server on loopback"
    CLOSED_PORT = "a port nobody listens on"
    NO_DNS = "a host name nobody knows"
    DEAD_ADDRESSES = "a name of five addresses, of which four let every connection wait"
    PROXY = "a TLS server behind the proxy of HTTPS_PROXY"
    PROXY_REFUSES = "a proxy that refuses every request"
    NO_PROXY_THERE = "a proxy that is not there"
    SLOW_DNS = "a server whose name takes longer to find than an attempt may"
    FULL_BACKLOG = "a port that never accepts"
    TLS = "a server with a sound certificate"
    TLS_EXPIRED = "one whose certificate has expired"
    TLS_WRONG_HOST = "one whose certificate is for another host"
    TLS_SELF_SIGNED = "one whose certificate nobody vouches for"
    TLS_SILENT = "one that never ends the handshake"
    TLS_RESET = "one that resets the connection instead of a handshake"


class Wait(Enum):
    """What a failed run leaves for the next ones to wait for."""

    NONE = "none"
    GRANT = "the grant waits about a minute"
    CONNECTION = "all grants of the connection wait about a minute"
    ASKED = "all grants of the connection wait as long as Enable asked"


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamFault:
    """One way for the token endpoint to misbehave.

    Attributes:
        group: the heading it stands under.
        what: what happens.
        script: what the server does, request by request; the last step repeats.
        where: what the endpoint's URL leads to.
        attempts: tries that are made and reported.
        arriving: requests that get as far as the server's application, if not every try.
        waits: exact seconds between the tries, where the server asks for them.
        state: what the summary says.
        reason: likewise; empty where nothing is wrong.
        cause: likewise: the whole text, or a pattern for it.
        backoff: what later runs wait for.
        held_seconds: how long, where the server asks for it.
        is_replaced: whether the new token is stored; otherwise the old one is untouched.
        lifetime_seconds: of the new token.
        secret_stages: further versions of the client secret that exist.
        is_hurried: run with time-outs of a fraction of a second.
        why: of a difference between two responses, why it is tolerated or not.
    """

    group: str
    what: str
    why: str = ""
    script: tuple[Step, ...] = ()
    where: Where = Where.HTTP
    attempts: int = 1
    arriving: int | None = None
    waits: tuple[float, ...] | None = None
    state: State = State.FAILED
    reason: str = ""
    cause: str | re.Pattern[str] = ""
    backoff: Wait = Wait.NONE
    held_seconds: float = 0
    is_replaced: bool = False
    lifetime_seconds: float = 3600
    secret_stages: tuple[str, ...] = ()
    is_hurried: bool = False


# ── Kinds of rows ────────────────────────────────────────────────────────────────────────────


def _accepted(group: str, what: str, *script: Step, **more: Any) -> UpstreamFault:
    """The response is a token, which replaces the stored one."""
    expected = {"state": State.RENEWED, "is_replaced": True} | more
    return UpstreamFault(group=group, what=what, script=script, **expected)


def _transient(group: str, what: str, *script: Step, **more: Any) -> UpstreamFault:
    """Tried four times in the run, and by the next run again."""
    return UpstreamFault(group=group, what=what, script=script, **{"attempts": 4} | more)


def _refused(group: str, what: str, *script: Step, **more: Any) -> UpstreamFault:
    """Not tried again in the run, and by later ones at widening intervals."""
    return UpstreamFault(group=group, what=what, script=script, **{"backoff": Wait.GRANT} | more)


def _malformed(group: str, what: str, *script: Step, fault: str, **more: Any) -> UpstreamFault:
    """HTTP 200, but no token response; the cause names the fault (a pattern) and no value."""
    cause = re.compile(rf"the response is not a token response: {fault}")
    return _refused(group, what, *script, reason="invalid_response", cause=cause, **more)


def _made(body: Body, form: Form) -> bytes:
    return body if isinstance(body, bytes) else body(form)


def _dated(seconds: float) -> Step:
    """A 429 whose Retry-After is an HTTP date so far from now."""

    def step(exchange: Exchange) -> bool:
        when = format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)
        return respond(429, headers={"Retry-After": when})(exchange)

    return step


def _shouted(form: Form) -> bytes:
    body = _made(token(), form)
    return b"HTTP/1.1 200 OK\r\nCONTENT-LENGTH: %d\r\nx-a: 1\r\n\r\n%s" % (len(body), body)


def _busy(retry_after: str, status: int = 429) -> Step:
    return respond(status, headers={"Retry-After": retry_after})


# ── The token endpoint ───────────────────────────────────────────────────────────────────────

_NETWORK: Final = "Network"
_BROKEN_OFF: Final = {
    "reason": "connection",
    "cause": "no response from the token endpoint: the connection ended, or carried no valid HTTP",
}
_NO_CONNECTION: Final = {
    "reason": "connect",
    "cause": "no response from the token endpoint: no connection",
    "arriving": 0,
}
_LATE: Final = {
    "reason": "timeout",
    "cause": "no response from the token endpoint: it took too long",
    "is_hurried": True,
}
_UNTRUSTED: Final = {
    "reason": "tls",
    "cause": "no response from the token endpoint: TLS failed or was not trusted",
    "arriving": 0,
}

_NETWORK_ROWS: Final = (
    _transient(_NETWORK, "Connection refused", where=Where.CLOSED_PORT, **_NO_CONNECTION),
    _transient(_NETWORK, "Host name not found (DNS)", where=Where.NO_DNS, **_NO_CONNECTION),
    _transient(
        _NETWORK,
        "No connection in time",
        where=Where.FULL_BACKLOG,
        arriving=0,
        **_LATE,
    ),
    _accepted(
        _NETWORK,
        "Four of five addresses let every connection wait",
        SOUND,
        where=Where.DEAD_ADDRESSES,
    ),
    _transient(_NETWORK, "No response in time", silence(), **_LATE),
    _transient(_NETWORK, "Headers dripping beyond the deadline", drip_headers(), **_LATE),
    _transient(_NETWORK, "Body dripping beyond the deadline", drip_body(), **_LATE),
    _transient(
        _NETWORK,
        "Body dripping beyond the deadline, through TLS",
        drip_body(),
        where=Where.TLS,
        **_LATE,
    ),
    _transient(
        _NETWORK,
        "Host name found after the deadline, then a dripping body",
        drip_body(),
        where=Where.SLOW_DNS,
        **_LATE,
    ),
    _accepted(_NETWORK, "A slow response within the deadline", late(token())),
    _transient(_NETWORK, "Closed without a response", close(), **_BROKEN_OFF),
    _transient(_NETWORK, "Reset without a response", reset(), **_BROKEN_OFF),
    _transient(
        _NETWORK,
        "Reset within the body",
        reset(b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"access_token": "'),
        **_BROKEN_OFF,
    ),
    _transient(
        _NETWORK,
        "Body shorter than its Content-Length",
        respond(200, b'{"access_token": "', length=500),
        **_BROKEN_OFF,
    ),
    _transient(
        _NETWORK,
        "Body shorter than its Content-Length, though what came is whole JSON",
        respond(200, token(), length=500),
        **_BROKEN_OFF,
    ),
    _transient(
        _NETWORK, "Chunked body without its end", chunked(token(), is_complete=False), **_BROKEN_OFF
    ),
    _accepted(
        _NETWORK,
        "Interim responses (100, 102, 103 with headers) before the final one",
        interim(100, 102, 103),
    ),
    _accepted(_NETWORK, "16 interim responses", interim(*[102] * 16)),
    _transient(_NETWORK, "17 interim responses", interim(*[102] * 17), **_BROKEN_OFF),
    _transient(
        _NETWORK,
        "Interim responses without end",
        drip_interim(),
        **_LATE,
    ),
    _refused(
        _NETWORK,
        "101, an upgrade that was not requested",
        respond(101),
        reason="http_101",
        cause="the token endpoint returned HTTP 101",
    ),
    _accepted(
        _NETWORK,
        "A second response, with another token, behind the first",
        pipelined(token(), token(access_token="another")),
    ),
    _transient(_NETWORK, "Not HTTP at all", raw(b"SSH-2.0-server\r\n\r\n"), **_BROKEN_OFF),
    _transient(
        _NETWORK,
        "A status line that repeats the secret",
        raw(lambda form: b"HTTP/9 " + form["client_secret"].encode() + b"\r\n\r\n"),
        **_BROKEN_OFF,
    ),
    _transient(
        _NETWORK,
        "A header line of more than 64 KiB",
        raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n"),
        **_BROKEN_OFF,
    ),
    _accepted(
        _NETWORK,
        "A malformed header that repeats the secret, and a sound body",
        raw(
            lambda form: (
                b"HTTP/1.1 200 OK\r\nX-A: 1\r\n"
                + form["client_secret"].encode()
                + b" without a colon\r\nConnection: close\r\n\r\n"
                + _made(token(), form)
            )
        ),
    ),
)

_PROXY: Final = "Through a proxy"
_NO_TOKEN_BY_PROXY: Final = (
    "no response from the token endpoint: the proxy refused the request or cannot be reached"
)


def _named_in(cause: object, more: str = "") -> re.Pattern[str]:
    """A cause that ends with the proxy's address, and what else is known of the proxy beside it."""
    named = rf" \(proxy 127\.0\.0\.1:[0-9]+{re.escape(more)}\)"
    return re.compile(re.escape(str(cause)) + named)


def _no_way(more: str) -> dict[str, Any]:
    """What comes of a proxy that does not let the request through."""
    return {"reason": "proxy", "cause": _named_in(_NO_TOKEN_BY_PROXY, more), "arriving": 0}


_PROXY_ROWS: Final = (
    _accepted(_PROXY, "`HTTPS_PROXY` names a proxy (the control)", SOUND, where=Where.PROXY),
    _transient(
        _PROXY,
        "Body dripping beyond the deadline, through the proxy",
        drip_body(),
        where=Where.PROXY,
        **(_LATE | {"cause": _named_in(_LATE["cause"])}),
    ),
    _transient(
        _PROXY,
        "The proxy refuses (407)",
        where=Where.PROXY_REFUSES,
        **_no_way(", HTTP 407; it wants a login, or another one"),
    ),
    _transient(_PROXY, "No proxy is there", where=Where.NO_PROXY_THERE, **_no_way("")),
)

_TLS: Final = "TLS"
_TLS_ROWS: Final = (
    _accepted(_TLS, "A certificate that is trusted (the control)", SOUND, where=Where.TLS),
    _transient(_TLS, "An expired certificate", SOUND, where=Where.TLS_EXPIRED, **_UNTRUSTED),
    _transient(
        _TLS, "A certificate of another host", SOUND, where=Where.TLS_WRONG_HOST, **_UNTRUSTED
    ),
    _transient(_TLS, "A self-signed certificate", SOUND, where=Where.TLS_SELF_SIGNED, **_UNTRUSTED),
    _transient(
        _TLS, "A handshake that never ends", SOUND, where=Where.TLS_SILENT, **_LATE, arriving=0
    ),
    _transient(
        _TLS,
        "Reset within the handshake",
        SOUND,
        where=Where.TLS_RESET,
        arriving=0,
        **_BROKEN_OFF,
    ),
)

_BUSY: Final = "Busy or broken: HTTP 408, 425, 429 and 5xx"
_TOO_MANY: Final = {"reason": "http_429", "cause": "the token endpoint returned HTTP 429"}
_BUSY_ROWS: Final = (
    _transient(_BUSY, "429", respond(429), **_TOO_MANY),
    _transient(
        _BUSY,
        "429 with a short `Retry-After` (2 seconds)",
        _busy("2"),
        waits=(2, 2, 2),
        backoff=Wait.ASKED,
        held_seconds=2,
        **_TOO_MANY,
    ),
    _transient(
        _BUSY,
        "429 with a long `Retry-After` (120 seconds)",
        _busy("120"),
        attempts=1,
        backoff=Wait.ASKED,
        held_seconds=120,
        **_TOO_MANY,
    ),
    _transient(
        _BUSY,
        "429 with an HTTP date as `Retry-After` (2 minutes from now)",
        _dated(120),
        attempts=1,
        backoff=Wait.ASKED,
        held_seconds=120,
        **_TOO_MANY,
    ),
    _transient(
        _BUSY,
        "429 with a `Retry-After` of years",
        _busy("99999999999"),
        attempts=1,
        backoff=Wait.ASKED,
        held_seconds=LONGEST_HOLD_SECONDS,
        **_TOO_MANY,
    ),
    *(
        _transient(
            _BUSY,
            f"429 with {what}",
            _busy(retry_after),
            attempts=1,
            backoff=Wait.ASKED,
            held_seconds=120,
            **_TOO_MANY,
        )
        for what, retry_after in (
            ("two `Retry-After` fields", "120\r\nRetry-After: 60"),
            ("`Retry-After: 120, 120`: two fields that a proxy combined", "120, 120"),
        )
    ),
    _transient(
        _BUSY,
        "429 with a fraction as `Retry-After` (1.5 seconds)",
        _busy("1.5"),
        waits=(1.5, 1.5, 1.5),
        backoff=Wait.ASKED,
        held_seconds=1.5,
        **_TOO_MANY,
    ),
    _transient(_BUSY, "429 with a `Retry-After` below zero", _busy("-5"), **_TOO_MANY),
    _transient(_BUSY, "429 with a `Retry-After` that is no time", _busy("soon"), **_TOO_MANY),
    *(
        _transient(
            _BUSY,
            f"{status}" + (" as HTML" if body else ""),
            respond(status, body),
            reason=f"http_{status}",
            cause=f"the token endpoint returned HTTP {status}",
        )
        for status, body in (
            (408, b""),
            (425, JUNK),
            (500, b""),
            (502, JUNK),
            (503, b""),
            (504, b""),
        )
    ),
    _transient(
        _BUSY,
        "503 with a long `Retry-After` (10 minutes)",
        _busy("600", 503),
        attempts=1,
        backoff=Wait.ASKED,
        held_seconds=600,
        reason="http_503",
        cause="the token endpoint returned HTTP 503",
    ),
    _transient(
        _BUSY,
        "`temporarily_unavailable` with 400",
        respond(400, error("temporarily_unavailable")),
        reason="temporarily_unavailable",
        cause="the token endpoint returned temporarily_unavailable (HTTP 400)",
    ),
    _transient(
        _BUSY,
        "503 with an unknown `error`",
        respond(503, error("overloaded")),
        reason="http_503",
        cause="the token endpoint returned HTTP 503",
    ),
)

_SHAPE: Final = "HTTP 200 without a token response"
_BAD_JSON: Final = "not valid JSON"
_NOT_AN_OBJECT: Final = r"Input should be an object|Input should be .*TokenResponse.*"
_SHAPE_ROWS: Final = (
    _malformed(
        _SHAPE, "HTML", respond(200, JUNK, headers={"Content-Type": "text/html"}), fault=_BAD_JSON
    ),
    _malformed(_SHAPE, "Nothing", respond(200), fault=_BAD_JSON),
    _malformed(_SHAPE, "Invalid JSON", respond(200, b'{"access_token": "abc",'), fault=_BAD_JSON),
    _malformed(
        _SHAPE, "A body cut short without a Content-Length", unframed(b'{"acc'), fault=_BAD_JSON
    ),
    *(
        _malformed(_SHAPE, f"JSON, but {name}", respond(200, data), fault=f"({_NOT_AN_OBJECT})")
        for name, data in (
            ("a list", b'["access_token"]'),
            ("a string", f'"{NEVER_SHOWN}"'.encode()),
            ("a number", b"42"),
            ("`null`", b"null"),
        )
    ),
    _malformed(_SHAPE, "JSON nested 10,000 deep", respond(200, b"[" * 10_000), fault=_BAD_JSON),
    _malformed(
        _SHAPE,
        "Not UTF-8",
        respond(200, b'{"access_token": "\xff\xfe", "token_type": "Bearer", "expires_in": 60}'),
        fault=_BAD_JSON,
    ),
    *(
        _refused(
            _SHAPE,
            what,
            step,
            reason="too_large",
            cause="the response is larger than 64 KiB",
        )
        for what, step in (
            ("More than 64 KiB", respond(200, TOO_LARGE)),
            ("More than 64 KiB, chunked", chunked(TOO_LARGE)),
            ("A body without end", endless()),
        )
    ),
    _refused(
        _SHAPE,
        "204 instead",
        respond(204),
        reason="http_204",
        cause="the token endpoint returned HTTP 204",
    ),
    _accepted(_SHAPE, "A chunked token response", chunked(token())),
    _accepted(_SHAPE, "A token response as of HTTP/1.0", unframed(token())),
)

_REDIRECT: Final = "Redirects (never followed)"
_REDIRECT_ROWS: Final = tuple(
    _refused(
        _REDIRECT,
        f"{status}",
        redirect(status),
        reason="redirect",
        cause=f"a redirect (HTTP {status}) is not followed; check TokenUrl",
    )
    for status in (301, 302, 303, 307, 308)
)

_OAUTH: Final = "OAuth errors (RFC 6749 section 5.2)"
_MEANINGS: Final = {
    "invalid_request": "Enable finds the request malformed",
    "invalid_client": "client_id, client_secret or dealtrack_registration_id is wrong",
    "invalid_grant": "Enable finds the client credentials invalid or revoked",
    "unauthorized_client": "this client may not use client credentials",
    "unsupported_grant_type": "Enable does not know client_credentials here; check TokenUrl",
    "invalid_scope": "these credentials do not permit a scope of the grant",
}
_ABOUT_ONE_GRANT: Final = ("invalid_request", "invalid_scope")
_MASKED: Final = {
    "reason": "invalid_scope",
    "cause": "the token endpoint returned invalid_scope (HTTP 400): " + _MEANINGS["invalid_scope"],
}
_UNKNOWN: Final = {
    "reason": "unknown_error",
    "cause": "the token endpoint returned HTTP 400 with an unregistered error code",
}


def _no_oauth_error(status: int) -> dict[str, Any]:
    return {
        "reason": f"http_{status}",
        "cause": f"the token endpoint returned HTTP {status} without an OAuth error",
    }


_OAUTH_ROWS: Final = (
    *(
        _refused(
            _OAUTH,
            f"`{code}` with {status}",
            respond(status, error(code)),
            reason=code,
            cause=f"the token endpoint returned {code} (HTTP {status}): {meaning}",
            backoff=Wait.GRANT if code in _ABOUT_ONE_GRANT else Wait.CONNECTION,
        )
        for code, meaning in _MEANINGS.items()
        for status in (400, 401)
    ),
    _refused(
        _OAUTH,
        "`invalid_client` for the current secret and for the pending and previous ones",
        respond(401, error("invalid_client")),
        attempts=3,
        secret_stages=("AWSPENDING", "AWSPREVIOUS"),
        reason="invalid_client",
        cause="the token endpoint returned invalid_client (HTTP 401): "
        + _MEANINGS["invalid_client"],
        backoff=Wait.CONNECTION,
    ),
    _accepted(
        _OAUTH,
        "`invalid_client` for the current secret, but the pending one is good",
        respond(401, error("invalid_client")),
        SOUND,
        attempts=2,
        secret_stages=("AWSPENDING", "AWSPREVIOUS"),
    ),
    _accepted(
        _OAUTH,
        "`invalid_client` for the current secret, but the previous one is good",
        respond(401, error("invalid_client")),
        SOUND,
        attempts=2,
        secret_stages=("AWSPREVIOUS",),
    ),
    *(
        _refused(
            _OAUTH,
            f"`invalid_client` with {status}",
            respond(status, error("invalid_client")),
            reason="invalid_client",
            cause=f"the token endpoint returned invalid_client (HTTP {status}): "
            + _MEANINGS["invalid_client"],
            backoff=Wait.CONNECTION,
        )
        for status in (200, 302, 403, 500)
    ),
    *(
        _refused(
            _OAUTH,
            f"401 {what}",
            respond(401, body),
            reason="invalid_client",
            cause="the token endpoint returned HTTP 401: " + _MEANINGS["invalid_client"],
            backoff=Wait.CONNECTION,
        )
        for what, body in (
            ("without a body", b""),
            ("without an OAuth error", JUNK),
            ("with an unknown `error`", error("bad_day")),
        )
    ),
    *(
        _accepted(
            _OAUTH,
            f"{what} for the current secret, but the pending one is good",
            step,
            SOUND,
            attempts=2,
            secret_stages=("AWSPENDING",),
        )
        for what, step in (
            ("401 without a body", respond(401)),
            ("`invalid_client` with 200", respond(200, error("invalid_client"))),
        )
    ),
    _refused(_OAUTH, "An unknown `error`", respond(400, error("bad_day")), **_UNKNOWN),
    _refused(_OAUTH, "An `error` that repeats the secret", respond(400, echo("error")), **_UNKNOWN),
    _refused(
        _OAUTH,
        "An `error_description` that repeats the secret",
        respond(400, echo("error_description", "error_uri")),
        **_MASKED,
    ),
    _refused(
        _OAUTH,
        "A reason phrase and headers that repeat the secret",
        raw(
            lambda form: (
                b"HTTP/1.1 400 %s\r\nX-Sent: %s\r\nConnection: close\r\n\r\n"
                % ((form["client_secret"].encode(),) * 2)
                + _made(error("invalid_scope"), form)
            )
        ),
        **_MASKED,
    ),
    _refused(
        _OAUTH, "An `error` that is no string", respond(400, error(["a"])), **_no_oauth_error(400)
    ),
    _refused(_OAUTH, "403 without an OAuth error", respond(403, JUNK), **_no_oauth_error(403)),
    _refused(_OAUTH, "404 without an OAuth error", respond(404), **_no_oauth_error(404)),
)

_LIFETIME: Final = "How long the token lives"
_NO_EXPIRY: Final = {
    "reason": "no_expiry",
    "cause": "neither expires_in nor the token's own exp says when it expires",
}
_EXPIRED: Final = {
    "reason": "expired",
    "cause": "the token has expired already, or is about to; compare this clock with Enable's",
}
_FAULTY_NUMBER: Final = r"expires_in.*"


def _lives(what: str, lifetime_seconds: float, **body: Any) -> UpstreamFault:
    step = respond(200, token(**body))
    return _accepted(_LIFETIME, what, step, lifetime_seconds=lifetime_seconds)


def _lifeless(what: str, expected: Mapping[str, Any], **body: Any) -> UpstreamFault:
    return _refused(_LIFETIME, what, respond(200, token(**body)), **expected)


def _faulty_number(what: str, value: object) -> UpstreamFault:
    step = respond(200, token(expires_in=value))
    return _malformed(_LIFETIME, f"`expires_in` is {what}", step, fault=_FAULTY_NUMBER)


_LIFETIME_ROWS: Final = (
    _lives("`expires_in` is missing; the JWT's `exp` says", 1800, expires_in=ABSENT, exp=1800),
    _lives("`expires_in` is `null`; the JWT's `exp` says", 1800, expires_in=None, exp=1800),
    _lifeless("`expires_in` is missing, and the token is no JWT", _NO_EXPIRY, expires_in=ABSENT),
    _lifeless(
        "`expires_in` is missing, and the JWT's `exp` is no number",
        _NO_EXPIRY,
        expires_in=ABSENT,
        access_token=jwt(exp="tomorrow"),
    ),
    _lives("`expires_in` is huge: trusted for 24 hours", DAY, expires_in=10**9),
    _lives("`expires_in` has 400 digits: trusted for 24 hours", DAY, expires_in=10**400),
    _faulty_number("zero", 0),
    _faulty_number("negative", -3600),
    _faulty_number("half a second", 0.5),
    _faulty_number("an empty string", ""),
    _faulty_number("`true`", True),
    _refused(
        _LIFETIME,
        "`expires_in` is `NaN`",
        respond(200, token(expires_in=float("nan"))),
        reason="invalid_response",
        cause=re.compile(rf"the response is not a token response: ({_FAULTY_NUMBER}|{_BAD_JSON})"),
    ),
    _lives("The JWT's `exp` is sooner than `expires_in`: it counts", 1200, exp=1200),
    _lives("The JWT's `exp` is later than `expires_in`: that counts", 3600, exp=7200),
    _lives(
        "The JWT's `exp` is no number: `expires_in` counts",
        3600,
        access_token=jwt(exp="tomorrow"),
    ),
    _lifeless("The JWT's `exp` is in the past", _EXPIRED, exp=-60),
    _lifeless("The JWT expires in 3 seconds", _EXPIRED, exp=3),
    _lifeless("`expires_in` is 5 seconds", _EXPIRED, expires_in=5),
    UpstreamFault(
        group=_LIFETIME,
        what="A valid token that ends before the stored one",
        script=(respond(200, token(expires_in=60)),),
        state=State.UNCHANGED,
    ),
)

_TOKEN: Final = "The token itself"


def _faulty_token(what: str, value: object, fault: str = r"access_token.*") -> UpstreamFault:
    step = respond(200, token(access_token=value))
    return _malformed(_TOKEN, f"`access_token` {what}", step, fault=fault)


def _faulty_type(what: str, value: object) -> UpstreamFault:
    step = respond(200, token(token_type=value))
    return _malformed(_TOKEN, f"`token_type` {what}", step, fault=r"token_type.*")


_TOKEN_ROWS: Final = (
    _faulty_token("is missing", ABSENT),
    _faulty_token("is empty", ""),
    _faulty_token("has a line break", f"{NEVER_SHOWN}\r\nX-Injected: 1"),
    _faulty_token("has a NUL", f"{NEVER_SHOWN}\0"),
    _faulty_token("has a space", f"two {NEVER_SHOWN}"),
    _faulty_token("has a letter no header may carry", f"{NEVER_SHOWN}é"),
    _faulty_token("is half a character", f"{NEVER_SHOWN}\ud800", f"{_BAD_JSON}|access_token.*"),
    _faulty_token("is a number", 1234567890),
    _faulty_token("is `null`", None),
    _faulty_token("is an object", {"value": NEVER_SHOWN}),
    _faulty_type("is missing", ABSENT),
    _faulty_type("is `mac`", "mac"),
    _faulty_type("is `null`", None),
    *(
        _refused(
            _TOKEN,
            what,
            respond(200, token(access_token=value)),
            reason="unstorable",
            cause=re.compile(rf"the token cannot be stored: {fault}; ask Enable .*"),
        )
        for what, value, fault in (
            ("9 KB: more than a parameter takes", NEVER_SHOWN * 820, "with its record .* 8192"),
            ("`{{...}}`, which no parameter takes", f"{{{{{NEVER_SHOWN}}}}}", "it contains .*"),
        )
    ),
    _accepted(
        _TOKEN, "7 KB", respond(200, token(access_token=NEVER_SHOWN * 640)), lifetime_seconds=3600
    ),
)

_SCOPE: Final = "Its scope (`read:deals read:users` is requested)"
_NARROWER: Final = {
    "reason": "wrong_scope",
    "cause": "the token is for a narrower scope than the requested one",
}
_ANOTHER: Final = {
    "reason": "wrong_scope",
    "cause": "the token is for another scope than the requested one",
}


def _of_scope(scope: object) -> Step:
    return respond(200, token(scope=scope))


_SCOPE_ROWS: Final = (
    _refused(_SCOPE, "Narrower", _of_scope("read:deals"), **_NARROWER),
    _refused(_SCOPE, "Wider", _of_scope("read:deals read:users read:activity"), **_ANOTHER),
    _refused(_SCOPE, "Another", _of_scope("read:deals read:activity"), **_ANOTHER),
    _refused(_SCOPE, "Empty", _of_scope(""), **_NARROWER),
)

_FORM: Final = "The form of a token response"
_PLAIN: Final = {"access_token": ACCESS_TOKEN, "token_type": "Bearer", "expires_in": 3600}


def _written(text: str) -> Step:
    """A token response whose `expires_in` is written like this."""
    return respond(200, json.dumps(_PLAIN).replace("3600", text).encode())


def _tolerated(what: str, step: Step, why: str, lifetime_seconds: float = 3600) -> UpstreamFault:
    return _accepted(_FORM, what, step, why=why, lifetime_seconds=lifetime_seconds)


def _not_tolerated(what: str, step: Step, fault: str, why: str) -> UpstreamFault:
    return _malformed(_FORM, what, step, fault=fault, why=why)


_SAME_NUMBER: Final = "JSON has one kind of number; its notation has no meaning"
_CASE_COUNTS: Final = "case-sensitive in RFC 6749"
_FORM_ROWS: Final = (
    *(
        _tolerated(f"`expires_in` is `{text}`", _written(text), _SAME_NUMBER)
        for text in ("3600.0", "3.6e3", "36E+2")
    ),
    _tolerated(
        "`expires_in` is `3600.5`",
        _written("3600.5"),
        "the fraction is cut off: a shorter life is safe",
    ),
    *(
        _tolerated(
            f"`expires_in` is the string `{text}`",
            _written(text),
            "common, and its meaning is clear",
        )
        for text in ('"3600"', '"3600.0"', '" 3600 "')
    ),
    _not_tolerated(
        "`expires_in` is the string `3.6e3`",
        _written('"3.6e3"'),
        _FAULTY_NUMBER,
        "a text is read as plain decimals alone",
    ),
    _not_tolerated(
        "`expires_in` is the string `1 hour`",
        _written('"1 hour"'),
        _FAULTY_NUMBER,
        "its unit would be a guess",
    ),
    _tolerated(
        "A byte order mark before the JSON",
        respond(200, b"\xef\xbb\xbf" + json.dumps(_PLAIN).encode()),
        "RFC 8259 section 8.1 lets a reader ignore it",
    ),
    _tolerated(
        "White space around and within the JSON",
        respond(200, b"\r\n\t " + json.dumps(_PLAIN, indent=4).encode() + b"\n\n"),
        "it has no meaning in JSON",
    ),
    _tolerated(
        "The fields in another order",
        respond(200, json.dumps(dict(reversed(_PLAIN.items()))).encode()),
        "it has no meaning in JSON",
    ),
    _tolerated(
        "Characters as `\\u` escapes",
        respond(200, json.dumps(_PLAIN).replace("Bearer", "\\u0042earer").encode()),
        "it has no meaning in JSON",
    ),
    _tolerated(
        "Fields that are not known",
        respond(200, token(new=[1])),
        "RFC 6749 section 5.1: they are ignored",
    ),
    _tolerated(
        "A field twice",
        respond(200, json.dumps(_PLAIN).replace("{", '{"expires_in": 60, ').encode()),
        "the last one counts, as for most readers of JSON",
    ),
    _tolerated(
        "`token_type` is `bEaReR`",
        respond(200, token(token_type="bEaReR")),
        "its letter case has no meaning in RFC 6749; stored as `Bearer`",
    ),
    _not_tolerated(
        "`token_type` is ` Bearer `",
        respond(200, token(token_type=" Bearer ")),
        "token_type.*",
        "another type may have any name",
    ),
    _tolerated(
        "`error` is `null` beside a token",
        respond(200, token(error=None)),
        "a response with a valid token is one",
    ),
    _tolerated("The scope in another order", _of_scope("read:users read:deals"), "a set of scopes"),
    _tolerated("A scope twice", _of_scope("read:users read:deals read:users"), "a set of scopes"),
    _tolerated(
        "More white space between the scopes, or around them",
        _of_scope(" read:deals  read:users "),
        "it separates them, and no scope contains it",
    ),
    _tolerated(
        "No scope",
        _of_scope(ABSENT),
        "RFC 6749 section 5.1: it is the requested one",
    ),
    _refused(
        _FORM,
        "The scope in other letters",
        _of_scope("READ:DEALS READ:USERS"),
        why=_CASE_COUNTS,
        **_ANOTHER,
    ),
    _not_tolerated(
        "The scope as a list",
        _of_scope(["read:deals", "read:users"]),
        "scope.*",
        "RFC 6749 and Enable define a string",
    ),
    _not_tolerated(
        "A field's name in other letters",
        respond(200, json.dumps(_PLAIN).replace("access_token", "Access_Token").encode()),
        "access_token.*",
        _CASE_COUNTS,
    ),
    _not_tolerated(
        "White space around the token",
        respond(200, token(access_token=f" {NEVER_SHOWN}\n")),
        "access_token.*",
        "a token is opaque: what to cut off would be a guess",
    ),
    _not_tolerated(
        "UTF-16",
        respond(200, json.dumps(_PLAIN).encode("utf-16")),
        _BAD_JSON,
        "RFC 8259 section 8.1: JSON is UTF-8",
    ),
    _not_tolerated(
        "A comma too many, or single quotes",
        respond(200, json.dumps(_PLAIN).replace("}", ",}").encode()),
        _BAD_JSON,
        "not JSON, so that the rest of it is doubtful too",
    ),
    _not_tolerated(
        "Compressed, though that was not requested",
        gzipped(token()),
        _BAD_JSON,
        "the request forbids it, so that 64 KiB stay 64 KiB",
    ),
    _tolerated(
        "Another `Content-Type`",
        respond(200, token(), headers={"Content-Type": "text/html; charset=latin-1"}),
        "the body decides",
    ),
    _tolerated(
        "Header names in other letters",
        raw(_shouted),
        "they have no letter case in HTTP",
    ),
    _refused(
        _FORM,
        "201 with a token",
        respond(201, token()),
        why="RFC 6749 section 5.1: a token comes with 200",
        reason="http_201",
        cause="the token endpoint returned HTTP 201",
    ),
)

UPSTREAM_FAULTS: Final[tuple[UpstreamFault, ...]] = (
    *_NETWORK_ROWS,
    *_PROXY_ROWS,
    *_TLS_ROWS,
    *_BUSY_ROWS,
    *_SHAPE_ROWS,
    *_REDIRECT_ROWS,
    *_OAUTH_ROWS,
    *_LIFETIME_ROWS,
    *_TOKEN_ROWS,
    *_SCOPE_ROWS,
    *_FORM_ROWS,
)

# ── AWS ──────────────────────────────────────────────────────────────────────────────────────


class On(Enum):
    """Which calls of AWS meet the fault."""

    SECRET = "secretsmanager", "GetSecretValue", ""
    TOKEN_READ = "ssm", "GetParameter", "!contains(Name, '/connections/')"
    TOKEN_WRITE = "ssm", "PutParameter", "!contains(Name, '/connections/')"
    RUN_READ = "ssm", "GetParameters", ""
    STATE_WRITE = "ssm", "PutParameter", "contains(Name, '/connections/')"

    @property
    def operation(self) -> str:
        """Its name in AWS."""
        return self.value[1]

    def rule(self, fault: Mapping[str, Any]) -> dict[str, Any]:
        """A rule of the fault proxy."""
        service, operation, body = self.value
        return {"service": service, "operation": operation, **fault} | (
            {"body": body} if body else {}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsFault:
    """One way for AWS to misbehave, injected between the real client and the embedded AWS.

    Attributes:
        on: the calls that it happens to.
        what: what happens.
        fault: a rule of the fault proxy, but for the calls it is about.
        calls: how many of those calls meet the fault.
        state: what the summary says.
        reason: likewise.
        cause: likewise: the whole text.
        requests: that reach Enable.
        is_replaced: whether the new token is stored; otherwise the old one is untouched.
        recovers: when a failure is over.
        is_hurried: run with time-outs of a fraction of a second.
    """

    on: On
    what: str
    fault: Mapping[str, Any]
    calls: int = 1
    state: State = State.FAILED
    reason: str = ""
    cause: str = ""
    requests: int = 0
    is_replaced: bool = False
    recovers: str = "with the next run"
    is_hurried: bool = False


def _tries(config: Config) -> int:
    tries: int = config.retries["total_max_attempts"]
    return tries


_SECRET_TRIES: Final = _tries(CLIENT_CONFIG)
_READ_TRIES: Final = _tries(CLIENT_CONFIG)
_WRITE_TRIES: Final = _tries(WRITER_CONFIG)


def _code(code: str, status: int = 400) -> dict[str, Any]:
    """An error of AWS; its message repeats, as some of AWS's own do, what was sent."""
    message = f"1 validation error detected: Value '{QUOTED}' at 'value' is not allowed"
    return {"error": {"code": code, "status": status, "message": message}}


def _refusal(on: On, code: str) -> dict[str, str]:
    return {"reason": code, "cause": f"{on.operation} was refused by AWS: {code}"}


def _no_response(kind: str) -> dict[str, str]:
    return {"reason": kind, "cause": f"AWS could not be reached or did not respond: {kind}"}


_THROTTLED: Final = _code("ThrottlingException")
_UNAVAILABLE: Final = _code("ServiceUnavailable", 503)
_SILENCE: Final = {"timeout_ms": 2_000}
_RESET: Final = {"reset": True}
_LOST: Final = {"response": {"abort_bytes": 0}}
_KEY_FIXED: Final = "with the next run after the key or its policy is fixed"
_POLICY_FIXED: Final = "with the next run after the policy is fixed"


def _survived(on: On, what: str, fault: Mapping[str, Any], times: int = 1, **more: Any) -> AwsFault:
    """A fault that does not keep the token from being renewed."""
    return AwsFault(
        on=on,
        what=what,
        fault=fault,
        calls=times,
        state=State.RENEWED,
        requests=1,
        is_replaced=True,
        **more,
    )


def _overcome(on: On, internal: str) -> Iterator[AwsFault]:
    """What botocore's own retries see through."""
    for name, fault, times in (
        ("Throttled twice", _THROTTLED, 2),
        (f"`{internal}` (500) twice", _code(internal, 500), 2),
        ("503 twice", _UNAVAILABLE, 2),
        ("Reset once", _RESET, 1),
        ("The response is lost once", _LOST, 1),
    ):
        yield _survived(on, name, {**fault, "times": times}, times)
    yield _survived(on, "No response in time once", {**_SILENCE, "times": 1}, is_hurried=True)


def _lasting(on: On, internal: str, tries: int, requests: int) -> Iterator[AwsFault]:
    """What botocore's retries give up at."""
    faults = (
        ("Throttled throughout", _THROTTLED, _refusal(on, "ThrottlingException")),
        (f"`{internal}` (500) throughout", _code(internal, 500), _refusal(on, internal)),
        ("The response is lost throughout", _LOST, _no_response("ConnectionClosedError")),
        ("No response in time, throughout", _SILENCE, _no_response("ReadTimeoutError")),
    )
    for what, fault, expected in faults:
        if fault is _LOST and on is On.TOKEN_WRITE:
            continue  # what is stored then is another matter
        yield AwsFault(
            on=on,
            what=what,
            fault=fault,
            calls=tries,
            requests=requests,
            is_hurried=fault is _SILENCE,
            **expected,
        )


def _refused_by_aws(on: On, what: str, code: str, recovers: str, requests: int = 0) -> AwsFault:
    """A response that no retry would change."""
    return AwsFault(
        on=on,
        what=what,
        fault=_code(code),
        requests=requests,
        recovers=recovers,
        **_refusal(on, code),
    )


def _unreadable(what: str, code: str) -> AwsFault:
    """A stored token that counts as none: the second read looks for a write in between."""
    return _survived(
        On.TOKEN_READ,
        what,
        _code(code),
        2,
        reason=UNREADABLE,
        cause=f"GetParameter was refused by AWS: {code}",
        recovers="at once, if the new token can be read; otherwise as after a refusal, at widening "
        "intervals",
    )


AWS_FAULTS: Final[tuple[AwsFault, ...]] = (
    *_overcome(On.SECRET, "InternalServiceError"),
    *_lasting(On.SECRET, "InternalServiceError", _SECRET_TRIES, requests=0),
    _refused_by_aws(On.SECRET, "Access denied", "AccessDeniedException", _POLICY_FIXED),
    _refused_by_aws(
        On.SECRET,
        "KMS does not decrypt: `DecryptionFailure`",
        "DecryptionFailure",
        _KEY_FIXED,
    ),
    _refused_by_aws(
        On.SECRET,
        "The secret is about to be deleted: `InvalidRequestException`",
        "InvalidRequestException",
        "with the next run after the secret is restored",
    ),
    AwsFault(
        on=On.SECRET,
        what="The secret does not exist",
        fault=_code("ResourceNotFoundException"),
        reason="ConfigurationError",
        cause="the secret faults/connections/default does not exist; "
        "create it with the stack's key",
        recovers="with the next run after the secret is created",
    ),
    *_overcome(On.TOKEN_READ, "InternalServerError"),
    *_lasting(On.TOKEN_READ, "InternalServerError", _READ_TRIES, requests=0),
    _unreadable("Access denied", "AccessDeniedException"),
    _unreadable("The key is disabled, or pending deletion: `InvalidKeyId`", "InvalidKeyId"),
    *_overcome(On.TOKEN_WRITE, "InternalServerError"),
    *_lasting(On.TOKEN_WRITE, "InternalServerError", _WRITE_TRIES, requests=1),
    AwsFault(
        on=On.TOKEN_WRITE,
        what="The response is lost throughout: the token is stored, but the run cannot know",
        fault=_LOST,
        calls=_WRITE_TRIES,
        requests=1,
        is_replaced=True,
        recovers="with the next run, which finds it",
        **_no_response("ConnectionClosedError"),
    ),
    _refused_by_aws(
        On.TOKEN_WRITE, "Access denied", "AccessDeniedException", _POLICY_FIXED, requests=1
    ),
    _refused_by_aws(
        On.TOKEN_WRITE,
        "The key is disabled: `InvalidKeyId`",
        "InvalidKeyId",
        _KEY_FIXED,
        requests=1,
    ),
    _refused_by_aws(
        On.TOKEN_WRITE,
        "Somebody writes the same parameter: `TooManyUpdates`",
        "TooManyUpdates",
        "with the next run",
        requests=1,
    ),
    _refused_by_aws(
        On.TOKEN_WRITE,
        "The oldest of 100 versions bears a label: `ParameterMaxVersionLimitExceeded`",
        "ParameterMaxVersionLimitExceeded",
        "with the next run after the label is removed",
        requests=1,
    ),
    _survived(On.RUN_READ, "Access denied", _code("AccessDeniedException")),
    _survived(On.RUN_READ, "Throttled throughout", _THROTTLED, _READ_TRIES),
    AwsFault(
        on=On.RUN_READ,
        what="The response is lost throughout",
        fault=_LOST,
        calls=_READ_TRIES,
        **_no_response("ConnectionClosedError"),
    ),
    _survived(On.STATE_WRITE, "Access denied", _code("AccessDeniedException"), 2),
    _survived(On.STATE_WRITE, "Throttled throughout", _THROTTLED, 2 * _READ_TRIES),
    _survived(On.STATE_WRITE, "The response is lost once", {**_LOST, "times": 1}),
)


# ── The page ─────────────────────────────────────────────────────────────────────────────────

_NOTHING_FAILED: Final = "nothing failed"
_INTRODUCTION: Final = """\
# Faults, and what comes of them

<!-- Made by `python -m tests.faults.fault_table > docs/faults.md`; do not edit. -->

What the broker does when Enable or AWS fail. A test runs each row: faults of the token endpoint
with the real HTTP client against a real socket, faults of AWS with the real boto3 client through
a fault proxy to the embedded AWS. Each test checks the stored token, the requests, the logged
state, reason and cause, the backoff of later runs and the caller's response. It searches all
output for the client secret and for tokens.

In every row there is one grant. Its token is due and lives 5 minutes more.

## How to read it

| column | meaning |
| --- | --- |
| where | the token endpoint's kind of response, or the call of AWS that fails |
| requested again? | whether the same run sends the request again, after a short, growing wait |
| logged reason | the `reason` in log line and summary; see [operate.md](operate.md#alarms) |
| it recovers | when the failure ends; a person acts only where the cell says so |

The rows are grouped by outcome. **The stored token** is unchanged, or replaced by the new one.
**Callers get** what `GET /tokens/{grant}` returns: the old token until it expires; then, or if
none was stored, `503` with `Retry-After`. **Next run**: within a minute, with the default
schedule. **Backs off**: no attempt until the [backoff](architecture.md#the-backoff) ends.
*All*: all grants of the connection wait.

## Differences between token responses

A difference that has no meaning in JSON or in RFC 6749 changes nothing; one that leaves the
meaning in doubt is refused.

"""
_PLACES: Final = {
    On.SECRET: "AWS, the secret is read",
    On.TOKEN_READ: "AWS, the stored token is decrypted",
    On.TOKEN_WRITE: "AWS, the new token is stored",
    On.RUN_READ: "AWS, states and tokens are read, undecrypted",
    On.STATE_WRITE: "AWS, the connection's state is stored",
}
_NOTES: Final = (
    "The vend function reads with a role of its own. If it meets the fault too, it vends the "
    "token that it remembers, or returns `503` with `Retry-After`. A token that cannot be stored "
    "is lost; a later run requests another. If AWS refuses a call for several parameters, the run "
    "reads them one by one, so that one of them does not keep it from reading the others."
)


class Outcome(Enum):
    """What comes of a fault: the page's headings, and what is then true of each row."""

    NOTHING = "Nothing fails", "The new token is stored, and callers get it."
    RETRIED = (
        "The run tries again, or the next one does",
        "The stored token is untouched, and callers get it. Nobody needs to act.",
    )
    GRANT = (
        "The grant backs off",
        "The stored token is untouched, and callers get it. The other grants are renewed.",
    )
    CONNECTION = (
        "The whole connection backs off",
        "The stored tokens are untouched, and callers get them. One grant is the probe for all.",
    )
    REQUESTED = (
        "The connection waits as long as Enable requests",
        "The stored tokens are untouched, and callers get them.",
    )
    FIXED = (
        "A person fixes it",
        "The stored token is untouched, and callers get it. The first run after that recovers.",
    )
    REPLACED = "A fault is reported, and the new token is stored", "Callers get the new token."


def _outcome(recovers: str, *, is_replaced: bool) -> Outcome:
    """Where a row belongs on the page."""
    if is_replaced:
        return Outcome.NOTHING if recovers == _NOTHING_FAILED else Outcome.REPLACED
    kinds = {
        "backs off, one grant": Outcome.GRANT,
        "backs off, all": Outcome.CONNECTION,
        "after the requested": Outcome.REQUESTED,
        "with the next run after": Outcome.FIXED,
    }
    return next((kinds[text] for text in kinds if recovers.startswith(text)), Outcome.RETRIED)


VEND_FAULTS: Final = (
    (
        "The clock was fast when the token was read, and is corrected",
        "what is stored",
        "at once: what is dated in the future counts as old",
        "test_block_takes_effect_within_the_window_after_the_clock_is_corrected",
    ),
    (
        "The clock was fast when no live token was found, and is corrected",
        "the live token",
        "at once",
        "test_live_token_is_found_at_once_after_the_clock_is_corrected",
    ),
    (
        "The clock was fast when a refresh run was started, and is corrected",
        "`503` until the next run ends",
        "at once: another run can be started",
        "test_refresh_run_is_started_again_after_the_clock_is_corrected",
    ),
    (
        "The token is of a scope that exceeds its grant",
        "`503` with `Retry-After`",
        "1 second after the refresher replaced it",
        "test_successor_of_a_token_of_another_scope_is_vended_after_a_second",
    ),
    (
        "Parameter Store throttles the read, and no token that fits is remembered",
        "the live token up to 18 seconds later, from the first or a second read of 4 tries; else "
        "`503` with `Retry-After`",
        "with the next request",
        "test_throttled_vend_reads_once_more_after_a_wait",
    ),
    (
        "The parameter is corrupt, and a token that fits is remembered",
        "the remembered token until it expires",
        "with the next read after the refresher replaced it",
        "test_corrupt_parameter_is_reported_once_behind_a_remembered_live_token",
    ),
    (
        "The parameter is corrupt, and no token that fits is remembered",
        "`503` with `Retry-After`; `GET /grants` lists the grant as `expired`",
        "1 second after the refresher replaced it",
        "test_corrupt_parameter_is_read_once_a_second_and_does_not_hide_the_other_grants",
    ),
)
"""What the vend function meets alone: what happens, what callers get, recovery, its test."""


def _differences() -> str:
    """What is tolerated in a token response, and what is not."""
    lines = ["| the response has | tolerated? | why |\n", "| --- | --- | --- |\n"]
    for row in UPSTREAM_FAULTS:
        if row.why:
            verdict = "yes" if row.is_replaced else f"no: `{row.reason}`"
            lines.append(f"| {row.what} | {verdict} | {row.why} |\n")
    return "".join(lines)


def _upstream_cells(row: UpstreamFault) -> Sequence[str]:
    return (
        row.group,
        row.what,
        _requested_again(row),
        f"`{row.reason}`" if row.reason else "none",
        _recovers(row),
    )


def _requested_again(row: UpstreamFault) -> str:
    if row.secret_stages:
        others = " and ".join(row.secret_stages[: row.attempts - 1])
        return f"with the secret's {others}"
    if row.waits:
        return f"{row.attempts - 1} times, as far apart as Enable requests"
    if row.attempts > 1:
        return f"{row.attempts - 1} times"
    return "no"


def _recovers(row: UpstreamFault) -> str:
    if row.state is State.UNCHANGED:
        return "next run"
    if row.state is not State.FAILED:
        return _NOTHING_FAILED
    if row.backoff is Wait.ASKED:
        return f"after the requested {_length(row.held_seconds)}, all"
    if row.backoff is Wait.NONE:
        return "in this run, or the next"
    return f"backs off, {'one grant' if row.backoff is Wait.GRANT else 'all'}"


def _length(seconds: float) -> str:
    if seconds >= LONGEST_HOLD_SECONDS:
        return "15 minutes (of more)"
    return f"{seconds:g} seconds" if seconds < 60 else f"{seconds / 60:.0f} minutes"


def _aws_cells(row: AwsFault) -> Sequence[str]:
    is_over = row.state is State.RENEWED and not row.reason
    retries = row.calls if is_over else row.calls - 1
    is_of_state = row.on in {On.RUN_READ, On.STATE_WRITE}
    is_ignored = is_of_state and is_over and "times" not in row.fault
    return (
        _PLACES[row.on],
        row.what,
        "no" if is_ignored or not retries else "once" if retries == 1 else f"{retries} times",
        f"`{row.reason}`" if row.reason else "none",
        row.recovers if row.reason else _NOTHING_FAILED,
    )


def _table(rows: Iterable[Sequence[str]]) -> str:
    headings = ("where", "what happens", "requested again?", "logged reason", "it recovers")
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _vend_table() -> str:
    rows = (
        ("what happens", "callers get", "it recovers", "shown by"),
        ("---",) * 4,
        *((*cells, f"`{test}`") for *cells, test in VEND_FAULTS),
    )
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def page() -> str:
    """The text of docs/faults.md."""
    parts = [_INTRODUCTION + _differences()]
    rows = [(row, _upstream_cells(row)) for row in UPSTREAM_FAULTS]
    rows += [(row, _aws_cells(row)) for row in AWS_FAULTS]
    for outcome in Outcome:
        of_outcome = [
            cells
            for row, cells in rows
            if _outcome(cells[-1], is_replaced=row.is_replaced) is outcome
        ]
        heading, meaning = outcome.value
        parts.append(f"## {heading}: {len(of_outcome)} faults\n\n{meaning}\n\n{_table(of_outcome)}")
    parts.append(f"## The vend function\n\n{_NOTES}\n\n{_vend_table()}")
    return "\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(page())
