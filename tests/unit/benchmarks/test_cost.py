"""The cost of a month at list prices: idle stays small, and the model counts what is deployed."""

import re
from pathlib import Path
from unittest.mock import patch

import pytest

from benchmarks import cost
from benchmarks.cost.__main__ import main

ROOT = Path(__file__).resolve().parents[3]
TEMPLATE = (ROOT / "template.yaml").read_text(encoding="utf-8")


def test_idle_stack_costs_at_most_three_dollars_and_seven_without_free_allowances() -> None:
    assert cost.idle_usd() <= 3
    assert cost.idle_usd(has_allowance=False) <= 7


def test_500_grants_cost_at_most_60_dollars_with_default_parameters() -> None:
    units = cost.broker(500, 100_000)
    assert sum(cost.usd(units, has_allowance=False).values()) <= 60
    by_grant = cost.broker(500, 100_000, metrics_by_grant=True)
    assert by_grant["metrics"] - units["metrics"] == 3 * 500


def test_metrics_do_not_grow_with_the_grants_by_default() -> None:
    assert cost.broker(500, 1)["metrics"] == cost.broker(1, 1)["metrics"]
    parameter = TEMPLATE.partition("\n  MetricsByGrant:\n")[2]
    assert parameter.lstrip().startswith('Type: String\n    Default: "false"\n')


@pytest.mark.parametrize("page", ["README.md", "benchmarks/README.md"])
def test_pages_tell_what_the_idle_stack_costs(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert f"{cost.idle_usd(has_allowance=False):.2f}" in text
    assert f"{cost.idle_usd():.2f}".rstrip("0") in text


def test_model_counts_the_alarms_and_what_the_template_keeps() -> None:
    alarms = TEMPLATE.split("Type: AWS::CloudWatch::Alarm\n    Properties:")[1:]  # no Condition
    fast = [alarm for alarm in alarms if re.search(r"^      Period: [13]0\b", alarm, re.MULTILINE)]
    assert len(fast) == cost.HIGH_RESOLUTION_ALARMS
    assert len(alarms) - len(fast) == cost.ALARMS
    for kind, name in {
        "AWS::KMS::Key": "KMS key",
        "AWS::SecretsManager::Secret": "secret",
        "AWS::CloudWatch::Dashboard": "dashboards",
    }.items():
        assert TEMPLATE.count(f"Type: {kind}\n") == cost.broker(1, 0)[name]
    assert "MemorySize: 512" in TEMPLATE


def test_price_in_steps_charges_each_step_its_own() -> None:
    assert cost.PRICES["API Gateway, REST"].of(1e9) == pytest.approx(333 * 3.5 + 667 * 2.8)


def test_allowance_is_taken_off_first() -> None:
    metrics = cost.PRICES["metrics"]
    assert (metrics.of(10), metrics.of(11)) == (0, pytest.approx(0.3))
    assert metrics.of(10, has_allowance=False) == pytest.approx(3)


@pytest.mark.parametrize("grants", cost.GRANTS)
def test_more_vends_and_more_grants_never_cost_less(grants: int) -> None:
    totals = [sum(cost.usd(cost.broker(grants, vends)).values()) for vends in (0, *cost.VENDS)]
    assert totals == sorted(totals)
    more = [sum(cost.usd(cost.broker(grants + 1, vends)).values()) for vends in (0, *cost.VENDS)]
    assert all(one <= other for one, other in zip(totals, more, strict=True))


def test_vends_are_read_from_the_store_no_more_than_once_a_minute_in_each_environment() -> None:
    units = cost.broker(1, 1_000_000_000)
    per_vend = (units["KMS requests"] - cost.broker(1, 0)["KMS requests"]) / 1_000_000_000
    assert per_vend < 0.002


def test_table_has_a_row_for_every_size() -> None:
    with_limit = [row for row in cost.rows() if row.must]
    assert [row.is_reached for row in with_limit] == [True] * 3
    assert len(cost.rows()) == len(with_limit) + len(cost.GRANTS) * len(cost.VENDS)


def test_command_prices_metrics_by_grant_if_asked_to(capsys: pytest.CaptureFixture[str]) -> None:
    with patch("sys.argv", ["cost", "--grants", "50", "--metrics-by-grant"]):
        main()
    total = sum(cost.usd(cost.broker(50, 0, metrics_by_grant=True)).values())
    assert f"{total:,.2f}" in capsys.readouterr().out


def test_command_prints_the_totals_of_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    with patch("sys.argv", ["cost", "--grants", "50", "--vends", "100,000"]):
        assert main() == 0
    printed = capsys.readouterr().out
    for items in (cost.broker(50, 100_000), cost.secret_in_every_service(250)):
        for has_allowance in (True, False):
            total = sum(cost.usd(items, has_allowance=has_allowance).values())
            assert f"{total:,.2f}" in printed


@pytest.mark.parametrize("count", ["-1", "many", "1.5", ""])
def test_command_refuses_what_is_no_whole_number(
    count: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with patch("sys.argv", ["cost", "--grants", count]), pytest.raises(SystemExit, match="2"):
        main()
    assert "a whole number, such as 500 or 100,000" in capsys.readouterr().err


def test_plot_in_the_docs_is_what_the_command_draws(tmp_path: Path) -> None:
    with patch("sys.argv", ["cost", "--plot", str(tmp_path / "cost.svg")]):
        assert main() == 0
    drawn = (tmp_path / "cost.svg").read_text(encoding="utf-8")
    assert drawn == (ROOT / "docs/images/cost.svg").read_text(encoding="utf-8")
    assert "<script" not in drawn
