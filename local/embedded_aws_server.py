"""The embedded AWS as a child process; started by `local.embedded_aws`, not by hand.

Runs ministack in this process with six things changed, none of which a template can see:

- functions run in a bare interpreter, so that a package of the development environment never
  stands in for a requirement that was forgotten;
- a scheduler's minute may last fewer seconds, so that a rate(1 minute) schedule really fires
  within a demo or a test;
- an environment that fails to start takes no other one of its function with it;
- an environment whose handler raised serves the next request, too, as AWS has it;
- what each role asks for, and whether IAM allows it, is written to `iam.jsonl` in its folder;
- the server ends with the process that started it, however that one ended.
"""

import json
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Final

from ministack import app
from ministack.core import iam_actions, iam_evaluator, lambda_runtime
from ministack.services import apigateway_v1, eventbridge, lambda_svc, scheduler, sts

FACTS: Final = ("Type", "KeyId", "WithDecryption")
"""What a record repeats of a request to Parameter Store: nothing that could be secret."""


def _end_with_parent() -> None:
    """Standard input is a pipe from the parent: it ends when the parent does."""
    while sys.stdin.buffer.read(4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _shorten_minute(seconds: float) -> None:
    # Private names of a pinned release: nothing public does it.
    parse = eventbridge._parse_rate_seconds

    def parse_scaled(expression: str) -> float | None:
        interval: int | None = parse(expression)
        return interval * seconds / 60 if interval else None

    eventbridge._parse_rate_seconds = parse_scaled
    scheduler._SCHEDULE_TICK_INTERVAL = min(1.0, seconds / 10)


def _apply_resource_policies() -> None:
    # As API Gateway does with an imported definition; this server reads only the Policy property.
    import_api = apigateway_v1._import_rest_api

    def import_with_policy(definition: dict[str, object], data: dict[str, object]) -> str:
        policy = definition.get("x-amazon-apigateway-policy")
        api_id: str = import_api(definition, {**data, "policy": data.get("policy") or policy})
        return api_id

    apigateway_v1._import_rest_api = import_with_policy


def _record_what_roles_ask_for(file: Path) -> None:
    # Where every service asks what IAM says, right after it has read the resource from the body.
    # A value is told by its length alone.
    find_resource, enforce = iam_actions.extract_resource_arn, iam_evaluator.enforce
    record = file.open("a", buffering=1)
    bodies: dict[str, bytes] = {}

    def find_resource_and_note(
        service: str, method: str, path: str, headers: object, body: bytes, *where: object
    ) -> str:
        bodies["last"] = body if service == "ssm" else b""
        found: str = find_resource(service, method, path, headers, body, *where)
        return found

    def enforce_and_record(key_id: str, action: str, *args: object, **more: object) -> object:
        refusal = enforce(key_id, action, *args, **more)
        if session := sts._sessions.get(key_id):
            request = json.loads(bodies.pop("last", b"") or b"{}")
            line = {
                "principal": session["Arn"],
                "action": action,
                "resource": more.get("resource_arn", "*"),
                "is_allowed": refusal is None,
                "request": {name: request[name] for name in FACTS if name in request}
                | {"value_bytes": len(str(request.get("Value", "")).encode())},
            }
            record.write(json.dumps(line) + "\n")
        return refusal

    iam_actions.extract_resource_arn = find_resource_and_note
    iam_evaluator.enforce = enforce_and_record


def _end_one_environment_alone() -> None:
    # This server ends all environments of a function when one fails to start, those among them
    # that are starting, so that they fail as well and end the next: it goes on for ever.
    invalidate = lambda_svc.invalidate_worker

    def invalidate_on_purpose(*args: object, **more: object) -> None:
        if sys.exc_info()[0] is None:
            invalidate(*args, **more)

    lambda_svc.invalidate_worker = invalidate_on_purpose


def _keep_environment_after_an_error() -> None:
    # This server ends an environment for an error as it does for a time-out, and starts the next
    # one cold.
    invoke, end, collect = (
        lambda_runtime.Worker.invoke,
        lambda_runtime._signal,
        lambda_runtime._collect,
    )
    here = threading.local()

    def invoke_and_keep(worker: lambda_runtime.Worker, *args: object, **more: object) -> object:
        here.kept, here.times_out_at = None, time.monotonic() + worker.config.get("Timeout", 30)
        try:
            return invoke(worker, *args, **more)
        finally:
            here.times_out_at = 0.0
            if here.kept is not None:
                worker._proc = here.kept

    def end_late(process: object) -> None:
        if time.monotonic() < getattr(here, "times_out_at", 0.0):
            here.kept = process
        else:
            end(process)

    def collect_late(process: object, deadline: float) -> None:
        if process is not getattr(here, "kept", None):
            collect(process, deadline)

    lambda_runtime.Worker.invoke = invoke_and_keep
    lambda_runtime._signal = end_late
    lambda_runtime._collect = collect_late


def main() -> None:
    """Serve until the parent ends or SIGTERM comes: ARGV is PYTHON and MINUTE_SECONDS."""
    lambda_python, minute_seconds = sys.argv[1:]
    sys.argv = ["ministack"]
    sys.executable = lambda_python
    _shorten_minute(float(minute_seconds))
    _apply_resource_policies()
    _end_one_environment_alone()
    _keep_environment_after_an_error()
    _record_what_roles_ask_for(Path.home() / "iam.jsonl")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash leaves no token in a file
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to handle: it ends us in order
    threading.Thread(target=_end_with_parent, daemon=True).start()
    app.main()


if __name__ == "__main__":
    main()
