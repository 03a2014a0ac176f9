"""API Gateway: the resource policy of an imported definition."""

from ministack.services import apigateway_v1


def apply_resource_policies() -> None:
    """Apply `x-amazon-apigateway-policy`, not the `Policy` property alone.

    API Gateway Developer Guide, "x-amazon-apigateway-policy": the policy of an imported definition
    is the API's.
    """
    import_api = apigateway_v1._import_rest_api

    def import_with_policy(definition: dict[str, object], data: dict[str, object]) -> str:
        policy = definition.get("x-amazon-apigateway-policy")
        api_id: str = import_api(definition, {**data, "policy": data.get("policy") or policy})
        return api_id

    apigateway_v1._import_rest_api = import_with_policy
