"""What `broker verify` expects of a deployed stack is what the template says."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from itertools import product

import boto3
import pytest

from broker_cli.aws import Stack
from broker_cli.verify import alarms, functions, token_api
from broker_cli.verify.result import Deployment
from broker_cli.verify.roles import Question, refresher_questions, vendor_questions
from tests.template.policy import OWNER, Call, Resolver, allows
from tests.template.test_template import template
from token_broker.metrics import METRICS

NOW = datetime(2026, 1, 2, tzinfo=UTC)
REGION = "eu-west-1"
ARNS = {
    "BrokerKey": f"arn:aws:kms:{REGION}:{OWNER}:key/BrokerKey",
    "RefreshFailuresQueue": f"arn:aws:sqs:{REGION}:{OWNER}:RefreshFailuresQueue",
    "TokenRefresherFunction": f"arn:aws:lambda:{REGION}:{OWNER}:function:TokenRefresherFunction",
}
LOGS = {
    "TokenRefresherLogGroup": "/enable-token-broker/broker/token-refresher",
    "TokenVendorLogGroup": "/enable-token-broker/broker/token-vendor",
}


@pytest.fixture
def deployment() -> Deployment:
    """Of the template in a stack named `broker`; each physical id is the logical one."""
    stack = Stack(
        name="broker",
        session=boto3.Session(region_name=REGION),
        status="CREATE_COMPLETE",
        outputs={
            "ClientSecretArn": f"arn:aws:secretsmanager:{REGION}:{OWNER}:secret:broker/connections/"
            "default-AbCdEf",
            "TokenParameterPrefix": "/enable-tokens/broker",
        },
        parameters={},
        aws_time=NOW,
        asked_at=NOW,
    )
    names = {name: name for name in template()["Resources"]}
    return Deployment(stack=stack, resources=names, alarm_names=())


def role_policy(role: str) -> dict:
    def with_arns(value: object) -> object:
        match value:
            case {"Fn::GetAtt": [name, "Arn"]} | {"Fn::GetAtt": [name, _]}:
                return ARNS[name]
            case {"Fn::GetAtt": str(name)}:
                return ARNS[name.removesuffix(".Arn")]
            case dict():
                return {key: with_arns(item) for key, item in value.items()}
            case list():
                return [with_arns(item) for item in value]
        return value

    inline = template()["Resources"][role]["Properties"]["Policies"][0]["PolicyDocument"]
    return Resolver(template(), LOGS).resolve(with_arns(inline))


@pytest.mark.parametrize(
    ("role", "questions"),
    [
        ("TokenRefresherRole", refresher_questions),
        ("TokenVendorRole", vendor_questions),
    ],
)
def test_template_gives_the_expected_decision_for_every_call_of_a_role(
    deployment: Deployment, role: str, questions: Callable[[Deployment], Iterable[Question]]
):
    policy = role_policy(role)
    calls = [
        (question, Call(action, question.resource, frozenset(question.context.items())))
        for question in questions(deployment)
        for action in question.actions
    ]
    assert [c for question, c in calls if allows(policy, c) != question.is_allowed] == []
    needed = {call.action for question, call in calls if question.is_allowed}
    granted = {
        action
        for statement in policy["Statement"]
        if statement["Effect"] == "Allow"
        for action in [statement["Action"]] * isinstance(statement["Action"], str)
        or statement["Action"]
    }
    assert needed == granted


@pytest.mark.parametrize(
    ("accounts", "org", "endpoints"),
    [
        *product(
            ["", "444455556666", "444455556666,777788889999"],
            ["", "o-a1b2c3d4e5"],
            ["", "vpce-0a1b2c3d", "vpce-0a1b2c3d,vpce-1a1b2c3d"],
        )
    ],
)
def test_expected_policy_of_the_api_is_the_templates(accounts: str, org: str, endpoints: str):
    parameters = {"CallerAccounts": accounts, "CallerOrgId": org, "VpcEndpointIds": endpoints}
    api = template()["Resources"]["TokenApi"]["Properties"]["Auth"]["ResourcePolicy"]
    statements = Resolver(template(), parameters).resolve(api["CustomStatements"])
    of_the_template = {"Version": "2012-10-17", "Statement": statements}
    expected = token_api.expected_policy(OWNER, parameters)
    assert token_api.same_policy(of_the_template, expected)
    others = parameters | {"CallerAccounts": "111111111111"}
    assert not token_api.same_policy(of_the_template, token_api.expected_policy(OWNER, others))


def test_policy_is_compared_in_the_form_that_api_gateway_gives_it():
    wanted = token_api.expected_policy(OWNER, {"CallerAccounts": "444455556666"})
    given = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "NobodyElse",
                "Effect": "Deny",
                "Principal": {"AWS": "*"},
                "Action": "execute-api:Invoke",
                "Resource": f"arn:aws:execute-api:{REGION}:{OWNER}:a1b2c3d4e5/*",
                "Condition": {"StringNotEquals": {"aws:PrincipalAccount": ["444455556666", OWNER]}},
            },
            {
                "Sid": "CallerAccounts",
                "Effect": "Allow",
                "Principal": {"AWS": "arn:aws:iam::444455556666:root"},
                "Action": "execute-api:Invoke",
                "Resource": f"arn:aws:execute-api:{REGION}:{OWNER}:a1b2c3d4e5/*",
                "Condition": {"StringNotEquals": {"aws:PrincipalAccount": OWNER}},
            },
        ],
    }
    assert token_api.same_policy(given, wanted)
    given["Statement"][0]["Resource"] += "/GET/grants"
    assert not token_api.same_policy(given, wanted)


def test_routes_runtime_stage_and_retention_are_the_templates():
    resources = template()["Resources"]
    events = resources["TokenVendorFunction"]["Properties"]["Events"].values()
    routes = {(e["Properties"]["Method"], e["Properties"]["Path"]) for e in events}
    assert routes == {*token_api.ROUTES}
    assert resources["TokenApi"]["Properties"]["StageName"] == token_api.STAGE
    assert template()["Globals"]["Function"]["Runtime"] == functions.RUNTIME
    kept = [r["Properties"] for r in resources.values() if r["Type"] == "AWS::Logs::LogGroup"]
    assert {group["RetentionInDays"] for group in kept} == {functions.RETENTION_DAYS}


def test_every_alarm_of_the_template_uses_a_metric_that_is_emitted(deployment: Deployment):
    made = {n: r for n, r in template()["Resources"].items() if r["Type"].endswith("::Alarm")}
    assert len(made) == 10
    names = Resolver(template(), {})
    for name, resource in made.items():
        alarm = dict(resource["Properties"])
        for part in [alarm, *alarm.get("Metrics", [])]:
            if "Dimensions" in part:
                part["Dimensions"] = [
                    {**d, "Value": "RefreshFailuresQueue"}
                    if "Fn::GetAtt" in d["Value"]
                    else names.resolve(d)
                    for d in part["Dimensions"]
                ]
        alarm["Namespace"] = names.resolve(alarm["Namespace"])
        for namespace, metric, dimensions in alarms._looked_at(alarm):
            assert dimensions == alarms._emitted(deployment, namespace, metric), name


def test_metrics_of_the_vendor_are_metrics():
    assert METRICS.keys() > alarms.VENDOR_METRICS
