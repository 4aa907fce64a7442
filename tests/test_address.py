"""Addresses: each form that is understood, each reason for a refusal, and the way back to text."""

from __future__ import annotations

import os
import socket
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from theater_tcp import address
from theater_tcp.address import HostPort, UnixPath, format_sockaddr, is_host, parse
from theater_tcp.errors import InvalidArgument

LONGEST_PATH = "/" + "p" * 106


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:25", HostPort("127.0.0.1", 25, socket.AF_INET)),
        ("192.0.2.1:65535", HostPort("192.0.2.1", 65535, socket.AF_INET)),
        ("[::1]:443", HostPort("::1", 443, socket.AF_INET6)),
        ("[2001:db8::1]:1", HostPort("2001:db8::1", 1, socket.AF_INET6)),
        ("[fe80::1%eth0]:25", HostPort("fe80::1%eth0", 25, socket.AF_INET6)),
        ("[fe80::1%2]:25", HostPort("fe80::1%2", 25, socket.AF_INET6)),
        ("[::ffff:192.0.2.1]:25", HostPort("::ffff:192.0.2.1", 25, socket.AF_INET6)),
        ("localhost:7000", HostPort("localhost", 7000, socket.AF_UNSPEC)),
        ("MX.Example.ORG:25", HostPort("mx.example.org", 25, socket.AF_UNSPEC)),
        ("example.org.:25", HostPort("example.org.", 25, socket.AF_UNSPEC)),
        ("my_service.3com.example:25", HostPort("my_service.3com.example", 25, socket.AF_UNSPEC)),
        ("bücher.example:25", HostPort("xn--bcher-kva.example", 25, socket.AF_UNSPEC)),
        ("faß.example:25", HostPort("xn--fa-hia.example", 25, socket.AF_UNSPEC)),
        ("_dmarc.bücher.example:25", HostPort("_dmarc.xn--bcher-kva.example", 25, socket.AF_UNSPEC)),
        ("a:00080", HostPort("a", 80, socket.AF_UNSPEC)),
        ("unix:/run/echo.sock", UnixPath("/run/echo.sock")),
        ("unix:/with space:25", UnixPath("/with space:25")),
        (f"unix:{LONGEST_PATH}", UnixPath(LONGEST_PATH)),
        ("unix:@name", UnixPath("\0name")),
        ("unix:@" + "n" * 107, UnixPath("\0" + "n" * 107)),
    ],
)
def test_each_form_is_understood(text: str, expected: address.Address) -> None:
    assert parse(text) == expected
    if not (isinstance(expected, HostPort) and expected.is_name):
        assert parse(text, listening=True) == expected


def test_the_only_name_to_listen_at_is_localhost() -> None:
    assert parse("LOCALHOST:25", listening=True) == HostPort("localhost", 25, socket.AF_UNSPEC)
    with pytest.raises(InvalidArgument, match=r"'mx.example.org:25': to listen takes an IP address, 'localhost' or"):
        parse("mx.example.org:25", listening=True)


@pytest.mark.parametrize("text", ["*:25", ":25", "*:0", ":0"])
def test_an_empty_host_or_a_star_listens_on_all_interfaces(text: str) -> None:
    parsed = parse(text, listening=True)
    assert isinstance(parsed, HostPort)
    assert (parsed.host, parsed.family, parsed.is_name) == ("", socket.AF_UNSPEC, False)


@pytest.mark.parametrize("text", ["127.0.0.1:0", "[::1]:0", "localhost:0"])
def test_port_0_is_for_listening_only(text: str) -> None:
    parsed = parse(text, listening=True)
    assert isinstance(parsed, HostPort)
    assert parsed.port == 0
    with pytest.raises(InvalidArgument, match="port 0 is for listening only"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the port is missing"),
        ("localhost", "the port is missing"),
        ("localhost:", "the port is missing"),
        ("[::1]", "the port is missing"),
        ("[::1]25", "behind the closing bracket stands ':' and the port"),
        ("[::1]]:25", "behind the closing bracket stands ':' and the port"),
        ("[::1]:", "the port is missing"),
        ("[::1:25", "the closing bracket is missing"),
        (":25", "the host is missing"),
        ("*:25", "'*' is for listening only"),
        ("::1:25", "an IPv6 address stands in brackets"),
        ("[127.0.0.1]:25", "no IPv6 address"),
        ("[]:25", "nothing stands in the brackets"),
        ("::1]", "the opening bracket is missing"),
        ("::1]:25", "the opening bracket is missing"),
        ("127.0.0.1]:25", "the opening bracket is missing"),
        ("[::g]:25", "no IPv6 address"),
        ("[fe80::1%]:25", "no name of a network interface"),
        ("[fe80::1%a b]:25", "no name of a network interface"),
        ("[fe80::1%longer-than-an-interface]:25", "no name of a network interface"),
        ("localhost:smtp", "the port 'smtp' is no number"),
        ("localhost:-1", "is no number"),
        ("localhost:+25", "is no number"),
        ("localhost: 25", "is no number"),
        ("localhost:2_5", "is no number"),
        ("localhost:٢٥", "is no number"),
        ("localhost:65536", "the port is above 65535"),
        ("localhost:000025", "the port is above 65535"),
        ("localhost:" + "9" * 5000, "the port is above 65535"),
        ("-a.example:25", "neither an IPv4 address nor a host name"),
        ("a-.example:25", "neither an IPv4 address nor a host name"),
        ("a..example:25", "neither an IPv4 address nor a host name"),
        (".:25", "neither an IPv4 address nor a host name"),
        (" localhost:25", "neither an IPv4 address nor a host name"),
        ("local host:25", "neither an IPv4 address nor a host name"),
        ("localhost\n:25", "neither an IPv4 address nor a host name"),
        ("localhost\0:25", "neither an IPv4 address nor a host name"),
        ("http://localhost:25", "an IPv6 address stands in brackets"),
        ("user@localhost:25", "neither an IPv4 address nor a host name"),
        ("a" * 64 + ".example:25", "neither an IPv4 address nor a host name"),
        ("a." * 128 + ":25", "longer than 253 characters"),
        ("a" * 100_000 + ":25", "longer than 253 characters"),
        ("ü" * 100_000 + ":25", "longer than 253 characters"),
        ("ü" * 250 + ":25", "can't be encoded"),
        ("\ud800:25", "can't be encoded"),
        ("unix:", "the path must be absolute"),
        ("unix:run/echo.sock", "the path must be absolute"),
        (f"unix:{LONGEST_PATH}p", "the path has 108 bytes, a Unix socket's at most 107"),
        ("unix:/" + "ü" * 54, "the path has 109 bytes"),
        ("unix:/a\0b", "a path has no NUL"),
        ("unix:/\ud800", "can't be encoded"),
        ("unix:@", "an abstract name has 1 to 107 bytes"),
        ("unix:@" + "n" * 108, "an abstract name has 1 to 107 bytes"),
    ],
)
def test_a_wrong_address_is_refused_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=reason) as caught:
        parse(text)
    assert str(caught.value).startswith("invalid: '")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("text", ["127.1:25", "1:25", "0x7f000001:25", "0X7F.0.0.0x1:25", "1.2.3.256:25", "a.0x:25"])
def test_what_the_c_library_would_take_for_an_ipv4_address_is_no_host_name(text: str) -> None:
    with pytest.raises(InvalidArgument, match="a host that ends in a number must be an IPv4 address"):
        parse(text)


@pytest.mark.parametrize("value", [None, 25, b"127.0.0.1:25", ("127.0.0.1", 25)])
def test_what_is_no_text_is_no_address(value: object) -> None:
    with pytest.raises(InvalidArgument, match="an address is a text"):
        parse(value)  # type: ignore[arg-type]


def test_abstract_names_are_refused_where_the_system_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(InvalidArgument, match="on Linux only"):
        parse("unix:@name")


@given(st.text(max_size=40))
@example("[")
@example("[%]:1")
def test_any_text_is_understood_or_refused_in_one_line(text: str) -> None:
    outcome: object
    try:
        outcome = parse(text, listening=True)
    except InvalidArgument as error:
        outcome = error
    assert str(outcome).isprintable()
    assert not isinstance(outcome, HostPort) or 0 <= outcome.port <= 65535


@pytest.mark.parametrize(
    "text",
    ["127.0.0.1:25", "[::1]:443", "[fe80::1%eth0]:25", "localhost:25", "*:25", "unix:/run/a.sock", "unix:@a"],
)
def test_an_address_as_text_is_the_text_it_came_from(text: str) -> None:
    assert str(parse(text, listening=True)) == text


def test_an_address_is_a_value() -> None:
    assert hash(parse("a:1")) == hash(parse("A:1"))
    with pytest.raises(AttributeError):
        parse("a:1").port = 2  # type: ignore[misc, union-attr]
    assert not hasattr(parse("a:1"), "__dict__")


def test_a_literal_address_gives_what_bind_takes() -> None:
    assert parse("127.0.0.1:25").sockaddr() == ("127.0.0.1", 25)
    assert parse("[::1]:25").sockaddr() == ("::1", 25, 0, 0)
    assert parse("unix:@name").sockaddr() == "\0name"


def test_a_scope_is_an_interface_or_its_number() -> None:
    lo = socket.if_nametoindex("lo")
    assert parse("[fe80::1%lo]:25").sockaddr() == ("fe80::1", 25, 0, lo)
    assert parse("[fe80::1%7]:25").sockaddr() == ("fe80::1", 25, 0, 7)
    with pytest.raises(InvalidArgument, match="there is no network interface 'nowhere0'"):
        parse("[fe80::1%nowhere0]:25").sockaddr()


@pytest.mark.parametrize("text", ["localhost:25", "*:25"])
def test_a_name_has_no_socket_address_of_its_own(text: str) -> None:
    with pytest.raises(InvalidArgument, match="before it is resolved"):
        parse(text, listening=True).sockaddr()


def test_only_a_name_has_to_be_resolved() -> None:
    names = {text: parse(text, listening=True) for text in ("localhost:1", "127.0.0.1:1", "[::1]:1", "*:1")}
    assert [text for text, parsed in names.items() if isinstance(parsed, HostPort) and parsed.is_name] == [
        "localhost:1"
    ]


def test_only_an_abstract_name_has_no_file() -> None:
    abstract, file = parse("unix:@name"), parse("unix:/name")
    assert isinstance(abstract, UnixPath)
    assert isinstance(file, UnixPath)
    assert (abstract.is_abstract, file.is_abstract) == (True, False)


@pytest.mark.parametrize(
    ("family", "sockaddr", "text"),
    [
        (socket.AF_INET, ("127.0.0.1", 25), "127.0.0.1:25"),
        (socket.AF_INET6, ("::1", 443, 0, 0), "[::1]:443"),
        (socket.AF_INET6, ("::1", 443), "[::1]:443"),
        (socket.AF_INET6, ("::ffff:192.0.2.1", 25, 0, 0), "192.0.2.1:25"),
        (socket.AF_INET6, ("::ffff:1:2", 25, 0, 0), "[::ffff:1:2]:25"),
        (socket.AF_INET6, ("fe80::1", 25, 0, socket.if_nametoindex("lo")), "[fe80::1%lo]:25"),
        (socket.AF_INET6, ("fe80::1%lo", 25, 0, socket.if_nametoindex("lo")), "[fe80::1%lo]:25"),
        (socket.AF_INET6, ("fe80::1", 25, 0, 999_999), "[fe80::1%999999]:25"),
        (socket.AF_UNIX, "/run/a.sock", "unix:/run/a.sock"),
        (socket.AF_UNIX, "", "unix:"),
        (socket.AF_UNIX, b"", "unix:"),
        (socket.AF_UNIX, b"\0name", "unix:@name"),
        (socket.AF_UNIX, "/bücher", "unix:/bücher"),
    ],
)
def test_a_socket_address_becomes_text(family: int, sockaddr: object, text: str) -> None:
    assert format_sockaddr(family, sockaddr) == text


@pytest.mark.parametrize("name", ["/a\nb", "/a\x1b[31m", "/\udcff", b"\0a\r\nb", b"\0\xff"])
def test_a_peer_that_names_its_socket_maliciously_writes_no_line_of_its_own(name: str | bytes) -> None:
    assert format_sockaddr(socket.AF_UNIX, name).isprintable()


@pytest.mark.parametrize(
    "listen", ["127.0.0.1:0", "[::1]:0", f"unix:@theater-tcp-test-{os.getpid()}"], ids=["v4", "v6", "unix"]
)
def test_the_kernel_takes_a_parsed_address_and_gives_back_one_that_parses(listen: str) -> None:
    parsed = parse(listen, listening=True)
    family = parsed.family if isinstance(parsed, HostPort) else socket.AF_UNIX
    with socket.socket(family) as sock:
        sock.bind(parsed.sockaddr())
        text = format_sockaddr(family, sock.getsockname())
    again = parse(text)
    assert type(again) is type(parsed)
    assert isinstance(again, UnixPath) or again.port > 0


@pytest.mark.parametrize("host", ["localhost", "mx.example.org.", "192.0.2.1", "::1", "[::1]", "x" * 63])
def test_what_may_stand_before_a_port_is_a_host(host: str) -> None:
    assert is_host(host)


@pytest.mark.parametrize("host", ["", "*", "[a]", "[::1", "a b", "127.1", "a:1", "unix:/a", "x" * 64, "a\0", "\udc80"])
def test_what_may_not_is_no_host(host: str) -> None:
    assert not is_host(host)
