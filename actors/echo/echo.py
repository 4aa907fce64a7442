"""Echo (RFC 862): what a peer sends comes back, until it has sent its last byte."""

from __future__ import annotations

from theater_tcp import ConnectionHandle, TcpActor

__all__ = ["Echo"]


class Echo(TcpActor):
    """Sends back what it receives.

    A peer that doesn't read what comes back is not read from any more once the write buffer is full, so that a
    connection never costs more memory than its limits allow. What the peer sent before its end of stream has been
    sent back when the connection closes.
    """

    def handle_connection(self, connection: ConnectionHandle) -> None:
        """Take a new connection and ask for its data as it comes."""
        connection.activate()
        connection.set_active("active")

    def on_data(self, connection: ConnectionHandle, data: bytes) -> None:
        """Send a chunk back."""
        connection.send(data)
