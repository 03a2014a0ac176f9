"""What a check returns, and the deployment that it looks at."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Self

from botocore.exceptions import ClientError

from broker_cli.aws import CONFIG, Stack, read_all
from broker_cli.console import printable
from broker_cli.failures import failure_of

REFRESHER: Final = "TokenRefresherFunction"
VENDOR: Final = "TokenVendorFunction"
SERVICES: Final = {REFRESHER: "token-refresher", VENDOR: "token-vendor"}
"""By logical id, the name of a function in its log and in its metrics."""

RESTORE: Final = "set it back to what template.yaml says: a deployment without a change does not"


@dataclass(frozen=True, slots=True)
class Passed:
    """It is as promised."""

    found: str


@dataclass(frozen=True, slots=True)
class Failed:
    """It is not as promised."""

    found: str
    next_step: str = RESTORE


@dataclass(frozen=True, slots=True)
class NotChecked:
    """Nothing is known, and why."""

    why: str


type Result = Passed | Failed | NotChecked


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """A deployed stack with its resources.

    Attributes:
        stack: its name, parameters and outputs.
        resources: physical id by logical id.
        alarm_names: of its alarms, in the template's order of logical ids.
    """

    stack: Stack
    resources: Mapping[str, str]
    alarm_names: tuple[str, ...]

    @classmethod
    def of(cls, stack: Stack) -> Self:
        """List the resources of a stack."""
        client = stack.session.client("cloudformation", config=CONFIG)
        found = list(
            read_all(client.list_stack_resources, "StackResourceSummaries", StackName=stack.name)
        )
        ids = {item["LogicalResourceId"]: item["PhysicalResourceId"] for item in found}
        alarms = [i["PhysicalResourceId"] for i in found if i["ResourceType"] == _ALARM]
        return cls(stack=stack, resources=ids, alarm_names=tuple(sorted(alarms)))

    @property
    def partition(self) -> str:
        """`aws`, or another partition's name."""
        return self.stack.outputs["ClientSecretArn"].split(":")[1]

    def arn(self, service: str, resource: str) -> str:
        """The ARN of a resource of this account and Region."""
        region = self.stack.session.region_name
        return f"arn:{self.partition}:{service}:{region}:{self.stack.account}:{resource}"

    def function_arn(self, logical_id: str) -> str:
        """The ARN of one of the two functions."""
        return self.arn("lambda", f"function:{self.resources[logical_id]}")

    @cached_property
    def functions(self) -> Mapping[str, Mapping[str, Any]]:
        """The two functions' configuration, by logical id."""
        client = self.stack.session.client("lambda", config=CONFIG)
        return {
            name: client.get_function_configuration(FunctionName=self.resources[name])
            for name in SERVICES
        }

    @cached_property
    def alarms(self) -> Mapping[str, Mapping[str, Any]]:
        """The stack's alarms as CloudWatch has them, by name."""
        client = self.stack.session.client("cloudwatch", config=CONFIG)
        prefix = f"{self.stack.name}-"
        found = read_all(client.describe_alarms, "MetricAlarms", AlarmNamePrefix=prefix)
        return {alarm["AlarmName"]: alarm for alarm in found}


_ALARM: Final = "AWS::CloudWatch::Alarm"
_GONE: Final = {
    "NotFoundException",
    "NoSuchEntity",
    "ResourceNotFound",
    "ResourceNotFoundException",
    "AWS.SimpleQueueService.NonExistentQueue",
}

type Check = Callable[[Deployment], Result]


def judge(check: Check, deployment: Deployment) -> Result:
    """A check's result; an error of AWS is one as well.

    What the stack made and AWS does not find has been deleted: failed. Any other error (no
    permission, an operation or a field that this endpoint does not have) says nothing about the
    deployment: not checked.
    """
    try:
        return check(deployment)
    except ClientError as error:
        if error.response["Error"]["Code"] in _GONE:
            return Failed(f"AWS does not find it ({error.operation_name})")
        return NotChecked(str(failure_of(error)))
    except KeyError as error:
        return NotChecked(f"the response of AWS has no {printable(error.args[0])}")
    except Exception as error:
        return NotChecked(str(failure_of(error)))
