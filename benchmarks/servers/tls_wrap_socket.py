"""A TLS echo server of nothing but ``select.epoll`` and ``ssl.SSLSocket``: what Python's TLS costs.

``tls_wrap_socket CERT KEY TICKETS accept|starttls``. OpenSSL reads and writes the socket itself. ``pending`` is asked
before each further read: an exception for "nothing there" costs more than the question.
"""

from __future__ import annotations

import select
import socket
import ssl
import sys
from collections.abc import Callable

from benchmarks.servers.launch import announce, listen
from benchmarks.servers.tls_launch import COMMAND, REPLY, Launch

__all__ = ["main"]

_RECORD = 16384
"""The most that one read gives (RFC 8446, 5.1)."""


class Loop:
    """All connections of the server, and what each does next, by descriptor.

    Reading from one stops while bytes for it wait to be written.

    Args:
        listener: the listening socket.
        launch: the server's arguments.
    """

    def __init__(self, listener: socket.socket, launch: Launch) -> None:
        self.listener = listener
        self.context = launch.context()
        self.at_accept = launch.at_accept
        self.poller = select.epoll()
        self.poller.register(listener, select.EPOLLIN)
        self.plain: dict[int, socket.socket] = {}
        self.secure: dict[int, ssl.SSLSocket] = {}
        self.steps: dict[int, Callable[[int], None]] = {listener.fileno(): self.accept}
        self.unwritten: dict[int, memoryview] = {}

    def run(self) -> None:
        poll, steps = self.poller.poll, self.steps
        while True:
            for descriptor, _ in poll(-1, 1024):
                try:
                    steps[descriptor](descriptor)
                except (ssl.SSLWantReadError, BlockingIOError):
                    continue
                except OSError:  # ssl.SSLError is one
                    self.end(descriptor)

    def accept(self, _listener: int) -> None:
        while True:
            connection, _ = self.listener.accept()
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            descriptor = connection.fileno()
            self.poller.register(descriptor, select.EPOLLIN)
            if self.at_accept:
                self.wrap(descriptor, connection)
            else:
                self.plain[descriptor] = connection
                self.steps[descriptor] = self.await_command

    def await_command(self, descriptor: int) -> None:
        connection = self.plain[descriptor]
        data = connection.recv(_RECORD)
        if data != COMMAND:
            self.end(descriptor)
            return
        connection.send(REPLY)
        del self.plain[descriptor]
        self.wrap(descriptor, connection)

    def wrap(self, descriptor: int, connection: socket.socket) -> None:
        self.secure[descriptor] = self.context.wrap_socket(
            connection, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=False
        )
        self.steps[descriptor] = self.shake_hands

    def shake_hands(self, descriptor: int) -> None:
        self.secure[descriptor].do_handshake()
        self.steps[descriptor] = self.echo

    def echo(self, descriptor: int) -> None:
        connection = self.secure[descriptor]
        while True:
            data = connection.recv(_RECORD)
            if not data:
                self.close(descriptor, connection)
                return
            try:
                sent = connection.send(data)
            except ssl.SSLWantWriteError:
                sent = 0
            if sent < len(data):
                self.unwritten[descriptor] = memoryview(data)[sent:]
                self.steps[descriptor] = self.flush
                self.poller.modify(descriptor, select.EPOLLOUT)
                return
            if not connection.pending():
                return

    def flush(self, descriptor: int) -> None:
        connection, rest = self.secure[descriptor], self.unwritten[descriptor]
        try:
            while rest:
                rest = rest[connection.send(rest) :]
        except ssl.SSLWantWriteError:
            self.unwritten[descriptor] = rest
            return
        del self.unwritten[descriptor]
        self.steps[descriptor] = self.echo
        self.poller.modify(descriptor, select.EPOLLIN)
        if connection.pending():
            self.echo(descriptor)

    def close(self, descriptor: int, connection: ssl.SSLSocket) -> None:
        """Answer close_notify with ours, and close."""
        try:
            connection.unwrap()
        except OSError:
            pass
        self.end(descriptor)

    def end(self, descriptor: int) -> None:
        self.unwritten.pop(descriptor, None)
        del self.steps[descriptor]
        (self.plain.pop(descriptor, None) or self.secure.pop(descriptor)).close()


def main() -> None:
    """Serve until standard input closes."""
    launch = Launch.from_arguments(sys.argv[1:])
    listener = listen()
    loop = Loop(listener, launch)
    announce(listener.getsockname()[1])
    loop.run()


if __name__ == "__main__":
    main()
