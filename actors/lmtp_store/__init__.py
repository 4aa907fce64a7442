"""A mail store behind LMTP (RFC 2033): what it accepts is in a Maildir.

LMTP is SMTP with another greeting and with one reply for each recipient behind a message, so nearly all of it is
:mod:`actors.smtp`'s; here stands what differs.
"""

from __future__ import annotations

from actors.lmtp_store.session import LmtpSession
from actors.lmtp_store.settings import StoreSettings

__all__ = ["LmtpSession", "StoreSettings"]
