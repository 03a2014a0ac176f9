"""Whose request is being served, for checks that a service makes in the caller's name."""

import itertools
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Final

from ministack.core import iam_evaluator
from ministack.core.responses import get_region
from ministack.core.router import extract_access_key_id

_ACCESS_KEY: Final = ContextVar("access_key", default="")
_REQUEST: Final = ContextVar("request", default=0)
_NUMBERS: Final = itertools.count(1)


def remember() -> None:
    """Note the access key id of each signed request as it arrives, and number it.

    May be called twice.
    """
    pin = iam_evaluator.pin_request_caller
    if getattr(pin, "notes_access_key", False):
        return

    def pin_and_note(headers: Mapping[str, str], query: Mapping[str, Any] | None = None) -> None:
        _ACCESS_KEY.set(extract_access_key_id(headers, query or {}) or "")
        _REQUEST.set(next(_NUMBERS))
        pin(headers, query)

    pin_and_note.notes_access_key = True  # type: ignore[attr-defined]
    iam_evaluator.pin_request_caller = pin_and_note


def request_number() -> int:
    """Which request is being served; 0 for what ministack does by itself."""
    return _REQUEST.get()


def refusal(action: str, resource: str, context: Mapping[str, str] | None = None) -> str:
    """Why IAM does not allow the caller an action; empty if it does.

    What ministack does by itself, such as firing a schedule, has no caller and is allowed.
    """
    if not _ACCESS_KEY.get():
        return ""
    service = action.partition(":")[0]
    denied = iam_evaluator.enforce(
        _ACCESS_KEY.get(),
        action,
        service,
        get_region(),
        resource_arn=resource,
        service_context=dict(context or {}),
    )
    if denied is None:
        return ""
    who = getattr(denied, "principal_arn", "the caller")
    return f"User: {who} is not authorized to perform: {action} on resource: {resource}"
