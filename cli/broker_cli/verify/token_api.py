"""The token API as it is deployed: who is let in, from where, how often, and with what proof."""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from broker_cli.aws import CONFIG
from broker_cli.verify.result import Deployment, Failed, NotChecked, Passed, Result

STAGE: Final = "v1"
ROUTES: Final = (
    ("GET", "/grants"),
    ("POST", "/oauth2/token"),
    ("GET", "/tokens/{grant}"),
    ("POST", "/tokens/{grant}/rejection"),
)
"""Method and path of every route."""

_GRANT: Final = "deals"
_OPEN_STEP: Final = (
    "set AWS_IAM on it again, and deploy the stage: the resource policy alone is left"
)

type Policy = Mapping[str, Any]


def expected_policy(account: str, parameters: Mapping[str, str]) -> Policy:
    """The API's resource policy that the parameters ask for (docs/reach.md)."""
    accounts = [a for a in parameters.get("CallerAccounts", "").split(",") if a]
    org = parameters.get("CallerOrgId", "")
    endpoints = [e for e in parameters.get("VpcEndpointIds", "").split(",") if e]
    outside: dict[str, object] = {"aws:PrincipalAccount": [account, *accounts]}
    if org:
        outside["aws:PrincipalOrgID"] = org
    statements = [_statement("NobodyElse", "Deny", {"StringNotEquals": outside})]
    not_own = {"aws:PrincipalAccount": account}
    if accounts:
        statements.append(
            _statement("CallerAccounts", "Allow", {"StringNotEquals": not_own}, accounts)
        )
    if org:
        among = {"StringEquals": {"aws:PrincipalOrgID": org}, "StringNotEquals": not_own}
        statements.append(_statement("CallerOrg", "Allow", among))
    if endpoints:
        elsewhere = {"StringNotEquals": {"aws:SourceVpce": endpoints}}
        statements.append(_statement("OnlyThroughTheEndpoints", "Deny", elsewhere))
    return {"Version": "2012-10-17", "Statement": statements}


def _statement(
    sid: str, effect: str, condition: Mapping[str, Any], accounts: list[str] | None = None
) -> Policy:
    return {
        "Sid": sid,
        "Effect": effect,
        "Principal": {"AWS": accounts} if accounts else "*",
        "Action": "execute-api:Invoke",
        "Resource": "execute-api:/*",
        "Condition": condition,
    }


def same_policy(one: Policy, other: Policy) -> bool:
    """Whether two policies are the same but for order and for how API Gateway writes them."""
    return _normal(one) == _normal(other)


def _normal(value: object) -> object:
    match value:
        case {"AWS": "*"}:
            return "*"
        case dict():
            return {key: _normal(item) for key, item in value.items()}
        case list() if len(value) == 1:
            return _normal(value[0])
        case list():
            return sorted((_normal(item) for item in value), key=repr)
        case str():
            # API Gateway writes out the API's ARN, and an account's id as that of its root.
            whole = re.sub(r"^arn:[\w-]+:execute-api:[^:]+:[0-9]+:\w+/", "execute-api:/", value)
            return re.sub(r"^arn:[\w-]+:iam::([0-9]{12}):root$", r"\1", whole)
    return value


def policy(deployment: Deployment) -> Result:
    """The resource policy lets in whom the parameters name, and denies all others."""
    client = deployment.stack.session.client("apigateway", config=CONFIG)
    text = client.get_rest_api(restApiId=deployment.resources["TokenApi"]).get("policy", "")
    if not text:
        return Failed("there is none: anyone who has a policy of their own gets in")
    found = json.loads(text.replace('\\"', '"'))
    wanted = expected_policy(deployment.stack.account, deployment.stack.parameters)
    if not same_policy(found, wanted):
        return Failed("it is not the one that the parameters ask for")
    return Passed(f"{', '.join(s['Sid'] for s in wanted['Statement'])}, as the parameters ask")


def endpoint(deployment: Deployment) -> Result:
    """The API is private to the endpoints that the parameters name, or regional without any."""
    client = deployment.stack.session.client("apigateway", config=CONFIG)
    found = client.get_rest_api(restApiId=deployment.resources["TokenApi"])
    configuration = found["endpointConfiguration"]
    given = [e for e in deployment.stack.parameters.get("VpcEndpointIds", "").split(",") if e]
    wanted = "PRIVATE" if given else "REGIONAL"
    if "types" not in configuration:
        return NotChecked("API Gateway names no endpoint type")
    if configuration["types"] != [wanted]:
        return Failed(f"it is {', '.join(configuration['types'])}, not {wanted}")
    if {*configuration.get("vpcEndpointIds", [])} != {*given}:
        return Failed("it is private to other endpoints than VpcEndpointIds names")
    return Passed(wanted)


def throttling(deployment: Deployment) -> Result:
    """Each method is limited to RequestsPerSecond, or to the account's own limits."""
    client = deployment.stack.session.client("apigateway", config=CONFIG)
    stage = client.get_stage(restApiId=deployment.resources["TokenApi"], stageName=STAGE)
    wanted = int(deployment.stack.parameters.get("RequestsPerSecond", "0"))
    limits = {
        (settings["throttlingRateLimit"], settings["throttlingBurstLimit"])
        for settings in stage["methodSettings"].values()
        if settings.get("throttlingRateLimit", -1) >= 0
    }
    if limits != ({(wanted, wanted)} if wanted else set()):
        output = ", ".join(f"{rate:g} a second" for rate, _ in sorted(limits)) or "not limited"
        return Failed(f"it is {output}, and RequestsPerSecond is {wanted}")
    return Passed(f"{wanted} a second" if wanted else "the account's own limits")


def authorisation(deployment: Deployment) -> Result:
    """Every method asks for IAM, and every route of the broker is there."""
    client = deployment.stack.session.client("apigateway", config=CONFIG)
    found = client.get_resources(
        restApiId=deployment.resources["TokenApi"], embed=["methods"], limit=500
    )
    methods = {
        (method, resource["path"]): facts["authorizationType"]
        for resource in found["items"]
        for method, facts in resource.get("resourceMethods", {}).items()
    }
    if open_ones := [f"{m} {p}" for (m, p), kind in methods.items() if kind != "AWS_IAM"]:
        return Failed(f"no IAM on {', '.join(open_ones)}", _OPEN_STEP)
    if missing := [f"{method} {path}" for method, path in ROUTES if (method, path) not in methods]:
        return Failed(f"there is no {', '.join(missing)}")
    return Passed(f"AWS_IAM on all {len(methods)} methods")


def unsigned(deployment: Deployment) -> Result:
    """A call that nobody signed gets 403, on every route."""
    api = deployment.stack.api
    statuses = {
        f"{method} {path}": api.unsigned(method, path.format(grant=_GRANT))
        for method, path in ROUTES
    }
    if wrong := [f"{route}: {status}" for route, status in statuses.items() if status != 403]:
        return Failed(
            f"an unsigned call got another status than 403: {', '.join(wrong)}", _OPEN_STEP
        )
    return Passed(f"403 on all {len(ROUTES)} routes")
