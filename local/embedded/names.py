"""CloudFormation: a stack does not take over what has the name that it would give."""

from collections.abc import Callable, Container
from typing import Any, Final

from ministack.core import responses
from ministack.services import cloudwatch, scheduler, secretsmanager
from ministack.services.cloudformation import provisioners

type Create = Callable[[str, dict[str, Any], str], object]


def refuse_what_is_taken() -> None:
    """Fail a stack that creates a named resource where there is one of this name.

    CloudFormation CLI User Guide, "Resource type handler contract": a create handler returns
    AlreadyExists for a resource that existed before. EventBridge Scheduler API Reference,
    CreateSchedule: ConflictException (409). ministack overwrites what is there, or drops the 409
    and goes on without the schedule.
    """
    for kind, (name, taken, code) in _NAMED.items():
        handlers = provisioners._RESOURCE_HANDLERS[kind]
        handlers["create"] = _create_new(handlers["create"], kind, name, taken, code)


def differ_by_region() -> None:
    """Give the roles of one stack name in two Regions names of their own.

    CloudFormation User Guide, "Name type": CloudFormation generates a unique physical ID, and roles
    are the account's. Ministack derives a name from stack and resource alone, so that the second
    Region's role replaces the first's.
    """
    name, seed = provisioners._physical_name, provisioners._NAME_SEED

    def name_by_region(*args: object, **more: object) -> str:
        token = seed.set(f"{responses.get_region()}{seed.get()}")
        try:
            named: str = name(*args, **more)
        finally:
            seed.reset(token)
        return named

    provisioners._physical_name = name_by_region


def _create_new(
    create: Create, kind: str, property_name: str, taken: Callable[[], Container[str]], code: str
) -> Create:
    def create_new(logical_id: str, properties: dict[str, Any], stack: str) -> object:
        name = properties.get(property_name)
        if name is not None and name in taken():
            raise ValueError(
                f"Resource of type '{kind}' with identifier '{name}' already exists. "
                f"(HandlerErrorCode: AlreadyExists{code})"
            )
        return create(logical_id, properties, stack)

    return create_new


def _schedules() -> set[str]:
    """Of the default group, the only one that a template here uses."""
    return {s["Name"] for s in scheduler._schedules.values() if s["GroupName"] == "default"}


_NAMED: Final = {
    "AWS::CloudWatch::Alarm": ("AlarmName", lambda: cloudwatch._alarms, ""),
    "AWS::CloudWatch::Dashboard": ("DashboardName", lambda: cloudwatch._dashboards, ""),
    "AWS::Scheduler::Schedule": ("Name", _schedules, ", Error Code: ConflictException"),
    "AWS::SecretsManager::Secret": ("Name", lambda: secretsmanager._secrets, ""),
}
"""By type: the property with the name, the names that are taken, the service's own error code."""
