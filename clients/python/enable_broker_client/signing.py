"""Signature Version 4 for API Gateway, with the credentials of AWS's ordinary chain."""

import re
from typing import Final, Protocol
from urllib.parse import urlsplit

import botocore.session
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, ClientError

from enable_broker_client.errors import NotConfigured

_EXECUTE_API_HOST: Final = re.compile(
    r"([a-z0-9-]+)\.execute-api\.([a-z0-9-]+)\.(?:vpce\.)?amazonaws\.com(?:\.cn)?"
)


class Session(Protocol):
    """What is used of a session: both botocore's and boto3's will do."""

    def get_credentials(self) -> Credentials | None:
        """The credentials of the ordinary chain; None if it ends without any."""


class Signer:
    """Signs requests to one API.

    Args:
        url: any URL of the API; an execute-api host names the region.
        session: None is botocore's own, made at the first request.
        region: what to sign for where no host tells it; None is the session's.
        host: the Host header, where it is not the URL's.
    """

    def __init__(
        self, url: str, *, session: Session | None, region: str | None, host: str | None
    ) -> None:
        names = (host or "", urlsplit(url).hostname or "")
        known = next(filter(None, map(_EXECUTE_API_HOST.fullmatch, names)), None)
        self.api_id = known[1] if known else "*"
        self.region = known[2] if known else region
        self._session = session
        self._host = host

    def headers(self, method: str, url: str, body: bytes | None) -> dict[str, str]:
        """All headers of a request, the signature among them.

        Raises:
            NotConfigured: there are no credentials now, or no region.
        """
        request = AWSRequest(method, url, data=body)
        if body is not None:
            request.headers["Content-Type"] = "application/json"
        if self._host:
            request.headers["Host"] = self._host
        try:
            self._auth().add_auth(request)
        except (BotoCoreError, ClientError) as error:
            raise NotConfigured(f"no AWS credentials now ({type(error).__name__})") from error
        return dict(request.headers.items())

    def _auth(self) -> SigV4Auth:
        """What signs one request, with credentials that do not change meanwhile."""
        session = self._session = self._session or botocore.session.get_session()
        credentials = session.get_credentials()
        if credentials is None:
            raise NotConfigured("no AWS credentials were found")
        region = self.region = self.region or _region_of(session)
        if not region:
            raise NotConfigured("no AWS region: give TokenSource one, or set AWS_DEFAULT_REGION")
        return SigV4Auth(credentials.get_frozen_credentials(), "execute-api", region)


def _region_of(session: Session) -> str | None:
    if isinstance(session, botocore.session.Session):
        region = session.get_config_variable("region")
    else:
        region = getattr(session, "region_name", None)
    return region if isinstance(region, str) else None
