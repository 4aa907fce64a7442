"""The certificate that every TLS server of a run shows: ECDSA P-256, from a CA that is made for the run."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from theater_tcp.certificates import DevelopmentAuthority
from theater_tcp.credentials import ServerCredentials
from theater_tcp.tls_settings import ServerTls

__all__ = ["Certificate"]

_NAME = "localhost"
"""The name that ``load_tls.c`` asks for and verifies."""


@dataclass(frozen=True)
class Certificate:
    """The files, and what else has to be the same for all servers.

    Args:
        ca: the CA's certificate, in PEM.
        cert: the servers' certificate, in PEM.
        key: its private key, in PEM.
        tickets: session tickets that a full handshake sends: as many as our runtime does.
    """

    ca: Path
    cert: Path
    key: Path
    tickets: int

    @classmethod
    @contextlib.contextmanager
    def issued(cls) -> Iterator[Certificate]:
        """A new one, in a folder that is removed afterwards."""
        authority = DevelopmentAuthority.create()
        issued = authority.issue([_NAME])
        with tempfile.TemporaryDirectory(prefix="benchmark-tls-") as name:
            folder = Path(name)
            ca, cert, key = folder / "ca.pem", folder / "cert.pem", folder / "key.pem"
            for path, content in ((ca, authority.cert_pem), (cert, issued.cert_pem), (key, issued.key_pem)):
                with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    file.write(content)
            context = ServerCredentials(ServerTls(cert=str(cert), key=str(key))).context
            yield cls(ca, cert, key, context.num_tickets)

    def arguments(self, begin: str) -> list[str]:
        """What a TLS server is started with (:mod:`benchmarks.servers.tls_launch`).

        Args:
            begin: ``accept`` or ``starttls``.
        """
        return [str(self.cert), str(self.key), str(self.tickets), begin]
