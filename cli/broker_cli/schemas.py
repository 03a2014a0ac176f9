"""The shapes of the JSON outputs, as JSON Schema; `broker schema COMMAND` prints one."""

from typing import Annotated, Final

import typer

from broker_cli.console import say_json

type Schema = dict[str, object]

_TEXT: Final[Schema] = {"type": "string"}
_TEXTS: Final[Schema] = {"type": "array", "items": _TEXT}
_TIME: Final[Schema] = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"}
_TIME_OR_NULL: Final[Schema] = {"anyOf": [_TIME, {"type": "null"}]}
_COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
_SECONDS: Final = _COUNT


def _one_of(*values: str) -> Schema:
    return {"enum": list(values)}


def _object(**properties: Schema) -> Schema:
    """An object of exactly these, all there in every response."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _list(item: Schema) -> Schema:
    return {"type": "array", "items": item}


SCHEMAS: Final[dict[str, Schema]] = {
    "status": _object(
        stack=_TEXT,
        at=_TIME,
        grants=_list(
            _object(
                grant=_TEXT,
                scope=_TEXTS,
                connection=_TEXT,
                state=_one_of("live", "renewing", "expired", "blocked"),
                seconds_left=_SECONDS,
                expires_at=_TIME_OR_NULL,
                renewed_at=_TIME_OR_NULL,
                renew_reason=_TEXT,
                due_at=_TIME_OR_NULL,
                seen_at=_TIME_OR_NULL,
                reason=_TEXT,
                cause=_TEXT,
                retry_at=_TIME_OR_NULL,
            )
        ),
    ),
    "refresh": _object(
        grants={
            "type": "object",
            "additionalProperties": {"type": "object", "required": ["state"]},
        },
        error=_TEXT,
        causes=_TEXTS,
    ),
    "audit": _object(
        events=_list(
            _object(
                at=_TIME,
                event=_TEXT,
                grant=_TEXT,
                caller=_TEXT,
                fingerprint=_TEXT,
                expires_at=_TIME_OR_NULL,
                renew_reason=_TEXT,
                reason=_TEXT,
                cause=_TEXT,
                would_be_refused={"type": "boolean"},
            )
        )
    ),
    "trace": _object(
        fingerprint=_TEXT,
        grant=_TEXT,
        events=_list(
            _object(
                at=_TIME,
                event=_one_of("stored", "vended", "rejected", "replaced", "expired"),
                caller=_TEXT,
                reason=_TEXT,
                replaced_by=_TEXT,
                times=_COUNT,
                last_at=_TIME,
            )
        ),
    ),
    "usage": _object(
        stack=_TEXT,
        since=_TIME,
        until=_TIME,
        uses=_list(
            _object(
                grant=_TEXT,
                caller=_TEXT,
                vended=_COUNT,
                refused=_COUNT,
                last_vended_at=_TIME_OR_NULL,
            )
        ),
        idle_grants=_TEXTS,
        silent_callers=_list(_object(grant=_TEXT, pattern=_TEXT)),
    ),
    "explain": _object(
        grant=_TEXT,
        principal=_TEXT,
        gets_a_token=_one_of("yes", "no", "unknown"),
        locks=_list(
            _object(lock=_TEXT, verdict=_one_of("passes", "refuses", "unknown"), why=_TEXT)
        ),
    ),
    "probe": _object(
        grant=_TEXT,
        is_well={"type": "boolean"},
        calls=_list(
            _object(
                caller=_TEXT,
                expected={"type": "integer"},
                status={"type": "integer"},
                is_well={"type": "boolean"},
            )
        ),
    ),
    "doctor": _object(
        stack=_TEXT,
        is_well={"type": "boolean"},
        first=_TEXT,
        checks=_list(
            _object(
                check=_TEXT, verdict=_one_of("good", "wrong", "unknown"), found=_TEXT, fix=_TEXT
            )
        ),
    ),
    "verify": _object(
        stack=_TEXT,
        is_kept={"type": "boolean"},
        broken=_TEXTS,
        checks=_list(
            _object(
                check=_TEXT,
                verdict=_one_of("passed", "failed", "not_checked"),
                found=_TEXT,
                next=_TEXT,
            )
        ),
    ),
    "failures": _object(
        reports=_list(_object(at=_TIME, error=_TEXT, causes=_TEXTS, tries=_COUNT)),
        is_cleared={"type": "boolean"},
    ),
    "grants-check": _object(file=_TEXT, faults=_TEXTS),
    "grants-publish": _object(parameter=_TEXT, value=_TEXT),
}
"""By command, what `--json` prints. Texts are empty where there is nothing to say."""


def _known(command: str) -> str:
    if command not in SCHEMAS:
        raise typer.BadParameter(f"use one of {', '.join(SCHEMAS)}")
    return command


def schema(
    command: Annotated[
        str,
        typer.Argument(
            help=f"One of {', '.join(SCHEMAS)}.",
            callback=_known,
            autocompletion=lambda: list(SCHEMAS),
        ),
    ],
) -> None:
    """Print the JSON Schema of a command's `--json`."""
    say_json({"$schema": "https://json-schema.org/draft/2020-12/schema", **SCHEMAS[command]})
