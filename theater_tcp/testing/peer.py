"""The peer of a connection under test: the other end of its socket, with calls that let the actors go on meanwhile."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from theater_tcp.testing.stage import SteppedTheater

__all__ = ["Peer"]

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_CHUNK = 1 << 16


class Peer:
    """Who an actor talks to. Made by ``stage.dial``, ``stage.connect_to`` or ``stage.accept``.

    Args:
        stage: where the actors are; it goes on whenever the peer has to wait.
        sock: the peer's own non-blocking socket, of the system or in memory. Faults of the *connection's* socket are
            queued at ``peer.socket.other_end`` (in memory only).
    """

    def __init__(self, stage: SteppedTheater, sock: Any) -> None:
        self.stage = stage
        self.socket = sock
        self.ended = ""
        """``"eof"`` when the end of the stream was read, ``"reset"`` after RST, else empty."""
        self.unsent = bytearray()
        """What :meth:`send` was given and the network has not taken. It stays here when the connection is gone."""
        self._unread = bytearray()
        self._then: Callable[[], object] | None = None  # what follows the last unsent byte

    def __repr__(self) -> str:
        return f"<Peer {self.ended or 'open'}, {len(self.unsent)} unsent, {len(self._unread)} unread>"

    # -- sending --------------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Send it, and let the actor handle it. What the network does not take now follows as the actor reads."""
        self.unsent += data
        self.stage.settle()

    def offer(self, data: bytes | bytearray | memoryview) -> int:
        """Send what the network takes at once, and do not let the actor go on.

        Returns:
            the number of bytes taken, 0 if it takes none now.

        Raises:
            OSError: the connection is gone (``ConnectionResetError``, ``BrokenPipeError``).
        """
        try:
            return int(self.socket.send(data))
        except BlockingIOError:
            return 0

    def pump(self) -> bool:
        """Send what the network takes of what is unsent; the stage does it. Whether anything moved."""
        if not self.unsent:
            return False
        try:
            taken = self.offer(self.unsent)
        except OSError:
            return False
        del self.unsent[:taken]
        if not self.unsent and self._then is not None:
            self._then()
        return taken > 0

    def _when_sent(self, call: Callable[[], object]) -> None:
        if self.unsent:
            self._then = call
        else:
            call()
        self.stage.settle()

    # -- receiving ------------------------------------------------------------------------------------------------

    def receive(self) -> bytes:
        """What has come by the time when the stage is at rest; empty if there is nothing, or no more."""
        self.stage.settle()
        while self._read():
            self.stage.settle()
        data = bytes(self._unread)
        self._unread.clear()
        return data

    def receive_exactly(self, size: int) -> bytes:
        """The next ``size`` bytes.

        Raises:
            AssertionError: they don't come.
        """
        self._until_there(lambda: len(self._unread) >= size, f"{size} bytes")
        data = bytes(self._unread[:size])
        del self._unread[:size]
        return data

    def receive_until(self, end: bytes) -> bytes:
        """The next bytes up to and with ``end``, as ``b"\\r\\n"``.

        Raises:
            AssertionError: it does not come.
        """
        self._until_there(lambda: end in self._unread, f"bytes up to {end!r}")
        return self.receive_exactly(self._unread.index(end) + len(end))

    def receive_all(self) -> bytes:
        """Everything up to the end of the stream or RST; see :attr:`ended`.

        Raises:
            AssertionError: it does not end.
        """
        self._until_there(lambda: bool(self.ended), "the end of the stream")
        data = bytes(self._unread)
        self._unread.clear()
        return data

    def _until_there(self, there: Callable[[], bool], what: str) -> None:
        def look() -> bool:
            while not there():
                if not self._read():
                    return False
            return True

        self.stage.until(look, lambda: f"no {what}: {bytes(self._unread)!r} came{self._ending()}")

    def _ending(self) -> str:
        return f", then {self.ended}" if self.ended else ""

    def _read(self) -> bool:
        """Read what is there; whether that was anything."""
        if self.ended or self.socket.fileno() < 0:
            return False
        try:
            data = self.socket.recv(_CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            self.ended = "reset"
            return True
        if not data:
            self.ended = "eof"
        self._unread += data
        return True

    # -- the end --------------------------------------------------------------------------------------------------

    def shutdown_write(self) -> None:
        """Half-close when all is sent: the actor gets the end of the stream, and may still send."""
        self._when_sent(lambda: self.socket.shutdown(socket.SHUT_WR))

    def close(self) -> None:
        """Close when all is sent: FIN, or RST if there are unread bytes, as always in TCP."""
        self._when_sent(self.socket.close)

    def abort(self) -> None:
        """RST, at once."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.socket.close()
        self.stage.settle()
