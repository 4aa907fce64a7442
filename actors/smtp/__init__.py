"""An SMTP server that receives mail and delivers it to a Maildir (RFC 5321).

:mod:`actors.smtp.session` is the protocol, without any I/O; :mod:`actors.smtp.maildir` stores; the actors are the thin
shell around the two.
"""

from __future__ import annotations

from actors.smtp.envelope import Delivery, Encryption, Envelope
from actors.smtp.policy import LocalDomains, Policy
from actors.smtp.session import Session, Step
from actors.smtp.settings import ServerSettings, SessionSettings

__all__ = [
    "Delivery",
    "Encryption",
    "Envelope",
    "LocalDomains",
    "Policy",
    "ServerSettings",
    "Session",
    "SessionSettings",
    "Step",
]
