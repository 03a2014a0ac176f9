"""Metrics: one line of embedded metric format each, by service and by what more is known."""

import json
from typing import Any

import pytest

from token_broker.metrics import METRICS, NAMESPACE, emit, emit_by_grant


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
    emit("token-vendor", {"VendRefused": 1}, reason="access_denied")
    record = emitted(capsys)
    assert definition(record)["Dimensions"] == [["service"], ["service", "reason"]]
    assert record["reason"] == "access_denied"


def test_metric_by_grant_is_added_to_the_one_by_service_and_counts_nothing_twice(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METRICS_BY_GRANT", "true")
    emit_by_grant("token-refresher", {"RenewalFailed": 1}, grant="deals", reason="timeout")
    record = emitted(capsys)
    assert definition(record)["Dimensions"] == [["service", "grant", "reason"]]
    assert (record["grant"], record["reason"]) == ("deals", "timeout")


@pytest.mark.parametrize("value", [None, "", "false", "True"])
def test_metrics_by_grant_are_off_unless_they_are_switched_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("METRICS_BY_GRANT", raising=False)
    if value is not None:
        monkeypatch.setenv("METRICS_BY_GRANT", value)
    emit_by_grant("token-vendor", {"Vended": 1}, grant="deals")
    assert capsys.readouterr().out == ""


def test_several_values_share_a_line_and_have_each_its_unit(
    capsys: pytest.CaptureFixture[str],
) -> None:
    emit("token-refresher", {"SecondsToExpiry": 0, "DueWindowLeft": 99.8})
    record = emitted(capsys)
    assert definition(record)["Metrics"] == [
        {"Name": "SecondsToExpiry", "Unit": "Seconds"},
        {"Name": "DueWindowLeft", "Unit": "Percent"},
    ]
    assert (record["SecondsToExpiry"], record["DueWindowLeft"]) == ([0.0], [99.8])


def test_nothing_of_one_line_is_left_in_the_next(capsys: pytest.CaptureFixture[str]) -> None:
    emit("token-vendor", {"VendRefused": 1}, reason="access_denied")
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
