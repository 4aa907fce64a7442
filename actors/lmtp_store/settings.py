"""What can be set, and the words that LMTP has in other places than SMTP."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated

import msgspec

from actors.smtp.settings import ServerSettings

__all__ = ["StoreSettings"]

_EXTENSIONS = ("PIPELINING", "SIZE {size}", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "CHUNKING", "HELP")


class StoreSettings(ServerSettings, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """The settings of a receiving server. Its clients are mail servers, not strangers.

    So it bears more of them in one session: what it refuses was asked for by somebody behind them, and one session may
    carry the messages of many. And a message may be larger than a server takes by default, by the field that it adds.
    """

    max_message_size: Annotated[int, msgspec.Meta(ge=65_536)] = 26_214_400 + 65_536
    max_errors: Annotated[int, msgspec.Meta(ge=1)] = 1000
    max_asides: Annotated[int, msgspec.Meta(ge=1)] = 1000

    @cached_property
    def greeting(self) -> bytes:
        """The first reply."""
        return f"220 {self.hostname} LMTP\r\n".encode()

    @cached_property
    def ehlo_reply(self) -> bytes:
        """The reply to LHLO, with the extensions; the first and the fifth are every LMTP server's (RFC 2033, 5)."""
        lines = [self.hostname, *(line.format(size=self.max_message_size) for line in _EXTENSIONS)]
        return b"".join(f"250{' ' if line is lines[-1] else '-'}{line}\r\n".encode() for line in lines)
