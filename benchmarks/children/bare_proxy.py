"""A reverse proxy of the libraries of `enable-broker-proxy` that adds no token and checks nothing.

Arguments: the URL that it forwards to. Prints where it listens.
"""

import asyncio
import sys

from aiohttp import ClientSession, DummyCookieJar, TCPConnector, web
from multidict import CIMultiDict
from yarl import URL

_OWN = ("Host", "Connection", "Transfer-Encoding")


async def main(origin: str) -> None:
    """Serve until the process is ended."""
    session = ClientSession(
        connector=TCPConnector(limit=0),
        cookie_jar=DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
    )

    async def respond(request: web.BaseRequest) -> web.StreamResponse:
        headers = CIMultiDict(request.headers)
        for name in _OWN:
            headers.popall(name, None)
        url = URL(origin + request.raw_path, encoded=True)
        body = request.content.iter_any() if request.can_read_body else None
        async with session.request(
            request.method, url, headers=headers, data=body, allow_redirects=False
        ) as upstream:
            headers = CIMultiDict(upstream.headers)
            headers.popall("Transfer-Encoding", None)
            response = web.StreamResponse(status=upstream.status, headers=headers)
            await response.prepare(request)
            async for chunk in upstream.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
        return response

    runner = web.ServerRunner(web.Server(respond, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"listening on http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
