"""Through the API: signed requests, beside a bare handler that returns a constant.

Both are deployed in the same embedded AWS, whose API Gateway and workers take most of the
time; what is compared is what the vend function adds to them. So the bare handler's API has
the same authorisation and resource policy; and it prints a line, because for one that does
not the embedded AWS waits 50 ms in case a line is yet to come.

The limit is on the processor time of all that takes part, because other work of the machine
decides how many requests a second there are.
"""

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from botocore.credentials import Credentials

from benchmarks.lab import Lab
from benchmarks.results import Row, Turns
from local.callers import TokenApi, create_user

AT_A_TIME: Final = (1, 8, 32)
UNMEASURED: Final = 2
"""Rounds until there are as many workers as requests at a time; ours take longer to start."""

LIMIT: Final = 1.8
"""What all that takes part may take, against the bare handler: 0.91 to 1.4 beside other work."""

_STACK: Final = "bench-constant"
_TEMPLATE: Final = """
Transform: AWS::Serverless-2016-10-31
Resources:
  ConstantApi:
    Type: AWS::Serverless::Api
    Properties:
      StageName: v1
      Auth:
        DefaultAuthorizer: AWS_IAM
        InvokeRole: NONE
        ResourcePolicy:
          CustomStatements:
            - Effect: Deny
              Principal: "*"
              Action: execute-api:Invoke
              Resource: execute-api:/*
              Condition:
                StringNotEquals:
                  aws:PrincipalAccount: !Ref AWS::AccountId
                  aws:PrincipalOrgID: !Ref AWS::NoValue
  ConstantFunction:
    Type: AWS::Serverless::Function
    Properties:
      Runtime: python3.13
      MemorySize: 512
      Handler: index.lambda_handler
      InlineCode: |
        RESPONSE = {response}
        def lambda_handler(event, context):
            print("responded")
            return RESPONSE
      Events:
        Get:
          Type: Api
          Properties: {{ RestApiId: !Ref ConstantApi, Path: "/tokens/{{grant}}", Method: GET }}
Outputs:
  Url: {{ Value: !Sub "https://${{ConstantApi}}.execute-api.${{AWS::Region}}.amazonaws.com/v1" }}
"""


@dataclass(frozen=True, slots=True)
class Block:
    """Requests that were sent one block at a time; processor time in seconds, for each request.

    Attributes:
        per_second: requests on the clock.
        client: of this process, which signs and sends.
        api: of the embedded AWS's server: authorisation, routing, the log.
        worker: of the processes that run the function.
    """

    per_second: float
    client: float
    api: float
    worker: float

    @property
    def total(self) -> float:
        """Of all that take part."""
        return self.client + self.api + self.worker


def measure(lab: Lab, rounds: int, requests: int) -> list[Row]:
    """So many requests to each in turn, 1, 8 and 32 at a time."""
    constant = _deploy_constant(lab)
    caller = create_user(lab.stack.administrator, "bench-caller", lab.stack.api.policy("/tokens/*"))
    other = create_user(lab.stack.administrator, "constant-caller", constant.policy("/tokens/*"))
    rows = []
    for at_a_time in AT_A_TIME:
        count = requests if at_a_time > 1 else requests // 4
        found: dict[str, list[Block]] = {"ours": [], "constant": []}
        for number in range(rounds + UNMEASURED):
            for name, api, who in (
                ("ours", lab.stack.api, caller),
                ("constant", constant, other),
            ):
                block = _block(lab, api, who, count, at_a_time)
                if number >= UNMEASURED:
                    found[name].append(block)
        rows += _rows(at_a_time, found["ours"], found["constant"])
    return rows


def _rows(at_a_time: int, ours: list[Block], bare: list[Block]) -> list[Row]:
    against = Turns([b.total for b in ours], [b.total for b in bare])
    rates = [median(block.per_second for block in blocks) for blocks in (ours, bare)]
    parts = ", ".join(
        f"{part} {_milliseconds(ours, part)} : {_milliseconds(bare, part)} ms"
        for part in ("client", "api", "worker")
    )
    return [
        Row.at_most(
            f"processor time, {at_a_time} at a time",
            against.ratio,
            LIMIT,
            "×",
            f"{against.spread}; {parts}",
        ),
        Row(
            f"throughput, {at_a_time} at a time",
            figure=f"{rates[0] / rates[1]:.3g} ×",
            detail=f"{rates[0]:.0f}/s : {rates[1]:.0f}/s",
        ),
    ]


def _milliseconds(blocks: list[Block], part: str) -> str:
    return f"{median(getattr(block, part) for block in blocks) * 1000:.2f}"


def _deploy_constant(lab: Lab) -> TokenApi:
    body = {
        "access_token": "a" * 700,
        "token_type": "Bearer",
        "expires_in": 899,
        "expires_at": "2025-03-01T12:00:00Z",
        "scope": "read:deals",
    }
    response = {
        "statusCode": 200,
        "headers": {"Content-Type": "application/json"},
        "body": json.dumps(body),
    }
    cloudformation = lab.stack.administrator.client("cloudformation")
    cloudformation.create_stack(
        StackName=_STACK,
        TemplateBody=_TEMPLATE.format(response=json.dumps(response)),
        Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
    )
    cloudformation.get_waiter("stack_create_complete").wait(
        StackName=_STACK, WaiterConfig={"Delay": 1, "MaxAttempts": 30}
    )
    [output] = cloudformation.describe_stacks(StackName=_STACK)["Stacks"][0]["Outputs"]
    return TokenApi.of(output["OutputValue"], lab.stack.aws.endpoint_url)


def _block(lab: Lab, api: TokenApi, caller: Credentials, requests: int, at_a_time: int) -> Block:
    """Send requests, and count what they cost.

    Raises:
        RuntimeError: a response was not 200.
    """
    server = lab.stack.aws.process_id
    with ThreadPoolExecutor(at_a_time) as threads:
        before = time.process_time(), _processor_seconds(server), _of_children(server)
        began = time.perf_counter()
        responses = list(
            threads.map(lambda _: api.get("/tokens/deals", caller).status, range(requests))
        )
        seconds = time.perf_counter() - began
        after = time.process_time(), _processor_seconds(server), _of_children(server)
    if set(responses) != {200}:
        raise RuntimeError(f"responses other than 200: {sorted(set(responses))}")
    client, server_seconds, worker = (
        (end - begin) / requests for begin, end in zip(before, after, strict=True)
    )
    return Block(requests / seconds, client, server_seconds, worker)


def _of_children(parent: int) -> float:
    return sum(_processor_seconds(child) for child in _children(parent))


def _children(parent: int) -> Iterator[int]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        if (fields := _stat(stat)) and int(fields[1]) == parent:
            yield int(stat.parent.name)


def _processor_seconds(process: int) -> float:
    fields = _stat(Path(f"/proc/{process}/stat"))
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def _stat(file: Path) -> list[str]:
    """What Linux says of a process after its name; nothing of one that has ended."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
