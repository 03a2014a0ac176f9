"""How the functions meet AWS: short time-outs, few retries, and faults named without text."""

from typing import Any, Final, cast

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.handlers import add_recursion_detection_header
from botocore.session import Session

from token_broker.errors import BrokerError

CLIENT_CONFIG: Final = Config(
    connect_timeout=1,
    read_timeout=2,
    retries={"mode": "legacy", "total_max_attempts": 4},
    max_pool_connections=32,
)
"""Seconds; a call that hangs must leave an invocation time for the others.

Not the standard or adaptive mode: they draw each retry from a quota that a long-lived
environment uses up after hours of faults, and then retry nothing any more.
"""

WRITER_CONFIG: Final = CLIENT_CONFIG.merge(
    Config(retries={"mode": "legacy", "total_max_attempts": 5})
)
"""More patient: PutParameter's quota is a few writes per second."""


def session() -> Session:
    """A session without the 120 handlers that botocore registers for all services.

    Registering them takes 5 to 7 % of a start-up's instructions. The services here use one of
    them: with it, Lambda notices functions that start each other in a loop.
    """
    made = Session(include_builtin_handlers=False)
    made.register("before-call", cast("Any", add_recursion_detection_header))
    return made


def describe_fault(error: Exception) -> tuple[str, str]:
    """A failure as (reason, message), neither of which quotes what was sent or received.

    AWS's own error messages are left out: some repeat the request's values.
    """
    if isinstance(error, ClientError):
        code = error.response.get("Error", {}).get("Code", "Unknown")
        return code, f"{error.operation_name} was refused by AWS: {code}"
    if isinstance(error, BotoCoreError):
        kind = type(error).__name__
        return kind, f"AWS could not be reached or did not respond: {kind}"
    if isinstance(error, BrokerError):
        return type(error).__name__, str(error)
    return "InternalError", f"unexpected {type(error).__name__}; please report it"
