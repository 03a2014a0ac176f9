"""The checker can fail: a record that breaks a promise is found out, and a sound one is not.

The sound record: one grant, tokens of 40 seconds, due after 20; runs every 5 seconds; a fault.
"""

import ast
import json
from pathlib import Path

import pytest

from tests.soak import checker
from tests.soak.checker import RULES, check
from tests.soak.record import Entry

T0 = 1_700_000_000
SCOPE, OTHER_SCOPE = "read:deals", "read:users"


def header() -> Entry:
    return {
        "kind": "header",
        "at": T0,
        "seed": 1,
        "schedule_seconds": 5,
        "grants": {"deals": SCOPE},
        "callers": {
            "friend": {"grant": "deals", "expects": "token"},
            "stranger": {"grant": "deals", "expects": "iam"},
            "outsider": {"grant": "deals", "expects": "callers"},
        },
    }


def issue(at: float, name: str, *, lifetime: float = 40, **more: object) -> Entry:
    return {
        "kind": "token_request",
        "at": T0 + at,
        "until": T0 + at + 0.1,
        "scope": SCOPE,
        "status": 200,
        "fault": None,
        "fingerprint": name,
        "exp": T0 + at + lifetime,
        "lifetime": lifetime,
        **more,
    }


def failed(at: float, *, status: int | None = None, fault: int | None = None) -> Entry:
    return {
        "kind": "token_request",
        "at": T0 + at,
        "until": T0 + at + 0.1,
        "scope": SCOPE,
        "status": status,
        "fault": fault,
    }


def stored(at: float, name: str, *, lifetime: float = 40, version: int = 1) -> Entry:
    return {
        "kind": "stored",
        "grant": "deals",
        "state": "token",
        "version": version,
        "at": T0 + at,
        "seen": T0 + at + 0.2,
        "fingerprint": name,
        "scope": SCOPE,
        "issued_at": T0 + at - 0.5,
        "expires_at": T0 + at - 0.5 + lifetime,
    }


def nothing(seen: float, state: str = "missing") -> Entry:
    return {
        "kind": "stored",
        "grant": "deals",
        "state": state,
        "version": 0,
        "at": None,
        "seen": T0 + seen,
    }


def run(begin: float, end: float | None = None, **more: object) -> Entry:
    end = begin + 0.3 if end is None else end
    return {
        "kind": "run",
        "begin": T0 + begin,
        "end": T0 + end,
        "grants": {"deals": "reported"},
        **more,
    }


def request(at: float, status: int | None = 200, caller: str = "friend", **more: object) -> Entry:
    return {
        "kind": "request",
        "caller": caller,
        "grant": "deals",
        "method": "GET",
        "other_than": "",
        "at": T0 + at,
        "until": T0 + at + 0.1,
        "status": status,
        **more,
    }


def vended(at: float, name: str, exp: float, caller: str = "friend", **more: object) -> Entry:
    facts = {
        "fingerprint": name,
        "exp": T0 + exp,
        "scope": SCOPE,
        "told_scope": SCOPE,
        "expires_in": int(exp - at - 1),
    }
    return request(at, 200, caller, **(facts | more))


def use(at: float, name: str, exp: float, status: int | None = 200) -> Entry:
    return {
        "kind": "use",
        "caller": "friend",
        "asked_at": T0 + at,
        "at": T0 + at,
        "until": T0 + at + 0.1,
        "status": status,
        "fingerprint": name,
        "exp": T0 + exp,
    }


def fault(name: str, begin: float, end: float, **more: object) -> Entry:
    facts = {"number": 1, "what": "-", "backoff": "none", "held_seconds": 0}
    return {"kind": "fault", "name": name, "begin": T0 + begin, "end": T0 + end} | facts | more


def sound() -> list[Entry]:
    """Two tokens, the first renewed after Enable failed for a while, and all sorts of callers."""
    return [
        header(),
        issue(0.5, "one"),
        stored(0.6, "one"),
        *(run(at) for at in range(0, 100, 5)),
        vended(5, "one", 40.5),
        request(6, 403, "stranger"),
        request(6, 403, "outsider"),
        use(7, "one", 40.5),
        fault("Enable fails", 18, 27),
        *(failed(20 + n / 100, fault=1) for n in range(4)),
        *(failed(25 + n / 100, fault=1) for n in range(4)),
        issue(30.1, "two", lifetime=80),
        stored(30.2, "two", lifetime=80, version=2),
        vended(35, "two", 110),
        {"kind": "end", "at": T0 + 65},
    ]


def test_sound_record_breaks_nothing_and_decides_everything():
    report = check(sound())
    assert report.violations == []
    assert {rule for rule in RULES if not report.rules[rule]} == EVENTFUL


def test_record_without_observations_is_not_conclusive():
    report = check([header(), {"kind": "end", "at": T0 + 60}])
    assert not report.is_conclusive
    assert "nothing to decide for: expired" in report.text()


def test_record_of_a_soak_that_did_not_begin_is_refused():
    with pytest.raises(ValueError, match="no header"):
        check([{"kind": "end", "at": T0}])


REFUSED_CLIENT = fault("Enable refuses the client", 40, 46, number=3, backoff="connection")
REFUSED_GRANT = fault("Enable misbehaves or refuses a grant", 40, 46, number=3, backoff="grant")
BUSY = fault("Enable asks for patience", 41.7, 43.2, number=4, backoff="asked", held_seconds=2)
FORCED = fault("Enable fails", 44, 46, number=5, forced=True, grants=["deals"])
BLOCK = fault(
    "an operator blocks a grant",
    40,
    58.1,
    number=6,
    grants=["deals"],
    begun=T0 + 40.1,
    ending=T0 + 58,
)
EVENTFUL = {"backoff", "retry_after", "forced", "blocked"}

VIOLATIONS = {
    "expired: vended after its end": ("expired", [vended(41, "one", 40.5, expires_in=0)]),
    "expired: promised for longer than it lives": (
        "expired",
        [vended(10, "one", 40.5, expires_in=35)],
    ),
    "expired: handed out by the library after its end": ("expired", [use(41, "one", 40.5)]),
    "scope: a token that Enable never issued": ("scope", [vended(10, "unknown", 40.5)]),
    "scope: a token for another scope": (
        "scope",
        [vended(10, "one", 40.5, scope=OTHER_SCOPE)],
    ),
    "scope: reported to be for another scope": (
        "scope",
        [vended(10, "one", 40.5, told_scope="read:deals read:users")],
    ),
    "caller: one whom IAM does not allow": ("caller", [vended(10, "one", 40.5, "stranger")]),
    "caller: one who is not in callers": ("caller", [vended(10, "one", 40.5, "outsider")]),
    "caller: a stranger is reported something else than no": (
        "caller",
        [request(10, 404, "outsider")],
    ),
    "caller: IAM fails open to the function": ("caller", [request(10, 503, "stranger")]),
    "caller: one who may have it is refused": ("caller", [request(10, 403)]),
    "available: 503 though a token lives": ("available", [request(10, 503)]),
    "available: 502 though a token lives": ("available", [request(10, 502)]),
    "available: 503 for another token than one that is not stored": (
        "available",
        [request(10, 503, other_than="zero")],
    ),
    "available: 503 of the kill of another time": (
        "available",
        [request(10, 503), fault("the vendor is killed", 12, 12, number=2)],
    ),
    "kept: overwritten by junk that nobody injected": (
        "kept",
        [{**nothing(12, "other"), "at": T0 + 12, "version": 2}],
    ),
    "kept: gone, and nobody deleted it": ("kept", [nothing(12)]),
    "kept: replaced by one that Enable did not issue": ("kept", [stored(12, "three", version=2)]),
    "kept: replaced by one that ends earlier": (
        "kept",
        [issue(31, "three", lifetime=20), stored(31.2, "three", lifetime=20, version=3)],
    ),
    "kept: stored beyond its own end": (
        "kept",
        [issue(45, "three", lifetime=30), stored(45.1, "three", lifetime=90, version=3)],
    ),
    "requests: asked for though nothing was due": ("requests", [issue(10, "three")]),
    "requests: issued, and stored nowhere": ("requests", [issue(12, "three", lifetime=60)]),
    "requests: issued just before the next, and stored nowhere": (
        "requests",
        [issue(24, "three", lifetime=60)],
    ),
    "requests: failed without a fault": ("requests", [failed(10, status=503)]),
    "requests: a wrong secret though none was changed": ("requests", [failed(10, status=401)]),
    "lease: asked while another request had no response": (
        "lease",
        [issue(30.15, "three", lifetime=30)],
    ),
    "backoff: asked by the next run though it was refused": (
        "backoff",
        [REFUSED_GRANT, failed(40.1, fault=3), failed(45.1, fault=3)],
    ),
    "retry_after: asked again in the same run, too soon": (
        "retry_after",
        [BUSY, failed(41.8, fault=4), failed(42.6, fault=4), run(41.6, 43.8)],
    ),
    "attempts: more often than four times a run": (
        "attempts",
        [failed(25.5 + n / 100, fault=1) for n in range(9)],
    ),
    "attempts: a refused client asked for each grant": (
        "attempts",
        [REFUSED_CLIENT, *(failed(41 + n / 10, fault=3) for n in range(7))],
    ),
    "forced: the run asked nothing": (
        "forced",
        [FORCED, run(44.2)],
    ),
    "blocked: a token in its place": ("blocked", [BLOCK]),
    "blocked: vended all the same": (
        "blocked",
        [BLOCK, nothing(40.2, "other"), vended(54, "two", 110)],
    ),
    "blocked: asked for all the same": (
        "blocked",
        [BLOCK, nothing(40.2, "other"), run(44.9, 46), failed(45, fault=1)],
    ),
}


@pytest.mark.parametrize(("rule", "entries"), VIOLATIONS.values(), ids=VIOLATIONS)
def test_violation_is_found(rule: str, entries: list[Entry]):
    record = sound() + entries
    stored_in_order = sorted(
        (entry for entry in record if entry["kind"] == "stored"), key=lambda entry: entry["seen"]
    )
    others = [entry for entry in record if entry["kind"] != "stored"]
    report = check(others + stored_in_order)
    assert [v for v in report.violations if v.startswith(f"{rule}: at ")], report.violations
    assert f"VIOLATION {rule}: " in report.text()


@pytest.mark.parametrize(
    ("grants", "is_found"),
    [
        ({"deals": "in_progress", "users": "waiting"}, True),
        ({"deals": "in_progress", "users": "failed"}, False),
        ({}, False),  # killed
    ],
)
def test_run_is_judged_beside_one_that_made_no_request(
    grants: dict[str, str],
    is_found: bool,  # noqa: FBT001
):
    asked = [BUSY, failed(41.8, fault=4), failed(42.6, fault=4), run(41.6, 43.8)]
    report = check([*sound(), *asked, run(42, 42.3, grants=grants)])
    assert any(v.startswith("retry_after: ") for v in report.violations) is is_found


def test_renewal_that_does_not_come_is_found():
    record = [e for e in sound() if e.get("fingerprint") != "two"]
    report = check([*record, fault("Enable fails", 30.05, 30.06, number=2)])
    assert any(v.startswith("recovered: ") for v in report.violations)


def test_two_runs_side_by_side_are_one_interval():
    record = [e for e in sound() if e.get("fingerprint") != "two"]
    record = [e for e in record if e["kind"] != "run" or e["begin"] < T0 + 28]
    assert not check([*record, run(30, 31), run(30.5, 31)]).violations
    assert check([*record, run(30, 31), run(31.5, 32)]).violations


@pytest.mark.parametrize(
    "entries",
    [
        [request(10, 502), fault("the vendor is killed", 9.9, 10, number=2)],
        [request(10, 503), fault("AWS fails the vendor", 9, 11, number=2)],
        [request(10, None), {"kind": "slow", "at": T0 + 9, "until": T0 + 11}],
        [request(42, 503, other_than="two")],
        [vended(66, "one", 40.5)],  # after the end
    ],
    ids=["killed", "no reads", "slow machine", "refused by Enable", "after the end"],
)
def test_declared_exception_is_no_violation(entries: list[Entry]):
    assert check(sound() + entries).violations == []


def test_503_without_a_live_token_is_counted_and_no_violation():
    report = check([*sound(), request(0.1, 503)])
    assert report.violations == []
    assert report.counts["5xx for want of a live token"] == 1


def test_deletion_is_renewed_at_once_and_explains_that():
    deletion = fault("a token is deleted", 40, 40.1, number=2, grants=["deals"])
    renewal = [issue(45.1, "three", lifetime=90), stored(45.2, "three", lifetime=90)]
    report = check([*sound(), deletion, nothing(40.3), *renewal, request(42, 503)])
    assert report.violations == []
    late = check([*sound(), deletion, nothing(40.3)])
    assert any(v.startswith("recovered: ") for v in late.violations)


def test_refusal_explains_that_nothing_is_asked_until_its_hold_is_over():
    record = [e for e in sound() if e.get("fingerprint") != "two"]
    refusal = fault("Enable misbehaves or refuses a grant", 27.5, 29, number=2, backoff="grant")
    assert check([*record, refusal, failed(28, fault=2)]).violations == []


@pytest.mark.parametrize(
    "reason",
    [
        fault("the secret changes", 44, 44.5, number=7),
        fault("AWS fails the refresher", 39, 47, number=7, on="STATE_WRITE"),
        run(40, 44),  # beside the run that was refused
    ],
    ids=["secret changed", "state not written", "another run"],
)
def test_request_within_a_backoff_has_a_reason(reason: Entry):
    again = [REFUSED_GRANT, failed(40.1, fault=3), failed(45.1, fault=3)]
    assert [v for v in check([*sound(), *again]).violations if v.startswith("backoff: ")]
    report = check([*sound(), *again, reason])
    assert not [v for v in report.violations if v.startswith("backoff: ")]


def test_forced_run_that_asks_is_no_violation_and_may_ask_beside_another():
    asked = [FORCED, run(44.2), issue(44.3, "three", lifetime=20), issue(44.35, "four", lifetime=9)]
    report = check([*sound(), *asked])
    assert report.rules["forced"] == 1
    assert not [v for v in report.violations if v.startswith(("forced: ", "lease: "))]


def test_block_that_stays_and_ends_vending_is_no_violation():
    record = [*sound(), BLOCK, nothing(40.2, "other"), vended(50, "two", 110)]
    report = check([e for e in record if e.get("at") != T0 + 65] + [{"kind": "end", "at": T0 + 59}])
    assert report.violations == []
    assert report.rules["blocked"] == 1


def test_changed_secret_ends_a_backoff():
    record = [e for e in sound() if e.get("fingerprint") != "two"]
    refusal = fault("Enable misbehaves or refuses a grant", 27.5, 29, number=2, backoff="grant")
    change = fault("the secret changes", 30, 30, number=3, what="both at once")
    report = check([*record, refusal, failed(28, fault=2), change])
    assert any(v.startswith("recovered: ") for v in report.violations)


def test_forced_renewal_may_shorten_a_token_and_no_other_grant_s():
    renewal = [issue(45.1, "three", lifetime=20), stored(45.2, "three", lifetime=20, version=3)]
    forced = {"number": 2, "forced": True}
    ours = fault("Enable fails", 44, 46, grants=["deals"], **forced)
    assert check([*sound(), *renewal, ours]).violations == []
    another = fault("Enable fails", 44, 46, grants=["users"], **forced)
    assert check([*sound(), *renewal, another]).violations


@pytest.mark.parametrize(
    ("why", "violations"),
    [
        (fault("AWS fails the refresher", 44, 45.3, number=2, on="TOKEN_WRITE"), 0),
        ({"kind": "slow", "at": T0 + 44, "until": T0 + 46}, 0),
        (fault("AWS fails the refresher", 44, 45.3, number=2, on="TOKEN_READ"), 1),
    ],
)
def test_lost_answer_of_a_write_may_bring_back_a_token_that_ends_earlier(
    why: Entry, violations: int
):
    record = [*sound(), why, stored(45.2, "one", lifetime=-5, version=3)]
    kept = [v for v in check(record).violations if v.startswith("kept: ")]
    assert len(kept) == violations


def test_killed_run_explains_a_lost_token_and_its_lease():
    record = [e for e in sound() if e.get("fingerprint") != "two"]
    kill = fault("the refresher is killed", 30, 31, number=2, forced=False)
    assert check([*record, kill, issue(30.2, "lost")]).violations == []


@pytest.mark.parametrize("text", [None, "", "no JSON", '{"kind": "end", "at": 1}'])
def test_file_that_is_no_record_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None
):
    file = tmp_path / "record.jsonl"
    if text is not None:
        file.write_text(text)
    assert checker.main([str(file)]) == 2
    assert capsys.readouterr().err.startswith(f"{file} is no record of a soak: ")
    assert checker.main([]) == 2


def test_file_is_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "record.jsonl"
    file.write_text("\n".join(map(json.dumps, sound())))
    assert checker.main([str(file)]) == 0
    assert "0 violations" in capsys.readouterr().out
    file.write_text("\n".join(map(json.dumps, [*sound(), request(10, 503)])))
    assert checker.main([str(file)]) == 1


def test_checker_imports_nothing_of_the_broker():
    tree = ast.parse(Path(checker.__file__).read_text())
    names = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        )
    }
    assert not [n for n in names if str(n).startswith(("token_", "enable_broker", "local"))]
