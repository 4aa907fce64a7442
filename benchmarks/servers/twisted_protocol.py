"""An echo server as a Twisted protocol on the epoll reactor."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet import epollreactor

epollreactor.install()  # type: ignore[no-untyped-call]

from twisted.internet import protocol, reactor  # noqa: E402 - the reactor is chosen before it is imported

from benchmarks.servers.launch import announce, listen  # noqa: E402

__all__ = ["main"]


class Echo(protocol.Protocol):
    """Sends back what it gets; is the producer of its own output, so a full one pauses the reading."""

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.setTcpNoDelay(True)
        transport.registerProducer(transport, True)

    def dataReceived(self, data: bytes) -> None:
        transport: Any = self.transport
        transport.write(data)


def main() -> None:
    """Serve until standard input closes."""
    listener = listen()
    loop: Any = reactor
    loop.adoptStreamPort(listener.fileno(), socket.AF_INET, protocol.Factory.forProtocol(Echo))
    announce(listener.getsockname()[1])
    loop.run(installSignalHandlers=False)


if __name__ == "__main__":
    main()
