"""Classes of addresses: which are local, which are guarded, and what an IPv6 address has inside of it."""

from __future__ import annotations

import ipaddress
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theater_tcp.address_classes import canonical, guarded_class, is_local, is_unspecified

V4 = st.ip_addresses(v=4)
V6 = st.ip_addresses(v=6)

LOCAL = [ipaddress.ip_network(n) for n in ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")]
LOCAL_V6 = [ipaddress.ip_network(n) for n in ("::1/128", "fc00::/7")]
GUARDED = [
    ipaddress.ip_network(n)
    for n in ("0.0.0.0/8", "169.254.0.0/16", "100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32")
]
METADATA = [
    "169.254.169.254",
    "169.254.170.2",
    "169.254.170.23",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "fd00:ec2::254",
    "fd00:ec2::23",
    "fd20:ce::254",
    "fd00:c1::a9fe:a9fe",
    "fd00:42::42",
    "fd00:a9fe:a9fe::1",
    "fd00:100::100:200",
]


def of(text: str) -> IPv4Address | IPv6Address:
    address = canonical(text)
    assert address is not None
    return address


def carriers(inner: IPv4Address) -> dict[str, str]:
    """IPv6 addresses that end at an IPv4 address, each written from the RFC's picture of it."""
    number = int(inner)
    high, low = number >> 16, number & 0xFFFF
    a, b, c, d = inner.packed
    turned = number ^ 0xFFFFFFFF
    return {
        "mapped": f"::ffff:{inner}",
        "mapped, in hexadecimal": f"::ffff:{high:x}:{low:x}",
        "compatible": f"::{high:x}:{low:x}",
        "translated": f"::ffff:0:{high:x}:{low:x}",
        "NAT64": f"64:ff9b::{high:x}:{low:x}",
        "NAT64 of one's own, /96": f"64:ff9b:1::{high:x}:{low:x}",
        "NAT64 of one's own, /64": f"64:ff9b:1:0:{a:02x}:{b:02x}{c:02x}:{d:02x}00:0",
        "NAT64 of one's own, /56": f"64:ff9b:1:{a:02x}:{b:02x}:{c:02x}{d:02x}:0:0",
        "NAT64 of one's own, /48": f"64:ff9b:1:{a:02x}{b:02x}:{c:02x}:{d:02x}00:0:0",
        "6to4": f"2002:{high:x}:{low:x}::1",
        "Teredo, the client": f"2001:0:c000:201:0:0:{turned >> 16:x}:{turned & 0xFFFF:x}",
        "Teredo, the server": f"2001:0:{high:x}:{low:x}:0:0:3fff:fdfe",
    }


@given(V4)
def test_an_ipv4_address_is_local_if_it_is_loopback_or_private(address: IPv4Address) -> None:
    assert is_local(address) == any(address in network for network in LOCAL)


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("127.0.0.1", True),
        ("127.255.255.255", True),
        ("10.0.0.0", True),
        ("10.255.255.255", True),
        ("11.0.0.0", False),
        ("172.15.255.255", False),
        ("172.16.0.0", True),
        ("172.31.255.255", True),
        ("172.32.0.0", False),
        ("192.168.255.255", True),
        ("192.169.0.0", False),
        ("100.64.0.1", False),
        ("169.254.1.1", False),
        ("0.0.0.0", False),
        ("::", False),
        ("::1", True),
        ("::2", False),
        ("fbff:ffff::1", False),
        ("fc00::", True),
        ("fdff:ffff::1", True),
        ("fe00::1", False),
        ("fe80::1", False),
        ("fec0::1", False),
        ("2001:db8::1", False),
    ],
)
def test_the_borders_of_what_is_local(text: str, local: bool) -> None:
    assert is_local(of(text)) is local


@given(V6.filter(lambda a: not a.exploded.startswith(("0000", "0064", "2001", "2002"))))
def test_an_ipv6_address_without_another_inside_is_local_if_it_is_loopback_or_private(address: IPv6Address) -> None:
    assert is_local(address) == any(address in network for network in LOCAL_V6)


@given(V4)
def test_an_ipv4_address_is_guarded_if_it_is_link_local_or_unspecified_or_a_clouds(address: IPv4Address) -> None:
    assert bool(guarded_class(address)) == any(address in network for network in GUARDED)


@pytest.mark.parametrize("text", METADATA)
def test_the_metadata_addresses_of_clouds_are_guarded(text: str) -> None:
    assert guarded_class(of(text)) == "a cloud's metadata address"


@pytest.mark.parametrize("text", ["169.254.0.1", "169.254.255.255", "fe80::1", "febf:ffff::1", "fe80::a9fe:a9fe%eth0"])
def test_link_local_addresses_are_guarded(text: str) -> None:
    assert guarded_class(of(text)) == "link-local"


@pytest.mark.parametrize("text", ["0.0.0.0", "0.1.2.3", "::", "::ffff:0.0.0.0"])
def test_the_unspecified_addresses_are_guarded(text: str) -> None:
    assert guarded_class(of(text)) == "the unspecified address"


@pytest.mark.parametrize("text", ["127.0.0.1", "10.0.0.1", "8.8.8.8", "::1", "fec0::1", "fd00::1", "2001:4860::1"])
def test_other_addresses_are_not_guarded(text: str) -> None:
    assert guarded_class(of(text)) == ""


@pytest.mark.parametrize("form", list(carriers(IPv4Address(0))))
@pytest.mark.parametrize("inner", ["169.254.169.254", "100.100.100.200", "169.254.7.7"])
def test_an_address_that_carries_a_guarded_one_is_guarded(form: str, inner: str) -> None:
    assert guarded_class(of(carriers(IPv4Address(inner))[form]))


@pytest.mark.parametrize(
    "form", [form for form in carriers(IPv4Address(0)) if "Teredo" not in form and "own" not in form]
)
@given(inner=V4)
def test_an_address_that_carries_another_is_as_local_as_that(form: str, inner: IPv4Address) -> None:
    if int(inner) > 1:  # ::0.0.0.1 is ::1
        assert is_local(of(carriers(inner)[form])) == is_local(inner)


@pytest.mark.parametrize("inner", ["127.0.0.1", "10.1.2.3", "192.168.0.1"])
def test_an_address_that_carries_two_is_local_if_both_are(inner: str) -> None:
    number = int(IPv4Address(inner))
    turned = number ^ 0xFFFFFFFF
    client = f"{turned >> 16:x}:{turned & 0xFFFF:x}"
    assert not is_local(of(f"2001:0:808:808:0:0:{client}"))
    assert is_local(of(f"2001:0:a00:1:0:0:{client}"))


def test_a_nat64_prefix_of_ones_own_is_as_local_as_what_is_behind_it() -> None:
    for form, text in carriers(IPv4Address("10.1.2.3")).items():
        if "/96" in form:
            assert is_local(of(text))
    assert not is_local(of("64:ff9b:1::808:808"))


@pytest.mark.parametrize(
    "text", ["", "example.org", "1.2.3", "0x7f000001", "2130706433", "010.0.0.1", "1.2.3.4.5", ":::"]
)
def test_what_is_no_address_is_none(text: str) -> None:
    assert canonical(text) is None


@given(st.text(max_size=30))
def test_any_text_is_an_address_or_none(text: str) -> None:
    address = canonical(text)
    if address is not None:
        assert isinstance(guarded_class(address), str)
        assert isinstance(is_local(address), bool)


def test_a_scope_and_the_mapping_of_an_ipv4_address_are_left_out() -> None:
    assert str(canonical("fe80::1%eth0")) == "fe80::1"
    assert str(canonical("::ffff:192.0.2.1%1")) == "192.0.2.1"
    assert [is_unspecified(of(text)) for text in ("0.0.0.0", "::", "::ffff:0.0.0.0", "::1")] == [
        True,
        True,
        True,
        False,
    ]
