"""How a byte stream is cut into the chunks that an owner gets: raw, by line, or by a length prefix.

Pure: bytes in, chunks out. An :class:`InputBuffer` holds the bytes of one connection that have been read and not been
handed over, whatever the framing, and the framing may change between two chunks: what is unread is cut anew.
"""

from __future__ import annotations

from typing import Final

from theater_tcp.errors import InvalidArgument, LimitReached

__all__ = ["FRAMINGS", "InputBuffer", "frame", "prefix_size"]

FRAMINGS: Final[dict[str, int]] = {"raw": 0, "line": 0, "length-1": 1, "length-2": 2, "length-4": 4}
"""The framings, with the bytes of their length prefix (big-endian, the prefix not counted)."""


def prefix_size(framing: str) -> int:
    """Bytes of the length prefix of a framing.

    Raises:
        InvalidArgument: there is no framing of that name.
    """
    size = FRAMINGS.get(framing)
    if size is None:
        raise InvalidArgument(f"framing {framing!r} is not one of {', '.join(FRAMINGS)}")
    return size


def frame(data: bytes, framing: str) -> bytes:
    """What goes on the wire for one payload.

    Raises:
        LimitReached: the payload is longer than the prefix can tell.
    """
    size = FRAMINGS[framing]
    if size == 0:
        return data
    if len(data) >= 1 << 8 * size:
        raise LimitReached(f"a frame of {len(data)} bytes does not fit the prefix of {framing}")
    return len(data).to_bytes(size, "big") + data


class InputBuffer:
    """Bytes that were read and not handed over yet, in order."""

    __slots__ = ("_data", "_searched", "_start")

    def __init__(self) -> None:
        self._data = bytearray()
        self._start = 0  # bytes before this one have been taken; they go when it pays to move the rest
        self._searched = 0  # no line feed before this one

    def __len__(self) -> int:
        return len(self._data) - self._start

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Append what was read."""
        self._data += data

    def take(self, framing: str, limit: int) -> bytes | None:
        """The next whole chunk, or None if it is not there yet.

        Args:
            framing: one of :data:`FRAMINGS`. A line includes its line feed; a frame does not include its prefix.
            limit: the longest line (with its line feed) or frame, in bytes; for ``raw`` the most to take.

        Raises:
            LimitReached: the line or frame is longer than ``limit``.
        """
        available = len(self._data) - self._start
        size = FRAMINGS[framing]
        if size:
            if available < size:
                return None
            length = int.from_bytes(self._data[self._start : self._start + size], "big")
            if length > limit:
                raise LimitReached(f"a frame of {length} bytes, {limit} are allowed")
            if available < size + length:
                return None
            self._start += size
            return self._cut(length)
        if not available:
            return None
        if framing == "raw":
            return self._cut(min(available, limit))
        end = self._data.find(b"\n", max(self._start, self._searched), self._start + limit) + 1
        if end:
            return self._cut(end - self._start)
        if available >= limit:
            raise LimitReached(f"a line of more than {limit} bytes")
        self._searched = len(self._data)
        return None

    def has_chunk(self, framing: str, limit: int) -> bool:
        """Whether :meth:`take` would give a chunk, or raise, without more bytes."""
        available = len(self)
        size = FRAMINGS[framing]
        if size:
            if available < size:
                return False
            length = int.from_bytes(self._data[self._start : self._start + size], "big")
            return length > limit or available >= size + length
        if framing == "raw" or available >= limit:
            return available > 0
        return self._data.find(b"\n", max(self._start, self._searched)) >= 0

    def take_rest(self) -> bytes:
        """Everything that is left, as one chunk: the unterminated last line at the end of the stream."""
        return self._cut(len(self))

    def clear(self) -> None:
        """Forget everything."""
        self._data.clear()
        self._start = self._searched = 0

    def _cut(self, length: int) -> bytes:
        start = self._start
        chunk = bytes(memoryview(self._data)[start : start + length])
        self._start = start + length
        if self._start == len(self._data):
            self._data.clear()
            self._start = self._searched = 0
        elif self._start > 65536 and self._start > len(self._data) // 2:
            del self._data[: self._start]  # amortised: each byte is moved at most once for each time it is passed
            self._start = self._searched = 0
        return chunk
