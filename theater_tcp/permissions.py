"""Permissions: where an actor may connect to, and where it may listen. Nowhere, as long as nothing says otherwise.

A host is judged twice. Before anything is asked of the network, a name by the patterns and an address by all that
follows; and what a name resolved to once more, address by address, between the resolver and the first packet. Nothing
here has a socket or a log: the reasons are words, and :mod:`theater_tcp.opening` acts on them.
"""

from __future__ import annotations

import functools
from ipaddress import IPv4Address
from typing import Annotated

from msgspec import Meta

from theater_tcp.address import Address, UnixPath
from theater_tcp.address_classes import IpAddress, canonical, guarded_class, is_local
from theater_tcp.address_patterns import (
    HostPattern,
    NamePattern,
    NetworkPattern,
    PathPattern,
    Pattern,
    Ports,
    parse_pattern,
)
from theater_tcp.errors import InvalidArgument
from theater_tcp.fields import Checked, Flag

__all__ = ["NO_PERMISSIONS", "Permissions"]

Patterns = Annotated[tuple[str, ...], Meta(description="a list of address patterns")]

_NOT_LISTED = "nothing in permissions.allowlist is for that"
_NOT_LOCAL = "without an allowlist only loopback and private addresses are let through"


class Permissions(Checked, frozen=True, kw_only=True):
    """Where an actor may connect to, and where it may listen. See ``docs/permissions.md`` for the patterns.

    Args:
        enabled: it may connect: to what ``allowlist`` has, or where that is empty to loopback and private addresses.
        allowlist: patterns for what it may connect to, as ``*.example.org:25``, ``10.0.0.0/8:*``, ``unix:/run/*.sock``.
        listen: patterns for where it may listen by itself, as ``127.0.0.1:*``.
    """

    enabled: Flag = False
    allowlist: Patterns = ()
    listen: Patterns = ()

    def _check_together(self) -> None:
        for name, texts, listening in (("allowlist", self.allowlist, False), ("listen", self.listen, True)):
            for index, text in enumerate(texts):
                try:
                    parse_pattern(text, listening=listening)
                except InvalidArgument as error:
                    raise InvalidArgument(f"{name}[{index}]: {error.detail}") from None

    def why_not_connect(self, address: Address) -> str:
        """Why an actor may not connect to an address; "" if it may.

        A name that may be connected to may be resolved; :meth:`why_not_reach` judges what it resolves to.
        """
        if not self.enabled:
            return "it may connect to nothing (permissions.enabled is false)"
        patterns = _compiled(self.allowlist, False)
        if isinstance(address, UnixPath):
            allowed = any(isinstance(p, PathPattern) and p.matches(address.path) for p in patterns)
            return "" if allowed else _NOT_LISTED
        if address.is_name:
            labels = tuple(address.host.removesuffix(".").split("."))
            return "" if not patterns or any(_has_name(p, labels, address.port) for p in patterns) else _NOT_LISTED
        why = self.why_not_reach(address.host, address.port)
        if why or not patterns:
            return why
        ip = canonical(address.host)
        return "" if ip and any(_has_address(p, ip, address.port) for p in patterns) else _NOT_LISTED

    def why_not_reach(self, host: str, port: int) -> str:
        """Why a connection that the patterns let through may not go to an IP address; "" if it may.

        Args:
            host: the address, as the resolver gave it.
            port: the port.
        """
        ip = canonical(host)
        if ip is None:
            return f"{host} is no address"
        patterns = _compiled(self.allowlist, False)
        guarded = guarded_class(ip)
        if guarded:
            named = any(isinstance(p, NetworkPattern) and p.literal and _has_address(p, ip, port) for p in patterns)
            return "" if named else f"{host} is {guarded}, which only its own address in the allowlist lets through"
        return "" if patterns or is_local(ip) else _NOT_LOCAL

    def why_not_listen(self, address: Address) -> str:
        """Why an actor may not listen at an address by itself; "" if it may."""
        patterns = _compiled(self.listen, True)
        if isinstance(address, UnixPath):
            allowed = any(isinstance(p, PathPattern) and p.matches(address.path) for p in patterns)
        else:
            ip = IPv4Address("127.0.0.1") if address.is_name else canonical(address.host)  # "localhost"; all: None
            allowed = any(_has_address(p, ip, address.port) for p in patterns)
        return "" if allowed else "nothing in permissions.listen is for that"


@functools.lru_cache(maxsize=256)
def _compiled(texts: tuple[str, ...], listening: bool) -> tuple[Pattern, ...]:
    return tuple(parse_pattern(text, listening=listening) for text in texts)


def _has_name(pattern: Pattern, labels: tuple[str, ...], port: int) -> bool:
    if isinstance(pattern, NamePattern):
        return _has_port(pattern.ports, port) and pattern.matches(labels)
    return isinstance(pattern, HostPattern) and _has_port(pattern.ports, port)


def _has_address(pattern: Pattern, ip: IpAddress | None, port: int) -> bool:
    """Whether it is a pattern for an address, or for all addresses at once (None)."""
    if isinstance(pattern, NetworkPattern):
        return ip is not None and _has_port(pattern.ports, port) and pattern.matches(ip)
    return isinstance(pattern, HostPattern) and _has_port(pattern.ports, port)


def _has_port(ports: Ports, port: int) -> bool:
    return ports.first <= port <= ports.last


NO_PERMISSIONS = Permissions()
"""What lets nothing through."""
