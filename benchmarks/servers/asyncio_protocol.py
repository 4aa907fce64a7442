"""An echo server as an ``asyncio.Protocol``; with ``uvloop`` as its argument, on uvloop's loop."""

from __future__ import annotations

import asyncio
import sys
from typing import cast

from benchmarks.servers.launch import BACKLOG, announce, listen

__all__ = ["main"]


class Echo(asyncio.Protocol):
    """Sends back what it gets; pauses the reading while its own output is above the high-water mark."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()


async def serve() -> None:
    listener = listen()
    server = await asyncio.get_running_loop().create_server(Echo, sock=listener, backlog=BACKLOG)
    announce(listener.getsockname()[1])
    await server.serve_forever()


def main() -> None:
    """Serve until standard input closes."""
    if sys.argv[1:] == ["uvloop"]:
        import uvloop  # noqa: PLC0415 - a peer that need not be installed

        uvloop.run(serve())
    else:
        asyncio.run(serve())


if __name__ == "__main__":
    main()
