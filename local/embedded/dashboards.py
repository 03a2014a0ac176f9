"""CloudWatch: dashboards are the account's, not a Region's."""

from ministack.core.responses import AccountScopedDict
from ministack.services import cloudwatch


def belong_to_the_account() -> None:
    """Keep one set of dashboards for all Regions of an account.

    CloudWatch User Guide, "Using Amazon CloudWatch dashboards": dashboards are global.
    """
    cloudwatch._dashboards = AccountScopedDict()
