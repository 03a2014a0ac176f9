"""Where tokens are kept: one SecureString parameter for each grant.

The store is the truth. It is read by name (`GetParameter`), never by path, so that a role
can be held to its prefix; versions are never labelled, because a labelled oldest version
makes the 101st write fail.
"""

from typing import TYPE_CHECKING

from token_broker.models import StoredToken

if TYPE_CHECKING:
    from types_boto3_ssm import SSMClient


class ParameterTokenStore:
    """Tokens in Parameter Store, under `{prefix}/{grant}`.

    Args:
        ssm: a boto3 or botocore client of Systems Manager.
        prefix: where the parameters live: begins with `/`, ends without.
        key_id: the KMS key that new values are encrypted with; a reader needs none.
    """

    def __init__(self, ssm: "SSMClient", *, prefix: str, key_id: str = "") -> None:
        self._ssm = ssm
        self._prefix = prefix
        self._key_id = key_id

    def read(self, grant: str) -> StoredToken | None:
        """The stored token of a grant, live or not; None if there is none.

        Raises:
            CorruptStoredToken: the parameter holds something else.
            botocore.exceptions.ClientError, BotoCoreError: Parameter Store said no.
        """
        try:
            answer = self._ssm.get_parameter(Name=f"{self._prefix}/{grant}", WithDecryption=True)
        except self._ssm.exceptions.ParameterNotFound:
            return None
        return StoredToken.from_json(answer["Parameter"]["Value"])

    def write(self, grant: str, token: StoredToken) -> None:
        """Replace the stored token of a grant.

        Intelligent-Tiering, because a token of many scopes may pass the standard tier's 4 KB.

        Raises:
            botocore.exceptions.ClientError, BotoCoreError: Parameter Store said no.
        """
        self._ssm.put_parameter(
            Name=f"{self._prefix}/{grant}",
            Description=f"Enable access token of the grant {grant}; written by the token broker",
            Value=token.to_json(),
            Type="SecureString",
            KeyId=self._key_id,
            Tier="Intelligent-Tiering",
            Overwrite=True,
        )
