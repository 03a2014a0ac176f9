"""The caller's side of the Enable token broker: a live Enable token in three lines.

`TokenSource` is all most callers need; `enable_broker_client.requests` and
`enable_broker_client.httpx` put its token on every request, each with its own extra.
"""

from enable_broker_client.api import Token, fingerprint
from enable_broker_client.errors import (
    BrokerClientError,
    InvalidRequest,
    NoCredentials,
    NotAllowed,
    NotConfigured,
    NoTokenInTime,
    UnexpectedResponse,
    UnknownGrant,
)
from enable_broker_client.source import TokenSource
from enable_broker_client.transport import HttpTransport, Request, Response, Transport

__all__ = [
    "BrokerClientError",
    "HttpTransport",
    "InvalidRequest",
    "NoCredentials",
    "NoTokenInTime",
    "NotAllowed",
    "NotConfigured",
    "Request",
    "Response",
    "Token",
    "TokenSource",
    "Transport",
    "UnexpectedResponse",
    "UnknownGrant",
    "fingerprint",
]
