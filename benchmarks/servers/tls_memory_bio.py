"""A TLS echo server of ``select.epoll``, sockets, and an ``ssl.SSLObject`` over two ``ssl.MemoryBIO`` for each.

``tls_memory_bio CERT KEY TICKETS accept``. It is the least that a server can keep of a connection that moves the
ciphertext itself, and what the memory of an idle connection is compared with.
"""

from __future__ import annotations

import select
import socket
import ssl
import sys

from benchmarks.servers.launch import READ_SIZE, announce, listen
from benchmarks.servers.tls_launch import Launch

__all__ = ["main"]


class Connection:
    """A socket and the TLS over it.

    Args:
        sock: the socket, non-blocking.
        context: what TLS is made from.
    """

    __slots__ = ("incoming", "outgoing", "shaken", "sock", "tls", "unwritten")

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        self.shaken = False
        self.unwritten: memoryview | None = None

    def take(self, ciphertext: bytes) -> bool:
        """Take what came, and put into ``outgoing`` what is to be answered; False at the end of the stream."""
        incoming, tls = self.incoming, self.tls
        incoming.write(ciphertext)
        try:
            if not self.shaken:
                tls.do_handshake()
                self.shaken = True
            while incoming.pending or tls.pending():
                data = tls.read(READ_SIZE)
                if not data:
                    tls.unwrap()
                    return False
                tls.write(data)
        except ssl.SSLWantReadError:
            pass
        return True


class Loop:
    """All connections of the server, by descriptor. Reading from one stops while bytes for it wait to be written.

    Args:
        listener: the listening socket.
        launch: the server's arguments.
    """

    def __init__(self, listener: socket.socket, launch: Launch) -> None:
        self.listener = listener
        self.context = launch.context()
        self.poller = select.epoll()
        self.poller.register(listener, select.EPOLLIN)
        self.connections: dict[int, Connection] = {}

    def run(self) -> None:
        poll, connections, listener = self.poller.poll, self.connections, self.listener.fileno()
        while True:
            for descriptor, _ in poll(-1, 1024):
                try:
                    if descriptor == listener:
                        self.accept()
                    elif connections[descriptor].unwritten is not None:
                        self.flush(descriptor, connections[descriptor])
                    else:
                        self.serve(descriptor, connections[descriptor])
                except BlockingIOError:
                    continue
                except OSError:  # ssl.SSLError is one
                    self.end(descriptor)

    def accept(self) -> None:
        while True:
            sock, _ = self.listener.accept()
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections[sock.fileno()] = Connection(sock, self.context)
            self.poller.register(sock, select.EPOLLIN)

    def serve(self, descriptor: int, connection: Connection) -> None:
        ciphertext = connection.sock.recv(READ_SIZE)
        goes_on = bool(ciphertext) and connection.take(ciphertext)
        if connection.outgoing.pending:
            answer = connection.outgoing.read()
            try:
                sent = connection.sock.send(answer)
            except BlockingIOError:
                sent = 0
            if sent < len(answer) and goes_on:
                connection.unwritten = memoryview(answer)[sent:]
                self.poller.modify(descriptor, select.EPOLLOUT)
        if not goes_on:
            self.end(descriptor)

    def flush(self, descriptor: int, connection: Connection) -> None:
        assert connection.unwritten is not None
        rest = connection.unwritten[connection.sock.send(connection.unwritten) :]
        connection.unwritten = rest or None
        if not rest:
            self.poller.modify(descriptor, select.EPOLLIN)

    def end(self, descriptor: int) -> None:
        self.connections.pop(descriptor).sock.close()


def main() -> None:
    """Serve until standard input closes."""
    launch = Launch.from_arguments(sys.argv[1:])
    if not launch.at_accept:
        sys.exit("tls_memory_bio: TLS begins at accept here")
    listener = listen()
    loop = Loop(listener, launch)
    announce(listener.getsockname()[1])
    loop.run()


if __name__ == "__main__":
    main()
