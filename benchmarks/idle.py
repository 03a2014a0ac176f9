"""A refresh run that finds nothing due: AWS calls and decryptions, by the embedded AWS's record.

The default stack's run is the deployed function's; that of many grants takes the function's role.
"""

import json
import math
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

from benchmarks.lab import Lab
from benchmarks.results import Row
from local.broker_stack import BrokerStack
from local.callers import assume_role
from token_broker.aws import describe_fault
from token_broker.grants import Grant, load_grants
from token_broker.models import StoredToken
from token_broker.token_store import ParameterTokenStore
from token_refresher.connection_state import ConnectionStateStore
from token_refresher.credentials import SecretReader
from token_refresher.enable.endpoint import TokenEndpoint
from token_refresher.enable.http_client import HttpClient
from token_refresher.outcomes import State
from token_refresher.parameter_reader import MOST_NAMES, ParameterReader
from token_refresher.refresh import Refresher
from token_refresher.refresh_request import RefreshRequest

MANY: Final = 100


def rows(lab: Lab) -> list[Row]:
    """The default stack's idle run, and one of many grants."""
    # The first renews what has become due meanwhile, the second reads that, the third is idle.
    default = [lambda: lab.stack.refresh({})] * 3
    few = _counted(lab.stack, default, session=lab.stack.outputs["RefreshFunctionName"])
    many = _counted(lab.stack, [_run_of_many(lab)] * 2, session="job-1")
    return [
        *_rows(len(load_grants()), "the default stack", *few),
        *_rows(MANY, f"{MANY} grants", *many),
    ]


def _rows(grants: int, what: str, calls: int, decryptions: int) -> Iterable[Row]:
    most = math.ceil((grants + 1) / MOST_NAMES)
    yield Row.at_most(f"an idle run of {what}", calls, most, "calls of AWS")
    yield Row.at_most(f"an idle run of {what}", decryptions, 0, "decryptions")


def _counted(
    stack: BrokerStack, runs: Iterable[Callable[[], object]], *, session: str
) -> tuple[int, int]:
    """AWS calls and decryptions of the last of some runs by a session of the refresher's role."""
    principal = f"arn:aws:sts::{stack.account}:assumed-role/{stack.resource('TokenRefresherRole')}"
    file = stack.aws.folder / "iam.jsonl"
    for run in runs:
        before = len(file.read_text(encoding="utf-8").splitlines())
        run()
    lines = map(json.loads, file.read_text(encoding="utf-8").splitlines()[before:])
    ours = [line for line in lines if line["principal"] == f"{principal}/{session}"]
    decryptions = sum(line["action"] == "kms:Decrypt" for line in ours)
    return len({line["request"] for line in ours}), decryptions


def _run_of_many(lab: Lab) -> Callable[[], object]:
    """A run of many grants, whose tokens are fresh.

    Raises:
        RuntimeError: on running it, if a token was due.
    """
    stack, now = lab.stack, datetime.now(UTC).replace(microsecond=0)
    prefix, key = stack.outputs["TokenParameterPrefix"], stack.resource("BrokerKey")
    grants = {f"many-{number}": Grant(scope=("read:deals",)) for number in range(MANY)}
    writer = ParameterTokenStore(stack.administrator.client("ssm"), prefix=prefix, key_id=key)
    for name, grant in grants.items():
        expires_at = now + timedelta(hours=1)
        token = StoredToken(
            access_token=name, scope=grant.scope, issued_at=now, expires_at=expires_at
        )
        writer.write(name, token)
    arn = f"arn:aws:iam::{stack.account}:role/{stack.resource('TokenRefresherRole')}"
    role = stack.aws.session(assume_role(stack.administrator, arn))
    ssm = role.client("ssm")
    store = ParameterTokenStore(ssm, prefix=prefix, key_id=key)
    states = ConnectionStateStore(ssm, prefix=prefix)
    refresher = Refresher(
        grants=grants,
        endpoints={"default": TokenEndpoint(lab.enable.token_url, http=HttpClient())},
        reader=ParameterReader(ssm, store=store, states=states),
        store=store,
        states=states,
        secrets=SecretReader(role.client("secretsmanager"), prefix=f"{stack.name}/connections/"),
        refresh_ahead=timedelta(minutes=10),
        parallelism=8,
        describe_fault=describe_fault,
    )

    def run() -> None:
        outcomes = refresher.run(RefreshRequest(), time_left=lambda: timedelta(minutes=1))
        if {outcome.state for outcome in outcomes} != {State.NOT_DUE}:
            raise RuntimeError("a run that was to be idle renewed a token, or failed")

    return run
