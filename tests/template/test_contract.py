"""docs/contract.md lists what others may build on; here the code's side of each table.

Each table of the page has a function of the same heading in CODE, which returns what the code
has. A name that is on one side alone fails with both lists: add a row to the page, with the version
that the name first appears in. The page is the one place to edit; nothing here lists names again.
"""

import ast
import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any, cast, get_args, get_origin, get_type_hints

import pytest

from broker_cli.schemas import SCHEMAS
from tests.template.test_template import ROOT
from tests.unit.fakes import NOW, FakeSsm, FakeStates, stored
from token_broker.metrics import METRICS
from token_broker.models import block_record
from token_broker.token_store import ParameterTokenStore
from token_refresher import app as refresher
from token_refresher.backoff import Backoff
from token_refresher.connection_state import ConnectionState
from token_refresher.credentials import ClientCredentials
from token_refresher.outcomes import Outcome, RenewReason, State
from token_vendor import app as vendor
from token_vendor.audit_record import AuditRecord
from token_vendor.responses import ERRORS
from token_vendor.vend import GrantState
from tools import openapi

PAGE = (ROOT / "docs/contract.md").read_text(encoding="utf-8")
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
SAMPLES: Mapping[object, object] = {str: "x", int: 1, bool: True, datetime: NOW}
FUNCTIONS = {"token-refresher": refresher, "token-vendor": vendor}


def rows(heading: str) -> dict[str, tuple[str, ...]]:
    """A table of the page: its other cells by the name in the first one."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    cells = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    return {name.strip(" `"): tuple(cell.strip() for cell in more) for name, *more in cells}


# ── The code's side ──────────────────────────────────────────────────────────────────────────────


def full(kind: type) -> Any:
    """A record of which every field has a value."""
    return kind(**{name: _sample(hint) for name, hint in get_type_hints(kind).items()})


def _sample(hint: Any) -> object:
    of = next((part for part in get_args(hint) if part is not ...), hint)
    if get_origin(hint) is tuple:
        return (_sample(of),)
    return next(iter(of)) if issubclass(of, Enum) else SAMPLES[of]


def run_line() -> set[str]:
    """What `_log` adds to a line."""
    logged: dict[str, object] = {}

    def log(_message: str, extra: Mapping[str, object]) -> None:
        logged.update(extra)

    with pytest.MonkeyPatch.context() as patch:
        for level in ("info", "warning", "error"):
            patch.setattr(refresher.logger, level, log)
        refresher._log(full(Outcome), NOW)
    return set(logged)


def messages() -> Iterator[str]:
    """The constant texts that both functions log; `grant …` follows the state."""
    for function in FUNCTIONS.values():
        for call in _calls(function, "logger.info", "logger.warning", "logger.error", "_log_fault"):
            if isinstance(call.args[0], ast.Constant):
                yield call.args[0].value
    yield from (f"grant {state.value}" for state in State)


def metrics() -> dict[str, set[str]]:
    """By metric, what it is emitted by: the service, and further dimensions."""
    found: dict[str, set[str]] = {}
    for service, function in FUNCTIONS.items():
        source = ast.parse(_source(function))
        named = {
            target.id: node.value
            for node in ast.walk(source)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for call in _calls(function, "emit"):
            values = call.args[1]
            values = named[values.id] if isinstance(values, ast.Name) else values
            dimensions = ", ".join(f"`{word.arg}`" for word in call.keywords) or "none"
            for key in cast("ast.Dict", values).keys:
                found.setdefault(ast.literal_eval(cast("ast.expr", key)), set()).add(
                    f"`{service}` | {dimensions}"
                )
    return found


def _source(module: Any) -> str:
    return Path(module.__file__).read_text(encoding="utf-8")


def _calls(module: Any, *names: str) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(_source(module))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in names:
            yield node


def parameters() -> dict[str, dict[str, Any]]:
    """The records of Parameter Store, by the parameter's name."""
    ssm, states = FakeSsm(), FakeStates()
    store = ParameterTokenStore(cast("Any", ssm), prefix="", key_id="key")
    store.write("GRANT", stored())
    backoff = Backoff(reason="invalid_client", failures=1, until=NOW, key="k")
    state = ConnectionState(backoff=backoff, grants={}, leased_at=NOW, owner="o")
    states.release("CONNECTION", state)
    written = {**ssm.values, **states.ssm.values}
    return {name.removeprefix("/p"): json.loads(values[-1]) for name, values in written.items()}


def http_fields() -> Iterator[str]:
    """Routes, and the fields of each schema, of the contract that is made from the code."""
    document: Any = openapi.document()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            route = f"{method.upper()} {path}"
            yield route
            yield from (
                f"{route} ?{parameter['name']}"
                for parameter in operation.get("parameters", [])
                if parameter.get("in") == "query"
            )
            for content in operation.get("requestBody", {}).get("content", {}).values():
                yield from (f"{route} body {name}" for name in content["schema"]["properties"])
    for name, schema in document["components"]["schemas"].items():
        if name != "GatewayRefusal":  # API Gateway's, not the broker's
            yield from (f"{name}.{field}" for field in schema["properties"])


def json_fields(schema: Mapping[str, Any], at: str) -> Iterator[str]:
    """The paths of a JSON Schema's fields: `status grants[].grant`."""
    if schema.get("type") == "array":
        yield from json_fields(schema["items"], f"{at}[]")
    for name, inner in schema.get("properties", {}).items():
        field = f"{at}{'' if at.endswith(' ') else '.'}{name}"
        yield field
        yield from json_fields(inner, field)


CODE: Mapping[str, Callable[[], Any]] = {
    "Log fields of a vend": lambda: AuditRecord.__dataclass_fields__,
    "Log fields of a renewal": run_line,
    "Log messages": messages,
    "Values of `state` in a renewal": lambda: [state.value for state in State],
    "Values of `renew_reason`": lambda: [reason.value for reason in RenewReason],
    "Metrics": lambda: METRICS,
    "Record of a token": lambda: parameters()["/GRANT"],
    "Record of a block": lambda: json.loads(block_record("", now=NOW)),
    "Record of a connection": lambda: parameters()["/connections/CONNECTION"],
    "Secret of a connection": lambda: ClientCredentials.__dataclass_fields__,
    "HTTP API": http_fields,
    "Error codes of the HTTP API": lambda: {code for _, code in ERRORS.values()},
    "Values of `state` in the HTTP API": lambda: [state.value for state in GrantState],
    "JSON of `broker`": lambda: [
        field for command, schema in SCHEMAS.items() for field in json_fields(schema, f"{command} ")
    ],
}
"""By heading of the page, the names that the code has."""


@pytest.mark.parametrize("heading", CODE)
def test_page_lists_what_the_code_has(heading: str):
    page, code = set(rows(heading)), set(CODE[heading]())
    assert page
    assert page - code == set(), "on the page alone"
    assert code - page == set(), "in the code alone: add a row to docs/contract.md"


def test_every_table_of_the_page_is_compared():
    assert re.findall(r"^## (.+)$", PAGE, re.MULTILINE) == list(CODE)


def test_metrics_have_the_units_and_dimensions_of_the_page():
    page = {name: " | ".join(cells[1:3]) for name, cells in rows("Metrics").items()}
    code = {name: " | ".join(sorted(by)) for name, by in metrics().items()}
    assert page == code
    assert {name: cells[3] for name, cells in rows("Metrics").items()} == dict(METRICS)


def test_fields_of_a_run_s_result_are_those_that_are_marked():
    marked = {
        name for name, cells in rows("Log fields of a renewal").items() if "*result*" in cells[1]
    }
    assert marked == set(refresher._summary(full(Outcome)))


def test_backoff_in_a_record_is_the_list_that_the_page_describes():
    record = parameters()["/connections/CONNECTION"]["backoff"]
    backoff = dict(zip(("reason", "failures", "until", "key"), record, strict=True))
    assert backoff == {
        "reason": "invalid_client",
        "failures": 1,
        "until": NOW.timestamp(),
        "key": "k",
    }
    assert "[reason, failures, until, key]" in PAGE


@pytest.mark.parametrize("heading", CODE)
def test_every_name_has_the_version_that_it_appeared_in(heading: str):
    numbers = [tuple(map(int, cells[0].split("."))) for cells in rows(heading).values()]
    assert max(numbers) <= tuple(map(int, VERSION.split(".")))
