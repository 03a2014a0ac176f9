"""The token API as anybody calls it: a signed GET, or an anonymous one.

`AWS_ENDPOINT_URL` at this machine is the embedded AWS (`make up`): its API Gateway listens
there too, and goes by the Host header.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Self
from urllib.parse import urlsplit

import boto3

from broker_cli.console import printable
from broker_cli.failures import ExitCode, Failure
from enable_broker_client.errors import NotConfigured
from enable_broker_client.signing import Signer
from token_refresher.enable.http_client import HttpClient, NoResponse
from token_refresher.enable.route import is_loopback

_GRANT: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_TIMEOUT: Final = timedelta(seconds=32)
"""To connect and to read the whole response; API Gateway itself waits 29 seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What the token API returned; its repr contains no token.

    Attributes:
        status: the HTTP status.
        headers: by lower-case name.
        body: the JSON object, or `{}` if there was none.
    """

    status: int
    headers: Mapping[str, str]
    body: Mapping[str, object] = field(repr=False)

    @classmethod
    def of(cls, status: int, headers: Mapping[str, str], content: bytes) -> Self:
        """Read a response's parts."""
        try:
            body = json.loads(content)
        except ValueError:
            body = {}
        return cls(
            status=status,
            headers={name.lower(): value for name, value in headers.items()},
            body=body if isinstance(body, dict) else {},
        )

    @property
    def access_token(self) -> str:
        """The token of a 200.

        Raises:
            KeyError: there is none.
        """
        return str(self.body["access_token"])


def embedded_url(token_api_url: str, endpoint_url: str) -> tuple[str, str]:
    """Where the embedded AWS at `endpoint_url` serves a token API.

    Returns:
        The URL of its stage, and the Host header by which the API is found.
    """
    url, endpoint = urlsplit(token_api_url), urlsplit(endpoint_url)
    api_id = (url.hostname or "").split(".")[0]
    return f"{endpoint_url}{url.path}", f"{api_id}.execute-api.localhost:{endpoint.port}"


class TokenApi:
    """One stack's token API.

    Args:
        url: the stack's `TokenApiUrl`.
        session: tells the region, and where AWS is.

    Raises:
        Failure: the URL is not https.
    """

    def __init__(self, url: str, session: boto3.Session) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname:
            raise Failure(
                "the URL is not https://…", "give the stack's output TokenApiUrl", ExitCode.USAGE
            )
        self._region = session.region_name
        self._url, self._host = url.rstrip("/"), None
        endpoint = session.client("sts").meta.endpoint_url
        if is_loopback(urlsplit(endpoint).hostname or ""):
            self._url, self._host = embedded_url(self._url, endpoint.rstrip("/"))

    def token(self, grant: str, session: boto3.Session | None, query: str = "") -> Response:
        """Ask for a grant's token; the rest as `get`."""
        if not _GRANT.fullmatch(grant):
            raise Failure(
                f"{printable(grant)} is no grant's name", "`broker status`", ExitCode.USAGE
            )
        return self.get(f"/tokens/{grant}{query}", session)

    def unsigned(self, method: str, path: str) -> int:
        """The status of an anonymous request without a body.

        Raises:
            Failure: there is no response.
        """
        return self._request(method, path, None).status

    def get(self, path: str, session: boto3.Session | None) -> Response:
        """GET a path, signed by a session, or anonymously with None.

        Raises:
            Failure: there is no response, or the request cannot be signed.
        """
        return self._request("GET", path, session)

    def _request(self, method: str, path: str, session: boto3.Session | None) -> Response:
        url = self._url + path
        headers = {"Host": self._host} if self._host else {}
        try:
            if session is not None:
                signer = Signer(url, session=session, region=self._region, host=self._host)
                headers = signer.headers(method, url, None)
            response = HttpClient().request(method, url, headers=headers, limit=_TIMEOUT)
        except NotConfigured as error:
            step = "log in (`aws sso login`), or set AWS_PROFILE"
            raise Failure(str(error), step, ExitCode.AWS) from None
        except NoResponse as error:
            raise Failure(
                f"no response from the token API: {error}",
                "check the network; a private API (VpcEndpointIds) responds inside its VPC alone",
                ExitCode.AWS,
            ) from None
        return Response.of(response.status, response.headers, response.body)
