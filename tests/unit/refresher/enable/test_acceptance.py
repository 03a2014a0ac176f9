"""Which token responses become a stored token, and why the others do not."""

from dataclasses import replace

import pytest

from tests.unit.fakes import NOW, jwt, response, seconds
from token_broker.errors import InvalidTokenResponse
from token_refresher.enable.acceptance import MAX_RECORD_CHARACTERS, accept
from token_refresher.enable.models import Issued, TokenResponse

EXP_IN_AN_HOUR = int(NOW.timestamp()) + 3600


@pytest.mark.parametrize(
    ("granted", "left"),
    [
        (response(expires_in=1800), 1800),
        (response(scope="b a"), 3600),
        (response(scope=" b  a b "), 3600),
        (response("x" * 7_900), 3600),
        (response(jwt(exp=EXP_IN_AN_HOUR), None), 3600),
        (response(jwt(exp=EXP_IN_AN_HOUR), 7200), 3600),
        (response(expires_in=6), 6),
        (response(expires_in=10**9), 86_400),
    ],
)
def test_usable_response_becomes_the_token_to_store(granted: TokenResponse, left: float) -> None:
    issued = Issued(response=granted, requested_at=NOW + seconds(0.5), attempts=1)
    token = accept(issued, scope=("a", "b"), now=NOW + seconds(0.5), secret_version="v1")
    assert token.secret_version == "v1"
    half_a_second = 0 if "." in granted.access_token else 0.5
    assert token.issued_at == NOW
    assert token.expires_at == NOW + seconds(int(left + half_a_second))
    assert (token.access_token, token.scope) == (granted.access_token, ("a", "b"))


NARROWER = "the token is for a narrower scope than the requested one"
OTHER = "the token is for another scope than the requested one"
NO_EXPIRY = "neither expires_in nor the token's own exp says when it expires"
EXPIRED = "the token has expired already, or is about to; compare this clock with Enable's"


@pytest.mark.parametrize(
    ("granted", "reason", "message"),
    [
        (response(scope="a"), "wrong_scope", NARROWER),
        (response(scope=""), "wrong_scope", NARROWER),
        (response(scope="a b c"), "wrong_scope", OTHER),
        (response(scope="A b"), "wrong_scope", OTHER),
        (response("opaque", None), "no_expiry", NO_EXPIRY),
        (response(jwt(sub="x"), None), "no_expiry", NO_EXPIRY),
        (response(expires_in=5), "expired", EXPIRED),
        (response(jwt(exp=EXP_IN_AN_HOUR - 3600), 3600), "expired", EXPIRED),
        (response(jwt(exp=0), 3600), "expired", EXPIRED),
    ],
)
def test_unusable_response_is_refused(granted: TokenResponse, reason: str, message: str) -> None:
    issued = Issued(response=granted, requested_at=NOW, attempts=1)
    with pytest.raises(InvalidTokenResponse) as caught:
        accept(issued, scope=("a", "b"), now=NOW)
    assert str(caught.value) == message
    assert caught.value.reason == reason


@pytest.mark.parametrize("now", [25, -3600])
def test_response_that_took_the_token_s_whole_life_is_refused(now: float) -> None:
    expires_in = 30 if now > 0 else 5  # a clock that was set back makes no token younger
    issued = Issued(response=response(expires_in=expires_in), requested_at=NOW, attempts=1)
    with pytest.raises(InvalidTokenResponse, match="has expired"):
        accept(issued, scope=("a",), now=NOW + seconds(now))


TOO_LONG = (
    "the token cannot be stored: with its record it has {} characters, and a parameter at most "
    "8192; ask Enable for another kind of token"
)
NESTED = (
    "the token cannot be stored: it contains {{...}}, which Parameter Store takes for a reference; "
    "ask Enable for another kind of token"
)


@pytest.mark.parametrize(
    ("text", "message"),
    [("x" * 9_000, TOO_LONG.format(9_178)), ("a{{x}}b", NESTED), ("{{}}", NESTED)],
)
def test_token_that_no_parameter_can_hold_is_refused(text: str, message: str) -> None:
    issued = Issued(response=response(text), requested_at=NOW, attempts=1)
    with pytest.raises(InvalidTokenResponse) as caught:
        accept(issued, scope=("a",), now=NOW)
    assert (str(caught.value), caught.value.reason) == (message, "unstorable")


def test_longest_token_whose_record_fits_is_accepted() -> None:
    def accepted(length: int) -> int:
        issued = Issued(response=response("x" * length), requested_at=NOW, attempts=1)
        token = accept(issued, scope=("a",), now=NOW, secret_version="v" * 36)
        return len(replace(token, follows=10**9).to_json())

    record = accepted(1_000)
    assert accepted(1_000 + MAX_RECORD_CHARACTERS - record) == MAX_RECORD_CHARACTERS
    with pytest.raises(InvalidTokenResponse, match="8193 characters"):
        accepted(1_001 + MAX_RECORD_CHARACTERS - record)


@pytest.mark.parametrize("text", ["{x}", "{{x", "x}}", "}}{{"])
def test_braces_that_are_no_reference_are_accepted(text: str) -> None:
    issued = Issued(response=response(text), requested_at=NOW, attempts=1)
    assert accept(issued, scope=("a",), now=NOW).access_token == text
