"""Bytes that were sent by the owner and not taken by the kernel yet.

Pure but for the socket that it is told to write to. Immutable data is kept by reference, since the one copy that is
needed is the kernel's; what the owner could still change is copied.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

__all__ = ["OutputQueue", "Sink"]

MAX_PIECES = 64
"""Pieces for one ``sendmsg``: more gain nothing, and ``IOV_MAX`` is 1024."""


class Sink(Protocol):
    """What a socket has for writing."""

    def send(self, data: bytes | memoryview, /) -> int: ...

    def sendmsg(self, buffers: list[memoryview], /) -> int: ...


class OutputQueue:
    """A FIFO of bytes on their way out."""

    __slots__ = ("_pieces", "size")

    def __init__(self) -> None:
        self._pieces: deque[memoryview] = deque()
        self.size = 0
        """Bytes that wait."""

    def append(self, data: bytes | bytearray | memoryview, start: int = 0) -> None:
        """Queue ``data[start:]``."""
        piece = memoryview(data)[start:]
        if piece:
            if not isinstance(data, bytes):
                piece = memoryview(bytes(piece))
            self._pieces.append(piece)
            self.size += len(piece)

    def write_to(self, sink: Sink) -> int:
        """Write what the sink takes, once.

        Returns:
            the bytes that it took.

        Raises:
            OSError: what the sink raised (``BlockingIOError``: it takes nothing now); nothing was taken then.
        """
        pieces = self._pieces
        if len(pieces) == 1:
            taken = sink.send(pieces[0])
        else:
            taken = sink.sendmsg([pieces[i] for i in range(min(len(pieces), MAX_PIECES))])
        self.size -= taken
        left = taken
        while left:
            piece = pieces[0]
            if left < len(piece):
                pieces[0] = piece[left:]
                break
            left -= len(piece)
            pieces.popleft()
        return taken

    def clear(self) -> None:
        """Forget everything."""
        self._pieces.clear()
        self.size = 0
