"""The functions' structured log: one line of ASCII JSON for each record."""

import json
import logging
from collections.abc import Mapping
from typing import Final

from aws_lambda_powertools import Logger

BODY_LOGGERS: Final = ("botocore", "urllib3")
"""Libraries whose debug messages contain requests and responses: secrets and tokens."""

REPEATED: Final = frozenset({"location", "function_name", "function_memory_size", "function_arn"})
"""Fields of Powertools that are the same in every line: the log group names the function."""


def service_logger(service: str) -> Logger:
    """Powertools' Logger, whose lines no text can break in two.

    Its own serializer leaves non-ASCII as it is: a line separator (U+2028) in a made-up
    grant's name would end the audit record there.

    Messages of BODY_LOGGERS below ERROR are off from then on, whatever level Lambda's own log
    settings or a layer give to all others. Lambda's runtime writes them as plain text beside the
    JSON lines, at each cold start ("Found credentials in environment variables") and for a full
    connection pool; what a failed request means is in the functions' own lines.
    """
    for name in BODY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    return Logger(
        service=service,
        json_serializer=_line,
    )


def _line(record: Mapping[str, object]) -> str:
    """A record in the fewest bytes: each is paid for, and a vend is one of them."""
    kept = {
        name: value
        for name, value in record.items()
        if name not in REPEATED and (name, value) != ("cold_start", False)
    }
    return json.dumps(kept, default=str, separators=(",", ":"))
