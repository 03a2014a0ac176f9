"""A server on loopback whose clients may go away."""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import BaseServer
from typing import override


class LoopbackServer(ThreadingHTTPServer):
    """Serves each request in a thread, on a free port, until `shutdown`."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)

    @override
    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing for a client that went away: another test may be reading standard error."""
        if not isinstance(sys.exception(), OSError):
            BaseServer.handle_error(self, request, client_address)
