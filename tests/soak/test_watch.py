"""What is stored between two looks is recorded, too."""

from types import SimpleNamespace

from local.embedded_aws import EmbeddedAws
from tests.soak.record import Record
from tests.soak.watch import Watch

ACCOUNT = "666655554444"


def test_writes_between_two_looks_are_recorded_also_after_a_deletion(embedded_aws: EmbeddedAws):
    administrator = embedded_aws.administrator(ACCOUNT)
    healthy = SimpleNamespace(wait_until_healthy=lambda: None)
    world = SimpleNamespace(
        administrator=administrator,
        record=Record(),
        refresher_proxy=healthy,
        vendor_proxy=healthy,
        parameter=lambda grant: f"/watched/{grant}",
    )
    watch = Watch(world)  # type: ignore[arg-type]
    ssm = administrator.client("ssm")

    def write(*values: str) -> None:
        for value in values:
            ssm.put_parameter(
                Name=world.parameter("deals"), Value=value, Type="SecureString", Overwrite=True
            )

    def seen() -> list[int]:
        before = len(world.record.entries)
        watch._see()
        entries = world.record.entries[before:]
        return [entry["version"] for entry in entries if entry["grant"] == "deals"]

    assert seen() == [0]
    write("first", "second")
    assert seen() == [1, 2]
    assert seen() == []
    write("third", "fourth", "fifth")
    assert seen() == [3, 4, 5]
    ssm.delete_parameter(Name=world.parameter("deals"))
    write("first of another lineage", "its second")
    assert seen() == [1, 2]
    ssm.delete_parameter(Name=world.parameter("deals"))
    assert seen() == [0]
