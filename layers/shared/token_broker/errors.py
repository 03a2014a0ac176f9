"""Everything the broker can fail with, as one tree.

BrokerError
├── ConfigurationError            the deployer fixes it
├── InvalidRequest                400: the event, the query or the body is not understood
│   └── UnsupportedGrantType      400: another grant type than client_credentials
├── UnknownGrant                  404: no such grant
├── CallerNotAllowed              403: the grant's `callers` do not name this caller
├── NoLiveToken                   503 + Retry-After: a refresh run is needed
│   └── NoFittingToken            503 + Retry-After: the live one is not what was requested
├── InvalidScope                  400: no grant of exactly this scope is open to the caller
├── RejectionTooSoon              429: the token that was reported is less than a minute old
├── GrantBlocked                  503 + Retry-After: an operator has stopped the grant
├── CorruptStoredToken            a parameter that contains no stored token: counts as none
├── TokenEndpointError
│   ├── TokenEndpointUnavailable  network, 408, 425, 429, 5xx: try again
│   ├── TokenRequestRejected      an OAuth error: alarm, do not retry
│   └── InvalidTokenResponse      not a usable token: alarm
└── RenewalFailed                 a refresh run that left a due grant without a new token

No message contains a client secret or a token: each is built from names, numbers and
wire codes only, so that it may be logged, returned and stored in a failure queue.
"""

from datetime import timedelta


class BrokerError(Exception):
    """Base of every error that the broker raises on purpose."""


class ConfigurationError(BrokerError):
    """A setting, the secret or grants.toml is unusable as it stands."""


class InvalidRequest(BrokerError):
    """The event or the query of a call is not one the broker understands."""


class UnsupportedGrantType(InvalidRequest):
    """Another grant type than client_credentials (RFC 6749 section 5.2)."""


class UnknownGrant(BrokerError):
    """No grant of this name is in grants.toml."""

    def __init__(self) -> None:
        super().__init__("no such grant")


class CallerNotAllowed(BrokerError):
    """The grant names its callers, and this caller is not one of them."""

    def __init__(self) -> None:
        super().__init__("the grant is not open to this caller")


class InvalidScope(BrokerError):
    """No grant of exactly the requested scope names this caller."""

    def __init__(self) -> None:
        super().__init__("no grant of exactly this scope names this caller")


class RejectionTooSoon(BrokerError):
    """The reported token is so new that another one is not asked for yet.

    Attributes:
        retry_after: when it may be reported again.
    """

    def __init__(self, *, retry_after: timedelta) -> None:
        super().__init__("the token is less than a minute old; report it again then")
        self.retry_after = retry_after


class NoLiveToken(BrokerError):
    """No stored token is live, or none that the grant still permits.

    Attributes:
        retry_after: when another request may succeed.
    """

    def __init__(self, message: str, *, retry_after: timedelta) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NoFittingToken(NoLiveToken):
    """A token is live, but it ends too soon for the request or is the one to pass over."""


class GrantBlocked(BrokerError):
    """An operator has stopped the grant: nothing is vended or renewed until it is unblocked.

    Attributes:
        reason: what the operator gave as the reason.
        record: what stands in the token's place.
        retry_after: when a caller may look again.
    """

    retry_after = timedelta(minutes=5)

    def __init__(self, reason: str, record: str = "") -> None:
        super().__init__("the grant has been blocked by its operator")
        self.reason = reason
        self.record = record


class CorruptStoredToken(BrokerError):
    """A token parameter contains something that the broker did not write."""


class TokenEndpointError(BrokerError):
    """The token endpoint gave no usable token.

    Attributes:
        reason: a short, fixed word for metrics and logs (`invalid_client`, `timeout` …).
        attempts: requests made before giving up.
        retry_after: what a `Retry-After` header requested, if one was sent.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        attempts: int = 1,
        retry_after: timedelta | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.attempts = attempts
        self.retry_after = retry_after


class TokenEndpointUnavailable(TokenEndpointError):
    """Network failure, time-out, 408, 425, 429 or 5xx: the same request may succeed later."""


class TokenRequestRejected(TokenEndpointError):
    """The endpoint returned an OAuth error (RFC 6749 section 5.2), or another 4xx.

    `reason` is the wire code, `invalid_client` for any 401; an unregistered code is reported as
    `unknown_error`.
    """


class InvalidTokenResponse(TokenEndpointError):
    """The response is not the token that was requested (RFC 6749 section 5.1)."""


class RenewalFailed(BrokerError):
    """At least one due grant was not renewed; its stored token is as it was.

    Attributes:
        causes: the message by grant name.
    """

    def __init__(self, causes: dict[str, str]) -> None:
        grants_by_cause: dict[str, list[str]] = {}
        for grant, cause in causes.items():
            grants_by_cause.setdefault(cause, []).append(grant)
        parts = [f"{', '.join(grants)}: {cause}" for cause, grants in grants_by_cause.items()]
        super().__init__("not renewed: " + " | ".join(parts))
        self.causes = causes
