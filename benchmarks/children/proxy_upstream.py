"""Enable and the token API behind the proxies: as light as can be, so that they are measured.

`GET /SIZE` returns so many bytes, any other request its body's length; `/tokens/` a token. Prints
where it listens.
"""

import asyncio
import re
from contextlib import suppress

_TOKEN = (
    b'{"access_token": "a-token", "token_type": "Bearer", "scope": "read:deals",'
    b' "expires_in": 3600, "expires_at": "2025-03-01T12:00:00Z"}'
)
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
_CHUNK = b"x" * 65_536


async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Respond to the requests of one connection."""
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            left = int(length[1]) if length else 0
            while left:
                left -= len(await reader.read(min(left, 262_144)))
            await _respond(writer, head.split(b" ")[1].decode())
    writer.close()


async def _respond(writer: asyncio.StreamWriter, path: str) -> None:
    is_size = path[1:].isdigit()
    body = _TOKEN if path.startswith("/tokens/") else b"{}"
    size = int(path[1:]) if is_size else len(body)
    writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
    while is_size and size > 0:
        writer.write(_CHUNK[:size])
        await writer.drain()
        size -= len(_CHUNK)
    if not is_size:
        writer.write(body)


async def main() -> None:
    """Serve until the process is ended."""
    server = await asyncio.start_server(talk, "127.0.0.1", 0, limit=262_144)
    print(f"listening on http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
