"""Reading settings from an environment, refusing what is missing or out of range."""

import re
from collections.abc import Mapping
from datetime import timedelta

from token_broker.errors import ConfigurationError


def text(environ: Mapping[str, str], name: str) -> str:
    """A variable that must be set.

    Raises:
        ConfigurationError: it is missing or empty.
    """
    if not (value := environ.get(name, "")):
        raise ConfigurationError(f"the environment variable {name} is not set; deploy the template")
    return value


def seconds(environ: Mapping[str, str], name: str, *, least: int, most: int) -> timedelta:
    """A variable that must contain a whole number of seconds within a range.

    Raises:
        ConfigurationError: it is missing, not a whole number, or out of range.
    """
    return timedelta(
        seconds=whole_number(environ, name, least=least, most=most, unit=" of seconds")
    )


def whole_number(
    environ: Mapping[str, str], name: str, *, least: int, most: int, unit: str = ""
) -> int:
    """A variable that must contain a whole number within a range.

    Raises:
        ConfigurationError: it is missing, not a whole number, or out of range.
    """
    value = text(environ, name)
    if not re.fullmatch("[0-9]{1,9}", value) or not least <= int(value) <= most:
        raise ConfigurationError(f"{name} is not a whole number{unit} from {least} to {most}")
    return int(value)
