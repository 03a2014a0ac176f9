"""What a response means: a token, or the error that it is, whatever form it has."""

from datetime import timedelta
from typing import Any

import pytest
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.fakes import NOW, SECRET, TOKEN, URL, all_said, leaks, returned, seconds
from token_broker.errors import (
    InvalidTokenResponse,
    TokenEndpointError,
    TokenEndpointUnavailable,
    TokenRequestRejected,
)
from token_refresher.enable.http_client import Response
from token_refresher.enable.responses import OAUTH_ERRORS, read_token, retry_after

VALID: dict[str, Any] = {"access_token": TOKEN, "token_type": "bearer", "expires_in": 3600}
RETURNED = "the token endpoint returned "
NO_TOKEN = "the response is not a token response: "
WRONG_CLIENT = OAUTH_ERRORS["invalid_client"]


def failure(response: Response) -> TokenEndpointError:
    """What a response fails with; whatever it is, it repeats neither secret nor token."""
    with pytest.raises(TokenEndpointError) as caught:
        read_token(response, NOW)
    assert not leaks(all_said(caught.value))
    return caught.value


@pytest.mark.parametrize(
    "extra",
    [{}, {"expires_in": "3600"}, {"scope": "read:users read:deals"}, {"error": None}],
)
def test_token_response_is_one_whatever_else_it_contains(extra: dict[str, Any]) -> None:
    response = read_token(returned(200, VALID | {"unknown": [1]} | extra), NOW)
    assert (response.access_token, response.lifetime) == (TOKEN, seconds(3600))
    assert response.scope == extra.get("scope")


@pytest.mark.parametrize("status", [200, 302, 400, 401, 403, 429, 500])
@pytest.mark.parametrize("code", sorted(OAUTH_ERRORS))
def test_oauth_error_is_one_whatever_its_status(code: str, status: int) -> None:
    echo = f"bad client_secret {SECRET} and {TOKEN}"
    body = {"error": code, "error_description": echo, "error_uri": f"https://x/{SECRET}"}
    error = failure(returned(status, body))
    assert isinstance(error, TokenRequestRejected)
    assert error.reason == code
    assert str(error) == f"{RETURNED}{code} (HTTP {status}): {OAUTH_ERRORS[code]}"


@pytest.mark.parametrize("body", [b"", b"<html>", {"error": "bad_day"}, {"error": ""}, [1]])
def test_401_is_about_the_client_whatever_its_body(body: Any) -> None:
    error = failure(returned(401, body))
    assert isinstance(error, TokenRequestRejected)
    assert (error.reason, str(error)) == ("invalid_client", f"{RETURNED}HTTP 401: {WRONG_CLIENT}")


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
@pytest.mark.parametrize("body", [b"", b"<html>", {"error": "overloaded"}])
def test_transient_status_asks_for_patience(status: int, body: Any) -> None:
    error = failure(returned(status, body))
    assert isinstance(error, TokenEndpointUnavailable)
    assert (error.reason, str(error)) == (f"http_{status}", f"{RETURNED}HTTP {status}")


@pytest.mark.parametrize("code", ["server_error", "temporarily_unavailable", "slow_down"])
@pytest.mark.parametrize("status", [200, 400, 503])
def test_transient_code_asks_for_patience(status: int, code: str) -> None:
    error = failure(returned(status, {"error": code}))
    assert isinstance(error, TokenEndpointUnavailable)
    assert (error.reason, str(error)) == (code, f"{RETURNED}{code} (HTTP {status})")


@pytest.mark.parametrize(
    ("response", "reason", "message"),
    [
        (returned(400, {"error": SECRET}), "unknown_error", "HTTP 400 with an unregistered error"),
        (returned(200, {"error": TOKEN}), "unknown_error", "HTTP 200 with an unregistered error"),
        (returned(403, SECRET.encode()), "http_403", "HTTP 403 without an OAuth error"),
        (returned(404), "http_404", "HTTP 404 without an OAuth error"),
        (returned(400, {"error": [TOKEN]}), "http_400", "HTTP 400 without an OAuth error"),
    ],
)
def test_other_4xx_is_a_rejection(response: Response, reason: str, message: str) -> None:
    error = failure(response)
    assert isinstance(error, TokenRequestRejected)
    assert error.reason == reason
    assert str(error).startswith(RETURNED + message)


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (returned(300), "redirect"),
        (returned(302, headers={"Location": "http://x"}), "redirect"),
        (returned(308, VALID, {"Location": URL}), "redirect"),
        (returned(101), "http_101"),
        (returned(201, VALID), "http_201"),
        (returned(204), "http_204"),
        (Response(status=200, body=b" " * 9, is_too_large=True), "too_large"),
        (Response(status=400, body=b" " * 9, is_too_large=True), "too_large"),
    ],
)
def test_other_status_holds_no_token(response: Response, reason: str) -> None:
    error = failure(response)
    assert isinstance(error, InvalidTokenResponse)
    assert error.reason == reason
    assert str(error) in {
        f"a redirect (HTTP {response.status}) is not followed; check TokenUrl",
        f"{RETURNED}HTTP {response.status}",
        "the response is larger than 64 KiB",
    }


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        [VALID],
        b"[" * 60_000,
        {"error": None},
        {"error": ""},
        VALID | {"token_type": TOKEN},
        VALID | {"access_token": 7},
        VALID | {"expires_in": True},
        VALID | {"expires_in": 0.9},
        VALID | {"expires_in": -1},
        VALID | {"expires_in": TOKEN},
        VALID | {"expires_in": float("nan")},
        VALID | {"scope": [TOKEN]},
    ],
)
def test_other_body_holds_no_token(body: Any) -> None:
    error = failure(returned(200, body))
    assert isinstance(error, InvalidTokenResponse)
    assert error.reason == "invalid_response"
    assert str(error).startswith(NO_TOKEN)
    assert len(str(error)) > len(NO_TOKEN)


@pytest.mark.parametrize("status", [200, 302, 400, 401, 403, 429, 503])
def test_each_failure_tells_how_long_to_wait(status: int) -> None:
    assert failure(returned(status, headers={"Retry-After": "120"})).retry_after == seconds(120)
    assert failure(returned(status)).retry_after is None
    later = {"Retry-After": "Sat, 01 Mar 2025 12:02:00 GMT"}
    assert failure(returned(status, headers=later)).retry_after == seconds(120)


def test_body_that_is_no_token_response_is_described() -> None:
    body = {name: value for name, value in VALID.items() if name != "access_token"}
    assert str(failure(returned(200, body))) == f"{NO_TOKEN}access_token: Field required"


def waits(*fields: str, date: str = "") -> timedelta | None:
    headers = urllib3.HTTPHeaderDict()
    for value in fields:
        headers.add("Retry-After", value)
    if date:
        headers["Date"] = date
    return retry_after(headers, NOW)


@pytest.mark.parametrize(
    ("value", "wait"),
    [
        ("", None),
        ("-1", None),
        ("soon", None),
        ("1e3", None),
        ("٣", None),
        ("0", 0),
        ("120", 120),
        (" 120 ", 120),
        ("1.5", 1.5),
        ("1.", 1),
        ("9" * 5000, 86_400),
        ("Sat, 01 Mar 2025 12:02:00 GMT", 120),
        ("Saturday, 01-Mar-25 12:02:00 GMT", 120),
        ("Sat Mar  1 12:02:00 2025", 120),
        ("Sat, 01 Mar 2025 12:02:00 -0000", 120),
        ("Sat, 01 Mar 2025 14:02:00 +0200", 120),
        ("Sat, 01 Mar 2025 11:00:00 GMT", 0),
        ("Fri, 01 Mar 2030 11:00:00 GMT", 86_400),
        ("120, 120", 120),
        ("60, soon, 120", 120),
        ("Sat, 01 Mar 2025 12:02:00 GMT, Sat, 01 Mar 2025 12:01:00 GMT", 120),
        ("30, Sat, 01 Mar 2025 12:02:00 GMT", 120),
        ("Sat", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_once_or_more(value: str, wait: float | None) -> None:
    assert waits(value) == (None if wait is None else seconds(wait))


def test_longest_of_several_retry_after_fields_counts() -> None:
    assert waits("60", "120", "soon") == seconds(120)
    assert waits() is None


def test_date_is_compared_with_the_server_s_own_clock() -> None:
    in_two_minutes = "Sat, 01 Mar 2025 13:02:00 GMT"
    assert waits(in_two_minutes, date="Sat, 01 Mar 2025 13:00:00 GMT") == seconds(120)
    assert waits(in_two_minutes, date="today") == seconds(3720)


@given(st.text() | st.from_regex(r"\w{3}, \d+ Mar \d+ \d+:\d+:\d+ [+-]?\w+", fullmatch=True))
def test_no_retry_after_is_negative_or_breaks_the_run(value: str) -> None:
    wait = waits(value)
    assert wait is None or timedelta() <= wait <= timedelta(days=1)
