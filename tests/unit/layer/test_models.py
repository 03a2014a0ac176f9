"""The records: exact on the wire, strict when read, silent when printed."""

import io
import json
import logging
import time
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta, timezone

import pytest
from aws_lambda_powertools import Logger
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.fakes import (
    CREDENTIALS,
    NOW,
    SECRET,
    TOKEN,
    VERSION,
    all_said,
    leaks,
    seconds,
    stored,
)
from token_broker.errors import CorruptStoredToken, GrantBlocked
from token_broker.models import (
    StoredToken,
    block_record,
    fingerprint,
    is_scope_token,
    rfc3339,
)
from token_refresher.enable.models import OAuthError, TokenResponse
from token_vendor.responses import VendedToken

scope_tokens = st.text(
    st.sampled_from([chr(n) for n in range(0x21, 0x7F) if chr(n) not in '"\\']), min_size=1
)
visible_ascii = st.text(st.sampled_from([chr(n) for n in range(0x21, 0x7F)]), min_size=1)
whole_second_times = st.integers(0, 250_000_000_000).map(
    lambda timestamp: datetime.fromtimestamp(timestamp, UTC)
)


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("read:deals", True),
        ("!#[]~", True),
        ("", False),
        ("read deals", False),
        ('read"deals', False),
        ("read\\deals", False),
        ("lesen:büro", False),
        ("read\n", False),
        ("\x7f", False),
    ],
)
def test_scope_token_is_what_the_rfc_says(text: str, is_one: bool) -> None:  # noqa: FBT001
    assert is_scope_token(text) is is_one


def test_fingerprint_is_the_beginning_of_the_sha256() -> None:
    assert fingerprint("abc") == "ba7816bf8f01"  # FIPS 180-2, appendix B.1


@given(
    visible_ascii,
    st.lists(scope_tokens, min_size=1),
    whole_second_times,
    st.integers(1, 86_400).map(seconds),
    st.from_regex(r"[A-Za-z0-9_-]{0,64}", fullmatch=True),
)
def test_stored_token_round_trips_through_its_json(
    token: str, scope: list[str], issued_at: datetime, lifetime: timedelta, secret_version: str
) -> None:
    before = StoredToken(
        access_token=token,
        scope=tuple(scope),
        issued_at=issued_at,
        expires_at=issued_at + lifetime,
        secret_version=secret_version,
    )
    assert StoredToken.from_json(before.to_json()) == before


def test_stored_json_holds_exactly_the_documented_fields() -> None:
    token = stored("opaque", left=60, scope=("read:deals", "read:users"))
    assert json.loads(token.to_json()) == {
        "access_token": "opaque",
        "token_type": "Bearer",
        "scope": "read:deals read:users",
        "issued_at": "2025-03-01T12:00:00Z",
        "expires_at": "2025-03-01T12:01:00Z",
        "secret_version": "v1",
        "follows": None,
    }


def test_parameter_version_is_known_but_neither_stored_nor_compared() -> None:
    token = StoredToken.from_json(stored().to_json(), parameter_version=41)
    assert token.parameter_version == 41
    assert token == stored()
    assert token.to_json() == stored().to_json()


def test_record_that_does_not_name_its_secret_s_version_is_good() -> None:
    record = {name: value for name, value in RECORD.items() if name != "secret_version"}
    assert StoredToken.from_json(json.dumps(record)) == stored(secret_version="")


@pytest.mark.parametrize(
    ("named", "follows"), [(0, 0), (41, 41), (-1, None), (True, None), ("1", None), (None, None)]
)
def test_record_names_the_version_that_it_follows_or_none(
    named: object, follows: int | None
) -> None:
    assert StoredToken.from_json(json.dumps(RECORD | {"follows": named})).follows == follows


def test_record_of_an_older_version_of_the_broker_follows_none() -> None:
    record = {name: value for name, value in RECORD.items() if name != "follows"}
    assert StoredToken.from_json(json.dumps(record)).follows is None


RECORD = json.loads(stored().to_json())
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.text()
    | json_values.map(json.dumps)
    | st.builds(
        lambda name, value: json.dumps(RECORD | {name: value}),
        st.sampled_from(sorted(RECORD)),
        json_values,
    )
)
def test_reading_any_text_gives_a_token_or_says_that_it_is_corrupt(text: str) -> None:
    try:
        token = StoredToken.from_json(text)
    except CorruptStoredToken:
        return
    assert StoredToken.from_json(token.to_json()).access_token == token.access_token


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        f'["{TOKEN}"]',
        "[" * 100_000,
        json.dumps({name: RECORD[name] for name in RECORD if name != "scope"}),
        json.dumps(RECORD | {"access_token": f"{TOKEN} "}),
        json.dumps(RECORD | {"access_token": ""}),
        json.dumps(RECORD | {"token_type": "bearer"}),
        json.dumps(RECORD | {"scope": ""}),
        json.dumps(RECORD | {"scope": "read:deals  read:users"}),
        json.dumps(RECORD | {"issued_at": "2025-03-01T12:00:00"}),
        json.dumps(RECORD | {"expires_at": 1740834000}),
        json.dumps(RECORD | {"expires_at": "tomorrow"}),
        json.dumps(RECORD | {"expires_at": RECORD["issued_at"]}),
        json.dumps(RECORD | {"issued_at": "0001-01-01T00:00:00+14:00"}),  # has no UTC form
        json.dumps(RECORD | {"secret_version": None}),
        json.dumps({"blocked": 7}),
        json.dumps(RECORD | {"secret_version": [TOKEN]}),
    ],
)
def test_corrupt_record_is_refused_without_quoting_it(text: str) -> None:
    with pytest.raises(CorruptStoredToken) as caught:
        StoredToken.from_json(text)
    assert str(caught.value) == "the parameter contains no stored token"
    assert not leaks(all_said(caught.value))


def test_what_is_no_secret_s_version_is_not_taken_for_one() -> None:
    token = StoredToken.from_json(json.dumps(RECORD | {"secret_version": TOKEN}))
    assert token == stored(secret_version="")
    assert not leaks(repr(token))


@pytest.mark.parametrize(("lifetime", "is_sound"), [(86_400, True), (86_401, False)])
def test_token_of_more_than_24_hours_is_not_one_that_the_broker_wrote(
    lifetime: int,
    is_sound: bool,  # noqa: FBT001
) -> None:
    text = stored(left=lifetime).to_json()
    with nullcontext() if is_sound else pytest.raises(CorruptStoredToken):
        StoredToken.from_json(text)


def test_stored_times_of_any_offset_become_utc() -> None:
    text = json.dumps(RECORD | {"expires_at": "2025-03-01T15:00:00+02:00"})
    expires_at = StoredToken.from_json(text).expires_at
    assert (expires_at, expires_at.tzinfo) == (NOW + seconds(3600), UTC)


def test_times_are_utc_wherever_the_machine_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        assert rfc3339(NOW) == "2025-03-01T12:00:00Z"
        assert StoredToken.from_json(stored().to_json()).expires_at.tzinfo is UTC
    finally:
        monkeypatch.undo()
        time.tzset()


def test_token_lives_until_its_expiry_and_not_at_it() -> None:
    token = stored(left=10)
    assert token.is_live(NOW + seconds(9.999))
    assert not token.is_live(NOW + seconds(10))
    assert token.time_left(NOW + seconds(11)) == seconds(-1)


def test_rfc3339_is_utc_in_whole_seconds() -> None:
    elsewhere = timezone(timedelta(hours=5, minutes=30))
    moment = datetime(2025, 3, 1, 2, 0, 0, 999_999, tzinfo=elsewhere)
    assert rfc3339(moment) == "2025-02-28T20:30:00Z"


@pytest.mark.parametrize(
    "record",
    [
        CREDENTIALS,
        VERSION,
        VERSION.request(("read:deals",)),
        TokenResponse(access_token=TOKEN, token_type="Bearer"),
        OAuthError(error="invalid_client", error_description=SECRET, error_uri=SECRET),
        stored(),
        VendedToken.of(stored(), NOW),
    ],
    ids=lambda record: type(record).__name__,
)
def test_record_that_is_printed_or_logged_keeps_its_secret(record: object) -> None:
    stream = io.StringIO()
    logger = Logger(
        service=f"hygiene of {type(record).__name__}", stream=stream, level=logging.DEBUG
    )
    logger.info("a record", extra={"record": record, "in_a_list": [record]})
    logger.info(record)
    try:
        raise RuntimeError(record)  # noqa: TRY301 - what is logged is under test
    except RuntimeError:
        logger.exception("a failure with a record")
    assert stream.getvalue().count(f"{type(record).__name__}(") >= 4  # it was logged each time
    assert not leaks(stream.getvalue(), repr(record), str(record), f"{record}")


def test_block_record_stands_in_a_tokens_place() -> None:
    text = block_record("leaked on a screen", now=NOW)
    with pytest.raises(GrantBlocked) as block:
        StoredToken.from_json(text)
    assert block.value.reason == "leaked on a screen"
    assert block.value.record == text
    assert json.loads(text)["blocked_at"] == "2025-03-01T12:00:00Z"
    assert "screen" not in str(block.value)  # callers are not reported why
