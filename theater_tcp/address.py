"""Addresses: text to value when a socket is opened, socket address to text when one is shown.

Three forms are understood:

``host:port``
    A name or an IPv4 address. Names get their ASCII form (:mod:`theater_tcp.host_names`); they are resolved later,
    elsewhere.
``[v6]:port``
    An IPv6 address in brackets (RFC 3986, 3.2.2), where needed with a scope: ``[fe80::1%eth0]:25`` (RFC 4007, 11).
``unix:/path``
    A Unix socket; on Linux also ``unix:@name`` in the abstract namespace.

To listen, the port may be 0 (the system chooses), the host may be left out or ``*`` (all interfaces, both families),
and ``localhost`` is the only name: what another one means could change behind the reader's back.

Names that end in a number (``127.1``, ``0x7f000001``, ``1.2.3.256``) are refused: the C library would read them as IPv4
addresses in its own ways (inet_aton), and a check of the name by its text could be walked around.
"""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from theater_tcp.errors import InvalidArgument
from theater_tcp.host_names import ascii_name

__all__ = ["Address", "HostPort", "UnixPath", "format_sockaddr", "is_host", "parse", "split"]

_MAX_NAME = 253
"""Characters of a host name without its final dot (RFC 1035, 2.3.4: 255 octets on the wire)."""

_MAX_PATH = 107 if sys.platform == "linux" else 103
"""Bytes of a Unix socket's path: ``sun_path`` holds 108 (104 on the BSDs), and the last one is NUL."""

_NAME = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.?")
_NUMBER = re.compile(r"\d+|0x[0-9a-f]*")
_SCOPE = re.compile(r"[A-Za-z0-9_.:@-]{1,15}")
_MAPPED = "::ffff:"


class HostPort(msgspec.Struct, frozen=True, gc=False):
    """A TCP address.

    Args:
        host: an IPv4 or IPv6 address (with ``%scope`` where it was given), a name in ASCII and lower case, or "" for
            all interfaces.
        port: 0 to 65535; 0 only where it is for listening.
        family: ``AF_INET`` or ``AF_INET6`` for an address, ``AF_UNSPEC`` for a name and for all interfaces.
    """

    host: str
    port: int
    family: int

    @property
    def is_name(self) -> bool:
        """Whether the host has to be resolved."""
        return self.family == socket.AF_UNSPEC and self.host != ""

    def sockaddr(self) -> tuple[Any, ...]:
        """What ``bind`` and ``connect`` take: ``(host, port)``, or ``(host, port, flow, scope id)`` for IPv6.

        Raises:
            InvalidArgument: the host is no literal address, or there is no network interface of the scope's name.
        """
        if self.family == socket.AF_INET:
            return (self.host, self.port)
        if self.family != socket.AF_INET6:
            raise InvalidArgument(f"{_shown(str(self))}: a name has no socket address before it is resolved")
        host, _, scope = self.host.partition("%")
        return (host, self.port, 0, self._scope_id(scope))

    def _scope_id(self, scope: str) -> int:
        if not scope:
            return 0
        try:
            return int(scope) if scope.isdigit() else socket.if_nametoindex(scope)
        except OSError:
            raise InvalidArgument(f"{_shown(str(self))}: there is no network interface {scope!r}") from None

    def __str__(self) -> str:
        if self.family == socket.AF_INET6:
            return f"[{self.host}]:{self.port}"
        return f"{self.host or '*'}:{self.port}"


class UnixPath(msgspec.Struct, frozen=True, gc=False):
    """A Unix socket's address.

    Args:
        path: an absolute path, or NUL and a name in Linux' abstract namespace; what ``bind`` and ``connect`` take.
    """

    path: str

    @property
    def is_abstract(self) -> bool:
        """Whether it has a name only, and no file."""
        return self.path.startswith("\0")

    def sockaddr(self) -> str:
        """What ``bind`` and ``connect`` take."""
        return self.path

    def __str__(self) -> str:
        return _format_unix(self.path)


Address = HostPort | UnixPath


def parse(text: str, *, listening: bool = False) -> Address:
    """The address that a text stands for.

    Args:
        text: ``host:port``, ``[v6]:port``, ``unix:/path`` or ``unix:@name``.
        listening: whether it is for binding; then the port may be 0, the host may be empty or ``*``, and the only name
            is ``localhost``.

    Raises:
        InvalidArgument: it is none of these; the detail names the text and the reason.
    """
    if not isinstance(text, str):
        raise InvalidArgument(f"{_shown(text)}: an address is a text as 'host:port', '[v6]:port' or 'unix:/path'")
    if text.startswith("unix:"):
        return _parse_unix(text)
    host, port_text, is_bracketed = split(text)
    if is_bracketed:
        _check_v6(text, host)
        return HostPort(host, _parse_port(text, port_text, listening), socket.AF_INET6)
    port = _parse_port(text, port_text, listening)
    if host in ("", "*"):
        if not listening:
            raise _wrong(text, "the host is missing" if not host else "'*' is for listening only")
        return HostPort("", port, socket.AF_UNSPEC)
    if _is_literal(socket.AF_INET, host):
        return HostPort(host, port, socket.AF_INET)
    name = _parse_name(text, host)
    if listening and name != "localhost":
        raise _wrong(text, "to listen takes an IP address, 'localhost' or '*', no other name")
    return HostPort(name, port, socket.AF_UNSPEC)


def split(text: str, ports: Sequence[str] = ("port",)) -> tuple[str, str, bool]:
    """``host:port`` or ``[v6]:port`` in its parts.

    Args:
        text: not a Unix socket's address.
        ports: what may stand for the port, for the error where it is missing.

    Returns:
        the host, the port's text, which isn't empty, and whether the host stood in brackets.

    Raises:
        InvalidArgument: a bracket, the colon or the port is missing.
    """
    is_bracketed = text.startswith("[")
    if is_bracketed:
        host, bracket, rest = text[1:].partition("]")
        if not bracket:
            raise _wrong(text, "the closing bracket is missing")
        if not host:
            raise _wrong(text, "nothing stands in the brackets")
        if rest and not rest.startswith(":"):
            raise _wrong(text, "behind the closing bracket stands ':' and the port")
        port = rest[1:]
    else:
        if "]" in text and "[" not in text:
            raise _wrong(text, "the opening bracket is missing")
        host, _, port = text.partition(":")
        if ":" in port:
            raise _wrong(text, "an IPv6 address stands in brackets (write [::1]:25)")
    if not port:
        form = "[v6]" if is_bracketed else "host"
        forms = " or ".join(f"{form}:{one}" for one in ports)
        raise _wrong(text, f"the port is missing (write {forms})")
    return host, port, is_bracketed


def is_host(text: str) -> bool:
    """Whether :func:`parse` takes a text before a port; an IPv6 address also without brackets."""
    try:
        return _is_literal(socket.AF_INET6, text) or isinstance(parse(f"{text}:1"), HostPort)
    except InvalidArgument:
        return False


def format_sockaddr(family: int, sockaddr: Any) -> str:
    """The text for a socket address.

    Args:
        family: the socket's family, ``AF_INET``, ``AF_INET6`` or ``AF_UNIX``.
        sockaddr: what ``accept``, ``getpeername`` or ``getsockname`` gave.

    Returns:
        ``127.0.0.1:25``, ``[::1]:443``, ``[fe80::1%eth0]:25``, ``unix:/path``, ``unix:@name``, or ``unix:`` for a
        socket without a name. An IPv4 peer of a socket for both families (``::ffff:192.0.2.1``) is shown as IPv4. It
        is always one printable line, whatever a local peer called its socket.
    """
    if family == socket.AF_INET:
        return f"{sockaddr[0]}:{sockaddr[1]}"
    if family == socket.AF_INET6:
        host: str = sockaddr[0]
        if host.startswith(_MAPPED) and "." in host:
            return f"{host[len(_MAPPED) :]}:{sockaddr[1]}"
        if len(sockaddr) > 3 and sockaddr[3] and "%" not in host:
            host = f"{host}%{_scope_name(sockaddr[3])}"
        return f"[{host}]:{sockaddr[1]}"
    return _format_unix(sockaddr)


def _parse_unix(text: str) -> UnixPath:
    path = text[len("unix:") :]
    if "\0" in path:
        raise _wrong(text, "a path has no NUL")
    try:
        size = len(path.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        raise _wrong(text, "the path can't be encoded") from None
    if path.startswith("@"):
        if sys.platform != "linux":
            raise _wrong(text, "abstract names are there on Linux only")
        if not 2 <= size <= _MAX_PATH + 1:
            raise _wrong(text, f"an abstract name has 1 to {_MAX_PATH} bytes, this one {size - 1}")
        return UnixPath("\0" + path[1:])
    if not path.startswith("/"):
        raise _wrong(text, "the path must be absolute (write unix:/path)")
    if size > _MAX_PATH:
        raise _wrong(text, f"the path has {size} bytes, a Unix socket's at most {_MAX_PATH}")
    return UnixPath(path)


def _check_v6(text: str, host: str) -> None:
    address, percent, scope = host.partition("%")
    if not _is_literal(socket.AF_INET6, address):
        raise _wrong(text, "what stands in brackets is no IPv6 address")
    if percent and not _SCOPE.fullmatch(scope):
        raise _wrong(text, "what stands after '%' is no name of a network interface")


def _parse_port(text: str, port_text: str, listening: bool) -> int:
    # str.isdigit alone lets other scripts' digits through, int() also signs, spaces and underscores.
    if not (port_text.isascii() and port_text.isdigit()):
        raise _wrong(text, f"the port {_shown(port_text)} is no number")
    if len(port_text) > 5 or int(port_text) > 65535:
        raise _wrong(text, "the port is above 65535")
    port = int(port_text)
    if port == 0 and not listening:
        raise _wrong(text, "port 0 is for listening only")
    return port


def _parse_name(text: str, host: str) -> str:
    # The length comes first: what follows takes time for each character.
    if len(host.removesuffix(".")) > _MAX_NAME:
        raise _wrong(text, f"the host name is longer than {_MAX_NAME} characters")
    try:
        name = ascii_name(host)
    except InvalidArgument as error:
        raise _wrong(text, f"the host name {error.detail}") from None
    if len(name.removesuffix(".")) > _MAX_NAME or not _NAME.fullmatch(name):
        raise _wrong(text, "the host is neither an IPv4 address nor a host name")
    if _NUMBER.fullmatch(name.removesuffix(".").rpartition(".")[2]):
        raise _wrong(text, "a host that ends in a number must be an IPv4 address as 192.0.2.1")
    return name


def _is_literal(family: int, host: str) -> bool:
    try:
        socket.inet_pton(family, host)
    except (OSError, ValueError):  # ValueError: a NUL or a surrogate inside
        return False
    return True


def _scope_name(scope_id: int) -> str:
    try:
        return socket.if_indextoname(scope_id)
    except OSError:  # the interface has gone since
        return str(scope_id)


def _format_unix(name: str | bytes) -> str:
    text = name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name
    if text.startswith("\0"):
        text = "@" + text[1:]
    # A peer binds its own end to any name it likes, line breaks included; it must not write into a log with it.
    return "unix:" + (text if text.isprintable() else text.encode("unicode_escape").decode("ascii"))


def _wrong(text: str, reason: str) -> InvalidArgument:
    return InvalidArgument(f"{_shown(text)}: {reason}")


def _shown(text: object) -> str:
    shown = repr(text)
    return shown if len(shown) <= 160 else f"{shown[:157]}..."
