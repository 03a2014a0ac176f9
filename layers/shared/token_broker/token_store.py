"""Where tokens are kept: one SecureString parameter for each grant.

The store is the truth. It is read by name, never by path, so that a role
can be held to its prefix; versions are never labelled, because a labelled oldest version
makes the 101st write fail.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from token_broker.aws import describe_fault
from token_broker.errors import GrantBlocked
from token_broker.models import Blocked, Stored, StoredToken, Unreadable, stored_state
from token_broker.versions import written_between

if TYPE_CHECKING:
    from types_boto3_ssm import SSMClient
    from types_boto3_ssm.type_defs import ParameterTypeDef

UNREADABLE_CODES: Final = frozenset({"InvalidKeyId", "AccessDeniedException"})
"""How `GetParameter` refuses what no later run can read unless a person acts.

Parameter Store reports a key that is deleted, pending deletion or disabled as `InvalidKeyId`, and a
role that may not use the key as `AccessDeniedException` (API_GetParameter, "Errors", and "Common
errors"; the message quotes KMS's own code).
"""

BLOCKED: Final = "Blocked: "
"""Begins the description of a parameter that contains a block; the operator's reason follows."""


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

    def name(self, grant: str) -> str:
        """The parameter of a grant."""
        return f"{self._prefix}/{grant}"

    def read(self, grant: str) -> StoredToken | None:
        """The stored token of a grant, live or not; None if there is none.

        A block stands also under a token whose writer did not notice it.

        Raises:
            GrantBlocked: an operator has put a block in its place.
            CorruptStoredToken: the parameter contains something else.
            botocore.exceptions.ClientError, BotoCoreError: Parameter Store refused.
        """
        parameter = self._get(self.name(grant))
        if parameter is None:
            return None
        token = StoredToken.from_json(parameter["Value"], parameter_version=parameter["Version"])
        if block := self._block_under(grant, token):
            raise GrantBlocked(block.reason, block.record)
        return token

    def state(self, grant: str) -> Stored:
        """What is stored for a grant.

        Raises:
            botocore.exceptions.ClientError, BotoCoreError: Parameter Store refused, for another
                reason than a parameter that cannot be decrypted.
        """
        return self.checked(grant, self._state(self.name(grant)))

    def checked(self, grant: str, stored: Stored) -> Stored:
        """What is stored for a grant, given what its parameter contains.

        A block under a token is put back: the run that overwrote it was killed before it could.

        Raises:
            botocore.exceptions.ClientError, BotoCoreError: Parameter Store refused, for another
                reason than a parameter that cannot be decrypted.
        """
        if not isinstance(stored, StoredToken):
            return stored
        block = self._block_under(grant, stored)
        return self._put_back(grant, block) if block else stored

    def replace(
        self,
        grant: str,
        token: StoredToken,
        *,
        seen: Stored,
        is_restored: Callable[[StoredToken, StoredToken], bool],
    ) -> StoredToken | Blocked:
        """Store a token, unless another run or an operator has meanwhile stored what stays.

        The versions between `seen` and this write tell what this write has overwritten
        (`versions.written_between`). A block is always put back; so is the best token that
        stays.

        Args:
            grant: whose token it is.
            token: the new one.
            seen: what was stored when this run read it.
            is_restored: whether an overwritten token stays instead of the new one.

        Returns:
            What is stored now: a token or a block.

        Raises:
            botocore.exceptions.ClientError, BotoCoreError: Parameter Store refused.
        """
        follows = _version(seen)
        written = self.write(grant, replace(token, follows=follows))
        between = written_between(
            lambda version: self._overwritten(f"{self.name(grant)}:{version}"),
            seen=follows,
            written=written,
        )
        if block := _last_block(between):
            return self._put_back(grant, block)
        best = token
        for other in between:
            is_same_scope = isinstance(other, StoredToken) and set(other.scope) == set(token.scope)
            if isinstance(other, StoredToken) and is_same_scope and is_restored(other, best):
                best = other
        if best is token:
            return token
        ours = replace(token, parameter_version=written)
        return self.replace(grant, best, seen=ours, is_restored=is_restored)

    def write(self, grant: str, token: StoredToken) -> int:
        """Replace the stored token of a grant, whatever it is.

        Intelligent-Tiering, because a token of many scopes may pass the standard tier's 4 KB.

        Returns:
            The parameter's new version.

        Raises:
            botocore.exceptions.ClientError, BotoCoreError: Parameter Store refused it.
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
            botocore.exceptions.ClientError, BotoCoreError: Parameter Store refused it.
        """
        return self._put(grant, block.record, f"{BLOCKED}{block.reason}")

    def _put(self, grant: str, value: str, description: str) -> int:
        return self._writer.put_parameter(
            Name=self.name(grant),
            Description=description,
            Value=value,
            Type="SecureString",
            KeyId=self.key_id,
            Tier="Intelligent-Tiering",
            Overwrite=True,
        )["Version"]

    def _put_back(self, grant: str, block: Blocked) -> Blocked:
        self.block(grant, GrantBlocked(block.reason, block.record))
        return block

    def _block_under(self, grant: str, token: StoredToken) -> Blocked | None:
        """A block that was set between the version that a token follows and the token's own."""
        if token.follows is None:
            return None
        return _last_block(
            written_between(
                lambda version: self._state(f"{self.name(grant)}:{version}"),
                seen=token.follows,
                written=token.parameter_version,
            )
        )

    def _overwritten(self, name: str) -> Stored:
        """A version that was overwritten; None if it cannot be read: the new token stands."""
        try:
            return self._state(name)
        except Exception:
            return None

    def _state(self, name: str) -> Stored:
        try:
            parameter = self._get(name)
        except self._ssm.exceptions.ClientError as error:
            code, cause = describe_fault(error)
            if code in UNREADABLE_CODES:
                return Unreadable(cause=cause)
            raise
        return stored_state(parameter["Value"], parameter["Version"]) if parameter else None

    def _get(self, name: str) -> "ParameterTypeDef | None":
        try:
            return self._ssm.get_parameter(Name=name, WithDecryption=True)["Parameter"]
        except (
            self._ssm.exceptions.ParameterNotFound,
            self._ssm.exceptions.ParameterVersionNotFound,
        ):
            return None


def _last_block(between: Sequence[Stored]) -> Blocked | None:
    return next((state for state in reversed(between) if isinstance(state, Blocked)), None)


def _version(seen: Stored) -> int | None:
    match seen:
        case None:
            return 0
        case Unreadable():
            return None
    return seen.parameter_version
