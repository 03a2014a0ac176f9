"""The two functions and what they run on: artifact, logs, key and the account's quotas."""

from collections.abc import Iterable
from functools import partial
from typing import Final

from broker_cli.aws import CONFIG
from broker_cli.status import kept
from broker_cli.verify.result import (
    SERVICES,
    Check,
    Deployment,
    Failed,
    NotChecked,
    Passed,
    Result,
)

RUNTIME: Final = "python3.13"
RETENTION_DAYS: Final = 30
LEAST_CONCURRENCY: Final = 10
"""Environments that the account has for all functions without a reservation: a new account's."""

READS: Final = {"false": 40, "true": 1000}
"""Reads a second of Parameter Store, by the account's setting (docs/scale.md)."""

_SHARE: Final = 0.8
_THROUGHPUT: Final = "/ssm/parameter-store/high-throughput-enabled"


def runtime_checks(_: Deployment) -> Iterable[tuple[str, Check]]:
    """A check for each function, with its name."""
    for logical_id, service in SERVICES.items():
        yield f"runtime of {service}", partial(_runtime, logical_id)


def _runtime(logical_id: str, deployment: Deployment) -> Result:
    found, wanted = deployment.functions[logical_id], deployment.stack.parameters["Architecture"]
    runtime, architectures = found["Runtime"], found["Architectures"]
    if (runtime, architectures) != (RUNTIME, [wanted]):
        output = f"{runtime} on {', '.join(architectures)}"
        return Failed(f"it is {output}, not {RUNTIME} on {wanted}")
    return Passed(f"{runtime} on {wanted}")


def log_retention(deployment: Deployment) -> Result:
    """Every log of the stack is there, and kept as long as promised."""
    client = deployment.stack.session.client("logs", config=CONFIG)
    services = [*SERVICES.values()]
    if deployment.stack.parameters.get("AccessLogs") == "true":
        services.append("token-api")
    for service in services:
        name = deployment.stack.log_group(service)
        groups = client.describe_log_groups(logGroupNamePrefix=name)["logGroups"]
        group = next((group for group in groups if group["logGroupName"] == name), None)
        if group is None:
            return Failed(f"there is no log group {name}")
        if group.get("retentionInDays") != RETENTION_DAYS:
            return Failed(f"{name} is kept for {group.get('retentionInDays', 'ever')} days")
    return Passed(f"{len(services)} logs, kept for {RETENTION_DAYS} days")


def key(deployment: Deployment) -> Result:
    """The key can be used, and is rotated."""
    client = deployment.stack.session.client("kms", config=CONFIG)
    key_id = deployment.resources["BrokerKey"]
    state = client.describe_key(KeyId=key_id)["KeyMetadata"]["KeyState"]
    if state != "Enabled":
        return Failed(f"it is {state}: neither secret nor tokens can be read", _KEY_STEP)
    if not client.get_key_rotation_status(KeyId=key_id)["KeyRotationEnabled"]:
        return Failed("it is not rotated", "`aws kms enable-key-rotation`")
    return Passed("enabled, rotated")


_KEY_STEP: Final = "`aws kms cancel-key-deletion` and `aws kms enable-key`, with its id"


def concurrency(deployment: Deployment) -> Result:
    """Lambda has environments for both functions."""
    client = deployment.stack.session.client("lambda", config=CONFIG)
    for logical_id, service in SERVICES.items():
        found = client.get_function_concurrency(FunctionName=deployment.resources[logical_id])
        if found.get("ReservedConcurrentExecutions") == 0:
            return Failed(f"{service} has a reserved concurrency of 0: it never runs")
    left = client.get_account_settings()["AccountLimit"]["UnreservedConcurrentExecutions"]
    if left < LEAST_CONCURRENCY:
        return Failed(
            f"{left} environments at a time for all functions of the account and Region",
            "ask AWS for more: Service Quotas, Lambda, Concurrent executions",
        )
    return Passed(f"{left} environments at a time for all functions of the account and Region")


def throughput(deployment: Deployment) -> Result:
    """Parameter Store's reads a second suffice for the runs, and leave some to callers.

    The rule is that of docs/scale.md: a run reads each grant, and each environment of the vendor
    reads a grant once in TokenCacheSeconds.
    """
    client = deployment.stack.session.client("ssm", config=CONFIG)
    response = client.get_service_setting(SettingId=_THROUGHPUT)
    value = response["ServiceSetting"]["SettingValue"].lower()
    if value not in READS:
        return NotChecked(f"Parameter Store's throughput setting is {value}")
    reads, grants = READS[value], len(kept(deployment.stack))
    left = reads * _SHARE - grants / deployment.stack.interval.total_seconds()
    cache = int(deployment.stack.parameters["TokenCacheSeconds"])
    environments = int(left * max(cache, 1) / max(grants, 1))
    found = f"{reads} reads a second: {grants} grants, up to {environments} environments"
    if environments < LEAST_CONCURRENCY:
        return Failed(found, "turn on higher throughput (docs/scale.md), or lengthen the cache")
    return Passed(found)
