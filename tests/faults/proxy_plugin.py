"""A plugin of proxy.py: to this proxy, every host is 127.0.0.1. It lists where it connects to."""

from pathlib import Path

from proxy.http.parser import HttpParser
from proxy.http.proxy import HttpProxyBasePlugin


class EveryHostIsHere(HttpProxyBasePlugin):
    """Resolves names as a network does that only the proxy is in."""

    def before_upstream_connection(self, request: HttpParser) -> HttpParser:
        """Add a CONNECT to the list; a request in the clear is none."""
        if request.is_https_tunnel:
            with (Path(self.flags.proxy_py_data_dir) / "connects").open("a") as file:
                file.write(f"{request.host.decode()}:{request.port}\n")
        return request

    def resolve_dns(self, _host: str, _port: int) -> tuple[str, None]:
        return "127.0.0.1", None
