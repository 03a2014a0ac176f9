"""What roles request, and whether IAM allows it: for the tests of least privilege."""

import json
from pathlib import Path
from typing import Any

from ministack.core import iam_evaluator
from ministack.services import sts

from local.embedded import caller


def record_requests_of_roles(file: Path) -> None:
    """Write a line for each decision of IAM about a role's request, now and until the end.

    A request that needs several permissions has as many lines, with one number. A line has no
    value of a request, so nothing that could be secret.

    Args:
        file: is created, or appended to.
    """
    enforce = iam_evaluator.enforce
    record = file.open("a", buffering=1)

    def enforce_and_record(key_id: str, action: str, *args: object, **more: Any) -> object:
        refusal = enforce(key_id, action, *args, **more)
        if session := sts._sessions.get(key_id):
            context = more.get("service_context") or {}
            line = {
                "request": caller.request_number(),
                "principal": session["Arn"],
                "action": action,
                "resource": more.get("resource_arn", "*"),
                "context": {k: v for k, v in context.items() if k.startswith("kms:")},
                "is_allowed": refusal is None,
            }
            record.write(json.dumps(line) + "\n")
        return refusal

    iam_evaluator.enforce = enforce_and_record
