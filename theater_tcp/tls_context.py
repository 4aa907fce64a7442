"""TLS contexts: what OpenSSL is told, from settings and from files that were checked.

Theory of operation. OpenSSL takes a certificate with its key from a path alone. When it reads that, the file may be
another one than the one that was checked. So the checked values are written into a file in memory (``memfd``), which
OpenSSL finds by way of ``/proc``; where there is no such thing, into a temporary one that is removed at once. The key
in it is encrypted with a password that is made for that moment, so that it lies in no file as it is.

A server that has certificates for several names has a context for each, all made alike; OpenSSL starts with the first
and asks a callback when it has read the client's hello (RFC 6066, 3).
"""

from __future__ import annotations

import os
import re
import secrets
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import IO, Any

import msgspec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from theater_tcp.certificate_files import Identity, covers, host_name, read_authorities, read_identity
from theater_tcp.errors import InvalidArgument
from theater_tcp.tls_settings import ClientTls, ServerTls

__all__ = ["FORWARD_SECRET", "Built", "Shown", "build_client", "build_server", "files_of"]

FORWARD_SECRET = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""What TLS 1.2 may use where nobody named ciphers: forward secrecy and AEAD (RFC 9325, 4.2)."""

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_FILE_FIELDS = ("cert", "key", "chain", "client_ca", "ca_cert")


class Shown(msgspec.Struct, frozen=True):
    """A certificate that a context shows to peers, for logs.

    Args:
        file: where it stands.
        names: what it is for; its subject where it names nothing.
        expires: when it, or the first in its chain, expires (aware, UTC).
    """

    file: str
    names: tuple[str, ...]
    expires: datetime

    def __str__(self) -> str:
        return f"{self.file} (for {', '.join(self.names)}) expires on {self.expires:%Y-%m-%d %H:%M} UTC"


class Built(msgspec.Struct, frozen=True):
    """A context, and the certificates that it shows.

    Args:
        context: nothing alters it any more.
        shown: the certificates; the one for clients that ask for no name comes first.
    """

    context: ssl.SSLContext
    shown: tuple[Shown, ...]


def files_of(tls: ServerTls | ClientTls) -> list[str]:
    """The paths of all files that the settings name."""
    owners: list[Any] = [tls, *(tls.sni.values() if isinstance(tls, ServerTls) else ())]
    paths = [getattr(owner, field, None) for owner in owners for field in _FILE_FIELDS]
    return [path for path in dict.fromkeys(paths) if path is not None]


def build_server(tls: ServerTls) -> Built:
    """The context of a server. Reads and checks all files.

    Raises:
        InvalidArgument: something is wrong with a setting or a file, ``field: file: reason``.
    """
    _check_ciphers(tls.ciphers)
    identity = read_identity(tls.certificate, "server")
    named = _named_identities(tls)
    authorities = _pem(read_authorities("client_ca", tls.client_ca)) if tls.client_ca is not None else None
    context = _server_context(tls, identity, authorities, "")
    others = {
        name: _server_context(tls, other, authorities, f"sni.{written}.") for name, (written, other) in named.items()
    }
    context.sni_callback = _chooser(others)
    return Built(context, tuple(map(_shown, [identity, *(other for _, other in named.values())])))


def build_client(tls: ClientTls) -> Built:
    """The context of a client. Reads and checks all files.

    Raises:
        InvalidArgument: something is wrong with a setting or a file, ``field: file: reason``.
    """
    _check_ciphers(tls.ciphers)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # which verifies certificates and names unless told otherwise
    _set_up(context, tls)
    context.hostname_checks_common_name = False  # RFC 9525, 2: a subject's common name names no host
    authorities = read_authorities("ca_cert", tls.ca_cert) if tls.ca_cert is not None else None
    if tls.skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif authorities is not None:
        _trust(context, _pem(authorities))
    else:
        _trust_system(context)
    files = tls.certificate
    identity = read_identity(files, "client") if files is not None else None
    if identity is not None:
        _show(context, identity, "")
    return Built(context, () if identity is None else (_shown(identity),))


# -- the parts of a context ---------------------------------------------------------------------------------------


def _server_context(tls: ServerTls, identity: Identity, authorities: str | None, prefix: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _set_up(context, tls)
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = 1  # OpenSSL's two cost time at each handshake, and a second one is seldom used
    if authorities is not None:
        _trust(context, authorities)
        context.verify_mode = ssl.CERT_REQUIRED if tls.client_auth == "required" else ssl.CERT_OPTIONAL
    _show(context, identity, prefix)
    return context


def _set_up(context: ssl.SSLContext, tls: ServerTls | ClientTls) -> None:
    # Each of these holds whatever Python's defaults and the system's openssl.cnf are.
    context.minimum_version = _VERSIONS[tls.min_version]
    context.maximum_version = ssl.TLSVersion.MAXIMUM_SUPPORTED
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # or a stream that was cut off looks ended (RFC 8446, 6.1)
    context.set_ciphers(tls.ciphers if tls.ciphers is not None else FORWARD_SECRET)
    if tls.alpn:
        context.set_alpn_protocols(list(tls.alpn))


def _trust(context: ssl.SSLContext, authorities: str) -> None:
    """Trust these CA certificates, each by itself: one that another CA has signed needs not lead up to a root."""
    context.load_verify_locations(cadata=authorities)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN


def _trust_system(context: ssl.SSLContext) -> None:
    """Trust the CAs of the system, and hold what they sign to the letter of RFC 5280, as they have to.

    A private CA, made with a few commands of openssl, often lacks a key identifier or a key usage, and is no less
    trusted for it by who names its file.
    """
    places = ssl.get_default_verify_paths()
    if not (places.cafile or (places.capath and os.listdir(places.capath))):
        raise InvalidArgument("ca_cert: this system has no CA certificates, and no file is named")
    context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    context.verify_flags |= ssl.VERIFY_X509_STRICT


def _show(context: ssl.SSLContext, identity: Identity, prefix: str) -> None:
    password = secrets.token_hex(16)
    key = identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password.encode()))
    with _file_of(_pem(identity.certificates).encode() + key) as path:
        try:
            context.load_cert_chain(path, password=password)
        except ssl.SSLError as error:
            reason = (error.reason or "it gives no reason").lower().replace("_", " ")
            raise InvalidArgument(f"{prefix}cert: {identity.file}: OpenSSL refuses the certificate: {reason}") from None


@contextmanager
def _file_of(content: bytes) -> Iterator[str]:
    """The path of a file with this content, for as long as the block lasts; in memory where the system can."""
    with _memory_file() or tempfile.NamedTemporaryFile(prefix="certificate-") as stream:  # which has the mode 0600
        stream.write(content)
        stream.flush()
        yield stream.name if isinstance(stream.name, str) else _path_of(stream.fileno())


def _memory_file() -> IO[bytes] | None:
    if not hasattr(os, "memfd_create"):
        return None
    stream = open(os.memfd_create("certificate"), "wb")  # noqa: SIM115 - the caller closes it
    if os.access(_path_of(stream.fileno()), os.R_OK):
        return stream
    stream.close()  # there is no /proc here
    return None


def _path_of(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"


def _pem(certificates: Any) -> str:
    return "".join(certificate.public_bytes(Encoding.PEM).decode("ascii") for certificate in certificates)


def _shown(identity: Identity) -> Shown:
    return Shown(identity.file, identity.facts.names or (identity.facts.subject,), identity.expires)


def _check_ciphers(ciphers: str | None) -> None:
    """OpenSSL passes over each name that it does not know, as long as one is left."""
    if ciphers is None:
        return
    for name in filter(None, re.split(r"[:;, ]", ciphers)):
        if name[0] not in "!+-@" and not _is_known(name):
            raise InvalidArgument(f"ciphers: {name!r} is no cipher of TLS 1.2 that OpenSSL knows")
    if not _is_known(ciphers):
        raise InvalidArgument(f"ciphers: nothing is left of {ciphers!r}")


def _is_known(ciphers: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).set_ciphers(ciphers)
    except (ssl.SSLError, ValueError):  # the latter for a NUL
        return False
    return True


# -- names (RFC 6066, 3) ------------------------------------------------------------------------------------------


def _named_identities(tls: ServerTls) -> dict[str, tuple[str, Identity]]:
    """The certificates by the names that clients ask for, and how the settings write these."""
    named: dict[str, tuple[str, Identity]] = {}
    for written, files in tls.sni.items():
        try:
            name = host_name(written)
        except InvalidArgument as error:
            raise InvalidArgument(f"sni.{written}: {error.detail}") from None
        if name in named:
            raise InvalidArgument(f"sni.{written}: is the same name as {named[name][0]!r}")
        identity = read_identity(files, "server", prefix=f"sni.{written}.")
        if not covers(identity.certificates[0], name):
            names = ", ".join(identity.facts.names)
            raise InvalidArgument(f"sni.{written}.cert: {files.cert}: is not for {name}, it is for {names}")
        named[name] = written, identity
    return named


def _chooser(contexts: dict[str, ssl.SSLContext]) -> Any:
    """The callback that chooses a certificate. It does not know the context that it is set on, which would be a cycle.

    It leaves the name on the object, where :func:`~theater_tcp.tls_engine.server_name_of` finds it.
    """

    def choose(sslobject: Any, name: str | None, _context: ssl.SSLContext) -> None:
        if name is None:
            return
        # A peer may ask for anything in ASCII, line breaks included, and must not write into a log with it.
        sslobject.theater_server_name = name if name.isprintable() else name.encode("unicode_escape").decode("ascii")
        asked = name.lower().removesuffix(".")
        context = contexts.get(asked) or contexts.get(f"*.{asked.partition('.')[2]}")
        if context is not None:
            sslobject.context = context

    return choose
