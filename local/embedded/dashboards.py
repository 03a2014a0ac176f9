"""CloudWatch: dashboards are the account's, not a Region's."""

from ministack.core.responses import AccountScopedDict
from ministack.services import cloudwatch
from ministack.services.cloudformation import provisioners

KIND = "AWS::CloudWatch::Dashboard"


def belong_to_the_account() -> None:
    """Keep one set of dashboards for all Regions, and fail a stack that creates an existing one.

    CloudWatch User Guide, "Using Amazon CloudWatch dashboards": dashboards are global.
    CloudFormation CLI User Guide, "Resource type handler contract": a create handler returns
    AlreadyExists for a resource that existed before.
    """
    cloudwatch._dashboards = AccountScopedDict()
    handlers = provisioners._RESOURCE_HANDLERS[KIND]
    create = handlers["create"]

    def create_new(logical_id: str, properties: dict[str, object], stack: str) -> object:
        name = properties.get("DashboardName")
        if name in cloudwatch._dashboards:
            raise ValueError(f"Resource of type '{KIND}' with identifier '{name}' already exists.")
        return create(logical_id, properties, stack)

    handlers["create"] = create_new
