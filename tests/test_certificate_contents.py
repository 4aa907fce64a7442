"""What a file holds: PEM or DER, certificates or keys, a chain or not; and one line for what is neither."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID
from hypothesis import given
from hypothesis import strategies as st

from tests.hostile_certificates import common_name, make, raw, reloaded
from theater_tcp.certificate_contents import days_left, purposes, read_contents, validity
from theater_tcp.certificate_keys import public_key_of
from theater_tcp.certificates import facts
from theater_tcp.errors import InvalidArgument

NOW = datetime(2026, 5, 4, 12, 30, 15, tzinfo=UTC)
KEY, OTHER_KEY = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
CA = make("ca", ca=True, key=KEY)
END = make("end", key=OTHER_KEY, issuer="ca", signer=KEY)
CA_PEM, END_PEM = (certificate.public_bytes(Encoding.PEM) for certificate in (CA, END))
KEY_PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
REQUEST = x509.CertificateSigningRequestBuilder().subject_name(common_name("a")).sign(KEY, hashes.SHA256())
REQUEST_PEM = REQUEST.public_bytes(Encoding.PEM)


# -- what is in it ------------------------------------------------------------------------------------------------


def test_a_file_in_pem_may_hold_several_things_with_text_around_them() -> None:
    data = b"subject=end\n" + END_PEM + b"\nand\n" + CA_PEM + KEY_PEM + REQUEST_PEM + b"the end"
    contents = read_contents(data)
    assert contents.certificates == (END, CA)
    assert [key.public for key in contents.keys] == [public_key_of(KEY)]
    assert contents.others == ("CERTIFICATE REQUEST",)


def test_the_lines_may_end_as_on_windows() -> None:
    assert read_contents((END_PEM + KEY_PEM).replace(b"\n", b"\r\n")).certificates == (END,)


def test_the_parameters_that_openssl_puts_before_a_key_are_no_news() -> None:
    parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    contents = read_contents(parameters + KEY_PEM)
    assert len(contents.keys) == 1
    assert contents.others == ()


def test_a_file_in_der_holds_one_certificate_or_one_key() -> None:
    assert read_contents(END.public_bytes(Encoding.DER)).certificates == (END,)
    (key,) = read_contents(KEY.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())).keys
    assert (key.kind, key.encrypted) == ("ECDSA P-256", False)


@pytest.mark.parametrize(
    ("encoding", "form"),
    [
        (Encoding.PEM, PrivateFormat.PKCS8),
        (Encoding.DER, PrivateFormat.PKCS8),
        (Encoding.PEM, PrivateFormat.TraditionalOpenSSL),
    ],
)
def test_of_an_encrypted_key_that_alone_is_known(encoding: Encoding, form: PrivateFormat) -> None:
    (key,) = read_contents(KEY.private_bytes(encoding, form, BestAvailableEncryption(b"secret"))).keys
    assert (key.kind, key.encrypted, key.public) == (None, True, None)
    assert not key.fits(CA)


def test_an_encrypted_key_does_not_fit_a_certificate_of_which_nothing_is_known_either() -> None:
    (key,) = read_contents(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"a"))).keys
    assert not key.fits(reloaded(CA, b"\x2a\x86\x48\xce\x3d\x02\x01", b"\x2a\x86\x48\xce\x3d\x02\x7f"))


def test_a_key_fits_its_own_certificate() -> None:
    (key,) = read_contents(KEY_PEM).keys
    assert (key.kind, key.encrypted) == ("ECDSA P-256", False)
    assert key.fits(CA)
    assert not key.fits(END)


def test_a_key_is_not_shown_where_it_is_printed() -> None:
    (key,) = read_contents(KEY_PEM).keys
    number = KEY.private_numbers().private_value.to_bytes(32, "big")
    assert repr(number)[2:-1] not in repr(key)


# -- what is not --------------------------------------------------------------------------------------------------


def damaged(pem: bytes) -> bytes:
    first, begin, rest = pem.partition(b"-----\n")
    return first + begin + b"AAAA" + rest[4:]


UNKNOWN_KEY = base64.encodebytes(
    bytes.fromhex("302e020100300506032b6500042204200101010101010101010101010101010101010101010101010101010101010101")
)

NEITHER = "neither a certificate nor a private key"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b"hello", f"{NEITHER}, in PEM or in DER"),
        (b"0\x82\x01\x00", f"{NEITHER}, in PEM or in DER"),
        (b"-----BEGIN \x1b[31m-----", f"{NEITHER}, in PEM or in DER"),
        (REQUEST_PEM, f"{NEITHER}, only CERTIFICATE REQUEST"),
        (
            b"-----BEGIN DH PARAMETERS-----\n-----END DH PARAMETERS-----",
            f"{NEITHER}, only parameters",
        ),
        (END_PEM[:-10], "the end of CERTIFICATE is missing"),
        (KEY_PEM.replace(b"-----END PRIVATE", b"-----END"), "the end of PRIVATE KEY is missing"),
        (damaged(END_PEM), "certificate 1 is damaged, or of a kind that is not supported"),
        (END_PEM + damaged(CA_PEM), "certificate 2 is damaged, or of a kind that is not supported"),
        (END_PEM + damaged(KEY_PEM), "private key 1 is damaged, or of a kind that is not supported"),
        (
            b"-----BEGIN PRIVATE KEY-----\n" + UNKNOWN_KEY + b"-----END PRIVATE KEY-----\n",
            "private key 1 is damaged, or of a kind that is not supported",
        ),
    ],
)
def test_what_is_neither_certificate_nor_key_is_one_clear_reason(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read_contents(data)
    assert caught.value.detail == reason


PIECES = st.sampled_from([END_PEM, CA_PEM, KEY_PEM, REQUEST_PEM, b"-----BEGIN ", b"-----END CERTIFICATE-----", b"\0"])


@pytest.mark.filterwarnings("ignore")
@given(st.lists(PIECES | st.binary(max_size=8), max_size=6), st.integers(0, 2000), st.binary(min_size=1, max_size=3))
def test_any_bytes_are_read_or_refused_with_the_documented_error(pieces: list[bytes], at: int, patch: bytes) -> None:
    data = bytearray(b"".join(pieces))
    data[at : at + len(patch)] = patch
    try:
        contents = read_contents(bytes(data))
    except InvalidArgument as error:
        text = error.detail
    else:
        text = "".join(contents.others)
    assert text.isprintable()


# -- chains -------------------------------------------------------------------------------------------------------


def test_a_chain_in_order_has_no_problem() -> None:
    contents = read_contents(END_PEM + CA_PEM)
    assert contents.is_chain
    assert contents.chain_problem is None


def test_a_chain_that_is_not_in_order_has_one() -> None:
    other = make("other", ca=True).public_bytes(Encoding.PEM)
    contents = read_contents(END_PEM + other + CA_PEM)
    assert contents.is_chain
    assert contents.chain_problem == "certificate 1 (CN=end) is not signed by certificate 2 (CN=other)"


def test_authorities_to_trust_are_no_chain() -> None:
    other = make("other", ca=True).public_bytes(Encoding.PEM)
    contents = read_contents(CA_PEM + other)
    assert not contents.is_chain
    assert contents.chain_problem is None


@pytest.mark.parametrize("data", [END_PEM, KEY_PEM])
def test_less_than_two_certificates_are_no_chain(data: bytes) -> None:
    assert not read_contents(data).is_chain


def test_a_self_signed_certificate_that_is_no_ca_begins_a_chain_that_is_wrong() -> None:
    contents = read_contents(make("alone").public_bytes(Encoding.PEM) + CA_PEM)
    assert contents.chain_problem == "certificate 1 (CN=alone) is not signed by certificate 2 (CN=ca)"


# -- what for, and until when -------------------------------------------------------------------------------------


def test_what_a_certificate_is_for_is_told_in_words() -> None:
    usage = x509.ExtendedKeyUsage(
        [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH, x509.ObjectIdentifier("1.2.3")]
    )
    assert purposes(make(extensions=[usage])) == ("TLS servers", "TLS clients", "1.2.3")
    assert purposes(make()) is None


def test_what_a_certificate_is_for_may_be_unreadable() -> None:
    with pytest.raises(InvalidArgument, match="the extensions can't be read"):
        purposes(make(extensions=[raw(ExtensionOID.EXTENDED_KEY_USAGE, b"garbage")]))


@pytest.mark.parametrize(
    ("at", "text", "days"),
    [
        (timedelta(days=-4), "not valid yet, in 3 days", 5),
        (timedelta(hours=-2), "not valid yet, in 60 minutes", 1),
        (timedelta(hours=-1), "25 hours left", 1),
        (timedelta(0), "24 hours left", 1),
        (timedelta(seconds=1), "23 hours left", 0),
        (timedelta(hours=22, seconds=1), "119 minutes left", 0),
        (timedelta(hours=23, minutes=59), "1 minute left", 0),
        (timedelta(days=1), "less than a minute left", 0),
        (timedelta(days=1, seconds=1), "expired less than a minute ago", -1),
        (timedelta(days=1, hours=3), "expired 3 hours ago", -1),
        (timedelta(days=3), "expired 2 days ago", -2),
        (timedelta(days=101), "expired 100 days ago", -100),
    ],
)
def test_the_time_that_is_left_is_told_in_words_and_in_whole_days(at: timedelta, text: str, days: int) -> None:
    known = facts(make(now=NOW))  # from an hour before to a day after
    assert validity(known, NOW + at) == text
    assert days_left(known, NOW + at) == days
