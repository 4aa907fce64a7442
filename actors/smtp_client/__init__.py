"""An SMTP client that sends mail to one server (RFC 5321), over STARTTLS (RFC 3207) unless it is told otherwise.

:mod:`actors.smtp_client.session` is the protocol, without any I/O; :mod:`actors.smtp_client.client` is the actor, the
thin shell around it.
"""

from __future__ import annotations

from actors.smtp_client.client import SmtpClient
from actors.smtp_client.receipt import Outcome, Receipt
from actors.smtp_client.session import Session, Step
from actors.smtp_client.settings import ClientSettings, Timeouts
from actors.smtp_client.submission import Submission

__all__ = [
    "ClientSettings",
    "Outcome",
    "Receipt",
    "Session",
    "SmtpClient",
    "Step",
    "Submission",
    "Timeouts",
]
