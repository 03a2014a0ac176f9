"""What the template promises that the embedded AWS does not check, and that all names agree."""

import importlib
import json
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml

from token_refresher.credentials import PLACEHOLDER
from tools import audit

ROOT = Path(__file__).resolve().parent.parent.parent
FUNCTIONS = ("TokenRefresherFunction", "TokenVendorFunction")
ROLES = ("TokenRefresherRole", "TokenVendorRole")


class _Loader(yaml.SafeLoader):
    """Reads CloudFormation's short forms as their long ones."""


def _short_form(loader: _Loader, suffix: str, node: yaml.Node) -> dict[str, object]:
    value = (
        loader.construct_scalar(node)
        if isinstance(node, yaml.ScalarNode)
        else loader.construct_sequence(node, deep=True)
    )
    if suffix == "GetAtt":
        return {"Fn::GetAtt": value.split(".")}
    return {"Ref" if suffix == "Ref" else f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _short_form)


@cache
def template() -> dict:
    return yaml.load((ROOT / "template.yaml").read_text(), _Loader)  # noqa: S506 - a SafeLoader


@cache
def transformed() -> dict:
    """The template as SAM hands it to CloudFormation."""
    return audit.transformed((ROOT / "template.yaml").read_text())


def statements(role: str) -> list[dict]:
    policies = template()["Resources"][role]["Properties"]["Policies"]
    always = [policy for policy in policies if "Fn::If" not in policy]
    return [s for policy in always for s in policy["PolicyDocument"]["Statement"]]


def actions(statement: dict) -> list[str]:
    action = statement["Action"]
    return [action] if isinstance(action, str) else action


def test_development_folders_are_the_templates_code_uris():
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    folders = build["targets"]["wheel"]["dev-mode-dirs"]
    resources = template()["Resources"]
    uris = [resources[f]["Properties"]["CodeUri"] for f in FUNCTIONS]
    layers = ("SharedLayer", "GrantsLayer")
    uris += [resources[layer]["Properties"]["ContentUri"] for layer in layers]
    assert sorted([*uris, "clients/python", "cli", "."]) == sorted(folders)
    assert all((ROOT / uri).is_dir() for uri in uris)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_handler_resolves(function: str):
    properties = template()["Resources"][function]["Properties"]
    module, name = properties["Handler"].rsplit(".", 1)
    handler = importlib.import_module(module)
    assert callable(getattr(handler, name))
    assert Path(handler.__file__).is_relative_to(ROOT / properties["CodeUri"])


@pytest.mark.parametrize("function", FUNCTIONS)
def test_function_gets_exactly_the_variables_it_reads(function: str):
    common = template()["Globals"]["Function"]["Environment"]["Variables"]
    own = template()["Resources"][function]["Properties"]["Environment"]["Variables"]
    package = ROOT / template()["Resources"][function]["Properties"]["CodeUri"]
    files = [*package.rglob("app.py"), ROOT / "layers/shared/token_broker/metrics.py"]
    code = "".join(file.read_text() for file in files)
    others = ("POWERTOOLS_", "HTTPS_PROXY", "NO_PROXY")  # what their own readers document
    ours = [name for name in {**common, **own} if not name.startswith(others)]
    assert ours
    for name in ours:
        assert f'"{name}"' in code


def test_no_statement_allows_a_wildcard_action_or_every_resource():
    for role in ROLES:
        for statement in statements(role):
            assert statement["Resource"] != "*"
            assert not [action for action in actions(statement) if "*" in action]


def test_roles_have_only_their_inline_policy():
    for role in ROLES:
        properties = template()["Resources"][role]["Properties"]
        assert "ManagedPolicyArns" not in properties
        trust = properties["AssumeRolePolicyDocument"]["Statement"]
        assert [s["Principal"] for s in trust] == [{"Service": "lambda.amazonaws.com"}]


def test_only_a_refresher_in_subnets_may_have_interfaces_made_and_its_code_may_not_make_any():
    *_, in_subnets = template()["Resources"]["TokenRefresherRole"]["Properties"]["Policies"]
    condition, policy, otherwise = in_subnets["Fn::If"]
    assert (condition, otherwise) == ("HasSubnets", {"Ref": "AWS::NoValue"})
    allow, deny = policy["PolicyDocument"]["Statement"]
    assert [allow["Effect"], deny["Effect"]] == ["Allow", "Deny"]
    assert set(allow["Action"]) == {
        f"ec2:{name}"
        for name in (
            "CreateNetworkInterface",
            "DeleteNetworkInterface",
            "DescribeNetworkInterfaces",
            "DescribeSubnets",
            "AssignPrivateIpAddresses",
            "UnassignPrivateIpAddresses",
        )
    }
    assert deny["Action"] == allow["Action"]
    own = deny["Condition"]["ArnLike"]["lambda:SourceFunctionArn"]["Fn::Sub"]
    assert own.endswith(":function:${AWS::StackName}-*")


def test_proxy_and_its_exceptions_are_set_together():
    properties = template()["Resources"]["TokenRefresherFunction"]["Properties"]
    variables = properties["Environment"]["Variables"]
    for name, parameter in (("HTTPS_PROXY", "HttpsProxy"), ("NO_PROXY", "NoProxy")):
        nothing = {"Ref": "AWS::NoValue"}
        assert variables[name] == {"Fn::If": ["HasProxy", {"Ref": parameter}, nothing]}


def test_no_parameter_keeps_a_guided_deployment_waiting():
    """The SAM CLI asks for a parameter with NoEcho until it gets one that is not empty."""
    assert [name for name, p in template()["Parameters"].items() if "NoEcho" in p] == []


@pytest.mark.parametrize(
    ("parameter", "value", "is_accepted"),
    [
        ("HttpsProxy", "", True),
        ("HttpsProxy", "http://proxy.example:3128", True),
        ("HttpsProxy", "https://" + "user:pass%40word@proxy.example:3128", True),
        ("HttpsProxy", "socks5://proxy.example", False),
        ("HttpsProxy", "http://proxy.example:3128/path", False),
        ("NoProxy", "", True),
        ("NoProxy", ".amazonaws.com,10.0.0.1,*", True),
        ("NoProxy", ".amazonaws.com, other", False),
        ("CaBundleParameter", "", True),
        ("CaBundleParameter", "/network/ca.pem", True),
        ("CaBundleParameter", "network", False),
        ("CaBundleParameter", "/network/*", False),
        ("SubnetIds", "subnet-0123456789abcdef0,subnet-01234567", True),
        ("SubnetIds", "subnet-1, subnet-2", False),
        ("SecurityGroupIds", "sg-0123456789abcdef0", True),
        ("SecurityGroupIds", "default", False),
    ],
)
def test_network_parameters_take_what_they_say(
    parameter: str,
    value: str,
    is_accepted: bool,  # noqa: FBT001
):
    pattern = template()["Parameters"][parameter]["AllowedPattern"]
    assert bool(re.fullmatch(pattern, value)) is is_accepted


def test_actions_of_each_role_are_its_job():
    jobs = {
        "TokenRefresherRole": {
            "secretsmanager:GetSecretValue",
            "ssm:GetParameter",
            "ssm:GetParameters",
            "ssm:PutParameter",
            "kms:Decrypt",
            "kms:Encrypt",
            "kms:GenerateDataKey",
            "sqs:SendMessage",
            "logs:CreateLogStream",
            "logs:PutLogEvents",
        },
        "TokenVendorRole": {
            "ssm:GetParameter",
            "lambda:InvokeFunction",
            "kms:Decrypt",
            "logs:CreateLogStream",
            "logs:PutLogEvents",
        },
    }
    for role, job in jobs.items():
        assert {action for s in statements(role) for action in actions(s)} == job


def test_every_use_of_the_key_is_bound_to_a_service_and_an_encryption_context():
    parameters = {
        "Fn::Sub": "arn:${AWS::Partition}:ssm:${AWS::Region}:${AWS::AccountId}:"
        "parameter/enable-tokens/${AWS::StackName}/*"
    }
    secrets = {
        "Fn::Sub": "arn:${AWS::Partition}:secretsmanager:${AWS::Region}:${AWS::AccountId}:"
        "secret:${AWS::StackName}/connections/*"
    }
    contexts = {
        "secretsmanager": {"kms:EncryptionContext:SecretARN": secrets},
        "ssm": {"kms:EncryptionContext:PARAMETER_ARN": parameters},
    }
    found = []
    for role in ROLES:
        for statement in statements(role):
            if not any(action.startswith("kms:") for action in actions(statement)):
                continue
            assert statement["Resource"] == {"Fn::GetAtt": ["BrokerKey", "Arn"]}
            equals = dict(statement["Condition"]["StringEquals"])
            service = equals.pop("kms:ViaService")["Fn::Sub"].split(".")[0]
            assert {**equals, **statement["Condition"].get("StringLike", {})} == contexts[service]
            found.append((role, service))
    assert sorted(found) == [
        ("TokenRefresherRole", "secretsmanager"),
        ("TokenRefresherRole", "ssm"),
        ("TokenVendorRole", "ssm"),
    ]


def test_secret_and_tokens_use_the_one_key():
    secret = template()["Resources"]["ClientSecret"]["Properties"]
    assert secret["KmsKeyId"] == {"Fn::GetAtt": ["BrokerKey", "Arn"]}
    refresher = template()["Resources"]["TokenRefresherFunction"]["Properties"]
    assert refresher["Environment"]["Variables"]["TOKEN_KEY_ARN"] == secret["KmsKeyId"]


def test_placeholder_of_the_secret_is_the_one_the_refresher_rejects():
    fields = json.loads(template()["Resources"]["ClientSecret"]["Properties"]["SecretString"])
    assert set(fields) == {"client_id", "client_secret", "dealtrack_registration_id"}
    assert set(fields.values()) == {PLACEHOLDER}


def test_every_method_of_the_api_needs_iam_and_no_credentials_are_passed_on():
    api = transformed()["Resources"]["TokenApi"]["Properties"]["Body"]
    methods = [
        (path, method, definition)
        for path, item in api["paths"].items()
        for method, definition in item.items()
    ]
    assert {(path, method) for path, method, _ in methods} == {
        ("/tokens/{grant}", "get"),
        ("/tokens/{grant}/rejection", "post"),
        ("/grants", "get"),
        ("/oauth2/token", "post"),
    }
    for _, _, definition in methods:
        assert definition["security"] == [{"AWS_IAM": []}]
        assert "credentials" not in definition["x-amazon-apigateway-integration"]


def test_log_groups_are_the_templates_own_and_kept_for_30_days():
    for function, group in zip(
        FUNCTIONS, ("TokenRefresherLogGroup", "TokenVendorLogGroup"), strict=True
    ):
        resources = template()["Resources"]
        assert resources[function]["Properties"]["LoggingConfig"] == {"LogGroup": {"Ref": group}}
        assert resources[group]["Properties"]["RetentionInDays"] == 30


def test_schedule_has_its_own_retry_policy_and_failures_go_to_the_queue():
    resources = transformed()["Resources"]
    schedule = resources["TokenRefresherFunctionSchedule"]["Properties"]
    assert schedule["Target"]["RetryPolicy"]["MaximumRetryAttempts"] == 3
    config = resources["TokenRefresherFunctionEventInvokeConfig"]["Properties"]
    assert config["DestinationConfig"]["OnFailure"]["Destination"] == {
        "Fn::GetAtt": ["RefreshFailuresQueue", "Arn"]
    }


def test_label_event_is_the_first_that_renews_after_a_new_secret():
    events = template()["Resources"]["TokenRefresherFunction"]["Properties"]["Events"]
    pattern = events["SecretChanged"]["Properties"]["Pattern"]
    assert pattern["source"] == ["aws.secretsmanager"]
    first, *cloudtrail = pattern["$or"]
    assert set(first) == {"resources"}
    assert all(set(more) == {"detail"} for more in cloudtrail)


def test_parameters_all_have_defaults_and_descriptions_and_stand_in_a_group():
    parameters = template()["Parameters"]
    interface = template()["Metadata"]["AWS::CloudFormation::Interface"]
    grouped = [name for group in interface["ParameterGroups"] for name in group["Parameters"]]
    assert grouped == list(parameters)  # `sam deploy --guided` asks in the template's order
    assert grouped == list(interface["ParameterLabels"])
    for parameter in parameters.values():
        assert "Default" in parameter
        assert parameter["Description"].endswith(".")
        assert ". " not in parameter["Description"]  # one sentence


def test_application_can_be_published_under_the_version_of_the_project():
    application = template()["Metadata"]["AWS::ServerlessRepo::Application"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert application["Name"] == project["name"]
    assert application["SemanticVersion"] == project["version"]
    assert application["SpdxLicenseId"] == project["license"]
    for file in ("LicenseUrl", "ReadmeUrl"):
        assert (ROOT / application[file]).is_file()
    assert len(application["Description"]) <= 256
    assert re.fullmatch(r"[a-z0-9](-?[a-z0-9])*", application["Author"])
    assert len(application["Labels"]) <= 10


@pytest.mark.parametrize(
    ("url", "is_accepted"),
    [
        ("https://api.deal-track.com/oauth2/token", True),
        ("https://enable.example:8443/token", True),
        ("http://127.0.0.1:8080/oauth2/token", True),
        ("http://localhost/oauth2/token", True),
        ("http://api.deal-track.com/oauth2/token", False),
        ("http://127.0.0.1.example.com/token", False),
        ("https://user@api.deal-track.com/token", False),
        ("https://api.deal-track.com/token?x=1", False),
        ("ftp://api.deal-track.com/token", False),
    ],
)
def test_token_url_is_https_or_loopback(url: str, is_accepted: bool):  # noqa: FBT001
    pattern = template()["Parameters"]["TokenUrl"]["AllowedPattern"]
    assert bool(re.fullmatch(pattern, url)) is is_accepted


def test_no_output_contains_a_secret():
    assert not [key for key in template()["Outputs"] if "Token" in key and "Arn" in key]
    for output in template()["Outputs"].values():
        assert "SecretString" not in json.dumps(output)
