"""Every fake of the unit tests: clock, store, endpoint, HTTP pool, AWS clients, context."""

import base64
import io
import json
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote, quote_plus

import boto3
import pytest
import urllib3
from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.exceptions import ClientError

from token_broker.models import StoredToken, TokenRequest, TokenResponse
from token_refresher.credentials import ClientCredentials
from token_refresher.refresh import Credentials, Endpoint, TokenStore
from token_vendor.vend import TokenReader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from types_boto3_secretsmanager import SecretsManagerClient
    from types_boto3_ssm import SSMClient

NOW: Final = datetime(2025, 3, 1, 12, 0, tzinfo=UTC)
EVENTS: Final = Path(__file__).resolve().parents[2] / "events"
SECRET: Final = 'p+ss w&rd=%/ü€"\\'
TOKEN: Final = "eyJhbGciOiJIUzI1NiJ9.c3RvcmVk.c2lnbmF0dXJl"
CREDENTIALS: Final = ClientCredentials(
    client_id="7f0c1a52", client_secret=SECRET, dealtrack_registration_id="c3b2&=%"
)


def event(name: str) -> dict[str, Any]:
    """A sample event of events/, fresh for each test."""
    loaded: dict[str, Any] = json.loads((EVENTS / name).read_text(encoding="utf-8"))
    return loaded


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def jwt(**claims: object) -> str:
    """An unsigned token of the shape of a JWT."""
    parts = json.dumps({"alg": "none"}), json.dumps(claims), "signature"
    return ".".join(base64.urlsafe_b64encode(p.encode()).decode().rstrip("=") for p in parts)


def stored(
    access_token: str = TOKEN,
    *,
    left: float = 3600,
    age: float = 0,
    scope: tuple[str, ...] = ("read:deals",),
) -> StoredToken:
    """A token that was issued `age` seconds before NOW and has `left` seconds at NOW."""
    return StoredToken(
        access_token=access_token,
        scope=scope,
        issued_at=NOW - seconds(age),
        expires_at=NOW + seconds(left),
    )


def client_error(code: str, operation: str, message: str = f"quotes {SECRET} and {TOKEN}") -> Any:
    return ClientError({"Error": {"Code": code, "Message": message}}, operation)


def leaks(*texts: str) -> list[str]:
    """Which of the secret and the token the texts hold, plain, escaped or encoded."""
    spellings = {
        form
        for value in (SECRET, TOKEN)
        for form in (
            value,
            repr(value)[1:-1],
            json.dumps(value)[1:-1],
            json.dumps(value, ensure_ascii=False)[1:-1],
            quote(value),
            quote_plus(value),
        )
    }
    return [spelling for spelling in spellings for text in texts if spelling in text]


def all_said(error: BaseException) -> str:
    """All that printing, logging or reporting an error would show, with its chain.

    Left out, a bug: a suppressed `__context__` still holds what pydantic or json quoted.
    """
    said = ["".join(traceback.format_exception(error))]
    link: BaseException | None = error
    while link is not None:
        said += [str(link), repr(link), repr(link.args), repr(vars(link))]
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return "\n".join(said)


@dataclass
class FakeClock:
    """Stands still until it is wound on."""

    time: datetime = NOW

    def __call__(self) -> datetime:
        return self.time

    def wind(self, by: float) -> None:
        self.time += seconds(by)


class FrozenDatetime(datetime):
    """`datetime` of a module under test: its now() is NOW."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        assert tz is UTC
        return cls(NOW.year, NOW.month, NOW.day, NOW.hour, tzinfo=tz)


@dataclass
class FakeStore:
    """Tokens in a dictionary; a grant in `faults` cannot be read, one in `unwritable` written."""

    tokens: dict[str, StoredToken] = field(default_factory=dict)
    faults: dict[str, Exception] = field(default_factory=dict)
    unwritable: dict[str, Exception] = field(default_factory=dict)
    reads: list[str] = field(default_factory=list)
    meet: Callable[[], object] = lambda: None

    def read(self, grant: str) -> StoredToken | None:
        self.reads.append(grant)
        self.meet()
        if grant in self.faults:
            raise self.faults[grant]
        return self.tokens.get(grant)

    def write(self, grant: str, token: StoredToken) -> None:
        if grant in self.unwritable:
            raise self.unwritable[grant]
        self.tokens[grant] = token


@dataclass
class FakeEndpoint:
    """Answers by scope, otherwise with an opaque token of an hour."""

    answers: dict[str, TokenResponse | Exception] = field(default_factory=dict)
    requests: list[TokenRequest] = field(default_factory=list)
    on_request: Callable[[], object] = lambda: None

    def request_token(
        self, request: TokenRequest, *, time_left: Callable[[], timedelta]
    ) -> TokenResponse:
        assert time_left() > timedelta()
        self.requests.append(request)
        self.on_request()
        scope = " ".join(request.scope)
        answer = self.answers.get(scope)
        if isinstance(answer, Exception):
            raise answer
        opaque = "new-token-for-" + scope.replace(" ", "-")
        return answer or TokenResponse(access_token=opaque, token_type="Bearer", expires_in=3600)

    @property
    def scopes(self) -> list[str]:
        return [" ".join(request.scope) for request in self.requests]


@dataclass
class FakeSecret:
    """Reads the credentials and counts how often; `fault` makes every read fail."""

    fault: Exception | None = None
    reads: int = 0

    def __call__(self) -> ClientCredentials:
        self.reads += 1
        if self.fault:
            raise self.fault
        return CREDENTIALS


def answer(
    status: int, body: bytes | Mapping[str, object] = b"", headers: Mapping[str, str] | None = None
) -> urllib3.HTTPResponse:
    """A real urllib3 response that reads from memory."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return urllib3.HTTPResponse(
        body=io.BytesIO(data),
        headers={"Content-Length": str(len(data)), **(headers or {})},
        status=status,
        preload_content=False,
        request_method="POST",
    )


class FakePool(urllib3.PoolManager):
    """Gives scripted answers, or raises them; keeps what was asked."""

    def __init__(self, *script: urllib3.BaseHTTPResponse | Exception) -> None:
        super().__init__()
        self.script = list(script)
        self.requests: list[tuple[str, str, dict[str, Any]]] = []

    def request(self, method: str, url: str, **options: Any) -> urllib3.BaseHTTPResponse:  # type: ignore[override]
        self.requests.append((method, url, options))
        scripted = self.script.pop(0)
        if isinstance(scripted, Exception):
            raise scripted
        return scripted


def ssm_client() -> "SSMClient":
    """A real client, to be stubbed: the stub checks parameters against AWS's own model."""
    return boto3.client(
        "ssm", region_name="eu-west-1", aws_access_key_id="id", aws_secret_access_key="key"
    )


def secrets_client() -> "SecretsManagerClient":
    """As `ssm_client`."""
    return boto3.client(
        "secretsmanager",
        region_name="eu-west-1",
        aws_access_key_id="id",
        aws_secret_access_key="key",
    )


@dataclass
class FakeContext(LambdaContext):
    """Lambda's context, with a given time left."""

    milliseconds: int = 60_000
    _aws_request_id: str = "5a1c7e0e-request"
    _function_name: str = "function"
    _memory_limit_in_mb: int = 512
    _invoked_function_arn: str = "arn:aws:lambda:eu-west-1:111122223333:function:function"

    def get_remaining_time_in_millis(self) -> int:  # type: ignore[override]
        return self.milliseconds


@dataclass
class Output:
    """What a handler logs and which metrics it emits."""

    log: io.StringIO
    capsys: pytest.CaptureFixture[str]
    _printed: str = ""

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.getvalue().splitlines()]

    def metrics(self) -> list[dict[str, Any]]:
        self._printed += self.capsys.readouterr().out
        return [json.loads(line) for line in self._printed.splitlines()]

    def text(self) -> str:
        self._printed += "".join(self.capsys.readouterr())
        return self.log.getvalue() + self._printed


@contextmanager
def output_of(logger: Logger, capsys: pytest.CaptureFixture[str]) -> "Iterator[Output]":
    """Collect the lines of a logger, whose stream is older than any capture."""
    handler: Any = logger.registered_handler
    stream = io.StringIO()
    before = handler.setStream(stream)
    yield Output(stream, capsys)
    handler.setStream(before)


def everyone_at_once(parties: int) -> Callable[[], object]:
    """Fails unless `parties` threads call it at the same time."""
    return threading.Barrier(parties, timeout=2).wait


# What mypy checks here: each fake is what its consumer's Protocol asks for.
_STORE: TokenStore = FakeStore()
_READER: TokenReader = FakeStore()
_ENDPOINT: Endpoint = FakeEndpoint()
_READ_CREDENTIALS: Callable[[], Credentials] = FakeSecret()
_NOW: Callable[[], datetime] = FakeClock()
