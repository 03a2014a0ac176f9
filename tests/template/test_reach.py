"""Who gets to the API: its resource policy, evaluated for every kind of caller."""

import json
import re
import shlex
from datetime import timedelta
from functools import cache
from itertools import pairwise, product

import boto3
import pytest
from cfnlint.api import ManualArgs, lint
from samcli.cli.types import CfnParameterOverridesType
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator

from tests.template.policy import OWNER, Caller, Resolver, effects, gets_in
from tests.template.test_template import ROOT, template
from tests.unit.fakes import (
    FakeClock,
    FakeContext,
    FakeStore,
    FrozenDatetime,
    event,
    output_of,
    stored,
)
from token_broker.grants import Grant
from token_vendor import app
from token_vendor.refresh_starter import RefreshStarter
from token_vendor.vend import Vendor

REACH = ("CallerAccounts", "CallerOrgId", "VpcEndpointIds", "RequestsPerSecond", "AccessLogs")
LISTED, STRANGER = "444455556666", "999900001111"
ORG, OTHER_ORG = "o-a1b2c3d4e5", "o-zzzzzzzzzz"
VPCE, SECOND_VPCE, OTHER_VPCE = (f"vpce-{digit * 17}" for digit in "123")
CALLERS = [
    Caller(account, org=org, vpce=vpce, has_policy=has_policy)
    for account, org, vpce, has_policy in product(
        (OWNER, LISTED, STRANGER),
        (None, ORG, OTHER_ORG),
        (None, VPCE, SECOND_VPCE, OTHER_VPCE),
        (True, False),
    )
]
COMBINATIONS = [
    {"CallerAccounts": accounts, "CallerOrgId": org, "VpcEndpointIds": endpoints}
    for accounts, org, endpoints in product(
        ("", LISTED, f"{LISTED},{OWNER}", f"777788889999,{LISTED}"),
        ("", ORG),
        ("", VPCE, f"{VPCE},{SECOND_VPCE}"),
    )
]
OPEN_TO_OTHERS = [c for c in COMBINATIONS if c["CallerAccounts"] or c["CallerOrgId"]]
BY_OTHER_ACCOUNT = event("get_token_by_other_account.json")
each_combination = pytest.mark.parametrize(
    "parameters", COMBINATIONS, ids=lambda p: "+".join(filter(None, p.values())) or "none"
)


def documented() -> list[dict[str, str]]:
    """The parameters of each `sam deploy` line of the docs, all of them together, and none."""
    lines = re.findall(r"^sam deploy .*$", (ROOT / "docs/reach.md").read_text(), re.MULTILINE)
    read = CfnParameterOverridesType().convert
    alone = [read((shlex.split(line)[-1],), None, None) for line in lines]
    together = {name: value for parameters in alone for name, value in parameters.items()}
    return [*alone, together, {}]


@cache
def resources(**parameters: str) -> dict:
    """The API's resources as SAM hands them to CloudFormation, for values of the parameters."""
    wanted = {"Resources": {"TokenApi": template()["Resources"]["TokenApi"]}}
    translator = Translator({}, Parser(), boto_session=boto3.Session(region_name="eu-west-1"))
    local = json.loads(json.dumps(template() | wanted))
    return translator.translate(local, parameters)["Resources"]


def resolved(name: str, **parameters: str) -> dict:
    """Properties of a resource, as CloudFormation makes them."""
    made = resources(**parameters)
    whole = template() | {"Resources": template()["Resources"] | made}
    return Resolver(whole, parameters).resolve(made[name]["Properties"])


def policy(**parameters: str) -> dict:
    return resolved("TokenApi", **parameters)["Body"]["x-amazon-apigateway-policy"]


def is_meant_to_get_in(caller: Caller, parameters: dict[str, str]) -> bool:
    """The rule in docs/reach.md."""
    endpoints, accounts, org = (
        parameters[name] for name in ("VpcEndpointIds", "CallerAccounts", "CallerOrgId")
    )
    if not caller.has_policy or (endpoints and caller.vpce not in endpoints.split(",")):
        return False
    return caller.account in {OWNER, *accounts.split(",")} or bool(org and caller.org == org)


@each_combination
def test_only_intended_callers_are_allowed(parameters: dict[str, str]):
    given = policy(**parameters)
    for caller in CALLERS:
        assert gets_in(given, caller) is is_meant_to_get_in(caller, parameters), caller


@each_combination
def test_resource_policy_alone_allows_nobody(parameters: dict[str, str]):
    given = policy(**parameters)
    assert not [c for c in CALLERS if not c.has_policy and gets_in(given, c)]
    assert not [c for c in CALLERS if c.account == OWNER and "Allow" in effects(given, c)]


@each_combination
def test_other_account_of_no_known_organization_is_denied(parameters: dict[str, str]):
    given = policy(**parameters)
    for org, vpce in product((None, OTHER_ORG), (None, VPCE, OTHER_VPCE)):
        caller = Caller(STRANGER, org=org, vpce=vpce, has_policy=True)
        assert effects(given, caller) == {"Deny"}


@each_combination
def test_request_without_a_signature_is_denied(parameters: dict[str, str]):
    given = policy(**parameters)
    for vpce in (None, VPCE, OTHER_VPCE):
        assert effects(given, Caller(None, vpce=vpce)) == {"Deny"}


@pytest.mark.parametrize("parameters", OPEN_TO_OTHERS, ids=str)
def test_allow_without_its_condition_is_found(parameters: dict[str, str]):
    given = policy(**parameters)
    for statement in given["Statement"]:
        if statement["Effect"] == "Allow":
            del statement["Condition"]["StringNotEquals"]
            statement["Principal"] = "*"
    caller = Caller(OWNER, org=ORG, vpce=VPCE)
    assert gets_in(given, caller)


def test_default_policy_only_denies_everybody_else():
    assert policy()["Statement"] == [
        {
            "Sid": "NobodyElse",
            "Effect": "Deny",
            "Principal": "*",
            "Action": "execute-api:Invoke",
            "Resource": "execute-api:/*",
            "Condition": {"StringNotEquals": {"aws:PrincipalAccount": OWNER}},
        }
    ]
    assert resolved("TokenApi")["EndpointConfiguration"] == {
        "Types": ["REGIONAL"],
        "IpAddressType": "dualstack",
    }
    stage = resolved("TokenApiv1Stage")
    assert stage["MethodSettings"] == []
    assert "AccessLogSetting" not in stage


def test_a_new_policy_is_a_new_deployment_of_the_stage():
    def deployment(**parameters: str) -> str:
        return resources(**parameters)["TokenApiv1Stage"]["Properties"]["DeploymentId"]["Ref"]

    assert len({deployment(**c) for c in COMBINATIONS}) == len(COMBINATIONS)
    assert deployment(RequestsPerSecond="5", AccessLogs="true") == deployment()


def test_endpoints_make_the_api_private():
    api = resolved("TokenApi", VpcEndpointIds=f"{VPCE},{SECOND_VPCE}")
    assert api["EndpointConfiguration"] == {
        "Types": ["PRIVATE"],
        "IpAddressType": "dualstack",
        "VpcEndpointIds": [VPCE, SECOND_VPCE],
    }


# Each step is an update of the stack before it.
ROUNDS = [
    [{}, {"VpcEndpointIds": VPCE}, {"VpcEndpointIds": SECOND_VPCE}, {}],
    [{}, {"CallerAccounts": LISTED}, {"CallerAccounts": LISTED, "CallerOrgId": ORG}, {}],
    [{}, {"CallerOrgId": ORG}, {"CallerOrgId": ORG, "VpcEndpointIds": VPCE}, {}],
]


@pytest.mark.parametrize("steps", ROUNDS, ids=str)
def test_each_update_changes_the_policy_and_redeploys_the_stage(steps: list[dict[str, str]]):
    for before, after in pairwise(steps):
        old, new = resources(**before), resources(**after)
        assert policy(**before) != policy(**after)
        (gone,) = old.keys() - new.keys()
        (made,) = new.keys() - old.keys()
        assert old[gone]["Type"] == new[made]["Type"] == "AWS::ApiGateway::Deployment"
        assert new["TokenApiv1Stage"]["Properties"]["DeploymentId"] == {"Ref": made}
        others = (old.keys() & new.keys()) - {"TokenApi", "TokenApiv1Stage"}
        assert all(old[name] == new[name] for name in others)
    assert resolved("TokenApi", **steps[0]) == resolved("TokenApi", **steps[-1])


@each_combination
def test_type_endpoints_and_mode_of_an_api_fit_each_other(parameters: dict[str, str]):
    api = resolved("TokenApi", **parameters)
    endpoints = parameters["VpcEndpointIds"]
    configuration = api["EndpointConfiguration"]
    # a private API may be reached by both kinds of address only, a public one by either
    assert configuration["IpAddressType"] == "dualstack"
    assert ("VpcEndpointIds" in configuration) is (configuration["Types"] == ["PRIVATE"])
    assert configuration["Types"] == ["PRIVATE" if endpoints else "REGIONAL"]
    assert api["Mode"] == ("merge" if endpoints else "overwrite")
    assert ("aws:SourceVpce" in json.dumps(policy(**parameters))) is bool(endpoints)


def test_throttling_is_of_every_method_alike():
    assert resolved("TokenApiv1Stage", RequestsPerSecond="20")["MethodSettings"] == [
        {
            "HttpMethod": "*",
            "ResourcePath": "/*",
            "ThrottlingRateLimit": "20",
            "ThrottlingBurstLimit": "20",
        }
    ]


def test_access_log_is_json_without_caller_controlled_text():
    group = template()["Resources"]["TokenApiLogGroup"]
    assert group["Condition"] == "HasAccessLogs"
    assert group["Properties"]["RetentionInDays"] == 30
    setting = resolved("TokenApiv1Stage", AccessLogs="true")["AccessLogSetting"]
    assert setting["DestinationArn"].endswith(":log-group:TokenApiLogGroup")
    assert json.loads(setting["Format"]) == {
        "request_id": "$context.requestId",
        "time": "$context.requestTime",
        "caller": "$context.identity.userArn",
        "source_ip": "$context.identity.sourceIp",
        "method": "$context.httpMethod",
        "path": "$context.resourcePath",
        "status": "$context.status",
        "latency_ms": "$context.responseLatency",
        "integration_latency_ms": "$context.integrationLatency",
    }


@pytest.mark.parametrize("parameters", documented(), ids=str)
def test_documented_deployments_are_accepted(parameters: dict[str, str]):
    for name, value in parameters.items():
        pattern = template()["Parameters"][name].get("AllowedPattern", ".*")
        assert re.fullmatch(pattern, value)


def test_documented_deployments_are_lint_clean():
    """In one pass: cfn-lint follows each condition both ways, whatever the parameters are."""
    text = (ROOT / "template.yaml").read_text()
    *_, together, _none = documented()
    for name, value in together.items():
        text, found = re.subn(
            rf"(?m)^(  {name}:\n    Type: \w+\n    Default: ).*$", rf'\g<1>"{value}"', text
        )
        assert found == 1
    assert lint(text, config=ManualArgs(regions=["eu-west-1"])) == []


def test_every_parameter_is_documented_with_its_deployment():
    *_, together, _ = documented()
    assert tuple(together) == REACH
    groups = template()["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    assert [g["Parameters"] for g in groups if g["Label"]["default"] == "Reach"] == [list(REACH)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CallerAccounts", "*"),
        ("CallerAccounts", "44445555666"),
        ("CallerAccounts", "444455556666, 777788889999"),
        ("CallerAccounts", "444455556666,"),
        ("CallerAccounts", "arn:aws:iam::444455556666:root"),
        ("CallerAccounts", ",".join([LISTED] * 101)),
        ("CallerOrgId", "*"),
        ("CallerOrgId", "o-*"),
        ("CallerOrgId", "o-a1b2c3d4e5/r-ab12"),
        ("VpcEndpointIds", "vpce-*"),
        ("VpcEndpointIds", "vpc-0a1b2c3d4e5f60718"),
        ("VpcEndpointIds", f"{VPCE} {SECOND_VPCE}"),
    ],
)
def test_value_that_would_open_more_or_nothing_is_refused(name: str, value: str):
    assert not re.fullmatch(template()["Parameters"][name]["AllowedPattern"], value)


@pytest.mark.parametrize(
    ("parameters", "is_let_through"),
    [({}, False), ({"CallerAccounts": LISTED}, True), ({"CallerOrgId": "o-exampleorgid"}, True)],
    ids=str,
)
def test_role_of_another_account_needs_both_policies(
    parameters: dict[str, str],
    is_let_through: bool,  # noqa: FBT001
):
    identity = BY_OTHER_ACCOUNT["requestContext"]["identity"]
    for has_policy in (True, False):
        caller = Caller(
            identity["accountId"], org=identity["principalOrgId"], has_policy=has_policy
        )
        assert gets_in(policy(**parameters), caller) is (is_let_through and has_policy)


@pytest.mark.parametrize(
    ("callers", "status"),
    [
        (None, 200),
        ((f"arn:aws:iam::{LISTED}:role/crm-*",), 200),
        ((f"arn:aws:iam::{LISTED}:role/hr-*", f"arn:aws:iam::{OWNER}:role/crm-*"), 403),
    ],
    ids=["callers absent", "match", "no match"],
)
def test_role_of_another_account_is_checked_against_callers(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    callers: tuple[str, ...] | None,
    status: int,
):
    vendor = Vendor(
        grants={"deals": Grant(scope=("read:deals",), callers=callers)},
        store=FakeStore({"deals": stored()}),
        cache_window=timedelta(),
        refresh_ahead=timedelta(seconds=600),
        on_read_fault=pytest.fail,
        now=FakeClock(),
    )
    starter = RefreshStarter(invoke=pytest.fail, on_fault=pytest.fail)
    monkeypatch.setattr(app, "_wiring", lambda: app.Wiring(vendor, starter))
    monkeypatch.setattr(app, "datetime", FrozenDatetime)
    with output_of(app.logger, capsys) as output:
        response = app.lambda_handler(BY_OTHER_ACCOUNT, FakeContext())
        [line] = output.lines()
    assert response["statusCode"] == status
    assert line["message"] == ("token vended" if status == 200 else "token refused")
    assert line["caller"] == f"arn:aws:sts::{LISTED}:assumed-role/crm-sync/run-42"
