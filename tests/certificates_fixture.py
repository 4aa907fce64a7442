"""Certificates for tests: files of a development authority in a temporary folder, which the tests of a run share."""

from __future__ import annotations

import itertools
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from theater_tcp.certificates import DevelopmentAuthority, Issued
from theater_tcp.tls_settings import CertificateFiles

__all__ = ["SERVER_NAMES", "Certificates"]

SERVER_NAMES = ("localhost", "127.0.0.1", "::1", "mx.example.org")


class Certificates:
    """One authority, and what it has issued.

    Args:
        folder: where the files are put; it is there, and empty.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count(1)
        self.authority = DevelopmentAuthority.create("theater-tcp test CA")
        """The authority, for a test that wants bytes and not files."""
        self.ca = self._write("ca.pem", self.authority.cert_pem)
        """The path of its certificate."""
        self.server = self._keep("server", self.authority.issue(SERVER_NAMES))
        """For :data:`SERVER_NAMES`."""
        self.other = self._keep("other", self.authority.issue(["other.example.org"]))
        """For ``other.example.org``."""
        self.expired = self.issue(*SERVER_NAMES, days=-1)
        """As ``server``, but it expired yesterday."""
        stranger = DevelopmentAuthority.create("a stranger's CA")
        self.untrusted_ca = self._write("untrusted-ca.pem", stranger.cert_pem)
        """The path of another authority's certificate."""
        self.untrusted = self._keep("untrusted", stranger.issue(SERVER_NAMES))
        """As ``server``, but by that other authority."""
        self.client = self._keep("client", self.authority.issue(["client.example.org"], client=True))
        """A client's, for ``client.example.org``."""

    def issue(self, *names: str, days: int = 90, client: bool = False) -> CertificateFiles:
        """Files of a new certificate.

        Args:
            names: what it is for.
            days: how long it is valid; 0 or less for one that expired as many days ago.
            client: whether it is a client's.
        """
        past = timedelta(days=max(0, 1 - days))
        issued = self.authority.issue(names, days=max(1, days), client=client, now=datetime.now(UTC) - past)
        return self._keep(f"issued-{next(self._numbers)}", issued)

    def _keep(self, name: str, issued: Issued) -> CertificateFiles:
        return CertificateFiles(
            cert=self._write(f"{name}.pem", issued.cert_pem), key=self._write(f"{name}.key", issued.key_pem)
        )

    def _write(self, name: str, content: bytes) -> str:
        path = self._folder / name
        with open(path, "wb", opener=lambda file, flags: os.open(file, flags, 0o600)) as file:
            file.write(content)
        return str(path)
