"""A message under way: from MAIL to the reply that ends it (RFC 5321, 3.3)."""

from __future__ import annotations

from actors.smtp.content import Content
from actors.smtp.envelope import Encryption, Envelope

__all__ = ["Transaction"]


class Transaction:
    """What a client has said about one message so far.

    Args:
        sender: ``local@domain``; empty for the null sender.
    """

    __slots__ = ("body", "content", "envelope", "is_utf8", "recipients", "sender")

    def __init__(self, sender: str) -> None:
        self.sender = sender
        self.recipients: list[str] = []
        self.body = "7BIT"
        self.is_utf8 = False
        self.content: Content | None = None
        """Begun by DATA or the first BDAT."""
        self.envelope: Envelope | None = None
        """Made when the message, or its first part, is handed over."""

    def seal(self, helo: str, peer: str, encryption: Encryption | None, *, is_extended: bool) -> Envelope:
        """The envelope; no recipient is added any more.

        Args:
            helo: the name that the client gave itself.
            peer: its address.
            encryption: that of its connection.
            is_extended: whether it said EHLO.
        """
        if self.envelope is None:
            protocol = "UTF8SMTP" if self.is_utf8 else "ESMTP" if is_extended else "SMTP"
            if encryption is not None and is_extended:  # there is no name for the other (RFC 3848)
                protocol += "S"
            recipients = tuple(dict.fromkeys(self.recipients))
            self.envelope = Envelope(self.sender, recipients, helo, peer, protocol, self.body, encryption)
        return self.envelope
