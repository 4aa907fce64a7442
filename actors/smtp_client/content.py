"""A message as it goes over the wire after DATA: CR LF line ends, stuffed dots, and the dot that ends it.

It is encoded by pieces while it is sent, so a large message is never there twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["Content"]

_PIECE = 65_536
_NEWLINE = rb"(?:\r\n|\n|\r(?!\n))"
_HEADER_END = re.compile(rb"(?:\A|" + _NEWLINE + rb")" + _NEWLINE)


class Content:
    """One message's content.

    Args:
        message: header, empty line, body. A line ends with CR LF, LF or CR: each of them goes out as CR LF, since
            the latter two must not go out alone (RFC 5321, 2.3.8).
    """

    __slots__ = ("_message", "header", "is_8bit", "size")

    def __init__(self, message: bytes) -> None:
        self._message = message
        header_end = _HEADER_END.search(message)
        self.header = message if header_end is None else message[: header_end.start()]
        """The header fields."""
        self.is_8bit = not message.isascii()
        """Whether the message needs 8BITMIME (RFC 6152)."""
        pairs = message.count(b"\r\n")
        halves = message.count(b"\r") + message.count(b"\n") - 2 * pairs
        self.size = len(message) + halves + (0 if message.endswith((b"\r", b"\n")) or not message else 2)
        """Octets of the message with CR LF line ends and without stuffed dots (RFC 1870, 5)."""

    def pieces(self, size: int = _PIECE) -> Iterator[bytes]:
        """What goes out, in order; the last piece has the dot that ends it (RFC 5321, 4.1.1.4).

        Args:
            size: octets of the message that make one piece, about.
        """
        message = self._message
        begin = 0
        at_line_start = True
        while True:
            end = begin + size
            if message[end - 1 : end + 1] == b"\r\n":
                end += 1
            piece = message[begin:end].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            begin = end
            if at_line_start and piece.startswith(b"."):
                piece = b"." + piece
            piece = piece.replace(b"\n.", b"\n..")  # RFC 5321, 4.5.2
            at_line_start = piece.endswith(b"\n") or (at_line_start and not piece)
            piece = piece.replace(b"\n", b"\r\n")
            if begin >= len(message):
                yield piece + (b".\r\n" if at_line_start else b"\r\n.\r\n")
                return
            yield piece
