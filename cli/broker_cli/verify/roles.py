"""What each role may do, asked of IAM's policy simulator.

The simulator is asked first about policies whose outcome is known: one that looks at no
condition, or says yes to everything, proves nothing.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from broker_cli.aws import CONFIG
from broker_cli.verify.result import (
    REFRESHER,
    RESTORE,
    VENDOR,
    Deployment,
    Failed,
    NotChecked,
    Passed,
    Result,
)
from broker_cli.verify.schedule import get_schedule

if TYPE_CHECKING:
    from types_boto3_iam import IAMClient
    from types_boto3_iam.type_defs import ContextEntryTypeDef

_LOG: Final = ("logs:CreateLogStream", "logs:PutLogEvents")
_VIA: Final = "kms:ViaService"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Actions on a resource that a role must be allowed, or denied.

    Attributes:
        context: condition keys of the request.
    """

    actions: tuple[str, ...]
    resource: str
    is_allowed: bool
    context: Mapping[str, str] = field(default_factory=dict)


def may(resource: str, *actions: str, **context: str) -> Question:
    """A role's job."""
    return Question(actions=actions, resource=resource, is_allowed=True, context=_keys(context))


def may_not(resource: str, *actions: str, **context: str) -> Question:
    """What no run of the role's function does."""
    return Question(actions=actions, resource=resource, is_allowed=False, context=_keys(context))


_NAMES: Final = {
    "via": _VIA,
    "secret": "kms:EncryptionContext:SecretARN",
    "parameter": "kms:EncryptionContext:PARAMETER_ARN",
}


def _keys(context: Mapping[str, str]) -> Mapping[str, str]:
    return {_NAMES[name]: value for name, value in context.items()}


@dataclass(frozen=True, slots=True)
class _Names:
    """What the questions are about, in one deployment."""

    deployment: Deployment

    @property
    def secret(self) -> str:
        return self.deployment.stack.outputs["ClientSecretArn"]

    @property
    def foreign_secret(self) -> str:
        return self.deployment.arn("secretsmanager", f"secret:{self._other}/connections/x-AbCdEf")

    @property
    def token(self) -> str:
        return self.parameter(f"{self.deployment.stack.prefix}/deals")

    @property
    def state(self) -> str:
        """What refresh runs keep of a connection."""
        return self.parameter(f"{self.deployment.stack.prefix}/connections/default")

    @property
    def foreign_token(self) -> str:
        return self.parameter(f"/enable-tokens/{self._other}/deals")

    @property
    def key(self) -> str:
        return self.deployment.arn("kms", f"key/{self.deployment.resources['BrokerKey']}")

    @property
    def queue(self) -> str:
        name = self.deployment.resources["RefreshFailuresQueue"].rpartition("/")[2]
        return self.deployment.arn("sqs", name)

    @property
    def _other(self) -> str:
        """The name of a stack that is not this one and does not begin with its name."""
        return f"not-{self.deployment.stack.name}"

    def parameter(self, name: str) -> str:
        return self.deployment.arn("ssm", f"parameter{name}")

    def via(self, service: str) -> str:
        return f"{service}.{self.deployment.stack.session.region_name}.amazonaws.com"

    def log(self, function: str) -> str:
        group = self.deployment.stack.log_group(function)
        return self.deployment.arn("logs", f"log-group:{group}:log-stream:x")


def refresher_questions(deployment: Deployment) -> Iterable[Question]:
    """The refresher reads secrets and keeps tokens; it calls nobody."""
    of = _Names(deployment)
    yield may(of.secret, "secretsmanager:GetSecretValue")
    keep = ("ssm:GetParameter", "ssm:GetParameters", "ssm:PutParameter")
    yield may(of.token, *keep)
    yield may(of.state, *keep)
    yield may(of.queue, "sqs:SendMessage")
    yield may(of.log("token-refresher"), *_LOG)
    yield may_not(of.secret, "secretsmanager:PutSecretValue", "secretsmanager:DeleteSecret")
    yield may_not(of.foreign_secret, "secretsmanager:GetSecretValue")
    yield may_not(of.foreign_token, *keep)
    yield may_not(of.token, "ssm:DeleteParameter")
    yield may_not(deployment.function_arn(VENDOR), "lambda:InvokeFunction")
    yield may_not("*", "iam:PassRole", "sts:AssumeRole")
    secrets, ssm = of.via("secretsmanager"), of.via("ssm")
    use = ("kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey")
    yield may(of.key, "kms:Decrypt", via=secrets, secret=of.secret)
    yield may(of.key, *use, via=ssm, parameter=of.token)
    yield may_not(of.key, "kms:Decrypt", via=secrets, secret=of.foreign_secret)
    yield may_not(of.key, *use, via=ssm, parameter=of.foreign_token)
    yield may_not(of.key, "kms:Decrypt", parameter=of.token)


def vendor_questions(deployment: Deployment) -> Iterable[Question]:
    """The vendor reads tokens and may start the refresher; it cannot reach a secret."""
    of = _Names(deployment)
    yield may(of.token, "ssm:GetParameter")
    yield may(deployment.function_arn(REFRESHER), "lambda:InvokeFunction")
    yield may(of.log("token-vendor"), *_LOG)
    yield may_not(of.secret, "secretsmanager:GetSecretValue", "secretsmanager:DescribeSecret")
    yield may_not(of.token, "ssm:PutParameter", "ssm:DeleteParameter")
    yield may_not(of.state, "ssm:GetParameter", "ssm:GetParameters")
    yield may_not(of.foreign_token, "ssm:GetParameter", "ssm:GetParameters")
    yield may_not("*", "iam:PassRole", "sts:AssumeRole")
    ssm = of.via("ssm")
    yield may(of.key, "kms:Decrypt", via=ssm, parameter=of.token)
    yield may_not(of.key, "kms:Decrypt", via=of.via("secretsmanager"), secret=of.secret)
    yield may_not(of.key, "kms:Encrypt", "kms:GenerateDataKey", via=ssm, parameter=of.token)
    yield may_not(of.key, "kms:Decrypt", parameter=of.token)


def schedule_questions(deployment: Deployment) -> Iterable[Question]:
    """The schedule starts the refresher and nothing else."""
    yield may(deployment.function_arn(REFRESHER), "lambda:InvokeFunction")
    yield may_not(deployment.function_arn(VENDOR), "lambda:InvokeFunction")


def refresher_role(deployment: Deployment) -> Result:
    """The refresher's role, but for the key."""
    return _without_context(deployment, _role(deployment, REFRESHER), refresher_questions)


def refresher_key(deployment: Deployment) -> Result:
    """How the refresher's role may use the key."""
    return _with_context(deployment, _role(deployment, REFRESHER), refresher_questions)


def vendor_role(deployment: Deployment) -> Result:
    """The vendor's role, but for the key."""
    return _without_context(deployment, _role(deployment, VENDOR), vendor_questions)


def vendor_key(deployment: Deployment) -> Result:
    """How the vendor's role may use the key."""
    return _with_context(deployment, _role(deployment, VENDOR), vendor_questions)


def schedule_role(deployment: Deployment) -> Result:
    """The schedule's role."""
    role = get_schedule(deployment)["Target"]["RoleArn"]
    return _without_context(deployment, role, schedule_questions)


def _role(deployment: Deployment, function: str) -> str:
    return str(deployment.functions[function]["Role"])


def _without_context(deployment: Deployment, role: str, questions: "_Questions") -> Result:
    iam = deployment.stack.session.client("iam", config=CONFIG)
    asked = [question for question in questions(deployment) if not question.context]
    if not _is_right(iam, ("yes", {}, True), ("no", {}, False)):
        return NotChecked("IAM's simulator gives the wrong result for a policy that is known")
    return _judged(iam, role, asked)


def _with_context(deployment: Deployment, role: str, questions: "_Questions") -> Result:
    iam = deployment.stack.session.client("iam", config=CONFIG)
    asked = [question for question in questions(deployment) if question.context]
    if not _is_right(iam, ("if", {_VIA: "here"}, True), ("if", {_VIA: "elsewhere"}, False)):
        return NotChecked("IAM's simulator takes no notice of condition keys here")
    return _judged(iam, role, asked)


def _judged(iam: "IAMClient", role: str, asked: list[Question]) -> Result:
    wrong = [text for question in asked for text in _wrong(iam, role, question)]
    if wrong:
        return Failed(f"{role.rpartition('/')[2]}: {'; '.join(wrong)}", RESTORE)
    count = sum(len(question.actions) for question in asked)
    return Passed(f"its job is allowed and the rest is denied ({count} actions simulated)")


def _wrong(iam: "IAMClient", role: str, question: Question) -> Iterable[str]:
    response = iam.simulate_principal_policy(
        PolicySourceArn=role,
        ActionNames=list(question.actions),
        ResourceArns=[question.resource],
        ContextEntries=_entries(question.context),
    )
    for result in response["EvaluationResults"]:
        if (result["EvalDecision"] == "allowed") != question.is_allowed:
            verdict = "is denied" if question.is_allowed else "is allowed, which is not its job"
            through = f" through {via}" if (via := question.context.get(_VIA)) else ""
            yield f"{result['EvalActionName']} on {question.resource}{through} {verdict}"


type _Questions = Callable[[Deployment], Iterable[Question]]

_POLICIES: Final[Mapping[str, dict[str, Any]]] = {
    "yes": {"Action": "kms:Decrypt"},
    "no": {"Action": "kms:Encrypt"},
    "if": {"Action": "kms:Decrypt", "Condition": {"StringEquals": {_VIA: "here"}}},
}


def _is_right(iam: "IAMClient", *known: tuple[str, Mapping[str, str], bool]) -> bool:
    """Whether the simulator decides about kms:Decrypt as it must, for policies that are known."""
    for name, context, is_allowed in known:
        statement = {"Effect": "Allow", "Resource": "*", **_POLICIES[name]}
        response = iam.simulate_custom_policy(
            PolicyInputList=[json.dumps({"Version": "2012-10-17", "Statement": statement})],
            ActionNames=["kms:Decrypt"],
            ContextEntries=_entries(context),
        )
        if (response["EvaluationResults"][0]["EvalDecision"] == "allowed") != is_allowed:
            return False
    return True


def _entries(context: Mapping[str, str]) -> "list[ContextEntryTypeDef]":
    return [
        {"ContextKeyName": key, "ContextKeyValues": [value], "ContextKeyType": "string"}
        for key, value in context.items()
    ]
