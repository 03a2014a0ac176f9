"""Signature Version 4 for API Gateway, with the credentials of AWS's ordinary chain."""

import re
import threading
from typing import Final, Protocol
from urllib.parse import urlsplit

import botocore.session
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConfigParseError,
    InvalidConfigError,
    PartialCredentialsError,
    ProfileNotFound,
)

from enable_broker_client.errors import NoCredentials, NotConfigured
from enable_broker_client.forks import remade_in_child

# ID, ID-vpce-… (an endpoint's alias for an API) or vpce-… (any API behind an endpoint)
_EXECUTE_API_HOST: Final = re.compile(
    r"(?:([a-z0-9]+)(?:-vpce-[a-z0-9]+)?|vpce-[a-z0-9-]+)"
    r"\.execute-api\.([a-z0-9-]+)\.(?:vpce\.)?amazonaws\.com(?:\.cn)?"
)
_FAULTY_CONFIGURATION: Final = (
    ConfigParseError,
    InvalidConfigError,
    PartialCredentialsError,
    ProfileNotFound,
)


class Session(Protocol):
    """What is used of a session: both botocore's and boto3's will do."""

    def get_credentials(self) -> Credentials | None:
        """The credentials of the ordinary chain; None if it ends without any."""


class Signer:
    """Signs requests to one API.

    Args:
        url: any URL of the API; an execute-api host names the region, the API and the stage.
        session: None is botocore's own, made at the first request.
        region: what to sign for where no host tells it; None is the session's.
        host: the Host header, where it is not the URL's.
    """

    def __init__(
        self, url: str, *, session: Session | None, region: str | None, host: str | None
    ) -> None:
        names = (host or "", urlsplit(url).hostname or "")
        known = [match for match in map(_EXECUTE_API_HOST.fullmatch, names) if match]
        self.api_id = next((match[1] for match in known if match[1]), None)
        self.region = known[0][2] if known else region
        # Only an execute-api host has the stage in its path; a custom domain may have anything.
        self.stage = urlsplit(url).path.split("/")[1] if known else None
        self._given_session = self._session = session
        self._host = host
        remade_in_child(self)

    @property
    def resource(self) -> str:
        """The ARN of the API's stage, as far as it is known: `*` for what is not."""
        region, api = self.region or "*", f"{self.api_id or '*'}/{self.stage or '*'}"
        special = {"cn": "aws-cn", "us-gov": "aws-us-gov"}
        partition = special.get(region[:-2].rpartition("-")[0], "aws")
        return f"arn:{partition}:execute-api:{region}:*:{api}"

    def headers(self, method: str, url: str, body: bytes | None) -> dict[str, str]:
        """All headers of a request, the signature among them.

        Raises:
            NoCredentials: there are no credentials now.
            NotConfigured: there is no region, or the configuration is faulty.
        """
        request = AWSRequest(method, url, data=body)
        if body is not None:
            request.headers["Content-Type"] = "application/json"
        if self._host:
            request.headers["Host"] = self._host
        try:
            self._auth().add_auth(request)
        except _FAULTY_CONFIGURATION as error:
            raise NotConfigured(f"faulty AWS configuration: {error}") from error
        except (BotoCoreError, ClientError, OSError) as error:
            raise NoCredentials(f"no AWS credentials now ({type(error).__name__})") from error
        return dict(request.headers.items())

    def _auth(self) -> SigV4Auth:
        """What signs one request, with credentials that do not change meanwhile."""
        session = self._session = self._session or botocore.session.get_session()
        credentials = session.get_credentials()
        if credentials is None:
            raise NoCredentials("no AWS credentials were found")
        region = self.region = self.region or _region_of(session)
        if not region:
            raise NotConfigured("no AWS region: give TokenSource one, or set AWS_DEFAULT_REGION")
        return SigV4Auth(credentials.get_frozen_credentials(), "execute-api", region)

    def remake_in_child(self) -> None:
        """Drop what the parent's threads may have locked, and connections that it still uses."""
        session, self._session = self._session, self._given_session
        credentials = getattr(getattr(session, "_session", session), "_credentials", None)
        if credentials is not None and hasattr(credentials, "_refresh_lock"):
            credentials._refresh_lock = threading.Lock()  # noqa: SLF001  has no public way


def _region_of(session: Session) -> str | None:
    if isinstance(session, botocore.session.Session):
        region = session.get_config_variable("region")
    else:
        region = getattr(session, "region_name", None)
    return region if isinstance(region, str) else None
