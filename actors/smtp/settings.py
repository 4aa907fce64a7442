"""What can be set: for a session, and for the server around it.

Both are frozen and checked when they are built; ``msgspec.convert(mapping, type=ServerSettings)`` names the wrong key.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import Annotated

import msgspec

__all__ = ["ServerSettings", "SessionSettings"]

_HOSTNAME = re.compile(
    r"[A-Za-z0-9]([A-Za-z0-9\-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9\-]*[A-Za-z0-9])?)*|\[[0-9A-Za-z:.]+\]"
)


class SessionSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """The name, the limits and the rules of a receiving session. The lower bounds are those of RFC 5321, 4.5.3.1.

    Args:
        hostname: the server's own name, in the greeting and in Received fields.
        domains: the domains whose mail is accepted; ``*`` for every one. Left out: the hostname alone.
        require_tls: whether a client gets on only after STARTTLS, or over TLS from the first byte (RFC 3207, 4).
        max_message_size: octets of a message, line ends counted as CR LF (RFC 1870); announced as SIZE.
        max_recipients: recipients of one message; the ones beyond are told to come again (452).
        max_errors: refused commands (5xx) since the last accepted message, until the connection is closed (421).
        max_asides: commands that carry no message on (NOOP, RSET, VRFY, HELP, a repeated EHLO) since the last accepted
            message, until the connection is closed (421).
        max_command_line: octets of a command line with its CR LF, before what the extensions add to MAIL.
        max_text_line: octets of a line of the message with its CR LF, without a stuffed dot.
        spool_size: octets of a message that are held in memory before they are handed over to be stored.
    """

    hostname: str = "localhost"
    domains: tuple[str, ...] = ()
    require_tls: bool = False
    max_message_size: Annotated[int, msgspec.Meta(ge=65_536)] = 26_214_400
    max_recipients: Annotated[int, msgspec.Meta(ge=100)] = 1000
    max_errors: Annotated[int, msgspec.Meta(ge=1)] = 20
    max_asides: Annotated[int, msgspec.Meta(ge=1)] = 100
    max_command_line: Annotated[int, msgspec.Meta(ge=512)] = 512
    max_text_line: Annotated[int, msgspec.Meta(ge=1000)] = 1000
    spool_size: Annotated[int, msgspec.Meta(ge=4096)] = 262_144

    def __post_init__(self) -> None:
        if _HOSTNAME.fullmatch(self.hostname) is None:
            raise ValueError(f"hostname {self.hostname!r} is neither a domain name nor an address literal")

    @cached_property
    def greeting(self) -> bytes:
        """The first reply (RFC 5321, 4.2)."""
        return f"220 {self.hostname} ESMTP\r\n".encode()

    @cached_property
    def helo_reply(self) -> bytes:
        """The reply to HELO."""
        return f"250 {self.hostname}\r\n".encode()

    @cached_property
    def ehlo_reply(self) -> bytes:
        """The reply to EHLO, with the extensions."""
        return self._ehlo_reply()

    @cached_property
    def ehlo_reply_before_tls(self) -> bytes:
        """The same, and STARTTLS (RFC 3207)."""
        return self._ehlo_reply("STARTTLS")

    def _ehlo_reply(self, *more: str) -> bytes:
        lines = (
            self.hostname,
            "PIPELINING",  # RFC 2920
            f"SIZE {self.max_message_size}",  # RFC 1870
            "8BITMIME",  # RFC 6152
            "SMTPUTF8",  # RFC 6531
            "ENHANCEDSTATUSCODES",  # RFC 2034
            "CHUNKING",  # RFC 3030
            *more,
            "HELP",
        )
        return b"".join(f"250{' ' if line is lines[-1] else '-'}{line}\r\n".encode() for line in lines)


class ServerSettings(SessionSettings, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """The settings of a session, and those of the server.

    Args:
        maildir: the folder that the mail is delivered to; it is made where it is missing.
        fsync: whether a message is forced to the disk before it is acknowledged. Without it a message outlives the
            end of the process, but not that of the machine.
        timeout: seconds that a client may stay silent (RFC 5321, 4.5.3.2.7).
        implicit_tls: addresses to listen at where TLS begins with the first byte (RFC 8314, 3.3), beside the listeners
            that the server is given.
    """

    maildir: Annotated[str, msgspec.Meta(min_length=1)]
    fsync: bool = True
    timeout: Annotated[float, msgspec.Meta(gt=0)] = 300.0
    implicit_tls: tuple[str, ...] = ()
