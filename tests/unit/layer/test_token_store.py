"""The store: one SecureString for each grant, read by name."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber

from tests.unit.fakes import FakeSsm, all_said, leaks, seconds, ssm_client, stored
from token_broker.errors import CorruptStoredToken, GrantBlocked
from token_broker.models import (
    Blocked,
    Corrupt,
    Stored,
    StoredToken,
    Unreadable,
    block_record,
)
from token_broker.token_store import UNREADABLE_CODES, ParameterTokenStore

if TYPE_CHECKING:
    from types_boto3_ssm import SSMClient

NAME = "/enable-tokens/stack/deals"
READ = {"Name": NAME, "WithDecryption": True}
OLD = stored("old", left=60, parameter_version=7)
NEW = stored("new", left=3600)
LATER, SOONER = stored("later", left=3601), stored("sooner", left=3000)
BLOCK = block_record("leaked, case 7", now=NEW.issued_at)


def parameter(text: str, version: int = 7) -> dict[str, object]:
    return {"Parameter": {"Value": text, "Version": version}}


def written(token: StoredToken, *, follows: int | None = 7) -> dict[str, object]:
    """What a write asks for: encrypted, over the one of a version, without a label."""
    return {
        "Name": NAME,
        "Description": "Enable access token of the grant deals; written by the token broker",
        "Value": replace(token, follows=follows).to_json(),
        "Type": "SecureString",
        "KeyId": "key-arn",
        "Tier": "Intelligent-Tiering",
        "Overwrite": True,
    }


@pytest.fixture(scope="module")
def stub() -> Iterator[Stubber]:
    with Stubber(ssm_client()) as stub:
        yield stub


@pytest.fixture
def store(stub: Stubber) -> Iterator[ParameterTokenStore]:
    yield ParameterTokenStore(
        cast("SSMClient", stub.client), prefix="/enable-tokens/stack", key_id="key-arn"
    )
    stub.assert_no_pending_responses()


def test_stored_token_is_read_by_its_name(stub: Stubber, store: ParameterTokenStore) -> None:
    stub.add_response("get_parameter", parameter(stored().to_json()), READ)
    token = store.read("deals")
    assert token == stored()
    assert token.parameter_version == 7


@pytest.mark.parametrize("code", ["ParameterNotFound", "ParameterVersionNotFound"])
def test_missing_parameter_is_no_token(
    stub: Stubber, store: ParameterTokenStore, code: str
) -> None:
    stub.add_client_error("get_parameter", code, expected_params=READ)
    assert store.read("deals") is None


def test_other_refusals_pass_through(stub: Stubber, store: ParameterTokenStore) -> None:
    stub.add_client_error("get_parameter", "AccessDeniedException")
    with pytest.raises(ClientError, match="AccessDenied"):
        store.read("deals")


def test_foreign_value_is_corrupt_and_not_quoted(stub: Stubber, store: ParameterTokenStore) -> None:
    stub.add_response("get_parameter", parameter(stored().to_json()[:-1]), READ)
    with pytest.raises(CorruptStoredToken) as caught:
        store.read("deals")
    assert not leaks(all_said(caught.value))


def test_token_is_written_encrypted_over_the_old_one_and_without_a_label(
    stub: Stubber, store: ParameterTokenStore
) -> None:
    stub.add_response("put_parameter", {"Version": 2}, written(stored(), follows=None))
    assert store.write("deals", stored()) == 2


@pytest.mark.parametrize(
    ("text", "state"),
    [
        (stored().to_json(), stored()),
        (BLOCK, Blocked(reason="leaked, case 7", record=BLOCK, parameter_version=7)),
        ("corrupt", Corrupt(parameter_version=7)),
    ],
)
def test_what_is_stored_is_a_value(
    stub: Stubber, store: ParameterTokenStore, text: str, state: Stored
) -> None:
    stub.add_response("get_parameter", parameter(text), READ)
    assert store.state("deals") == state


def test_missing_parameter_is_a_value_too(stub: Stubber, store: ParameterTokenStore) -> None:
    stub.add_client_error("get_parameter", "ParameterNotFound", expected_params=READ)
    assert store.state("deals") is None


@pytest.mark.parametrize("code", sorted(UNREADABLE_CODES))
def test_parameter_that_cannot_be_decrypted_is_unreadable(
    stub: Stubber, store: ParameterTokenStore, code: str
) -> None:
    stub.add_client_error("get_parameter", code)
    assert store.state("deals") == Unreadable(cause=f"GetParameter was refused by AWS: {code}")


def test_parameter_that_cannot_be_read_for_another_reason_is_no_state(
    stub: Stubber, store: ParameterTokenStore
) -> None:
    stub.add_client_error("get_parameter", "ThrottlingException")
    with pytest.raises(ClientError, match="Throttling"):
        store.state("deals")


def earlier(overwritten: StoredToken, new: StoredToken) -> bool:
    """A token that another run has stored stays if it expires later."""
    return overwritten.expires_at > new.expires_at


def never(_overwritten: StoredToken, _new: StoredToken) -> bool:
    return False


def expect_between(stub: Stubber, versions: dict[int, str | None]) -> None:
    """What stands between the version that was read and the write."""
    for version, text in versions.items():
        if text is None:
            stub.add_client_error("get_parameter", "ParameterVersionNotFound")
        else:
            name = READ | {"Name": f"{NAME}:{version}"}
            stub.add_response("get_parameter", parameter(text, version), name)


def known(seen: Stored) -> int | None:
    """The version that a write names as the one it follows."""
    if isinstance(seen, Unreadable):
        return None
    return seen.parameter_version if seen else 0


@pytest.mark.parametrize(
    ("seen", "version"),
    [(None, 1), (OLD, 8), (Corrupt(parameter_version=4), 5), (Unreadable(cause="x"), 1)],
)
def test_token_that_nobody_else_wrote_meanwhile_is_stored_by_one_call(
    stub: Stubber, store: ParameterTokenStore, seen: Stored, version: int
) -> None:
    stub.add_response("put_parameter", {"Version": version}, written(NEW, follows=known(seen)))
    assert store.replace("deals", NEW, seen=seen, is_restored=earlier) == NEW


@pytest.mark.parametrize(
    ("seen", "version", "between"),
    [
        (None, 2, {1: LATER}),
        (OLD, 9, {8: LATER}),
        (OLD, 11, {8: SOONER, 9: LATER, 10: SOONER}),  # not only the last one that was overwritten
        (OLD, 3, {1: LATER, 2: SOONER}),  # deleted in the meantime and created again
        (Unreadable(cause="x"), 9, {8: LATER}),
    ],
)
def test_later_token_of_an_overlapping_run_is_put_back(
    stub: Stubber,
    store: ParameterTokenStore,
    seen: Stored,
    version: int,
    between: dict[int, StoredToken],
) -> None:
    stub.add_response("put_parameter", {"Version": version}, written(NEW, follows=known(seen)))
    expect_between(stub, {number: token.to_json() for number, token in between.items()})
    stub.add_response("put_parameter", {"Version": version + 1}, written(LATER, follows=version))
    assert store.replace("deals", NEW, seen=seen, is_restored=earlier) == LATER


@pytest.mark.parametrize(
    "between",
    [
        stored("sooner", left=3599).to_json(),
        stored("as soon", left=3600).to_json(),
        stored("of another scope", left=9999, scope=("read:deals", "read:users")).to_json(),
        "corrupt",
        None,
    ],
)
def test_nothing_else_is_put_back(
    stub: Stubber, store: ParameterTokenStore, between: str | None
) -> None:
    stub.add_response("put_parameter", {"Version": 9}, written(NEW))
    expect_between(stub, {8: between})
    assert store.replace("deals", NEW, seen=OLD, is_restored=earlier) == NEW


def test_overwritten_version_that_cannot_be_read_leaves_the_new_token(
    stub: Stubber, store: ParameterTokenStore
) -> None:
    stub.add_response("put_parameter", {"Version": 9}, written(NEW))
    stub.add_client_error("get_parameter", "ThrottlingException")
    assert store.replace("deals", NEW, seen=OLD, is_restored=earlier) == NEW


def test_token_of_the_same_scopes_in_another_order_may_be_put_back(
    stub: Stubber, store: ParameterTokenStore
) -> None:
    token = stored("new", scope=("a", "b"))
    later = stored("later", left=3601, scope=("b", "a"))
    stub.add_response("put_parameter", {"Version": 9}, written(token))
    expect_between(stub, {8: later.to_json()})
    stub.add_response("put_parameter", {"Version": 10}, written(later, follows=9))
    assert store.replace("deals", token, seen=OLD, is_restored=earlier) == later


def test_token_that_replaces_any_stays_over_a_later_one(
    stub: Stubber, store: ParameterTokenStore
) -> None:
    stub.add_response("put_parameter", {"Version": 9}, written(NEW))
    expect_between(stub, {8: stored("later", left=9999).to_json()})
    assert store.replace("deals", NEW, seen=OLD, is_restored=never) == NEW


@pytest.mark.parametrize("is_restored", [earlier, never])
@pytest.mark.parametrize(
    "between", [{8: BLOCK}, {8: BLOCK, 9: LATER.to_json()}, {8: LATER.to_json(), 9: BLOCK}]
)
def test_block_that_a_renewal_has_overwritten_is_put_back(
    stub: Stubber,
    store: ParameterTokenStore,
    between: dict[int, str],
    is_restored: Callable[[StoredToken, StoredToken], bool],
) -> None:
    stub.add_response("put_parameter", {"Version": 8 + len(between)}, written(NEW))
    expect_between(stub, dict(between))
    again = written(NEW) | {"Value": BLOCK, "Description": "Blocked: leaked, case 7"}
    stub.add_response("put_parameter", {"Version": 9 + len(between)}, again)
    now = store.replace("deals", NEW, seen=OLD, is_restored=is_restored)
    assert isinstance(now, Blocked)
    assert now.reason == "leaked, case 7"


def test_block_that_a_token_put_back_has_overwritten_is_put_back(
    stub: Stubber, store: ParameterTokenStore
) -> None:
    stub.add_response("put_parameter", {"Version": 9}, written(NEW))
    expect_between(stub, {8: LATER.to_json()})
    stub.add_response("put_parameter", {"Version": 11}, written(LATER, follows=9))
    expect_between(stub, {10: BLOCK})
    again = written(NEW) | {"Value": BLOCK, "Description": "Blocked: leaked, case 7"}
    stub.add_response("put_parameter", {"Version": 12}, again)
    assert isinstance(store.replace("deals", NEW, seen=OLD, is_restored=earlier), Blocked)


def test_still_later_token_that_a_token_put_back_has_overwritten_is_put_back(
    stub: Stubber, store: ParameterTokenStore
) -> None:
    latest = replace(LATER, expires_at=LATER.expires_at + seconds(1))
    stub.add_response("put_parameter", {"Version": 9}, written(NEW))
    expect_between(stub, {8: LATER.to_json()})
    stub.add_response("put_parameter", {"Version": 11}, written(LATER, follows=9))
    expect_between(stub, {10: latest.to_json()})
    stub.add_response("put_parameter", {"Version": 12}, written(latest, follows=11))
    assert store.replace("deals", NEW, seen=OLD, is_restored=earlier) == latest


@pytest.mark.parametrize("follows", [0, 5, 7, 11])
def test_block_under_a_token_stands_for_each_reader_and_is_put_back_by_a_run(follows: int) -> None:
    """The run that wrote the token was killed, or got no response, before it looked."""
    ssm = FakeSsm()
    store = ParameterTokenStore(cast("SSMClient", ssm), prefix="/p", key_id="key")
    token = replace(NEW, follows=follows)
    values = ssm.values["/p/deals"] = [*(7 * [LATER.to_json()]), BLOCK, token.to_json()]
    if follows == 11:  # the parameter was deleted after the run had read it, and created again
        del values[:5]
    with pytest.raises(GrantBlocked) as caught:
        store.read("deals")
    assert (caught.value.reason, caught.value.record) == ("leaked, case 7", BLOCK)
    assert isinstance(store.state("deals"), Blocked)
    assert values[-2:] == [token.to_json(), BLOCK]


@pytest.mark.parametrize("follows", [8, None, 2])
def test_token_over_anything_but_an_unseen_block_is_as_it_is(follows: int | None) -> None:
    ssm = FakeSsm()
    store = ParameterTokenStore(cast("SSMClient", ssm), prefix="/p", key_id="key")
    unseen = "corrupt" if follows == 2 else BLOCK
    token = replace(NEW, follows=follows)
    ssm.values["/p/deals"] = [*(7 * [LATER.to_json()]), unseen, token.to_json()]
    assert (store.read("deals"), store.state("deals")) == (NEW, NEW)
    assert len(ssm.values["/p/deals"]) == 9


def test_unseen_version_that_cannot_be_read_fails_the_read(
    stub: Stubber, store: ParameterTokenStore
) -> None:
    value = replace(NEW, follows=7).to_json()
    for _ in range(2):
        stub.add_response("get_parameter", parameter(value, 9), READ)
        stub.add_client_error("get_parameter", "ThrottlingException")
    for read in (store.read, store.state):
        with pytest.raises(ClientError, match="Throttling"):
            read("deals")


def test_refused_write_passes_through(stub: Stubber, store: ParameterTokenStore) -> None:
    stub.add_client_error("put_parameter", "ThrottlingException")
    with pytest.raises(ClientError, match="Throttling"):
        store.replace("deals", NEW, seen=None, is_restored=earlier)


class CountedSsm(FakeSsm):
    """Counts what a role pays for."""

    reads = 0

    def get_parameter(self, **options: Any) -> dict[str, Any]:
        self.reads += 1
        return super().get_parameter(**options)


@pytest.fixture
def counted() -> tuple[CountedSsm, ParameterTokenStore]:
    ssm = CountedSsm()
    store = ParameterTokenStore(cast("SSMClient", ssm), prefix="/p", key_id="key")
    for number in range(3):
        store.write("deals", stored(f"before-{number}", left=60 + number))
    return ssm, store


def test_replacement_that_nobody_disturbs_reads_nothing(
    counted: tuple[CountedSsm, ParameterTokenStore],
) -> None:
    ssm, store = counted
    found = store.read("deals")
    store.replace("deals", stored("new"), seen=found, is_restored=earlier)
    assert (ssm.reads, len(ssm.values["/p/deals"])) == (1, 4)


@pytest.mark.parametrize(("left", "writes"), [(3599, 5), (3600, 5), (3601, 6)])
def test_token_of_another_run_is_put_back_if_it_ends_later_at_the_price_of_one_read(
    counted: tuple[CountedSsm, ParameterTokenStore], left: int, writes: int
) -> None:
    ssm, store = counted
    found = store.read("deals")
    store.write("deals", stored("theirs", left=left))
    store.replace("deals", stored("ours", left=3600), seen=found, is_restored=earlier)
    assert (ssm.reads, len(ssm.values["/p/deals"])) == (2, writes)
