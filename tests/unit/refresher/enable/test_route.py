"""The way out: which proxy, and which certificate authorities."""

from pathlib import Path

import pytest

from tests.faults.fault_server import Certificates
from token_broker.errors import ConfigurationError
from token_refresher.enable.route import address_of, proxy_login, proxy_of, tls_context

HTTPS = "https://api.deal-track.com/oauth2/token"
VARIABLES = ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "ALL_PROXY")


@pytest.fixture(autouse=True)
def _no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy"])
@pytest.mark.parametrize(
    ("value", "proxy"),
    [
        ("http://proxy:3128", "http://proxy:3128"),
        ("https://proxy", "https://proxy"),
        ("proxy:3128", "http://proxy:3128"),
        ("//proxy:3128", "http://proxy:3128"),
        ("", None),
    ],
)
def test_proxy_is_the_one_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, proxy: str | None
) -> None:
    monkeypatch.setenv(name, value)
    assert proxy_of(HTTPS) == proxy
    assert proxy_of(HTTPS.replace("https:", "http:")) is None


def test_proxy_of_plain_http_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    assert proxy_of("http://elsewhere/") == "http://proxy:3128"
    assert proxy_of(HTTPS) is None


@pytest.mark.parametrize(
    ("hosts", "is_direct"),
    [
        ("api.deal-track.com", True),
        ("other.example, .deal-track.com", True),
        ("deal-track.com", True),
        ("*", True),
        ("track.com", False),
        ("other.example", False),
    ],
)
def test_hosts_of_no_proxy_are_connected_to_directly(
    monkeypatch: pytest.MonkeyPatch, hosts: str, *, is_direct: bool
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", hosts)
    assert (proxy_of(HTTPS) is None) is is_direct


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8080", "localhost", "[::1]:8080", "127.8.8.8", "x.localhost"]
)
def test_no_proxy_is_asked_for_this_machine(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    assert proxy_of(f"https://{host}/") is None


@pytest.mark.parametrize(
    "value", ["socks5://proxy", "http://", "http://proxy:port", "http://proxy:99999", "ftp://x"]
)
def test_proxy_that_is_none_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", value.replace("//", "//user:pa55word@"))
    with pytest.raises(
        ConfigurationError, match=r"^HTTPS_PROXY is not the URL of an HTTP"
    ) as error:
        proxy_of(HTTPS)
    assert "pa55word" not in str(error.value)


@pytest.mark.parametrize(
    ("proxy", "login"),
    [
        ("http://proxy:3128", None),
        ("http://user@proxy", "user:"),
        ("http://user:pass%40word@proxy", "user:pass@word"),
    ],
)
def test_login_is_that_of_the_proxy_s_url(proxy: str, login: str | None) -> None:
    assert proxy_login(proxy) == login


@pytest.mark.parametrize("login", ["", "user@", "user:pass%40word@", "user:p@ss@"])
def test_address_of_a_proxy_contains_no_login(login: str) -> None:
    assert address_of(f"http://{login}proxy.example:3128/") == "proxy.example:3128"


def test_authorities_of_a_text_are_trusted_beside_the_others(tmp_path: Path) -> None:
    before = len(tls_context({}).get_ca_certs())
    authority = Certificates(tmp_path).authority.read_text()
    assert len(tls_context({}, more=authority).get_ca_certs()) == before + 1


@pytest.mark.parametrize("text", ["junk", "-----BEGIN CERTIFICATE-----", "schlüssel"])
def test_text_that_contains_no_certificates_is_named(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^CaBundleParameter .* no PEM certificates; "):
        tls_context({}, more=text)


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
def test_authorities_of_the_environment_are_trusted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    for other in ("SSL_CERT_FILE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(other, raising=False)
    before = len(tls_context({}).get_ca_certs())
    authority = str(Certificates(tmp_path).authority)
    context = tls_context({name: authority})
    assert len(context.get_ca_certs()) == before + 1
    assert context.check_hostname


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
@pytest.mark.parametrize(("text", "fault"), [(None, "FileNotFoundError"), ("junk", "SSLError")])
def test_unusable_authorities_are_named(
    tmp_path: Path, name: str, text: str | None, fault: str
) -> None:
    path = tmp_path / "authorities.pem"
    if text is not None:
        path.write_text(text)
    with pytest.raises(
        ConfigurationError, match=rf"^{name} names no readable file .* \({fault}\); correct"
    ):
        tls_context({name: str(path)})
