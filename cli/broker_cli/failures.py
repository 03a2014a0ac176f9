"""What the command line ends with: exit codes, and errors of one line and a next step."""

from enum import IntEnum
from typing import Final

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
)

from broker_cli.console import printable
from token_broker.aws import describe_fault
from token_broker.errors import ConfigurationError


class ExitCode(IntEnum):
    """Documented in `broker --help`."""

    OK = 0
    WRONG = 1
    USAGE = 2
    AWS = 3
    REFUSED = 4
    NOT_NOW = 5
    INTERRUPTED = 130


class Failure(Exception):
    """Ends a command. Neither text contains a client secret or a token.

    Attributes:
        next_step: what to do about it.
        code: how the process exits.
    """

    def __init__(self, message: str, next_step: str, code: ExitCode = ExitCode.WRONG) -> None:
        super().__init__(message)
        self.next_step = next_step
        self.code = code


_LOG_IN = "log in (`aws sso login`), or set AWS_PROFILE"
_KNOWN: Final[dict[type[Exception], tuple[str, str]]] = {
    ProfileNotFound: ("no such AWS profile", "`aws configure list-profiles` names yours"),
    NoRegionError: (
        "no AWS region is set",
        "set AWS_DEFAULT_REGION, or a region in your AWS profile",
    ),
    NoCredentialsError: ("no AWS credentials", _LOG_IN),
    PartialCredentialsError: ("only a part of AWS credentials is set", _LOG_IN),
    CredentialRetrievalError: ("the AWS credentials could not be got", _LOG_IN),
    SSOError: ("the AWS sign-in has ended", _LOG_IN),
    HTTPClientError: (
        "AWS could not be reached",
        "check the network and AWS_DEFAULT_REGION; with AWS_ENDPOINT_URL, that `make up` runs",
    ),
}
_STALE = {
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidClientTokenId",
    "UnrecognizedClientException",
    "SignatureDoesNotMatch",
    "InvalidSignatureException",
    "RequestExpired",
}
DENIED: Final = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"}


def failure_of(error: Exception) -> Failure:
    """Any other error as a failure, without the text of a request or a response.

    AWS's own sentence is kept for a missing permission alone: it names who, what and where.
    """
    if isinstance(error, Failure):
        return error
    if isinstance(error, ConfigurationError):
        return Failure(str(error), "correct that, then try again", ExitCode.USAGE)
    for kind, (message, next_step) in _KNOWN.items():
        if isinstance(error, kind):
            return _aws(message, next_step)
    if isinstance(error, ClientError):
        return _refused_by_aws(error)
    reason, cause = describe_fault(error)
    code = ExitCode.AWS if isinstance(error, BotoCoreError) else ExitCode.WRONG
    return Failure(cause, f"look up {reason}, or report it with the command you gave", code)


def _refused_by_aws(error: ClientError) -> Failure:
    code, cause = describe_fault(error)
    if code in DENIED:
        output = printable(error.response["Error"].get("Message", ""))[:400]
        return _aws(f"{cause}. {output}".strip(), "have that allowed, or use another AWS_PROFILE")
    if code in _STALE:
        return _aws(cause, "log in again, and check this machine's clock")
    return _aws(cause, "see whether it is there (`broker doctor`), and try again")


def _aws(message: str, next_step: str) -> Failure:
    return Failure(message, next_step, ExitCode.AWS)
