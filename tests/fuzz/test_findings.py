"""Inputs that once broke a property of their target."""

from typing import Any

import pytest

from tests.fuzz.targets import TARGETS
from tests.unit.fakes import TOKEN, event

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CUT_OFF = b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n%b" % TOKEN.encode()
ENDPOINT, CLIENT = "token endpoint's responses", "broker's responses to the client library"
STATES, STORED = "stored states", "stored tokens and blocks"


def record(**changed: str) -> str:
    sound = {
        "access_token": "opaque",
        "token_type": "Bearer",
        "scope": "read:deals",
        "issued_at": "2025-03-01T12:00:00Z",
        "expires_at": "2025-03-01T13:00:00Z",
    }
    fields = ", ".join(f'"{name}": "{value}"' for name, value in (sound | changed).items())
    return f"{{{fields}}}"


def state(backoff: str, owner: str = "") -> str:
    return (
        f'{{"backoff": {backoff}, "grants": {{}}, "unanswered": [], '
        f'"leased_at": 0, "owner": "{owner}"}}'
    )


@pytest.mark.parametrize(
    ("target", "found"),
    [
        pytest.param(ENDPOINT, CHUNKED + b"-1\r\n{}", id="chunk without an end"),
        pytest.param(ENDPOINT, CHUNKED + b"-5\r\n{}", id="chunk of a negative length"),
        pytest.param(CLIENT, CHUNKED + b"-5\r\n{}", id="client: chunk of a negative length"),
        pytest.param(CLIENT, CHUNKED + b"f" * 15 + b"\r\n{}", id="client: chunk of an exabyte"),
        pytest.param(CLIENT, CHUNKED + b"f" * 20 + b"\r\n{}", id="client: chunk of no size_t"),
        pytest.param(CLIENT, CUT_OFF, id="client: token cut off, quoted by the cause"),
        pytest.param(
            CLIENT, b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 20_000, id="client: JSON nested too deeply"
        ),
        pytest.param("grants.toml", "a = " + "1" * 5_000, id="TOML number of 5,000 digits"),
        pytest.param("grants.toml", "a = 0x" + "f" * 5_000, id="hexadecimal number, too"),
        pytest.param("grants.toml", f"[{'a.' * 20_000}a]", id="TOML nested too deeply"),
        pytest.param(
            "API events",
            event("get_token_by_role.json") | {"httpMethod": []},
            id="method that is a list",
        ),
        pytest.param(STORED, record(secret_version=TOKEN), id="token for a secret's version"),
        pytest.param(STORED, record(expires_at="9999-12-31T23:59:59Z"), id="token without an end"),
        pytest.param(
            STORED,
            record(issued_at="2025-03-11T12:00:00Z", expires_at="2025-03-11T13:00:00Z"),
            id="token from the future",
        ),
        pytest.param(STATES, "[" * 20_000, id="state nested too deeply"),
        pytest.param(
            STATES, state('["invalid_scope", -9, 1740830490, ""]'), id="negative number of failures"
        ),
        pytest.param(STATES, state(f'["{TOKEN}", 0, 1740830490, ""]'), id="token for a reason"),
        pytest.param(STATES, state(f'["{"é" * 2_000}", 0, 1740830490, ""]'), id="reason of pages"),
        pytest.param(STATES, state("null", "é" * 2_000), id="owner with a name of pages"),
        *(
            pytest.param(
                STATES,
                state(f'["invalid_scope", 0, {1740830400 + late}, ""]', "another").replace(
                    '"leased_at": 0', '"leased_at": 1740830400'
                ),
                id=f"backoff of {late} seconds, behind a lease",
            )
            for late in (902, 957, 1_500)
        ),
    ],
)
def test_input_that_was_found_is_borne(target: str, found: Any) -> None:
    TARGETS[target].check(found)
