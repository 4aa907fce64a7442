"""The listener's socket: bound to an address of any of the families, and what is accepted from it."""

from __future__ import annotations

import errno
import os
import socket
import stat
from typing import TYPE_CHECKING, Any

from theater_tcp.address import Address, HostPort, UnixPath
from theater_tcp.errors import AddressInUse, InvalidArgument, from_os_error
from theater_tcp.socket_options import apply_to_socket

if TYPE_CHECKING:
    from theater_tcp.settings import ListenOptions, Options

__all__ = ["accept_from", "file_of", "open_listening_socket"]


def accept_from(listening: socket.SocketType) -> tuple[socket.SocketType, Any]:
    """Take one connection out of the kernel's backlog, with its peer's socket address.

    Raises:
        OSError: what ``accept`` raised.
    """
    fd, peer = listening._accept()  # type: ignore[attr-defined]  # accept() adds 3 µs of enum conversions
    return socket.SocketType(listening.family, listening.type, listening.proto, fileno=fd), peer


def file_of(address: Address) -> tuple[int, int] | None:
    """Device and inode of the file of a Unix socket; None where there is none."""
    if not isinstance(address, UnixPath) or address.is_abstract:
        return None
    try:
        found = os.lstat(address.path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISSOCK(found.st_mode) else None


def open_listening_socket(address: Address, options: Options, listen_options: ListenOptions) -> socket.SocketType:
    """A non-blocking socket that listens.

    Raises:
        AddressInUse: somebody listens there.
        InvalidArgument: a name instead of an address, or an address that this host does not have.
        TheaterError: another refusal of the system.
    """
    if isinstance(address, UnixPath):
        return _listen_unix(address, listen_options)
    family, sockaddr = _bind_address(address)
    sock = _new_socket(family, address)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if listen_options.reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address.host != ""))
        apply_to_socket(sock, options)  # accepted sockets inherit all of these
        sock.bind(sockaddr)
        sock.listen(listen_options.backlog)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise from_os_error(error, str(address)) from None
    return sock


def _new_socket(family: int, address: Address) -> socket.SocketType:
    try:
        return socket.SocketType(family, socket.SOCK_STREAM)
    except OSError as error:  # no descriptor, or a family that the system does not have
        raise from_os_error(error, str(address)) from None


def _bind_address(address: HostPort) -> tuple[int, Any]:
    if address.host == "":
        if socket.has_dualstack_ipv6():
            return socket.AF_INET6, ("::", address.port, 0, 0)
        return socket.AF_INET, ("0.0.0.0", address.port)
    if address.is_name:
        if address.host != "localhost":
            raise InvalidArgument(f"{address}: listen takes an IP address or 'localhost', not a name")
        return socket.AF_INET, ("127.0.0.1", address.port)
    return address.family, address.sockaddr()


def _listen_unix(address: UnixPath, listen_options: ListenOptions) -> socket.SocketType:
    sock = _new_socket(socket.AF_UNIX, address)
    try:
        try:
            sock.bind(address.sockaddr())
        except OSError as error:
            if error.errno != errno.EADDRINUSE or address.is_abstract:
                raise
            _remove_stale(address)
            sock.bind(address.sockaddr())
        if listen_options.unix_mode is not None and not address.is_abstract:
            os.chmod(address.path, listen_options.unix_mode)
        sock.listen(listen_options.backlog)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise from_os_error(error, str(address)) from None
    except BaseException:
        sock.close()
        raise
    return sock


def _remove_stale(address: UnixPath) -> None:
    """Remove a socket's file that nobody listens at; anything else in its place is in use."""
    if not stat.S_ISSOCK(os.lstat(address.path).st_mode):
        raise AddressInUse(f"{address}: there is a file that is no socket")
    probe = socket.SocketType(socket.AF_UNIX, socket.SOCK_DGRAM)  # no stream socket: a living listener isn't bothered
    try:
        probe.connect(address.path)
    except ConnectionRefusedError:
        os.unlink(address.path)
        return
    except OSError:
        pass  # EPROTOTYPE: a stream socket lives there
    finally:
        probe.close()
    raise AddressInUse(str(address))
