"""Where tokens are kept: one SecureString parameter for each grant.

The store is the truth. It is read by name (`GetParameter`), never by path, so that a role
can be held to its prefix; versions are never labelled, because a labelled oldest version
makes the 101st write fail.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from token_broker.errors import GrantBlocked
from token_broker.models import StoredToken

if TYPE_CHECKING:
    from types_boto3_ssm import SSMClient

BLOCKED: Final = "Blocked: "
"""Begins the description of a parameter that holds a block; the operator's reason follows."""


class ParameterTokenStore:
    """Tokens in Parameter Store, under `{prefix}/{grant}`.

    Args:
        ssm: a boto3 or botocore client of Systems Manager.
        writer: another one for writes, with more patience; by default the same.
        prefix: where the parameters live: begins with `/`, ends without.
        key_id: the KMS key that new values are encrypted with; a reader needs none.

    Attributes:
        key_id: as given.
    """

    def __init__(
        self,
        ssm: "SSMClient",
        *,
        prefix: str,
        key_id: str = "",
        writer: "SSMClient | None" = None,
    ) -> None:
        self._ssm = ssm
        self._writer = writer or ssm
        self._prefix = prefix
        self.key_id = key_id

    def read(self, grant: str) -> StoredToken | None:
        """The stored token of a grant, live or not; None if there is none.

        Raises:
            GrantBlocked: an operator has put a block in its place.
            CorruptStoredToken: the parameter holds something else.
            botocore.exceptions.ClientError, BotoCoreError: Parameter Store said no.
        """
        return self._read(f"{self._prefix}/{grant}")

    def replace(
        self,
        grant: str,
        token: StoredToken,
        *,
        replaced: StoredToken | None,
        is_better_than_any: bool = False,
    ) -> StoredToken:
        """Store a token, unless another run has meanwhile stored one that expires later.

        Parameter Store has no conditional write. So the write's version tells whether
        somebody else wrote between the read of `replaced` and this write; if so, a block or
        the token that expires later is put back.

        Args:
            grant: whose token it is.
            token: the new one.
            replaced: what was stored when this run looked; None if nothing was.
            is_better_than_any: even one that expires later shall not stay.

        Returns:
            The token that is stored now.

        Raises:
            GrantBlocked: an operator has put a block there meanwhile; it stands again.
            botocore.exceptions.ClientError, BotoCoreError: Parameter Store said no.
        """
        version = self.write(grant, token)
        expected = replaced.parameter_version + 1 if replaced else 1
        if version == expected:
            return token
        try:
            between = self._read(f"{self._prefix}/{grant}:{version - 1}")
        except GrantBlocked as block:
            self.block(grant, block)
            raise
        except Exception:  # corrupt or unreadable: the new token is stored, and that is good
            between = None
        if is_better_than_any or between is None or set(between.scope) != set(token.scope):
            return token
        if between.expires_at <= token.expires_at:
            return token
        return self.replace(grant, between, replaced=replace(token, parameter_version=version))

    def write(self, grant: str, token: StoredToken) -> int:
        """Replace the stored token of a grant, whatever it is.

        Intelligent-Tiering, because a token of many scopes may pass the standard tier's 4 KB.

        Returns:
            The parameter's new version.

        Raises:
            botocore.exceptions.ClientError, BotoCoreError: Parameter Store said no.
        """
        return self._put(
            grant,
            token.to_json(),
            f"Enable access token of the grant {grant}; written by the token broker",
        )

    def block(self, grant: str, block: GrantBlocked) -> int:
        """Put a block in the place of a grant's token.

        Returns:
            The parameter's new version.

        Raises:
            botocore.exceptions.ClientError, BotoCoreError: Parameter Store said no.
        """
        return self._put(grant, block.record, f"{BLOCKED}{block.reason}")

    def _put(self, grant: str, value: str, description: str) -> int:
        return self._writer.put_parameter(
            Name=f"{self._prefix}/{grant}",
            Description=description,
            Value=value,
            Type="SecureString",
            KeyId=self.key_id,
            Tier="Intelligent-Tiering",
            Overwrite=True,
        )["Version"]

    def _read(self, name: str) -> StoredToken | None:
        try:
            parameter = self._ssm.get_parameter(Name=name, WithDecryption=True)["Parameter"]
        except (
            self._ssm.exceptions.ParameterNotFound,
            self._ssm.exceptions.ParameterVersionNotFound,
        ):
            return None
        return StoredToken.from_json(parameter["Value"], parameter_version=parameter["Version"])
