"""The command `enable-broker-proxy`."""

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from enable_broker_client.source import TokenSource

PORT = 8711
_MEBIBYTE = 2**20


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT.

    Returns:
        0; 2 if it cannot begin.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        from enable_broker_client.proxy import Proxy, Settings  # noqa: PLC0415  of an extra

        settings = Settings(
            origin=options.origin,
            hosts=frozenset(options.allow_host),
            has_token_route=options.token_route,
            body_bytes=options.max_body * _MEBIBYTE,
            idle_seconds=options.idle_seconds,
        )
        proxy = Proxy(TokenSource(options.url, options.grant, host=options.host), settings)
        asyncio.run(_serve(proxy, options))
        if options.unix:
            Path(options.unix).unlink(missing_ok=True)
    except ImportError as error:
        return _fail(f"{error}: pip install 'enable-broker-client[proxy]'")
    except (ValueError, OSError) as error:
        return _fail(str(error))
    return 0


def _fail(text: str) -> int:
    print(f"enable-broker-proxy: {text}", file=sys.stderr)  # noqa: T201  a command line prints
    return 2


async def _serve(proxy: Any, options: argparse.Namespace) -> None:
    from aiohttp import web  # noqa: PLC0415  of an extra

    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    runner = proxy.runner()
    await runner.setup()
    try:
        site = (
            web.UnixSite(runner, options.unix)
            if options.unix
            else web.TCPSite(runner, "127.0.0.1", options.port)
        )
        previous = os.umask(0o177)  # the socket is for this user alone
        try:
            await site.start()
        finally:
            os.umask(previous)
        where = options.unix or "http://{}:{}".format(*runner.addresses[0])
        print(f"listening on {where}", flush=True)  # noqa: T201  a command line prints
        await ended.wait()
    finally:
        await runner.cleanup()
        await proxy.close()


def _parser() -> argparse.ArgumentParser:
    environ = os.environ.get
    parser = argparse.ArgumentParser(
        prog="enable-broker-proxy",
        description="Forwards http://127.0.0.1:8711/v1/... to Enable with a grant's live token.",
        epilog="AWS credentials come from where boto3 finds them.",
    )
    add = parser.add_argument
    url = environ("TOKEN_API_URL")
    add("--url", default=url, required=not url, help="the stack's TokenApiUrl (TOKEN_API_URL)")
    grant = environ("ENABLE_GRANT")
    add("--grant", default=grant, required=not grant, help="the grant's name (ENABLE_GRANT)")
    origin = environ("ENABLE_URL", "https://api.deal-track.com")
    add("--origin", default=origin, help="Enable's https://host (ENABLE_URL; %(default)s)")
    add("--host", default=environ("TOKEN_API_HOST"), help="Host header to the broker")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--port", type=int, default=PORT, help="on loopback; 0: a free one (8711)")
    where.add_argument("--unix", help="a Unix socket in place of a port; its folder must exist")
    add(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a Host header to accept beside this machine's names; may be repeated",
    )
    add("--token-route", action="store_true", help="serve GET /token, the token itself")
    add("--max-body", type=int, default=1024, metavar="MIB", help="of a request (1024 MiB)")
    add("--idle-seconds", type=float, default=60.0, help="until one who stands still is cut off")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
