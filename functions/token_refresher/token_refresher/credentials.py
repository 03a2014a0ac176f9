"""The client secret: read once per run and connection that has something to renew, never kept."""

from collections.abc import Iterator
from dataclasses import KW_ONLY, asdict, dataclass, field
from typing import TYPE_CHECKING, Final

from pydantic import TypeAdapter

from token_broker.errors import ConfigurationError
from token_refresher.enable.models import TokenRequest
from token_refresher.enable.validation import validate_json

if TYPE_CHECKING:
    from types_boto3_secretsmanager import SecretsManagerClient

PLACEHOLDER: Final = "REPLACE-ME"
"""What the template writes into each field of a new secret."""

CURRENT: Final = "AWSCURRENT"
FALLBACK_STAGES: Final = ("AWSPENDING", "AWSPREVIOUS")
"""The other versions, in the order in which they are requested with."""


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """What Enable hands out with API access: three opaque, non-empty strings.

    Raises:
        ValueError: a field is empty or still contains the placeholder.
    """

    _: KW_ONLY
    client_id: str
    client_secret: str = field(repr=False)
    dealtrack_registration_id: str

    def __post_init__(self) -> None:
        """Check what types alone cannot say."""
        values = asdict(self)
        if unfilled := [name for name, value in values.items() if value == PLACEHOLDER]:
            raise ValueError(f"the secret has not been filled in yet: {', '.join(unfilled)}")
        if empty := [name for name, value in values.items() if not value]:
            raise ValueError(f"empty: {', '.join(empty)}")

    @property
    def padded(self) -> tuple[str, ...]:
        """The fields whose first or last character is white space, or does not print."""
        ends = {name: (value[0], value[-1]) for name, value in asdict(self).items()}
        return tuple(
            name
            for name, pair in ends.items()
            if any(end.isspace() or not end.isprintable() for end in pair)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretVersion:
    """One version of a connection's secret.

    Attributes:
        version_id: Secrets Manager's id of it.
        stage: the staging label it was read by.
    """

    version_id: str
    stage: str
    credentials: ClientCredentials

    def request(self, scope: tuple[str, ...]) -> TokenRequest:
        """The token request for a scope."""
        return TokenRequest(
            client_id=self.credentials.client_id,
            client_secret=self.credentials.client_secret,
            dealtrack_registration_id=self.credentials.dealtrack_registration_id,
            scope=scope,
        )


_ADAPTER: Final = TypeAdapter(ClientCredentials)


class SecretReader:
    """Secrets of connections, each under `{prefix}{connection}`.

    Args:
        secrets: a boto3 or botocore client of Secrets Manager.
        prefix: the beginning of every secret's name, such as `my-stack/connections/`.
    """

    def __init__(self, secrets: "SecretsManagerClient", *, prefix: str) -> None:
        self._secrets = secrets
        self._prefix = prefix

    def connection_of(self, secret: str) -> str | None:
        """Which connection a secret's ARN or name belongs to; None if it is not ours.

        An ARN ends in the name, a hyphen and six characters of Secrets Manager's own.
        """
        is_arn = secret.startswith("arn:")
        name = secret.rpartition(":")[2].rpartition("-")[0] if is_arn else secret
        if not name.startswith(self._prefix):
            return None
        return name.removeprefix(self._prefix)

    def versions(self, connection: str) -> Iterator[SecretVersion]:
        """A secret's current version, then the pending and the previous one, if they differ.

        Each is read when it is asked for. A fallback that is malformed or unreadable is passed
        over: the refusal of the current version is what is reported.

        Raises:
            As `read`, for the current version.
        """
        seen = set()
        for stage in (CURRENT, *FALLBACK_STAGES):
            try:
                version = self.read(connection, stage)
            except Exception:
                if stage == CURRENT:
                    raise
                continue
            if version is not None and version.version_id not in seen:
                seen.add(version.version_id)
                yield version

    def read(self, connection: str, stage: str = CURRENT) -> SecretVersion | None:
        """Read a secret's version by its staging label; None if there is no such version.

        Raises:
            ConfigurationError: the secret is not the JSON object it should be, is unfilled,
                or does not exist at all.
            botocore.exceptions.ClientError, BotoCoreError: Secrets Manager refused it.
        """
        name = f"{self._prefix}{connection}"
        try:
            response = self._secrets.get_secret_value(SecretId=name, VersionStage=stage)
        except self._secrets.exceptions.ResourceNotFoundException:
            if stage != CURRENT:
                return None
            raise ConfigurationError(
                f"the secret {name} does not exist; create it with the stack's key"
            ) from None
        text = response.get("SecretString")
        if text is None:
            raise ConfigurationError(f"the secret {name} is binary; store the JSON as text")
        try:
            credentials = validate_json(_ADAPTER, text)
        except ValueError as error:
            fault = str(error)
        else:
            return SecretVersion(
                version_id=response["VersionId"], stage=stage, credentials=credentials
            )
        raise ConfigurationError(
            f"the secret {name}: {fault}. Store a JSON object with client_id, client_secret "
            "and dealtrack_registration_id"
        )
