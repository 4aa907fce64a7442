"""The content of a message, as it comes in.

It is scanned in whole chunks by the fast searches of ``bytes``, never line by line. ``_carry`` is what could not be
judged yet: the CR LF that ended the last whole line, and the begin of the next line. With that CR LF in front, the
end of the data and a stuffed dot look the same at the begin of a chunk, after a split, and in the middle. Where a line
got so long that the message is refused anyway, its begin is let go and a neutral byte stands for it, so what is
held of a line is bounded.

The end of the data is exactly CR LF, dot, CR LF (RFC 5321, 4.1.1.4). A CR or LF that stands alone ends nothing; it
makes the message a faulty one, which is refused after its real end, for hosts that read such a byte differently can be
played off against each other ("SMTP smuggling"). What a faulty message had is not kept, but it is still scanned: the
fault that is reported does not depend on how the network split the bytes.
"""

from __future__ import annotations

import re

from actors.smtp import replies

__all__ = ["Content"]

_CRLF = b"\r\n"
_END = b"\r\n.\r\n"
_MID_LINE = b"x"
_SMALL = 1024
_DOT_LINE = re.compile(rb"\r\n\.")  # quicker than bytes.find on text that has many CR


class Content:
    """One message's content.

    Args:
        max_size: octets of the message, with CR LF line ends and without stuffed dots.
        max_line: octets of a line with its CR LF, without a stuffed dot.
    """

    __slots__ = (
        "_carry",
        "_failure",
        "_has_bare_newline",
        "_has_long_line",
        "_max_line",
        "_max_size",
        "_parts",
        "held",
        "size",
    )

    def __init__(self, max_size: int, max_line: int) -> None:
        self._max_size = max_size
        self._max_line = max_line
        self._carry = _CRLF
        self._parts: list[bytes | bytearray] = []
        self._has_bare_newline = False
        self._has_long_line = False
        self._failure: bytes | None = None
        self.size = 0
        """Octets of the message judged so far."""
        self.held = 0
        """Octets that :meth:`take` would hand over."""

    def receive_data(self, data: bytes) -> int:
        """Take what came after DATA.

        Returns:
            How many of the octets of ``data`` belong to the message, its end included; -1: all, and it has not ended.
        """
        carry = self._carry
        text = carry + data
        dot = _DOT_LINE.search(text)
        if dot is None:
            end = -1
        elif text[dot.end() : dot.end() + 2] == _CRLF:
            end = dot.start()
        else:
            end = text.find(_END, dot.start())
        is_stuffed = dot is not None and dot.start() != end
        if end < 0:
            self._receive(text, is_stuffed=is_stuffed)
            return -1
        self._judge(text[: end + 2], is_stuffed=is_stuffed)
        return end + len(_END) - len(carry)

    def receive_chunk(self, data: bytes) -> None:
        """Take octets of a BDAT chunk."""
        self._receive(self._carry + data, is_stuffed=False)

    def end_chunks(self) -> None:
        """The last chunk is in. A last line without CR LF gets one, for in a mailbox it would run into what follows."""
        if len(self._carry) > len(_CRLF) or self._carry[:1] == _MID_LINE:
            self._judge(self._carry, is_stuffed=False)
            self._keep(b"\n")

    @property
    def is_faulty(self) -> bool:
        """Whether the message will be refused."""
        return self._has_bare_newline or self._has_long_line or self.size > self._max_size or self._failure is not None

    @property
    def refusal(self) -> bytes | None:
        """The reply that refuses the message; ``None``: there is nothing wrong with it."""
        if not self.is_faulty:
            return None
        if self._failure is not None:
            return self._failure
        if self.size > self._max_size:
            return replies.TOO_LARGE
        return replies.BARE_NEWLINE_IN_TEXT if self._has_bare_newline else replies.TEXT_LINE_TOO_LONG

    def fail(self, reply: bytes) -> None:
        """The message will be refused for a reason that lies outside of it.

        Args:
            reply: the reply that refuses it.
        """
        self._failure = reply

    def take(self) -> tuple[bytes, ...]:
        """Hand over what is there of the message, with LF line ends; it is no longer held here."""
        parts = tuple(map(bytes, self._parts))  # no copy of what is bytes
        self._parts.clear()
        self.held = 0
        return parts

    def _receive(self, text: bytes, *, is_stuffed: bool) -> None:
        """Judge the whole lines of ``text``, which has the carry in front, and carry the rest."""
        last = text.rfind(_CRLF)
        if last > 0:
            self._judge(text[: last + 2], is_stuffed=is_stuffed)
            text = text[last:]
        # A stuffed dot and a CR that may belong to the line's end do not count: 2 for CR LF in front, 2 for them.
        if len(text) > self._max_line + 2 or text[:1] == _MID_LINE:
            self._has_long_line = True
            pending = text[-1:] if text.endswith(b"\r") else b""
            self._judge(text[: len(text) - len(pending)], is_stuffed=is_stuffed)
            text = _MID_LINE + pending
        self._carry = text

    def _judge(self, text: bytes, *, is_stuffed: bool) -> None:
        """Check lines and keep them.

        Args:
            text: CR LF or the neutral byte, then lines; the last one whole, unless it is too long or the very end.
            is_stuffed: whether there are lines that begin with a dot, which is one too many (RFC 5321, 4.5.2).
        """
        lines = text.split(_CRLF)
        line_ends = len(lines) - 1
        joined = b"\n".join(lines)
        if b"\r" in joined or joined.count(b"\n") != line_ends:
            self._has_bare_newline = True
        if is_stuffed:
            joined = joined.replace(b"\n.", b"\n")
            lines = joined.split(b"\n")
        if max(map(len, lines)) > self._max_line - 2:
            self._has_long_line = True
        # The first byte is no part of the message: the LF of the line before, or the neutral byte.
        self.size += len(joined) - 1 + line_ends - (0 if lines[0] else 1)
        if self.is_faulty:
            self._parts.clear()
            self.held = 0
        else:
            self._keep(joined[1:])
            self.held += len(joined) - 1

    def _keep(self, piece: bytes) -> None:
        """Hold a piece of the message. Small ones share an object, which would else be most of what they cost."""
        parts = self._parts
        if len(piece) >= _SMALL or not parts:
            parts.append(piece)
            return
        last = parts[-1]
        if isinstance(last, bytearray):
            last += piece
        else:
            parts.append(bytearray(piece))
