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
from contextlib import redirect_stdout
from dataclasses import replace
from datetime import datetime
from enum import Enum
from io import StringIO
from pathlib import Path
from typing import Any, cast, get_args, get_origin, get_type_hints

import pytest

from broker_cli.schemas import SCHEMAS
from tests.template.test_template import ROOT, template
from tests.unit.fakes import NOW, FakeSsm, FakeStates, stored
from token_broker.metrics import METRICS, NAMESPACE
from token_broker.models import block_record, rfc3339
from token_broker.token_store import ParameterTokenStore
from token_refresher import app as refresher
from token_refresher.backoff import Backoff
from token_refresher.connection_state import ConnectionState
from token_refresher.credentials import ClientCredentials
from token_refresher.due_grant import CORRUPT
from token_refresher.measurements import measure
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


def logged_by(write: Callable[[], None]) -> set[str]:
    """The fields that the refresher adds to a line."""
    logged: dict[str, object] = {}

    def log(_message: str, extra: Mapping[str, object]) -> None:
        logged.update(extra)

    with pytest.MonkeyPatch.context() as patch:
        for level in ("info", "warning", "error"):
            patch.setattr(refresher.logger, level, log)
        write()
    return set(logged)


def messages() -> Iterator[str]:
    """The constant texts that both functions log; `grant …` follows the state, if it has a line."""
    for function in FUNCTIONS.values():
        for call in _calls(function, "logger.info", "logger.warning", "logger.error", "_log_fault"):
            match call.args[0]:
                case ast.Constant(value=str(text)):
                    yield text
                case ast.Name(id=name) if name.isupper():
                    yield getattr(function, name)
    yield from (f"grant {state.value}" for state in State if state is not State.NOT_DUE)


def metrics() -> dict[str, tuple[str, str, str]]:
    """By metric: its service, its dimensions beside it, and those that MetricsByGrant adds."""
    always, switched_on = _emitted(by_grant="false"), _emitted(by_grant="true")
    assert always.keys() == switched_on.keys()
    return {
        name: (
            " ".join(f"`{service}`" for service, names in always[name] if not names),
            _names(always[name]),
            _names(switched_on[name] - always[name]),
        )
        for name in always
    }


def _names(found: set[tuple[str, tuple[str, ...]]]) -> str:
    details = [", ".join(f"`{name}`" for name in names) for _, names in found if names]
    return "; ".join(sorted(details)) or "none"


def _emitted(*, by_grant: str) -> dict[str, set[tuple[str, tuple[str, ...]]]]:
    """By metric, the service and each further set of dimensions that its lines have."""
    found: dict[str, set[tuple[str, tuple[str, ...]]]] = {}
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as written:
        patch.setenv("METRICS_BY_GRANT", by_grant)
        _count_everything()
    for name, service, _ in _of_log_lines():
        found[name] = {(service, ())}
    for line in map(json.loads, written.getvalue().splitlines()):
        (directive,) = line["_aws"]["CloudWatchMetrics"]
        for metric in directive["Metrics"]:
            of_metric = found.setdefault(metric["Name"], set())
            of_metric |= {(line["service"], tuple(names[1:])) for names in directive["Dimensions"]}
    return found


def _count_everything() -> None:
    """Emit what a run counts that leaves grants in every state, and what the vendor's calls say."""
    outcome = full(Outcome)
    outcomes = [replace(outcome, state=state) for state in State]
    outcomes.append(replace(outcome, reason=CORRUPT))
    measure(refresher.SERVICE, outcomes, NOW, {each.grant: 100.0 for each in outcomes})
    for call in _calls(vendor, "_count"):
        vendor._count(ast.literal_eval(call.args[0]), "deals")
    for call in _calls(vendor, "emit", "emit_by_grant"):
        values = cast("ast.Dict", call.args[1])
        if isinstance(values.keys[0], ast.Constant):  # not those of `_count`
            details = {word.arg: "x" for word in call.keywords if word.arg}
            emit = getattr(vendor, ast.unparse(call.func))
            emit(vendor.SERVICE, ast.literal_eval(values), **details)


def _of_log_lines() -> Iterator[tuple[str, str, str]]:
    """The metric filters of the functions' logs: metric, service and the counted message."""
    resources = template()["Resources"]
    for resource in resources.values():
        if resource["Type"] == "AWS::Logs::MetricFilter" and "Condition" not in resource:
            group = resources[resource["Properties"]["LogGroupName"]["Ref"]]
            service = group["Properties"]["LogGroupName"]["Fn::Sub"].rpartition("/")[2]
            (metric,) = resource["Properties"]["MetricTransformations"]
            assert metric["MetricNamespace"] == {"Fn::Sub": f"{NAMESPACE}/${{AWS::StackName}}"}
            assert metric["Dimensions"] == [{"Key": "service", "Value": "$.service"}]
            assert (metric["MetricValue"], metric["Unit"]) == ("1", METRICS[metric["MetricName"]])
            pattern = re.fullmatch(
                r'\{ \$\.message = "([^"]+)" \}', resource["Properties"]["FilterPattern"]
            )
            assert pattern
            yield metric["MetricName"], service, pattern[1]


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
    "Log fields of a renewal": lambda: logged_by(lambda: refresher._log(full(Outcome), NOW)),
    "Log fields of a run": lambda: logged_by(lambda: refresher._log_run([full(Outcome)])),
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
    assert {name: cells[1:4] for name, cells in rows("Metrics").items()} == metrics()
    assert {name: cells[4] for name, cells in rows("Metrics").items()} == dict(METRICS)


def test_metrics_of_log_lines_count_a_message_of_the_page_and_are_counted_once():
    for name, service, message in _of_log_lines():
        assert message in rows("Log messages")
        logged = (c.args[0] for c in _calls(FUNCTIONS[service], "logger.info"))
        assert message in [node.value for node in logged if isinstance(node, ast.Constant)]
        for call in [*_calls(FUNCTIONS[service], "emit"), *_calls(FUNCTIONS[service], "_count")]:
            assert f"'{name}'" not in ast.unparse(call)


def test_fields_of_a_run_s_result_are_those_that_are_marked():
    marked = {
        name for name, cells in rows("Log fields of a renewal").items() if "*result*" in cells[1]
    }
    assert marked == set(refresher._summary(full(Outcome)))


def test_grants_of_a_run_s_line_are_the_list_that_the_page_describes():
    meaning = rows("Log fields of a run")["grants"][1]
    assert f"`[{', '.join(refresher.IN_SHORT)}]`" in meaning
    outcome = full(Outcome)
    assert dict(zip(refresher.IN_SHORT, refresher._in_short(outcome), strict=True)) == {
        "state": outcome.state.value,
        "expires_at": rfc3339(NOW),
        "connection": "x",
        "scope": "x",
    }


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
