"""KMS behind Parameter Store and Secrets Manager, in the name of the caller.

ministack keeps the value beside the id of a key, and asks neither the key nor IAM.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from ministack.core.responses import error_response_json, get_region
from ministack.services import kms, secretsmanager, ssm

from local.embedded import caller

STANDARD_TIER_BYTES: Final = 4096
"""Larger values need the advanced tier (Systems Manager User Guide, "Managing parameter tiers")."""

type Response = tuple[int, dict[str, str], bytes]


class _Refused(Exception):
    """A service may not use a key; contains the response."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


@dataclass(frozen=True, slots=True, kw_only=True)
class _Use:
    """What a service asks of a key.

    Attributes:
        service: `ssm` or `secretsmanager`.
        context: the encryption context's name for the resource.
        resource: the ARN of the parameter or secret.
        key: id, ARN or alias; empty for AWS's own key.
        unusable: the service's error for a key that is gone, disabled or pending deletion.
    """

    service: str
    context: str
    resource: str
    key: str
    unusable: str

    def check(self, actions: Iterable[str]) -> None:
        """Raise what the service would return if the caller may not, or the key cannot.

        KMS decides on the permission before it looks at the key's state.

        Raises:
            _Refused: with the service's response.
        """
        # Every principal of the account may use AWS's own keys through their services.
        if not self.key or self.key.startswith("alias/aws/"):
            return
        key = kms._resolve_key(self.key)
        arn = key["Arn"] if key else self.key
        context = {
            "kms:ViaService": f"{self.service}.{get_region()}.amazonaws.com",
            f"kms:EncryptionContext:{self.context}": self.resource,
        }
        for action in actions:
            if why := caller.refusal(action, arn, context):
                raise _Refused(error_response_json("AccessDeniedException", why, 400))
        if key is None:
            why = f"Key '{arn}' does not exist (Error Code: NotFoundException)"
            raise _Refused(error_response_json(self.unusable, why, 400))
        if kms._check_key_state(key):
            why = f"{arn} is {key['KeyState']} (Error Code: KMSInvalidStateException)"
            raise _Refused(error_response_json(self.unusable, why, 400))


def _of_parameter(resource: str, key: str) -> _Use:
    return _Use(
        service="ssm",
        context="PARAMETER_ARN",
        resource=resource,
        key=key,
        unusable="InvalidKeyId",
    )


def _of_secret(secret: dict[str, Any], unusable: str) -> _Use:
    return _Use(
        service="secretsmanager",
        context="SecretARN",
        resource=secret["ARN"],
        key=secret["KmsKeyId"] or "",
        unusable=unusable,
    )


def check_every_use() -> None:
    """Ask key and IAM for each encrypted value that is read or written.

    Systems Manager User Guide, "AWS KMS encryption for Parameter Store SecureString parameters":
    kms:Decrypt, kms:Encrypt (standard tier) and kms:GenerateDataKey (advanced), encryption context
    PARAMETER_ARN; API Reference, GetParameter and PutParameter: InvalidKeyId. Secrets Manager User
    Guide, "Secret encryption and decryption": kms:Decrypt to read, kms:GenerateDataKey and
    kms:Decrypt to write, encryption context SecretARN; API Reference: DecryptionFailure,
    EncryptionFailure. KMS Developer Guide: kms:ViaService; "Key states of AWS KMS keys".
    """
    caller.remember()
    _check_parameters()
    _check_secrets()


def _check_parameters() -> None:
    show, put, history = ssm._param_out, ssm._put_parameter, ssm._get_parameter_history
    serve = ssm.handle_request

    def show_decrypted(parameter: dict[str, Any], with_decryption: bool = False) -> object:  # noqa: FBT001, FBT002
        if with_decryption and parameter["Type"] == "SecureString":
            _of_parameter(parameter["ARN"], parameter["KeyId"]).check(["kms:Decrypt"])
        return show(parameter, with_decryption)

    def put_encrypted(request: dict[str, Any]) -> object:
        if request.get("Type") == "SecureString":
            is_advanced = len(request.get("Value", "").encode()) > STANDARD_TIER_BYTES
            is_advanced |= request.get("Tier") == "Advanced"
            action = "kms:GenerateDataKey" if is_advanced else "kms:Encrypt"
            arn = ssm._param_arn(request.get("Name", ""))
            _of_parameter(arn, request.get("KeyId", "")).check([action])
        return put(request)

    def show_history(request: dict[str, Any]) -> object:
        for version in ssm._parameter_history.get(request.get("Name")) or []:
            if request.get("WithDecryption") and version["Type"] == "SecureString":
                arn = ssm._param_arn(version["Name"])
                _of_parameter(arn, version["KeyId"]).check(["kms:Decrypt"])
        return history(request)

    async def serve_unless_refused(*request: object) -> object:
        try:
            return await serve(*request)
        except _Refused as refused:
            return refused.response

    ssm._param_out, ssm._put_parameter = show_decrypted, put_encrypted
    ssm._get_parameter_history = show_history
    ssm.handle_request = serve_unless_refused


def _check_secrets() -> None:
    def checked(
        handler: Callable[[dict[str, Any]], object], unusable: str, *actions: str
    ) -> Callable[[dict[str, Any]], object]:
        def handle(request: dict[str, Any]) -> object:
            _, secret = secretsmanager._resolve(request.get("SecretId"))
            try:
                if secret:
                    _of_secret(secret, unusable).check(actions)
            except _Refused as refused:
                return refused.response
            return handler(request)

        return handle

    secretsmanager._get_secret_value = checked(
        secretsmanager._get_secret_value, "DecryptionFailure", "kms:Decrypt"
    )
    secretsmanager._put_secret_value = checked(
        secretsmanager._put_secret_value,
        "EncryptionFailure",
        "kms:GenerateDataKey",
        "kms:Decrypt",
    )
