"""Parameter Store: calls that name several parameters, or a path, are authorized by their ARNs."""

import json
from collections.abc import Callable
from typing import Any

from ministack.core import iam_actions
from ministack.core.responses import error_response_json
from ministack.services import ssm

from local.embedded import caller


def authorize_each_name() -> None:
    """Evaluate GetParameters and DeleteParameters for each name, GetParametersByPath for its path.

    Service Authorization Reference, "AWS Systems Manager": they have the resource type parameter.
    API Reference, GetParametersByPath: who may read a path may read all levels below it. ministack
    evaluates them against `*`, and so denies what a policy allows.
    """
    caller.remember()
    find_resource = iam_actions.extract_resource_arn

    def find_parameter(
        service: str, method: str, path: str, headers: dict[str, str], body: bytes, *where: object
    ) -> str:
        names = _names(headers, body) if service == "ssm" else []
        if names:
            return _arn(names[0])
        found: str = find_resource(service, method, path, headers, body, *where)
        return found

    iam_actions.extract_resource_arn = find_parameter
    ssm._get_parameters = _allowed("ssm:GetParameters", ssm._get_parameters)
    ssm._delete_parameters = _allowed("ssm:DeleteParameters", ssm._delete_parameters)


def _allowed(action: str, handler: Callable[[dict[str, Any]], object]) -> object:
    """A handler that also evaluates the second name and all after it."""

    def handle(request: dict[str, Any]) -> object:
        for name in request.get("Names", [])[1:]:
            if why := caller.refusal(action, _arn(name)):
                return error_response_json("AccessDeniedException", why, 400)
        return handler(request)

    return handle


def _names(headers: dict[str, str], body: bytes) -> list[str]:
    """What a request is authorized for: the first of its names, or its path."""
    try:
        request = json.loads(body or b"{}")
    except ValueError:
        return []  # refused by the service
    match headers.get("x-amz-target", "").rpartition(".")[2]:
        case "GetParameters" | "DeleteParameters":
            return list(request.get("Names", []))
        case "GetParametersByPath":
            return [request.get("Path", "/")]
    return []


def _arn(name: str) -> str:
    base, _ = ssm._split_selector(name)
    return name if base.startswith("arn:") else str(ssm._param_arn(base))
