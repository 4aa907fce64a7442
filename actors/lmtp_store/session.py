"""The session of RFC 2033: :class:`~actors.smtp.session.Session`, but for what stands behind a message.

There each recipient that was accepted has a reply of its own, in the order of the RCPT commands, also the one that was
named twice; behind the text of DATA as behind the last chunk of BDAT. Here all of them share one Maildir and so one
fate; the replies are equal.
"""

from __future__ import annotations

import msgspec

from actors.lmtp_store.dialogue import LmtpDialogue
from actors.smtp.content import Content
from actors.smtp.envelope import Encryption
from actors.smtp.session import Session, Step
from actors.smtp.transaction import Transaction

__all__ = ["LmtpSession"]


class LmtpSession(Session):
    """One client's session. It is driven as :class:`~actors.smtp.session.Session` is."""

    __slots__ = ("_is_to_leave",)

    @property
    def _is_leaving(self) -> bool:
        """Whether the client is told to go: not in the middle of a message, for its recipients were promised to others
        by the server in front."""
        return self._is_to_leave and self._dialogue.transaction is None

    @_is_leaving.setter
    def _is_leaving(self, value: bool) -> None:
        self._is_to_leave = value

    def _begin(self, encryption: Encryption | None) -> None:
        super()._begin(encryption)
        self._dialogue = LmtpDialogue(self._settings, self._policy)

    def receive(self, data: bytes) -> Step:
        """Take what the client sent; see :meth:`~actors.smtp.session.Session.receive`."""
        step = super().receive(data)
        if not self._is_leaving:
            return step
        last = self._advance_held()  # the message is gone that it was to wait for
        return msgspec.structs.replace(last, reply=step.reply + last.reply)

    def delivered(self, identifier: str) -> Step:
        """The message in the last step is safe; see :meth:`~actors.smtp.session.Session.delivered`."""
        reply = f"250 2.0.0 Ok: queued as {identifier}\r\n".encode()
        self._reply_to_all_but_one(self._open_transaction(), reply)
        return super().delivered(identifier)

    def failed(self, reply: bytes) -> Step:
        """The message or part in the last step can't be stored; see :meth:`~actors.smtp.session.Session.failed`."""
        if self._delivery is not None and self._delivery.complete:
            self._reply_to_all_but_one(self._open_transaction(), reply)
        return super().failed(reply)

    def _end_message(self, transaction: Transaction, content: Content) -> None:
        if content.refusal is not None:
            self._reply_to_all_but_one(transaction, content.refusal)
        super()._end_message(transaction, content)

    def _reply_to_all_but_one(self, transaction: Transaction, reply: bytes) -> None:
        """The last one's is given where SMTP has its only one."""
        self._replies += [reply] * (len(transaction.recipients) - 1)

    def _hand_over(self, transaction: Transaction, content: Content, *, complete: bool) -> None:
        is_first = transaction.envelope is None
        super()._hand_over(transaction, content, complete=complete)
        if is_first and self._delivery is not None:
            sealed = self._delivery.envelope
            # LMTP, LMTPS (RFC 3848), UTF8LMTP, UTF8LMTPS (RFC 6531, 4.3)
            protocol = sealed.protocol.replace("ESMTP", "LMTP").replace("8SMTP", "8LMTP")
            transaction.envelope = msgspec.structs.replace(sealed, protocol=protocol)
            self._delivery = msgspec.structs.replace(self._delivery, envelope=transaction.envelope)
