"""Reads API Gateway's REST proxy events (payload 1.0) as untrusted input."""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Final
from urllib.parse import parse_qsl

from token_broker.errors import CallerNotAllowed, InvalidRequest, UnknownGrant, UnsupportedGrantType

MAX_BODY_CHARS: Final = 8_192
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{12}")
_FORM: Final = "application/x-www-form-urlencoded"


def at(value: object, *path: str) -> object:
    """What lies at a path of nested JSON objects; None where the path ends early."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def route(event: object) -> tuple[str, str]:
    """The method and the resource, as the template's API names it: ("GET", "/grants").

    Each is empty where the event does not say.
    """
    method, resource = at(event, "httpMethod"), at(event, "resource")
    return (
        method if isinstance(method, str) else "",
        resource if isinstance(resource, str) else "",
    )


def caller_arn(event: object) -> str:
    """Who signed the request; without a signature nothing is vended.

    Raises:
        CallerNotAllowed: the event did not pass API Gateway's IAM authorisation.
    """
    arn = at(event, "requestContext", "identity", "userArn")
    if not isinstance(arn, str) or not arn:
        raise CallerNotAllowed
    return arn


def grant(event: object, *, suffix: str = "") -> str:
    """The grant that IAM authorised the caller for: a segment of the path.

    A wildcard policy such as `tokens/d*` also lets `tokens/deals/` through, so the path
    and the path parameter must agree exactly.

    Raises:
        UnknownGrant: they do not.
    """
    name, path = at(event, "pathParameters", "grant"), at(event, "path")
    if not isinstance(name, str) or not isinstance(path, str):
        raise UnknownGrant
    if not path.endswith(f"/tokens/{name}{suffix}"):
        raise UnknownGrant
    return name


def min_ttl(event: object) -> timedelta:
    """The `min_ttl` query parameter, in seconds; zero without one.

    Raises:
        InvalidRequest: it is not one whole number, zero or more.
    """
    value = _query(event, "min_ttl")
    if value is None:
        return timedelta()
    if not (value.isascii() and value.isdigit()):
        raise InvalidRequest("min_ttl is not a whole number of seconds, zero or more")
    digits = value.lstrip("0")
    return timedelta(seconds=int(digits or "0") if len(digits) < 10 else 999_999_999)


def other_than(event: object) -> str:
    """The `other_than` query parameter: a fingerprint; empty without one.

    Raises:
        InvalidRequest: it is not one fingerprint.
    """
    value = _query(event, "other_than")
    return "" if value is None else _fingerprint(value, "other_than")


def rejected_fingerprint(event: object) -> str:
    """The `fingerprint` of a rejection's JSON body.

    Raises:
        InvalidRequest: the body is something else.
    """
    try:
        document = json.loads(_body(event))
    except (ValueError, RecursionError):
        raise InvalidRequest("the body is not JSON") from None
    return _fingerprint(at(document, "fingerprint"), "fingerprint")


def requested_scope(event: object) -> frozenset[str]:
    """The scope of a client-credentials form (RFC 6749 section 4.4.2).

    Other fields, such as the client_secret that existing code sends, are ignored.

    Raises:
        InvalidRequest: not a form, or `grant_type` or `scope` is not there exactly once.
        UnsupportedGrantType: another grant type.
    """
    if str(_header(event, "content-type")).split(";")[0].strip().lower() != _FORM:
        raise InvalidRequest(f"the content type is not {_FORM}")
    try:
        fields = parse_qsl(
            _body(event),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=32,
        )
    except ValueError:
        raise InvalidRequest("the body is not a form") from None
    grant_type, scope = (_only(fields, name) for name in ("grant_type", "scope"))
    if grant_type != "client_credentials":
        raise UnsupportedGrantType("grant_type is not client_credentials")
    return frozenset(scope.split(" "))


def _only(fields: list[tuple[str, str]], name: str) -> str:
    values = [value for field, value in fields if field == name]
    if len(values) != 1 or not values[0]:
        raise InvalidRequest(f"{name} must be there exactly once")
    return values[0]


def _query(event: object, name: str) -> str | None:
    values = at(event, "multiValueQueryStringParameters", name)
    if values is None:
        return None
    if not isinstance(values, list) or len(values) != 1 or not isinstance(values[0], str):
        raise InvalidRequest(f"{name} is there more than once")
    return values[0]


def _fingerprint(value: object, name: str) -> str:
    if not isinstance(value, str) or not _FINGERPRINT.fullmatch(value):
        raise InvalidRequest(f"{name} is not the first 12 hex digits of a token's SHA-256")
    return value


def _header(event: object, name: str) -> object:
    headers = at(event, "headers")
    if not isinstance(headers, Mapping):
        return None
    return next((value for key, value in headers.items() if str(key).lower() == name), None)


def _body(event: object) -> str:
    body = at(event, "body")
    if not isinstance(body, str):
        return ""
    if len(body) > 2 * MAX_BODY_CHARS:
        raise InvalidRequest("the body is too long")
    if at(event, "isBase64Encoded") is True:
        try:
            body = base64.b64decode(body, validate=True).decode()
        except (binascii.Error, ValueError):
            raise InvalidRequest("the body is not UTF-8 text") from None
    if len(body) > MAX_BODY_CHARS:
        raise InvalidRequest("the body is too long")
    return body
