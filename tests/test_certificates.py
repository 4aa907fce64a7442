"""Certificates as values: the facts are right and can be shown whatever the certificate, and what the authority issues
passes every check that there is."""

from __future__ import annotations

import base64
import shutil
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from tests.certificates_fixture import SERVER_NAMES, Certificates
from tests.hostile_certificates import Key, make, raw, reloaded
from theater_tcp.certificate_keys import belong_together, read_key
from theater_tcp.certificates import (
    MAX_DAYS,
    CertificateFacts,
    DevelopmentAuthority,
    Issued,
    chain_problem,
    facts,
    facts_from_der,
    is_issued_by,
    is_self_signed,
    read_certificates,
)
from theater_tcp.errors import InvalidArgument

NOW = datetime(2026, 5, 4, 12, 30, 15, tzinfo=UTC)
AUTHORITY = DevelopmentAuthority.create(now=NOW)


def certificate_of(issued: Issued) -> x509.Certificate:
    return read_certificates(issued.cert_pem)[0]


def extension(certificate: x509.Certificate, kind: type[x509.ExtensionType]) -> x509.Extension[x509.ExtensionType]:
    return certificate.extensions.get_extension_for_class(kind)


def pem_of(key: Key) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


# -- facts --------------------------------------------------------------------------------------------------------


def whole_bytes(number: int) -> str:
    return number.to_bytes((number.bit_length() + 7) // 8, "big").hex().upper()


def test_the_facts_are_what_the_certificate_says() -> None:
    issued = AUTHORITY.issue(["mx.example.org", "192.0.2.7", "::1"], days=30, now=NOW)
    certificate = certificate_of(issued)
    assert facts(certificate) == CertificateFacts(
        subject="CN=mx.example.org",
        issuer="CN=theater-tcp development CA",
        names=("mx.example.org", "192.0.2.7", "::1"),
        serial=whole_bytes(certificate.serial_number),
        not_before=NOW - timedelta(hours=1),
        not_after=NOW + timedelta(days=30),
        fingerprint=":".join(f"{byte:02X}" for byte in certificate.fingerprint(hashes.SHA256())),
        key="ECDSA P-256",
        ca=False,
    )
    assert facts_from_der(certificate.public_bytes(Encoding.DER)) == facts(certificate)
    assert facts(AUTHORITY.certificate).ca


@pytest.mark.program("openssl")
def test_openssl_says_the_same(certificates: Certificates) -> None:
    known = facts(read_certificates(Path(certificates.server.cert).read_bytes())[0])
    what = ["-noout", "-serial", "-fingerprint", "-sha256", "-subject", "-issuer", "-nameopt", "RFC2253"]
    command = ["openssl", "x509", *what, "-in", certificates.server.cert]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.splitlines() == [
        f"serial={known.serial}",
        f"sha256 Fingerprint={known.fingerprint}",
        f"subject={known.subject}",
        f"issuer={known.issuer}",
    ]


@pytest.mark.parametrize(("number", "text"), [(0x0A, "0A"), (0xABC, "0ABC"), (0xABCD, "ABCD")])
def test_a_serial_number_has_whole_bytes(number: int, text: str) -> None:
    assert facts(make(serial=number)).serial == text


# -- what a hostile peer may show ---------------------------------------------------------------------------------


def test_no_name_writes_a_second_line_or_a_colour() -> None:
    known = facts(make("a\nb\x1b[31m", [x509.DNSName("a\r\n.example")], issuer="\u202ec"))
    assert known.subject == r"CN=a\0Ab\1B[31m"
    assert known.issuer == r"CN=\E2\80\AEc"
    assert known.names == (r"a\0D\0A.example",)


SAN = ExtensionOID.SUBJECT_ALTERNATIVE_NAME
UNREADABLE_EXTENSIONS = {
    "garbage": [raw(SAN, b"garbage")],
    "an address of five bytes": [raw(SAN, b"\x30\x07\x87\x05\x01\x02\x03\x04\x05")],
    "a name of a kind that nobody uses": [raw(SAN, b"\x30\x02\xa3\x00")],
    "a name that is no text": [raw(SAN, b"\x30\x04\x82\x02\xc3\x28")],
    "garbage as constraints": [raw(ExtensionOID.BASIC_CONSTRAINTS, b"garbage")],
}


@pytest.mark.parametrize("extensions", UNREADABLE_EXTENSIONS.values(), ids=UNREADABLE_EXTENSIONS)
def test_extensions_that_cannot_be_read_grant_nothing(extensions: list[x509.UnrecognizedExtension]) -> None:
    known = facts(make("mx.example.org", extensions=extensions))
    assert known.names == ()
    assert not known.ca
    assert known.subject == "CN=mx.example.org"


def test_an_extension_that_is_there_twice_grants_nothing() -> None:
    constraints = x509.BasicConstraints(ca=True, path_length=None).public_bytes()
    double = [raw("1.2.3.4", constraints), raw(ExtensionOID.BASIC_CONSTRAINTS, constraints)]
    certificate = make(extensions=double)
    assert facts(certificate).ca
    # An identifier of the same length makes the first one a second basicConstraints.
    assert not facts(reloaded(certificate, b"\x06\x03\x2a\x03\x04", b"\x06\x03\x55\x1d\x13")).ca


def too_long_a_name() -> x509.Certificate:
    """What the library does not make: the value of an organisation as a common name."""
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "x" * 70)])
    return reloaded(make(name), b"\x06\x03\x55\x04\x0a", b"\x06\x03\x55\x04\x03")


def test_a_name_that_is_too_long_is_shown() -> None:
    with pytest.warns(UserWarning, match="length must be"):
        assert facts(too_long_a_name()).subject == f"CN={'x' * 70}"


def test_where_warnings_are_errors_a_name_that_is_too_long_is_unreadable() -> None:
    assert facts(too_long_a_name()).subject == "(unreadable)"


def test_a_key_of_an_unknown_kind_is_told_by_its_identifier() -> None:
    certificate = make(key=rsa.generate_private_key(65537, 2048))
    oid = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01"
    strange = reloaded(certificate, oid + b"\x01", oid + b"\x63")
    assert facts(strange).key == "(unreadable, 1.2.840.113549.1.1.99)"
    assert not belong_together(strange, read_key(AUTHORITY.key_pem))
    assert not is_self_signed(strange)


@pytest.mark.parametrize("der", [b"", b"hello", AUTHORITY.certificate.public_bytes(Encoding.DER)[:-1]])
def test_bytes_that_are_no_certificate_are_told_to_be_none(der: bytes) -> None:
    with pytest.raises(InvalidArgument, match="the certificate can't be read"):
        facts_from_der(der)


def test_a_certificate_of_a_version_to_come_cannot_be_read() -> None:
    version_3, version_92 = b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x5b"
    der = AUTHORITY.certificate.public_bytes(Encoding.DER).replace(version_3, version_92)
    with pytest.raises(InvalidArgument, match="the certificate can't be read"):
        facts_from_der(der)
    pem = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"
    with pytest.raises(InvalidArgument, match="a certificate in it can't be read"):
        read_certificates(pem)


DER = make("mx.example.org", [x509.DNSName("mx.example.org"), x509.RFC822Name("me@a")], ca=False).public_bytes(
    Encoding.DER
)


@pytest.mark.filterwarnings("ignore")
@given(st.lists(st.tuples(st.integers(0, len(DER) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_of_any_bytes_there_are_printable_facts_or_the_documented_error(changes: list[tuple[int, int]]) -> None:
    der = bytearray(DER)
    for place, byte in changes:
        der[place] = byte
    try:
        known = facts_from_der(bytes(der))
    except InvalidArgument:
        return
    texts = [known.subject, known.issuer, *known.names, known.serial, known.fingerprint, known.key]
    assert all(text.isprintable() for text in texts)
    assert known.not_before.tzinfo is UTC
    msgspec.json.encode(known)


# -- reading ------------------------------------------------------------------------------------------------------


def test_certificates_are_read_in_their_order_from_pem_and_one_from_der() -> None:
    both = b"# a comment\n" + AUTHORITY.issue(["a"], now=NOW).cert_pem + AUTHORITY.key_pem + AUTHORITY.cert_pem
    assert [facts(one).subject for one in read_certificates(both)] == ["CN=a", "CN=theater-tcp development CA"]
    der = AUTHORITY.certificate.public_bytes(Encoding.DER)
    assert read_certificates(der) == (AUTHORITY.certificate,)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no certificate, neither in PEM nor in DER"),
        (b"hello", "no certificate, neither in PEM nor in DER"),
        (AUTHORITY.key_pem, "no certificate in it, only PRIVATE KEY"),
        (b"-----BEGIN \x1b-----", "no certificate in it"),
        (AUTHORITY.cert_pem.replace(b"MII", b"MIJ"), "a certificate in it can't be read"),
        (AUTHORITY.cert_pem[:-30], "a certificate in it can't be read"),
    ],
)
def test_what_is_no_certificate_is_one_clear_reason(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read_certificates(data)
    assert caught.value.detail == reason


# -- chains -------------------------------------------------------------------------------------------------------

ROOT_KEY, MIDDLE_KEY = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
ROOT = make("root", ca=True, key=ROOT_KEY)
MIDDLE = make("middle", ca=True, key=MIDDLE_KEY, issuer="root", signer=ROOT_KEY)
END = make("end", issuer="middle", signer=MIDDLE_KEY)


def test_a_chain_is_in_order_if_each_certificate_is_signed_by_the_next() -> None:
    assert chain_problem([END, MIDDLE, ROOT]) is None
    assert chain_problem([END]) is None
    assert chain_problem([]) is None


def test_a_chain_that_is_not_in_order_is_told_where_it_breaks() -> None:
    assert chain_problem([END, ROOT, MIDDLE]) == "certificate 1 (CN=end) is not signed by certificate 2 (CN=root)"
    forged = make("end", issuer="middle", signer=ROOT_KEY)
    assert chain_problem([forged, MIDDLE]) == "certificate 1 (CN=end) is not signed by certificate 2 (CN=middle)"


def test_in_a_chain_only_a_ca_signs() -> None:
    no_ca = make("middle", ca=False, key=MIDDLE_KEY, issuer="root", signer=ROOT_KEY)
    reason = "certificate 2 (CN=middle) has signed the one before it and is no CA"
    assert chain_problem([END, no_ca, ROOT]) == reason


def test_a_certificate_without_a_subject_is_called_by_its_name_or_number() -> None:
    nameless = make(x509.Name([]), [x509.DNSName("a.example")])
    assert chain_problem([nameless, ROOT]) == "certificate 1 (a.example) is not signed by certificate 2 (CN=root)"
    number = make(x509.Name([]), serial=0xABCD)
    assert chain_problem([number, ROOT]) == "certificate 1 (serial ABCD) is not signed by certificate 2 (CN=root)"


def test_self_signed_is_what_bears_the_signature_of_its_own_key() -> None:
    assert is_self_signed(ROOT)
    assert not is_self_signed(MIDDLE)
    assert not is_self_signed(make("root", issuer="root", signer=MIDDLE_KEY))
    assert is_issued_by(MIDDLE, ROOT)
    assert not is_issued_by(ROOT, MIDDLE)


@pytest.mark.program("openssl")
def test_an_old_root_that_is_signed_with_sha_1_is_self_signed_too(tmp_path: Path) -> None:
    pem = tmp_path / "old.pem"
    what = ["-x509", "-sha1", "-newkey", "rsa:2048", "-nodes", "-keyout", str(tmp_path / "old.key"), "-subj", "/CN=old"]
    subprocess.run(["openssl", "req", *what, "-out", str(pem)], capture_output=True, check=True)
    (old,) = read_certificates(pem.read_bytes())
    assert is_self_signed(old)
    assert not is_self_signed(reloaded(old, b"old", b"new"))
    other_signature = old.signature[:-1] + bytes([old.signature[-1] ^ 1])
    assert not is_self_signed(reloaded(old, old.signature, other_signature))
    # As an issuer's signature it does not count: whoever verifies refuses it.
    assert not is_issued_by(old, old)


# -- the authority ------------------------------------------------------------------------------------------------


def test_an_authority_may_sign_ends_and_nothing_else() -> None:
    certificate = AUTHORITY.certificate
    constraints = extension(certificate, x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    usage = extension(certificate, x509.KeyUsage)
    assert usage.critical
    assert isinstance(usage.value, x509.KeyUsage)
    assert (usage.value.key_cert_sign, usage.value.crl_sign, usage.value.digital_signature) == (True, True, False)
    assert is_self_signed(certificate)
    assert facts(certificate).not_after == NOW + timedelta(days=825)
    assert certificate.version is x509.Version.v3


def key_identifier(certificate: x509.Certificate) -> bytes:
    own = extension(certificate, x509.SubjectKeyIdentifier).value
    assert isinstance(own, x509.SubjectKeyIdentifier)
    return own.digest


def authority_identifier(certificate: x509.Certificate) -> bytes | None:
    pointer = extension(certificate, x509.AuthorityKeyIdentifier).value
    assert isinstance(pointer, x509.AuthorityKeyIdentifier)
    return pointer.key_identifier


def test_every_certificate_points_to_the_key_that_signed_it() -> None:
    issued = certificate_of(AUTHORITY.issue(["localhost"], now=NOW))
    assert authority_identifier(issued) == authority_identifier(AUTHORITY.certificate)
    assert authority_identifier(issued) == key_identifier(AUTHORITY.certificate) != key_identifier(issued)


@pytest.mark.parametrize(
    ("client", "purpose"), [(False, ExtendedKeyUsageOID.SERVER_AUTH), (True, ExtendedKeyUsageOID.CLIENT_AUTH)]
)
def test_what_is_issued_is_for_one_purpose_and_signs_handshakes_alone(
    client: bool, purpose: x509.ObjectIdentifier
) -> None:
    certificate = certificate_of(AUTHORITY.issue(["localhost"], client=client, now=NOW))
    assert extension(certificate, x509.ExtendedKeyUsage).value == x509.ExtendedKeyUsage([purpose])
    constraints = extension(certificate, x509.BasicConstraints)
    assert (constraints.critical, constraints.value) == (True, x509.BasicConstraints(ca=False, path_length=None))
    usage = extension(certificate, x509.KeyUsage)
    assert usage.critical
    assert isinstance(usage.value, x509.KeyUsage)
    assert (usage.value.digital_signature, usage.value.key_cert_sign, usage.value.crl_sign) == (True, False, False)


def test_each_certificate_has_a_key_and_a_serial_number_of_its_own() -> None:
    first, second = (AUTHORITY.issue(["localhost"], now=NOW) for _ in range(2))
    assert first.key_pem != second.key_pem
    assert certificate_of(first).serial_number != certificate_of(second).serial_number
    assert belong_together(certificate_of(first), read_key(first.key_pem))


def test_a_certificate_is_valid_from_an_hour_ago_for_the_days_that_were_asked_for() -> None:
    known = facts(certificate_of(AUTHORITY.issue(["localhost"], days=7, now=NOW)))
    assert (known.not_before, known.not_after) == (NOW - timedelta(hours=1), NOW + timedelta(days=7))


def test_no_certificate_outlives_the_authority() -> None:
    short = DevelopmentAuthority.create(days=10, now=NOW)
    assert facts(certificate_of(short.issue(["localhost"], now=NOW))).not_after == NOW + timedelta(days=10)


def test_an_authority_that_has_expired_issues_nothing() -> None:
    short = DevelopmentAuthority.create("short", days=10, now=NOW)
    with pytest.raises(InvalidArgument, match="CN=short has expired"):
        short.issue(["localhost"], now=NOW + timedelta(days=10))


def test_without_a_time_it_is_the_present_one() -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    authority = DevelopmentAuthority.create(days=1)
    known = [facts(authority.certificate), facts(certificate_of(authority.issue(["localhost"], days=1)))]
    for one in known:
        assert one.not_before + timedelta(hours=1) >= before
        assert one.not_after <= datetime.now(UTC) + timedelta(days=1)


def test_the_same_name_stands_there_once() -> None:
    certificate = certificate_of(AUTHORITY.issue(["Localhost", "localhost", "::1", "0:0::1"], now=NOW))
    assert facts(certificate).names == ("localhost", "::1")


def test_a_first_name_that_is_too_long_for_the_subject_stands_among_the_names_alone() -> None:
    long = "a" * 60 + ".example.org"
    certificate = certificate_of(AUTHORITY.issue([long, "localhost"], now=NOW))
    assert facts(certificate).subject == ""
    assert facts(certificate).names == (long, "localhost")
    assert extension(certificate, x509.SubjectAlternativeName).critical
    usual = certificate_of(AUTHORITY.issue(["localhost"], now=NOW))
    assert not extension(usual, x509.SubjectAlternativeName).critical


def test_a_client_may_be_called_anything() -> None:
    known = facts(certificate_of(AUTHORITY.issue(["Alice Smith"], client=True, now=NOW)))
    assert (known.subject, known.names) == ("CN=Alice Smith", ())
    mail = facts(certificate_of(AUTHORITY.issue(["me@example.org"], client=True, now=NOW)))
    assert (mail.subject, mail.names) == ("CN=me@example.org", ("email:me@example.org",))


@pytest.mark.parametrize("names", [[], "localhost"])
def test_names_are_a_list_of_at_least_one(names: list[str]) -> None:
    with pytest.raises(InvalidArgument, match="a certificate needs a list of at least one name"):
        AUTHORITY.issue(names, now=NOW)


def test_a_server_has_no_name_that_is_no_host() -> None:
    with pytest.raises(InvalidArgument, match="'Alice Smith' is neither a host name nor an address"):
        AUTHORITY.issue(["localhost", "Alice Smith"], now=NOW)


@pytest.mark.parametrize("days", [0, -1, MAX_DAYS + 1, True, 1.5, 10**30])
def test_days_are_a_whole_number_in_range(days: int) -> None:
    with pytest.raises(InvalidArgument, match=f"days: expected a whole number from 1 to {MAX_DAYS}, got"):
        AUTHORITY.issue(["localhost"], days, now=NOW)
    with pytest.raises(InvalidArgument, match="days: expected a whole number"):
        DevelopmentAuthority.create(days=days, now=NOW)


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 65])
def test_an_authority_has_a_printable_name(name: str) -> None:
    with pytest.raises(InvalidArgument, match="an authority's name has 1 to 64 printable characters"):
        DevelopmentAuthority.create(name)


# -- an authority that is loaded ----------------------------------------------------------------------------------


def test_a_loaded_authority_goes_on_where_it_was() -> None:
    again = DevelopmentAuthority.load(AUTHORITY.cert_pem, AUTHORITY.key_pem)
    assert (again.cert_pem, again.key_pem) == (AUTHORITY.cert_pem, AUTHORITY.key_pem)
    assert is_issued_by(certificate_of(again.issue(["localhost"], now=NOW)), AUTHORITY.certificate)


@pytest.mark.parametrize("key", [rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate()])
def test_an_authority_of_other_tools_issues_too(key: Key) -> None:
    certificate = make("another tool's CA", ca=True, key=key)
    authority = DevelopmentAuthority.load(certificate.public_bytes(Encoding.PEM), pem_of(key))
    issued = certificate_of(authority.issue(["localhost"]))
    assert is_issued_by(issued, certificate)
    # It has no identifier to point to, so the pointer is the usual one, made of the key.
    assert authority_identifier(issued) == x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest


OTHER = DevelopmentAuthority.create(now=NOW)
ED448 = ed448.Ed448PrivateKey.generate()


@pytest.mark.parametrize(
    ("cert", "key", "reason"),
    [
        (b"hello", AUTHORITY.key_pem, "no certificate, neither in PEM nor in DER"),
        (AUTHORITY.cert_pem, b"hello", "no private key in it that can be read"),
        (AUTHORITY.cert_pem, OTHER.key_pem, "the key does not belong to CN=theater-tcp development CA"),
        (END.public_bytes(Encoding.PEM), AUTHORITY.key_pem, "CN=end is no CA"),
        (
            make("ca", ca=True, key=ED448).public_bytes(Encoding.PEM),
            pem_of(ED448),
            "a key of the kind Ed448 signs no certificates here",
        ),
    ],
)
def test_what_is_no_authority_is_not_loaded(cert: bytes, key: bytes, reason: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        DevelopmentAuthority.load(cert, key)
    assert caught.value.detail == reason


# -- as others see it ---------------------------------------------------------------------------------------------


def verified(ca: str, cert: str, *options: str) -> str:
    """What ``openssl verify`` says."""
    command = ["openssl", "verify", "-x509_strict", "-check_ss_sig", "-CAfile", ca, *options, cert]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).replace(cert, "FILE").strip().splitlines()[-1]


@pytest.mark.program("openssl")
@pytest.mark.parametrize("name", SERVER_NAMES)
def test_openssl_verifies_a_server_for_each_of_its_names(certificates: Certificates, name: str) -> None:
    check = "-verify_ip" if ":" in name or name[0].isdigit() else "-verify_hostname"
    assert verified(certificates.ca, certificates.server.cert, "-purpose", "sslserver", check, name) == "FILE: OK"


@pytest.mark.program("openssl")
def test_openssl_verifies_a_client_and_takes_neither_for_the_other(certificates: Certificates) -> None:
    assert verified(certificates.ca, certificates.client.cert, "-purpose", "sslclient") == "FILE: OK"
    assert "verification failed" in verified(certificates.ca, certificates.client.cert, "-purpose", "sslserver")
    assert "verification failed" in verified(certificates.ca, certificates.server.cert, "-purpose", "sslclient")


@pytest.mark.program("openssl")
def test_openssl_refuses_what_is_expired_or_by_a_stranger(certificates: Certificates) -> None:
    assert "verification failed" in verified(certificates.ca, certificates.expired.cert)
    assert "verification failed" in verified(certificates.ca, certificates.untrusted.cert)
    assert verified(certificates.untrusted_ca, certificates.untrusted.cert) == "FILE: OK"


@pytest.mark.program("openssl")
def test_openssl_refuses_an_authority_below_the_authority(certificates: Certificates, tmp_path: Path) -> None:
    """A pathlen of 0: who gets hold of an issued certificate can't make others."""
    authority = certificates.authority
    root_key = read_key(authority.key_pem)
    assert isinstance(root_key, ec.EllipticCurvePrivateKey)
    below_key, end_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = authority.certificate.subject
    below = make("below", ca=True, key=below_key, issuer=issuer, signer=root_key)
    end = make("localhost", key=end_key, issuer="below", signer=below_key)
    for name, certificate in {"below": below, "end": end}.items():
        (tmp_path / f"{name}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    command = ["openssl", "verify", "-CAfile", certificates.ca, "-untrusted", str(tmp_path / "below.pem")]
    done = subprocess.run([*command, str(tmp_path / "end.pem")], capture_output=True, text=True, check=False)
    assert "path length constraint exceeded" in done.stderr


@pytest.mark.program("openssl")
def test_openssl_reads_the_extensions_of_a_server(certificates: Certificates) -> None:
    command = ["openssl", "x509", "-noout", "-text", "-in", certificates.server.cert]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = [line.strip() for line in text.splitlines()]
    names = "DNS:localhost, IP Address:127.0.0.1, IP Address:0:0:0:0:0:0:0:1, DNS:mx.example.org"
    assert lines[lines.index("X509v3 Subject Alternative Name:") + 1] == names
    assert lines[lines.index("X509v3 Basic Constraints: critical") + 1] == "CA:FALSE"
    assert lines[lines.index("X509v3 Key Usage: critical") + 1] == "Digital Signature"
    assert lines[lines.index("X509v3 Extended Key Usage:") + 1] == "TLS Web Server Authentication"
    assert "ASN1 OID: prime256v1" in lines


@pytest.mark.parametrize("name", SERVER_NAMES)
def test_a_handshake_that_verifies_strictly_succeeds_for_each_name(certificates: Certificates, name: str) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificates.server.cert, certificates.server.key)
    client = ssl.create_default_context(cafile=certificates.ca)
    client.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    shake_hands(client, server, name)
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        shake_hands(client, server, "other.example.org")


def shake_hands(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> None:
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(back, there, server_hostname=name),
        server.wrap_bio(there, back, server_side=True),
    ]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
    assert all(end.version() == "TLSv1.3" for end in ends)


# -- the fixture that all tests share -----------------------------------------------------------------------------


def test_the_tests_certificates_are_what_they_are_called(certificates: Certificates) -> None:
    now = datetime.now(UTC)
    known = {
        name: facts(read_certificates(Path(files.cert).read_bytes())[0])
        for name, files in {
            "server": certificates.server,
            "other": certificates.other,
            "expired": certificates.expired,
            "untrusted": certificates.untrusted,
            "client": certificates.client,
            "issued": certificates.issue("a.example", "::1", days=3),
        }.items()
    }
    assert [name for name, one in known.items() if not one.not_before < now < one.not_after] == ["expired"]
    assert known["other"].names == ("other.example.org",)
    assert known["issued"].names == ("a.example", "::1")
    assert known["expired"].not_after > now - timedelta(days=1, hours=1)
    assert {one.issuer for name, one in known.items() if name != "untrusted"} == {"CN=theater-tcp test CA"}


def test_the_tests_keys_are_nobody_elses(certificates: Certificates) -> None:
    folder = Path(certificates.ca).parent
    keys = list(folder.glob("*.key"))
    assert keys
    assert {path.stat().st_mode & 0o777 for path in keys} == {0o600}
    assert shutil.which("openssl") is None or verified(certificates.ca, certificates.other.cert) == "FILE: OK"
