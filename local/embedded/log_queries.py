"""CloudWatch Logs: queries that count, and queries that a template saves."""

import json
import re
from collections.abc import Iterable
from typing import Any, Final

from ministack.core.responses import error_response_json, new_uuid
from ministack.services import cloudwatch_logs
from ministack.services.cloudformation import provisioners

type Record = dict[str, Any]

_COLUMN: Final = r"(count\(\*\)|max\(@timestamp\)|latest\(\w+\)) as (\w+)"
_STATS: Final = re.compile(rf"stats (?P<columns>{_COLUMN}(, {_COLUMN})*) by (?P<by>\w+(, \w+)*)")
_FILTER: Final = re.compile(r"filter ispresent\(\w+\)( and ispresent\(\w+\))*")
_AFTER: Final = re.compile(r'filter (?P<unlike>\w+) != "(?P<value>\w*)"|sort (?P<sort>\w+) asc')


def count_by_fields() -> None:
    """Evaluate the queries of this project; refuse any other that has a `stats` command.

    CloudWatch Logs User Guide, "stats": a row for each combination of the fields behind `by`, in
    which a field that is missing has no cell; `latest` is the field in the last of its lines.
    ministack ignores the command and returns the lines.
    """
    start = cloudwatch_logs._start_query

    def start_query(request: dict[str, Any]) -> object:
        stages = cloudwatch_logs._split_insights_pipes(request.get("queryString", ""))
        at = next((n for n, stage in enumerate(stages) if stage.startswith("stats")), None)
        if at is None:
            return start(request)
        stats, filters = _STATS.fullmatch(stages[at]), stages[:at]
        after = [_AFTER.fullmatch(stage) for stage in stages[at + 1 :]]
        if not stats or not all(after) or not all(_FILTER.fullmatch(stage) for stage in filters):
            return error_response_json("MalformedQueryException", "not supported here", 400)
        reply = start(request)
        if reply[0] == 200:
            query = cloudwatch_logs._queries[json.loads(reply[2])["queryId"]]
            wanted = set(re.findall(r"ispresent\((\w+)\)", " ".join(filters)))
            rows = _rows(_lines(request), stats, wanted)
            for stage in filter(None, after):
                rows = _after(rows, stage)
            query["results"] = [_cells(row) for row in rows[: request.get("limit", 10_000)]]
        return reply

    cloudwatch_logs._start_query = start_query


def _lines(request: dict[str, Any]) -> Iterable[tuple[Record, int]]:
    """The structured lines of a query's time, and when each was written, in milliseconds."""
    groups = cloudwatch_logs._resolve_query_log_groups(request)
    times = request["startTime"], request["endTime"]
    for event in cloudwatch_logs._collect_query_records(groups, *times):
        try:
            record = json.loads(event["@message"])
        except ValueError:
            continue
        if isinstance(record, dict):
            yield record, event["_timestamp_ms"]


def _rows(
    lines: Iterable[tuple[Record, int]], stats: re.Match[str], wanted: set[str]
) -> list[Record]:
    names = stats["by"].split(", ")
    groups: dict[tuple[str | None, ...], list[tuple[Record, int]]] = {}
    for record, at in lines:
        if all(record.get(name) is not None for name in wanted):
            key = tuple(record.get(name) for name in names)
            groups.setdefault(key, []).append((record, at))
    columns = re.findall(_COLUMN, stats["columns"])
    return [
        dict(zip(names, key, strict=True))
        | {column: _aggregate(function, group) for function, column in columns}
        for key, group in groups.items()
    ]


def _aggregate(function: str, group: list[tuple[Record, int]]) -> object:
    last, at = max(group, key=lambda line: line[1])
    if function == "count(*)":
        return len(group)
    if function == "max(@timestamp)":
        return at
    return last.get(function.removeprefix("latest(").removesuffix(")"))


def _after(rows: list[Record], stage: re.Match[str]) -> list[Record]:
    if sort := stage["sort"]:
        return sorted(rows, key=lambda row: row[sort])
    return [row for row in rows if row[stage["unlike"]] != stage["value"]]


def _cells(row: Record) -> list[dict[str, str]]:
    return [
        {"field": name, "value": str(value)} for name, value in row.items() if value is not None
    ]


def accept_saved_queries() -> None:
    """Deploy AWS::Logs::QueryDefinition; nothing lists what it saves.

    CloudFormation Template Reference, AWS::Logs::QueryDefinition: Ref is its id. ministack refuses
    a stack that has one.
    """
    provisioners._RESOURCE_HANDLERS["AWS::Logs::QueryDefinition"] = {
        "create": lambda _logical_id, _properties, _stack: (new_uuid(), {}),
        "update": lambda query_id, _old, _properties, _stack: (query_id, {}),
        "delete": lambda _query_id, _properties: None,
    }
