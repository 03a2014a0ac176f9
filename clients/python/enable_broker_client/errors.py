"""Everything the client can fail with, as one tree.

BrokerClientError
├── NotConfigured      no region, or a faulty AWS profile: the deployer fixes it
│   └── NoCredentials  no AWS credentials within the retry budget
├── InvalidRequest     400: the broker does not understand the request
├── NotAllowed         403: IAM, or the grant's `callers`
├── UnknownGrant       404: no such grant
├── UnexpectedResponse a status that the broker's contract does not have
├── NoTokenInTime      the retry budget is spent
└── NotNow             one attempt failed, the next may not; never leaves `TokenSource`

No message contains a token, a key or a signature: each is built from names, numbers and wire
codes. API Gateway's own text stays out, because it can quote the signed headers.
"""


class BrokerClientError(Exception):
    """Base of every error that the client raises on purpose."""


class NotConfigured(BrokerClientError):
    """There is no region to sign for, or the AWS configuration is faulty."""


class NoCredentials(NotConfigured):
    """There are no AWS credentials now. Their service may be late, so this is retried."""


class _Refused(BrokerClientError):
    """The broker refused the request, and would refuse it again.

    Attributes:
        grant: the grant that was requested.
        status: the HTTP status.
        code: the wire code: the body's `error`, else API Gateway's error type; may be empty.
    """

    def __init__(self, message: str, *, grant: str, status: int, code: str) -> None:
        super().__init__(f"grant {grant}: HTTP {status}{f' ({code})' if code else ''}: {message}")
        self.grant = grant
        self.status = status
        self.code = code


class InvalidRequest(_Refused):
    """The broker does not understand the request."""


class NotAllowed(_Refused):
    """IAM does not allow the call, or the grant's `callers` do not name this caller."""


class UnknownGrant(_Refused):
    """The broker keeps no grant of this name."""


class UnexpectedResponse(_Refused):
    """The response is not one of the broker: is the URL the stack's `TokenApiUrl`?"""


class NoTokenInTime(BrokerClientError):
    """The retry budget is spent, and there is still no live token.

    Attributes:
        grant: the grant that was requested.
        last_status: the last HTTP status; None if the last attempt got no response.
        reason: what was wrong with the last attempt.
    """

    def __init__(self, *, grant: str, last_status: int | None, reason: str) -> None:
        super().__init__(f"grant {grant}: no live token in time; last: {reason}")
        self.grant = grant
        self.last_status = last_status
        self.reason = reason


class NotNow(BrokerClientError):
    """One attempt failed in a way that the next may not.

    Attributes:
        status: the HTTP status; None without a response.
        retry_after: the seconds that a `Retry-After` header named; 0 without one.
    """

    def __init__(self, reason: str, *, status: int | None = None, retry_after: float = 0) -> None:
        super().__init__(reason)
        self.status = status
        self.retry_after = retry_after
