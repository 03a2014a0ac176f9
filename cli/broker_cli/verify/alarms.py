"""Alarms: whether they look at metrics that exist, and whether anybody is notified."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from broker_cli.aws import CONFIG, read_all
from broker_cli.verify.result import (
    REFRESHER,
    SERVICES,
    VENDOR,
    Check,
    Deployment,
    Failed,
    NotChecked,
    Passed,
    Result,
)
from token_broker.metrics import METRICS, NAMESPACE

VENDOR_METRICS: Final = frozenset(
    {"Vended", "VendRefused", "VendFault", "WouldRefuse", "TokenRejected"}
)
"""What the vendor counts; the refresher counts the rest of `METRICS`."""

_EMF_ERRORS: Final = ("EMFParsingErrors", "EMFValidationErrors")
_DAY: Final = timedelta(days=1)

type Dimensions = Mapping[str, str]


def actions(deployment: Deployment) -> Result:
    """Every alarm is there, and its actions are on and go to the stack's topic."""
    topic = [deployment.resources["AlarmTopic"]]
    missing = [name for name in deployment.alarm_names if name not in deployment.alarms]
    if missing:
        return Failed(f"deleted: {', '.join(missing)}")
    silent = [
        name
        for name in deployment.alarm_names
        if not (alarm := deployment.alarms[name])["ActionsEnabled"]
        or alarm["AlarmActions"] != topic
        or alarm["OKActions"] != topic
    ]
    if silent:
        return Failed(f"they do not tell the topic: {', '.join(silent)}")
    return Passed(f"all {len(deployment.alarm_names)} tell the topic when they start and end")


def receivers(deployment: Deployment) -> Result:
    """Somebody receives what the topic sends."""
    client = deployment.stack.session.client("sns", config=CONFIG)
    found = list(
        read_all(
            client.list_subscriptions_by_topic,
            "Subscriptions",
            TopicArn=deployment.resources["AlarmTopic"],
        )
    )
    pending = [s for s in found if s["SubscriptionArn"] == "PendingConfirmation"]
    if pending:
        return Failed(
            f"{len(pending)} of {len(found)} receivers have not confirmed",
            "open SNS's message to each, and follow its link",
        )
    if not found and not deployment.stack.parameters.get("AlarmEmail"):
        return NotChecked("AlarmEmail is empty and nothing else is subscribed: nobody is notified")
    if not found:
        return Failed("AlarmEmail is set, and nobody is subscribed", "deploy again")
    return Passed(f"{len(found)} confirmed")


def metric_checks(deployment: Deployment) -> Iterable[tuple[str, Check]]:
    """A check for each alarm, with its name."""
    for name in deployment.alarm_names:
        short = name.removeprefix(f"{deployment.stack.name}-")
        yield f"metric of {short}", partial(_metric, name)


def _metric(name: str, deployment: Deployment) -> Result:
    """The metric that an alarm looks at exists, with exactly its dimensions."""
    if name not in deployment.alarms:
        return Failed("the alarm has been deleted")
    for namespace, metric, dimensions in _looked_at(deployment.alarms[name]):
        wanted = _emitted(deployment, namespace, metric)
        if dimensions != wanted:
            return Failed(
                f"it looks at {namespace} {metric} with {_text(dimensions)}; "
                f"what is counted has {_text(wanted)}"
            )
        listed = _listed(deployment, namespace, metric, dimensions)
        if dimensions in listed:
            continue
        if listed:
            found = "; ".join(sorted(_text(other) for other in listed))
            return Failed(f"CloudWatch has no {metric} with {_text(dimensions)}, only with {found}")
        return NotChecked(f"CloudWatch has no {metric}: nothing was counted in two weeks")
    return Passed("CloudWatch has it, with the same dimensions")


def _looked_at(alarm: Mapping[str, Any]) -> list[tuple[str, str, Dimensions]]:
    """Namespace, metric and dimensions of what an alarm, or its expression, is about."""
    parts = [m["MetricStat"]["Metric"] for m in alarm.get("Metrics", ()) if "MetricStat" in m]
    return [(part["Namespace"], part["MetricName"], _dimensions(part)) for part in parts or [alarm]]


def _dimensions(metric: Mapping[str, Any]) -> Dimensions:
    return {d["Name"]: d["Value"] for d in metric.get("Dimensions", ())}


def _emitted(deployment: Deployment, namespace: str, metric: str) -> Dimensions:
    """The dimensions under which AWS or the functions count a metric of this stack.

    Empty if none of them counts it.
    """
    refresher, vendor = deployment.resources[REFRESHER], deployment.resources[VENDOR]
    if namespace == f"{NAMESPACE}/{deployment.stack.name}" and metric in METRICS:
        return {"service": SERVICES[VENDOR if metric in VENDOR_METRICS else REFRESHER]}
    queue = deployment.resources["RefreshFailuresQueue"].rpartition("/")[2]
    of_aws: Mapping[tuple[str, str], Dimensions] = {
        ("AWS/Lambda", "Invocations"): {"FunctionName": refresher},
        ("AWS/Lambda", "Errors"): {"FunctionName": vendor},
        ("AWS/SQS", "ApproximateNumberOfMessagesVisible"): {"QueueName": queue},
    }
    return of_aws.get((namespace, metric), {})


def _listed(
    deployment: Deployment, namespace: str, metric: str, dimensions: Dimensions
) -> list[Dimensions]:
    """The dimensions under which CloudWatch has a metric; in AWS's namespaces those alone."""
    client = deployment.stack.session.client("cloudwatch", config=CONFIG)
    looked_for = [] if namespace.startswith(NAMESPACE) else _filters(dimensions)
    found = read_all(
        client.list_metrics,
        "Metrics",
        Namespace=namespace,
        MetricName=metric,
        Dimensions=looked_for,
    )
    return [_dimensions(item) for item in found]


def _filters(dimensions: Dimensions) -> list[dict[str, str]]:
    return [{"Name": name, "Value": value} for name, value in dimensions.items()]


def _text(dimensions: Dimensions) -> str:
    return ", ".join(f"{name}={value}" for name, value in dimensions.items()) or "no dimensions"


def metric_lines(deployment: Deployment) -> Result:
    """CloudWatch made metrics of the functions' lines, and had no error in a day.

    CloudWatch counts such errors only where there are any. So no count is good news only if it
    has made metrics of the lines at all.
    """
    groups = [deployment.stack.log_group(service) for service in SERVICES.values()]
    errors = {group: _count_errors(deployment, group) for group in groups}
    if bad := [f"{group}: {count}" for group, count in errors.items() if count]:
        return Failed(
            f"lines that CloudWatch could not read as metrics in a day: {', '.join(bad)}",
            "search the log for AwsEmfError, and report it",
        )
    if not _listed(deployment, f"{NAMESPACE}/{deployment.stack.name}", "SecondsToExpiry", {}):
        return NotChecked("CloudWatch has made no metric of the refresher's lines yet")
    return Passed("no parsing and no validation error in a day")


def _count_errors(deployment: Deployment, group: str) -> int:
    client, now = deployment.stack.session.client("cloudwatch", config=CONFIG), datetime.now(UTC)
    output = client.get_metric_data(
        MetricDataQueries=[_query(metric, group) for metric in _EMF_ERRORS],
        StartTime=now - _DAY,
        EndTime=now,
    )
    return int(sum(sum(result["Values"]) for result in output["MetricDataResults"]))


def _query(metric: str, group: str) -> dict[str, Any]:
    dimensions = _filters({"LogGroupName": group})
    looked_at = {"Namespace": "AWS/Logs", "MetricName": metric, "Dimensions": dimensions}
    return {
        "Id": metric.lower(),
        "MetricStat": {"Metric": looked_at, "Period": 3600, "Stat": "Sum"},
    }
