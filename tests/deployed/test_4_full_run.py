"""The broker's whole life in an account of its own, at debug level.

Afterwards: each role was allowed what it needed, is denied every other resource of the account,
and no written output contains a secret. The embedded AWS records each decision of IAM, including
the use of the key by Parameter Store and Secrets Manager in the role's name. The calls that it
does not record are derived from what was done, as AWS documents them: Lambda's writes to the log
and the failure queue, and the schedule's call. All calls are evaluated on the deployed policies.
"""

import io
import json
import sys
import uuid
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlencode

import pytest

from local.broker_stack import STACK_NAME, BrokerStack, wait_until
from local.callers import create_role
from local.embedded_aws import REGION
from local.fake_enable import Client, FakeEnable
from tests.deployed.conftest import (
    FULL_RUN_ACCOUNT,
    STANDARD_GRANTS,
    UAT_CLIENT,
    Deployed,
    broken_off,
    end_schedules,
)
from tests.deployed.leaks import all_places, leaks, log_groups
from tests.template.policy import Call, allows, matches
from tests.template.test_template import transformed
from token_broker.models import block_record, fingerprint, rfc3339

pytestmark = pytest.mark.timeout(600)  # the fixture lives a whole life, on a busy machine too

GRANTS = (*STANDARD_GRANTS, "tried-out", "uat-deals")
FUNCTIONS = {"TokenRefresherRole": "RefreshFunctionName", "TokenVendorRole": "VendFunctionName"}
SCHEDULE_ROLE = "TokenRefresherFunctionScheduleRole"
STANDARD_TIER_BYTES = 4096

# A layer that takes the handler's place, as those of observability products do.
TALKATIVE = {
    "POWERTOOLS_LOG_LEVEL": "DEBUG",
    "POWERTOOLS_LOGGER_LOG_EVENT": "true",
    "POWERTOOLS_DEBUG": "true",
    "AWS_LAMBDA_LOG_LEVEL": "DEBUG",
    "PYTHONFAULTHANDLER": "1",
}
WRAPPER = """
import faulthandler, importlib, logging, os, threading, time

logging.basicConfig(level=logging.DEBUG)
logging.getLogger("wrapper").debug("everybody's debug messages are logged")

def dump_tracebacks():
    # dump_traceback_later does so without the interpreter's lock, and at times crashes the process.
    while True:
        time.sleep(2)
        faulthandler.dump_traceback()

threading.Thread(target=dump_tracebacks, daemon=True).start()
module, name = os.environ["WRAPPED_HANDLER"].rsplit(".", 1)
handler = getattr(importlib.import_module(module), name)
"""


@dataclass(frozen=True)
class FullRun:
    """What is known after it.

    Attributes:
        there: everything in the account that a policy could be about.
        recorded: IAM's decisions for each function's role.
        needed: what each role needed, the services' use of the key, log and queue included.
        policies: of each role of the transformed template, as deployed.
    """

    stack: BrokerStack
    secrets: frozenset[str] = field(repr=False)
    there: list[tuple[str, str, frozenset[tuple[str, str]]]] = field(repr=False)
    recorded: dict[str, list[dict]] = field(repr=False)
    needed: dict[str, frozenset[Call]] = field(repr=False)
    policies: dict[str, dict] = field(repr=False)


def make_talkative(stack: BrokerStack) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("python/talkative.py", WRAPPER)
    functions = stack.administrator.client("lambda")
    layer = functions.publish_layer_version(
        LayerName="talkative", Content={"ZipFile": archive.getvalue()}
    )["LayerVersionArn"]
    for output in FUNCTIONS.values():
        name = stack.outputs[output]
        was = functions.get_function_configuration(FunctionName=name)
        variables = was["Environment"]["Variables"] | TALKATIVE
        functions.update_function_configuration(
            FunctionName=name,
            Handler="talkative.handler",
            Layers=[*(layer["Arn"] for layer in was["Layers"]), layer],
            Environment={"Variables": variables | {"WRAPPED_HANDLER": was["Handler"]}},
        )


def a_client(name: str, client_id: str) -> Client:
    return Client(
        client_id=client_id,
        client_secret=f"canary {uuid.uuid4()} {name}",
        dealtrack_registration_id=f"registration of {name}",
    )


class Life:
    """Everything that the broker is there for, once."""

    def __init__(self, stack: BrokerStack, enable: FakeEnable, clients: list[Client]) -> None:
        self.stack, self.enable, self.clients = stack, enable, clients
        self.ssm = stack.administrator.client("ssm")
        api = stack.api
        self.caller = create_role(
            stack.administrator, "locked-job", api.policy("/*", method="*"), path="/jobs/"
        )
        self.legacy_secret = f"canary {uuid.uuid4()} sent by habit"

    def go(self) -> None:
        self.begin_by_schedule()
        self.vend_everything()
        self.change_the_secret()
        self.fall_back()
        self.collide()
        self.recover()
        self.report_a_rejection()
        self.block()
        self.fail_for_good()

    def begin_by_schedule(self) -> None:
        self.stack.administrator.client("secretsmanager").create_secret(
            Name=f"{STACK_NAME}/connections/uat",
            KmsKeyId=self.stack.resource("BrokerKey"),
            SecretString=json.dumps(
                {
                    "client_id": UAT_CLIENT.client_id,
                    "client_secret": UAT_CLIENT.client_secret,
                    "dealtrack_registration_id": UAT_CLIENT.dealtrack_registration_id,
                }
            ),
        )
        self.stack.store_secret(self.clients[0])
        wait_until(
            lambda: all(self.stack.stored_since(grant) for grant in GRANTS),
            seconds=60,
            what="the schedule to renew the grants",
        )

    def request(self, path: str, **more: object) -> int:
        return self.stack.api.request(path, self.caller, **more).status

    def vend_everything(self) -> None:
        assert {self.request(f"/tokens/{grant}") for grant in GRANTS} == {200}
        assert self.request("/tokens/forbidden") == 503
        assert self.request("/grants") == 200
        form = {
            "grant_type": "client_credentials",
            "scope": "read:deals",
            "client_secret": self.legacy_secret,
        }
        assert self.request("/oauth2/token", method="POST", body=urlencode(form).encode()) in {
            200,
            400,
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        form_body = urlencode(form).encode()
        assert self.request("/oauth2/token", method="POST", headers=headers, body=form_body) == 200

    def value(self, grant: str) -> str:
        name = f"{self.stack.outputs['TokenParameterPrefix']}/{grant}"
        return self.ssm.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"]

    def put(self, grant: str, value: str) -> None:
        self.ssm.put_parameter(
            Name=f"{self.stack.outputs['TokenParameterPrefix']}/{grant}",
            Value=value,
            Type="SecureString",
            KeyId=self.stack.resource("BrokerKey"),
            Tier="Intelligent-Tiering",
            Overwrite=True,
        )

    def change_the_secret(self) -> None:
        """To a client with so long an id that its tokens need the advanced tier."""
        self.stack.store_secret(self.clients[1])
        wait_until(
            lambda: len(self.value("deals")) > STANDARD_TIER_BYTES,
            seconds=45,
            what="a token of the changed secret",
        )
        self.stack.refresh({"force": True})

    def fall_back(self) -> None:
        before = self.stack.stored_since("deals")
        self.stack.store_secret(a_client("nobody knows", "mistyped"))
        self.stack.refresh({"force": True})
        assert self.stack.stored_since("deals") != before
        self.stack.store_secret(self.clients[1])

    def collide(self) -> None:
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(self.stack.refresh, [{"force": True}] * 3))

    def recover(self) -> None:
        self.ssm.delete_parameter(Name=f"{self.stack.outputs['TokenParameterPrefix']}/activity")
        self.put("users", "not a token")
        for grant in ("activity", "users"):
            wait_until(
                lambda grant=grant: self.request(f"/tokens/{grant}?min_ttl=500") == 200,
                seconds=45,
                what=f"{grant} to recover",
            )

    def report_a_rejection(self) -> None:
        record = json.loads(self.value("deals"))
        # One that is younger than a minute is not replaced.
        record["issued_at"] = rfc3339(datetime.now(UTC) - timedelta(minutes=5))
        self.put("deals", json.dumps(record))
        body = json.dumps({"fingerprint": fingerprint(record["access_token"])}).encode()
        headers = {"Content-Type": "application/json"}
        path = "/tokens/deals/rejection"

        def is_replaced() -> bool:
            """Reports it again, as callers do: a report that meets another run's lease is lost."""
            self.request(path, method="POST", headers=headers, body=body)
            return json.loads(self.value("deals"))["access_token"] != record["access_token"]

        wait_until(is_replaced, seconds=60, what="the rejected token to be replaced")

    def block(self) -> None:
        self.put("reporting", block_record("a drill", now=datetime.now(UTC)))
        wait_until(
            lambda: self.request("/tokens/reporting") == 503,
            seconds=30,
            what="the block",
        )
        self.stack.refresh({"force": True})

    def fail_for_good(self) -> None:
        """The grant `forbidden` fails every run; one that Lambda retries ends in the queue."""
        self.stack.administrator.client("lambda").invoke(
            FunctionName=self.stack.outputs["RefreshFunctionName"],
            InvocationType="Event",
            Payload=b"{}",
        )
        wait_until(lambda: self.queued() > 0, seconds=45, what="a report of a failed run")

    def queued(self) -> int:
        attributes = self.stack.administrator.client("sqs").get_queue_attributes(
            QueueUrl=self.stack.resource("RefreshFailuresQueue"),
            AttributeNames=["ApproximateNumberOfMessages"],
        )["Attributes"]
        return int(attributes["ApproximateNumberOfMessages"])


def needed_by_record(stack: BrokerStack, role: str, function: str) -> Iterator[dict]:
    """The function's own calls: tests take the role by a session named `job-1`."""
    principal = f"arn:aws:sts::{stack.account}:assumed-role/{role}/{function}"
    for line in (stack.aws.folder / "iam.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if entry["principal"] == principal:
            yield entry


def key_context(service: str, kind: str, arn: str) -> frozenset[tuple[str, str]]:
    return frozenset(
        {
            ("kms:ViaService", f"{service}.{REGION}.amazonaws.com"),
            (f"kms:EncryptionContext:{kind}", arn),
        }
    )


def log_calls(stack: BrokerStack, group: str) -> Iterator[Call]:
    """Lambda's writes to a function's log, in its role's name."""
    logs = stack.administrator.client("logs")
    for stream in logs.describe_log_streams(logGroupName=group)["logStreams"]:
        arn = f"arn:aws:logs:{REGION}:{stack.account}:log-group:{group}:log-stream:"
        yield Call("logs:CreateLogStream", arn + stream["logStreamName"])
        yield Call("logs:PutLogEvents", arn + stream["logStreamName"])


def parameter_arn(stack: BrokerStack, name: str) -> str:
    return f"arn:aws:ssm:{REGION}:{stack.account}:parameter{name}"


def encrypted_parameters(stack: BrokerStack) -> set[str]:
    pages = stack.administrator.client("ssm").get_paginator("describe_parameters").paginate()
    return {
        parameter_arn(stack, parameter["Name"])
        for page in pages
        for parameter in page["Parameters"]
        if parameter["Type"] == "SecureString"
    }


def create_neighbours(stack: BrokerStack) -> None:
    """What is not the broker's, named as like it as can be."""
    administrator = stack.administrator
    administrator.client("ssm").put_parameter(
        Name=f"{stack.outputs['TokenParameterPrefix']}-2/deals", Value="x", Type="SecureString"
    )
    administrator.client("secretsmanager").create_secret(
        Name=f"{STACK_NAME}/elsewhere", SecretString="x"
    )
    administrator.client("sqs").create_queue(QueueName=f"{STACK_NAME}-2")
    logs = administrator.client("logs")
    logs.create_log_group(logGroupName=f"/enable-token-broker/{STACK_NAME}/elsewhere")
    logs.create_log_stream(
        logGroupName=f"/enable-token-broker/{STACK_NAME}/elsewhere", logStreamName="x"
    )


def everything(stack: BrokerStack) -> Iterator[tuple[str, str, frozenset[tuple[str, str]]]]:
    """Whatever is in the account that a role's policy could be about, neighbours included."""
    session, none = stack.administrator, frozenset[tuple[str, str]]()
    key = key_arn(stack)
    yield "kms", key, none  # a direct call
    for page in session.client("ssm").get_paginator("describe_parameters").paginate():
        for parameter in page["Parameters"]:
            yield "ssm", parameter_arn(stack, parameter["Name"]), none
    for arn in encrypted_parameters(stack):
        yield "kms", key, key_context("ssm", "PARAMETER_ARN", arn)
    for secret in session.client("secretsmanager").list_secrets()["SecretList"]:
        yield "secretsmanager", secret["ARN"], none
        yield "kms", key, key_context("secretsmanager", "SecretARN", secret["ARN"])
    for function in session.client("lambda").list_functions()["Functions"]:
        yield "lambda", function["FunctionArn"], none
    for url in session.client("sqs").list_queues()["QueueUrls"]:
        yield "sqs", f"arn:aws:sqs:{REGION}:{stack.account}:{url.rpartition('/')[2]}", none
    for group in session.client("logs").describe_log_groups()["logGroups"]:
        for call in log_calls(stack, group["logGroupName"]):
            yield "logs", call.resource, none


def key_arn(stack: BrokerStack) -> str:
    return f"arn:aws:kms:{REGION}:{stack.account}:key/{stack.resource('BrokerKey')}"


def role_policies(stack: BrokerStack) -> dict[str, dict]:
    """The one policy of each role that the transformed template makes."""
    iam = stack.administrator.client("iam")
    policies = {}
    for role, resource in transformed()["Resources"].items():
        if resource["Type"] != "AWS::IAM::Role":
            continue
        name = stack.resource(role)
        assert iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"] == []
        [policy] = iam.list_role_policies(RoleName=name)["PolicyNames"]
        policies[role] = iam.get_role_policy(RoleName=name, PolicyName=policy)["PolicyDocument"]
    return policies


@pytest.fixture(scope="module")
def run(deployed: Deployed) -> Iterator[FullRun]:
    clients = [a_client("the first", "short"), a_client("the second", "long" * 800)]
    with FakeEnable(*clients, token_lifetime=timedelta(minutes=10)) as enable:
        stack = BrokerStack(
            deployed.stack.aws, account=FULL_RUN_ACCOUNT, source=deployed.stack.source
        )
        stack.deploy(TokenUrl=enable.token_url, RefreshAheadSeconds="30", TokenCacheSeconds="0")
        make_talkative(stack)
        create_neighbours(stack)
        life = Life(stack, enable, clients)
        life.go()
        yield FullRun(
            stack,
            frozenset(
                {
                    life.legacy_secret,
                    life.caller.token,
                    *(client.client_secret for client in clients),
                    *enable.issued_tokens(),
                }
            ),
            list(everything(stack)),  # before what was needed: logs grow meanwhile
            *what_was_needed(stack),
            role_policies(stack),
        )
        end_schedules(stack)


def what_was_needed(
    stack: BrokerStack,
) -> tuple[dict[str, list[dict]], dict[str, frozenset[Call]]]:
    groups = {
        role: f"/enable-token-broker/{STACK_NAME}/{name}"
        for role, name in zip(FUNCTIONS, ("token-refresher", "token-vendor"), strict=True)
    }
    recorded, needed = {}, {}
    for role, output in FUNCTIONS.items():
        entries = list(needed_by_record(stack, stack.resource(role), stack.outputs[output]))
        recorded[role] = entries
        calls = {
            Call(entry["action"], entry["resource"], frozenset(entry["context"].items()))
            for entry in entries
        }
        calls |= {  # what Parameter Store refuses as a whole is read one by one
            Call("ssm:GetParameter", call.resource, call.context)
            for call in calls
            if call.action == "ssm:GetParameters"
        }
        keys = {call.resource for call in calls if call.action.startswith("kms:")}
        assert keys == {key_arn(stack)}
        calls.update(log_calls(stack, groups[role]))
        needed[role] = frozenset(calls)
    queue = stack.resource("RefreshFailuresQueue").rpartition("/")[2]
    needed["TokenRefresherRole"] |= {  # the fixture waited for the message
        Call("sqs:SendMessage", f"arn:aws:sqs:{REGION}:{stack.account}:{queue}")
    }
    refresher = stack.administrator.client("lambda").get_function(
        FunctionName=stack.outputs["RefreshFunctionName"]
    )["Configuration"]["FunctionArn"]
    # The first tokens came by the schedule alone.
    needed[SCHEDULE_ROLE] = frozenset({Call("lambda:InvokeFunction", refresher)})
    return recorded, needed


ROLES = (*FUNCTIONS, SCHEDULE_ROLE)


def test_roles_are_those_of_the_transformed_template(run: FullRun):
    assert set(run.policies) == set(ROLES)


@pytest.mark.parametrize("role", FUNCTIONS)
def test_iam_allowed_every_call_of_the_functions(run: FullRun, role: str):
    assert run.recorded[role]
    assert [entry for entry in run.recorded[role] if not entry["is_allowed"]] == []


@pytest.mark.parametrize("role", ROLES)
def test_everything_needed_is_granted(run: FullRun, role: str):
    assert {call for call in run.needed[role] if not allows(run.policies[role], call)} == set()


@pytest.mark.parametrize("role", ROLES)
def test_every_granted_action_and_resource_was_used(run: FullRun, role: str):
    unused = [
        (action, resource, statement.get("Condition"))
        for statement in run.policies[role]["Statement"]
        if statement["Effect"] == "Allow"
        for action in listed(statement["Action"])
        for resource in listed(statement["Resource"])
        if not any(
            matches(statement | {"Action": action, "Resource": resource}, call)
            for call in run.needed[role]
        )
    ]
    assert unused == []


@pytest.mark.parametrize("role", ROLES)
def test_roles_are_denied_every_other_resource_of_the_account(run: FullRun, role: str):
    granted = {
        action
        for statement in run.policies[role]["Statement"]
        for action in listed(statement["Action"])
    }
    reachable = {
        call
        for service, resource, context in run.there
        for action in granted
        if action.startswith(f"{service}:")
        and allows(run.policies[role], call := Call(action, resource, context))
    }
    assert reachable
    assert {call for call in reachable if not is_needed(call, run.needed[role])} == set()


def is_needed(call: Call, needed: frozenset[Call]) -> bool:
    """Which of two actions writes a token is a matter of its size."""
    if call.action in {"kms:Encrypt", "kms:GenerateDataKey"}:
        both = (replace(call, action="kms:Encrypt"), replace(call, action="kms:GenerateDataKey"))
        return not needed.isdisjoint(both)
    return call in needed


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def test_debug_logging_was_on(run: FullRun):
    written = [text for _, text in log_groups(run.stack)]
    assert any("everybody's debug messages are logged" in text for text in written)
    assert any("Thread 0x" in text for text in written)  # faulthandler's


def test_no_run_ended_with_its_environment(run: FullRun):
    assert broken_off(run.stack) == []


def test_no_written_output_contains_a_secret(run: FullRun):
    assert len(run.secrets) > len(GRANTS)
    assert leaks(all_places(run.stack, run.stack.source), run.secrets) == set()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_crash_of_a_function_would_leave_no_memory_in_a_file(run: FullRun):
    limits = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"HOME={run.stack.aws.folder}".encode() in (process / "environ").read_bytes():
                limits.append((process / "limits").read_text())
        except OSError:
            continue
    lines = [line for text in limits for line in text.splitlines() if "core file" in line]
    assert lines
    assert {tuple(line.split()[4:6]) for line in lines} == {("0", "0")}
