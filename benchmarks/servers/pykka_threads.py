"""An echo server with a ``pykka.ThreadingActor``, and so a thread, for each connection.

Each chunk is a message of its own that the actor tells itself: between two of them it can be asked, told and stopped
like any actor. It blocks in ``recv`` meanwhile, which is what a thread of its own is for.
"""

from __future__ import annotations

import socket
from typing import Any

import pykka

from benchmarks.servers.launch import READ_SIZE, announce, listen

__all__ = ["main"]


class Connection(pykka.ThreadingActor):
    """One connection.

    Args:
        connection: the accepted socket, blocking.
    """

    use_daemon_thread = True

    def __init__(self, connection: socket.socket) -> None:
        super().__init__()
        self.connection = connection

    def on_start(self) -> None:
        self.actor_ref.tell("echo")

    def on_receive(self, message: Any) -> None:
        try:
            data = self.connection.recv(READ_SIZE)
            if data:
                self.connection.sendall(data)
                self.actor_ref.tell(message)
                return
        except OSError:
            pass
        self.stop()

    def on_stop(self) -> None:
        self.connection.close()


def main() -> None:
    """Serve until standard input closes."""
    listener = listen()
    listener.setblocking(True)
    announce(listener.getsockname()[1])
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        Connection.start(connection)


if __name__ == "__main__":
    main()
