"""A plugin of proxy.py: to this proxy, every host is 127.0.0.1."""

from proxy.http.proxy import HttpProxyBasePlugin


class EveryHostIsHere(HttpProxyBasePlugin):
    """Resolves names as a network does that only the proxy is in."""

    def resolve_dns(self, _host: str, _port: int) -> tuple[str, None]:
        return "127.0.0.1", None
