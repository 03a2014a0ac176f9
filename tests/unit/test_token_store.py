"""The store: one SecureString for each grant, read by name."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber

from tests.unit.fakes import FakeSsm, all_said, leaks, ssm_client, stored
from token_broker.errors import CorruptStoredToken, GrantBlocked
from token_broker.models import StoredToken, block_record
from token_broker.token_store import ParameterTokenStore

if TYPE_CHECKING:
    from types_boto3_ssm import SSMClient

NAME = "/enable-tokens/stack/deals"
READ = {"Name": NAME, "WithDecryption": True}
OLD = stored("old", left=60, parameter_version=7)
NEW = stored("new", left=3600)


def parameter(text: str, version: int = 7) -> dict[str, object]:
    return {"Parameter": {"Value": text, "Version": version}}


def written(token: StoredToken) -> dict[str, object]:
    """What a write asks for: encrypted, over the old one, without a label."""
    return {
        "Name": NAME,
        "Description": "Enable access token of the grant deals; written by the token broker",
        "Value": token.to_json(),
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
    stub.add_response("put_parameter", {"Version": 2}, written(stored()))  # and no further call
    assert store.write("deals", stored()) == 2


@pytest.mark.parametrize(("replaced", "version"), [(None, 1), (OLD, 8)])
def test_token_that_nobody_else_wrote_meanwhile_is_stored_by_one_call(
    stub: Stubber, store: ParameterTokenStore, replaced: StoredToken | None, version: int
) -> None:
    stub.add_response("put_parameter", {"Version": version}, written(NEW))
    assert store.replace("deals", NEW, replaced=replaced) == NEW


@pytest.mark.parametrize(("replaced", "version"), [(None, 2), (OLD, 9), (OLD, 12)])
def test_later_token_of_an_overlapping_run_is_put_back(
    stub: Stubber, store: ParameterTokenStore, replaced: StoredToken | None, version: int
) -> None:
    later = stored("later", left=3601)
    stub.add_response("put_parameter", {"Version": version}, written(NEW))
    between = READ | {"Name": f"{NAME}:{version - 1}"}
    stub.add_response("get_parameter", parameter(later.to_json(), version - 1), between)
    stub.add_response("put_parameter", {"Version": version + 1}, written(later))
    assert store.replace("deals", NEW, replaced=replaced) == later


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
    if between is None:
        stub.add_client_error("get_parameter", "ParameterVersionNotFound")
    else:
        stub.add_response("get_parameter", parameter(between, 8), READ | {"Name": f"{NAME}:8"})
    assert store.replace("deals", NEW, replaced=OLD) == NEW


def test_token_of_the_same_scopes_in_another_order_may_be_put_back(
    stub: Stubber, store: ParameterTokenStore
) -> None:
    token = stored("new", scope=("a", "b"))
    later = stored("later", left=3601, scope=("b", "a"))
    stub.add_response("put_parameter", {"Version": 9}, written(token))
    stub.add_response("get_parameter", parameter(later.to_json(), 8))
    stub.add_response("put_parameter", {"Version": 10}, written(later))
    assert store.replace("deals", token, replaced=OLD) == later


def test_token_better_than_any_stays_over_a_later_one(
    stub: Stubber, store: ParameterTokenStore
) -> None:
    stub.add_response("put_parameter", {"Version": 9}, written(NEW))
    stub.add_response("get_parameter", parameter(stored("later", left=9999).to_json(), 8))
    assert store.replace("deals", NEW, replaced=OLD, is_better_than_any=True) == NEW


@pytest.mark.parametrize("is_better_than_any", [False, True])
def test_block_that_a_renewal_has_overwritten_is_put_back(
    stub: Stubber, store: ParameterTokenStore, *, is_better_than_any: bool
) -> None:
    block = block_record("leaked, case 7", now=NEW.issued_at)
    stub.add_response("put_parameter", {"Version": 9}, written(NEW))
    stub.add_response("get_parameter", parameter(block, 8), READ | {"Name": f"{NAME}:8"})
    again = written(NEW) | {"Value": block, "Description": "Blocked: leaked, case 7"}
    stub.add_response("put_parameter", {"Version": 10}, again)
    with pytest.raises(GrantBlocked) as caught:
        store.replace("deals", NEW, replaced=OLD, is_better_than_any=is_better_than_any)
    assert caught.value.reason == "leaked, case 7"


def test_block_that_a_token_put_back_has_overwritten_is_put_back(
    stub: Stubber, store: ParameterTokenStore
) -> None:
    later, block = stored("later", left=3601), block_record("leaked", now=NEW.issued_at)
    stub.add_response("put_parameter", {"Version": 9}, written(NEW))
    stub.add_response("get_parameter", parameter(later.to_json(), 8))
    stub.add_response("put_parameter", {"Version": 11}, written(later))
    stub.add_response("get_parameter", parameter(block, 10), READ | {"Name": f"{NAME}:10"})
    again = written(NEW) | {"Value": block, "Description": "Blocked: leaked"}
    stub.add_response("put_parameter", {"Version": 12}, again)
    with pytest.raises(GrantBlocked):
        store.replace("deals", NEW, replaced=OLD)


def test_refused_write_passes_through(stub: Stubber, store: ParameterTokenStore) -> None:
    stub.add_client_error("put_parameter", "ThrottlingException")
    with pytest.raises(ClientError, match="Throttling"):
        store.replace("deals", NEW, replaced=None)


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
    store.replace("deals", stored("new"), replaced=found)
    assert (ssm.reads, len(ssm.values["/p/deals"])) == (1, 4)


@pytest.mark.parametrize(("left", "writes"), [(3599, 5), (3600, 5), (3601, 6)])
def test_token_of_another_run_is_put_back_if_it_ends_later_at_the_price_of_one_read(
    counted: tuple[CountedSsm, ParameterTokenStore], left: int, writes: int
) -> None:
    ssm, store = counted
    found = store.read("deals")
    store.write("deals", stored("theirs", left=left))
    store.replace("deals", stored("ours", left=3600), replaced=found)
    assert (ssm.reads, len(ssm.values["/p/deals"])) == (2, writes)
