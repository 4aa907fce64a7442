"""Our TLS echo server: a ``TcpActor`` that owns its listener and all its connections, each in active mode.

``tls_ours CERT KEY TICKETS accept|starttls``. Nothing is switched off, as with :mod:`benchmarks.servers.ours`: the
handshake has its deadline, the certificate's files are looked at now and then, and after ``STARTTLS`` no byte of
plaintext gets past the boundary. The number of tickets is the runtime's own; it has to be the one that is asked for.
"""

from __future__ import annotations

import sys

from benchmarks.servers.launch import BACKLOG, announce, raise_descriptor_limit
from benchmarks.servers.tls_launch import COMMAND, REPLY, Launch
from theater_tcp import ConnectionHandle, ServerTls, Settings, TcpActor, Theater

__all__ = ["Echo", "UpgradedEcho", "main"]


class Echo(TcpActor):
    """Sends back what it gets.

    Args:
        launch: the server's arguments.
    """

    def __init__(self, launch: Launch) -> None:
        super().__init__()
        self.server_tls = ServerTls(cert=launch.cert, key=launch.key, auto_handshake=launch.at_accept)

    def on_start(self) -> None:
        self.listener = self.tcp.listen("127.0.0.1:0", backlog=BACKLOG, server_tls=self.server_tls)

    def port(self) -> int:
        """The port it listens on."""
        return int(self.listener.address.rpartition(":")[2])

    def handle_connection(self, connection: ConnectionHandle) -> None:
        connection.activate()
        connection.set_active("active")

    def on_data(self, connection: ConnectionHandle, data: bytes) -> None:
        connection.send(data)


class UpgradedEcho(Echo):
    """The same after ``STARTTLS``. Args: as :class:`Echo`."""

    def on_data(self, connection: ConnectionHandle, data: bytes) -> None:
        # What comes encrypted is not asked what it is: a connection is upgraded before it is active again.
        if data == COMMAND and connection.tls_available:
            connection.send(REPLY)
            connection.set_active("passive")
            connection.upgrade_to_tls_server()
        else:
            connection.send(data)

    def on_tls(self, connection: ConnectionHandle) -> None:
        connection.set_active("active")


def main() -> None:
    """Serve until standard input closes."""
    launch = Launch.from_arguments(sys.argv[1:])
    with Theater(Settings(max_connections=raise_descriptor_limit())) as theater:
        echo = theater.spawn(Echo if launch.at_accept else UpgradedEcho, launch)
        announce(echo.proxy().port().get())
        theater.wait()


if __name__ == "__main__":
    main()
