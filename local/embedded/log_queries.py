"""CloudWatch Logs: queries that count, and queries that a template saves."""

import json
import re
from collections.abc import Iterable
from typing import Any, Final

from ministack.core.responses import error_response_json, new_uuid
from ministack.services import cloudwatch_logs
from ministack.services.cloudformation import provisioners

type Record = dict[str, Any]

_STATS: Final = re.compile(
    r"stats count\(\*\) as (?P<count>\w+), max\(@timestamp\) as (?P<last>\w+) "
    r"by (?P<by>\w+(, \w+)*)"
)
_FILTER: Final = re.compile(r"filter ispresent\(\w+\)( and ispresent\(\w+\))*")


def count_by_fields() -> None:
    """Evaluate the queries of this project; refuse any other that has a `stats` command.

    CloudWatch Logs User Guide, "stats": a row for each combination of the fields behind `by`, in
    which a field that is missing has no cell. ministack ignores the command and returns the lines.
    """
    start = cloudwatch_logs._start_query

    def start_query(request: dict[str, Any]) -> object:
        stages = cloudwatch_logs._split_insights_pipes(request.get("queryString", ""))
        if not any(stage.startswith("stats") for stage in stages):
            return start(request)
        stats, filters = _STATS.fullmatch(stages[-1]), stages[:-1]
        if not stats or not all(_FILTER.fullmatch(stage) for stage in filters):
            return error_response_json("MalformedQueryException", "not supported here", 400)
        reply = start(request)
        if reply[0] == 200:
            query = cloudwatch_logs._queries[json.loads(reply[2])["queryId"]]
            wanted = set(re.findall(r"ispresent\((\w+)\)", " ".join(filters)))
            query["results"] = _counted(_lines(request), stats, wanted)[
                : request.get("limit", 10_000)
            ]
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


def _counted(
    lines: Iterable[tuple[Record, int]], stats: re.Match[str], wanted: set[str]
) -> list[list[dict[str, str]]]:
    names = stats["by"].split(", ")
    found: dict[tuple[str | None, ...], tuple[int, int]] = {}
    for record, at in lines:
        if all(record.get(name) is not None for name in wanted):
            key = tuple(record.get(name) for name in names)
            count, last = found.get(key, (0, 0))
            found[key] = count + 1, max(last, at)
    return [
        _cells([*zip(names, key, strict=True), (stats["count"], count), (stats["last"], last)])
        for key, (count, last) in found.items()
    ]


def _cells(values: Iterable[tuple[str, object]]) -> list[dict[str, str]]:
    return [{"field": name, "value": str(value)} for name, value in values if value is not None]


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
