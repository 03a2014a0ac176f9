"""What Enable is sent and what it returns: exact on the wire, strict when read."""

from datetime import timedelta
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.fakes import TOKEN, leaks, seconds
from token_refresher.enable.models import TokenRequest, TokenResponse

any_text = st.text(st.characters(exclude_categories=["Cs"]))
scope_tokens = st.text(
    st.sampled_from([chr(n) for n in range(0x21, 0x7F) if chr(n) not in '"\\']), min_size=1
)


@given(any_text, any_text, any_text, st.lists(scope_tokens, min_size=1))
def test_form_encoding_round_trips_any_text(
    client_id: str, secret: str, registration: str, scope: list[str]
) -> None:
    request = TokenRequest(
        client_id=client_id,
        client_secret=secret,
        dealtrack_registration_id=registration,
        scope=tuple(scope),
    )
    assert parse_qsl(request.form().decode("ascii"), keep_blank_values=True) == [
        ("client_id", client_id),
        ("client_secret", secret),
        ("dealtrack_registration_id", registration),
        ("scope", " ".join(scope)),
        ("grant_type", "client_credentials"),
    ]


@pytest.mark.parametrize(
    ("expires_in", "lifetime"),
    [
        (None, None),
        (1, seconds(1)),
        (3600, seconds(3600)),
        ("0900", seconds(900)),
        (10**50, timedelta(days=365)),
        ("9" * 12, timedelta(days=365)),
        (3600.0, seconds(3600)),
        (3600.9, seconds(3600)),
        (1.0, seconds(1)),
        (float("inf"), timedelta(days=365)),
        (" 3600.5 ", seconds(3600)),
    ],
)
def test_lifetime_is_a_duration_that_cannot_overflow(
    expires_in: float | str | None, lifetime: timedelta | None
) -> None:
    response = TokenResponse(access_token="t", token_type="BEARER", expires_in=expires_in)
    assert response.lifetime == lifetime


@pytest.mark.parametrize(
    ("token", "token_type", "expires_in", "named"),
    [
        ("", "Bearer", 60, "access_token"),
        ("two words", "Bearer", 60, "access_token"),
        ("crlf\r\nX-Injected: 1", "Bearer", 60, "access_token"),
        ("nön-ascii", "Bearer", 60, "access_token"),
        (TOKEN, "mac", 60, "token_type"),
        (TOKEN, "Bearer ", 60, "token_type"),
        (TOKEN, "Bearer", 0, "expires_in"),
        (TOKEN, "Bearer", -1, "expires_in"),
        (TOKEN, "Bearer", "0", "expires_in"),
        (TOKEN, "Bearer", "", "expires_in"),
        (TOKEN, "Bearer", "-60", "expires_in"),
        (TOKEN, "Bearer", "6e1", "expires_in"),
        (TOKEN, "Bearer", "٣٦٠٠", "expires_in"),
        (TOKEN, "Bearer", "9" * 13, "expires_in"),
        (TOKEN, "Bearer", 0.99, "expires_in"),
        (TOKEN, "Bearer", "0.99", "expires_in"),
        (TOKEN, "Bearer", "1 hour", "expires_in"),
        (TOKEN, "Bearer", float("nan"), "expires_in"),
        (TOKEN, "Bearer", float("-inf"), "expires_in"),
    ],
)
def test_unusable_response_is_refused_without_quoting_it(
    token: str, token_type: str, expires_in: float | str, named: str
) -> None:
    with pytest.raises(ValueError, match=f"^{named} ") as caught:
        TokenResponse(access_token=token, token_type=token_type, expires_in=expires_in)
    assert not leaks(str(caught.value))
    assert "Injected" not in str(caught.value)
