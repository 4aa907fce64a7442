"""The store: an actor that takes messages by LMTP and delivers them to a Maildir.

It is the server of :mod:`actors.smtp.server` with another session. It belongs behind a mail server, at a Unix socket or
a loopback address: what it accepts was not asked for a password, and a client that spoke SMTP to it by mistake
would not hear whether each recipient has the message. Port 25 is SMTP's alone (RFC 2033, 5).
"""

from __future__ import annotations

import logging
from typing import ClassVar

import msgspec

from actors.lmtp_store.session import LmtpSession
from actors.lmtp_store.settings import StoreSettings
from actors.smtp.envelope import Encryption
from actors.smtp.server import SmtpServer
from actors.smtp.settings import ServerSettings
from theater_tcp import ConnectionHandle

__all__ = ["LmtpStore"]

logger = logging.getLogger("actors.lmtp_store")


class LmtpStore(SmtpServer):
    """Takes mail on the listeners that it is given, and delivers it to a Maildir.

    Args:
        maildir: the folder; the other arguments are those of :class:`~actors.lmtp_store.settings.StoreSettings`.

    Raises:
        TheaterError: ``invalid``: an argument is wrong; from ``on_start`` ``io``: the folder can't be used.
    """

    settings_type: ClassVar[type[ServerSettings]] = StoreSettings

    def __init__(
        self,
        *,
        maildir: str,
        hostname: str | msgspec.UnsetType = msgspec.UNSET,
        domains: list[str] | msgspec.UnsetType = msgspec.UNSET,
        fsync: bool | msgspec.UnsetType = msgspec.UNSET,
        timeout: float | msgspec.UnsetType = msgspec.UNSET,
        max_message_size: int | msgspec.UnsetType = msgspec.UNSET,
        max_recipients: int | msgspec.UnsetType = msgspec.UNSET,
        max_errors: int | msgspec.UnsetType = msgspec.UNSET,
        max_asides: int | msgspec.UnsetType = msgspec.UNSET,
        max_command_line: int | msgspec.UnsetType = msgspec.UNSET,
        max_text_line: int | msgspec.UnsetType = msgspec.UNSET,
        spool_size: int | msgspec.UnsetType = msgspec.UNSET,
    ) -> None:
        named = {name: value for name, value in locals().items() if name in StoreSettings.__struct_fields__}
        super().__init__(**named)

    def handle_connection(self, connection: ConnectionHandle) -> None:
        """Greet a client, unless it came where only SMTP is spoken."""
        address = connection.local_address
        if address.endswith(":25") and not address.startswith("unix:"):
            logger.error("%s: closed, for LMTP is not spoken at port 25", address)
            connection.close()
            return
        super().handle_connection(connection)

    def _new_session(self, connection: ConnectionHandle, encryption: Encryption | None) -> LmtpSession:
        return LmtpSession(self._settings, connection.peer_address, self._policy, encryption=encryption)
