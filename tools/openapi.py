"""`make openapi`: the token API's contract, docs/openapi.json, made from the code that keeps it.

Routes, error codes, the fields of responses and the patterns of what is accepted are
taken from where the functions have them. Written here is only what no code says: what each
means to a caller. A route, a field or an error that is not described here ends the command.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path
from typing import Final, get_type_hints

from token_broker import grants, models
from token_broker.errors import (
    BrokerError,
    CallerNotAllowed,
    GrantBlocked,
    InvalidRequest,
    InvalidScope,
    NoFittingToken,
    NoLiveToken,
    RejectionTooSoon,
    UnknownGrant,
    UnsupportedGrantType,
)
from token_vendor import api_event, app
from token_vendor.responses import ERRORS, VendedToken, json_response
from token_vendor.vend import GrantState, GrantStatus

type Json = dict[str, object]

ROOT: Final = Path(__file__).resolve().parent.parent
FILE: Final = ROOT / "docs" / "openapi.json"
CONTRACT_VERSION: Final = "1.0.0"
"""The contract's own version; its first number is that of the stage, `v1`."""

_STATES: Final[Mapping[GrantState, str]] = {
    GrantState.LIVE: "there is a live token",
    GrantState.RENEWING: "live, and a successor is being asked for",
    GrantState.EXPIRED: "there is no live token now",
    GrantState.BLOCKED: "an operator has stopped the grant",
}

_FIELDS: Final[Mapping[type, Mapping[str, str]]] = {
    VendedToken: {
        "access_token": "For the Authorization header of calls to Enable. Secret.",
        "expires_in": "Whole seconds that the token has left now, rounded down.",
        "expires_at": "When it expires: RFC 3339, UTC, whole seconds.",
        "scope": "What it may do at Enable: scopes separated by single spaces.",
        "token_type": "How it is presented to Enable.",
    },
    GrantStatus: {
        "name": "What to put into `/tokens/{grant}`.",
        "scope": "What its token may do at Enable: scopes separated by single spaces.",
        "state": "; ".join(f"`{state.value}`: {_STATES[state]}" for state in GrantState) + ".",
        "seconds_left": "Whole seconds that its token has left; 0 without one.",
    },
}
"""What each field of a response means."""

_CODES: Final[Mapping[str, str]] = {
    "invalid_request": "the request is malformed; `error_description` says how",
    "unsupported_grant_type": "`grant_type` is not client_credentials",
    "invalid_scope": "no grant of exactly this scope names this caller",
    "access_denied": "the grant names its callers, and not this one",
    "unknown_grant": "there is no such grant",
    "slow_down": "the reported token is less than a minute old",
    "temporarily_unavailable": (
        "there is no live token that will do, it cannot be read now, or the grant is blocked"
    ),
}
"""What each `error` code of `ERRORS` means."""

_GATEWAY: Final[Mapping[int, str]] = {
    403: "API Gateway: IAM does not allow it, or the signature is missing or wrong",
    429: "API Gateway: too many requests",
}
"""What API Gateway may return for any operation before the function runs."""

_RETRIED: Final = frozenset({429, 503})
"""The broker's refusals that say when to ask again."""

_FAULT: Final = NoLiveToken
"""Any operation may fail for a fault of the broker, which looks as this does."""


def _schema(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(**properties: Json) -> Json:
    return {"type": "object", "required": [*properties], "properties": properties}


def _string(pattern: str, **more: object) -> Json:
    return {"type": "string", "pattern": f"^{pattern}$", **more}


_SCOPE_TOKEN: Final = models._SCOPE_TOKEN.pattern
_SCOPE: Final = _string(f"{_SCOPE_TOKEN}( {_SCOPE_TOKEN})*", examples=["read:deals read:users"])
_FINGERPRINT: Final = _string(
    api_event._FINGERPRINT.pattern,
    description="A token's fingerprint: the first 12 hex digits of its SHA-256.",
    examples=["0123456789ab"],
)
_MOMENT: Final = _string(
    "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z", format="date-time"
)
_TYPES: Final[Mapping[object, Json]] = {
    str: {"type": "string"},
    int: {"type": "integer", "minimum": 0},
    datetime: _MOMENT,
    tuple[str, ...]: _SCOPE,
}
"""How the fields of a response are written in JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Operation:
    """What one route means.

    Attributes:
        name: the operationId.
        summary: a line of plain text.
        about: more, as Markdown.
        responses: description and schema of each success, by status.
        errors: which of `ERRORS` it may return.
        query: its query parameters: description and schema, by name.
        body: description, content type and schema of the body that it wants.
    """

    name: str
    summary: str
    about: str
    responses: Mapping[int, tuple[str, Json]]
    errors: tuple[type[BrokerError], ...]
    query: Mapping[str, tuple[str, Json]] = field(default_factory=dict)
    body: tuple[str, str, Json] | None = None


_OPERATIONS: Final[Mapping[tuple[object, object], _Operation]] = {
    ("GET", "/tokens/{grant}"): _Operation(
        name="getToken",
        summary="A live token of a grant",
        about="IAM decides by the path who may have it, then the grant's `callers` if it has any.",
        responses={200: ("A live token.", _schema("VendedToken"))},
        errors=(
            InvalidRequest,
            CallerNotAllowed,
            UnknownGrant,
            NoLiveToken,
            NoFittingToken,
            GrantBlocked,
        ),
        query={
            "min_ttl": (
                "Seconds that the token must still have, else 503. At most once, digits only.",
                {"type": "integer", "minimum": 0, "default": 0},
            ),
            "other_than": (
                "A token's fingerprint: not that one again, but 503 until there is another.",
                _FINGERPRINT,
            ),
        },
    ),
    ("POST", "/tokens/{grant}/rejection"): _Operation(
        name="reportRejection",
        summary="Enable refused this token",
        about="Who may have a grant's token, and may call this path, may report that it is dead.",
        responses={
            200: (
                "It is no longer the current one: ask for a token.",
                _object(status={"const": "replaced"}),
            ),
            202: (
                "It is current, and its grant is being renewed: ask with `other_than`.",
                _object(status={"const": "renewing"}),
            ),
        },
        errors=(InvalidRequest, CallerNotAllowed, UnknownGrant, RejectionTooSoon, GrantBlocked),
        body=(
            f"At most {api_event.MAX_BODY_CHARS} characters; other members are not looked at.",
            "application/json",
            _object(fingerprint=_FINGERPRINT),
        ),
    ),
    ("GET", "/grants"): _Operation(
        name="listGrants",
        summary="The grants open to the caller",
        about="As far as their `callers` decide it; IAM may allow fewer. Contains no token.",
        responses={
            200: (
                "The grants, in the order of grants.toml.",
                _object(grants={"type": "array", "items": _schema("GrantStatus")}),
            )
        },
        errors=(),
    ),
    ("POST", "/oauth2/token"): _Operation(
        name="requestToken",
        summary="A live token of the grant with exactly this scope",
        about=(
            "The client-credentials request of RFC 6749 section 4.4.2, for code that asks Enable "
            "itself today: it keeps its request and signs it. Only for grants whose `callers` name "
            "the caller, because IAM cannot tell one scope from another here."
        ),
        responses={200: ("A live token.", _schema("VendedToken"))},
        errors=(InvalidRequest, UnsupportedGrantType, InvalidScope, NoLiveToken, GrantBlocked),
        body=(
            f"At most {api_event.MAX_BODY_CHARS} characters; other fields are not looked at.",
            api_event._FORM,
            _object(
                grant_type={"type": "string", "const": "client_credentials"},
                scope={
                    "description": "Scopes separated by single spaces, in any order.",
                    **_SCOPE,
                },
            ),
        ),
    ),
}


def document() -> Json:
    """The whole contract.

    Raises:
        KeyError: the code has a route, a field, a field's type or an error code of which
            nothing stands here.
    """
    paths: dict[str, Json] = {}
    for method, path in app._ROUTES:
        operation = _operation(str(path), _OPERATIONS[method, path])
        paths.setdefault(str(path), {})[str(method).lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Enable token broker",
            "version": CONTRACT_VERSION,
            "license": {"name": "MIT", "identifier": "MIT"},
            "description": (
                "Live Enable API tokens for IAM-authorised callers. Every request is signed with "
                "Signature Version 4 for the service `execute-api`; a policy allows "
                "`execute-api:Invoke` on `…/v1/GET/tokens/{grant}`, one grant at a time.\n\n"
                "The broker's own errors are OAuth-shaped (RFC 6749 section 5.2), with `error` and "
                "`error_description`. What API Gateway refuses by itself, it refuses with a "
                "`message` and no `error`: an unsigned, wrongly signed or unauthorised request "
                "and an unknown path or method (403), a burst (429), a body of more than 10 MB "
                "(413) and, should the function crash or hang, 502 or 504."
            ),
        },
        "servers": [
            {
                "url": "https://{api}.execute-api.{region}.amazonaws.com/v1",
                "description": "The stack's output TokenApiUrl.",
                "variables": {"api": {"default": "api-id"}, "region": {"default": "eu-west-1"}},
            }
        ],
        "security": [{"sigv4": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "sigv4": {
                    "type": "apiKey",
                    "name": "Authorization",
                    "in": "header",
                    "description": "AWS Signature Version 4, service `execute-api`.",
                    "x-amazon-apigateway-authtype": "awsSigv4",
                }
            },
            "schemas": {
                **{record.__name__: _record(record) for record in _FIELDS},
                "Error": _error(),
                "GatewayRefusal": _gateway_refusal(),
            },
        },
    }


def _record(record: type) -> Json:
    """The schema of a dataclass that is returned as JSON."""
    hints, about = get_type_hints(record), _FIELDS[record]
    properties: dict[str, Json] = {}
    for entry in fields(record):
        kind = hints[entry.name]
        schema = _TYPES.get(kind)
        if isinstance(kind, type) and issubclass(kind, StrEnum):
            schema = {"type": "string", "enum": [member.value for member in kind]}
        elif isinstance(entry.default, str):
            schema = {"type": "string", "const": entry.default}
        properties[entry.name] = {"description": about[entry.name], **(schema or _TYPES[kind])}
    return _object(**properties)


def _error() -> Json:
    codes = dict.fromkeys(code for _, code in ERRORS.values())
    meanings = "; ".join(f"`{code}`: {_CODES[code]}" for code in codes)
    return _object(
        error={"type": "string", "enum": [*codes], "description": f"{meanings}."},
        error_description={"type": "string", "description": "For people; may change."},
    )


def _gateway_refusal() -> Json:
    return {
        "description": "API Gateway's own; IAM's refusals spell it `Message`.",
        "type": "object",
        "properties": {"message": {"type": "string"}, "Message": {"type": "string"}},
        "anyOf": [{"required": ["message"]}, {"required": ["Message"]}],
        "not": {"required": ["error"]},
    }


def _operation(path: str, operation: _Operation) -> Json:
    output: Json = {
        "operationId": operation.name,
        "summary": operation.summary,
        "description": operation.about,
        "parameters": [
            *_path_parameters(path),
            *(
                {"name": name, "in": "query", "description": about, "schema": schema}
                for name, (about, schema) in operation.query.items()
            ),
        ],
        "responses": {
            str(status): response for status, response in sorted(_responses(operation).items())
        },
    }
    if operation.body:
        about, content_type, schema = operation.body
        output["requestBody"] = {
            "description": about,
            "required": True,
            "content": {content_type: {"schema": schema}},
        }
    return output


def _path_parameters(path: str) -> list[Json]:
    if "{grant}" not in path:
        return []
    return [
        {
            "name": "grant",
            "in": "path",
            "required": True,
            "description": "A grant of grants.toml.",
            "schema": _string(grants._NAME.pattern, examples=["deals"]),
        }
    ]


def _responses(operation: _Operation) -> dict[int, Json]:
    responses = {
        status: _response(about, schema) for status, (about, schema) in operation.responses.items()
    }
    errors: dict[int, list[type[BrokerError]]] = {status: [] for status in _GATEWAY}
    for error in dict.fromkeys((*operation.errors, _FAULT)):
        errors.setdefault(ERRORS[error][0], []).append(error)
    return responses | {status: _refusal(status, errors[status]) for status in errors}


def _refusal(status: int, errors: list[type[BrokerError]]) -> Json:
    codes = [*dict.fromkeys(ERRORS[error][1] for error in errors)]
    meanings = [f"`{code}`: {_CODES[code]}" for code in codes]
    kinds: list[Json] = []
    if codes:
        kinds.append({"allOf": [_schema("Error"), {"properties": {"error": {"enum": codes}}}]})
    if status in _GATEWAY:
        meanings.append(_GATEWAY[status])
        kinds.append(_schema("GatewayRefusal"))
    return _response(
        f"{HTTPStatus(status).phrase}. {'; '.join(meanings)}.",
        kinds[0] if len(kinds) == 1 else {"oneOf": kinds},
        is_ours=status not in _GATEWAY,
        may_retry=bool(codes) and status in _RETRIED,
    )


def _response(about: str, schema: Json, *, is_ours: bool = True, may_retry: bool = False) -> Json:
    """A response.

    Args:
        about: its description.
        schema: of its body.
        is_ours: only the function returns it, so that its headers are always there.
        may_retry: it says when to ask again.
    """
    headers: Json = {
        name: {
            "description": "No cache keeps a response.",
            "required": is_ours,
            "schema": {"type": "string", "const": value},
        }
        for name, value in _FIXED_HEADERS.items()
    }
    if may_retry:
        headers["Retry-After"] = {
            "description": "Seconds after which to ask again.",
            "required": is_ours,
            "schema": {"type": "integer", "minimum": 1},
        }
    return {
        "description": about,
        "headers": headers,
        "content": {"application/json": {"schema": schema}},
    }


def _fixed_headers() -> Mapping[str, str]:
    """What every response of the function carries, the content type aside."""
    headers = json_response(200, "")["headers"]
    if not isinstance(headers, dict):
        raise TypeError("a response without headers")
    return {name: value for name, value in headers.items() if name != "Content-Type"}


_FIXED_HEADERS: Final = _fixed_headers()


def text() -> str:
    """What docs/openapi.json contains."""
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
    print(f"wrote {FILE.relative_to(ROOT)}")
