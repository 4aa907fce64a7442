"""Opening connections: names are resolved on threads, and all addresses of a name are raced (RFC 8305).

The addresses alternate between the families, beginning with the resolver's first. Each attempt gets
``connection_attempt_delay`` seconds before the next starts beside it, and the next starts at once when one fails. The
first that succeeds wins, the others are closed; if none does, the error is that of the last attempt.
"""

from __future__ import annotations

import errno
import os
import socket
from functools import partial
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any

from theater_tcp.address import Address, HostPort, UnixPath
from theater_tcp.errors import Denied, LimitReached, ShutDown, TheaterError, TimedOut, Unreachable, from_os_error
from theater_tcp.future import Future
from theater_tcp.poller import WRITE
from theater_tcp.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable

    from theater_tcp.event_loop import EventLoop

__all__ = ["Connector", "interleave", "resolve"]

Target = tuple[int, Any]
"""Family and socket address."""

UNIX_RETRY = 0.01
"""Seconds between two attempts at a Unix socket whose backlog is full."""

IN_PROGRESS = {errno.EINPROGRESS, errno.EAGAIN, errno.EWOULDBLOCK, errno.EALREADY}


def resolve(host: str, port: int) -> list[Target]:
    """All TCP addresses of a name, in the resolver's order (RFC 6724). Blocks: for a thread that may.

    Raises:
        OSError: the name does not resolve.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return [(int(family), sockaddr) for family, _type, _proto, _name, sockaddr in found]


def interleave(targets: list[Target]) -> list[Target]:
    """Alternate between the address families, beginning with the first one's (RFC 8305, 4)."""
    first = [target for target in targets if target[0] == targets[0][0]]
    others = [target for target in targets if target[0] != targets[0][0]]
    return [target for target in chain.from_iterable(zip_longest(first, others)) if target is not None]


def _has_local_address(family: int, sockaddr: Any) -> bool:
    """Whether this host has an address to come from; without one where IPv6 is switched off, for example.

    A datagram socket gets its address as a stream's does, and a port of its own; connecting it sends nothing.
    """
    try:
        probe = socket.SocketType(family, socket.SOCK_DGRAM)
    except OSError:
        return True  # no descriptor: something is exhausted in any case
    try:
        return probe.connect_ex(sockaddr) != errno.EADDRNOTAVAIL
    finally:
        probe.close()


class Connector:
    """Opens connections for one runtime.

    Args:
        loop: the event loop that waits for the attempts.
        attempt_delay: seconds between two attempts at one name.
        threads: how many names are resolved at the same time.
        resolver: resolves a name on a thread, as :func:`resolve`.
    """

    def __init__(
        self,
        loop: EventLoop,
        attempt_delay: float,
        threads: int,
        resolver: Callable[[str, int], list[Target]] = resolve,
    ) -> None:
        self._loop = loop
        self._attempt_delay = attempt_delay
        self._resolver = resolver
        self._threads = Workers(threads, "theater-resolver")  # daemons: a resolver that hangs holds up no exit
        self._races: dict[Race, None] = {}
        self._closed = False

    def connect(
        self, address: Address, timeout: float, permitted: Callable[[Target], bool] | None = None
    ) -> Future[socket.SocketType]:
        """A future of a connected, non-blocking socket.

        Args:
            address: where to.
            timeout: seconds for the whole of it.
            permitted: whether a connection may go to one of the addresses of a name; those to which it may not are
                left out, and if all are, the future fails with ``denied``. None for all of them.
        """
        future: Future[socket.SocketType] = Future()
        race = Race(self._loop, str(address), self._attempt_delay, timeout, future, self._over)
        self._races[race] = None
        if isinstance(address, UnixPath):
            race.run([(int(socket.AF_UNIX), address.sockaddr())])
        elif isinstance(address, HostPort) and address.is_name:
            self._resolve(address, race, permitted)
        else:
            try:
                race.run([(address.family, address.sockaddr())])
            except TheaterError as error:
                race.fail(error)
        return future

    def close(self) -> None:
        """Give up what is under way; it fails with ``shutdown``."""
        self._closed = True
        for race in list(self._races):
            race.fail(ShutDown())
        self._threads.close()

    def _over(self, race: Race) -> None:
        self._races.pop(race, None)

    def _resolve(self, address: HostPort, race: Race, permitted: Callable[[Target], bool] | None) -> None:
        if self._closed:
            race.fail(ShutDown())
            return

        found: Future[list[Target]] = Future()
        found.on_done(lambda _: self._loop.call_soon(partial(self._resolved, str(address), race, permitted, found)))
        self._threads.submit(self._resolver, (address.host, address.port), found)

    @staticmethod
    def _resolved(
        name: str, race: Race, permitted: Callable[[Target], bool] | None, found: Future[list[Target]]
    ) -> None:
        try:
            targets = found.get()
        except OSError as error:
            race.fail(from_os_error(error, name))
        except TheaterError as error:
            race.fail(error)
        except Exception as error:  # a name that getaddrinfo can't even encode (UnicodeError)
            race.fail(Unreachable(f"{name}: {error}"))
        else:
            # Once, between the resolver and the first packet: what is judged here is what is connected to.
            left = targets if permitted is None else [target for target in targets if permitted(target)]
            if targets and not left:
                race.fail(Denied(name))
            else:
                race.run(left)


class Race:
    """The attempts at the addresses of one name."""

    def __init__(
        self,
        loop: EventLoop,
        name: str,
        delay: float,
        timeout: float,
        future: Future[socket.SocketType],
        over: Callable[[Race], None],
    ) -> None:
        self._loop = loop
        self._name = name
        self._delay = delay
        self._future = future
        self._over = over
        self._running: dict[int, socket.SocketType] = {}
        self._left: list[Target] = []
        self._done = False
        self._last_error: TheaterError | None = None
        self._next_attempt: Any = None
        self._deadline = loop.call_later(
            timeout, partial(self.fail, TimedOut(f"{name}: no connection in {timeout:g} s"))
        )

    def run(self, targets: list[Target]) -> None:
        """Begin with the addresses, best first."""
        self._left = interleave(targets) if targets else []
        self._start_next()

    def fail(self, error: TheaterError) -> None:
        """Give up."""
        if not self._done:
            self._end()
            self._future.set_exception_value(error)

    def _start_next(self) -> None:
        if self._next_attempt is not None:
            self._next_attempt.cancel()
            self._next_attempt = None
        while self._left and not self._done:
            family, sockaddr = self._left.pop(0)
            try:
                sock = socket.SocketType(family, socket.SOCK_STREAM)
            except OSError as error:  # a family that the system does not have, or no descriptor
                self._last_error = from_os_error(error, self._name)
                continue
            sock.setblocking(False)
            code = sock.connect_ex(sockaddr)
            if code == 0:
                self._win(sock)
                return
            if code == errno.EAGAIN and family == socket.AF_UNIX:  # its backlog is full, and nothing tells when not
                sock.close()
                self._left.insert(0, (family, sockaddr))
                self._next_attempt = self._loop.call_later(UNIX_RETRY, self._start_next)
                return
            if code not in IN_PROGRESS:
                sock.close()
                self._last_error = self._error_for(code, family, sockaddr)
                continue
            fd = sock.fileno()
            self._running[fd] = sock
            self._loop.register(fd, WRITE, partial(self._ready, fd))
            if self._left:
                self._next_attempt = self._loop.call_later(self._delay, self._start_next)
            return
        if not self._running and not self._done:
            self.fail(self._last_error or Unreachable(f"{self._name}: the name has no address"))

    def _ready(self, fd: int, _mask: int) -> None:
        sock = self._running[fd]
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code == 0:
            try:
                sock.getpeername()
            except OSError:
                return  # an event of another socket that had this number before
        self._loop.unregister(fd)
        del self._running[fd]
        if code == 0:
            self._win(sock)
            return
        sock.close()
        self._last_error = from_os_error(OSError(code, os.strerror(code)), self._name)
        self._start_next()

    def _error_for(self, code: int, family: int, sockaddr: Any) -> TheaterError:
        """What an attempt failed with on the spot. The one number for two things is told apart."""
        if code != errno.EADDRNOTAVAIL:
            return from_os_error(OSError(code, os.strerror(code)), self._name)
        if _has_local_address(family, sockaddr):
            return LimitReached(f"{self._name}: no local port is free")
        return Unreachable(self._name)

    def _win(self, sock: socket.SocketType) -> None:
        self._end()
        self._future.set(sock)

    def _end(self) -> None:
        self._done = True
        self._deadline.cancel()
        if self._next_attempt is not None:
            self._next_attempt.cancel()
        for fd, sock in self._running.items():
            self._loop.unregister(fd)
            sock.close()
        self._running.clear()
        self._over(self)
