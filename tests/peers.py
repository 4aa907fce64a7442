"""Plain sockets as the peers of what is tested: what a client or server elsewhere would do, byte by byte."""

from __future__ import annotations

import re
import socket
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "TIMEOUT",
    "cut",
    "dial",
    "eventually",
    "expect_reset",
    "host_and_port",
    "receive_exactly",
    "receive_to_end",
    "settled_unread_in_kernel",
    "stuff",
    "unread_in_kernel",
]

TIMEOUT = 10.0
"""Seconds after which something that should have happened has failed."""


def host_and_port(address: str) -> tuple[str, int]:
    """What a socket's ``connect`` takes for an address of the interface."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def dial(address: str) -> socket.socket:
    """A plain, blocking socket connected to an address of the interface."""
    if address.startswith("unix:"):
        peer = socket.socket(socket.AF_UNIX)
        peer.settimeout(TIMEOUT)
        path = address.removeprefix("unix:")
        peer.connect("\0" + path[1:] if path.startswith("@") else path)
        return peer
    return socket.create_connection(host_and_port(address), TIMEOUT)


def receive_exactly(peer: socket.socket, size: int) -> bytes:
    """``size`` bytes from a peer's socket."""
    data = bytearray(size)
    view = memoryview(data)
    while view:
        got = peer.recv_into(view)
        assert got, f"the stream ended after {size - len(view)} of {size} bytes"
        view = view[got:]
    return bytes(data)


def receive_to_end(peer: socket.socket) -> bytes:
    """Everything up to the end of the stream."""
    data = bytearray()
    while piece := peer.recv(1 << 16):
        data += piece
    return bytes(data)


def expect_reset(peer: socket.socket) -> None:
    """The stream ends with a reset, whatever comes before it."""
    try:
        receive_to_end(peer)
    except ConnectionResetError:
        return
    raise AssertionError("the stream ended in order, a reset was expected")


def cut(peer: socket.socket) -> None:
    """Close a peer's socket with RST instead of FIN."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def stuff(peer: socket.socket, piece: bytes = bytes(1 << 16)) -> int:
    """Send until the system takes no more; returns the bytes it took."""
    peer.setblocking(False)
    sent = 0
    try:
        while True:
            sent += peer.send(piece)
    except BlockingIOError:
        return sent
    finally:
        peer.settimeout(TIMEOUT)


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what no event tells of: the kernel's counters, another process, a thread on its way into a wait."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.002)


def unread_in_kernel(peer: socket.socket) -> int:
    """Bytes that an IPv4 peer has sent and nobody has read from the other end's socket, as Linux tells.

    Bytes that have arrived and are not acknowledged yet count twice, for the time that an acknowledgement may be
    delayed: see :func:`settled_unread_in_kernel`.
    """
    near, far = peer.getsockname()[1], peer.getpeername()[1]
    unread = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        match = re.match(r"\s*\d+: \w+:(\w{4}) \w+:(\w{4}) \w\w (\w+):(\w+) ", line)
        assert match is not None
        ends = int(match[1], 16), int(match[2], 16)
        if ends == (near, far):
            unread += int(match[3], 16)  # not acknowledged yet
        elif ends == (far, near):
            unread += int(match[4], 16)
    return unread


def settled_unread_in_kernel(peer: socket.socket) -> int:
    """The same, when it has not changed for longer than Linux delays an acknowledgement (200 ms at most)."""
    unread, since = unread_in_kernel(peer), time.monotonic()
    deadline = since + TIMEOUT
    while time.monotonic() - since < 0.21:
        time.sleep(0.01)
        now = unread_in_kernel(peer)
        if now != unread:
            unread, since = now, time.monotonic()
        assert since < deadline, "it never comes to rest"
    return unread
