"""Metrics: one line of embedded metric format each, by service and by what more is known."""

import json
from typing import Any

import pytest

from token_broker.metrics import METRICS, NAMESPACE, emit


def emitted(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    output = capsys.readouterr()
    assert output.err == ""
    [line] = output.out.splitlines()
    record: dict[str, Any] = json.loads(line)
    return record


def definition(record: dict[str, Any]) -> dict[str, Any]:
    [only] = record["_aws"]["CloudWatchMetrics"]
    assert isinstance(only, dict)
    return only


def test_metric_without_details_is_emitted_by_service(capsys: pytest.CaptureFixture[str]) -> None:
    emit("token-vendor", {"VendFault": 1})
    record = emitted(capsys)
    assert definition(record) == {
        "Namespace": NAMESPACE,
        "Dimensions": [["service"]],
        "Metrics": [{"Name": "VendFault", "Unit": "Count"}],
    }
    assert (record["service"], record["VendFault"]) == ("token-vendor", [1.0])
    assert set(record) == {"_aws", "service", "VendFault"}


def test_metric_with_details_is_emitted_by_service_and_by_both(
    capsys: pytest.CaptureFixture[str],
) -> None:
    emit("token-refresher", {"RenewalFailed": 1}, grant="deals", reason="timeout")
    record = emitted(capsys)
    assert definition(record)["Dimensions"] == [["service"], ["service", "grant", "reason"]]
    assert (record["grant"], record["reason"]) == ("deals", "timeout")


def test_several_values_share_a_line_and_have_each_its_unit(
    capsys: pytest.CaptureFixture[str],
) -> None:
    emit("token-refresher", {"SecondsToExpiry": 0, "DueWindowLeft": 99.8}, grant="deals")
    record = emitted(capsys)
    assert definition(record)["Metrics"] == [
        {"Name": "SecondsToExpiry", "Unit": "Seconds"},
        {"Name": "DueWindowLeft", "Unit": "Percent"},
    ]
    assert (record["SecondsToExpiry"], record["DueWindowLeft"]) == ([0.0], [99.8])


def test_nothing_of_one_line_is_left_in_the_next(capsys: pytest.CaptureFixture[str]) -> None:
    emit("token-refresher", {"Renewed": 1}, grant="deals")
    emitted(capsys)
    emit("token-vendor", {"Vended": 1})
    record = emitted(capsys)
    assert set(record) == {"_aws", "service", "Vended"}
    assert definition(record)["Dimensions"] == [["service"]]


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_can_be_emitted(capsys: pytest.CaptureFixture[str], name: str) -> None:
    emit("any", {name: 1})
    assert emitted(capsys)[name] == [1.0]


def test_metric_that_is_not_declared_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError, match="Typo"):
        emit("any", {"Typo": 1})
    assert capsys.readouterr().out == ""
