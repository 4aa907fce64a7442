"""The commands and their order (RFC 5321, 4.1 and 4.3): one command in, one reply out.

The dialogue does not see the bytes of a message. It says by its ``mode`` what comes next on the wire, and opens the
:class:`~actors.smtp.content.Content` that they go into.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from actors.smtp import replies
from actors.smtp.commands import parse_bdat, parse_helo, parse_mail, parse_rcpt
from actors.smtp.content import Content
from actors.smtp.policy import Policy
from actors.smtp.replies import Refused
from actors.smtp.settings import SessionSettings
from actors.smtp.transaction import Transaction

__all__ = ["Dialogue"]

_MAX_SIZE_DIGITS = 20
"""RFC 1870, 3."""
_NOT_IMPLEMENTED = {"AUTH", "ETRN", "EXPN", "SAML", "SEND", "SOML", "TURN"}
_HTTP = {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"}
"""A browser that was lured here sends one of these first, and an attacker's commands after it."""


class Dialogue:
    """What a client and the server have said to each other.

    Args:
        settings: the name and the limits.
        policy: says which recipients are accepted.
        tls: whether the connection is TLS already, becomes it at STARTTLS, or can't.
    """

    __slots__ = (
        "_handlers",
        "_policy",
        "_settings",
        "_tls",
        "asides",
        "chunk_is_last",
        "chunk_refusal",
        "chunk_size",
        "helo",
        "is_extended",
        "mode",
        "transaction",
    )

    def __init__(
        self, settings: SessionSettings, policy: Policy, tls: Literal["active", "offered", "unavailable"]
    ) -> None:
        self._settings = settings
        self._policy = policy
        self._tls = tls
        self._handlers = _HANDLERS_BEFORE_TLS if settings.require_tls and tls != "active" else _HANDLERS
        self.helo = ""
        """The name that the client gave itself; empty before EHLO and HELO."""
        self.is_extended = False
        """Whether it was EHLO."""
        self.transaction: Transaction | None = None
        self.mode: Literal["commands", "data", "chunk", "upgrade", "end"] = "commands"
        """What the client's next bytes are; ``upgrade``: those of a TLS handshake; ``end``: nothing of interest."""
        self.asides = 0
        """Commands since the last accepted message that carried none on."""
        self.chunk_size = 0
        """Octets of the BDAT chunk that comes next."""
        self.chunk_is_last = False
        self.chunk_refusal: bytes | None = None
        """The reply when the chunk has been read and thrown away; ``None``: it is wanted."""

    def execute(self, command: str) -> bytes:
        """Carry out one command.

        Args:
            command: a line without its end and without control characters.

        Returns:
            The reply; empty for BDAT, which is answered after its chunk.

        Raises:
            Refused: with the reply.
        """
        verb, _, argument = command.partition(" ")
        handler = self._handlers.get(verb)
        if handler is None:
            if verb.isascii():  # for there are other letters whose upper case is in ASCII
                verb = verb.upper()
            handler = self._handlers.get(verb)
            if handler is None:
                raise Refused(self._unknown(verb))
        return handler(self, argument)

    def _unknown(self, verb: str) -> bytes:
        if verb in _HTTP:
            self.mode = "end"
            return replies.NOT_SMTP
        if self._handlers is _HANDLERS_BEFORE_TLS:
            return replies.TLS_FIRST
        return replies.NOT_IMPLEMENTED if verb in _NOT_IMPLEMENTED else replies.UNKNOWN_COMMAND

    def _ehlo(self, argument: str) -> bytes:
        self._greet(argument)
        self.is_extended = True
        return self._settings.ehlo_reply_before_tls if self._tls == "offered" else self._settings.ehlo_reply

    def _helo(self, argument: str) -> bytes:
        self._greet(argument)
        self.is_extended = False
        return self._settings.helo_reply

    def _greet(self, argument: str) -> None:
        self._count_aside()
        self.helo = parse_helo(argument)
        self.transaction = None  # RFC 5321, 4.1.4

    def _starttls(self, argument: str) -> bytes:
        self._count_aside()
        if self._tls == "active":
            raise Refused(replies.TLS_ALREADY)
        _refuse_argument(argument)
        if self._tls == "unavailable":
            raise Refused(replies.NO_TLS)
        self.transaction = None
        self.mode = "upgrade"
        return replies.GO_AHEAD_WITH_TLS

    def _mail(self, argument: str) -> bytes:
        if not self.helo:
            raise Refused(replies.NOT_GREETED)
        if self.transaction is not None:
            raise Refused(replies.NESTED_MAIL)
        mail = parse_mail(argument)
        transaction = Transaction(mail.sender)
        if mail.parameters:
            for keyword, value in mail.parameters.items():
                self._set_parameter(transaction, keyword, value)
        if not transaction.is_utf8 and not mail.sender.isascii():
            raise Refused(replies.UTF8_NOT_ASKED_FOR)
        self.transaction = transaction
        return replies.SENDER_OK

    def _set_parameter(self, transaction: Transaction, keyword: str, value: str | None) -> None:
        if not self.is_extended:
            raise Refused(replies.UNKNOWN_PARAMETER)  # HELO asks for no extension (RFC 5321, 2.2.1)
        if keyword == "SIZE":
            if value is None or not value.isdigit() or len(value) > _MAX_SIZE_DIGITS:
                raise Refused(replies.BAD_PARAMETER)
            if int(value) > self._settings.max_message_size:
                raise Refused(replies.TOO_LARGE)
        elif keyword == "BODY":
            if value is None or value.upper() not in ("7BIT", "8BITMIME"):
                raise Refused(replies.BAD_PARAMETER)
            transaction.body = value.upper()
        elif keyword == "SMTPUTF8":
            if value is not None:
                raise Refused(replies.BAD_PARAMETER)
            transaction.is_utf8 = True
        else:
            raise Refused(replies.UNKNOWN_PARAMETER)

    def _rcpt(self, argument: str) -> bytes:
        transaction = self._open_transaction()
        recipient = parse_rcpt(argument)
        if not transaction.is_utf8 and not recipient.address.isascii():
            raise Refused(replies.UTF8_NOT_ASKED_FOR)
        recipients = transaction.recipients
        if len(recipients) >= self._settings.max_recipients:
            raise Refused(replies.TOO_MANY_RECIPIENTS)
        refusal = self._policy.refusal(transaction.sender, recipient)
        if refusal is not None:
            raise Refused(refusal)
        recipients.append(recipient.address)
        return replies.RECIPIENT_OK

    def _data(self, argument: str) -> bytes:
        _refuse_argument(argument)
        transaction = self._open_transaction()
        if not transaction.recipients:
            raise Refused(replies.NO_RECIPIENTS)
        transaction.content = self._new_content()
        self.mode = "data"
        return replies.GO_AHEAD

    def _bdat(self, argument: str) -> bytes:
        self.chunk_size, self.chunk_is_last = parse_bdat(argument)
        # Whatever the answer will be, the chunk comes and has to be read (RFC 3030, 2).
        self.mode = "chunk"
        transaction = self.transaction
        if self._handlers is _HANDLERS_BEFORE_TLS:
            self.chunk_refusal = replies.TLS_FIRST
        elif transaction is None:
            self.chunk_refusal = replies.MAIL_FIRST
        elif not transaction.recipients:
            self.chunk_refusal = replies.NO_RECIPIENTS
        else:
            self.chunk_refusal = None
            transaction.content = transaction.content or self._new_content()
        return b""

    def _rset(self, argument: str) -> bytes:
        self._count_aside()
        _refuse_argument(argument)
        self.transaction = None
        return replies.OK

    def _noop(self, argument: str) -> bytes:
        self._count_aside()
        return replies.OK

    def _vrfy(self, argument: str) -> bytes:
        self._count_aside()
        if not argument.strip(" "):
            raise Refused(replies.VRFY_SYNTAX)
        return replies.CANNOT_VERIFY

    def _help(self, argument: str) -> bytes:
        self._count_aside()
        return replies.HELP

    def _quit(self, argument: str) -> bytes:
        _refuse_argument(argument)
        self.mode = "end"
        return replies.GOODBYE

    def _count_aside(self) -> None:
        self.asides += 1
        if self.asides > self._settings.max_asides:
            self.mode = "end"
            raise Refused(replies.TOO_MANY_ASIDES)

    def _open_transaction(self) -> Transaction:
        """The transaction, where its content has not begun."""
        if self.transaction is None:
            raise Refused(replies.MAIL_FIRST)
        if self.transaction.content is not None:
            raise Refused(replies.CHUNKS_BEGUN)
        return self.transaction

    def _new_content(self) -> Content:
        return Content(self._settings.max_message_size, self._settings.max_text_line)


def _refuse_argument(argument: str) -> None:
    if argument and argument.strip(" "):
        raise Refused(replies.NO_ARGUMENT_WANTED)


_HANDLERS: dict[str, Callable[[Dialogue, str], bytes]] = {
    "EHLO": Dialogue._ehlo,
    "HELO": Dialogue._helo,
    "STARTTLS": Dialogue._starttls,
    "MAIL": Dialogue._mail,
    "RCPT": Dialogue._rcpt,
    "DATA": Dialogue._data,
    "BDAT": Dialogue._bdat,
    "RSET": Dialogue._rset,
    "NOOP": Dialogue._noop,
    "VRFY": Dialogue._vrfy,
    "HELP": Dialogue._help,
    "QUIT": Dialogue._quit,
}

_HANDLERS_BEFORE_TLS = {verb: _HANDLERS[verb] for verb in ("EHLO", "HELO", "STARTTLS", "NOOP", "QUIT", "BDAT")}
"""Where TLS is required. BDAT is among them since a chunk has to be read, whatever the answer."""
