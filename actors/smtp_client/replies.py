"""The replies of a server (RFC 5321, 4.2): bytes in, whole replies out, and nothing that is no reply.

A line ends with CR LF; a CR, a LF, a NUL or another control character inside of it makes it no line at all, since hosts
that read such a byte differently can be played off against each other.
"""

from __future__ import annotations

import re

import msgspec

__all__ = ["BadReply", "Reply", "ReplyReader"]

_CRLF = b"\r\n"
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
# The grammar has no second digit above 5, but servers use some, and the first digit tells all that is needed (4.3.2).
_LINE = re.compile(rb"([2-5]\d\d)(?:([ -])(.*))?")
_ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?: (.*))?")


class BadReply(Exception):
    """What the server sent is no reply; the text says why, in one line."""


class Reply(msgspec.Struct, frozen=True, gc=False):
    """A whole reply.

    Args:
        code: 200 to 599.
        lines: the text of each line after the code; printable.
    """

    code: int
    lines: tuple[str, ...]

    @property
    def kind(self) -> int:
        """The first digit of the code: 2 is yes, 3 is "go on", 4 is "not now", 5 is no (RFC 5321, 4.2.1)."""
        return self.code // 100

    @property
    def enhanced(self) -> str:
        """The enhanced status code (RFC 2034, 3; RFC 3463), as ``5.1.1``; empty where there is none."""
        match = _ENHANCED.fullmatch(self.lines[0])
        # One of another class than the reply's says nothing that could be relied on.
        return match[1] if match is not None and int(match[1][0]) == self.kind else ""

    @property
    def text(self) -> str:
        """The words without the codes; those of several lines with a space between them."""
        enhanced = self.enhanced
        return " ".join(filter(None, (line.removeprefix(enhanced).strip() for line in self.lines)))

    def __str__(self) -> str:
        return " ".join(filter(None, (str(self.code), self.enhanced, self.text)))


class ReplyReader:
    """Cuts what a server sends into replies.

    Args:
        max_line: octets of a line with its CR LF.
        max_lines: lines of a reply.
        max_size: octets of a reply.
    """

    __slots__ = ("_code", "_lines", "_max_line", "_max_lines", "_max_size", "_size", "_unread")

    def __init__(self, max_line: int, max_lines: int, max_size: int) -> None:
        self._max_line = max_line
        self._max_lines = max_lines
        self._max_size = max_size
        self._unread = b""
        self._code = b""
        self._lines: list[str] = []
        self._size = 0

    @property
    def has_begun(self) -> bool:
        """Whether something came after the last reply that was handed out."""
        return bool(self._unread or self._lines)

    def feed(self, data: bytes) -> None:
        """Take what the server sent."""
        self._unread += data

    def next(self) -> Reply | None:
        """The next whole reply; ``None``: not all of it is there yet.

        Raises:
            BadReply: what comes next can't become a reply, or not one within the limits.
        """
        while True:
            line, end, rest = self._unread.partition(_CRLF)
            self._check(line if end else line.removesuffix(b"\r"))
            if not end:
                return None
            self._unread = rest
            if self._take(line):
                return self._finish()

    def _check(self, line: bytes) -> None:
        """Refuse a line, or what came of one, as soon as it can be told."""
        if _CONTROL.search(line):
            raise BadReply("a reply has a control character in it")
        if len(line) + len(_CRLF) > self._max_line:
            raise BadReply(f"a reply has a line of more than {self._max_line} octets")
        if self._size + len(line) + len(_CRLF) > self._max_size:
            raise BadReply(f"a reply has more than {self._max_size} octets")

    def _take(self, line: bytes) -> bool:
        """Take a line; whether it is the last one of the reply."""
        match = _LINE.fullmatch(line)
        if match is None:
            raise BadReply(f"a reply begins with a code of three digits, not with {_shown(line[:40])!r}")
        code, mark, text = match.groups(b"")
        if self._lines and code != self._code:
            raise BadReply(f"the lines of a reply have the codes {self._code.decode()} and {code.decode()}")
        if len(self._lines) == self._max_lines:
            raise BadReply(f"a reply has more than {self._max_lines} lines")
        self._code = code
        self._size += len(line) + len(_CRLF)
        self._lines.append(_shown(text))
        return mark != b"-"

    def _finish(self) -> Reply:
        reply = Reply(int(self._code), tuple(self._lines))
        self._lines.clear()
        self._size = 0
        return reply


def _shown(text: bytes) -> str:
    """Text that can be shown and logged, whatever the server put there."""
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}"
        for character in text.replace(b"\t", b" ").decode("utf-8", "replace")
    )
