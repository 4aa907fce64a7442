"""Patterns for addresses: what each matches, against a slow model; and one line for each that is wrong."""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theater_tcp import address
from theater_tcp.address_patterns import (
    HostPattern,
    NamePattern,
    NetworkPattern,
    PathPattern,
    Ports,
    parse_pattern,
)
from theater_tcp.errors import InvalidArgument

LABELS = st.sampled_from(["a", "b", "cc", "xn--mnchen-3ya"])
PARTS = st.one_of(LABELS, st.sampled_from(["*", "**"]))


def labels_of(name: str) -> tuple[str, ...]:
    return tuple(name.split("."))


def matches(pattern: str, name: str) -> bool:
    parsed = parse_pattern(f"{pattern}:25")
    assert isinstance(parsed, NamePattern)
    return parsed.matches(labels_of(name))


def network(text: str, *, listening: bool = False) -> NetworkPattern:
    parsed = parse_pattern(text, listening=listening)
    assert isinstance(parsed, NetworkPattern)
    return parsed


def path_matches(pattern: str, path: str) -> bool:
    parsed = parse_pattern(f"unix:{pattern}")
    assert isinstance(parsed, PathPattern)
    return parsed.matches(path)


def wrong(text: str, *, listening: bool = False) -> str:
    """The reason for which a text is no pattern."""
    with pytest.raises(InvalidArgument) as caught:
        parse_pattern(text, listening=listening)
    line = caught.value.detail
    shown = repr(text) if len(repr(text)) <= 160 else f"{repr(text)[:157]}..."
    assert line.isprintable()
    assert line.startswith(f"{shown}: ")
    return line.removeprefix(f"{shown}: ")


# -- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("redis", "redis", True),
        ("redis", "redis.internal", False),
        ("redis", "rediss", False),
        ("*", "redis", True),
        ("*", "redis.internal", False),
        ("*.internal", "redis.internal", True),
        ("*.internal", "a.redis.internal", False),
        ("*.internal", "internal", False),
        ("*.internal", "redis.internal.example.org", False),
        ("**.internal", "redis.internal", True),
        ("**.internal", "a.b.c.redis.internal", True),
        ("**.internal", "internal", False),
        ("**.internal", "xinternal", False),
        ("mx.*.org", "mx.example.org", True),
        ("mx.*.org", "mx.a.b.org", False),
        ("mx.**.org", "mx.a.b.org", True),
        ("mx.**.org", "mx.org", False),
        ("redis.*", "redis.internal", True),
        ("**.*", "a.b", True),
        ("**.*", "a", False),
        ("a.**.a.**.a", "a.x.a.x.a", True),
        ("a.**.a.**.a", "a.x.a.a", False),
        ("a.**.a", "a.a.a", True),
        ("a.**.a", "a.a", False),
    ],
)
def test_one_star_is_one_label_and_two_are_one_or_more(pattern: str, name: str, fits: bool) -> None:
    assert matches(pattern, name) is fits


def model(pattern: tuple[str, ...], labels: tuple[str, ...]) -> bool:
    """What is obviously right, and takes as long as it likes."""
    if not pattern or not labels:
        return not pattern and not labels
    rest = pattern[1:]
    if pattern[0] == "**":
        return any(model(rest, labels[taken:]) for taken in range(1, len(labels) + 1))
    return pattern[0] in ("*", labels[0]) and model(rest, labels[1:])


@given(st.lists(PARTS, min_size=1, max_size=6), st.lists(LABELS, min_size=1, max_size=7))
def test_a_name_matches_as_the_model_says(pattern: list[str], labels: list[str]) -> None:
    assert NamePattern(tuple(pattern), Ports(1, 1)).matches(tuple(labels)) == model(tuple(pattern), tuple(labels))


def test_many_stars_take_no_longer_than_few() -> None:
    """To go back to earlier choices would take years here, and so longer than a test may."""
    pattern = NamePattern(("**", "a") * 60 + ("b",), Ports(1, 1))
    paths = parse_pattern("unix:/" + "a*" * 50 + "b")
    assert isinstance(paths, PathPattern)
    assert not pattern.matches(("a",) * 127)
    assert not paths.matches("/" + "a" * 106)


@pytest.mark.parametrize(
    ("pattern", "caller"),
    [
        ("MAIL.Example.ORG:25", "mail.example.org:25"),
        ("mail.example.org.:25", "mail.example.org:25"),
        ("mail.example.org:25", "MAIL.example.org.:25"),
        ("münchen.de:25", "xn--mnchen-3ya.de:25"),
        ("xn--mnchen-3ya.de:25", "MÜNCHEN.de:25"),
        ("münchen。de:25", "münchen.de:25"),
        ("*.bücher.example:25", "MX.xn--bcher-kva.example:25"),
        ("straße.de:25", "xn--strae-oqa.de:25"),
        ("xn--strae-oqa.de:25", "STRAẞE.de:25"),
        ("_dmarc.example.org:25", "_dmarc.example.org:25"),
    ],
)
def test_a_name_and_its_pattern_are_brought_into_one_form(pattern: str, caller: str) -> None:
    parsed, name = parse_pattern(pattern), address.parse(caller)
    assert isinstance(parsed, NamePattern)
    assert isinstance(name, address.HostPort)
    assert parsed.matches(labels_of(name.host.removesuffix(".")))


def test_a_name_with_a_letter_that_idna_2003_replaced_lets_no_other_name_through() -> None:
    parsed = parse_pattern("straße.de:25")
    assert isinstance(parsed, NamePattern)
    assert not parsed.matches(("strasse", "de"))


@given(st.text(st.characters(blacklist_characters="*:/[]@%"), min_size=1, max_size=30))
def test_a_name_is_a_pattern_of_itself_or_none_at_all(host: str) -> None:
    try:
        name = address.parse(f"{host}:25")
    except InvalidArgument:
        return
    assert isinstance(name, address.HostPort)
    if not name.is_name:
        return
    parsed = parse_pattern(f"{host}:25")
    assert isinstance(parsed, NamePattern)
    assert parsed.matches(labels_of(name.host.removesuffix(".")))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a..b:25", "empty label"),
        (".a:25", "empty label"),
        ("a..:25", "empty label"),
        (".:25", "empty label"),
        (":25", "the host is missing"),
        ("a", "the port is missing (write host:port or host:*)"),
        ("", "the port is missing (write host:port or host:*)"),
        ("a:", "the port is missing (write host:port or host:*)"),
        ("a:x", "the port 'x' is no number, no range as 1-1023 and not '*'"),
        ("a:1-", "the port '1-' is no number, no range as 1-1023 and not '*'"),
        ("a:-1", "the port '-1' is no number, no range as 1-1023 and not '*'"),
        ("a:1-2-3", "the port '1-2-3' is no number, no range as 1-1023 and not '*'"),
        ("a: 1", "the port ' 1' is no number, no range as 1-1023 and not '*'"),
        ("a:٣", "the port '٣' is no number, no range as 1-1023 and not '*'"),
        ("a:**", "the port '**' is no number, no range as 1-1023 and not '*'"),
        ("a:0", "port 0 stands for one that the system chooses, alone and to listen only"),
        ("a:0-10", "port 0 stands for one that the system chooses, alone and to listen only"),
        ("a:65536", "the port is above 65535"),
        ("a:1-65536", "the port is above 65535"),
        ("a:20-10", "the range 20-10 ends before it begins"),
        ("smtp-*.example.org:25", "'*' stands for a whole label, '**' for one or more"),
        ("***:25", "'*' stands for a whole label, '**' for one or more"),
        ("a b:25", "'a b' is no label of a host name"),
        ("-a.b:25", "'-a' is no label of a host name"),
        ("a%b:25", "'a%b' is no label of a host name"),
        ("\ud800:25", "the label '\\ud800' can't be encoded (IDNA 2008)"),
        ("10.0.*.*:25", "addresses are written as 192.0.2.1 or, many of them, as 192.0.2.0/24"),
        ("example.1:25", "addresses are written as 192.0.2.1 or, many of them, as 192.0.2.0/24"),
        ("*.1:25", "addresses are written as 192.0.2.1 or, many of them, as 192.0.2.0/24"),
        ("2130706433:25", "addresses are written as 192.0.2.1 or, many of them, as 192.0.2.0/24"),
        ("0x7f.1:25", "addresses are written as 192.0.2.1 or, many of them, as 192.0.2.0/24"),
        ("1.2.3:25", "addresses are written as 192.0.2.1 or, many of them, as 192.0.2.0/24"),
        ("010.0.0.1:25", "addresses are written as 192.0.2.1 or, many of them, as 192.0.2.0/24"),
        ("::1:25", "an IPv6 address stands in brackets (write [::1]:25)"),
        ("[::1:25", "the closing bracket is missing"),
        ("[::1]", "the port is missing (write [v6]:port or [v6]:*)"),
        ("[::1]:", "the port is missing (write [v6]:port or [v6]:*)"),
        ("[::1]25", "behind the closing bracket stands ':' and the port"),
        ("[]:25", "nothing stands in the brackets"),
        ("::1]:25", "the opening bracket is missing"),
        ("a]:25", "the opening bracket is missing"),
        ("[127.0.0.1]:25", "'127.0.0.1' is no IPv6 address"),
        ("[fe80::1%eth0]:25", "a pattern has no scope: it is for the address on every interface"),
        ("[x]:25", "'x' is no IPv6 address"),
        ("10.0.0/8:25", "'10.0.0' is no IPv4 address"),
        ("example.org/8:25", "'example.org' is no IPv4 address"),
        ("10.0.0.0/33:25", "the length of the network is a number up to 32"),
        ("10.0.0.0/:25", "the length of the network is a number up to 32"),
        ("10.0.0.0/255.0.0.0:25", "the length of the network is a number up to 32"),
        ("10.0.0.0/-1:25", "the length of the network is a number up to 32"),
        ("[fd00::/129]:25", "the length of the network is a number up to 128"),
        ("[fd00::]/8:25", "behind the closing bracket stands ':' and the port"),
        ("10.0.0.1/8:25", "the address has bits behind the network's length (write 10.0.0.0/8)"),
        ("[fd00::1/8]:25", "the address has bits behind the network's length (write [fd00::/8])"),
        ("unix:", "the path must be absolute (write unix:/path)"),
        ("unix:run/s", "the path must be absolute (write unix:/path)"),
        ("unix:@", "the name is missing"),
        ("unix:/run/../s", "the path goes straight: without '.', '..' or an empty part"),
        ("unix:/run//s", "the path goes straight: without '.', '..' or an empty part"),
        ("unix:/run/./s", "the path goes straight: without '.', '..' or an empty part"),
        ("unix:/run/", "the path goes straight: without '.', '..' or an empty part"),
        ("unix:/run/**", "'**' is for host names; in a path '*' stands for a part without '/'"),
        ("unix:/a\0b", "a path has no NUL"),
    ],
)
def test_a_wrong_pattern_is_refused_with_its_reason(text: str, reason: str) -> None:
    assert wrong(text) == reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("example.org:25", "to listen takes an IP address, a network, 'localhost' or '*', no other host"),
        ("**:25", "to listen takes an IP address, a network, 'localhost' or '*', no other host"),
        (":25", "the host is missing"),
        ("127.0.0.1:0-10", "port 0 stands for one that the system chooses, alone and to listen only"),
    ],
)
def test_a_wrong_pattern_to_listen_is_refused_with_its_reason(text: str, reason: str) -> None:
    assert wrong(text, listening=True) == reason


def test_a_name_that_is_too_long_is_refused() -> None:
    assert wrong(f"{'a' * 63}." * 4 + "b:25") == "the host name is longer than 253 characters"
    assert wrong(f"{'ü' * 40}." * 6 + "b:25") == "the host name is longer than 253 characters"
    assert wrong("x" * 100_000 + ":25") == "the host name is longer than 253 characters"
    assert isinstance(parse_pattern(f"{'a' * 63}." * 3 + f"{'a' * 61}:25"), NamePattern)


@given(st.text(max_size=40), st.booleans())
def test_any_text_is_a_pattern_or_is_refused_in_one_line(text: str, listening: bool) -> None:
    for candidate in (text, f"{text}:25", f"[{text}]:*", f"unix:/{text}", f"unix:@{text}"):
        try:
            parse_pattern(candidate, listening=listening)
        except InvalidArgument:
            assert wrong(candidate, listening=listening)


# -- ports --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "listening", "ports"),
    [
        ("25", False, (25, 25)),
        ("1-65535", False, (1, 65535)),
        ("7-7", False, (7, 7)),
        ("*", False, (1, 65535)),
        ("*", True, (0, 65535)),
        ("0", True, (0, 0)),
        ("1-65535", True, (1, 65535)),
    ],
)
def test_a_port_is_a_number_a_range_or_a_star(text: str, listening: bool, ports: tuple[int, int]) -> None:
    assert network(f"127.0.0.1:{text}", listening=listening).ports == ports


# -- addresses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("192.0.2.1:25", ["192.0.2.1"], ["192.0.2.2", "::c000:201"]),
        ("10.0.0.0/8:25", ["10.0.0.0", "10.255.255.255"], ["11.0.0.0", "9.255.255.255"]),
        ("0.0.0.0/0:25", ["1.1.1.1"], ["0.0.0.0", "::1"]),
        ("0.0.0.0:25", ["0.0.0.0"], ["127.0.0.1", "::"]),
        ("[::]:25", ["::"], ["::1", "0.0.0.0"]),
        ("[::/0]:25", ["::1", "2001:db8::1"], ["::", "127.0.0.1"]),
        ("[fd00::/8]:25", ["fd00::1"], ["fe00::1", "10.0.0.1"]),
        ("[::ffff:10.0.0.0/104]:25", ["10.1.2.3"], ["11.0.0.0"]),
        ("[::ffff:10.1.2.3]:25", ["10.1.2.3"], ["10.1.2.4"]),
        ("[2001:DB8:0::1]:25", ["2001:db8::1"], ["2001:db8::2"]),
    ],
)
def test_an_address_or_a_network_has_its_addresses(text: str, inside: list[str], outside: list[str]) -> None:
    pattern = network(text)
    assert [pattern.matches(ip_address(each)) for each in inside] == [True] * len(inside)
    assert [pattern.matches(ip_address(each)) for each in outside] == [False] * len(outside)


@given(st.ip_addresses(v=4), st.integers(0, 32), st.ip_addresses(v=4))
def test_a_network_has_the_addresses_that_begin_as_it_does(base: Any, length: int, other: Any) -> None:
    within = ip_network((int(base), length), strict=False)
    begins = f"{int(other):032b}"[:length] == f"{int(base):032b}"[:length]
    assert network(f"{within}:25").matches(other) == (begins and int(other) != 0)


def test_only_what_is_written_as_one_address_is_literal() -> None:
    assert [network(text).literal for text in ("192.0.2.1:1", "[::1]:1", "[::ffff:1.2.3.4]:1")] == [True] * 3
    assert [network(text).literal for text in ("192.0.2.1/32:1", "[::1/128]:1")] == [False] * 2


def test_two_stars_alone_are_every_host_and_to_listen_one_is() -> None:
    assert parse_pattern("**:443") == HostPattern(Ports(443, 443))
    assert parse_pattern("*:443", listening=True) == HostPattern(Ports(443, 443))
    assert parse_pattern("*:443") == NamePattern(("*",), Ports(443, 443))


def test_to_listen_localhost_is_one_address() -> None:
    assert network("LocalHost:25", listening=True) == network("127.0.0.1:25", listening=True)


# -- paths --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        ("/run/lmtp.sock", "/run/lmtp.sock", True),
        ("/run/lmtp.sock", "/run/lmtpXsock", False),
        ("/run/lmtp.sock", "/run/lmtp.sock\n", False),
        ("/run/*.sock", "/run/a.sock", True),
        ("/run/*.sock", "/run/.sock", True),
        ("/run/*.sock", "/run/a/b.sock", False),
        ("/run/*.sock", "/run/../a.sock", False),
        ("/run/*/s", "/run/../s", False),
        ("/run/*/s", "/run/./s", False),
        ("/run/*/s", "/run//s", False),
        ("/run/*/s", "/run/x/s", True),
        ("/*", "/run", True),
        ("/run/[ab]*", "/run/[ab]c", True),
        ("/run/[ab]*", "/run/a", False),
        ("/run/a*a", "/run/a", False),
        ("/run/a*a*a", "/run/aa", False),
        ("/run/a*b*c", "/run/aXbYbZc", True),
        ("/run/x*y", "/run/x\ny", True),
        ("@name", "\0name", True),
        ("@name", "/name", False),
        ("@na*", "\0name", True),
        ("@na*", "\0na/me", False),
        ("@a/..", "\0a/..", True),
    ],
)
def test_a_star_in_a_path_does_not_cross_a_slash_and_goes_nowhere_back(pattern: str, path: str, fits: bool) -> None:
    assert path_matches(pattern, path) is fits


@given(st.text("ab*/.", min_size=1, max_size=10), st.text("ab/.", min_size=1, max_size=10))
def test_a_path_matches_as_a_plain_regular_expression_says(pattern: str, path: str) -> None:
    try:
        fits = path_matches(f"/{pattern}", f"/{path}")
    except InvalidArgument:
        return
    straight = not {"", ".", ".."} & set(path.split("/"))
    assert fits == (straight and re.fullmatch(re.escape(pattern).replace(r"\*", "[^/]*"), path) is not None)
