"""API Gateway's events: nothing in them is taken on trust."""

import base64
import json
import re
from contextlib import suppress
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.fakes import SECRET, TOKEN, all_said, leaks
from token_broker.errors import (
    CallerNotAllowed,
    InvalidRequest,
    UnknownGrant,
    UnsupportedGrantType,
)
from token_vendor import api_event
from token_vendor.api_event import MAX_BODY_CHARS

PRINT = "0123456789ab"
FORM = "application/x-www-form-urlencoded"
SOUND = "grant_type=client_credentials&scope=read%3Adeals+read%3Ausers"


def query(**parameters: object) -> dict[str, object]:
    return {"multiValueQueryStringParameters": parameters}


def form(body: object, content_type: object = FORM, *, encoded: bool = False) -> dict[str, object]:
    return {"headers": {"Content-Type": content_type}, "body": body, "isBase64Encoded": encoded}


def base64_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_route_is_method_and_resource() -> None:
    assert api_event.route({"httpMethod": "GET", "resource": "/grants"}) == ("GET", "/grants")
    assert api_event.route(None) == ("", "")
    assert api_event.route({"httpMethod": ["GET"], "resource": {}}) == ("", "")


@pytest.mark.parametrize(
    ("path", "suffix", "is_there"),
    [
        ("/tokens/deals", "", True),
        ("/v1/tokens/deals/rejection", "/rejection", True),
        ("/tokens/deals/", "", False),
        ("/tokens/deals/rejection", "", False),
        ("/tokens/deals", "/rejection", False),
        (None, "", False),
    ],
)
def test_grant_is_what_path_and_parameter_agree_on(
    path: object,
    suffix: str,
    is_there: bool,  # noqa: FBT001
) -> None:
    event = {"pathParameters": {"grant": "deals"}, "path": path}
    if is_there:
        assert api_event.grant(event, suffix=suffix) == "deals"
        return
    with pytest.raises(UnknownGrant):
        api_event.grant(event, suffix=suffix)


@pytest.mark.parametrize(("event", "wanted"), [({}, ""), (query(other_than=[PRINT]), PRINT)])
def test_other_than_is_a_fingerprint_or_nothing(event: object, wanted: str) -> None:
    assert api_event.other_than(event) == wanted


@pytest.mark.parametrize(
    "value",
    [[""], [PRINT.upper()], [PRINT + "0"], [PRINT + "\n"], [PRINT, PRINT], [7], [], PRINT, [TOKEN]],
)
def test_other_other_than_is_refused_and_not_repeated(value: object) -> None:
    with pytest.raises(InvalidRequest, match="other_than") as caught:
        api_event.other_than(query(other_than=value))
    assert not leaks(all_said(caught.value))


NO_FINGERPRINT = "fingerprint is not the first 12 hex digits of a token's SHA-256"


@pytest.mark.parametrize("encoded", [False, True])
def test_rejected_fingerprint_is_in_a_json_body(encoded: bool) -> None:  # noqa: FBT001
    text = json.dumps({"fingerprint": PRINT, "more": 1})
    body = base64_text(text.encode()) if encoded else text
    assert api_event.rejected_fingerprint({"body": body, "isBase64Encoded": encoded}) == PRINT


@pytest.mark.parametrize(
    ("body", "output"),
    [
        (None, "the body is not JSON"),
        ("", "the body is not JSON"),
        ("{", "the body is not JSON"),
        ("[" * 8_000, "the body is not JSON"),
        ("[]", NO_FINGERPRINT),
        ("{}", NO_FINGERPRINT),
        (json.dumps({"fingerprint": [PRINT]}), NO_FINGERPRINT),
        (json.dumps({"fingerprint": TOKEN}), NO_FINGERPRINT),
        (" " * (MAX_BODY_CHARS + 1), "the body is too long"),
        (" " * (3 * MAX_BODY_CHARS), "the body is too long"),
    ],
)
def test_other_rejection_is_refused_and_not_repeated(body: object, output: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        api_event.rejected_fingerprint({"body": body})
    assert str(caught.value) == output
    assert not leaks(all_said(caught.value))


def test_body_may_be_as_long_as_the_limit_and_no_longer() -> None:
    body = json.dumps({"fingerprint": PRINT}).ljust(MAX_BODY_CHARS)
    assert api_event.rejected_fingerprint({"body": body}) == PRINT
    encoded = {"body": base64_text(body.encode()), "isBase64Encoded": True}
    assert api_event.rejected_fingerprint(encoded) == PRINT
    for too_long in (body + " ", body * 2 + " "):
        with pytest.raises(InvalidRequest, match=r"^the body is too long$"):
            api_event.rejected_fingerprint({"body": too_long})
    # What is twice the limit before it is decoded is not decoded.
    with pytest.raises(InvalidRequest, match=r"^the body is too long$"):
        api_event.rejected_fingerprint(
            {"body": "*" * (2 * MAX_BODY_CHARS + 1), "isBase64Encoded": True}
        )
    with pytest.raises(InvalidRequest, match=r"^the body is not UTF-8 text$"):
        api_event.rejected_fingerprint({"body": "*" * 2 * MAX_BODY_CHARS, "isBase64Encoded": True})


@pytest.mark.parametrize("body", ["*", base64_text(b"\xff")])
def test_body_that_is_not_what_it_says_is_refused(body: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^the body is not UTF-8 text$"):
        api_event.rejected_fingerprint({"body": body, "isBase64Encoded": True})


@pytest.mark.parametrize(
    "event",
    [
        form(SOUND),
        form(SOUND, f"{FORM}; charset=utf-8"),
        form(SOUND, FORM.upper()),
        form(f"client_id=x&client_secret={SECRET!r}&{SOUND}".replace("%=", "")),
        form("&".join([SOUND, *["a=b"] * 30])),
        form(base64_text(SOUND.encode()), encoded=True),
        {"headers": {"content-type": FORM}, "body": SOUND},
    ],
)
def test_scope_is_that_of_a_client_credentials_form(event: object) -> None:
    assert api_event.requested_scope(event) == {"read:deals", "read:users"}


@pytest.mark.parametrize(
    ("event", "output"),
    [
        ({"body": SOUND}, "content type"),
        (form(SOUND, "application/json"), "content type"),
        (form(SOUND, None), "content type"),
        ({"headers": {"Accept": FORM}, "body": SOUND}, "content type"),
        (form(None), "grant_type must be there exactly once"),
        (form(SECRET), "^the body is not a form$"),
        (form("&".join([SOUND, *["a=b"] * 31])), "^the body is not a form$"),
        (form("a=%ff"), "^the body is not a form$"),
        (form("scope=a"), "grant_type must be there exactly once"),
        (form(f"{SOUND}&scope=b"), "scope must be there exactly once"),
        (form("grant_type=client_credentials&scope="), "scope must be there exactly once"),
        (form(f"{SOUND}&scope="), "scope must be there exactly once"),
        (form("grant_type=client_credentials"), "scope must be there exactly once"),
    ],
)
def test_other_form_is_refused_and_not_repeated(event: object, output: str) -> None:
    with pytest.raises(InvalidRequest, match=output) as caught:
        api_event.requested_scope(event)
    assert not leaks(str(caught.value))


def test_other_grant_type_is_named_as_such() -> None:
    with pytest.raises(UnsupportedGrantType, match=r"^grant_type is not client_credentials$"):
        api_event.requested_scope(form("grant_type=password&scope=a"))


def test_scope_with_two_spaces_is_no_scope_of_a_grant() -> None:
    """RFC 6749 section 3.3: one space between two."""
    sloppy = form("grant_type=client_credentials&scope=read:deals++read:users")
    assert "" in api_event.requested_scope(sloppy)


json_values: Any = st.recursive(
    st.none() | st.booleans() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(json_values, json_values)
def test_no_event_breaks_the_reading(body: object, parameters: object) -> None:
    event = {"multiValueQueryStringParameters": parameters, "headers": parameters} | form(body)
    for read in (api_event.requested_scope, api_event.rejected_fingerprint, api_event.min_ttl):
        try:
            read(event)
        except InvalidRequest:
            continue


# ── Properties: nothing but declared errors, whatever the event ──────────────────────────────────

MANY = settings(max_examples=250, deadline=None)
SOME = settings(max_examples=100, deadline=None)
digits = st.text("0123456789", min_size=1, max_size=30)
near_numbers = st.one_of(
    digits,
    st.integers().map(str),
    st.floats().map(str),
    st.text(st.characters(categories=["Nd", "Nl", "No", "Zs", "Cc"]), max_size=6),
    st.builds("".join, st.tuples(st.sampled_from(["", "+", "-", " ", "_", "0x"]), digits)),
    st.builds(
        "".join, st.tuples(digits, st.sampled_from(["", "\n", "\x00", " ", "_", ".0", "e3"]))
    ),
)
near_fingerprints = st.one_of(
    st.text("0123456789abcdef", min_size=12, max_size=12),
    st.text("0123456789abcdefABCDEF\n ", min_size=11, max_size=14),
)
texts = st.text() | near_numbers | near_fingerprints
anything: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@MANY
@given(st.lists(texts, max_size=3) | anything, st.lists(texts, max_size=3) | anything, anything)
def test_query_is_read_or_refused(ttl: Any, other: Any, more: Any) -> None:
    queries: Any = {"min_ttl": ttl, "other_than": other, "more": more}
    for event in (query(**queries), {"multiValueQueryStringParameters": more}, more):
        try:
            read = api_event.min_ttl(event)
        except InvalidRequest as error:
            assert str(error).startswith("min_ttl is ")  # noqa: PT017 - either is right
        else:
            assert timedelta() <= read < timedelta.max
        try:
            wanted = api_event.other_than(event)
        except InvalidRequest as error:
            assert str(error).startswith("other_than is ")  # noqa: PT017
        else:
            assert wanted == "" or re.fullmatch("[0-9a-f]{12}", wanted)


@MANY
@given(near_numbers)
def test_min_ttl_is_read_exactly_when_it_is_digits(text: str) -> None:
    is_number = text != "" and set(text) <= set("0123456789")
    try:
        read = api_event.min_ttl(query(min_ttl=[text]))
    except InvalidRequest:
        assert not is_number
        return
    assert is_number
    assert read == timedelta(seconds=min(int(text), 999_999_999))


pairs = st.lists(
    st.tuples(st.sampled_from(["grant_type", "scope", "client_secret"]) | texts, texts), max_size=5
)
near_forms = st.one_of(
    pairs.map(urlencode),
    pairs.map(lambda made: "&".join(f"{name}={value}" for name, value in made)),
    st.text("%+&=;0123456789abcdefgrant_typescope", max_size=60),
    st.builds("".join, st.tuples(st.just(SOUND), st.sampled_from("&;%=+"), st.text(max_size=8))),
)
near_types = st.sampled_from([FORM, FORM.upper(), f"{FORM}; charset=x", f" {FORM}", ""]) | anything


@MANY
@given(near_forms | anything, near_types, st.booleans() | anything, st.booleans())
def test_form_is_read_or_refused(
    body: Any,
    content_type: Any,
    encoded: Any,
    is_base64: bool,  # noqa: FBT001
) -> None:
    if is_base64 and isinstance(body, str):
        body, encoded = base64_text(body.encode(errors="surrogatepass")), True
    try:
        scope = api_event.requested_scope(form(body, content_type, encoded=encoded))
    except InvalidRequest:
        return
    assert scope
    assert all(isinstance(name, str) and " " not in name for name in scope)


@MANY
@given(st.lists(st.text("abc:_", min_size=1), min_size=1, max_size=4), pairs)
def test_form_is_read_whatever_else_is_in_it(scope: list[str], more: list[tuple[str, str]]) -> None:
    rest = [(name, value) for name, value in more if name not in {"grant_type", "scope"}]
    sound = [("grant_type", "client_credentials"), ("scope", " ".join(scope))]
    assert api_event.requested_scope(form(urlencode([*rest, *sound]))) == set(scope)


@SOME
@given(anything, anything, st.sampled_from(["", "/rejection"]), st.text())
def test_grant_is_the_end_of_the_path_or_unknown(
    event: Any, path: Any, suffix: str, name: str
) -> None:
    for given_event in (event, {"pathParameters": {"grant": name}, "path": path}):
        try:
            read = api_event.grant(given_event, suffix=suffix)
        except UnknownGrant:
            continue
        assert given_event["path"].endswith(f"/tokens/{read}{suffix}")


@SOME
@given(anything, anything, anything)
def test_no_event_raises_anything_but_declared_errors(event: Any, body: Any, headers: Any) -> None:
    shaped = {"body": body, "headers": headers, "isBase64Encoded": True, "requestContext": headers}
    for read in (
        api_event.route,
        api_event.caller_arn,
        api_event.grant,
        api_event.min_ttl,
        api_event.other_than,
        api_event.rejected_fingerprint,
        api_event.requested_scope,
    ):
        for given_event in (event, shaped):
            with suppress(InvalidRequest, UnknownGrant, CallerNotAllowed):
                read(given_event)
