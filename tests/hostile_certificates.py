"""Certificates that nobody should make, for tests: any names, any extensions, any bytes in place of others."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import NameOID

__all__ = ["Key", "common_name", "make", "raw", "reloaded"]

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey

KEY = ec.generate_private_key(ec.SECP256R1())


def common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def make(
    subject: x509.Name | str = "somebody",
    names: Sequence[x509.GeneralName] = (),
    extensions: Sequence[x509.ExtensionType] = (),
    *,
    key: Key = KEY,
    issuer: x509.Name | str | None = None,
    signer: Key | None = None,
    ca: bool | None = None,
    now: datetime | None = None,
    serial: int | None = None,
) -> x509.Certificate:
    """A certificate.

    Args:
        subject: its distinguished name, or its common name.
        names: its alternative names.
        extensions: what else it has.
        key: its key.
        issuer: by default the subject.
        signer: by default its own key.
        ca: what its basic constraints say; None for none.
        now: when it was made; it is valid for a day.
        serial: its number; None for a random one.
    """
    name = common_name(subject) if isinstance(subject, str) else subject
    by = common_name(issuer) if isinstance(issuer, str) else issuer
    moment = now or datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(by or name)
        .public_key(key.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(moment - timedelta(hours=1))
        .not_valid_after(moment + timedelta(days=1))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    own = signer or key
    is_edwards = isinstance(own, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
    return builder.sign(own, None if is_edwards else hashes.SHA256())


def raw(oid: x509.ObjectIdentifier | str, value: bytes) -> x509.UnrecognizedExtension:
    """An extension with any bytes as its value."""
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(oid) if isinstance(oid, str) else oid, value)


def reloaded(certificate: x509.Certificate, old: bytes, new: bytes) -> x509.Certificate:
    """The certificate with other bytes of the same length in its DER. Its signature fits no more."""
    der = certificate.public_bytes(serialization.Encoding.DER)
    assert old in der
    assert len(old) == len(new)
    return x509.load_der_x509_certificate(der.replace(old, new))
