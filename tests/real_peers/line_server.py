"""A small server for programs that speak TLS: mail's words around STARTTLS, and TLS from the first byte beside it.

Programs know how SMTP, and not just any protocol, gets to its STARTTLS (RFC 3207); so the words are those. ``INFO`` is
answered with what the runtime knows of the encryption, for a test to hold against what the program says.
"""

from __future__ import annotations

import queue
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.peers import TIMEOUT
from theater_tcp import Metrics, Settings, TcpActor, Theater

if TYPE_CHECKING:
    from collections.abc import Iterator

    from theater_tcp import ServerTls

__all__ = ["LineServer", "Served", "serving"]


class LineServer(TcpActor):
    """Answers line by line, over any number of connections.

    Args:
        tls: how connections become TLS; the one listener waits for STARTTLS, the other one for a handshake.
        endings: where it tells how connections ended.
    """

    def __init__(self, tls: ServerTls, endings: queue.SimpleQueue[str]) -> None:
        super().__init__()
        self.tls = tls
        self.endings = endings

    def on_start(self) -> None:
        self.starttls, self.implicit = (
            self.tcp.listen("127.0.0.1:0", framing="line", max_frame=1000, server_tls=tls).address
            for tls in (self.tls.replaced(auto_handshake=False), self.tls)
        )

    def handle_connection(self, connection: Any) -> None:
        connection.activate()
        connection.send(b"220 localhost ESMTP\r\n")
        connection.set_active("active")

    def on_data(self, connection: Any, line: bytes) -> None:
        match line.split()[:1]:
            case [b"EHLO"]:
                connection.send(
                    b"250-localhost\r\n250-STARTTLS\r\n250 HELP\r\n"
                    if connection.tls_available
                    else b"250 localhost\r\n"
                )
            case [b"STARTTLS"] if connection.tls_available:
                connection.send(b"220 go ahead\r\n")
                connection.set_active("passive")
                connection.upgrade_to_tls_server()
            case [b"INFO"]:
                connection.send(f"250 {described(connection.tls_info)}\r\n".encode())
            case [b"QUIT"]:
                connection.send(b"221 bye\r\n")
                connection.close()
            case _:
                connection.send(b"250 ok\r\n")

    def on_tls(self, connection: Any) -> None:
        connection.set_active("active")

    def on_close(self, connection: Any, reason: str) -> None:
        self.endings.put(reason)


def described(info: Any) -> str:
    """What both ends agreed on, in one line."""
    if info is None:
        return "plaintext"
    who = info.peer_certificate.subject if info.peer_certificate is not None else None
    return f"{info.version} {info.cipher} name={info.server_name} alpn={info.alpn} peer={who} resumed={info.resumed}"


class Served(NamedTuple):
    """A running server.

    Args:
        theater: where it runs.
        starttls: where it listens for plaintext that becomes TLS.
        implicit: where it listens for TLS from the first byte.
        endings: how connections ended, if the server did not end them itself.
    """

    theater: Theater
    starttls: str
    implicit: str
    endings: queue.SimpleQueue[str]

    @property
    def metrics(self) -> Metrics:
        """What the runtime has counted."""
        return self.theater.metrics()

    def ending(self) -> str:
        """How the next connection ended."""
        return self.endings.get(timeout=TIMEOUT)


@contextmanager
def serving(tls: ServerTls, **options: Any) -> Iterator[Served]:
    """A server in a runtime of its own."""
    settings = Settings(drain_timeout=0)
    with Theater(settings.replaced(options=settings.options.replaced(**options))) as theater:
        endings: queue.SimpleQueue[str] = queue.SimpleQueue()
        server = theater.spawn(LineServer, tls, endings).proxy()
        yield Served(theater, server.starttls.get(timeout=TIMEOUT), server.implicit.get(timeout=TIMEOUT), endings)
