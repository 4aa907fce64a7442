"""Keys of certificates as values: what kind one is, and which private key belongs to which certificate."""

from __future__ import annotations

import re

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from theater_tcp.errors import InvalidArgument

__all__ = ["belong_together", "key_name", "public_key_of", "read_key"]

_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}


def read_key(data: bytes) -> PrivateKeyTypes:
    """The private key of a file.

    Args:
        data: a key that is not encrypted, in PEM, other things beside it, or in DER.

    Raises:
        InvalidArgument: there is none, or it can't be read.
    """
    is_pem = b"-----BEGIN " in data
    load = serialization.load_pem_private_key if is_pem else serialization.load_der_private_key
    try:
        return load(data, None)
    except TypeError:
        raise InvalidArgument("the private key is encrypted") from None
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidArgument("no private key in it that can be read") from None


def key_name(key: object) -> str:
    """The kind of a public or private key, as ``ECDSA P-256``, ``RSA 2048`` or ``Ed25519``."""
    if isinstance(key, ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey):
        return f"ECDSA {_CURVES.get(key.curve.name, key.curve.name)}"
    if isinstance(key, rsa.RSAPublicKey | rsa.RSAPrivateKey):
        return f"RSA {key.key_size}"
    return re.sub("(Public|Private)Key$", "", type(key).__name__)


def public_key_of(owner: x509.Certificate | PrivateKeyTypes) -> bytes | None:
    """The public key of a certificate or a private key.

    Returns:
        SubjectPublicKeyInfo in DER (RFC 5280, 4.1.2.7); None if it can't be read.
    """
    form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    try:
        return owner.public_key().public_bytes(*form)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None


def belong_together(certificate: x509.Certificate, key: PrivateKeyTypes) -> bool:
    """Whether a private key is the one of a certificate."""
    return public_key_of(certificate) == public_key_of(key)
