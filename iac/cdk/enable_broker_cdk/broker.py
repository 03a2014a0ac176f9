"""The construct: the template of a release, with its zip files as assets of the CDK."""

import json
import tempfile
from dataclasses import KW_ONLY, dataclass, fields
from pathlib import Path
from typing import Any, Final

from aws_cdk import Stack, Token
from aws_cdk.aws_iam import Grant, IGrantable
from aws_cdk.aws_s3_assets import Asset
from aws_cdk.cloudformation_include import CfnInclude
from constructs import Construct

_TEMPLATE: Final = "template.json"
_OF_A_RELEASE: Final = ("ArtifactBucket", "ArtifactPrefix")
_LOCATIONS: Final = ("CodeUri", "ContentUri")
_ONLY_IN_SAM: Final = (
    ("TokenRefresherFunction", "EventInvokeConfig.DestinationConfig"),  # for failed runs alone
    ("TokenApiBasePathMapping", "Stage"),  # the stage that SAM makes
)
"""Properties that SAM takes and the CDK's types refuse: they pass by the CDK's check."""


@dataclass(frozen=True)
class BrokerParameters:
    """The template's parameters; None leaves the template's default.

    docs/deploy.md of the broker describes each, under the name in CamelCase.
    """

    _: KW_ONLY
    token_url: str | None = None
    grants_layer_arn: str | None = None
    refresh_ahead_seconds: int | None = None
    refresh_schedule: str | None = None
    refresh_interval_seconds: int | None = None
    renewal_parallelism: int | None = None
    token_cache_seconds: int | None = None
    caller_accounts: str | None = None
    caller_org_id: str | None = None
    vpc_endpoint_ids: str | None = None
    requests_per_second: int | None = None
    access_logs: bool | None = None
    domain_name: str | None = None
    certificate_arn: str | None = None
    subnet_ids: str | None = None
    security_group_ids: str | None = None
    https_proxy: str | None = None
    no_proxy: str | None = None
    ca_bundle_parameter: str | None = None
    alarm_email: str | None = None
    alarm_on_foreign_access: str | None = None
    operator_role: str | None = None
    metrics_by_grant: bool | None = None
    architecture: str | None = None

    def values(self) -> dict[str, str]:
        """Those that are set, by the template's names."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            "".join(word.capitalize() for word in name.split("_")): str(value).lower()
            if isinstance(value, bool)
            else str(value)
            for name, value in found.items()
            if value is not None
        }


class EnableTokenBroker(Construct):
    """A deployment of a release.

    The resources keep the logical ids of the template, by which `broker` finds them: one broker in
    a stack.

    Args:
        scope: a stack, or a construct of one.
        construct_id: within the scope.
        release: the folder of the release, `dist/`.
        parameters: of the template.

    Attributes:
        token_api_url: base URL of the token API.
        client_secret_arn: where the Enable credentials are to be stored.
        token_parameter_prefix: the tokens are the parameters `{prefix}/{grant}`.
        refresh_function_name: the function that renews.
        vend_function_name: the function behind the API.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        release: str | Path,
        parameters: BrokerParameters | None = None,
    ) -> None:
        super().__init__(scope, construct_id)
        template = json.loads((Path(release) / _TEMPLATE).read_text(encoding="utf-8"))
        self._use_assets(template, Path(release))
        self._template = self._include(template, (parameters or BrokerParameters()).values())
        self.token_api_url = self._output("TokenApiUrl")
        self.client_secret_arn = self._output("ClientSecretArn")
        self.token_parameter_prefix = self._output("TokenParameterPrefix")
        self.refresh_function_name = self._output("RefreshFunctionName")
        self.vend_function_name = self._output("VendFunctionName")

    def grant_read(self, principal: IGrantable, grant: str) -> Grant:
        """Let a principal get the token of a grant, and report one that Enable refused.

        Args:
            principal: a role, a user, a function.
            grant: a name of grants.toml.
        """
        stack = Stack.of(self)
        api = self._template.get_resource("TokenApi").ref
        paths = (f"GET/tokens/{grant}", f"POST/tokens/{grant}/rejection")
        arns = [
            stack.format_arn(service="execute-api", resource=api, resource_name=f"v1/{path}")
            for path in paths
        ]
        return Grant.add_to_principal(
            grantee=principal, actions=["execute-api:Invoke"], resource_arns=arns
        )

    def _use_assets(self, template: dict[str, Any], release: Path) -> None:
        """Have each artifact come from the CDK's bucket."""
        for name in _OF_A_RELEASE:
            del template["Parameters"][name]
        for logical_id, resource in template["Resources"].items():
            for name in {*_LOCATIONS} & resource.get("Properties", {}).keys():
                file = resource["Properties"][name]["Key"]["Fn::Sub"].rpartition("}")[2]
                asset = Asset(self, f"{logical_id}Zip", path=str(release / file))
                resource["Properties"][name] = {
                    "Bucket": Stack.of(self).resolve(asset.s3_bucket_name),
                    "Key": asset.s3_object_key,
                }

    def _include(self, template: dict[str, Any], values: dict[str, str]) -> CfnInclude:
        taken = {
            (logical_id, path): _take(template["Resources"][logical_id]["Properties"], path)
            for logical_id, path in _ONLY_IN_SAM
        }
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / _TEMPLATE
            file.write_text(json.dumps(template), encoding="utf-8")
            included = CfnInclude(self, "Template", template_file=str(file), parameters=values)
        for (logical_id, path), value in taken.items():
            included.get_resource(logical_id).add_property_override(path, value)
        return included

    def _output(self, name: str) -> str:
        return str(Token.as_string(self._template.get_output(name).value))


def _take(properties: dict[str, Any], path: str) -> Any:
    """Remove a property, named by its path, and return it."""
    *parents, name = path.split(".")
    for parent in parents:
        properties = properties[parent]
    return properties.pop(name)
