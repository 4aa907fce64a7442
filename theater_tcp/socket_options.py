"""Options of sockets, set in one place."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from theater_tcp.settings import Options

__all__ = ["apply_to_socket", "reset_on_close"]

_RESET = struct.pack("ii", 1, 0)


def apply_to_socket(sock: socket.SocketType, options: Options, before: Options | None = None) -> None:
    """Set the socket's own options, TCP_NODELAY, SO_KEEPALIVE and TCP_KEEPIDLE, unless they are as they were before."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    if before is not None and options.nodelay is before.nodelay and options.keepalive is before.keepalive:
        return  # compared by identity, since True, the system's times, equals 1, a second
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, int(options.nodelay))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(options.keepalive is not False))
    if options.keepalive is False or not hasattr(socket, "TCP_KEEPIDLE"):
        return
    if options.keepalive is not True:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, options.keepalive)
    elif before is not None:  # there may be a time from before, and only a new socket knows the system's
        with socket.socket(sock.family, socket.SOCK_STREAM) as new:
            idle = new.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)


def reset_on_close(sock: socket.SocketType) -> None:
    """Let ``close`` send RST instead of FIN (SO_LINGER with time 0)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
