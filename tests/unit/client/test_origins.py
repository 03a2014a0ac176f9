import pytest

from enable_broker_client.origins import Audience

URL = "https://api.example/v1/deals"


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example",
        "https://api.example/",
        "HTTPS://API.example:443/v1?x=1",
        "https://api.example./v1",
    ],
)
def test_origin_is_a_scheme_a_host_and_a_port_however_written(url: str):
    assert Audience("https://api.example").includes(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://api.example/v1",
        "https://api.example:8443/v1",
        "https://api.example.org/v1",
        "https://xapi.example/v1",
        "https://api.example@stranger.example/v1",
        "https://stranger.example/https://api.example",
        "/v1/deals",
    ],
)
def test_nothing_but_the_origin_is_sent_the_token(url: str, caplog: pytest.LogCaptureFixture):
    audience = Audience("https://api.example")
    assert not audience.includes(url)
    assert not audience.includes(url)
    assert caplog.text.count("no token is sent to") == 1


@pytest.mark.parametrize(
    ("url", "is_included"),
    [
        ("https://anybody.example/v1", True),
        ("http://127.0.0.1:8000/v1", True),
        ("http://localhost/v1", True),
        ("http://anybody.example/v1", False),
        ("http://127.0.0.1.example/v1", False),
        ("ftp://127.0.0.1/v1", False),
    ],
)
def test_without_an_origin_https_alone_is_sent_the_token_and_this_machine(
    url: str, *, is_included: bool
):
    assert Audience(None).includes(url) is is_included


@pytest.mark.parametrize(
    ("origin", "fault"),
    [
        ("http://api.example", "in the clear"),
        ("api.example", "https://host"),
        ("https://api.example/v1", "without a path"),
        ("https://me@api.example", "without a user"),
        ("https://api.example:port", "Port"),
        ("", "https://host"),
    ],
)
def test_faulty_origin_is_refused_at_once(origin: str, fault: str):
    with pytest.raises(ValueError, match=fault):
        Audience(origin)


def test_401_of_a_host_that_never_accepted_a_token_does_not_count_against_one():
    audience = Audience(None)
    assert not audience.is_refusal("GET", URL, 401)
    assert not audience.is_refusal("GET", URL, 404)
    assert not audience.is_refusal("GET", URL, 401)
    assert not audience.is_refusal("GET", URL, 200)
    assert audience.is_refusal("GET", URL, 401)
    assert not audience.is_refusal("GET", "https://stranger.example/v1/deals", 401)


def test_route_that_refuses_a_replacement_does_not_count_against_tokens_until_it_accepts_one():
    audience = Audience("https://api.example")
    assert audience.is_refusal("GET", f"{URL}?page=1", 401)
    audience.note_second("GET", f"{URL}?page=1", 401)
    assert not audience.is_refusal("GET", f"{URL}?page=2", 401)
    assert audience.is_refusal("POST", URL, 401)
    assert audience.is_refusal("GET", f"{URL}/17", 401)
    assert not audience.is_refusal("GET", URL, 200)
    assert audience.is_refusal("GET", URL, 401)


def test_routes_that_are_remembered_are_a_bounded_number():
    audience = Audience("https://api.example")
    for number in range(1000):
        audience.note_second("GET", f"{URL}/{number}", 401)
    assert len(audience._refusing) == 256
    assert not audience.is_refusal("GET", f"{URL}/999", 401)
