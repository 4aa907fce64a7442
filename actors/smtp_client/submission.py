"""What is to be sent: a message, who sends it, and to whom.

It is checked when it is made. An address can't bring anything else into a command: no control characters, no line
ends, no angle brackets, and spaces only inside of a quoted local part.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property

import msgspec

from actors.smtp_client.content import Content
from theater_tcp.errors import InvalidArgument

__all__ = ["Submission"]

_ATOMS = r"[^ ()<>\[\]\\,;:@\"]+"
_QUOTED = r"\"(?:[^<>\\\"]|\\[^<>])*\""
_LITERAL = r"\[[0-9A-Za-z:.\-]+\]"
_ADDRESS = re.compile(rf"(?:{_ATOMS}|{_QUOTED})@(?:{_ATOMS}|{_LITERAL})")
_MAX_PATH = 256
"""Octets of a path with its angle brackets (RFC 5321, 4.5.3.1.3)."""


class Submission(msgspec.Struct, frozen=True, dict=True):
    """A message and its envelope.

    Args:
        sender: ``local@domain``, where the report goes if it can't be delivered; empty for none (``<>``).
        recipients: ``local@domain`` each, or ``postmaster``; one that is named twice counts once.
        message: the message, header and body (RFC 5322). Any of CR LF, LF and CR ends a line, and goes out as CR LF.

    Raises:
        InvalidArgument: an address or the message can't be sent; it names which, and why.
    """

    sender: str
    recipients: Sequence[str]
    message: bytes

    def __post_init__(self) -> None:
        recipients: object = self.recipients
        if isinstance(recipients, str) or not isinstance(recipients, Iterable):
            raise InvalidArgument("recipients: expected a list of addresses")
        msgspec.structs.force_setattr(self, "recipients", tuple(dict.fromkeys(recipients)))
        if not self.recipients:
            raise InvalidArgument("recipients: there is none")
        if self.sender != "":
            _check_address("sender", self.sender)
        for number, recipient in enumerate(self.recipients):
            if not (isinstance(recipient, str) and recipient.lower() == "postmaster"):
                _check_address(f"recipients[{number}]", recipient)
        if not isinstance(self.message, bytes):
            raise InvalidArgument(f"message: expected bytes, got {type(self.message).__name__}")
        try:
            self.content.header.decode()
        except UnicodeDecodeError:
            raise InvalidArgument("message: its header is neither ASCII nor UTF-8 (RFC 6532, 3.2)") from None

    @cached_property
    def content(self) -> Content:
        """The message as it goes out."""
        return Content(self.message)

    @cached_property
    def is_utf8(self) -> bool:
        """Whether the server needs SMTPUTF8 for it: an address or the header has more than ASCII (RFC 6531, 3.1)."""
        return not (self.sender.isascii() and all(map(str.isascii, self.recipients)) and self.content.header.isascii())


def _check_address(field: str, address: object) -> None:
    if not isinstance(address, str):
        raise InvalidArgument(f"{field}: expected a text, got {type(address).__name__}")
    if not address.isprintable() or _ADDRESS.fullmatch(address) is None:
        raise InvalidArgument(f"{field}: {address!r} is no address of the form local@domain")
    if len(address.encode()) + 2 > _MAX_PATH:
        raise InvalidArgument(f"{field}: an address has at most {_MAX_PATH - 2} octets")
