"""The evaluator against the tables and sentences of CloudWatch's own documentation."""

from dataclasses import replace

import pytest

from tests.template.cloudwatch import Alarm, changes

THREE_OF_THREE = Alarm(
    metric=("any", "Any"),
    statistic="Sum",
    comparison="GreaterThanThreshold",
    threshold=0,
    period=300,
    evaluation_periods=3,
    datapoints_to_alarm=3,
    missing="missing",
)
TWO_OF_THREE = replace(THREE_OF_THREE, datapoints_to_alarm=2)
TREATMENTS = ("missing", "ignore", "breaching", "notBreaching")
POINT = {"0": False, "X": True, "-": None}
# "Configuring how CloudWatch alarms treat missing data": both tables, and the text below them.
# `retain` stands for the state before.
TABLES = [
    (THREE_OF_THREE, "0-X-X", ("OK", "OK", "OK", "OK")),
    (THREE_OF_THREE, "----0", ("OK", "OK", "OK", "OK")),
    (THREE_OF_THREE, "-----", ("INSUFFICIENT_DATA", "retain", "ALARM", "OK")),
    (THREE_OF_THREE, "0XX-X", ("ALARM", "ALARM", "ALARM", "ALARM")),
    (THREE_OF_THREE, "--X--", ("ALARM", "retain", "ALARM", "OK")),
    (TWO_OF_THREE, "0-X-X", ("ALARM", "ALARM", "ALARM", "ALARM")),
    (TWO_OF_THREE, "00X0X", ("ALARM", "ALARM", "ALARM", "ALARM")),
    (TWO_OF_THREE, "0-X--", ("OK", "OK", "ALARM", "OK")),
    (TWO_OF_THREE, "----0", ("OK", "OK", "ALARM", "OK")),
    (TWO_OF_THREE, "---X-", ("ALARM", "retain", "ALARM", "OK")),
]


@pytest.mark.parametrize("column", range(4), ids=TREATMENTS)
@pytest.mark.parametrize(
    ("alarm", "row", "states"), TABLES, ids=[f"{a.datapoints_to_alarm} {r}" for a, r, _ in TABLES]
)
def test_documented_table(alarm: Alarm, row: str, states: tuple[str, ...], column: int):
    judged = replace(alarm, missing=TREATMENTS[column])
    for before in ("OK", "ALARM"):
        expected = before if states[column] == "retain" else states[column]
        assert judged.next_state([POINT[p] for p in row], before) == expected


@pytest.mark.parametrize("row", ["----X", "---X-"])
def test_lone_breaching_point_is_no_premature_alarm(row: str):
    assert THREE_OF_THREE.next_state([POINT[p] for p in row], "OK") != "ALARM"


def test_documented_figure_of_three_of_three():
    """Above in the third to fifth period, below in the sixth, above in the ninth alone."""
    values = [1, 1, 5, 5, 5, 1, 1, 1, 5, 1]
    alarm = replace(THREE_OF_THREE, threshold=3, period=60)
    samples = [(60 * n, value) for n, value in enumerate(values)]
    assert list(changes(alarm, samples, 600)) == [(300, "ALARM"), (360, "OK")]


def test_silence_is_noticed_once_no_real_point_is_in_the_evaluation_range():
    alarm = replace(
        THREE_OF_THREE, comparison="LessThanThreshold", threshold=1, missing="breaching"
    )
    samples = [(300 * n, 1.0) for n in range(10)]
    assert list(changes(alarm, samples, 300 * 20)) == [(300 * 15, "ALARM")]


def test_samples_of_a_period_are_one_point():
    alarm = replace(THREE_OF_THREE, evaluation_periods=1, datapoints_to_alarm=1, threshold=4)
    for statistic, is_breaching in {
        "Sum": True,
        "Maximum": False,
        "Minimum": False,
        "Average": False,
        "SampleCount": False,
    }.items():
        judged = replace(alarm, statistic=statistic)
        assert judged.points([(0, 3.0), (299, 2.0)], 600) == [is_breaching, None]
