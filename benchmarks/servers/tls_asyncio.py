"""A TLS echo server as an ``asyncio.Protocol``: ``tls_asyncio asyncio|uvloop CERT KEY TICKETS accept|starttls``."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
from typing import cast

from benchmarks.servers.launch import BACKLOG, announce, listen
from benchmarks.servers.tls_launch import COMMAND, REPLY, Launch

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


class Upgrade(asyncio.Protocol):
    """A connection up to the end of its handshake; then :class:`Echo` is its protocol.

    Data may come before ``start_tls`` has returned with the new transport: that is kept until then.

    Args:
        context: what to upgrade with.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context
        self.early: list[bytes] = []
        self.task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.task is not None:
            self.early.append(data)
        elif data == COMMAND:
            self.transport.write(REPLY)
            self.task = asyncio.get_running_loop().create_task(self.start_tls())
        else:
            self.transport.abort()

    async def start_tls(self) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):  # a failed handshake closes the transport
            secure = await loop.start_tls(self.transport, self, self.context, server_side=True)
            assert secure is not None
            echo = Echo()
            echo.connection_made(secure)
            secure.set_protocol(echo)
            for data in self.early:
                echo.data_received(data)


async def serve(launch: Launch) -> None:
    context, listener = launch.context(), listen()
    loop = asyncio.get_running_loop()
    if launch.at_accept:
        server = await loop.create_server(Echo, sock=listener, backlog=BACKLOG, ssl=context)
    else:
        server = await loop.create_server(lambda: Upgrade(context), sock=listener, backlog=BACKLOG)
    announce(listener.getsockname()[1])
    await server.serve_forever()


def main() -> None:
    """Serve until standard input closes."""
    kind, *arguments = sys.argv[1:]
    launch = Launch.from_arguments(arguments)
    if kind == "uvloop":
        import uvloop  # noqa: PLC0415 - a peer that need not be installed

        uvloop.run(serve(launch))
    else:
        asyncio.run(serve(launch))


if __name__ == "__main__":
    main()
