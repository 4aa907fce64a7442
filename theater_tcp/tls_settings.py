"""TLS settings: which certificate a server shows, whom a client trusts, and whether TLS begins with the first byte.

Values only: the files that they name are read and checked by :mod:`theater_tcp.tls_context`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from theater_tcp.address import is_host
from theater_tcp.errors import InvalidArgument
from theater_tcp.fields import Checked, Duration, Flag, shown

__all__ = ["CertificateFiles", "ClientTls", "ServerTls"]

FilePath = Annotated[str, Meta(min_length=1, description="the path of a file", extra={"unit": "path"})]
Secret = Annotated[str, Meta(min_length=1, description="a text", extra={"unit": "secret"})]
Version = Annotated[Literal["1.2", "1.3"], Meta(description="'1.2' or '1.3'", extra={"unit": "version"})]
Protocol = Annotated[str, Meta(pattern=r"^[\x21-\x7e]{1,255}\Z", description="a protocol's name as h2 or smtp")]
Protocols = Annotated[tuple[Protocol, ...], Meta(description="a list of protocol names as h2 or smtp")]
Ciphers = Annotated[str, Meta(min_length=1, description="a list of ciphers as OpenSSL has it")]
HostName = Annotated[str, Meta(min_length=1, max_length=255, description="a host name or an address")]


class _Secretive(Checked, frozen=True, kw_only=True):
    """A struct whose ``password`` is not shown where it is printed."""

    def __repr__(self) -> str:
        shown = (
            f"{name}={'...' if name == 'password' and getattr(self, name) else repr(getattr(self, name))}"
            for name in self.__struct_fields__
        )
        return f"{type(self).__name__}({', '.join(shown)})"


class CertificateFiles(_Secretive, frozen=True, kw_only=True):
    """A certificate and what belongs to it, all in PEM.

    Args:
        cert: the certificate; the chain may follow it in the same file.
        key: its private key; None if it stands in the file of ``cert``.
        chain: the intermediate certificates, each signed by the next.
        password: of the key, if it is encrypted.
    """

    cert: FilePath
    key: FilePath | None = None
    chain: FilePath | None = None
    password: Secret | None = None


Names = Annotated[dict[HostName, CertificateFiles], Meta(description="a mapping of host names to cert, key, chain")]


class ServerTls(_Secretive, frozen=True, kw_only=True):
    """How a connection becomes TLS as the server.

    Args:
        enabled: false is as if nothing of this were there.
        cert: see :class:`CertificateFiles`, as the next three.
        key: its private key.
        chain: the intermediate certificates.
        password: of the key.
        auto_handshake: TLS begins with the first byte of each accepted connection; false leaves it to
            ``upgrade_to_tls_server`` (STARTTLS).
        min_version: the oldest version of TLS that is spoken.
        ciphers: OpenSSL's list of ciphers for TLS 1.2; None for a list of those with forward secrecy and AEAD.
        alpn: protocols that are offered, the best first (RFC 7301).
        client_ca: the CA certificates that clients' certificates are verified with.
        client_auth: whether a client shows a certificate: ``none``, ``optional`` (one that is shown is verified) or
            ``required``.
        sni: certificates for the names that clients ask for (RFC 6066, 3); ``*.example.org`` stands for one label.
        reload: seconds between two looks at whether a file has changed; None never looks.
    """

    enabled: Flag = True
    cert: FilePath | None = None
    key: FilePath | None = None
    chain: FilePath | None = None
    password: Secret | None = None
    auto_handshake: Flag = True
    min_version: Version = "1.2"
    ciphers: Ciphers | None = None
    alpn: Protocols = ()
    client_ca: FilePath | None = None
    client_auth: Literal["none", "optional", "required"] = "none"
    sni: Names = {}  # noqa: RUF012 - msgspec gives each instance a copy
    reload: Duration | None = 10.0

    def __hash__(self) -> int:
        return hash((self.cert, self.key, *self.sni))  # a dict has none of its own; equality looks at the rest

    def _check_together(self) -> None:
        if self.enabled and self.cert is None:
            raise InvalidArgument("cert: a server needs a certificate")
        if self.client_auth != "none" and self.client_ca is None:
            raise InvalidArgument(f"client_auth: {self.client_auth!r} needs client_ca to verify with")
        if self.client_auth == "none" and self.client_ca is not None:
            raise InvalidArgument("client_ca: verifies nobody as long as client_auth is 'none'")
        _check_ciphers(self)

    @property
    def certificate(self) -> CertificateFiles:
        """The files of the certificate for clients that ask for no name, or for one that ``sni`` does not have."""
        if self.cert is None:
            raise InvalidArgument("cert: a server needs a certificate")
        return CertificateFiles(cert=self.cert, key=self.key, chain=self.chain, password=self.password)


class ClientTls(_Secretive, frozen=True, kw_only=True):
    """How a connection becomes TLS as the client.

    Args:
        enabled: false is as if nothing of this were there.
        ca_cert: the CA certificates that the server's certificate is verified with; None for the system's.
        skip_verify: take any certificate of anybody. For tests; there is a warning at every start.
        auto_handshake: TLS begins with the first byte of each connection that is opened; false leaves it to
            ``upgrade_to_tls_client`` (STARTTLS).
        cert: what the client shows of itself; see :class:`CertificateFiles`, as the next two.
        key: its private key.
        password: of the key.
        min_version: the oldest version of TLS that is spoken.
        ciphers: OpenSSL's list of ciphers for TLS 1.2; None for a list of those with forward secrecy and AEAD.
        alpn: protocols that are offered, the best first (RFC 7301).
        server_name: the name that is asked for and verified, where the call names none; None for the host of the
            address.
        reload: seconds between two looks at whether a file has changed; None never looks.
    """

    enabled: Flag = True
    ca_cert: FilePath | None = None
    skip_verify: Flag = False
    auto_handshake: Flag = True
    cert: FilePath | None = None
    key: FilePath | None = None
    password: Secret | None = None
    min_version: Version = "1.2"
    ciphers: Ciphers | None = None
    alpn: Protocols = ()
    server_name: HostName | None = None
    reload: Duration | None = 10.0

    def _check_together(self) -> None:
        if self.key is not None and self.cert is None:
            raise InvalidArgument("key: a key without cert proves nothing")
        if self.password is not None and self.cert is None:
            raise InvalidArgument("password: opens nothing, since cert names no file")
        if self.server_name is not None and not is_host(self.server_name):
            raise InvalidArgument(f"server_name: expected a host name or an address, got {shown(self.server_name)}")
        _check_ciphers(self)

    @property
    def certificate(self) -> CertificateFiles | None:
        """The files of what the client shows of itself, if it does."""
        if self.cert is None:
            return None
        return CertificateFiles(cert=self.cert, key=self.key, password=self.password)


def _check_ciphers(tls: ServerTls | ClientTls) -> None:
    if tls.ciphers is not None and tls.min_version == "1.3":
        raise InvalidArgument("ciphers: are those of TLS 1.2, which min_version shuts out")
