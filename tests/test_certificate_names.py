"""Names in certificates: whatever somebody wrote there, the text is one printable line, and never that of another."""

from __future__ import annotations

import ipaddress

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from tests.hostile_certificates import common_name
from theater_tcp.certificate_names import (
    MAX_COMMON_NAME,
    alternative_name,
    client_name,
    distinguished_name,
    server_name,
)
from theater_tcp.errors import InvalidArgument


def dns(value: str) -> x509.DNSName:
    return x509.DNSName(value)


def address(text: str) -> x509.IPAddress:
    return x509.IPAddress(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (dns("mx.example.org"), "mx.example.org"),
        (dns("*.example.org"), "*.example.org"),
        (address("192.0.2.7"), "192.0.2.7"),
        (address("::1"), "::1"),
        (x509.IPAddress(ipaddress.ip_network("192.0.2.0/24")), "192.0.2.0/24"),
        (x509.RFC822Name("me@example.org"), "email:me@example.org"),
        (x509.UniformResourceIdentifier("https://example.org/a"), "URI:https://example.org/a"),
        (x509.DirectoryName(common_name("a, b")), r"DirName:CN=a\, b"),
        (x509.RegisteredID(x509.ObjectIdentifier("1.2.3")), "RID:1.2.3"),
        (x509.OtherName(x509.ObjectIdentifier("1.2.3"), b"\x0c\x01a"), "other:1.2.3:0C0161"),
    ],
)
def test_host_names_and_addresses_stand_as_they_are_and_all_else_behind_its_kind(
    name: x509.GeneralName, text: str
) -> None:
    assert alternative_name(name) == text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (dns("good.example\0.evil.example"), r"good.example\00.evil.example"),
        (dns("a\r\nb"), r"a\0D\0Ab"),
        (dns("a, b"), r"a\2C\20b"),
        (dns('a"b'), r"a\22b"),
        (dns(r"a\00b"), r"a\5C00b"),
        (dns("(unreadable)"), "DNS:(unreadable)"),
        (dns("192.0.2.7"), "DNS:192.0.2.7"),
        (dns("::1"), "DNS:::1"),
        (dns("email:me@example.org"), "DNS:email:me@example.org"),
        (x509.UniformResourceIdentifier("https://a/, b"), r"URI:https://a/\2C\20b"),
        # As it comes out of a certificate: the constructor refuses it in newer Pythons.
        (x509.RFC822Name._init_without_validation("a@b\x1b[2J"), r"email:a@b\1B[2J"),
    ],
)
def test_a_name_that_could_be_taken_for_something_else_is_told_apart(name: x509.GeneralName, text: str) -> None:
    assert alternative_name(name) == text


ASCII = st.text(st.characters(max_codepoint=127), min_size=1, max_size=12)


@given(st.lists(ASCII, unique=True, min_size=2, max_size=2))
def test_two_host_names_have_two_texts_of_one_printable_word_each(pair: list[str]) -> None:
    texts = [alternative_name(dns(value)) for value in pair]
    assert texts[0] != texts[1]
    assert all(text.isprintable() and not set(text) & set(', "') for text in texts)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("Alice Smith", "CN=Alice Smith"),
        ("Jörg", "CN=Jörg"),
        ("a, O=b", r"CN=a\, O=b"),
        ("a\n2026 ERROR b", r"CN=a\0A2026 ERROR b"),
        ("\x1b[31mred", r"CN=\1B[31mred"),
        ("\u202eevil", r"CN=\E2\80\AEevil"),
        (r"a\0Ab", r"CN=a\\0Ab"),
        ("a\0b", r"CN=a\00b"),
    ],
)
def test_a_distinguished_name_is_one_printable_line(value: str, text: str) -> None:
    assert distinguished_name(common_name(value)) == text


def test_a_distinguished_name_begins_with_its_most_specific_part() -> None:
    parts = [(NameOID.COUNTRY_NAME, "SE"), (NameOID.ORGANIZATION_NAME, "Example"), (NameOID.COMMON_NAME, "mx")]
    name = x509.Name([x509.NameAttribute(oid, value) for oid, value in parts])
    assert distinguished_name(name) == "CN=mx,O=Example,C=SE"
    assert distinguished_name(x509.Name([])) == ""


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("localhost", dns("localhost")),
        ("MX.Example.org", dns("mx.example.org")),
        ("*.example.org", dns("*.example.org")),
        ("_25._tcp.example.org", dns("_25._tcp.example.org")),
        ("bücher.example", dns("xn--bcher-kva.example")),
        ("xn--bcher-kva.example", dns("xn--bcher-kva.example")),
        ("faß.example", dns("xn--fa-hia.example")),
        ("a" * 63 + ".example", dns("a" * 63 + ".example")),
        ("127.0.0.1", address("127.0.0.1")),
        ("::1", address("::1")),
        ("2001:DB8:0:0::1", address("2001:db8::1")),
    ],
)
def test_a_server_is_named_by_a_host_name_or_an_address(text: str, name: x509.GeneralName) -> None:
    assert server_name(text) == name
    assert client_name(text) == name


NO_HOST = [
    "",
    " ",
    "a b",
    "a..b",
    ".a",
    "a.",
    "-a",
    "a-",
    "*",
    "*.",
    "a.*.b",
    "a*.b",
    "x" * 64,
    "a\n",
    "a\0b",
    "ü" * 300,
]
NO_HOST += [".".join(["a" * 63] * 4), ".".join("ü" * 60)]
NO_HOST += [
    "1.2.3",
    "127.1",
    "256.0.0.1",
    "[::1]",
    "fe80::1%lo",
    "localhost:25",
    "https://a",
    "a.b" * 100,
    "me@a",
    "\ud800",
]


@pytest.mark.parametrize("text", NO_HOST, ids=range(len(NO_HOST)))
def test_anything_else_names_no_server(text: str) -> None:
    with pytest.raises(InvalidArgument, match="is neither a host name nor an address") as caught:
        server_name(text)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 250


def test_a_name_that_is_far_too_long_is_refused_before_it_is_encoded() -> None:
    """The codec's time grows with the square of the length: these would take minutes."""
    endless = "".join(map(chr, range(0x4E00, 0x9F00)))
    with pytest.raises(InvalidArgument):
        server_name(endless)


def test_a_client_may_have_an_e_mail_address_or_any_other_printable_name() -> None:
    assert client_name("me@example.org") == x509.RFC822Name("me@example.org")
    assert client_name("Alice Smith") is None
    assert client_name("(me)@") is None
    assert client_name("<@>") is None
    assert client_name("(me)@(example)") is None
    assert client_name("Jörg@example.org") is None
    assert client_name("x" * MAX_COMMON_NAME) is None


@pytest.mark.parametrize("text", ["", "a\nb", "\x1b", "x" * 65, "é é" * 13])
def test_what_does_not_fit_into_a_subject_names_no_client(text: str) -> None:
    with pytest.raises(InvalidArgument, match="is no name: 1 to 64 printable characters"):
        client_name(text)
