"""Our echo server: a ``TcpActor`` that owns its listener and all its connections, each in active mode.

Nothing is switched off: ownership, the state table, back-pressure and every deadline are as any user has them. Each
connection is a pykka actor in ``pykka.ActorRegistry``.
"""

from __future__ import annotations

import pykka

from benchmarks.servers.launch import BACKLOG, announce, raise_descriptor_limit
from theater_tcp import ConnectionHandle, Settings, TcpActor, Theater

__all__ = ["Echo", "main"]


class Echo(TcpActor):
    """Sends back what it gets."""

    def on_start(self) -> None:
        self.listener = self.tcp.listen("127.0.0.1:0", backlog=BACKLOG)

    def port(self) -> int:
        """The port it listens on."""
        return int(self.listener.address.rpartition(":")[2])

    def handle_connection(self, connection: ConnectionHandle) -> None:
        connection.activate()
        connection.set_active("active")

    def on_data(self, connection: ConnectionHandle, data: bytes) -> None:
        connection.send(data)


def live_actors() -> int:
    """How many actors pykka's registry has."""
    return len(pykka.ActorRegistry.get_all())


def main() -> None:
    """Serve until standard input closes."""
    with Theater(Settings(max_connections=raise_descriptor_limit())) as theater:
        echo = theater.spawn(Echo)
        announce(echo.proxy().port().get(), {"actors": live_actors})
        theater.wait()


if __name__ == "__main__":
    main()
