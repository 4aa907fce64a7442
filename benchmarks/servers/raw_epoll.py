"""An echo server of nothing but ``select.epoll`` and sockets: what Python itself costs."""

from __future__ import annotations

import select
import socket

from benchmarks.servers.launch import READ_SIZE, announce, listen

__all__ = ["main"]


class Loop:
    """All connections of the server, by descriptor. Reading from one stops while bytes for it wait to be written."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.poller = select.epoll()
        self.poller.register(listener, select.EPOLLIN)
        self.connections: dict[int, socket.socket] = {}
        self.unwritten: dict[int, memoryview] = {}

    def run(self) -> None:
        poll, connections, unwritten = self.poller.poll, self.connections, self.unwritten
        listener = self.listener.fileno()
        while True:
            for descriptor, _ in poll(-1, 1024):
                if descriptor == listener:
                    self.accept()
                    continue
                connection = connections[descriptor]
                try:
                    if descriptor in unwritten:
                        self.flush(descriptor, connection)
                        continue
                    data = connection.recv(READ_SIZE)
                    if not data:
                        self.end(descriptor)
                        continue
                    sent = connection.send(data)
                    if sent < len(data):
                        unwritten[descriptor] = memoryview(data)[sent:]
                        self.poller.modify(descriptor, select.EPOLLOUT)
                except BlockingIOError:
                    continue
                except OSError:
                    self.end(descriptor)

    def accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except BlockingIOError:
                return
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections[connection.fileno()] = connection
            self.poller.register(connection, select.EPOLLIN)

    def flush(self, descriptor: int, connection: socket.socket) -> None:
        rest = self.unwritten[descriptor]
        rest = rest[connection.send(rest) :]
        if rest:
            self.unwritten[descriptor] = rest
        else:
            del self.unwritten[descriptor]
            self.poller.modify(descriptor, select.EPOLLIN)

    def end(self, descriptor: int) -> None:
        self.unwritten.pop(descriptor, None)
        self.connections.pop(descriptor).close()


def main() -> None:
    """Serve until standard input closes."""
    listener = listen()
    announce(listener.getsockname()[1])
    Loop(listener).run()


if __name__ == "__main__":
    main()
