"""What is stored between two looks is recorded, too."""

import json
from types import SimpleNamespace

from local.embedded_aws import EmbeddedAws
from tests.soak.record import Record
from tests.soak.watch import Watch, _run
from token_refresher.app import RUN

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


def test_line_of_a_run_says_which_grants_it_reported_of():
    run = {"message": RUN, "grants": {"deals": ["renewed", "", "", ""], "users": ["not_due"]}}
    renewal = {"message": "grant renewed", "grant": "deals", "state": "renewed"}
    report = "REPORT RequestId: 1 Duration: 1500 ms"
    events = [{"timestamp": 10_000, "message": text} for text in (json.dumps(run), report)]
    events.append({"timestamp": 10_000, "message": json.dumps(renewal)})
    found = _run(events)
    assert found["grants"] == {"deals": "renewed", "users": "not_due"}
    assert (found["begin"], found["end"]) == (8.5, 10)
