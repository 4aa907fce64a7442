"""What all connections and listeners of one runtime share: the loop, the read buffer, the deadlines, the tables."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Any

from theater_tcp.connector import Connector
from theater_tcp.credentials import Credentials
from theater_tcp.event_loop import Deadlines
from theater_tcp.listening_socket import accept_from, file_of, open_listening_socket
from theater_tcp.metrics import Metrics
from theater_tcp.ownership import Ownership
from theater_tcp.pykka_internals import registry
from theater_tcp.workers import Workers

if TYPE_CHECKING:
    from theater_tcp.event_loop import EventLoop
    from theater_tcp.settings import Settings

__all__ = ["MAX_CIPHERTEXT", "READ_BUFFER_SIZE", "Network"]

MAX_CIPHERTEXT = 66 << 10
"""Bytes of ciphertext read at one time: four records. What a TLS engine may hold of what it can't use yet, and what its
buffer, which never shrinks, may grow to; twice or half of it costs the same for each byte."""

READ_BUFFER_SIZE = 256 << 10
"""Bytes of the buffer that every socket is read into. It is an ``mmap`` and so page-aligned: into a bytearray, which
begins 16 or 32 bytes into a page, the kernel copies bulk data up to six times slower on some processors."""


class Network:
    """The common ground of one runtime's connections. Used on the loop's thread only.

    Args:
        loop: the event loop that carries them.
        settings: the runtime's settings.
    """

    def __init__(self, loop: EventLoop, settings: Settings) -> None:
        self.loop = loop
        self.settings = settings
        self.ownership = Ownership(settings)
        self.connector = Connector(loop, settings.connection_attempt_delay, settings.resolver_threads)
        self.open_listening_socket = open_listening_socket
        self.accept_from = accept_from
        self.file_of = file_of
        """These four are where sockets come from; :mod:`theater_tcp.testing` has its own."""
        self.registry = registry()
        """pykka's table of living actors: connections come and go in it by dict operations."""
        self.draining = False
        """Whether the runtime is going down: nothing is opened any more."""
        self.metrics = Metrics()
        self.workers = Workers(settings.worker_threads, f"{loop.name}-worker")
        """Threads for what blocks."""
        self.credentials = Credentials(loop, self.workers, self.metrics)
        self.connections: dict[Any, None] = {}
        """Every connection whose end is not complete, the oldest first."""
        self.listeners: dict[str, Any] = {}
        """Every open listener, by id."""
        self.waiting_listeners: dict[str, Any] = {}
        """Listeners that stopped accepting at the runtime's limit, by id, the longest waiting first."""
        self.accepted_now = 0
        """Accepted connections whose socket is open: what ``max_connections`` bounds."""
        self.read_buffer = mmap.mmap(-1, READ_BUFFER_SIZE)
        self._view = memoryview(self.read_buffer)
        self.ciphertext_view = self.read_view(MAX_CIPHERTEXT)
        """The part of the read buffer that ciphertext is read into."""
        self.pending_deadlines: Deadlines[Any] = Deadlines(loop, lambda connection: connection.pending_expired())
        self.send_deadlines: Deadlines[Any] = Deadlines(loop, lambda connection: connection.send_expired())
        self.linger_deadlines: Deadlines[Any] = Deadlines(loop, lambda connection: connection.linger_expired())
        self.receive_deadlines: Deadlines[Any] = Deadlines(loop, lambda connection: connection.receive_expired())
        self.handshake_deadlines: Deadlines[Any] = Deadlines(loop, lambda connection: connection.handshake_expired())
        self.idle_deadlines: Deadlines[Any] = Deadlines(loop, lambda connection: connection.idle_expired())

    def read_view(self, limit: int) -> memoryview:
        """The part of the read buffer that ``limit`` bytes fit in."""
        return self._view if limit >= READ_BUFFER_SIZE else self._view[:limit]

    def at_limit(self) -> bool:
        """Whether the runtime has as many accepted connections as it may have."""
        return self.accepted_now >= self.settings.max_connections

    def room_again(self) -> None:
        """An accepted connection's socket has been closed: let the listeners that wait for room go on."""
        if not self.at_limit():
            waiting, self.waiting_listeners = self.waiting_listeners, {}
            for listener in waiting.values():  # all, since not each has a peer waiting; who finds no room waits again
                listener.resume()
