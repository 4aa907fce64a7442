"""What a server offers beyond the basics (RFC 5321, 2.2), and what a message needs of it."""

from __future__ import annotations

import re

from actors.smtp_client.replies import Reply
from actors.smtp_client.submission import Submission

__all__ = ["Extensions", "NotOffered"]

_SIZE = re.compile(r"[0-9]{1,20}")  # RFC 1870, 3


class NotOffered(Exception):
    """The server would refuse the message, or could not handle it.

    Args:
        enhanced: the enhanced status code that a server would give (RFC 3463).
        text: the reason in one line.
    """

    def __init__(self, enhanced: str, text: str) -> None:
        super().__init__(text)
        self.enhanced = enhanced
        self.text = text


class Extensions:
    """The extensions that a server named in its last reply to EHLO.

    Args:
        reply: that one; ``None``: there was none, or it counts no longer.
    """

    __slots__ = ("_offered",)

    def __init__(self, reply: Reply | None = None) -> None:
        lines = () if reply is None else reply.lines[1:]
        named = (line.partition(" ") for line in lines)
        self._offered = {keyword.upper(): parameters.strip() for keyword, _, parameters in named}

    def __contains__(self, keyword: str) -> bool:
        """Whether the server offers it; the keyword is in upper case."""
        return keyword in self._offered

    def mail_parameters(self, submission: Submission) -> str:
        """What stands in the MAIL command behind the address, with a space in front of each.

        Raises:
            NotOffered: the message needs what the server doesn't offer, or is larger than the server takes.
        """
        content = submission.content
        parameters = ""
        if submission.is_utf8:
            if "SMTPUTF8" not in self:
                raise NotOffered("5.6.7", "an address or the header needs SMTPUTF8, which the server does not offer")
            parameters += " SMTPUTF8"
        if content.is_8bit:
            if "8BITMIME" not in self:
                raise NotOffered("5.6.3", "the message needs 8BITMIME, which the server does not offer")
            parameters += " BODY=8BITMIME"
        if "SIZE" in self:
            limit = _SIZE.fullmatch(self._offered["SIZE"])
            if limit is not None and 0 < int(limit[0]) < content.size:  # 0 is no limit (RFC 1870, 4)
                raise NotOffered(
                    "5.3.4", f"the message has {content.size} octets, and the server takes {int(limit[0])}"
                )
            parameters += f" SIZE={content.size}"
        return parameters
