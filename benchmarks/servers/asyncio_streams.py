"""An echo server with asyncio's streams: a coroutine for each connection."""

from __future__ import annotations

import asyncio
import contextlib

from benchmarks.servers.launch import BACKLOG, READ_SIZE, announce, listen

__all__ = ["main"]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(READ_SIZE):
            writer.write(data)
            await writer.drain()
    writer.close()


async def serve() -> None:
    listener = listen()
    server = await asyncio.start_server(echo, sock=listener, backlog=BACKLOG)
    announce(listener.getsockname()[1])
    await server.serve_forever()


def main() -> None:
    """Serve until standard input closes."""
    asyncio.run(serve())


if __name__ == "__main__":
    main()
