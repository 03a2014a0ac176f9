"""The allow-list: a pattern opens for the principals it names and for nobody else."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from token_broker.callers import is_allowed, pattern_fault, principal_arn

NAME = st.text(st.sampled_from("abcXYZ019+=,.@_-"), min_size=1, max_size=20)
PATTERN_NAME = st.text(st.sampled_from("abX01*?-_.+"), min_size=1, max_size=12)
ACCOUNT = st.text(st.sampled_from("0123456789"), min_size=12, max_size=12)
KIND = st.sampled_from(["role", "user"])
IAM = "arn:aws:iam::111122223333"
STS = "arn:aws:sts::111122223333"


@pytest.mark.parametrize(
    ("caller", "pattern"),
    [
        (f"{STS}:assumed-role/reporting-nightly/run-7", f"{IAM}:role/reporting-*"),
        (f"{STS}:assumed-role/reporting-/s", f"{IAM}:role/reporting-*"),
        (f"{STS}:assumed-role/etl1/s", f"{IAM}:role/etl?"),
        (f"{STS}:assumed-role/a.b/i-0abc@x", f"{IAM}:role/a.b"),
        (f"{IAM}:user/ops/alice", f"{IAM}:user/ops/*"),
        (f"{IAM}:user/ops/night/alice", f"{IAM}:user/ops/*"),
        (
            "arn:aws-us-gov:sts::111122223333:assumed-role/etl/s",
            "arn:aws-us-gov:iam::111122223333:role/etl",
        ),
    ],
)
def test_caller_that_a_pattern_names_is_allowed(caller: str, pattern: str) -> None:
    assert pattern_fault(pattern) is None
    assert is_allowed(caller, (f"{IAM}:role/somebody-else", pattern))


@pytest.mark.parametrize(
    ("caller", "pattern"),
    [
        # A session named after the pattern, by a role that is not.
        (f"{STS}:assumed-role/attacker/reporting-x", f"{IAM}:role/reporting-*"),
        # The role of the same name in another account, or another partition.
        ("arn:aws:sts::999900001111:assumed-role/etl/s", f"{IAM}:role/etl"),
        ("arn:aws-cn:sts::111122223333:assumed-role/etl/s", f"{IAM}:role/etl"),
        # A user is not a role, nor the other way round.
        (f"{IAM}:user/etl", f"{IAM}:role/*"),
        (f"{STS}:assumed-role/alice/s", f"{IAM}:user/*"),
        # Root, a federated user and a service are no role and no user.
        (f"{IAM}:root", f"{IAM}:user/*"),
        (f"{STS}:federated-user/alice", f"{IAM}:user/*"),
        # The whole name, the letter case and the dot count.
        (f"{STS}:assumed-role/reporting-x2/s", f"{IAM}:role/reporting-x"),
        (f"{STS}:assumed-role/my-reporting-x/s", f"{IAM}:role/reporting-x"),
        (f"{STS}:assumed-role/Reporting/s", f"{IAM}:role/reporting"),
        (f"{STS}:assumed-role/aXb/s", f"{IAM}:role/a.b"),
        (f"{STS}:assumed-role/etl/s", f"{IAM}:role/etl?"),
        # Neither an ARN within an ARN nor one with its end cut off.
        (f"{IAM}:user/x:{IAM}:user/alice", f"{IAM}:user/*"),
        (f"{STS}:assumed-role/etl", f"{IAM}:role/etl"),
        (f"{STS}:assumed-role/etl/s/t", f"{IAM}:role/etl"),
        ("", f"{IAM}:role/*"),
    ],
)
def test_caller_that_no_pattern_names_is_refused(caller: str, pattern: str) -> None:
    assert pattern_fault(pattern) is None
    assert not is_allowed(caller, (pattern,))


def test_nobody_is_allowed_by_no_pattern() -> None:
    assert not is_allowed(f"{IAM}:user/alice", ())


NO_PATTERN = "is not arn:aws:iam::ACCOUNT:role/NAME or …:user/NAME with a 12-digit account"
HAS_PATH = "names a role with its path; write the role's name alone (role/NAME)"
IS_SESSION = "names a session; write the role it belongs to (arn:aws:iam::ACCOUNT:role/NAME)"


@pytest.mark.parametrize(
    ("pattern", "advice"),
    [
        ("*", NO_PATTERN),
        ("", NO_PATTERN),
        ("arn:aws:iam::*:role/etl", NO_PATTERN),
        ("arn:aws:iam::11112222333?:role/etl", NO_PATTERN),
        ("arn:*:iam::111122223333:role/etl", NO_PATTERN),
        (f"{IAM}:root", NO_PATTERN),
        (f"{IAM}:*", NO_PATTERN),
        (f"{IAM}:role/", NO_PATTERN),
        (f"{IAM}:role/etl\n", NO_PATTERN),
        (f"{IAM}:role/a:b", NO_PATTERN),
        (f"{IAM}:role/team/etl", HAS_PATH),
        (f"{STS}:assumed-role/etl/s", IS_SESSION),
    ],
)
def test_pattern_that_could_never_be_meant_is_refused_with_advice(
    pattern: str, advice: str
) -> None:
    assert pattern_fault(pattern) == advice


@pytest.mark.parametrize(
    "arn", [f"{IAM}:user/ops/alice", f"{IAM}:root", f"{STS}:federated-user/bob", "nonsense"]
)
def test_caller_that_is_no_session_stays_as_it_is(arn: str) -> None:
    assert principal_arn(arn) == arn


@given(KIND, PATTERN_NAME, NAME, ACCOUNT, ACCOUNT)
def test_pattern_never_matches_another_account(
    kind: str, pattern_name: str, name: str, account: str, other: str
) -> None:
    pattern = f"arn:aws:iam::{account}:{kind}/{pattern_name}"
    for caller in (
        f"arn:aws:iam::{other}:{kind}/{name}",
        f"arn:aws:sts::{other}:assumed-role/{name}/{name}",
    ):
        assert pattern_fault(pattern) is None
        assert account == other or not is_allowed(caller, (pattern,))


@given(KIND, NAME, NAME)
def test_pattern_without_wildcards_matches_itself_alone(kind: str, name: str, other: str) -> None:
    pattern = f"{IAM}:{kind}/{name}"
    assert is_allowed(pattern, (pattern,))
    assert is_allowed(f"{IAM}:{kind}/{other}", (pattern,)) is (name == other)


@given(NAME, NAME, NAME)
def test_session_is_matched_by_its_role_whatever_its_name(
    role: str, session: str, other: str
) -> None:
    caller = f"{STS}:assumed-role/{role}/{session}"
    assert is_allowed(caller, (f"{IAM}:role/{role}",))
    assert is_allowed(caller, (f"{IAM}:role/{other}",)) is (role == other)


# ── Cheating the matcher ─────────────────────────────────────────────────────────────────────────

MANY = settings(max_examples=150, deadline=None)
LITERAL = st.text(st.sampled_from("abcXYZ019+=,.@_-"), min_size=1, max_size=8)
WILD = st.text(st.sampled_from("*?"), min_size=1, max_size=3)
SEGMENT = st.text(st.characters(exclude_characters=":/", exclude_categories=["Cs"]), max_size=12)
ANYTHING = st.one_of(
    st.text(max_size=60),
    st.builds(":".join, st.lists(SEGMENT | ACCOUNT, max_size=8)),
    st.builds("arn:aws:{}::{}:{}/{}".format, st.sampled_from(["iam", "sts"]), ACCOUNT, KIND, NAME),
    st.builds("{}:assumed-role/{}".format, st.just(STS), st.text(max_size=20)),
    st.builds("{}:{}/{}".format, st.just(IAM), KIND, st.text(max_size=20)),
)
LOOK_ALIKES = {
    "a": "аａᵃɑ𝐚",
    "e": "еｅé",
    "o": "оοｏ०",  # noqa: RUF001
    "s": "ѕｓſ",  # noqa: RUF001
    "1": "１¹١𝟏",
    "-": "‐‑–−－",  # noqa: RUF001
    ":": "：∶꞉",  # noqa: RUF001
    "/": "／∕⁄",  # noqa: RUF001
    "r": "ｒг",  # noqa: RUF001
    "k": "\u212aｋ",  # noqa: RUF001
}
APPENDED = [
    "\n",
    "\r\n",
    "\x00",
    " ",
    "\t",
    "\u200b",
    "\u2028",
    "\ufeff",
    "/",
    "/x",
    ":",
    "*",
    "?",
    "$",
]


def callers_of(kind: str, account: str, name: str) -> str:
    """The ARN that API Gateway names a user or a role of this name by."""
    if kind == "user":
        return f"arn:aws:iam::{account}:user/{name}"
    return f"arn:aws:sts::{account}:assumed-role/{name}/session"


@MANY
@given(KIND, PATTERN_NAME, ACCOUNT, ANYTHING)
def test_whatever_matches_is_of_the_patterns_account_and_kind(
    kind: str, pattern_name: str, account: str, caller: str
) -> None:
    pattern = f"arn:aws:iam::{account}:{kind}/{pattern_name}"
    for one in (caller, callers_of(kind, account, caller)):
        if is_allowed(one, (pattern,)):
            assert one.split(":")[4] == account
            assert principal_arn(one).startswith(f"arn:aws:iam::{account}:{kind}/")


@MANY
@given(KIND, LITERAL, WILD, LITERAL, ANYTHING)
def test_nothing_matches_without_what_stands_around_the_wildcard(
    kind: str, before: str, wild: str, after: str, caller: str
) -> None:
    pattern = f"{IAM}:{kind}/{before}{wild}{after}"
    names = (caller, f"{before}{caller}", f"{caller}{after}", f"{before}{caller}{after}")
    for one in (caller, *(callers_of(kind, "111122223333", name) for name in names)):
        if is_allowed(one, (pattern,)):
            assert principal_arn(one).startswith(f"{IAM}:{kind}/{before}")
            assert principal_arn(one).endswith(after)


@MANY
@given(KIND, LITERAL, WILD, st.text(max_size=8), st.text(max_size=8))
def test_no_wildcard_stands_for_a_colon(
    kind: str, before: str, wild: str, left: str, right: str
) -> None:
    pattern = f"{IAM}:{kind}/{before}{wild}"
    for name in (f"{before}{left}:{right}", f"{before}:", f"{before}x:{IAM}:{kind}/{before}x"):
        assert not is_allowed(f"{IAM}:{kind}/{name}", (pattern,))
        assert not is_allowed(callers_of(kind, "111122223333", name), (pattern,))


@MANY
@given(KIND, st.text("aeos1rk-", min_size=1, max_size=8), st.data())
def test_look_alike_is_somebody_else(kind: str, name: str, data: st.DataObject) -> None:
    pattern = f"{IAM}:{kind}/{name}"
    caller = callers_of(kind, "111122223333", name)
    assert is_allowed(caller, (pattern,))
    places = [at for at, letter in enumerate(caller) if letter in LOOK_ALIKES]
    if kind == "role":  # the session's name is anybody's to choose, but for its slashes
        places = [at for at in places if at < caller.rindex("/session") + 1]
    at = data.draw(st.sampled_from(places))
    other = data.draw(st.sampled_from(LOOK_ALIKES[caller[at]]))
    assert not is_allowed(caller[:at] + other + caller[at + 1 :], (pattern,))


@MANY
@given(KIND, NAME)
def test_other_letter_case_is_somebody_else(kind: str, name: str) -> None:
    pattern = f"{IAM}:{kind}/{name}"
    for other in (name.upper(), name.lower(), name.swapcase()):
        is_same = other == name
        assert is_allowed(callers_of(kind, "111122223333", other), (pattern,)) is is_same
    assert not is_allowed(callers_of(kind, "111122223333", name).upper(), (pattern,))


@MANY
@given(KIND, NAME, st.sampled_from(APPENDED))
def test_what_is_put_before_or_behind_is_not_overlooked(kind: str, name: str, more: str) -> None:
    pattern = f"{IAM}:{kind}/{name}"
    caller = callers_of(kind, "111122223333", name)
    for other in (f"{name}{more}", f"{more}{name}"):
        assert not is_allowed(callers_of(kind, "111122223333", other), (pattern,))
    assert not is_allowed(f"{more}{caller}", (pattern,))
    if kind == "user":
        assert not is_allowed(f"{caller}{more}", (pattern,))


@MANY
@given(KIND, LITERAL, st.sampled_from([".*", ".", "[a-z]", "(a|b)", "a|b", "\\w+", "^a$", "a{2}"]))
def test_pattern_is_no_regular_expression(kind: str, name: str, trick: str) -> None:
    pattern = f"{IAM}:{kind}/{trick}"
    caller = callers_of(kind, "111122223333", name)
    is_meant = name == trick or (trick == ".*" and name.startswith("."))
    assert is_allowed(caller, (pattern,)) is is_meant
    for char in "()[]{}|^$\\":
        assert pattern_fault(f"{IAM}:{kind}/{name}{char}") is not None


@MANY
@given(st.text() | ANYTHING, st.lists(st.text() | ANYTHING, max_size=3))
def test_matcher_takes_any_text(caller: str, patterns: list[str]) -> None:
    assert is_allowed(caller, tuple(patterns)) in {True, False}
    if is_allowed(caller, tuple(patterns)) and not any(set("*?") & set(p) for p in patterns):
        assert principal_arn(caller) in patterns
