import re
import traceback

import boto3
import botocore.session
import pytest
from botocore.credentials import Credentials, ReadOnlyCredentials
from botocore.exceptions import ConnectTimeoutError, CredentialRetrievalError, ProfileNotFound

from enable_broker_client import (
    BrokerClientError,
    InvalidRequest,
    NoCredentials,
    NotAllowed,
    NotConfigured,
    Request,
    Response,
    TokenSource,
    UnexpectedResponse,
    UnknownGrant,
)

URL = "https://abc123.execute-api.eu-west-1.amazonaws.com/v1"
LOCAL_URL = "http://127.0.0.1:4566/v1"
TOKEN = "eyJhbGciOiJIUzI1NiJ9.c3RvcmVk.c2lnbmF0dXJl"
VENDED = Response(
    status=200,
    body=(
        f'{{"access_token": "{TOKEN}", "token_type": "Bearer", "expires_in": 600,'
        ' "expires_at": "2025-03-01T12:10:00Z", "scope": "read:deals"}'
    ).encode(),
)


class Recorder:
    """A transport that always sends the same response."""

    def __init__(self, response: Response = VENDED) -> None:
        self.response = response
        self.requests: list[Request] = []

    def __call__(self, request: Request, /) -> Response:
        self.requests.append(request)
        return self.response


class Session:
    """Nothing but credentials: neither botocore's nor boto3's."""

    def __init__(self, credentials: Credentials | None) -> None:
        self.credentials = credentials

    def get_credentials(self) -> Credentials | None:
        return self.credentials


KEY = Session(Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI", "a-session-token"))


@pytest.fixture(autouse=True)
def _no_ambient_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_DEFAULT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "none")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "none")


def signed_region(recorder: Recorder) -> str:
    authorization = recorder.requests[-1].headers["Authorization"]
    assert "/execute-api/aws4_request" in authorization
    return authorization.split("/")[2]


def refused(response: Response, url: str = URL) -> BrokerClientError:
    source = TokenSource(
        url, "deals", session=KEY, region="eu-west-1", transport=Recorder(response)
    )
    with pytest.raises(BrokerClientError) as raised:
        source.get()
    return raised.value


def test_request_is_signed_for_execute_api_in_the_region_of_the_host():
    recorder = Recorder()
    assert TokenSource(f"{URL}/", "deals", session=KEY, transport=recorder).get() == TOKEN
    (request,) = recorder.requests
    assert (request.method, request.url, request.body) == ("GET", f"{URL}/tokens/deals", None)
    assert signed_region(recorder) == "eu-west-1"
    assert request.headers["X-Amz-Security-Token"] == "a-session-token"
    assert "Host" not in request.headers
    assert "Authorization" not in repr(request)


@pytest.mark.parametrize(
    ("url", "host", "region", "expected"),
    [
        (URL, None, "us-east-1", "eu-west-1"),
        (LOCAL_URL, "abc123.execute-api.localhost:4566", "us-east-1", "us-east-1"),
        (
            "https://vpce-0a1.execute-api.eu-north-1.vpce.amazonaws.com/v1",
            None,
            None,
            "eu-north-1",
        ),
        (
            "https://proxy.example/v1",
            "abc123.execute-api.cn-north-1.amazonaws.com.cn",
            None,
            "cn-north-1",
        ),
        ("https://tokens.example/v1", None, "eu-west-2", "eu-west-2"),
    ],
)
def test_region_is_the_execute_api_hosts_or_the_arguments(
    url: str, host: str | None, region: str | None, expected: str
):
    recorder = Recorder()
    TokenSource(url, "deals", session=KEY, region=region, host=host, transport=recorder).get()
    assert signed_region(recorder) == expected
    assert recorder.requests[0].headers.get("Host") == host


def test_region_and_credentials_may_be_a_boto3_or_a_botocore_sessions():
    ordinary = botocore.session.Session()
    ordinary.set_config_variable("region", "eu-central-1")
    ordinary.set_credentials("AKIDEXAMPLE", "a-key")
    for session in (boto3.Session("AKIDEXAMPLE", "a-key", region_name="eu-central-1"), ordinary):
        recorder = Recorder()
        TokenSource(LOCAL_URL, "deals", session=session, transport=recorder).get()
        assert signed_region(recorder) == "eu-central-1"


def test_ordinary_chain_is_sent_at_the_first_request_only(monkeypatch: pytest.MonkeyPatch):
    recorder = Recorder()
    source = TokenSource(LOCAL_URL, "deals", transport=recorder)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-key")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "ap-south-1")
    source.get()
    assert signed_region(recorder) == "ap-south-1"


def test_credentials_are_frozen_again_for_each_request():
    class Rotating(Credentials):
        def get_frozen_credentials(self) -> ReadOnlyCredentials:
            keys.append(f"AKID{len(keys)}")
            return ReadOnlyCredentials(keys[-1], "a-key", "a-session-token", None)

    keys: list[str] = []
    recorder = Recorder()
    source = TokenSource(
        URL, "deals", session=Session(Rotating("unused", "unused")), transport=recorder
    )
    source.reject(source.get())
    assert keys[:2] == ["AKID0", "AKID1"]
    for key, request in zip(keys, recorder.requests, strict=True):
        assert f"Credential={key}/" in request.headers["Authorization"]


def test_report_is_signed_json():
    recorder = Recorder(Response(status=202))
    TokenSource(URL, "deals", session=KEY, transport=recorder).reject(TOKEN)
    request = recorder.requests[0]
    assert (request.method, request.url) == ("POST", f"{URL}/tokens/deals/rejection")
    assert request.headers["Content-Type"] == "application/json"
    assert request.body is not None
    assert TOKEN.encode() not in request.body
    assert "content-type;host" in request.headers["Authorization"]


class Waiting:
    """A clock that sleeping alone moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def unhurried(session: Session, recorder: Recorder) -> TokenSource:
    clock = Waiting()
    return TokenSource(
        URL, "deals", session=session, transport=recorder, clock=clock, sleep=clock.sleep
    )


class Late(Credentials):
    """Fails as often as there are faults."""

    def __init__(self, *faults: Exception) -> None:
        super().__init__("AKIDEXAMPLE", "a-key")
        self.faults = list(faults)

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        if self.faults:
            raise self.faults.pop(0)
        return super().get_frozen_credentials()


@pytest.mark.parametrize(
    "fault",
    [
        CredentialRetrievalError(provider="sso", error_msg="timed out"),
        ConnectTimeoutError(endpoint_url="http://169.254.169.254"),
        TimeoutError(),
    ],
    ids=repr,
)
def test_credentials_that_come_late_are_waited_for(fault: Exception):
    recorder = Recorder()
    assert unhurried(Session(Late(fault, fault)), recorder).get() == TOKEN
    assert len(recorder.requests) == 1


def test_look_up_of_credentials_that_finds_none_at_first_is_made_again():
    class Twice(Session):
        def get_credentials(self) -> Credentials | None:
            found.append(None)
            return self.credentials if len(found) > 1 else None

    found: list[None] = []
    assert unhurried(Twice(Credentials("AKIDEXAMPLE", "a-key")), Recorder()).get() == TOKEN


def test_missing_credentials_are_named_when_the_budget_is_spent():
    with pytest.raises(NoCredentials, match="no AWS credentials were found") as raised:
        unhurried(Session(None), Recorder()).get()
    assert isinstance(raised.value, NotConfigured)


def test_credentials_that_cannot_be_renewed_are_named():
    always = [CredentialRetrievalError(provider="sso", error_msg="expired")] * 100
    with pytest.raises(NoCredentials, match=r"now \(CredentialRetrievalError\)"):
        unhurried(Session(Late(*always)), Recorder()).get()


def test_faulty_configuration_and_missing_region_are_named_at_once():
    recorder = Recorder()
    source = unhurried(Session(Late(ProfileNotFound(profile="typo"))), recorder)
    with pytest.raises(NotConfigured, match=r"profile \(typo\) could not be found"):
        source.get()
    with pytest.raises(NotConfigured, match=r"no AWS region: .* set AWS_DEFAULT_REGION"):
        TokenSource(LOCAL_URL, "deals", session=KEY, transport=recorder).get()
    assert recorder.requests == []


def test_403_of_iam_names_the_action_and_the_resource():
    error = refused(
        Response(status=403, headers={"x-amzn-errortype": "AccessDeniedException"}, body=b"{}")
    )
    assert isinstance(error, NotAllowed)
    assert (error.grant, error.status, error.code) == ("deals", 403, "AccessDeniedException")
    assert str(error) == (
        "grant deals: HTTP 403 (AccessDeniedException): the caller's IAM policy must allow "
        "execute-api:Invoke on arn:aws:execute-api:eu-west-1:*:abc123/v1/GET/tokens/deals"
    )


def test_403_of_an_unknown_host_names_the_resource_as_far_as_it_is_known():
    message = str(refused(Response(status=403), LOCAL_URL))
    assert message.endswith("arn:aws:execute-api:eu-west-1:*:*/*/GET/tokens/deals")


@pytest.mark.parametrize(
    ("response", "hint"),
    [
        (Response(status=403, body=b'{"error": "access_denied"}'), "callers"),
        (Response(status=403, headers={"x-amzn-errortype": "ExpiredTokenException"}), "expired"),
        (Response(status=403, headers={"x-amzn-errortype": "NewException"}), "with this code"),
        (
            Response(
                status=403, headers={"x-amzn-errortype": "MissingAuthenticationTokenException"}
            ),
            "TokenApiUrl",
        ),
        (Response(status=403, headers={"x-amzn-errortype": "InvalidSignatureException"}), "clock"),
    ],
)
def test_other_403s_say_what_to_look_at(response: Response, hint: str):
    error = refused(response)
    assert isinstance(error, NotAllowed)
    assert hint in str(error)


def test_forbidden_exception_blames_neither_signature_nor_clock_nor_policy():
    error = str(refused(Response(status=403, headers={"x-amzn-errortype": "ForbiddenException"})))
    assert "URL's host, stage and path" in error
    assert not any(word in error for word in ("signature", "clock", "IAM"))


@pytest.mark.parametrize(
    ("url", "host", "resource"),
    [
        ("https://tokens.example/base", None, "aws:execute-api:eu-west-1:*:*/*"),
        (
            "https://vpce-0a1-b2.execute-api.eu-west-1.vpce.amazonaws.com/v1",
            None,
            "aws:execute-api:eu-west-1:*:*/v1",
        ),
        (
            "https://vpce-0a1-b2.execute-api.eu-west-1.vpce.amazonaws.com/v1",
            "abc123.execute-api.eu-west-1.amazonaws.com",
            "aws:execute-api:eu-west-1:*:abc123/v1",
        ),
        (
            "https://abc123-vpce-0a1b2.execute-api.eu-west-1.amazonaws.com/v1",
            None,
            "aws:execute-api:eu-west-1:*:abc123/v1",
        ),
        (
            "https://abc123.execute-api.cn-north-1.amazonaws.com.cn/v1",
            None,
            "aws-cn:execute-api:cn-north-1:*:abc123/v1",
        ),
        (
            "https://abc123.execute-api.us-gov-west-1.amazonaws.com/v1",
            None,
            "aws-us-gov:execute-api:us-gov-west-1:*:abc123/v1",
        ),
    ],
)
def test_hinted_resource_has_only_what_the_host_tells(url: str, host: str | None, resource: str):
    denied = Response(status=403, headers={"x-amzn-errortype": "AccessDeniedException"})
    source = TokenSource(
        url, "deals", session=KEY, region="eu-west-1", host=host, transport=Recorder(denied)
    )
    with pytest.raises(NotAllowed, match=re.escape(f" on arn:{resource}/GET/tokens/deals")):
        source.get()


def test_text_of_api_gateway_that_quotes_signed_headers_is_not_repeated():
    error = refused(
        Response(
            status=403,
            headers={"x-amzn-errortype": "Bad Type: x-amz-security-token:a-session-token"},
            body=b'{"message": "The Canonical String \\nx-amz-security-token:a-session-token"}',
        )
    )
    assert "a-session-token" not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    ("status", "leaf"),
    [
        (400, InvalidRequest),
        (404, UnknownGrant),
        (301, UnexpectedResponse),
        (401, UnexpectedResponse),
        (204, UnexpectedResponse),
    ],
)
def test_status_is_a_typed_fact(status: int, leaf: type[BrokerClientError]):
    error = refused(Response(status=status, body=b'{"error": "a_code", "error_description": "no"}'))
    assert type(error) is leaf
    assert str(error).startswith(f"grant deals: HTTP {status} (a_code): ")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("access_token", '"two words"'),
        ("access_token", '"line\\r\\nSet-Cookie: x"'),
        ("access_token", '""'),
        ("access_token", "17"),
        ("token_type", '"mac"'),
        ("expires_in", '"600"'),
        ("expires_in", "-1"),
        ("expires_in", "1e3"),
        ("expires_in", "9" * 400),
        ("expires_at", '"soon"'),
        ("expires_at", '"2025-03-01T12:10:00"'),
    ],
)
def test_response_that_is_no_token_is_not_used(field: str, value: str):
    fields = {
        "access_token": f'"{TOKEN}"',
        "token_type": '"Bearer"',
        "expires_in": "600",
        "expires_at": '"2025-03-01T12:10:00Z"',
        field: value,
    }
    body = "{" + ", ".join(f'"{name}": {text}' for name, text in fields.items()) + "}"
    waited: list[float] = []

    def clock() -> float:
        return sum(waited)

    source = TokenSource(
        URL,
        "deals",
        session=KEY,
        transport=Recorder(Response(status=200, body=body.encode())),
        clock=clock,
        sleep=waited.append,
    )
    with pytest.raises(BrokerClientError, match="HTTP 200 without a token") as raised:
        source.get()
    assert TOKEN not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize(
    ("url", "grant", "fault"),
    [
        ("http://abc123.execute-api.eu-west-1.amazonaws.com/v1", "deals", "https"),
        ("http://127.0.0.1.example/v1", "deals", "https"),
        ("ftp://127.0.0.1/v1", "deals", "https"),
        ("abc123.execute-api.eu-west-1.amazonaws.com/v1", "deals", "TokenApiUrl"),
        ("https://user:pass@tokens.example/v1", "deals", "TokenApiUrl"),
        (f"{URL}?stage=v1", "deals", "TokenApiUrl"),
        (URL, "../deals", "grant must match"),
        (URL, "", "grant must match"),
    ],
)
def test_faulty_arguments_are_refused_at_once(url: str, grant: str, fault: str):
    with pytest.raises(ValueError, match=fault):
        TokenSource(url, grant, session=KEY)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "abc.localhost"])
def test_plain_http_is_for_this_machine(host: str):
    TokenSource(f"http://{host}:4566/v1", "deals", session=KEY)
