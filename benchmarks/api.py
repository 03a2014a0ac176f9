"""Through the API: signed requests, beside a bare handler that returns a constant.

Both are deployed in the same embedded AWS, whose API Gateway and workers take most of the
time; what is compared is what the vend function adds to them. So the bare handler's API has
the same authorisation and resource policy; and it prints a line, because for one that does
not the embedded AWS waits 50 ms in case a line is yet to come.
"""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Final

from botocore.credentials import Credentials

from benchmarks.lab import Lab
from benchmarks.results import Row
from local.callers import TokenApi, create_user

AT_A_TIME: Final = (1, 8, 32)
UNMEASURED: Final = 2
"""Rounds until there are as many workers as requests at a time; ours take longer to start."""

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
        ANSWER = {answer}
        def lambda_handler(event, context):
            print("answered")
            return ANSWER
      Events:
        Get:
          Type: Api
          Properties: {{ RestApiId: !Ref ConstantApi, Path: "/tokens/{{grant}}", Method: GET }}
Outputs:
  Url: {{ Value: !Sub "https://${{ConstantApi}}.execute-api.${{AWS::Region}}.amazonaws.com/v1" }}
"""


def measure(lab: Lab, rounds: int, requests: int) -> list[Row]:
    """So many requests to each in turn, 1, 8 and 32 at a time."""
    constant = _deploy_constant(lab)
    caller = create_user(lab.stack.administrator, "bench-caller", lab.stack.api.policy("/tokens/*"))
    other = create_user(lab.stack.administrator, "constant-caller", constant.policy("/tokens/*"))
    rows = []
    for at_a_time in AT_A_TIME:
        count = requests if at_a_time > 1 else requests // 4
        found: dict[str, list[float]] = {"ours": [], "constant": []}
        for number in range(rounds + UNMEASURED):
            for name, api, who in (
                ("ours", lab.stack.api, caller),
                ("constant", constant, other),
            ):
                rate = _throughput(api, who, count, at_a_time)
                if number >= UNMEASURED:
                    found[name].append(rate)
        ours, bare = median(found["ours"]), median(found["constant"])
        rows.append(
            Row.at_least(
                f"throughput, {at_a_time} at a time",
                ours / bare,
                0.9,
                "×",
                f"{ours:.0f}/s : {bare:.0f}/s",
            )
        )
    return rows


def _deploy_constant(lab: Lab) -> TokenApi:
    body = {
        "access_token": "a" * 700,
        "token_type": "Bearer",
        "expires_in": 899,
        "expires_at": "2025-03-01T12:00:00Z",
        "scope": "read:deals",
    }
    answer = {
        "statusCode": 200,
        "headers": {"Content-Type": "application/json"},
        "body": json.dumps(body),
    }
    cloudformation = lab.stack.administrator.client("cloudformation")
    cloudformation.create_stack(
        StackName=_STACK,
        TemplateBody=_TEMPLATE.format(answer=json.dumps(answer)),
        Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
    )
    cloudformation.get_waiter("stack_create_complete").wait(
        StackName=_STACK, WaiterConfig={"Delay": 1, "MaxAttempts": 30}
    )
    [output] = cloudformation.describe_stacks(StackName=_STACK)["Stacks"][0]["Outputs"]
    return TokenApi.of(output["OutputValue"], lab.stack.aws.endpoint_url)


def _throughput(api: TokenApi, caller: Credentials, requests: int, at_a_time: int) -> float:
    """Requests per second.

    Raises:
        RuntimeError: one was not answered 200.
    """
    with ThreadPoolExecutor(at_a_time) as threads:
        began = time.perf_counter()
        answers = list(
            threads.map(lambda _: api.get("/tokens/deals", caller).status, range(requests))
        )
        seconds = time.perf_counter() - began
    if set(answers) != {200}:
        raise RuntimeError(f"answers other than 200: {sorted(set(answers))}")
    return requests / seconds
