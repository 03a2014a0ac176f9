"""What an untrusted source might send: strategies that begin at something sound and spoil it."""

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from hypothesis import strategies as st

from tests.unit.fakes import EVENTS, NOW, SECRET, TOKEN, event, jwt, stored
from token_broker.grants import GRANTS_FILE
from token_broker.models import block_record, rfc3339
from token_refresher.backoff import after_refusal, as_requested
from token_refresher.connection_state import ConnectionState

type Json = Any

# ── JSON ─────────────────────────────────────────────────────────────────────────────────────────

_DEEP: Final = 20_000
"""Levels of nesting that no recursive reader follows."""

words = st.sampled_from(
    [
        "",
        "0",
        "-1",
        "deals",
        "read:deals",
        "read:users",
        "REPLACE-ME",
        "Bearer",
        "a" * 70,
        "\x00",
        "�",
        "\u2028",
        "é",
        "9" * 5000,
        "2025-03-01T12:00:00Z",
        TOKEN,
        SECRET,
    ]
)
texts = words | st.text(max_size=40)
numbers = (
    st.integers(-3, 5000)
    | st.sampled_from([0, -1, 2**31, 2**63, 10**18, 10**400, True, False, 1e308, 0.5])
    | st.floats()
)
scalars = st.none() | numbers | texts
values: st.SearchStrategy[Json] = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@st.composite
def json_texts(draw: st.DrawFn, documents: st.SearchStrategy[Json]) -> str:
    """A document as JSON, now and then as no JSON at all."""
    kind = draw(st.integers(0, 19))
    if kind == 0:
        return draw(texts)
    if kind == 1:
        opening, closing = draw(st.sampled_from(["[]", ['{"a":', "}"], "{}"]))
        return opening * _DEEP + closing * draw(st.sampled_from([0, _DEEP]))
    text = json.dumps(draw(documents), ensure_ascii=draw(st.booleans()))
    return draw(spoilt(text)) if kind < 6 else text


@st.composite
def spoilt(draw: st.DrawFn, text: str) -> str:
    """A text with some of it left out, doubled or replaced."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = start + draw(st.integers(0, 12))
        middle = draw(st.sampled_from(["", text[start:end] * 2, "\x00", "\ufeff", "{", '"', ","]))
        text = text[:start] + middle + text[end:]
    return text


@st.composite
def altered(draw: st.DrawFn, sound: Mapping[str, Json], likely: Mapping[str, Any] = {}) -> Json:
    """An object with some fields changed, left out or added.

    Args:
        draw: Hypothesis's.
        sound: what to begin with.
        likely: strategies of values for single fields that are worth trying.
    """
    record = dict(sound)
    for name in draw(st.lists(st.sampled_from(sorted(sound)), max_size=3)):
        change = draw(st.integers(0, 9))
        if change == 0:
            record.pop(name, None)
        elif change < 8 and name in likely:
            record[name] = draw(likely[name])
        else:
            record[name] = draw(values)
    if draw(st.integers(0, 7)) == 0:
        record[draw(texts)] = draw(values)
    return record


# ── grants.toml ──────────────────────────────────────────────────────────────────────────────────

_GRANTS: Final = GRANTS_FILE.read_text(encoding="utf-8")
_ACCOUNT: Final = "arn:aws:iam::111122223333:"
patterns = st.sampled_from(
    [
        f"{_ACCOUNT}role/reporting-*",
        f"{_ACCOUNT}user/ops/*",
        f"{_ACCOUNT}role/a/b",
        "*",
        "arn:*",
        f"{_ACCOUNT}role/{'*-' * 20}x",
        f"{_ACCOUNT}user/?*?*",
        "arn:aws:sts::111122223333:x/y",
    ]
) | st.from_regex(r"\Aarn:aws[a-z-]{0,3}:iam::[0-9]{12}:(role|user)/[\w+=,.@*?/-]{1,20}\Z")
scopes = st.lists(st.sampled_from(["read:deals", "read:users", "a", "", 'a"', "é"]) | texts)
toml_values = (
    st.sampled_from(["1979-05-27", "07:32:00", "inf", "nan", "0x" + "f" * 9, "1" * 5000, "true"])
    | st.integers().map(str)
    | st.floats().map(repr)
    | texts.map(json.dumps)
    | st.lists(texts, max_size=3).map(json.dumps)
    | st.sampled_from(["[" * n + "]" * n for n in (1, 5, _DEEP)])
    | st.sampled_from(["{a=" * n + "1" + "}" * n for n in (1, 5, 3000)])
)
names = st.sampled_from(["deals", "d", "x" * 63, "x" * 64, "Deals", "1a", "d.e", "default", "eu"])


@st.composite
def grants_files(draw: st.DrawFn) -> str:
    """grants.toml as a hurried hand might leave it."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(st.text())
    if kind == 1:
        return draw(spoilt(_GRANTS))
    if kind == 2:
        return f"[grants.{'a.' * draw(st.sampled_from([1, 5, _DEEP]))}a]\nscope = []\n"
    lines = []
    for table in draw(st.lists(st.sampled_from(["grants", "grants", "connections"]), max_size=4)):
        name = draw(names if draw(st.booleans()) else texts.map(json.dumps))
        lines.append(f"[{table}.{name}]")
        likely = {
            "scope": scopes.map(json.dumps),
            "callers": st.lists(patterns | texts, max_size=3).map(json.dumps),
            "mode": st.sampled_from(['"audit"', '"enforce"', '"off"']),
            "connection": names.map(json.dumps),
            "token_url": st.sampled_from(
                ["https://a/b", "http://a", "http://localhost:1/x", "x"]
            ).map(json.dumps),
        }
        keys = ["token_url"] if table == "connections" else ["scope", "callers"]
        keys += draw(st.lists(st.sampled_from(sorted(likely)), max_size=2))
        for key in keys:
            value = draw(toml_values if draw(st.integers(0, 7)) == 0 else likely[key])
            lines.append(f"{key} = {value}")
    return "\n".join(lines)


# ── Responses over HTTP ───────────────────────────────────────────────────────────────────────────

_EXP: Final = int(NOW.timestamp())
jwts = st.builds(
    jwt,
    exp=st.just(_EXP + 900) | scalars,
    iat=st.just(_EXP) | scalars,
) | st.sampled_from(["a.b.c", f"a.{'W1tb' * 5000}.c", "..", "a.e30.c", "a.bnVsbA.c"])
access_tokens = st.just(TOKEN) | jwts | texts
token_answers = altered(
    {"access_token": TOKEN, "token_type": "Bearer", "expires_in": 900, "scope": "read:deals"},
    {
        "access_token": access_tokens,
        "token_type": st.sampled_from(["bearer", "BEARER", "mac", f"Bearer {TOKEN}"]),
        "expires_in": numbers
        | st.sampled_from(["900", "0", "-1", "9" * 12, "9" * 5000, "१२", "5"]),
        "scope": st.sampled_from(["", " ", "read:deals read:users", "read:users", TOKEN]),
    },
)
refusals = altered(
    {"error": "invalid_client", "error_description": SECRET, "error_uri": TOKEN},
    {"error": st.sampled_from(["invalid_scope", "INVALID_CLIENT", SECRET, TOKEN, "x" * 9000])},
)
vended = altered(
    {
        "access_token": TOKEN,
        "token_type": "Bearer",
        "expires_in": 900,
        "expires_at": rfc3339(NOW + timedelta(minutes=15)),
        "scope": "read:deals",
    },
    {
        "access_token": access_tokens,
        "expires_in": numbers,
        "expires_at": texts,
    },
)
status_lines = st.sampled_from(
    [f"HTTP/1.1 {code} OK" for code in (200, 200, 200, 200, 202, 204, 301, 400, 401, 403, 404)]
    + [f"HTTP/1.1 {code} OK" for code in (100, 101, 199, 304, 429, 500, 503, 599, 600, 999, 1000)]
    + ["HTTP/1.0 200", "HTTP/0.9 200 OK", "HTTP/2 200 OK", "HTTP/1.1 2OO OK", "HTTP/1.1 -200 OK"]
    + ["", "ICY 200 OK", f"HTTP/1.1 200 {TOKEN}", f"HTTP/1.1 {'9' * 5000}", "x" * 70_000]
)
headers = st.sampled_from(
    [f"Retry-After: {value}" for value in ("0", "5", "9" * 5000, "-1", "1.5", "", "x", TOKEN)]
    + ["Retry-After: Sat, 01 Mar 2025 12:00:05 GMT", "Retry-After: Sat, 01 Mar 2025 12:00:05 -0000"]
    + ["Retry-After: 01 Jan 0000 00:00:00 +9999", "Retry-After: Fri, 31 Dec 9999 23:59:59 -2359"]
    + ["Content-Type: application/json", "Content-Encoding: gzip", "Content-Encoding: deflate, br"]
    + ["Connection: close", "Location: http://127.0.0.1/", f"Set-Cookie: {TOKEN}", f"{TOKEN}: 1"]
    + ["no colon", ": no name", " folded", "X: \x00", "X: é", f"X{SECRET}", "X" * 70_000]
    + [f"x-amzn-ErrorType: {value}" for value in ("AccessDeniedException", TOKEN, "x" * 900)]
)
lengths = st.sampled_from(
    ["0", "-1", "1", "99999", "9" * 5000, "1, 2", "5, 5", "x", "", "+4", "1_0"]
)
chunk_sizes = st.sampled_from(["0", "1", "-1", "-5", "ffffffffffffffffff", "x", "", "1_0", "+3"])


@st.composite
def http_answers(draw: st.DrawFn, documents: st.SearchStrategy[Json]) -> bytes:
    """The bytes of a response: status line, headers, and a body framed in some way."""
    if draw(st.integers(0, 19)) == 0:
        return draw(st.binary(max_size=200))
    text = draw(json_texts(documents))
    body = text.encode("utf-8", errors=draw(st.sampled_from(["replace", "surrogatepass"])))
    lines = [draw(status_lines), *draw(st.lists(headers, max_size=3))]
    framing = draw(st.integers(0, 7))
    if framing < 4:
        lines.append(f"Content-Length: {len(body)}")
    elif framing == 4:
        lines.append(f"Content-Length: {draw(lengths)}")
    elif framing == 5:
        lines.append("Transfer-Encoding: chunked")
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    elif framing == 6:
        lines.append(draw(st.sampled_from(["Transfer-Encoding: chunked", "TE: x, chunked"])))
        body = draw(chunk_sizes).encode() + b"\r\n" + body + draw(st.sampled_from([b"", b"\r\n"]))
    end = draw(st.sampled_from(["\r\n", "\r\n", "\r\n", "\n"]))
    head = end.join([*lines, "", ""]).encode("utf-8", errors="replace")
    if draw(st.integers(0, 9)) == 0:
        return (head + body)[: draw(st.integers(0, len(head) + len(body)))]
    return head + body


# ── Events ───────────────────────────────────────────────────────────────────────────────────────

_FORM: Final = (
    f"grant_type=client_credentials&client_id=x&client_secret={SECRET}&scope=read%3Adeals"
)
_ARNS: Final = st.sampled_from(
    ["", "arn:aws:sts::111122223333:assumed-role/reporting-nightly/s", "arn:aws:iam::1:root"]
)
paths = st.sampled_from(
    [
        "/tokens/deals",
        "/tokens/deals/",
        "/v1/tokens/deals",
        "/tokens//deals",
        "/tokens/x/rejection",
        "/tokens/deals/rejection",
        "",
        "/tokens/reporting",
        "/tokens/\u2028",
    ]
)
segments = st.sampled_from(["deals", "reporting", "nope", "", "deals/", "x/../deals", "\u2028"])
bodies = st.sampled_from(
    [
        _FORM,
        f"{_FORM}&scope=a",
        "grant_type=password&scope=a",
        f"{SECRET}",
        '{"fingerprint": "0"}',
        '{"fingerprint": "0123456789ab"}',
        json.dumps({"fingerprint": stored().fingerprint}),
        json.dumps({"fingerprint": TOKEN}),
        "x" * 20000,
        "%ff=1",
        "a=1&" * 40,
        "[" * 8000,
        "e30=",
    ]
) | st.text(max_size=30)
queries = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "min_ttl": st.lists(
            st.sampled_from(["0", "60", "-1", "9" * 5000, "1.5", "", "²", "٣", TOKEN]) | values,
            max_size=2,
        )
        | values,
        "other_than": st.lists(
            st.sampled_from(["0123456789ab", stored().fingerprint, "", TOKEN]), max_size=2
        )
        | values,
        "token": st.just([TOKEN]),
    },
)
_CONTENT_TYPES: Final = st.sampled_from(
    ["application/x-www-form-urlencoded", "Application/X-WWW-Form-Urlencoded; charset=utf-8", "a/b"]
)


@st.composite
def api_events(draw: st.DrawFn) -> Json:
    """An event of API Gateway's, or what could pass for one."""
    if draw(st.integers(0, 19)) == 0:
        return draw(values)
    name = draw(st.sampled_from(["get_token_by_role.json", "get_token_by_user.json"]))
    given = event(name)
    method, resource = draw(
        st.sampled_from(
            [
                ("GET", "/tokens/{grant}"),
                ("POST", "/tokens/{grant}/rejection"),
                ("GET", "/grants"),
                ("POST", "/oauth2/token"),
                ("DELETE", "/tokens/{grant}"),
            ]
        )
    )
    segment = draw(segments)
    suffix = "/rejection" if resource.endswith("rejection") else ""
    given |= {
        "httpMethod": method,
        "resource": resource,
        "path": f"/tokens/{segment}{suffix}" if draw(st.booleans()) else draw(paths),
        "pathParameters": {"grant": segment},
        "multiValueQueryStringParameters": draw(queries),
        "body": draw(bodies) if method == "POST" or draw(st.booleans()) else None,
        "isBase64Encoded": draw(st.sampled_from([False, False, True, None, "true"])),
        "headers": {"content-type": draw(_CONTENT_TYPES), "Authorization": f"Bearer {TOKEN}"},
    }
    if draw(st.integers(0, 3)) == 0:
        given["requestContext"]["identity"]["userArn"] = draw(_ARNS)
    # Whole parts, which API Gateway would never send like this. Who is asked for what stays as it
    # is: that is what the log is for, so nothing secret is put there.
    for part in draw(st.lists(st.sampled_from(_PARTS), max_size=2)):
        given[part] = draw(_unspoken)
    return given


_PARTS: Final = ["httpMethod", "resource", "headers", "requestContext", "pathParameters", "body"]
_unspoken: st.SearchStrategy[Json] = st.recursive(
    st.none() | numbers | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)

_SCHEDULE: Final = event("schedule.json")
_CHANGES: Final = [event(file.name) for file in sorted(EVENTS.glob("secret_*.json"))]


def refresh_events() -> st.SearchStrategy[Json]:
    """An invocation's events; the names of keys and grants in them are quoted, so no secrets."""
    return _refresh_events().map(_with_public_names)


def _with_public_names(given: Json) -> Json:
    if not isinstance(given, dict):
        return given
    renamed = {key.replace(TOKEN, "t").replace(SECRET, "s"): value for key, value in given.items()}
    if isinstance(renamed.get("grants"), list):
        renamed["grants"] = [n for n in renamed["grants"] if n not in (SECRET, TOKEN)]
    return renamed


@st.composite
def _refresh_events(draw: st.DrawFn) -> Json:
    """A schedule's event, a secret's change, or a request to force."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(values)
    if kind < 3:
        return draw(altered(_SCHEDULE))
    if kind < 6:
        change = draw(altered(draw(st.sampled_from(_CHANGES))))
        if isinstance(change.get("detail"), dict):
            change["detail"] = draw(altered({"name": "", **change["detail"]}))
        return change
    request = {"force": True, "grants": ["deals"], "rejected": stored().fingerprint}
    likely = {
        "force": st.booleans(),
        "grants": st.none() | st.lists(st.sampled_from(["deals", "users", "nope", ""])),
        "rejected": st.just(TOKEN),
    }
    return draw(altered(request, likely))


# ── What is stored ───────────────────────────────────────────────────────────────────────────────

moments = st.one_of(
    st.datetimes().map(lambda time: time.isoformat()),
    st.integers(-200_000, 400_000).map(lambda left: rfc3339(NOW + timedelta(seconds=left))),
    st.sampled_from(["9999-12-31T23:59:59Z", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00Z"]),
    st.sampled_from(
        ["2025-03-01", "2025-W09-6T12:00:00Z", "2025-03-01T12:00:00", "20250301T130000Z"]
    ),
    texts,
)
stored_tokens = json_texts(
    altered(
        json.loads(stored().to_json()),
        {
            "access_token": access_tokens,
            "token_type": st.sampled_from(["bearer", "Bearer ", "mac"]),
            "scope": st.sampled_from(
                ["", " ", "read:deals ", "read:users", "read:deals read:users"]
            ),
            "issued_at": moments,
            "expires_at": moments,
            "secret_version": texts,
            "follows": st.integers() | st.none() | texts,
        },
    )
    | st.fixed_dictionaries(
        {"blocked": st.sampled_from(["leak", "", "\u2028", "\ud800", None, 1, "x" * 3000])}
    )
) | st.just(block_record("leak", now=NOW))

_KEY: Final = "0123456789ab"
_STATE: Final = ConnectionState(
    backoff=as_requested(reason="http_429", now=NOW, retry_after=timedelta(seconds=90)),
    grants={
        "deals": after_refusal(None, reason="invalid_scope", now=NOW, key=_KEY, expires_at=None)
    },
    leased_at=NOW,
    owner="another run",
)


def stored_states(*keys: str) -> st.SearchStrategy[str]:
    """States; some of their backoffs are of just what a run is about to request.

    Args:
        keys: what a run takes a refusal to depend on.
    """
    untils = st.integers(-100, 2000).map(lambda left: _EXP + left) | numbers
    backoff = st.tuples(
        st.sampled_from(["invalid_scope", "http_429", TOKEN, "x" * 5000, "é" * 2000]) | texts,
        st.integers(-70, 70) | numbers,
        untils,
        st.sampled_from(["", _KEY, *keys]) | texts,
    ).map(list)
    backoffs = backoff | values
    return json_texts(
        altered(
            json.loads(_STATE.to_json()),
            {
                "backoff": backoffs,
                "grants": st.dictionaries(st.just("deals") | texts, backoffs, max_size=4),
                "unanswered": st.lists(st.just("deals") | texts, max_size=3) | values,
                "leased_at": untils,
                "owner": texts,
            },
        )
    )


secrets = json_texts(
    altered(
        {"client_id": "7f0c", "client_secret": SECRET, "dealtrack_registration_id": "c3b2&=%"},
        dict.fromkeys(["client_id", "client_secret", "dealtrack_registration_id"], texts),
    )
)
