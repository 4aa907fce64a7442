"""The receiving SMTP session (RFC 5321): bytes in, replies and messages out. No socket, thread, clock or log.

::

    session = Session(settings, peer, policy)
    send(session.greeting())
    step = session.receive(data)        # what to do now: send step.reply, store step.delivery, close, in this order

After a delivery the session waits: it keeps what it is given and answers nothing until it is told how the storing
went, by :meth:`Session.stored` (a part), :meth:`Session.delivered` (the whole) or :meth:`Session.failed`. Each of these
gives the next step, which may hold the next delivery, since a client may send many commands at once (RFC 2920).

After a step that upgrades the session waits too, for :meth:`Session.secured`, which begins it anew (RFC 3207, 4.2).
It executes nothing that came in plaintext behind STARTTLS: an attacker in the middle could have put it there, and what
it did would count for the client that is authenticated afterwards. Such bytes end the session, and the step says so.

The same bytes give the same replies and messages however they are split, but for that: it matters whether what follows
STARTTLS came before its reply. No bytes whatsoever raise.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from actors.smtp import replies
from actors.smtp.commands import MAIL_ALLOWANCE, decode_command
from actors.smtp.content import Content
from actors.smtp.dialogue import Dialogue
from actors.smtp.envelope import Delivery, Encryption
from actors.smtp.policy import Policy
from actors.smtp.replies import Refused
from actors.smtp.settings import SessionSettings
from actors.smtp.transaction import Transaction

__all__ = ["Session", "Step"]

_CRLF = b"\r\n"


class Step(msgspec.Struct, frozen=True, gc=False):
    """What to do next.

    Args:
        reply: bytes to send now; may be empty, may be several replies (RFC 2920, 3.2).
        delivery: what to store after that; the session waits until it is told how that went.
        close: whether to close the connection after that.
        upgrade: whether the connection is to become TLS after that, as the server.
        injection: whether it closes because bytes came in plaintext behind STARTTLS.
    """

    reply: bytes = b""
    delivery: Delivery | None = None
    close: bool = False
    upgrade: bool = False
    injection: bool = False


_NOTHING = Step()


class Session:
    """One client's session.

    Args:
        settings: the name and the limits.
        peer: the client's address, for the envelope.
        policy: says which recipients are accepted.
        offers_tls: whether the connection can become TLS; ignored where it is.
        encryption: that of the connection; ``None``: it is plaintext.
    """

    __slots__ = (
        "_chunk_left",
        "_delivery",
        "_dialogue",
        "_encryption",
        "_errors",
        "_held",
        "_is_leaving",
        "_line_is_refused",
        "_max_line",
        "_offers_tls",
        "_peer",
        "_policy",
        "_replies",
        "_settings",
    )

    def __init__(
        self,
        settings: SessionSettings,
        peer: str,
        policy: Policy,
        *,
        offers_tls: bool = False,
        encryption: Encryption | None = None,
    ) -> None:
        self._settings = settings
        self._max_line = settings.max_command_line - len(_CRLF)
        self._peer = peer
        self._policy = policy
        self._offers_tls = offers_tls
        self._is_leaving = False
        self._begin(encryption)

    def _begin(self, encryption: Encryption | None) -> None:
        """Know nothing of the client. All that it can change is set here, so that nothing outlives an upgrade."""
        self._encryption = encryption
        tls: Literal["active", "offered", "unavailable"] = "offered" if self._offers_tls else "unavailable"
        self._dialogue = Dialogue(self._settings, self._policy, tls if encryption is None else "active")
        self._replies: list[bytes] = []
        self._delivery: Delivery | None = None
        self._errors = 0
        self._held = b""  # what came and could not be used yet
        self._line_is_refused = False  # what is left of the line, up to its CR LF, is dropped
        self._chunk_left = 0

    def greeting(self) -> bytes:
        """The bytes to send before anything is received."""
        return self._settings.greeting

    @property
    def has_parts_out(self) -> bool:
        """Whether parts of a message were handed over that is neither whole nor given up."""
        transaction = self._dialogue.transaction
        return transaction is not None and transaction.envelope is not None

    @property
    def is_in_content(self) -> bool:
        """Whether the client's next bytes belong to a message."""
        return self._dialogue.mode in ("data", "chunk")

    @property
    def is_upgrading(self) -> bool:
        """Whether the session waits for :meth:`secured`."""
        return self._dialogue.mode == "upgrade"

    def receive(self, data: bytes) -> Step:
        """Take what the client sent: any bytes, split anywhere. After the step that closes they are ignored."""
        mode = self._dialogue.mode
        if self._delivery is not None:
            self._held += data
            return _NOTHING
        if mode == "commands" and not self._held and data.find(_CRLF) == len(data) - 2 >= 0:
            # One whole command: nearly always it is this.
            reply = self._answer(data[:-2])
            mode = self._dialogue.mode
            return Step(reply, None, mode == "end", mode == "upgrade") if reply else self._advance(b"")
        if mode == "end":
            return _NOTHING
        if mode == "upgrade":
            return self._refuse_injection() if data else _NOTHING
        if self._held:
            data = self._held + data
            self._held = b""
        return self._advance(data)

    def stored(self) -> Step:
        """The part in the last step is stored.

        Raises:
            RuntimeError: there was no part in it.
        """
        self._end_delivery(complete=False)
        return self._advance_held()

    def delivered(self, identifier: str) -> Step:
        """The message in the last step is safe.

        Args:
            identifier: what the message is called here; the client is told.

        Raises:
            RuntimeError: there was no message in it, or a part only.
        """
        self._end_delivery(complete=True)
        self._errors = 0
        self._dialogue.transaction = None
        self._dialogue.asides = 0
        self._replies.append(f"250 2.0.0 Ok: queued as {identifier}\r\n".encode())
        return self._advance_held()

    def failed(self, reply: bytes) -> Step:
        """The message or part in the last step can't be stored, and the parts before it are of no use.

        Args:
            reply: what the client is told when the message has ended, CR LF included.

        Raises:
            RuntimeError: there was neither in it.
        """
        is_complete = self._delivery is not None and self._delivery.complete
        transaction = self._end_delivery(complete=is_complete)
        if is_complete:
            self._dialogue.transaction = None
            self._replies.append(reply)
        else:
            transaction.envelope = None
            _content_of(transaction).fail(reply)
        return self._advance_held()

    def secured(self, encryption: Encryption) -> Step:
        """The connection has become TLS: the session is as new (RFC 3207, 4.2), but that no greeting is sent.

        Args:
            encryption: that of the connection.

        Raises:
            RuntimeError: no step said so.
        """
        if not self.is_upgrading:
            raise RuntimeError("no upgrade is under way")
        self._begin(encryption)
        return self._advance_held()

    def time_out(self) -> Step:
        """The client was silent for too long (RFC 5321, 4.5.3.2.7)."""
        return self._leave(replies.IDLE_TOO_LONG)

    def shut_down(self) -> Step:
        """The server is going down: the client is told so, at once or after what is under way (message, upgrade)."""
        self._is_leaving = True
        if self._delivery is not None or self._dialogue.mode == "end":
            return _NOTHING
        return self._advance_held()

    def _advance_held(self) -> Step:
        data = self._held
        self._held = b""
        return self._advance(data)

    def _advance(self, data: bytes) -> Step:
        """Use ``data`` up to its end, the next delivery or the end of the session, whichever is first."""
        dialogue = self._dialogue
        position = 0
        size = len(data)
        while self._delivery is None:
            mode = dialogue.mode
            if mode == "commands":
                if self._is_leaving:
                    return self._leave(replies.GOING_DOWN)
                if position >= size:
                    break
                position = self._read_command(data, position)
            elif mode == "end":
                break
            elif mode == "upgrade":
                if position < size:
                    self._replies.pop()  # the word to go ahead
                    return self._refuse_injection(replies.OUT_OF_STEP)
                break
            elif mode == "data":
                if position >= size:
                    break
                position = self._read_data(data, position)
            else:
                if position >= size and self._chunk_left:
                    break
                position = self._read_chunk(data, position)
        else:
            self._held = data[position:]
        return self._step()

    def _step(self) -> Step:
        mode = self._dialogue.mode
        is_end = mode == "end"
        collected = self._replies
        if len(collected) == 1:
            reply = collected.pop()
        elif collected:
            reply = b"".join(collected)  # one segment for all (RFC 2920, 3.2)
            collected.clear()
        elif self._delivery is None and not is_end:
            return _NOTHING
        else:
            reply = b""
        return Step(reply, self._delivery, is_end, mode == "upgrade")

    def _leave(self, reply: bytes) -> Step:
        mode = self._dialogue.mode
        if mode == "end":
            return _NOTHING
        self._dialogue.mode = "end"
        self._delivery = None
        if mode != "upgrade":  # in the middle of a handshake there is no telling
            self._replies.append(reply)
        return self._step()

    def _refuse_injection(self, reply: bytes = b"") -> Step:
        """Bytes have come in plaintext behind STARTTLS.

        Args:
            reply: what the client is told; empty where the word to go ahead is out already.
        """
        self._dialogue.mode = "end"
        if reply:
            self._replies.append(reply)
        return msgspec.structs.replace(self._step(), injection=True)

    # -- commands -------------------------------------------------------------------------------------------------

    def _read_command(self, data: bytes, position: int) -> int:
        """Read one line of ``data`` from ``position`` on; the position after it is returned."""
        end = data.find(_CRLF, position)
        if end < 0:
            self._hold_line(data[position:])
            return len(data)
        if self._line_is_refused:
            self._line_is_refused = False
            return end + 2
        reply = self._answer(data[position:end])
        if reply:
            self._replies.append(reply)
        return end + 2

    def _answer(self, line: bytes) -> bytes:
        """Carry out a command; the reply, which is empty where a chunk has to be read first."""
        try:
            reply = self._dialogue.execute(decode_command(line, self._max_line))
        except Refused as refused:
            return self._refuse(refused.reply, line)
        if not reply:
            self._chunk_left = self._dialogue.chunk_size
        return reply

    def _hold_line(self, begin: bytes) -> None:
        """Hold what came of a line: never more of it than tells that it is too long."""
        pending = begin[-1:] if begin.endswith(b"\r") else b""
        begin = begin[: len(begin) - len(pending)]
        if not self._line_is_refused and (b"\n" in begin or b"\r" in begin):
            # Said at once, for who sends a bare LF by mistake waits for an answer. But the line goes on to its CR LF:
            # what another host takes for one line is never two here (RFC 5321, 2.3.8).
            self._line_is_refused = True
            self._replies.append(self._refuse(replies.BARE_NEWLINE_IN_COMMAND, begin))
        self._held = begin[: self._max_line + MAIL_ALLOWANCE + 1] + pending

    def _refuse(self, reply: bytes, line: bytes = b"") -> bytes:
        """Count a refused command.

        Args:
            reply: what refuses it.
            line: the line, where it was refused unread or unparsed.

        Returns:
            the reply to send: that one, or the last one of the session.
        """
        if reply.startswith(b"5"):
            self._errors += 1
            if self._errors >= self._settings.max_errors:
                self._dialogue.mode = "end"
                return replies.TOO_MANY_ERRORS
            if line[:4].upper() == b"BDAT":
                self._dialogue.mode = "end"  # its chunk would be taken for commands
        return reply

    # -- content --------------------------------------------------------------------------------------------------

    def _read_data(self, data: bytes, position: int) -> int:
        transaction = self._open_transaction()
        content = _content_of(transaction)
        taken = content.receive_data(data[position:])
        if taken < 0:
            self._hand_over_part(transaction, content)
            return len(data)
        self._end_message(transaction, content)
        return position + taken

    def _read_chunk(self, data: bytes, position: int) -> int:
        dialogue = self._dialogue
        piece = data[position : position + self._chunk_left]
        self._chunk_left -= len(piece)
        if dialogue.chunk_refusal is not None:
            if self._chunk_left == 0:
                dialogue.mode = "commands"
                self._replies.append(self._refuse(dialogue.chunk_refusal))
            return position + len(piece)
        transaction = self._open_transaction()
        content = _content_of(transaction)
        content.receive_chunk(piece)
        if self._chunk_left == 0 and dialogue.chunk_is_last:
            content.end_chunks()
            self._end_message(transaction, content)
        else:
            if self._chunk_left == 0:
                dialogue.mode = "commands"
                self._replies.append(content.refusal or b"250 2.0.0 %d octets received\r\n" % dialogue.chunk_size)
            self._hand_over_part(transaction, content)
        return position + len(piece)

    def _hand_over_part(self, transaction: Transaction, content: Content) -> None:
        if content.held >= self._settings.spool_size:
            self._hand_over(transaction, content, complete=False)

    def _end_message(self, transaction: Transaction, content: Content) -> None:
        """The message is in: refuse it, or hand it over; then the reply waits for how that went."""
        self._dialogue.mode = "commands"
        refusal = content.refusal
        if refusal is None:
            self._hand_over(transaction, content, complete=True)
        else:
            self._dialogue.transaction = None
            self._replies.append(refusal)

    def _hand_over(self, transaction: Transaction, content: Content, *, complete: bool) -> None:
        dialogue = self._dialogue
        envelope = transaction.seal(dialogue.helo, self._peer, self._encryption, is_extended=dialogue.is_extended)
        self._delivery = Delivery(envelope, content.take(), complete)

    def _end_delivery(self, *, complete: bool) -> Transaction:
        if self._delivery is None or self._delivery.complete != complete:
            raise RuntimeError("no such delivery is under way")
        self._delivery = None
        return self._open_transaction()

    def _open_transaction(self) -> Transaction:
        transaction = self._dialogue.transaction
        assert transaction is not None, "there is content without MAIL"
        return transaction


def _content_of(transaction: Transaction) -> Content:
    content = transaction.content
    assert content is not None, "there is content that nobody announced"
    return content
