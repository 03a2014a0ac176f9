"""How HTTP leaves this machine: by which proxy, and which certificate authorities it trusts.

The variables are those that boto3, curl and OpenSSL read, so that one environment serves all.
"""

import os
import ssl
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Final
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from urllib3.util import create_urllib3_context

from token_broker.errors import ConfigurationError

BUNDLES: Final = ("SSL_CERT_FILE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")
"""Files of certificate authorities that are trusted, each by the variable that names it."""


def proxy_of(url: str) -> str | None:
    """The proxy that the environment names for a URL; None to connect directly.

    HTTPS_PROXY and HTTP_PROXY name it, by the URL's scheme; NO_PROXY lists the hosts that need
    none. A loopback host never needs one: no proxy could reach it.

    Raises:
        ConfigurationError: what the variable contains is not the URL of an HTTP proxy.
    """
    target = urlsplit(url)
    proxy = getproxies().get(target.scheme)
    if not proxy or is_loopback(target.hostname or "") or proxy_bypass(target.netloc):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy.removeprefix('//')}"
    if not _is_http_url(proxy):  # raised here, without the URL: it may contain a password
        raise ConfigurationError(
            f"{target.scheme.upper()}_PROXY is not the URL of an HTTP proxy; "
            "write http://host:port, or unset it"
        )
    return proxy


def proxy_login(proxy: str) -> str | None:
    """`user:password` of a proxy's URL, decoded; None without a user."""
    parts = urlsplit(proxy)
    if parts.username is None:
        return None
    return f"{unquote(parts.username)}:{unquote(parts.password or '')}"


def address_of(proxy: str) -> str:
    """`host:port` of a proxy's URL, without its user and password."""
    return urlsplit(proxy).netloc.rpartition("@")[2]


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def tls_context(environ: Mapping[str, str] = os.environ, *, more: str = "") -> ssl.SSLContext:
    """TLS 1.2 or newer that verifies certificate and host.

    Trusted are the system's authorities, or those of SSL_CERT_FILE and SSL_CERT_DIR, and those
    of AWS_CA_BUNDLE and REQUESTS_CA_BUNDLE.

    Args:
        environ: names the files.
        more: PEM certificates of further authorities.

    Raises:
        ConfigurationError: a file that the environment names, or `more`, cannot be read as
            certificates.
    """
    context = create_urllib3_context()
    context.load_default_certs()  # OpenSSL reads SSL_CERT_FILE and SSL_CERT_DIR itself
    files = {environ[name]: name for name in BUNDLES if environ.get(name)}
    for path, name in files.items():
        if fault := _add_authorities(context, path):
            raise ConfigurationError(
                f"{name} names no readable file of PEM certificates ({fault}); "
                "correct its path, or unset it"
            )
    if more:
        _add_text(context, more)
    return context


def _add_text(context: ssl.SSLContext, more: str) -> None:
    try:
        context.load_verify_locations(cadata=more)
    except (ssl.SSLError, ValueError, TypeError):  # the latter two: empty, or not ASCII
        raise ConfigurationError(
            "CaBundleParameter names a parameter that contains no PEM certificates; "
            "store them as its value, each from BEGIN CERTIFICATE to END CERTIFICATE"
        ) from None


def _add_authorities(context: ssl.SSLContext, path: str) -> str:
    """Trust a file or folder of certificates; the kind of the fault, or nothing."""
    try:
        if os.path.isdir(path):  # noqa: PTH112 - as OpenSSL takes it
            context.load_verify_locations(capath=path)
        else:
            context.load_verify_locations(cafile=path)
    except OSError as error:
        return type(error).__name__
    return ""


def _is_http_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
