"""The certificate authorities that a deployment names: the parameter of CaBundleParameter."""

from typing import TYPE_CHECKING, Final

from botocore.exceptions import ClientError

from token_broker.errors import ConfigurationError

if TYPE_CHECKING:
    from types_boto3_ssm.client import SSMClient

_UNREADABLE: Final = {
    "AccessDeniedException": "the refresher may not read it",
    "ParameterNotFound": "there is none of this name",
}


def read_authorities(client: "SSMClient", name: str) -> str:
    """PEM certificates from Parameter Store; nothing without a name.

    Raises:
        ConfigurationError: there is no such parameter, or the role may not read it.
        ClientError: Parameter Store refused for another reason.
    """
    if not name:
        return ""
    try:
        return client.get_parameter(Name=name)["Parameter"]["Value"]
    except ClientError as error:
        why = _UNREADABLE.get(error.response["Error"]["Code"])
        if why is None:
            raise
    raise ConfigurationError(
        f"CaBundleParameter names {name}, and {why}; store the certificates there as type String"
    )
