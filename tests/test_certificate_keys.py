"""Keys as values: each kind has its name, and a key is known by the certificate that it belongs to."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from tests.hostile_certificates import Key, make, reloaded
from theater_tcp.certificate_keys import belong_together, key_name, public_key_of, read_key
from theater_tcp.errors import InvalidArgument

KEY = ed25519.Ed25519PrivateKey.generate()
CERTIFICATE = make(key=KEY)


def bytes_of(key: Key, encoding: Encoding = Encoding.PEM, password: bytes | None = None) -> bytes:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(encoding, PrivateFormat.PKCS8, encryption)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (lambda: ec.generate_private_key(ec.SECP256R1()), "ECDSA P-256"),
        (lambda: ec.generate_private_key(ec.SECP384R1()), "ECDSA P-384"),
        (lambda: ec.generate_private_key(ec.SECP521R1()), "ECDSA P-521"),
        (lambda: ec.generate_private_key(ec.SECP256K1()), "ECDSA secp256k1"),
        (lambda: rsa.generate_private_key(65537, 2048), "RSA 2048"),
        (ed25519.Ed25519PrivateKey.generate, "Ed25519"),
        (ed448.Ed448PrivateKey.generate, "Ed448"),
        (x25519.X25519PrivateKey.generate, "X25519"),
    ],
)
def test_a_key_is_named_by_its_kind_and_size(key: Callable[[], Key], name: str) -> None:
    private = key()
    assert key_name(private) == key_name(private.public_key()) == name


@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
def test_a_key_belongs_to_its_certificate_and_to_no_other(encoding: Encoding) -> None:
    key = read_key(bytes_of(KEY, encoding))
    assert public_key_of(key) == public_key_of(CERTIFICATE)
    assert belong_together(CERTIFICATE, key)
    assert not belong_together(make(key=ed25519.Ed25519PrivateKey.generate()), key)


def test_a_key_in_pem_may_have_other_things_beside_it() -> None:
    data = b"# a comment\n" + CERTIFICATE.public_bytes(Encoding.PEM) + bytes_of(KEY)
    assert belong_together(CERTIFICATE, read_key(data))


def test_no_key_belongs_to_a_certificate_whose_key_cannot_be_read() -> None:
    certificate = make(key=rsa.generate_private_key(65537, 2048))
    oid = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01"
    strange = reloaded(certificate, oid + b"\x01", oid + b"\x63")
    assert public_key_of(strange) is None
    assert not belong_together(strange, KEY)


UNKNOWN = bytes_of(KEY, Encoding.DER).replace(b"\x2b\x65\x70", b"\x2b\x65\x00")
"""The identifier of Ed25519 (RFC 8410, 3) made another one."""


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no private key in it that can be read"),
        (b"hello", "no private key in it that can be read"),
        (CERTIFICATE.public_bytes(Encoding.PEM), "no private key in it that can be read"),
        (bytes_of(KEY)[:-40], "no private key in it that can be read"),
        (bytes_of(KEY, password=b"secret"), "the private key is encrypted"),
        (bytes_of(KEY, Encoding.DER, b"secret"), "the private key is encrypted"),
        (UNKNOWN, "no private key in it that can be read"),
    ],
    ids=["nothing", "words", "certificate", "half", "encrypted", "encrypted, DER", "unknown kind"],
)
def test_what_is_no_usable_key_is_one_clear_reason(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read_key(data)
    assert caught.value.detail == reason
