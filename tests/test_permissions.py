"""Permissions: what is let through and what is not, and in words why not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theater_tcp.address import HostPort, parse
from theater_tcp.errors import InvalidArgument
from theater_tcp.permissions import Permissions

LOCAL = Permissions(enabled=True)
GUARDED = [
    "169.254.169.254",
    "169.254.0.1",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "0.0.0.0",
    "[::]",
    "[fe80::1]",
    "[fe80::1%1]",
    "[fd00:ec2::254]",
    "[::ffff:169.254.169.254]",
    "[64:ff9b::a9fe:a9fe]",
    "[2002:a9fe:a9fe::1]",
    "[2001:0:a9fe:a9fe::1]",
]


def allowing(*patterns: str) -> Permissions:
    return Permissions(enabled=True, allowlist=patterns)


def may_connect(permissions: Permissions, address: str) -> bool:
    return not permissions.why_not_connect(parse(address))


def may_listen(permissions: Permissions, address: str) -> bool:
    return not permissions.why_not_listen(parse(address, listening=True))


# -- the setting --------------------------------------------------------------------------------------------------


def test_a_wrong_pattern_is_refused_when_permissions_are_made_with_its_place() -> None:
    with pytest.raises(InvalidArgument, match=r"^invalid: allowlist\[2\]: 'a\.\.b:25': empty label$"):
        allowing("a:1", "b:1", "a..b:25")
    with pytest.raises(InvalidArgument, match=r"^invalid: listen\[0\]: 'example\.org:1': to listen takes"):
        Permissions(listen=("example.org:1",))
    with pytest.raises(InvalidArgument, match=r"^invalid: allowlist\[0\]: 'a': the port is missing"):
        Permissions().replaced(allowlist=("a",))


def test_permissions_can_not_be_changed_in_place() -> None:
    patterns = ["a:1"]
    permissions = Permissions(enabled=True, allowlist=patterns)  # type: ignore[arg-type]  # a list becomes a tuple
    patterns.append("**:*")
    assert not may_connect(permissions, "b:1")


# -- nothing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["127.0.0.1:25", "[::1]:25", "10.0.0.1:25", "localhost:25", "unix:/run/s"])
@pytest.mark.parametrize("permissions", [Permissions(), Permissions(allowlist=("**:*", "unix:/*/*", "127.0.0.1:*"))])
def test_where_connecting_is_not_enabled_nothing_is_let_through(permissions: Permissions, address: str) -> None:
    assert permissions.why_not_connect(parse(address)) == "it may connect to nothing (permissions.enabled is false)"


@pytest.mark.parametrize("address", ["127.0.0.1:0", "*:25", "[::1]:25", "unix:/run/s", "unix:@s"])
@pytest.mark.parametrize("permissions", [Permissions(), LOCAL, allowing("**:*", "unix:/run/s")])
def test_what_may_be_connected_to_may_not_be_listened_at(permissions: Permissions, address: str) -> None:
    assert permissions.why_not_listen(parse(address, listening=True)) == "nothing in permissions.listen is for that"


# -- without an allowlist -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:1",
        "[::1]:65535",
        "10.1.2.3:25",
        "172.31.0.1:25",
        "192.168.1.1:25",
        "[fd00::1]:25",
        "[::ffff:10.0.0.1]:25",
    ],
)
def test_without_an_allowlist_loopback_and_private_addresses_are_let_through(address: str) -> None:
    assert may_connect(LOCAL, address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8:25", "[2001:db8::1]:25", "[::ffff:8.8.8.8]:25", "100.64.0.1:25", "[fec0::1]:1"]
)
def test_without_an_allowlist_public_addresses_are_not_let_through(address: str) -> None:
    assert LOCAL.why_not_connect(parse(address)) == (
        "without an allowlist only loopback and private addresses are let through"
    )


def test_without_an_allowlist_the_addresses_of_a_name_decide() -> None:
    assert may_connect(LOCAL, "anything.example.org:25")
    assert LOCAL.why_not_reach("10.0.0.1", 25) == ""
    assert "only loopback and private" in LOCAL.why_not_reach("8.8.8.8", 25)


@pytest.mark.parametrize("address", ["unix:/run/s", "unix:@s"])
def test_without_an_allowlist_no_unix_socket_is_let_through(address: str) -> None:
    assert LOCAL.why_not_connect(parse(address)) == "nothing in permissions.allowlist is for that"


# -- guarded addresses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", GUARDED)
@pytest.mark.parametrize(
    "permissions",
    [LOCAL, allowing("**:*"), allowing("0.0.0.0/0:*", "[::/0]:*", "169.254.169.254/32:*", "[fe80::1/128]:*")],
)
def test_no_pattern_and_no_network_leads_to_a_guarded_address(permissions: Permissions, host: str) -> None:
    assert not may_connect(permissions, f"{host}:80")


@pytest.mark.parametrize("host", GUARDED)
def test_a_guarded_address_is_let_through_by_itself_at_the_port_that_is_named(host: str) -> None:
    permissions = allowing(f"{host.replace('%1', '')}:80")
    assert may_connect(permissions, f"{host}:80")
    assert not may_connect(permissions, f"{host}:81")


@pytest.mark.parametrize("host", [host.strip("[]") for host in GUARDED])
@pytest.mark.parametrize("permissions", [LOCAL, allowing("metadata.internal:80"), allowing("**:*")])
def test_a_name_does_not_lead_to_a_guarded_address(permissions: Permissions, host: str) -> None:
    assert may_connect(permissions, "metadata.internal:80")
    why = permissions.why_not_reach(host, 80)
    assert why.startswith(f"{host} is ")
    assert why.endswith("which only its own address in the allowlist lets through")


def test_a_name_leads_to_a_guarded_address_if_both_are_named() -> None:
    permissions = allowing("metadata.internal:80", "169.254.169.254:80")
    assert permissions.why_not_reach("169.254.169.254", 80) == ""
    assert permissions.why_not_reach("::ffff:169.254.169.254", 80) == ""
    assert permissions.why_not_reach("169.254.169.253", 80)
    assert permissions.why_not_reach("169.254.169.254", 81)
    assert permissions.why_not_reach("64:ff9b::a9fe:a9fe", 80)


# -- with an allowlist --------------------------------------------------------------------------------------------


def test_with_an_allowlist_only_what_is_in_it_is_let_through() -> None:
    permissions = allowing("redis:6379", "*.internal:25", "10.0.0.0/8:1000-2000", "[2001:db8::1]:*")
    for address in ("redis:6379", "REDIS.:6379", "mx.internal:25", "10.9.9.9:1500", "[2001:db8::1]:7"):
        assert may_connect(permissions, address)
    for address in (
        "redis:6380",
        "redis.example.org:6379",
        "a.mx.internal:25",
        "10.9.9.9:999",
        "127.0.0.1:25",
        "[2001:db8::2]:7",
        "unix:/run/s",
    ):
        assert permissions.why_not_connect(parse(address)) == "nothing in permissions.allowlist is for that"


def test_a_name_that_is_let_through_may_be_anywhere() -> None:
    permissions = allowing("mail.example.org:25")
    for host in ("8.8.8.8", "10.0.0.1", "127.0.0.1", "2001:db8::1"):
        assert permissions.why_not_reach(host, 25) == ""


def test_names_and_addresses_are_apart() -> None:
    assert not may_connect(allowing("127.0.0.1:*", "0.0.0.0/0:*", "[::/0]:*"), "localhost:25")
    assert not may_connect(allowing("localhost:*", "*:*", "**.example.org:*", "*.*.*.*:*"), "127.0.0.1:25")
    assert may_connect(allowing("**:*"), "localhost:25")
    assert may_connect(allowing("**:*"), "8.8.8.8:25")
    assert may_connect(allowing("**:*"), "[2001:db8::1]:25")


def test_what_the_resolver_gives_that_is_no_address_is_not_reached() -> None:
    assert allowing("**:*").why_not_reach("example.org", 25) == "example.org is no address"


def test_a_unix_socket_is_let_through_by_its_path() -> None:
    permissions = allowing("unix:/run/lmtp.sock", "unix:/run/app/*.sock", "unix:@bus-*")
    for address in ("unix:/run/lmtp.sock", "unix:/run/app/a.sock", "unix:@bus-1"):
        assert may_connect(permissions, address)
    for address in (
        "unix:/run/lmtp",
        "unix:/run/app/b/a.sock",
        "unix:/run/app/../lmtp.sock",
        "unix:/run/../run/lmtp.sock",
        "unix:/run//lmtp.sock",
        "unix:@bus",
        "unix:@run/lmtp.sock",
    ):
        assert not may_connect(permissions, address)


@given(st.ip_addresses(), st.integers(1, 65535))
def test_an_address_as_text_and_as_the_answer_for_a_name_are_judged_alike(address: object, port: int) -> None:
    target = HostPort(str(address), port, 10 if ":" in str(address) else 2)
    for permissions in (LOCAL, allowing("**:*")):
        assert permissions.why_not_connect(target) == permissions.why_not_reach(str(address), port)


# -- to listen ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("127.0.0.1:*", ["127.0.0.1:0", "127.0.0.1:25", "localhost:25"], ["127.0.0.2:25", "[::1]:25", "*:25"]),
        ("127.0.0.1:0", ["127.0.0.1:0"], ["127.0.0.1:25"]),
        ("127.0.0.1:1-65535", ["127.0.0.1:25"], ["127.0.0.1:0"]),
        ("localhost:25", ["127.0.0.1:25", "LOCALHOST:25"], ["[::1]:25"]),
        ("[::1]:25", ["[::1]:25"], ["127.0.0.1:25", "[::]:25"]),
        ("10.0.0.0/8:25", ["10.1.1.1:25"], ["11.1.1.1:25", "0.0.0.0:25"]),
        ("0.0.0.0/0:25", ["127.0.0.1:25", "169.254.0.1:25"], ["0.0.0.0:25", "*:25", "[::]:25"]),
        ("[::/0]:25", ["[::1]:25"], ["[::]:25", "*:25", "127.0.0.1:25"]),
        ("0.0.0.0:25", ["0.0.0.0:25"], ["*:25", ":25", "127.0.0.1:25", "[::]:25"]),
        ("[::]:25", ["[::]:25"], ["*:25", ":25", "[::1]:25", "0.0.0.0:25"]),
        ("*:25", ["*:25", ":25", "0.0.0.0:25", "[::]:25", "127.0.0.1:25", "[fe80::1%1]:25"], ["*:26", "unix:/run/s"]),
        ("[fe80::/10]:25", ["[fe80::1%1]:25"], ["[fec0::1]:25"]),
        ("unix:/run/app/*.sock", ["unix:/run/app/a.sock"], ["unix:/run/app/../a.sock", "unix:@a", "*:25"]),
    ],
)
def test_a_pattern_to_listen_lets_through_what_it_says(pattern: str, yes: list[str], no: list[str]) -> None:
    permissions = Permissions(listen=(pattern,))
    assert [may_listen(permissions, address) for address in yes] == [True] * len(yes)
    assert [may_listen(permissions, address) for address in no] == [False] * len(no)
    assert not may_connect(permissions, "127.0.0.1:25")
