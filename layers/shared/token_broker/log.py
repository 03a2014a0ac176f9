"""The functions' structured log: one line of ASCII JSON for each record."""

import json
from functools import partial

from aws_lambda_powertools import Logger


def service_logger(service: str) -> Logger:
    """Powertools' Logger, whose lines no text can break in two.

    Its own serializer leaves non-ASCII as it is: a line separator (U+2028) in a made-up
    grant's name would end the audit record there.
    """
    return Logger(
        service=service,
        json_serializer=partial(json.dumps, default=str, separators=(",", ":")),
    )
