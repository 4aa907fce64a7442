"""Both ends of a TLS connection in memory, by nothing but ``ssl``: what two contexts make of each other."""

from __future__ import annotations

import ssl

from cryptography import x509

__all__ = ["Pair"]


class Pair:
    """The two ends of a TLS connection in memory, through with the handshake.

    Args:
        server, client: their contexts.
        name: what the client asks for and verifies.
        session: what the client takes up again.

    Raises:
        ssl.SSLError: what went wrong first.
    """

    def __init__(
        self,
        server: ssl.SSLContext,
        client: ssl.SSLContext,
        name: str | None = "localhost",
        session: ssl.SSLSession | None = None,
    ) -> None:
        self.to_server, self.to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.server = server.wrap_bio(self.to_server, self.to_client, server_side=True)
        self.client = client.wrap_bio(self.to_client, self.to_server, server_hostname=name, session=session)
        waiting = [self.client, self.server]
        while waiting:
            for end in list(waiting):
                try:
                    end.do_handshake()
                except ssl.SSLWantReadError:
                    continue
                waiting.remove(end)
        self.server.write(b"welcome")  # tickets and, with TLS 1.3, the refusal of a client come after the handshake
        assert self.client.read(100) == b"welcome"
        self.client.write(b"thanks")
        assert self.server.read(100) == b"thanks"

    @property
    def shown(self) -> tuple[str, ...]:
        """The names in the certificate that the server showed."""
        certificate = self.client.getpeercert(binary_form=True)
        assert certificate is not None
        found = x509.load_der_x509_certificate(certificate).extensions
        names = found.get_extension_for_class(x509.SubjectAlternativeName).value
        return tuple(names.get_values_for_type(x509.DNSName))
