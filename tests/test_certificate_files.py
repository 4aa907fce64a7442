"""Certificate files: what a right set of them gives, and one line for each thing that can be wrong with them."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from tests.hostile_certificates import common_name, make
from theater_tcp.certificate_files import Identity, covers, host_name, read_authorities, read_identity
from theater_tcp.errors import InvalidArgument
from theater_tcp.tls_settings import CertificateFiles

NOW = datetime.now(UTC)
ROOT_KEY, MIDDLE_KEY, KEY, OTHER_KEY = (ec.generate_private_key(ec.SECP256R1()) for _ in range(4))
NAMES = [x509.DNSName("mx.example.org")]
ROOT = make("root", key=ROOT_KEY, ca=True)
MIDDLE = make("middle", key=MIDDLE_KEY, issuer="root", signer=ROOT_KEY, ca=True)
LEAF = make("leaf", NAMES, key=KEY, issuer="middle", signer=MIDDLE_KEY, ca=False)
SELF_SIGNED = make("mx.example.org", NAMES, key=KEY)

Put = Callable[..., str]


def key_pem(
    key: Any = KEY,
    form: PrivateFormat = PrivateFormat.PKCS8,
    encryption: KeySerializationEncryption = NoEncryption(),  # noqa: B008 - it has no state
) -> bytes:
    encoded: bytes = key.private_bytes(Encoding.PEM, form, encryption)
    return encoded


def pem(*parts: Any) -> bytes:
    """Certificates and keys in PEM, one behind the other."""
    return b"".join(
        part
        if isinstance(part, bytes)
        else part.public_bytes(Encoding.PEM)
        if isinstance(part, x509.Certificate)
        else key_pem(part)
        for part in parts
    )


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Put:
    """Writes a file with the mode 0600 into the current directory."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, *parts: Any, mode: int = 0o600) -> str:
        path = tmp_path / name
        path.write_bytes(pem(*parts))
        path.chmod(mode)
        return name

    return write


def files(cert: str = "server.pem", key: str | None = "server.key", **more: Any) -> CertificateFiles:
    return CertificateFiles(cert=cert, key=key, **more)


def read(usage: str = "server", **more: Any) -> Identity:
    return read_identity(files(**more), usage)


def wrong(usage: str = "server", *, now: datetime | None = None, **more: Any) -> str:
    """The text of the refusal."""
    with pytest.raises(InvalidArgument) as caught:
        read_identity(files(**more), usage, now=now)
    assert caught.value.detail.isprintable()
    return caught.value.detail


def usage_for(*purposes: x509.ObjectIdentifier) -> list[x509.ExtensionType]:
    return [x509.ExtendedKeyUsage(purposes)]


def key_usage(**allowed: bool) -> x509.KeyUsage:
    every = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: allowed.get(name, False) for name in every})


# -- what is right ------------------------------------------------------------------------------------------------


def test_a_certificate_and_its_key_make_an_identity(put: Put) -> None:
    put("server.pem", SELF_SIGNED)
    put("server.key", KEY)
    identity = read()
    assert identity.certificates == (SELF_SIGNED,)
    assert identity.key.private_numbers() == KEY.private_numbers()  # type: ignore[union-attr]
    assert (identity.file, identity.facts.names) == ("server.pem", ("mx.example.org",))
    assert identity.expires == SELF_SIGNED.not_valid_after_utc


@pytest.mark.parametrize("key", [None, "server.pem"])
def test_the_key_may_stand_in_the_certificates_file(put: Put, key: str | None) -> None:
    put("server.pem", KEY, LEAF, MIDDLE)
    assert read(key=key).certificates == (LEAF, MIDDLE)


def test_the_chain_may_follow_the_certificate_or_stand_in_a_file_of_its_own_or_both(put: Put) -> None:
    put("server.key", KEY)
    put("full.pem", LEAF, MIDDLE, ROOT)
    put("server.pem", LEAF)
    put("chain.pem", MIDDLE, ROOT)
    put("half.pem", LEAF, MIDDLE)
    put("root.pem", ROOT)
    whole = (LEAF, MIDDLE, ROOT)
    assert read(cert="full.pem").certificates == whole
    assert read(chain="chain.pem").certificates == whole
    assert read(cert="half.pem", chain="root.pem").certificates == whole


def test_the_first_of_the_chain_to_expire_is_what_counts(put: Put) -> None:
    middle = make("middle", key=MIDDLE_KEY, issuer="root", signer=ROOT_KEY, ca=True, now=NOW - timedelta(hours=12))
    put("server.pem", LEAF, middle)
    put("server.key", KEY)
    assert read().expires == middle.not_valid_after_utc


@pytest.mark.parametrize(
    "key",
    [
        ed25519.Ed25519PrivateKey.generate(),
        ed448.Ed448PrivateKey.generate(),
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=lambda key: type(key).__name__,
)
def test_keys_of_all_kinds_that_sign_a_handshake_are_taken(put: Put, key: Any) -> None:
    put("server.pem", make("mx", NAMES, key=key))
    put("server.key", key)
    assert type(read().key) is type(key)


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_a_key_may_be_encrypted(put: Put, form: PrivateFormat) -> None:
    put("server.pem", SELF_SIGNED)
    put("server.key", key_pem(KEY, form, BestAvailableEncryption("schlüssel".encode())))
    assert read(password="schlüssel").key.private_numbers() == KEY.private_numbers()  # type: ignore[union-attr]


def test_a_key_may_have_its_curve_before_it_as_openssl_writes_it(put: Put) -> None:
    put("server.pem", SELF_SIGNED)
    curve = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    put("server.key", curve, key_pem(KEY, PrivateFormat.TraditionalOpenSSL))
    read()


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o660])
def test_a_key_may_be_for_its_owner_and_for_a_group(put: Put, mode: int) -> None:
    put("server.pem", SELF_SIGNED, mode=0o644)
    put("server.key", KEY, mode=mode)
    read()


def test_a_certificate_for_an_address_names_a_host(put: Put) -> None:
    put("server.pem", make(x509.Name([]), [x509.IPAddress(ip_address("::1"))], key=KEY))
    put("server.key", KEY)
    assert read().facts.names == ("::1",)


def test_a_client_needs_no_name(put: Put) -> None:
    put("server.pem", make("somebody", key=KEY))
    put("server.key", KEY)
    assert read("client").facts.subject == "CN=somebody"


@pytest.mark.parametrize(
    ("usage", "purpose"),
    [
        ("server", ExtendedKeyUsageOID.SERVER_AUTH),
        ("client", ExtendedKeyUsageOID.CLIENT_AUTH),
        ("server", ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE),
        ("client", ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE),
    ],
)
def test_a_certificate_says_what_it_is_for(put: Put, usage: str, purpose: x509.ObjectIdentifier) -> None:
    extensions = [*usage_for(ExtendedKeyUsageOID.CODE_SIGNING, purpose), key_usage(digital_signature=True)]
    put("server.pem", make("mx", NAMES, extensions, key=KEY))
    put("server.key", KEY)
    read(usage)


def test_an_identity_is_printed_without_its_key(put: Put) -> None:
    put("server.pem", SELF_SIGNED)
    put("server.key", KEY)
    assert "EllipticCurve" not in repr(read())


# -- what is wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cert", "key", "reason"),
    [
        ([SELF_SIGNED], [OTHER_KEY], "key: server.key: does not fit the certificate in server.pem"),
        ([KEY], [KEY], "cert: server.pem: holds a private key where a certificate is expected"),
        ([SELF_SIGNED], [SELF_SIGNED], "key: server.key: holds a certificate where a private key is expected"),
        ([SELF_SIGNED, KEY], [KEY], "cert: server.pem: holds a private key, and key names server.key"),
        ([SELF_SIGNED], [KEY, OTHER_KEY], "key: server.key: holds 2 private keys"),
        (
            [b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"],
            [KEY],
            "cert: server.pem: holds a certificate request where a certificate is expected",
        ),
        (
            [SELF_SIGNED],
            [KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)],
            "key: server.key: holds a public key where a private key is expected",
        ),
        (
            [b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"],
            [KEY],
            "cert: server.pem: the certificate is damaged, or of a kind that is not supported",
        ),
        (
            [SELF_SIGNED, b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"],
            [KEY],
            "cert: server.pem: certificate 2 is damaged, or of a kind that is not supported",
        ),
        (
            [SELF_SIGNED],
            [b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"],
            "key: server.key: the private key is damaged, or of a kind that is not supported",
        ),
        (
            [SELF_SIGNED],
            [key_pem(KEY, PrivateFormat.OpenSSH)],
            "key: server.key: the private key is damaged, or of a kind that is not supported",
        ),
        (
            [SELF_SIGNED],
            [x25519.X25519PrivateKey.generate()],
            "key: server.key: the private key is none of RSA, ECDSA, Ed25519 and Ed448",
        ),
        (
            [SELF_SIGNED],
            [dsa.generate_private_key(1024)],
            "key: server.key: the private key is none of RSA, ECDSA, Ed25519 and Ed448",
        ),
        (
            [SELF_SIGNED],
            [rsa.generate_private_key(65537, 1024)],
            "key: server.key: the RSA key has 1024 bits, and 2048 are the least",
        ),
        (
            [MIDDLE, LEAF],
            [KEY],
            "cert: server.pem: the key's own certificate is number 2 in it and has to be the first",
        ),
        (
            [LEAF, ROOT],
            [KEY],
            "cert: server.pem: the chain is not in order:"
            " certificate 1 (CN=leaf) is not signed by certificate 2 (CN=root)",
        ),
        (
            [LEAF, MIDDLE, make("root", key=OTHER_KEY, ca=True)],
            [KEY],
            "cert: server.pem: the chain is not in order:"
            " certificate 2 (CN=middle) is not signed by certificate 3 (CN=root)",
        ),
        (
            [make("mx", key=KEY)],
            [KEY],
            "cert: server.pem: the certificate names no host (subject alternative name)",
        ),
        (
            [make("mx", [x509.RFC822Name("me@example.org")], key=KEY)],
            [KEY],
            "cert: server.pem: the certificate names no host (subject alternative name)",
        ),
        (
            [make("mx", NAMES, usage_for(ExtendedKeyUsageOID.CLIENT_AUTH), key=KEY)],
            [KEY],
            "cert: server.pem: the certificate is not for TLS servers (extended key usage)",
        ),
        (
            [make("mx", NAMES, [key_usage(key_encipherment=True)], key=KEY)],
            [KEY],
            "cert: server.pem: the certificate is not for signing handshakes (key usage)",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_go_together_is_told(put: Put, cert: list[Any], key: list[Any], reason: str) -> None:
    put("server.pem", *cert)
    put("server.key", *key)
    assert wrong() == reason


def test_a_client_s_certificate_is_for_clients(put: Put) -> None:
    put("server.pem", make("me", [], usage_for(ExtendedKeyUsageOID.SERVER_AUTH), key=KEY))
    put("server.key", KEY)
    assert wrong("client") == "cert: server.pem: the certificate is not for TLS clients (extended key usage)"


def test_a_certificate_without_a_key_anywhere_is_told(put: Put) -> None:
    put("server.pem", SELF_SIGNED)
    assert wrong(key=None) == "cert: server.pem: holds no private key, and key names no file with one"


def test_a_key_in_the_certificates_file_has_to_fit_too(put: Put) -> None:
    put("server.pem", SELF_SIGNED, OTHER_KEY)
    assert wrong(key=None) == "cert: server.pem: the private key in it does not fit the certificate"


def test_a_chain_that_has_signed_another_certificate_is_told(put: Put) -> None:
    put("server.pem", LEAF)
    put("server.key", KEY)
    put("chain.pem", ROOT)
    reason = "the chain is not in order: certificate 1 (CN=leaf) is not signed by certificate 2 (CN=root)"
    assert wrong(chain="chain.pem") == f"chain: chain.pem: {reason}"


def test_a_chain_by_who_is_no_ca_is_told(put: Put) -> None:
    put("server.pem", LEAF)
    put("server.key", KEY)
    put("chain.pem", make("middle", key=MIDDLE_KEY, ca=False))
    assert wrong(chain="chain.pem").startswith("chain: chain.pem: the chain is not in order: certificate 2 (CN=middle)")
    assert wrong(chain="chain.pem").endswith("no CA")


def test_a_chain_that_begins_with_the_certificate_is_told(put: Put) -> None:
    put("server.pem", LEAF)
    put("server.key", KEY)
    put("chain.pem", LEAF, MIDDLE)
    assert wrong(chain="chain.pem") == "chain: chain.pem: begins with the certificate in server.pem itself"


def test_a_chain_holds_no_key(put: Put) -> None:
    put("server.pem", LEAF)
    put("server.key", KEY)
    put("chain.pem", MIDDLE, MIDDLE_KEY)
    assert wrong(chain="chain.pem") == "chain: chain.pem: holds a private key where certificates are expected"


@pytest.mark.parametrize(
    ("moment", "reason"),
    [
        (SELF_SIGNED.not_valid_after_utc + timedelta(seconds=1), "expired on "),
        (SELF_SIGNED.not_valid_before_utc - timedelta(seconds=1), "is not valid before "),
    ],
)
def test_a_certificate_out_of_its_time_is_told(put: Put, moment: datetime, reason: str) -> None:
    put("server.pem", SELF_SIGNED)
    put("server.key", KEY)
    told = wrong(now=moment)
    assert told.startswith(f"cert: server.pem: the certificate {reason}2")
    assert told.endswith(" UTC")
    read_identity(files(), "server", now=SELF_SIGNED.not_valid_after_utc)


def test_a_certificate_of_the_chain_out_of_its_time_is_told(put: Put) -> None:
    put("server.key", KEY)
    put("server.pem", LEAF)
    old = make("middle", key=MIDDLE_KEY, issuer="root", signer=ROOT_KEY, ca=True, now=NOW - timedelta(days=9))
    put("chain.pem", old)
    assert wrong(chain="chain.pem").startswith("chain: chain.pem: the certificate expired on ")
    put("full.pem", LEAF, old, ROOT)
    assert wrong(cert="full.pem").startswith("cert: full.pem: certificate 2 (CN=middle) expired on ")


@pytest.mark.parametrize(
    ("mode", "rights"), [(0o604, "read"), (0o602, "write"), (0o606, "read and write"), (0o644, "read")]
)
def test_a_key_that_is_for_everybody_is_refused(put: Put, mode: int, rights: str) -> None:
    put("server.pem", SELF_SIGNED)
    put("server.key", KEY, mode=mode)
    reason = f"its private key is for everybody to {rights} (mode {mode:04o}); chmod 600 makes it private"
    assert wrong() == f"key: server.key: {reason}"
    put("server.pem", SELF_SIGNED, KEY, mode=mode)
    assert wrong(key=None) == f"cert: server.pem: {reason}"


ENCRYPTED = key_pem(KEY, PrivateFormat.PKCS8, BestAvailableEncryption(b"right"))
ENCRYPTED_THE_OLD_WAY = key_pem(KEY, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"right"))


@pytest.mark.parametrize(
    ("content", "password", "reason"),
    [
        (ENCRYPTED, None, "key: server.key: the private key is encrypted, and there is no password"),
        (ENCRYPTED, "wrong", "password: server.key: does not open the private key"),
        (ENCRYPTED_THE_OLD_WAY, None, "key: server.key: the private key is encrypted, and there is no password"),
        (ENCRYPTED_THE_OLD_WAY, "wrong", "password: server.key: does not open the private key"),
        (key_pem(), "right", "password: server.key: the private key is not encrypted and needs none"),
    ],
)
def test_a_password_opens_the_key_and_is_there_for_that_alone(
    put: Put, content: bytes, password: str | None, reason: str
) -> None:
    put("server.pem", SELF_SIGNED)
    put("server.key", content)
    assert wrong(password=password) == reason


@pytest.mark.parametrize("field", ["cert", "key", "chain"])
def test_a_file_that_is_not_there_is_told_with_its_field(put: Put, field: str) -> None:
    put("server.pem", SELF_SIGNED)
    put("server.key", KEY)
    more: dict[str, Any] = {field: "no.pem"}
    assert wrong(**more) == f"{field}: no.pem: no such file or directory"


def test_the_fields_of_a_named_certificate_have_their_prefix(put: Put) -> None:
    put("server.pem", SELF_SIGNED)
    with pytest.raises(InvalidArgument) as caught:
        read_identity(files(), "server", prefix="sni.mx.example.org.")
    assert caught.value.detail == "sni.mx.example.org.key: server.key: no such file or directory"


@given(st.binary(max_size=300))
def test_any_certificate_is_taken_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.getbasetemp()
    block = b"-----BEGIN CERTIFICATE-----\n" + content + b"\n-----END CERTIFICATE-----\n"
    for name, data in (("any.pem", content), ("block.pem", block)):
        (folder / name).write_bytes(data)
        with pytest.raises(InvalidArgument):
            read_identity(CertificateFiles(cert=str(folder / name)), "server")


DER = SELF_SIGNED.public_bytes(Encoding.DER)


@pytest.mark.filterwarnings("ignore::UserWarning")  # cryptography warns of some oddities that it takes
@given(st.lists(st.tuples(st.integers(0, len(DER) - 1), st.integers(0, 255)), min_size=1, max_size=3))
def test_a_certificate_that_was_tampered_with_is_taken_or_refused(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    der = bytearray(DER)
    for index, byte in changes:
        der[index] = byte
    path = tmp_path_factory.getbasetemp() / "tampered.pem"
    path.write_bytes(in_pem(bytes(der)) + key_pem())
    path.chmod(0o600)
    for usage in ("server", "client"):
        with suppress(InvalidArgument):
            read_identity(CertificateFiles(cert=str(path)), usage)


def in_pem(der: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"


def test_a_certificate_of_a_version_that_nobody_knows_is_refused(put: Put) -> None:
    version = bytes.fromhex("a003020102")
    assert version in DER
    put("server.pem", in_pem(DER.replace(version, bytes.fromhex("a00302015b"))), KEY)
    assert wrong(key=None) == "cert: server.pem: the certificate is damaged, or of a kind that is not supported"


# -- CA certificates ----------------------------------------------------------------------------------------------


def authorities(*certificates: Any, put: Put, now: datetime | None = None) -> tuple[x509.Certificate, ...]:
    return read_authorities("ca_cert", put("ca.pem", *certificates), now)


def test_ca_certificates_come_in_their_order(put: Put) -> None:
    assert authorities(ROOT, MIDDLE, put=put) == (ROOT, MIDDLE)


def test_a_ca_certificate_out_of_its_time_is_left_out_as_long_as_another_is_there(put: Put) -> None:
    old = make("old", key=OTHER_KEY, ca=True, now=NOW - timedelta(days=9))
    early = make("early", key=OTHER_KEY, ca=True, now=NOW + timedelta(days=9))
    assert authorities(old, ROOT, early, put=put) == (ROOT,)
    with pytest.raises(InvalidArgument, match=r"^invalid: ca_cert: ca.pem: the certificate expired on "):
        authorities(old, put=put)
    with pytest.raises(
        InvalidArgument, match=r"^invalid: ca_cert: ca.pem: certificate 1 \(CN=early\) is not valid before"
    ):
        authorities(early, old, put=put)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([LEAF], "certificate 1 (CN=leaf) is no CA certificate"),
        ([ROOT, SELF_SIGNED], "certificate 2 (CN=mx.example.org) is no CA certificate"),
        ([make(x509.Name([]), key=KEY)], "certificate 1 (without a subject) is no CA certificate"),
        ([ROOT, ROOT_KEY], "holds a private key where CA certificates are expected"),
        ([ROOT_KEY], "holds a private key where CA certificates are expected"),
        ([b""], "is empty"),
    ],
)
def test_a_file_of_ca_certificates_holds_nothing_else(put: Put, parts: list[Any], reason: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        authorities(*parts, put=put)
    assert caught.value.detail == f"ca_cert: ca.pem: {reason}"


# -- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("mx.example.org", "mx.example.org"),
        ("MX.Example.ORG.", "mx.example.org"),
        ("*.example.org", "*.example.org"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("*.BÜCHER.example", "*.xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("faß.example", "xn--fa-hia.example"),
        ("localhost", "localhost"),
        ("_mta-sts.example.org", "_mta-sts.example.org"),
        ("1.example.org", "1.example.org"),
    ],
)
def test_a_name_has_the_form_in_which_tls_carries_it(text: str, name: str) -> None:
    assert host_name(text) == name


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("192.0.2.1", "is an address, and clients ask for names alone"),
        ("[::1]", "is an address, and clients ask for names alone"),
        ("::1", "is an address, and clients ask for names alone"),
        ("*", "has a '*' that is not the whole first label"),
        ("m*.example.org", "has a '*' that is not the whole first label"),
        ("mx.*.org", "has a '*' that is not the whole first label"),
        ("*.*.org", "has a '*' that is not the whole first label"),
        ("", "is no host name"),
        ("*.", "is no host name"),
        (".", "is no host name"),
        ("a..b", "is no host name"),
        ("-a.example", "is no host name"),
        ("a-.example", "is no host name"),
        ("a b", "is no host name"),
        ("a/b", "is no host name"),
        ("mx.example.org:25", "is no host name"),
        ("a" * 64, "is no host name"),
        (".".join(["a" * 60] * 5), "is no host name"),
        ("ü" * 70, "is a name that can't be encoded (IDNA 2008)"),
    ],
)
def test_what_is_no_name_that_clients_ask_for_is_told(text: str, reason: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        host_name(text)
    assert caught.value.detail == reason


@given(st.text(max_size=300))
def test_any_text_is_a_name_or_is_refused(text: str) -> None:
    try:
        name = host_name(text)
    except InvalidArgument:
        return
    assert name.isascii()
    assert host_name(name) == name


def certificate_for(names: Iterable[str]) -> x509.Certificate:
    return make("x", [x509.DNSName(name) for name in names], key=KEY)


@pytest.mark.parametrize(
    ("names", "name", "covered"),
    [
        (["mx.example.org"], "mx.example.org", True),
        (["MX.example.org"], "mx.example.org", True),
        (["a.example.org", "b.example.org"], "b.example.org", True),
        (["*.example.org"], "mx.example.org", True),
        (["*.example.org"], "*.example.org", True),
        (["*.example.org"], "example.org", False),
        (["*.example.org"], "a.mx.example.org", False),
        (["mx.example.org"], "*.example.org", False),
        (["mx.example.org"], "example.org", False),
        (["example.org"], "mx.example.org", False),
        ([], "mx.example.org", False),
    ],
)
def test_a_wildcard_covers_one_label(names: list[str], name: str, covered: bool) -> None:
    assert covers(certificate_for(names), name) is covered


def test_the_common_name_names_no_host() -> None:
    assert not covers(make(common_name("mx.example.org"), key=KEY), "mx.example.org")


def test_reading_leaves_no_descriptor_open(put: Put) -> None:
    put("server.pem", SELF_SIGNED)
    put("server.key", KEY)
    before = len(os.listdir("/proc/self/fd"))
    read()
    wrong(cert="no.pem")
    assert len(os.listdir("/proc/self/fd")) == before
