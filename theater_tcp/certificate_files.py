"""Certificate files, found to be what they are taken for before OpenSSL gets them.

OpenSSL's own words for a wrong file are ``[SSL] PEM lib (_ssl.c:4166)``. Here each error is ``InvalidArgument`` with
one line as ``key: server.key: does not fit the certificate in server.pem``: the setting, the file and the reason. What
comes out are values, so that a file which changes a moment later changes nothing.
"""

from __future__ import annotations

import ipaddress
import re
import stat
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from theater_tcp.certificate_keys import belong_together
from theater_tcp.certificates import CertificateFacts, chain_problem, facts
from theater_tcp.errors import InvalidArgument
from theater_tcp.host_names import ascii_name
from theater_tcp.pem_file import PemFile

if TYPE_CHECKING:
    from theater_tcp.pem_file import Block
    from theater_tcp.tls_settings import CertificateFiles

__all__ = ["Identity", "covers", "host_name", "read_authorities", "read_identity"]

CURVES = {"secp256r1", "secp384r1", "secp521r1"}
"""RFC 8446, 4.2.3; of P-256, P-384 and P-521 by the names of OpenSSL."""

MIN_RSA = 2048
"""Bits of the shortest RSA key that is taken (OpenSSL's security level 2 has the same)."""

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey

_DAMAGED = (
    ValueError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)", re.ASCII)
_USAGES = {
    "server": (ExtendedKeyUsageOID.SERVER_AUTH, "TLS servers"),
    "client": (ExtendedKeyUsageOID.CLIENT_AUTH, "TLS clients"),
}


class Identity:
    """A certificate, the chain behind it, and its key.

    Args:
        file: the certificate's file, as it was named.
        certificates: the certificate itself first, then the chain.
        key: the private key.
    """

    __slots__ = ("certificates", "expires", "facts", "file", "key")

    def __init__(self, file: str, certificates: tuple[x509.Certificate, ...], key: Key) -> None:
        self.file = file
        self.certificates = certificates
        self.key = key
        self.facts: CertificateFacts = facts(certificates[0])
        self.expires = min(certificate.not_valid_after_utc for certificate in certificates)
        """When the first of the certificates expires (aware, UTC)."""


def read_identity(files: CertificateFiles, usage: str, prefix: str = "", now: datetime | None = None) -> Identity:
    """What the files of a certificate hold, if it is complete, consistent and valid.

    Args:
        files: the paths, and the key's password.
        usage: ``server`` or ``client``.
        prefix: stands before the names of the fields in errors, as ``sni.mx.example.org.``.
        now: the time that has to lie in the certificates' validity (aware); None for the clock's.

    Raises:
        InvalidArgument: ``field: file: reason``.
    """
    return _Reading(prefix, now).identity(files, usage)


def read_authorities(field: str, path: str, now: datetime | None = None) -> tuple[x509.Certificate, ...]:
    """The CA certificates of a file, without those that are not valid at this time.

    Args:
        field: names the setting in errors.
        path: the file.
        now: see :func:`read_identity`.

    Raises:
        InvalidArgument: ``field: file: reason``; also where it holds anything but CA certificates.
    """
    return _Reading("", now).authorities(field, path)


def host_name(text: str) -> str:
    """The form in which TLS carries a host's name: A-labels (RFC 5890) in small letters, without a dot at the end.

    Args:
        text: the name; ``*.`` may stand before it for any one label.

    Raises:
        InvalidArgument: it is no host's name. An address: clients ask for names alone (RFC 6066, 3).
    """
    wildcard, name = text.startswith("*."), text.removeprefix("*.").removesuffix(".")
    if _is_address(name.strip("[]")):
        raise InvalidArgument("is an address, and clients ask for names alone")
    if "*" in name:
        raise InvalidArgument("has a '*' that is not the whole first label")
    try:
        name = ascii_name(name)
    except InvalidArgument as error:
        raise InvalidArgument(f"is a name that {error.detail}") from None
    if len(name) > 253 or not all(map(_LABEL.fullmatch, name.split("."))):
        raise InvalidArgument("is no host name")
    return f"*.{name}" if wildcard else name


def covers(certificate: x509.Certificate, name: str) -> bool:
    """Whether a certificate is for a name (RFC 9525, 6.3); for ``*.example.org``, whether for all that this stands for.

    Args:
        certificate: its alternative names count, its subject does not.
        name: in the form of :func:`host_name`.
    """
    names = _extension(certificate, x509.SubjectAlternativeName) or ()
    own = {entry.value.lower() for entry in names if isinstance(entry, x509.DNSName)}
    return name in own or f"*.{name.partition('.')[2]}" in own


class _Reading:
    """Files that are read for one setting."""

    def __init__(self, prefix: str, now: datetime | None) -> None:
        self.prefix = prefix
        self.now = now or datetime.now(UTC)

    def wrong(self, field: str, path: str, reason: str) -> InvalidArgument:
        return InvalidArgument(f"{self.prefix}{field}: {path}: {reason}")

    def file(self, field: str, path: str) -> PemFile:
        try:
            return PemFile(path)
        except InvalidArgument as error:
            raise self.wrong(field, path, error.detail) from None

    # -- a certificate with its key -------------------------------------------------------------------------------

    def identity(self, files: CertificateFiles, usage: str) -> Identity:
        first = self.file("cert", files.cert)
        certificates = self._certificates("cert", files.cert, first.others)
        own = certificates[0]
        key = self._key(files, first)
        self._check_fit(files, key, certificates)
        self._check_dates("cert", files.cert, certificates)
        self._check_chain("cert", files.cert, certificates)
        if files.chain is not None:
            chain = self._only_certificates("chain", files.chain, "certificates")
            if chain[0] == own:
                raise self.wrong("chain", files.chain, f"begins with the certificate in {files.cert} itself")
            self._check_dates("chain", files.chain, chain)
            certificates += chain
            self._check_chain("chain", files.chain, certificates)
        self._check_use(files.cert, own, usage)
        return Identity(files.cert, tuple(certificates), key)

    def _key(self, files: CertificateFiles, first: PemFile) -> Key:
        if files.key is None or files.key == files.cert:
            field, path, source = "cert", files.cert, first
            if not source.keys:
                raise self.wrong(field, path, "holds no private key, and key names no file with one")
        else:
            if first.keys:
                raise self.wrong("cert", files.cert, f"holds a private key, and key names {files.key}")
            field, path, source = "key", files.key, self.file("key", files.key)
            if not source.keys:
                raise self.wrong(field, path, f"holds {source.blocks[0].kind} where a private key is expected")
        rights = [word for bit, word in ((stat.S_IROTH, "read"), (stat.S_IWOTH, "write")) if source.mode & bit]
        if rights:
            reason = f"its private key is for everybody to {' and '.join(rights)} (mode {source.mode & 0o7777:04o})"
            raise self.wrong(field, path, f"{reason}; chmod 600 makes it private")
        if len(source.keys) > 1:
            raise self.wrong(field, path, f"holds {len(source.keys)} private keys")
        return self._opened(field, path, source.keys[0], files.password)

    def _opened(self, field: str, path: str, block: Block, password: str | None) -> Key:
        if block.is_encrypted and password is None:
            raise self.wrong(field, path, "the private key is encrypted, and there is no password")
        if not block.is_encrypted and password is not None:
            raise self.wrong("password", path, "the private key is not encrypted and needs none")
        try:
            key = load_pem_private_key(block.pem, None if password is None else password.encode())
        except UnsupportedAlgorithm:
            raise self.wrong(field, path, "the private key is of a kind that is not supported") from None
        except (ValueError, TypeError):
            if block.is_encrypted:
                raise self.wrong("password", path, "does not open the private key") from None
            raise self.wrong(field, path, "the private key is damaged, or of a kind that is not supported") from None
        if not isinstance(key, Key):
            raise self.wrong(field, path, "the private key is none of RSA, ECDSA, Ed25519 and Ed448")
        if isinstance(key, rsa.RSAPrivateKey) and key.key_size < MIN_RSA:
            raise self.wrong(field, path, f"the RSA key has {key.key_size} bits, and {MIN_RSA} are the least")
        if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name not in CURVES:
            raise self.wrong(field, path, f"the curve {key.curve.name} is none that TLS 1.3 has for certificates")
        return key

    def _check_fit(self, files: CertificateFiles, key: Key, certificates: list[x509.Certificate]) -> None:
        fitting = [number for number, one in enumerate(certificates, 1) if belong_together(one, key)]
        if fitting and fitting[0] != 1:
            reason = f"the key's own certificate is number {fitting[0]} in it and has to be the first"
            raise self.wrong("cert", files.cert, reason)
        if not fitting and files.key in (None, files.cert):
            raise self.wrong("cert", files.cert, "the private key in it does not fit the certificate")
        if not fitting:
            raise self.wrong("key", str(files.key), f"does not fit the certificate in {files.cert}")

    def _check_dates(self, field: str, path: str, certificates: list[x509.Certificate]) -> None:
        for number, certificate in enumerate(certificates, 1):
            known = facts(certificate)
            which = _title(number, known) if len(certificates) > 1 else "the certificate"
            if known.not_after < self.now:
                raise self.wrong(field, path, f"{which} expired on {_written(known.not_after)}")
            if known.not_before > self.now:
                raise self.wrong(field, path, f"{which} is not valid before {_written(known.not_before)}")

    def _check_chain(self, field: str, path: str, certificates: list[x509.Certificate]) -> None:
        problem = chain_problem(certificates)
        if problem is not None:
            raise self.wrong(field, path, f"the chain is not in order: {problem}")

    def _check_use(self, path: str, certificate: x509.Certificate, usage: str) -> None:
        oid, whose = _USAGES[usage]
        purposes = _extension(certificate, x509.ExtendedKeyUsage)
        if purposes is not None and oid not in purposes and ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE not in purposes:
            raise self.wrong("cert", path, f"the certificate is not for {whose} (extended key usage)")
        key_usage = _extension(certificate, x509.KeyUsage)
        if key_usage is not None and not key_usage.digital_signature:
            raise self.wrong("cert", path, "the certificate is not for signing handshakes (key usage)")
        names = _extension(certificate, x509.SubjectAlternativeName)
        if usage == "server" and not any(isinstance(name, x509.DNSName | x509.IPAddress) for name in names or ()):
            raise self.wrong("cert", path, "the certificate names no host (subject alternative name)")

    # -- CA certificates ------------------------------------------------------------------------------------------

    def authorities(self, field: str, path: str) -> tuple[x509.Certificate, ...]:
        certificates = self._only_certificates(field, path, "CA certificates")
        for number, certificate in enumerate(certificates, 1):
            known = facts(certificate)
            if not known.ca:
                raise self.wrong(field, path, f"{_title(number, known)} is no CA certificate")
        valid = tuple(one for one in certificates if one.not_valid_before_utc <= self.now <= one.not_valid_after_utc)
        if not valid:
            self._check_dates(field, path, certificates)
        return valid

    # -- blocks ---------------------------------------------------------------------------------------------------

    def _only_certificates(self, field: str, path: str, expected: str) -> list[x509.Certificate]:
        file = self.file(field, path)
        if file.keys:
            raise self.wrong(field, path, f"holds a private key where {expected} are expected")
        return self._certificates(field, path, file.blocks)

    def _certificates(self, field: str, path: str, blocks: list[Block]) -> list[x509.Certificate]:
        if not blocks:
            raise self.wrong(field, path, "holds a private key where a certificate is expected")
        certificates = []
        for number, block in enumerate(blocks, 1):
            if not block.is_certificate:
                raise self.wrong(field, path, f"holds {block.kind} where a certificate is expected")
            try:
                certificate = x509.load_pem_x509_certificate(block.pem)
                certificate.extensions, certificate.public_key()  # each part is parsed when it is asked for
            except _DAMAGED:
                which = f"certificate {number}" if len(blocks) > 1 else "the certificate"
                raise self.wrong(field, path, f"{which} is damaged, or of a kind that is not supported") from None
            certificates.append(certificate)
        return certificates


def _title(number: int, known: CertificateFacts) -> str:
    return f"certificate {number} ({known.subject or 'without a subject'})"


def _extension(certificate: x509.Certificate, kind: type[Any]) -> Any:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _written(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
