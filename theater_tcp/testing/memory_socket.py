"""Stream sockets in memory: what a connection uses of a socket, with Linux' semantics of TCP, and faults on demand.

Theory of operation. A pair has one buffer for each direction. Its first ``receive_capacity`` bytes have arrived at
the receiver; what is behind them is still in the sender's system, up to ``send_capacity`` bytes. So a receiver that
does not read slows its sender down, and a reset destroys what had not arrived, as it does on a network. FIN arrives
with the last byte. With a receive capacity of one byte and no send capacity the pair is *lockstep*: each byte has to
be read before the next is taken.

Errors, end of stream and readiness follow Linux' ``tcp_sendmsg``, ``tcp_recvmsg``, ``tcp_reset``, ``tcp_close`` and
``tcp_poll``: bytes that arrived before a reset can still be read, then the error is told once, then comes the end of
stream; closing with unread bytes resets; what is sent to a closed end is answered by a reset (RFC 9293, 3.10.7).
``tests/testing/test_memory_socket.py`` holds them against the sockets of the system.
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Any

from theater_tcp.poller import ERROR, HANGUP, PEER_SHUTDOWN, READ, WRITE

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CAPACITY", "Descriptor", "MemorySocket", "memory_pair"]

CAPACITY = 64 << 10
"""Bytes that each of the two buffers of a direction holds by default."""

CALLS = ("recv", "send", "shutdown", "getpeername", "getsockname")
"""The calls that can be made to fail; ``recv`` stands for ``recv_into`` too, and ``send`` for ``sendmsg``."""

_descriptors = itertools.count(1 << 30)
_LINGER = struct.Struct("ii")


class Descriptor(int):
    """A file descriptor in memory: a number that no file of the process has, and what it stands for."""

    source: Any

    @classmethod
    def of(cls, source: Any) -> Descriptor:
        """A new number for something that has a ``readiness()``."""
        descriptor = cls(next(_descriptors))
        descriptor.source = source
        return descriptor


class _Pipe:
    """One direction of a pair."""

    __slots__ = ("data", "fin", "receive_capacity", "send_capacity")

    def __init__(self, receive_capacity: int, send_capacity: int) -> None:
        self.data = bytearray()
        self.fin = False  # nothing follows
        self.receive_capacity = receive_capacity
        self.send_capacity = send_capacity

    @property
    def arrived(self) -> int:
        """Bytes that the receiver can read."""
        return min(len(self.data), self.receive_capacity)

    @property
    def fin_arrived(self) -> bool:
        return self.fin and len(self.data) <= self.receive_capacity

    @property
    def free(self) -> int:
        """Bytes that the sender's system takes now."""
        return self.receive_capacity + self.send_capacity - len(self.data)

    @property
    def writable(self) -> bool:
        """Linux wakes a writer when a third of its buffer is free, not for each byte (``sk_stream_is_writeable``)."""
        return self.free > 0 and self.free >= len(self.data) // 2

    def lose_what_is_on_its_way(self) -> None:
        self.fin = self.fin_arrived
        del self.data[self.receive_capacity :]


class MemorySocket:
    """One end of a connection in memory: the methods that a connection uses of ``socket.socket``. Never blocks.

    Made by :func:`memory_pair`.
    """

    type = socket.SOCK_STREAM
    proto = 0

    def __init__(self, family: int, address: Any, peer_address: Any, incoming: _Pipe, outgoing: _Pipe) -> None:
        self.family = family
        self.options: dict[tuple[int, int], Any] = {}
        """What ``setsockopt`` was told, by level and option."""
        self.other_end: MemorySocket
        self.address = address
        self.peer_address = peer_address
        self._incoming = incoming
        self._outgoing = outgoing
        self._descriptor: Descriptor | None = Descriptor.of(self)
        self._error = 0  # told once, as SO_ERROR
        self._gone = False  # both directions have ended, or a reset has: TCP_CLOSE
        self._write_shut = False
        self._faults: dict[str, deque[OSError | int]] = {call: deque() for call in CALLS}

    def __repr__(self) -> str:
        state = "closed" if self._descriptor is None else "gone" if self._gone else "open"
        return f"<MemorySocket {self.address} {state}, {len(self._incoming.data)} in, {len(self._outgoing.data)} out>"

    # -- faults ---------------------------------------------------------------------------------------------------

    def fail_next(self, call: str, error: OSError, times: int = 1) -> None:
        """Let the next ``call`` raise instead of doing its work; several faults of one call happen in order.

        Until it has happened, the socket counts as ready for that call, so that an idle connection runs into it.

        Args:
            call: ``"recv"``, ``"send"``, ``"shutdown"``, ``"getpeername"`` or ``"getsockname"``.
            error: what to raise, as ``ConnectionResetError(errno.ECONNRESET, "")``. A ``BlockingIOError`` is a wake-up
                for nothing.
            times: how many calls in a row.
        """
        self._faults_of(call).extend([error] * times)

    def shorten_next(self, call: str, size: int, times: int = 1) -> None:
        """Let the next ``recv`` give, or the next ``send`` take, no more than ``size`` bytes (at least 1)."""
        if call not in ("recv", "send") or size < 1:
            raise ValueError(f"only recv and send can be shortened, to 1 byte or more; not {call} to {size}")
        self._faults_of(call).extend([size] * times)

    def _faults_of(self, call: str) -> deque[OSError | int]:
        faults = self._faults.get(call)
        if faults is None:
            raise ValueError(f"{call!r} is not one of {', '.join(CALLS)}")
        return faults

    def _begin(self, call: str, size: int = 0) -> int:
        """Refuse on a closed socket and let a queued fault happen; the most bytes that the call may move."""
        self._check_open()
        faults = self._faults[call]
        if faults:
            fault = faults.popleft()
            if isinstance(fault, OSError):
                raise fault
            return min(size, fault)
        return size

    def _check_open(self) -> None:
        if self._descriptor is None:
            raise _os_error(errno.EBADF)

    # -- data -----------------------------------------------------------------------------------------------------

    def recv_into(self, buffer: Any) -> int:
        """As ``socket.recv_into``, into anything writable."""
        view = memoryview(buffer)
        data = self._receive(len(view), take=True)
        view[: len(data)] = data
        return len(data)

    def recv(self, size: int, flags: int = 0) -> bytes:
        """As ``socket.recv``; ``MSG_PEEK`` leaves the bytes where they are."""
        return self._receive(size, take=not flags & socket.MSG_PEEK)

    def _receive(self, size: int, take: bool) -> bytes:
        size = self._begin("recv", size)
        pipe = self._incoming
        if pipe.data:
            data = bytes(pipe.data[: min(size, pipe.arrived)])
            if take:
                del pipe.data[: len(data)]
                self._look_for_the_end()
            return data
        if pipe.fin_arrived:
            return b""
        if self._error:
            raise self._take_error()
        if self._gone:
            return b""
        raise _os_error(errno.EAGAIN)

    def send(self, data: Any) -> int:
        """As ``socket.send``: takes what there is room for."""
        view = memoryview(data).cast("B")
        size = self._begin("send", len(view))
        if self._error:
            raise self._take_error()
        if self._gone or self._write_shut:
            raise _os_error(errno.EPIPE)
        taken = min(size, self._outgoing.free)
        if not taken and size:
            raise _os_error(errno.EAGAIN)
        if taken and self.other_end._descriptor is None:
            self.other_end._outgoing.lose_what_is_on_its_way()
            self._reset()  # nobody is there any more: the answer is RST
        else:
            self._outgoing.data += view[:taken]
        return taken

    def sendmsg(self, buffers: Sequence[Any]) -> int:
        """As ``socket.sendmsg`` without ancillary data."""
        return self.send(b"".join(buffers))

    # -- the end --------------------------------------------------------------------------------------------------

    def shutdown(self, how: int) -> None:
        """Half-close, the one ``how`` that a connection uses being ``SHUT_WR``."""
        self._begin("shutdown")
        if how != socket.SHUT_WR:
            raise _os_error(errno.EINVAL)
        if self._gone:
            raise _os_error(errno.ENOTCONN)
        self._write_shut = self._outgoing.fin = True
        self._look_for_the_end()

    def close(self) -> None:
        """As ``socket.close``: FIN; RST if there are unread bytes, or if SO_LINGER says so."""
        if self._descriptor is None:
            return
        self._descriptor = None
        if self._gone:
            return
        lingers, seconds = _LINGER.unpack(self.options.get((socket.SOL_SOCKET, socket.SO_LINGER), bytes(_LINGER.size)))
        if self._incoming.data or (lingers and seconds == 0):
            self._send_reset()
        else:
            self._outgoing.fin = True
            self._look_for_the_end()

    def abort(self) -> None:
        """RST, at once: as ``close`` with a linger time of 0."""
        self.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER.pack(1, 0))
        self.close()

    def _send_reset(self) -> None:
        self._gone = True
        self._outgoing.lose_what_is_on_its_way()
        self.other_end._reset()

    def _reset(self) -> None:
        """RST has come. EPIPE after the peer's FIN, since then only writing can still fail (``tcp_reset``)."""
        if not self._gone:
            self._error = errno.EPIPE if self._incoming.fin_arrived and not self._outgoing.fin else errno.ECONNRESET
            self._gone = True
            self._outgoing.lose_what_is_on_its_way()

    def _look_for_the_end(self) -> None:
        if self._incoming.fin_arrived and self._outgoing.fin_arrived:
            self._gone = self.other_end._gone = True

    def _take_error(self) -> OSError:
        error, self._error = self._error, 0
        return _os_error(error)

    # -- the rest -------------------------------------------------------------------------------------------------

    def readiness(self) -> int:
        """What the socket is ready for: bits of :mod:`theater_tcp.poller`, as ``tcp_poll`` sets them."""
        receive_shut = self._gone or self._incoming.fin_arrived
        send_shut = self._gone or self._write_shut
        mask = HANGUP if receive_shut and send_shut else 0
        if receive_shut:
            mask |= READ | PEER_SHUTDOWN
        if self._incoming.data or self._faults["recv"]:
            mask |= READ
        if send_shut or self._outgoing.writable or self._faults["send"]:
            mask |= WRITE
        return mask | ERROR if self._error else mask

    def fileno(self) -> int:
        """The descriptor, -1 when closed."""
        return self._descriptor if self._descriptor is not None else -1

    def getpeername(self) -> Any:
        """The peer's socket address."""
        self._begin("getpeername")
        if self._gone:
            raise _os_error(errno.ENOTCONN)
        return self.peer_address

    def getsockname(self) -> Any:
        """The own socket address."""
        self._begin("getsockname")
        return self.address

    def getsockopt(self, level: int, option: int) -> Any:
        """``SO_ERROR`` (and forgets it), or what ``setsockopt`` was told (0: nothing)."""
        self._check_open()
        if (level, option) == (socket.SOL_SOCKET, socket.SO_ERROR):
            error, self._error = self._error, 0
            return error
        return self.options.get((level, option), 0)

    def setsockopt(self, level: int, option: int, value: Any) -> None:
        """Note the option; ``SO_LINGER`` has its effect."""
        self._check_open()
        self.options[level, option] = value

    def setblocking(self, blocking: bool) -> None:
        """A socket in memory never blocks."""
        if blocking:
            raise _os_error(errno.EINVAL)


def memory_pair(
    family: int = socket.AF_INET,
    address: Any = ("127.0.0.1", 40000),
    peer_address: Any = ("127.0.0.1", 40001),
    receive_capacity: int = CAPACITY,
    send_capacity: int = CAPACITY,
    lockstep: bool = False,
) -> tuple[MemorySocket, MemorySocket]:
    """Two connected sockets.

    Args:
        family: what they say they are: ``AF_INET``, ``AF_INET6`` or ``AF_UNIX``.
        address: socket address of the first.
        peer_address: socket address of the second.
        receive_capacity: bytes that may have arrived and not been read, in each direction; at least 1.
        send_capacity: bytes that the sender's system holds beyond those.
        lockstep: each byte has to be read before the next is taken; the capacities don't count.
    """
    if lockstep:
        receive_capacity, send_capacity = 1, 0
    if receive_capacity < 1 or send_capacity < 0:
        raise ValueError(f"a pair needs room for a byte, not {receive_capacity} and {send_capacity}")
    there, back = _Pipe(receive_capacity, send_capacity), _Pipe(receive_capacity, send_capacity)
    first = MemorySocket(family, address, peer_address, incoming=back, outgoing=there)
    second = MemorySocket(family, peer_address, address, incoming=there, outgoing=back)
    first.other_end, second.other_end = second, first
    return first, second


def _os_error(code: int) -> OSError:
    return OSError(code, os.strerror(code))
