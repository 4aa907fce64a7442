"""What every TLS server of the comparison does alike: its certificate, its context, and when TLS begins.

The arguments are ``CERT KEY TICKETS accept|starttls``. With ``accept`` TLS begins with the first byte. With
``starttls`` a connection begins in plaintext: the client sends ``STARTTLS``, the server answers ``220 go``, and both go
on in TLS. Then everything is sent back that comes.

The contexts are as Python makes them, for a server: TLS 1.2 and 1.3, OpenSSL's own order of ciphers. What is negotiated
the client decides, which offers one of each.
"""

from __future__ import annotations

import ssl
import sys
from dataclasses import dataclass

__all__ = ["COMMAND", "REPLY", "Launch"]

COMMAND = b"STARTTLS\r\n"
"""What a client sends to have TLS on a live connection."""

REPLY = b"220 go\r\n"
"""What it is answered, the last that goes out in plaintext."""


@dataclass(frozen=True)
class Launch:
    """A server's arguments.

    Args:
        cert: the file of its certificate.
        key: the file of the private key.
        tickets: session tickets that a full handshake sends (TLS 1.3).
        at_accept: TLS begins with the first byte; else after ``STARTTLS``.
    """

    cert: str
    key: str
    tickets: int
    at_accept: bool

    @classmethod
    def from_arguments(cls, arguments: list[str]) -> Launch:
        """Read them; end the program with a line where they are wrong.

        Args:
            arguments: as the command line has them, without the program's name.
        """
        if len(arguments) != 4 or arguments[3] not in ("accept", "starttls"):
            sys.exit(f"the arguments are CERT KEY TICKETS accept|starttls, and not {' '.join(arguments)}")
        cert, key, tickets, begin = arguments
        return cls(cert, key, int(tickets), begin == "accept")

    def context(self) -> ssl.SSLContext:
        """The context with the certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert, self.key)
        context.num_tickets = self.tickets
        return context
