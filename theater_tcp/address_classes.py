"""What sort of place an IP address is: local, or one that nobody should reach by accident.

A name can resolve to anything, and an IPv6 address can carry an IPv4 address in it that its packets end at. So an
address is judged by what the resolver gave and never by how a caller wrote it, and where IPv4 addresses are embedded
it is judged by those.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import NamedTuple

__all__ = ["IpAddress", "canonical", "guarded_class", "is_local", "is_unspecified"]

IpAddress = IPv4Address | IPv6Address


class _Block(NamedTuple):
    """A network as numbers, which are compared in a tenth of the time that :mod:`ipaddress` takes."""

    mask: int
    value: int
    name: str


def _blocks(version: int, names: dict[str, tuple[str, ...]]) -> tuple[_Block, ...]:
    networks = [(ip_network(text), name) for name, texts in names.items() for text in texts]
    return tuple(
        _Block(int(network.netmask), int(network.network_address), name)
        for network, name in networks
        if network.version == version
    )


_LOCAL = {
    "loopback": ("127.0.0.0/8", "::1/128"),
    "private": ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"),  # RFC 1918, RFC 4193
}
_GUARDED = {
    # RFC 1122, 3.2.1.3; to Linux a connection to either is one to itself.
    "the unspecified address": ("0.0.0.0/8", "::/128"),
    "a cloud's metadata address": (
        "169.254.169.254/32",  # nearly everybody's
        "169.254.170.0/24",  # AWS: credentials of containers
        "100.100.100.200/32",  # Alibaba
        "168.63.129.16/32",  # Azure
        "192.0.0.192/32",  # Oracle, the older one
        "fd00:ec2::/32",  # AWS
        "fd20:ce::254/128",  # Google
        "fd00:c1::a9fe:a9fe/128",  # Oracle
        "fd00:42::42/128",  # Scaleway
        "fd00:a9fe:a9fe::1/128",  # Akamai
        "fd00:100::100:200/128",  # Alibaba
    ),
    "link-local": ("169.254.0.0/16", "fe80::/10"),  # RFC 3927; RFC 4291, 2.5.6
}
_LOCAL_BLOCKS = {version: _blocks(version, _LOCAL) for version in (4, 6)}
_GUARDED_BLOCKS = {version: _blocks(version, _GUARDED) for version in (4, 6)}


def _last(number: int) -> tuple[int, ...]:
    return (number & 0xFFFFFFFF,)


def _translated(number: int) -> tuple[int, ...]:
    """Where RFC 6052, 2.2 puts the IPv4 address behind prefixes of 96, 48, 56 and 64 bits; bits 64 to 71 stay zero."""
    readings = (
        number & 0xFFFFFFFF,
        (number >> 64 & 0xFFFF) << 16 | number >> 40 & 0xFFFF,
        (number >> 64 & 0xFF) << 24 | number >> 32 & 0xFFFFFF,
        number >> 24 & 0xFFFFFFFF,
    )
    return tuple(reading for reading in readings if reading >> 24) or (0,)  # the wrong readings are mostly zeros


def _teredo(number: int) -> tuple[int, ...]:
    return (number >> 64 & 0xFFFFFFFF, ~number & 0xFFFFFFFF)  # the server's, and the client's with all bits turned


_EMBEDDINGS: tuple[tuple[_Block, Callable[[int], tuple[int, ...]]], ...] = tuple(
    (_blocks(6, {name: (network,)})[0], embedded)
    for network, name, embedded in (
        ("::/96", "IPv4-compatible: RFC 4291, 2.5.5.1", _last),
        ("::ffff:0:0:0/96", "IPv4-translated: RFC 2765, 2.1", _last),
        ("64:ff9b::/96", "NAT64: RFC 6052, 2.1", _last),
        ("64:ff9b:1::/48", "NAT64 of one's own: RFC 8215", _translated),
        ("2002::/16", "6to4: RFC 3056, 2", lambda number: (number >> 80 & 0xFFFFFFFF,)),
        ("2001::/32", "Teredo: RFC 4380, 4", _teredo),
    )
)


def canonical(host: str) -> IpAddress | None:
    """The address that a host's text is, as it is on the wire; None if the text is none.

    Args:
        host: in the form that a resolver or ``inet_pton`` takes or gives; a scope behind ``%`` is left out, and an
            IPv4-mapped address (RFC 4291, 2.5.5.2) is the IPv4 address.
    """
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def is_unspecified(address: IpAddress) -> bool:
    """Whether it is 0.0.0.0 or ::, which to listen stand for all addresses."""
    return int(address) == 0


def is_local(address: IpAddress) -> bool:
    """Whether it is a loopback or a private address; where it embeds others, whether those are."""
    embedded = _embedded(address)
    if not embedded:
        return bool(_block_of(_LOCAL_BLOCKS[address.version], int(address)))
    return all(_block_of(_LOCAL_BLOCKS[4], number) for number in embedded)


def guarded_class(address: IpAddress) -> str:
    """What it is, if it is an address that takes more than a pattern to reach; else "".

    Returns:
        words as ``link-local`` or ``a cloud's metadata address``, of itself or of an address that it embeds.
    """
    own = _block_of(_GUARDED_BLOCKS[address.version], int(address))
    return own or next(filter(None, (_block_of(_GUARDED_BLOCKS[4], n) for n in _embedded(address))), "")


def _embedded(address: IpAddress) -> tuple[int, ...]:
    number = int(address)
    if address.version == 4 or number <= 1:  # :: and ::1 would be IPv4-compatible
        return ()
    return next((find(number) for block, find in _EMBEDDINGS if number & block.mask == block.value), ())


def _block_of(blocks: tuple[_Block, ...], number: int) -> str:
    for mask, value, name in blocks:
        if number & mask == value:
            return name
    return ""
