"""The commands that are others in LMTP (RFC 2033, 4)."""

from __future__ import annotations

from collections.abc import Callable

from actors.smtp.dialogue import Dialogue
from actors.smtp.policy import Policy
from actors.smtp.replies import Refused
from actors.smtp.settings import SessionSettings

__all__ = ["LmtpDialogue"]

HELP = b"214 2.0.0 Commands: LHLO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT (RFC 2033)\r\n"
NOT_GREETED = b"503 5.5.1 Say LHLO first\r\n"
NO_RECIPIENTS = b"503 5.5.1 No valid recipients\r\n"


class LmtpDialogue(Dialogue):
    """What a client and the store have said to each other.

    Args:
        settings: the name and the limits.
        policy: says which recipients are accepted.
    """

    __slots__ = ()

    def __init__(self, settings: SessionSettings, policy: Policy) -> None:
        super().__init__(settings, policy, "unavailable")
        self._handlers = _HANDLERS

    def _mail(self, argument: str) -> bytes:
        if not self.helo:
            raise Refused(NOT_GREETED)
        return super()._mail(argument)

    def _data(self, argument: str) -> bytes:
        if self.transaction is not None and not self.transaction.recipients:
            raise Refused(NO_RECIPIENTS)  # RFC 2033, 4.2 has no other code for it
        return super()._data(argument)

    def _help(self, argument: str) -> bytes:
        super()._help(argument)
        return HELP


# HELO and EHLO must be refused (RFC 2033, 4.1).
_HANDLERS: dict[str, Callable[[Dialogue, str], bytes]] = {
    "LHLO": Dialogue._ehlo,
    "MAIL": lambda dialogue, argument: dialogue._mail(argument),
    "RCPT": Dialogue._rcpt,
    "DATA": lambda dialogue, argument: dialogue._data(argument),
    "BDAT": Dialogue._bdat,
    "RSET": Dialogue._rset,
    "NOOP": Dialogue._noop,
    "VRFY": Dialogue._vrfy,
    "HELP": lambda dialogue, argument: dialogue._help(argument),
    "QUIT": Dialogue._quit,
}
