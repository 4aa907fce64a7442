"""Which recipients are accepted."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Protocol

import idna

from actors.smtp import replies
from actors.smtp.commands import Recipient

__all__ = ["LocalDomains", "Policy"]


class Policy(Protocol):
    """What a session asks before it accepts a recipient."""

    def refusal(self, sender: str, recipient: Recipient) -> bytes | None:
        """The reply that refuses the recipient, CR LF included; ``None``: accepted.

        Args:
            sender: the sender of the message; empty for the null sender.
            recipient: as read from RCPT.
        """


class LocalDomains:
    """Mail for some domains is accepted, mail for others is not relayed; the lone postmaster is always there.

    Args:
        domains: the domains, in Unicode or in their ASCII form, in any case; ``*`` for all.
    """

    def __init__(self, domains: Iterable[str]) -> None:
        self._domains = {_canonical(domain) for domain in domains}
        self._is_open = "*" in self._domains

    def refusal(self, sender: str, recipient: Recipient) -> bytes | None:
        """See :meth:`Policy.refusal`."""
        if self._is_open or not recipient.domain or _canonical(recipient.domain) in self._domains:
            return None
        return replies.NOT_LOCAL


def _canonical(domain: str) -> str:
    """One text for each domain: its ASCII form (RFC 5890, as RFC 6531 wants it) in lower case."""
    if not domain.isascii():
        with suppress(UnicodeError):  # what has no ASCII form can only equal itself
            return idna.encode(domain, uts46=True).decode("ascii")
    return domain.lower()
