"""Certificates as values: what stands in one, whether a chain is in order, and an authority for development.

Bytes in, bytes out; files are read and written by others. A certificate comes from whoever sent it, so every text that
is made of one here is a single printable line (:mod:`theater_tcp.certificate_names`).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes, PrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from theater_tcp.certificate_keys import belong_together, key_name, read_key
from theater_tcp.certificate_names import (
    MAX_COMMON_NAME,
    UNREADABLE,
    alternative_name,
    client_name,
    distinguished_name,
    server_name,
)
from theater_tcp.errors import InvalidArgument

__all__ = [
    "MAX_DAYS",
    "CertificateFacts",
    "DevelopmentAuthority",
    "Issued",
    "chain_problem",
    "facts",
    "facts_from_der",
    "is_issued_by",
    "is_self_signed",
    "read_certificates",
]

MAX_DAYS = 3650
"""The longest time, in days, for which the development authority vouches for anything."""

_BACKDATED = timedelta(hours=1)
"""How long ago a new certificate became valid: the clock of whoever checks it may be slow."""

_MALFORMED = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
_PEM = b"-----BEGIN "
_LABEL = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----")

_Part = TypeVar("_Part")


class CertificateFacts(msgspec.Struct, frozen=True):
    """What a certificate says, as texts of one printable line each.

    Args:
        subject: the distinguished name, the most specific part first (RFC 4514); empty if it has none.
        issuer: that of whoever signed it.
        names: the subject alternative names (RFC 5280, 4.2.1.6) in their order: host names and addresses as they are,
            all else behind its kind, as ``email:me@example.org`` or ``URI:...``.
        serial: hexadecimal, as OpenSSL prints it.
        not_before, not_after: between which moments it is valid, in UTC.
        fingerprint: SHA-256 of the whole certificate, as ``AA:BB:...``.
        key: the kind of its key, as ``ECDSA P-256``, ``RSA 2048`` or ``Ed25519``.
        ca: whether it may sign other certificates (RFC 5280, 4.2.1.9).
    """

    subject: str
    issuer: str
    names: tuple[str, ...]
    serial: str
    not_before: datetime
    not_after: datetime
    fingerprint: str
    key: str
    ca: bool


class Issued(msgspec.Struct, frozen=True):
    """A new certificate with its key.

    Args:
        cert_pem: the certificate alone, in PEM.
        key_pem: its private key in PEM (PKCS#8), not encrypted.
    """

    cert_pem: bytes
    key_pem: bytes


def facts(certificate: x509.Certificate) -> CertificateFacts:
    """What a certificate says.

    A peer may show anything. A part that can't be read is ``(unreadable)``, and extensions that can't be read grant
    nothing: no names, no CA.
    """
    extensions = _read(lambda: certificate.extensions, None)
    number = f"{certificate.serial_number:X}"
    return CertificateFacts(
        subject=_read(lambda: distinguished_name(certificate.subject), UNREADABLE),
        issuer=_read(lambda: distinguished_name(certificate.issuer), UNREADABLE),
        names=_names(extensions),
        serial=number if len(number) % 2 == 0 or number.startswith("-") else f"0{number}",
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(":").upper(),
        key=_read(lambda: key_name(certificate.public_key()), f"{UNREADABLE[:-1]}, {_key_oid(certificate)})"),
        ca=_is_ca(extensions),
    )


def facts_from_der(der: bytes) -> CertificateFacts:
    """What a certificate in DER says, as a peer sends it.

    Raises:
        InvalidArgument: the bytes are no certificate.
    """
    try:
        return facts(x509.load_der_x509_certificate(der))
    except _MALFORMED:
        raise InvalidArgument("the certificate can't be read") from None


def read_certificates(data: bytes) -> tuple[x509.Certificate, ...]:
    """The certificates of a file, in their order.

    Args:
        data: one or more certificates in PEM, other things between them, or one in DER.

    Raises:
        InvalidArgument: there is none, or one of them can't be read.
    """
    try:
        if _PEM not in data:
            return (x509.load_der_x509_certificate(data),)
        labels = _LABEL.findall(data)
        if b"CERTIFICATE" in labels or b"X509 CERTIFICATE" in labels:
            return tuple(x509.load_pem_x509_certificates(data))
    except _MALFORMED:
        if _PEM in data:
            raise InvalidArgument("a certificate in it can't be read") from None
        raise InvalidArgument("no certificate, neither in PEM nor in DER") from None
    found = ", ".join(dict.fromkeys(label.decode("ascii") for label in labels))
    raise InvalidArgument(f"no certificate in it{f', only {found}' if found else ''}")


def is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether a certificate names another one as its issuer and bears its signature."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (*_MALFORMED, InvalidSignature, UserWarning):
        return False
    return True


def is_self_signed(certificate: x509.Certificate) -> bool:
    """Whether a certificate vouches for itself: its own key has signed it."""
    return is_issued_by(certificate, certificate) or _read(lambda: _is_old_root(certificate), False)


def _is_old_root(certificate: x509.Certificate) -> bool:
    """Whether it is a root with SHA-1, as a fifth of those in use. Nobody relies on the signature of a root."""
    key, algorithm = certificate.public_key(), certificate.signature_hash_algorithm
    if not isinstance(key, rsa.RSAPublicKey) or not isinstance(algorithm, hashes.SHA1):
        return False
    try:
        key.verify(certificate.signature, certificate.tbs_certificate_bytes, padding.PKCS1v15(), algorithm)
    except InvalidSignature:
        return False
    return certificate.issuer == certificate.subject


def chain_problem(certificates: Sequence[x509.Certificate]) -> str | None:
    """What is wrong with a chain, in which each certificate is signed by the next (RFC 8446, 4.4.2).

    Args:
        certificates: the server's or client's own first.

    Returns:
        one line about the first mistake; None if there is none.
    """
    for number, (issued, issuer) in enumerate(itertools.pairwise(certificates), 1):
        if not is_issued_by(issued, issuer):
            return (
                f"certificate {number} ({_title(issued)}) is not signed by certificate {number + 1} ({_title(issuer)})"
            )
        if not facts(issuer).ca:
            return f"certificate {number + 1} ({_title(issuer)}) has signed the one before it and is no CA"
    return None


class DevelopmentAuthority:
    """A certificate authority for development and tests: no other authority stands above or below it.

    Its key lies where its user puts it, and nothing that it issued can be revoked: it is not for the world. Made with
    :meth:`create`, or with :meth:`load` from what an earlier one gave.
    """

    __slots__ = ("_cert_pem", "_certificate", "_key", "_key_pem")

    def __init__(self, certificate: x509.Certificate, key: CertificateIssuerPrivateKeyTypes) -> None:
        self._certificate = certificate
        self._key = key
        self._cert_pem = _pem(certificate)
        self._key_pem = _key_pem(key)

    @classmethod
    def create(
        cls, name: str = "theater-tcp development CA", days: int = 825, *, now: datetime | None = None
    ) -> DevelopmentAuthority:
        """A new authority with an ECDSA P-256 key.

        Args:
            name: its common name, 1 to 64 characters.
            days: for how many days it is valid, 1 to :data:`MAX_DAYS`.
            now: from when on; None for this moment.

        Raises:
            InvalidArgument: the name or the days are out of range.
        """
        if not 1 <= len(name.encode()) <= MAX_COMMON_NAME or not name.isprintable():
            raise InvalidArgument(f"{name!r}: an authority's name has 1 to {MAX_COMMON_NAME} printable characters")
        moment = now or datetime.now(UTC)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        builder = (
            _begin(subject, subject, key, moment, moment + timedelta(days=_checked_days(days)))
            # It signs the certificates of ends, and no further authorities: pathlen 0.
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .add_extension(identifier, critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        )
        return cls(builder.sign(key, hashes.SHA256()), key)

    @classmethod
    def load(cls, cert_pem: bytes, key_pem: bytes) -> DevelopmentAuthority:
        """The authority that an earlier one was, or another one whose key is at hand.

        Args:
            cert_pem: its certificate.
            key_pem: its private key, not encrypted.

        Raises:
            InvalidArgument: one of them can't be read, they don't belong together, or it is no CA.
        """
        certificate = read_certificates(cert_pem)[0]
        key = read_key(key_pem)
        if not facts(certificate).ca:
            raise InvalidArgument(f"{_title(certificate)} is no CA")
        if not belong_together(certificate, key):
            raise InvalidArgument(f"the key does not belong to {_title(certificate)}")
        if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey):
            raise InvalidArgument(f"a key of the kind {key_name(key)} signs no certificates here")
        return cls(certificate, key)

    @property
    def certificate(self) -> x509.Certificate:
        """Its own certificate."""
        return self._certificate

    @property
    def cert_pem(self) -> bytes:
        """Its own certificate in PEM: what whoever trusts it needs."""
        return self._cert_pem

    @property
    def key_pem(self) -> bytes:
        """Its private key in PEM, not encrypted."""
        return self._key_pem

    def issue(
        self, names: Sequence[str], days: int = 90, client: bool = False, *, now: datetime | None = None
    ) -> Issued:
        """A new certificate with a new ECDSA P-256 key.

        Args:
            names: at least one. Of a server: host names (``*.example.org`` for all with one label more) and IPv4 or
                IPv6 addresses. Of a client also an e-mail address or any other text up to 64 characters.
            days: for how many days it is valid, 1 to :data:`MAX_DAYS`; but no longer than the authority itself.
            client: whether it is for a client, to show who it is, and not for a server.
            now: from when on; None for this moment.

        Raises:
            InvalidArgument: a name is none, the days are out of range, or the authority has expired.
        """
        if isinstance(names, str) or not names:
            raise InvalidArgument("a certificate needs a list of at least one name")
        named = [client_name(name) if client else server_name(name) for name in names]
        alternatives = [name for name in dict.fromkeys(named) if name is not None]
        moment = now or datetime.now(UTC)
        end = self._certificate.not_valid_after_utc
        if end <= moment:
            raise InvalidArgument(f"{_title(self._certificate)} has expired")
        key = ec.generate_private_key(ec.SECP256R1())
        # The first name stands as common name too, for people; nothing that is verified depends on it.
        fits = len(names[0].encode()) <= MAX_COMMON_NAME
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])] if fits else [])
        until = min(end, moment + timedelta(days=_checked_days(days)))
        purpose = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        builder = (
            _begin(subject, self._certificate.subject, key, moment, until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(self._key_identifier(), critical=False)
        )
        if alternatives:
            # Critical where it is all that names the subject (RFC 5280, 4.2.1.6).
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=not fits)
        algorithm = None if isinstance(self._key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
        certificate = builder.sign(self._key, algorithm)
        return Issued(_pem(certificate), _key_pem(key))

    def _key_identifier(self) -> x509.AuthorityKeyIdentifier:
        """How a certificate points to the key that signed it: by the identifier that the authority itself has."""
        try:
            own = self._certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        except x509.ExtensionNotFound:
            own = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


# -- reading ------------------------------------------------------------------------------------------------------


def _read(part: Callable[[], _Part], otherwise: _Part) -> _Part:
    """A part of a certificate; it is only now that it is parsed."""
    try:
        return part()
    # A name of an odd length makes a warning, which is an error for those who want warnings as such.
    except (*_MALFORMED, UserWarning):
        return otherwise


def _names(extensions: x509.Extensions | None) -> tuple[str, ...]:
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value if extensions else ()
    except x509.ExtensionNotFound:
        return ()
    return tuple(map(alternative_name, names))


def _is_ca(extensions: x509.Extensions | None) -> bool:
    try:
        return bool(extensions and extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except x509.ExtensionNotFound:
        return False


def _key_oid(certificate: x509.Certificate) -> str:
    return certificate.public_key_algorithm_oid.dotted_string


def _title(certificate: x509.Certificate) -> str:
    """What to call a certificate in a line of text."""
    known = facts(certificate)
    return known.subject or (known.names[0] if known.names else f"serial {known.serial}")


# -- issuing ------------------------------------------------------------------------------------------------------


def _begin(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(until)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _checked_days(days: int) -> int:
    if isinstance(days, bool) or not isinstance(days, int) or not 1 <= days <= MAX_DAYS:
        raise InvalidArgument(f"days: expected a whole number from 1 to {MAX_DAYS}, got {days!r}")
    return days


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: PrivateKeyTypes) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
