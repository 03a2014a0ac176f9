"""What descriptions and docs say of the alarms' times is what CloudWatch's rules make of them."""

from dataclasses import replace

import pytest

from tests.template.alarm_times import INTERVAL_SECONDS, STREAMS, alarms, table, times
from tests.template.cloudwatch import alarm_of, changes
from tests.template.test_template import ROOT, template


def descriptions() -> dict[str, str]:
    return {
        properties["AlarmName"]["Fn::Sub"].removeprefix("${AWS::StackName}-"): properties[
            "AlarmDescription"
        ]
        for resource in template()["Resources"].values()
        if resource["Type"] == "AWS::CloudWatch::Alarm"
        for properties in [resource["Properties"]]
    }


@pytest.mark.parametrize("stream", ["healthy", "no traffic for a week"])
def test_alarms_are_quiet_while_nothing_is_wrong(stream: str):
    assert {name: times(name, stream) for name in alarms()} == dict.fromkeys(alarms())


@pytest.mark.parametrize("name", alarms())
def test_description_states_when_the_alarm_fires_and_clears(name: str):
    found = times(name, "lasting failure") or times(name, "schedule disabled")
    assert f"; {found}. " in descriptions()[name]


def test_page_has_the_table():
    assert f"\n\n{table()}\n\n" in (ROOT / "docs/operate.md").read_text()


@pytest.mark.parametrize("stream", ["function stopped", "schedule disabled"])
def test_stopped_runs_are_noticed_after_five_intervals(stream: str):
    found = times("renewals-stopped", stream)
    assert found
    assert found.fires == 5 * INTERVAL_SECONDS
    assert "has not run for 5 schedule intervals" in descriptions()["renewals-stopped"]


def test_one_failed_run_is_no_alarm_of_renewals():
    one = "one failure that ends"
    names = ("token-close-to-expiry", "renewals-failing", "renewals-stopped", "failed-runs")
    assert [times(name, one) for name in names] == [None] * len(names)


@pytest.mark.parametrize(("last", "fires"), [(6, True), (7, False)])
def test_three_failures_in_seven_intervals_are_an_alarm(last: int, fires: bool):  # noqa: FBT001
    alarm = alarms()["renewals-failing"]
    failures = [(INTERVAL_SECONDS * n, 1.0) for n in (0, 3, last)]
    assert bool(list(changes(alarm, failures, 20 * INTERVAL_SECONDS))) is fires
    assert "3 of the last 7 schedule intervals" in descriptions()["renewals-failing"]


def test_slower_schedule_is_noticed_as_many_intervals_later():
    properties = template()["Resources"]["RenewalsStoppedAlarm"]["Properties"]
    alarm = alarm_of(properties, interval_seconds=300)
    runs = [(300 * n, 1.0) for n in range(10)]
    assert list(changes(alarm, runs, 300 * 20)) == [(300 * 15, "ALARM")]


def test_a_run_that_stays_away_once_is_no_alarm():
    stream = replace(STREAMS["schedule disabled"], last=STREAMS["schedule disabled"].first)
    alarm = alarms()["renewals-stopped"]
    assert list(changes(alarm, stream.samples()[alarm.metric], stream.until)) == []
