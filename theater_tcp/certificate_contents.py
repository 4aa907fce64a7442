"""What a file holds that is about certificates: certificates, private keys, and whether it is a chain in order.

Bytes in, values out. :func:`read_contents` takes what there is, PEM or DER; whether a server could use it is judged
elsewhere, when a server is to use it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from theater_tcp.certificate_keys import key_name, public_key_of
from theater_tcp.certificates import CertificateFacts, chain_problem, facts, is_self_signed, read_certificates
from theater_tcp.errors import InvalidArgument

__all__ = ["Contents", "PrivateKey", "days_left", "purposes", "read_contents", "validity"]

_BEGIN_LINE = re.compile(rb"-----BEGIN ([A-Z0-9#. ]{1,40})-----")
_CERTIFICATES = (b"CERTIFICATE", b"X509 CERTIFICATE")
_PURPOSES = {
    ExtendedKeyUsageOID.SERVER_AUTH: "TLS servers",
    ExtendedKeyUsageOID.CLIENT_AUTH: "TLS clients",
    ExtendedKeyUsageOID.EMAIL_PROTECTION: "e-mail",
    ExtendedKeyUsageOID.CODE_SIGNING: "code",
    ExtendedKeyUsageOID.OCSP_SIGNING: "OCSP",
    ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE: "anything",
}
_DAY = timedelta(days=1)
_HOUR = timedelta(hours=1)
_MINUTE = timedelta(minutes=1)


class PrivateKey(msgspec.Struct, frozen=True):
    """What can be said of a private key without telling it.

    Args:
        kind: as ``ECDSA P-256``; None if it is encrypted.
        encrypted: whether a password opens it.
        public: its public key (SubjectPublicKeyInfo in DER, RFC 5280, 4.1.2.7); None if it is encrypted.
    """

    kind: str | None
    encrypted: bool
    public: bytes | None

    def fits(self, certificate: x509.Certificate) -> bool:
        """Whether it is the key of a certificate. Of an encrypted key nobody knows."""
        return self.public is not None and self.public == public_key_of(certificate)


class Contents(msgspec.Struct, frozen=True):
    """What a file holds.

    Args:
        certificates: in their order.
        keys: the private keys.
        others: the labels of all else in PEM, as ``CERTIFICATE REQUEST``.
    """

    certificates: tuple[x509.Certificate, ...] = ()
    keys: tuple[PrivateKey, ...] = ()
    others: tuple[str, ...] = ()

    @property
    def is_chain(self) -> bool:
        """Whether several certificates are meant to lead from one to the next; CA certificates to trust are not."""
        first = self.certificates[:1]
        return len(self.certificates) > 1 and not (is_self_signed(first[0]) and facts(first[0]).ca)

    @property
    def chain_problem(self) -> str | None:
        """What is wrong with the chain, in one line; None if nothing is, or if it is none."""
        return chain_problem(self.certificates) if self.is_chain else None


def read_contents(data: bytes) -> Contents:
    """What a file holds.

    Args:
        data: PEM, with any text around it, or one certificate or private key in DER.

    Raises:
        InvalidArgument: neither a certificate nor a private key is in it, or one that is can't be read.
    """
    if _BEGIN_LINE.search(data):
        return _from_pem(data)
    if not data.strip():
        raise InvalidArgument("it is empty")
    try:
        return Contents(certificates=read_certificates(data))
    except InvalidArgument:
        pass
    try:
        return Contents(keys=(_private_key(data, pem=False),))
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidArgument("neither a certificate nor a private key, in PEM or in DER") from None


def purposes(certificate: x509.Certificate) -> tuple[str, ...] | None:
    """What a certificate may be used for (RFC 5280, 4.2.1.12).

    Returns:
        words for the purposes that are known here, identifiers as ``1.3.6.1.5.5.7.3.8`` for others; None if it does not
        say, and so may be used for all.

    Raises:
        InvalidArgument: its extensions can't be read.
    """
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return None
    except (ValueError, TypeError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        raise InvalidArgument("the extensions can't be read") from None
    return tuple(_PURPOSES.get(purpose, purpose.dotted_string) for purpose in usage)


def days_left(known: CertificateFacts, now: datetime) -> int:
    """For how many whole days a certificate is still valid; below zero if it has expired."""
    return (known.not_after - now) // _DAY


def validity(known: CertificateFacts, now: datetime) -> str:
    """Where a certificate stands between its beginning and its end, in words: ``89 days left``."""
    if now < known.not_before:
        return f"not valid yet, in {_span(known.not_before - now)}"
    if known.not_after < now:
        return f"expired {_span(now - known.not_after)} ago"
    return f"{_span(known.not_after - now)} left"


def _span(length: timedelta) -> str:
    for unit, name in ((_DAY, "days"), (_HOUR, "hours")):
        if length >= 2 * unit:
            return f"{length // unit} {name}"
    minutes = length // _MINUTE
    return {0: "less than a minute", 1: "1 minute"}.get(minutes, f"{minutes} minutes")


def _from_pem(data: bytes) -> Contents:
    certificates: list[x509.Certificate] = []
    keys: list[PrivateKey] = []
    others: list[str] = []
    for label, block in _blocks(data):
        try:
            if label in _CERTIFICATES:
                certificates += read_certificates(block)
            elif label.endswith(b"PRIVATE KEY"):
                keys.append(_private_key(block, pem=True))
            elif not label.endswith(b"PARAMETERS"):  # these belong to the key behind them
                others.append(_shown(label))
        except (ValueError, UnsupportedAlgorithm, InvalidArgument):
            kind, count = ("certificate", certificates) if label in _CERTIFICATES else ("private key", keys)
            reason = "is damaged, or of a kind that is not supported"
            raise InvalidArgument(f"{kind} {len(count) + 1} {reason}") from None
    if not certificates and not keys:
        raise InvalidArgument(f"neither a certificate nor a private key, only {', '.join(others) or 'parameters'}")
    return Contents(tuple(certificates), tuple(keys), tuple(others))


def _blocks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The PEM blocks (RFC 7468): label, and text from BEGIN to END."""
    begin = _BEGIN_LINE.search(data)
    while begin:
        last = b"-----END " + begin[1] + b"-----"
        end = data.find(last, begin.end())
        if end < 0:
            raise InvalidArgument(f"the end of {_shown(begin[1])} is missing")
        yield begin[1], data[begin.start() : end + len(last)] + b"\n"
        begin = _BEGIN_LINE.search(data, end)


def _shown(label: bytes) -> str:
    return label.decode("ascii")


def _private_key(data: bytes, *, pem: bool) -> PrivateKey:
    load = serialization.load_pem_private_key if pem else serialization.load_der_private_key
    try:
        key = load(data, None)
    except TypeError:  # there is a key, and no password
        return PrivateKey(kind=None, encrypted=True, public=None)
    return PrivateKey(kind=key_name(key), encrypted=False, public=public_key_of(key))
