"""Whether Enable takes credentials: a token is asked for, as the refresher would, and dropped."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from broker_cli.aws import Stack
from broker_cli.failures import ExitCode, Failure
from token_broker.errors import TokenEndpointError
from token_broker.grants import DEFAULT_CONNECTION, Grant, GrantsFile
from token_refresher.connection_backoffs import CONNECTION_REJECTIONS
from token_refresher.credentials import ClientCredentials
from token_refresher.enable.acceptance import accept
from token_refresher.enable.endpoint import TokenEndpoint
from token_refresher.enable.http_client import HttpClient
from token_refresher.enable.models import TokenRequest

PATIENCE: Final = timedelta(seconds=30)
"""For all of a trial; less than an operator's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What Enable made of credentials.

    Attributes:
        grant: the first for whose scope it gave a token; empty if it gave none.
        refused: by grant, why it gave none for its scope.
    """

    grant: str
    refused: Mapping[str, str]

    @property
    def response(self) -> str:
        """What Enable returned for the first grant that it refused; empty if it refused none."""
        return next(iter(self.refused.values()), "")


def token_url(stack: Stack, file: GrantsFile, connection: str) -> str:
    """Where a connection's tokens come from.

    Raises:
        Failure: grants.toml has no such connection.
    """
    if connection == DEFAULT_CONNECTION:
        return stack.parameters["TokenUrl"]
    if connection not in file.connections:
        names = ", ".join([DEFAULT_CONNECTION, *file.connections])
        raise Failure(
            f"grants.toml has no connection {connection}",
            f"there are {names}; --grants-file names another file",
            ExitCode.USAGE,
        )
    return file.connections[connection].token_url


def padding(credentials: ClientCredentials) -> str:
    """A hint that names the fields which begin or end with white space; no value."""
    return (
        f"{', '.join(credentials.padded)} begins or ends with white space or another character "
        "that does not show, and is sent as it is"
    )


def try_out(credentials: ClientCredentials, url: str, grants: Mapping[str, Grant]) -> Trial:
    """Ask for one grant's token after the other, until one is given or the client is refused."""
    endpoint, ends = TokenEndpoint(url, http=HttpClient()), time.monotonic() + PATIENCE.seconds
    refused: dict[str, str] = {}
    for name, grant in grants.items():
        request = TokenRequest(
            client_id=credentials.client_id,
            client_secret=credentials.client_secret,
            dealtrack_registration_id=credentials.dealtrack_registration_id,
            scope=grant.scope,
        )
        try:
            issued = endpoint.request_token(
                request, time_left=lambda: timedelta(seconds=ends - time.monotonic())
            )
            accept(issued, scope=grant.scope, now=datetime.now(UTC))
        except TokenEndpointError as error:
            refused[name] = str(error)
            is_about_the_scope = error.reason in {"invalid_scope", "wrong_scope"}
            if error.reason in CONNECTION_REJECTIONS or not is_about_the_scope:
                break
        else:
            return Trial(grant=name, refused=refused)
    return Trial(grant="", refused=refused)
