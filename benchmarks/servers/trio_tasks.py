"""An echo server with trio: a task for each connection."""

from __future__ import annotations

import trio

from benchmarks.servers.launch import READ_SIZE, announce, listen

__all__ = ["main"]


async def echo(stream: trio.SocketStream) -> None:
    try:
        while data := await stream.receive_some(READ_SIZE):
            await stream.send_all(data)
    except trio.BrokenResourceError:
        return


async def serve() -> None:
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(listen()))
    announce(listener.socket.getsockname()[1])
    await trio.serve_listeners(echo, [listener])


def main() -> None:
    """Serve until standard input closes."""
    trio.run(serve)


if __name__ == "__main__":
    main()
