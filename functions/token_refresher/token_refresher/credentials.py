"""The client secret: read once per run that has something to renew, and never kept."""

from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Final

from pydantic import TypeAdapter

from token_broker.errors import ConfigurationError
from token_broker.models import TokenRequest
from token_refresher.validation import validate_json

if TYPE_CHECKING:
    from types_boto3_secretsmanager import SecretsManagerClient

PLACEHOLDER: Final = "REPLACE-ME"
"""What the template writes into each field of a new secret."""


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """What Enable hands out with API access: three opaque, non-empty strings.

    Raises:
        ValueError: a field is empty or still holds the placeholder.
    """

    _: KW_ONLY
    client_id: str
    client_secret: str = field(repr=False)
    dealtrack_registration_id: str

    def __post_init__(self) -> None:
        """Check what types alone cannot say."""
        values = {
            "client_id": self.client_id,
            "client_secret": self.client_secret,
            "dealtrack_registration_id": self.dealtrack_registration_id,
        }
        if unfilled := [name for name, value in values.items() if value == PLACEHOLDER]:
            raise ValueError(f"the secret has not been filled in yet: {', '.join(unfilled)}")
        if empty := [name for name, value in values.items() if not value]:
            raise ValueError(f"empty: {', '.join(empty)}")

    def request(self, scope: tuple[str, ...]) -> TokenRequest:
        """The token request for a scope."""
        return TokenRequest(
            client_id=self.client_id,
            client_secret=self.client_secret,
            dealtrack_registration_id=self.dealtrack_registration_id,
            scope=scope,
        )


_ADAPTER: Final = TypeAdapter(ClientCredentials)


def read_credentials(secrets: "SecretsManagerClient", secret_arn: str) -> ClientCredentials:
    """Read the current version of a secret.

    Raises:
        ConfigurationError: the secret is not the JSON object it should be, or is unfilled.
        botocore.exceptions.ClientError, BotoCoreError: Secrets Manager said no.
    """
    answer = secrets.get_secret_value(SecretId=secret_arn)
    text = answer.get("SecretString")
    if text is None:
        raise ConfigurationError(f"{secret_arn} holds binary data; store the JSON as text")
    try:
        return validate_json(_ADAPTER, text)
    except ValueError as error:
        raise ConfigurationError(
            f"{secret_arn}: {error}. Store a JSON object with client_id, client_secret "
            "and dealtrack_registration_id"
        ) from None
