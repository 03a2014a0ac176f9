"""EventBridge Scheduler: one schedule of a name in each group."""

from ministack.services import scheduler
from ministack.services.cloudformation import provisioners


def refuse_a_second_of_one_name() -> None:
    """Fail a stack whose schedule has a name that is taken, instead of going on without it.

    EventBridge Scheduler API Reference, CreateSchedule: ConflictException (409) when the resource
    exists. ministack's CloudFormation drops its own service's 409.
    """
    create = provisioners._scheduler_schedule_create

    def create_new(logical_id: str, properties: dict[str, object], stack: str) -> object:
        group, name = properties.get("GroupName", "default"), properties.get("Name")
        if f"{group}/{name}" in scheduler._schedules:
            raise ValueError(
                f"Schedule {name} already exists. (Service: Scheduler, Status Code: 409, "
                "Error Code: ConflictException)"
            )
        return create(logical_id, properties, stack)

    provisioners._scheduler_schedule_create = create_new  # what an update with a new name calls
    provisioners._RESOURCE_HANDLERS["AWS::Scheduler::Schedule"]["create"] = create_new
