"""Patterns for addresses, as permissions have them: text to value, and what they match.

::

    mail.example.org:25       a name                     *.example.org:25     one label in the place of '*'
    **.example.org:1-1023     one label or more          **:443               every name and every address
    192.0.2.1:25  [::1]:25    an address, literally      10.0.0.0/8:*  [fd00::/8]:*   a network
    unix:/run/lmtp.sock       a Unix socket's path       unix:/run/*.sock     '*' does not cross a '/'

A port is a number, a range or ``*``. A pattern for names matches the name that a caller gave, in the form that
:mod:`theater_tcp.address` brings it into before it is resolved: that of :mod:`theater_tcp.host_names`, without the
final dot. So what was matched is exactly what is asked for. A pattern for addresses matches no name, whatever that name
resolves to.

To listen, ``*`` as the host stands for all addresses of the machine, 0.0.0.0 and :: among them, which otherwise are
matched by their own text only; ``localhost`` is 127.0.0.1, and there are no other names.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NamedTuple

import msgspec

from theater_tcp.address import split
from theater_tcp.address_classes import IpAddress, canonical, is_unspecified
from theater_tcp.errors import InvalidArgument
from theater_tcp.host_names import DOTS, ascii_name

__all__ = ["HostPattern", "NamePattern", "NetworkPattern", "PathPattern", "Pattern", "Ports", "parse_pattern"]

_MAX_NAME = 253
"""Characters of a host name without its final dot, as in :mod:`theater_tcp.address`."""

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"\d+|0x[0-9a-f]*", re.ASCII)
_PORTS = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?", re.ASCII)
_MAPPED = IPv6Network("::ffff:0:0/96")


class Ports(NamedTuple):
    """The ports from the first to the last one."""

    first: int
    last: int


class NamePattern(msgspec.Struct, frozen=True):
    """Host names.

    Args:
        labels: each in lower case, or ``*`` for any one, or ``**`` for one or more.
        ports: at which ports.
    """

    labels: tuple[str, ...]
    ports: Ports

    def matches(self, labels: tuple[str, ...]) -> bool:
        """Whether it is a pattern for this name."""
        mine = self.labels
        if "**" not in mine:
            if len(mine) != len(labels):
                return False
            for part, label in zip(mine, labels, strict=True):  # noqa: SIM110 - all() takes twice as long
                if part not in ("*", label):
                    return False
            return True
        ends = {0}  # so many labels can the parts up to here have matched: a set, and no backtracking
        for part in mine:
            if part == "**":
                ends = set(range(min(ends) + 1, len(labels) + 1))
            else:
                ends = {end + 1 for end in ends if end < len(labels) and part in ("*", labels[end])}
            if not ends:
                return False
        return len(labels) in ends


class NetworkPattern(msgspec.Struct, frozen=True):
    """Addresses.

    Args:
        network: in which they are; an IPv4 one where it was written as IPv4-mapped.
        literal: whether it was written as one address, and not as a network of one.
        ports: at which ports.
    """

    network: IPv4Network | IPv6Network
    literal: bool
    ports: Ports

    def matches(self, address: IpAddress) -> bool:
        """Whether it is a pattern for this address; 0.0.0.0 and :: are in no network, since they stand for more."""
        return address in self.network and (self.literal or not is_unspecified(address))


class HostPattern(msgspec.Struct, frozen=True):
    """Every host: ``**``, or ``*`` where it is for listening."""

    ports: Ports


class PathPattern(msgspec.Struct, frozen=True):
    """Unix sockets.

    Args:
        path: what a path or an abstract name (which begins with NUL) has to match as a whole.
    """

    path: re.Pattern[str]

    def matches(self, path: str) -> bool:
        """Whether it is a pattern for this path. A path that goes back ('..') or in place ('.') matches none."""
        return (path.startswith("\0") or _is_straight(path)) and self.path.fullmatch(path) is not None


Pattern = NamePattern | NetworkPattern | HostPattern | PathPattern


def parse_pattern(text: str, *, listening: bool = False) -> Pattern:
    """The pattern that a text stands for.

    Args:
        text: see the head of this module.
        listening: whether it is for addresses to listen at.

    Raises:
        InvalidArgument: it is none; the detail names the text and the reason.
    """
    if text.startswith("unix:"):
        return _parse_path(text)
    host, ports_text, is_bracketed = split(text, ("port", "*"))
    if is_bracketed:
        return _parse_network(text, host, _parse_ports(text, ports_text, listening), bracketed=True)
    if not host:
        raise _wrong(text, "the host is missing")
    ports = _parse_ports(text, ports_text, listening)
    if host == ("*" if listening else "**"):
        return HostPattern(ports)
    if "/" in host or isinstance(canonical(host), IPv4Address):
        return _parse_network(text, host, ports, bracketed=False)
    if not listening:
        return NamePattern(_parse_labels(text, host), ports)
    if host.lower() != "localhost":
        raise _wrong(text, "to listen takes an IP address, a network, 'localhost' or '*', no other host")
    return NetworkPattern(IPv4Network("127.0.0.1"), True, ports)


def _parse_ports(text: str, ports: str, listening: bool) -> Ports:
    if ports == "*":
        return Ports(0 if listening else 1, 65535)
    match = _PORTS.fullmatch(ports)
    if match is None:
        raise _wrong(text, f"the port {_shown(ports)} is no number, no range as 1-1023 and not '*'")
    first = int(match[1])
    last = first if match[2] is None else int(match[2])
    if last > 65535 or first > 65535:
        raise _wrong(text, "the port is above 65535")
    if last < first:
        raise _wrong(text, f"the range {ports} ends before it begins")
    if first == 0 and not (listening and last == 0):
        raise _wrong(text, "port 0 stands for one that the system chooses, alone and to listen only")
    return Ports(first, last)


def _parse_network(text: str, host: str, ports: Ports, *, bracketed: bool) -> NetworkPattern:
    address, slash, length = host.partition("/")
    if "%" in address:
        raise _wrong(text, "a pattern has no scope: it is for the address on every interface")
    network: IPv4Network | IPv6Network
    try:
        base = IPv6Address(address) if bracketed else IPv4Address(address)
    except ValueError:
        raise _wrong(text, f"{_shown(address)} is no IPv{6 if bracketed else 4} address") from None
    if slash and not (length.isascii() and length.isdigit() and len(length) <= 3 and int(length) <= base.max_prefixlen):
        raise _wrong(text, f"the length of the network is a number up to {base.max_prefixlen}")
    bits = int(length) if slash else base.max_prefixlen
    network = IPv6Network((base, bits), False) if isinstance(base, IPv6Address) else IPv4Network((base, bits), False)
    if network.network_address != base:
        right = f"[{network}]" if bracketed else str(network)
        raise _wrong(text, f"the address has bits behind the network's length (write {right})")
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        network = IPv4Network((int(base) & 0xFFFFFFFF, bits - 96))
    return NetworkPattern(network, not slash, ports)


def _parse_labels(text: str, host: str) -> tuple[str, ...]:
    if len(host) > _MAX_NAME + 1:
        raise _wrong(text, f"the host name is longer than {_MAX_NAME} characters")
    parts = DOTS.split(host)
    if len(parts) > 1 and not parts[-1]:  # the final dot
        parts.pop()
    labels = tuple(part if part in ("*", "**") else _parse_label(text, part) for part in parts)
    numbers = [label for label in labels if _NUMBER.fullmatch(label)]
    if labels[-1] in numbers or (numbers and all(label in ("*", "**", *numbers) for label in labels)):
        raise _wrong(text, "addresses are written as 192.0.2.1 or, many of them, as 192.0.2.0/24")
    if sum(len(label) + 1 for label in labels) - 1 > _MAX_NAME:
        raise _wrong(text, f"the host name is longer than {_MAX_NAME} characters")
    return labels


def _parse_label(text: str, part: str) -> str:
    if not part:
        raise _wrong(text, "empty label")
    if "*" in part:
        raise _wrong(text, "'*' stands for a whole label, '**' for one or more")
    try:
        label = ascii_name(part)
    except InvalidArgument as error:
        raise _wrong(text, f"the label {_shown(part)} {error.detail}") from None
    if not _LABEL.fullmatch(label):
        raise _wrong(text, f"{_shown(part)} is no label of a host name")
    return label


def _parse_path(text: str) -> PathPattern:
    path = text.removeprefix("unix:")
    if "\0" in path:
        raise _wrong(text, "a path has no NUL")
    if "**" in path:
        raise _wrong(text, "'**' is for host names; in a path '*' stands for a part without '/'")
    if path.startswith("@"):
        if path == "@":
            raise _wrong(text, "the name is missing")
        path = "\0" + path[1:]
    elif not path.startswith("/"):
        raise _wrong(text, "the path must be absolute (write unix:/path)")
    elif not _is_straight(path):
        raise _wrong(text, "the path goes straight: without '.', '..' or an empty part")
    return PathPattern(re.compile("/".join(_component(part) for part in path.split("/"))))


def _component(part: str) -> str:
    """A regular expression for a part of a path between two '/'; atomic groups, so that it never goes back far."""
    first, *others = part.split("*")
    if not others:
        return re.escape(first)
    *middle, last = map(re.escape, others)
    return re.escape(first) + "".join(f"(?>[^/]*?{piece})" for piece in middle) + f"[^/]*{last}"


def _is_straight(path: str) -> bool:
    return not any(part in ("", ".", "..") for part in path.split("/")[1:])


def _wrong(text: str, reason: str) -> InvalidArgument:
    return InvalidArgument(f"{_shown(text)}: {reason}")


def _shown(text: str) -> str:
    shown = repr(text)
    return shown if len(shown) <= 160 else f"{shown[:157]}..."
