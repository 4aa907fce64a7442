"""The envelope of a message, and what a session hands over to be stored."""

from __future__ import annotations

import msgspec

__all__ = ["Delivery", "Encryption", "Envelope"]


class Encryption(msgspec.Struct, frozen=True, gc=False):
    """What TLS a message came over.

    Args:
        version: of the protocol, as ``TLSv1.3``.
        cipher: the cipher suite as OpenSSL calls it.
    """

    version: str
    cipher: str


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """Who sent a message, to whom, and how it came.

    Args:
        sender: ``local@domain``; empty for the null sender.
        recipients: the accepted ones in the order of their RCPT, each once.
        helo: the name that the client gave itself.
        peer: the address of the client, ``host:port``, ``[v6]:port`` or ``unix:…``.
        protocol: ``SMTP``, ``ESMTP`` or ``UTF8SMTP`` (RFC 5321, 4.4; RFC 6531, 4.3), the latter two with an ``S`` at
            the end where they came over TLS (RFC 3848).
        body: ``7BIT`` or ``8BITMIME`` (RFC 6152).
        encryption: how the client's connection was encrypted; ``None``: it was not.
    """

    sender: str
    recipients: tuple[str, ...]
    helo: str
    peer: str
    protocol: str
    body: str
    encryption: Encryption | None = None


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """A message, or the next part of one that is too large to be held in memory.

    Args:
        envelope: whose message it is; the same object for every part.
        content: pieces of the message in order, without dot-stuffing and with LF line ends. As a CR or LF alone never
            comes through, LF can be turned back into CR LF exactly.
        complete: whether the message ends here; ``False``: more will come, or the message is given up.
    """

    envelope: Envelope
    content: tuple[bytes, ...]
    complete: bool
