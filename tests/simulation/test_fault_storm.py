"""200 refresh runs in simulated time, with a fault in three of ten requests.

The broker's own code, the real botocore with its retries and the real retry loop of the token
endpoint run over a cloud and an Enable kept in memory; faults are drawn for each single
request, from the seed and the request's own name, so that threads change nothing.
"""

import io
import json
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
import urllib3
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.config import Config
from botocore.exceptions import ReadTimeoutError
from urllib3 import HTTPHeaderDict

from token_broker.aws import CLIENT_CONFIG, WRITER_CONFIG, describe_fault
from token_broker.errors import NoLiveToken
from token_broker.grants import Grant
from token_broker.token_store import ParameterTokenStore
from token_refresher.connection_state import ConnectionStateStore
from token_refresher.credentials import SecretReader
from token_refresher.enable.endpoint import TokenEndpoint
from token_refresher.enable.http_client import HttpClient, NoResponse, Response
from token_refresher.outcomes import State
from token_refresher.parameter_reader import ParameterReader
from token_refresher.refresh import Refresher
from token_refresher.refresh_request import RefreshRequest
from token_vendor.vend import Vendor, VendRequest

FAULT_RATE = 0.3
RUNS = 200
TICK = timedelta(minutes=1)
LIFETIME = timedelta(minutes=15)
GRANTS = {name: Grant(scope=(f"read:{name}",)) for name in ("deals", "activity", "users")}
SECRET = json.dumps({"client_id": "c", "client_secret": "s", "dealtrack_registration_id": "r"})


@dataclass
class World:
    """Time, chance, AWS and Enable."""

    seed: int
    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    parameters: dict[str, list[str]] = field(default_factory=dict)
    issued: dict[str, datetime] = field(default_factory=dict)
    drawn: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)

    def fault(self, request: str, kinds: tuple[str, ...]) -> str | None:
        """Whether this request, the n-th of its name at this moment, fails, and how."""
        key = f"{self.seed} {self.now} {request}"
        self.drawn[key] += 1
        chance = random.Random(f"{key} {self.drawn[key]}")  # noqa: S311 - reproducible on purpose
        if chance.random() >= FAULT_RATE:
            return None
        kind = chance.choice(kinds)
        self.faults[kind] += 1
        return kind

    # AWS, as botocore's before-send hook sees it.

    def respond_as_aws(self, request: AWSPreparedRequest, **_: object) -> AWSResponse:
        operation = request.headers["X-Amz-Target"].decode().split(".")[-1]
        arguments = json.loads(request.body)
        name = arguments.get("Name", arguments.get("SecretId", arguments.get("Names")))
        kind = self.fault(f"{operation} {name}", ("throttled", "500", "lost", "timeout"))
        if kind == "throttled":
            return _aws(request, 400, {"__type": "ThrottlingException", "message": ""})
        if kind == "500":
            return _aws(request, 500, {"__type": "InternalServerError", "message": ""})
        if kind == "timeout":
            raise ReadTimeoutError(endpoint_url=request.url)
        response = self._aws(operation, arguments, request)
        if kind == "lost":  # done, but the response is lost
            raise ReadTimeoutError(endpoint_url=request.url)
        return response

    def _aws(
        self, operation: str, arguments: dict[str, Any], request: AWSPreparedRequest
    ) -> AWSResponse:
        if operation == "GetSecretValue":
            if arguments["VersionStage"] != "AWSCURRENT":
                return _aws(request, 400, {"__type": "ResourceNotFoundException", "message": ""})
            return _aws(request, 200, {"SecretString": SECRET, "VersionId": "v" * 32})
        if operation == "PutParameter":
            versions = self.parameters.setdefault(arguments["Name"], [])
            versions.append(arguments["Value"])
            return _aws(request, 200, {"Version": len(versions)})
        if operation == "GetParameters":
            found = filter(None, map(self._parameter, arguments["Names"]))
            return _aws(request, 200, {"Parameters": list(found)})
        if parameter := self._parameter(arguments["Name"]):
            return _aws(request, 200, {"Parameter": parameter})
        return _aws(request, 400, {"__type": "ParameterNotFound", "message": ""})

    def _parameter(self, name: str) -> dict[str, object] | None:
        name, _, version = name.partition(":")
        versions = self.parameters.get(name, [])
        number = int(version or len(versions))
        if not 1 <= number <= len(versions):
            return None
        value = {"Value": versions[number - 1], "Version": number}
        return {"Name": name, "LastModifiedDate": number, **value}

    # Enable, as the token endpoint's HTTP client sees it.

    def enable_response(self, request: bytes) -> Response:
        kind = self.fault(request.decode(), ("503", "reset", "429", "html"))
        if kind == "reset":
            raise NoResponse("connection")
        if kind == "503":
            return Response(status=503)
        if kind == "429":
            return Response(status=429, headers=HTTPHeaderDict({"Retry-After": "30"}))
        if kind == "html":
            return Response(status=200, body=b"<html>")
        token = f"token-{len(self.issued)}"
        self.issued[token] = self.now + LIFETIME
        fields = {"access_token": token, "token_type": "bearer", "expires_in": 900}
        return Response(status=200, body=json.dumps(fields).encode())


class WorldsHttp(HttpClient):
    """Sends requests to the Enable of a world, not to a network."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def request(self, _method: str, _url: str, *, body: bytes, **_: object) -> Response:  # type: ignore[override]
        return self._world.enable_response(body)


def _aws(request: AWSPreparedRequest, status: int, body: dict[str, object]) -> AWSResponse:
    headers = {"Content-Type": "application/x-amz-json-1.1"}
    raw = urllib3.HTTPResponse(io.BytesIO(json.dumps(body).encode()), preload_content=False)
    return AWSResponse(request.url, status, headers, raw)


@contextmanager
def _no_waiting() -> Iterator[None]:
    """Retries happen at once: waiting is not what is tried here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("botocore.endpoint.time.sleep", lambda _seconds: None)
        yield


def _client(world: World, service: str, config: Config):
    client = boto3.client(
        service,
        region_name="eu-west-1",
        aws_access_key_id="AKIA",
        aws_secret_access_key="any",
        config=config,
    )
    client.meta.events.register("before-send", world.respond_as_aws)
    return client


def play(seed: int, runs: int = RUNS) -> tuple[World, Counter[str]]:
    """One storm; counts what callers got and how runs left the grants."""
    world = World(seed)
    counts: Counter[str] = Counter()
    began = world.now

    def elapsed() -> float:
        return (world.now - began).total_seconds()

    prefix = "/enable-tokens/simulation"
    ssm = _client(world, "ssm", CLIENT_CONFIG)
    writer = _client(world, "ssm", WRITER_CONFIG)
    store = ParameterTokenStore(ssm, writer=writer, prefix=prefix, key_id="key")
    states = ConnectionStateStore(ssm, prefix=prefix)
    refresher = Refresher(
        grants=GRANTS,
        endpoints={
            "default": TokenEndpoint(
                "https://enable.invalid/oauth2/token",
                http=WorldsHttp(world),
                now=lambda: world.now,
            )
        },
        reader=ParameterReader(ssm, store=store, states=states),
        store=store,
        states=states,
        secrets=SecretReader(
            _client(world, "secretsmanager", CLIENT_CONFIG), prefix="simulation/connections/"
        ),
        refresh_ahead=timedelta(minutes=10),
        parallelism=8,
        describe_fault=describe_fault,
        now=lambda: world.now,
        pause=lambda _seconds: None,
    )
    vendors = [
        Vendor(
            grants=GRANTS,
            store=ParameterTokenStore(_client(world, "ssm", CLIENT_CONFIG), prefix=prefix),
            cache_window=timedelta(seconds=60),
            refresh_ahead=timedelta(minutes=10),
            on_read_fault=lambda _error: None,
            now=lambda: world.now,
            monotonic=elapsed,
        )
        for _ in range(2)
    ]
    had = set()
    for _ in range(runs):
        outcomes = refresher.run(RefreshRequest(), time_left=lambda: timedelta(seconds=50))
        counts.update(outcome.state for outcome in outcomes)
        for _ in range(4):
            world.now += TICK / 4
            for number, vendor in enumerate(vendors):
                for grant in GRANTS:
                    try:
                        token = vendor.vend(VendRequest(grant=grant, caller_arn="arn")).token
                    except NoLiveToken:
                        counts["503"] += (number, grant) in had
                    except Exception:
                        counts["fault"] += (number, grant) in had
                    else:
                        had.add((number, grant))
                        counts["vended"] += 1
                        counts["expired"] += world.issued[token.access_token] <= world.now
    return world, counts


@pytest.mark.slow("hours of simulated time with each kind of fault")
def test_no_caller_ever_gets_an_expired_token_or_a_503():
    with _no_waiting():
        world, counts = play(seed=1)
    assert counts["expired"] == 0
    assert counts["503"] == 0
    assert counts["fault"] == 0
    assert counts["vended"] > 0.99 * RUNS * 4 * 2 * len(GRANTS)
    assert set(world.faults) == {
        "throttled",
        "500",
        "lost",
        "timeout",
        "503",
        "reset",
        "429",
        "html",
    }
    assert counts[State.FAILED] > 10  # it was a storm


def test_storm_is_reproducible_from_its_seed():
    with _no_waiting():
        first, again = (play(seed=2, runs=25) for _ in range(2))
    assert sum(first[0].faults.values()) > 25
    assert first[1] == again[1]
    assert first[0].faults == again[0].faults
