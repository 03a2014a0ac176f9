"""The second lock: a pattern opens for the principals it names and for nobody else."""

import pytest
from hypothesis import given
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


@pytest.mark.parametrize(
    ("pattern", "advice"),
    [
        ("*", "is not"),
        ("", "is not"),
        ("arn:aws:iam::*:role/etl", "12-digit account"),
        ("arn:aws:iam::11112222333?:role/etl", "12-digit account"),
        ("arn:*:iam::111122223333:role/etl", "is not"),
        (f"{IAM}:root", "is not"),
        (f"{IAM}:*", "is not"),
        (f"{IAM}:role/", "is not"),
        (f"{IAM}:role/etl\n", "is not"),
        (f"{IAM}:role/a:b", "is not"),
        (f"{IAM}:role/team/etl", "without its path|role's name alone"),
        (f"{STS}:assumed-role/etl/s", "names a session"),
    ],
)
def test_pattern_that_could_never_be_meant_is_refused_with_advice(
    pattern: str, advice: str
) -> None:
    fault = pattern_fault(pattern)
    assert fault is not None
    assert any(words in fault for words in advice.split("|"))


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
