"""Addresses in memory: who listens where, connecting to it, and accepting from it."""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from theater_tcp.address import Address, HostPort, parse
from theater_tcp.errors import AddressInUse, ShutDown, TimedOut, from_os_error
from theater_tcp.future import Future
from theater_tcp.poller import READ
from theater_tcp.testing.memory_socket import Descriptor, MemorySocket, memory_pair

if TYPE_CHECKING:
    from theater_tcp.event_loop import EventLoop, Timer
    from theater_tcp.settings import ListenOptions, Options

__all__ = ["MemoryConnector", "MemoryListeningSocket", "MemoryNetwork"]

FIRST_PORT = 49152
"""The first port that "port 0" gives (RFC 6335, 6: dynamic ports)."""


class MemoryListeningSocket:
    """A socket that listens in memory: what a listener uses of ``socket.socket``.

    Args:
        network: where it listens.
        address: where exactly, with its real port.
        backlog: connections that may wait to be accepted; one more gets no answer.
    """

    type = socket.SOCK_STREAM
    proto = 0

    def __init__(self, network: MemoryNetwork, address: Address, backlog: int) -> None:
        self.address = address
        self.family = _family_of(address)
        self.backlog = backlog
        self._network = network
        self._waiting: deque[MemorySocket] = deque()
        self._faults: deque[OSError] = deque()
        self._descriptor: Descriptor | None = Descriptor.of(self)

    def __repr__(self) -> str:
        return f"<MemoryListeningSocket {self.address}, {len(self._waiting)} wait>"

    def fail_next(self, call: str, error: OSError, times: int = 1) -> None:
        """Let the next ``accept`` raise, as ``OSError(errno.EMFILE, "")``; see :meth:`MemorySocket.fail_next`."""
        if call != "accept":
            raise ValueError(f"a listening socket does accept, not {call!r}")
        self._faults.extend([error] * times)

    def accept(self) -> tuple[MemorySocket, Any]:
        """The longest waiting connection, and its peer's socket address."""
        if self._descriptor is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if self._faults:
            raise self._faults.popleft()
        if not self._waiting:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        accepted = self._waiting.popleft()
        return accepted, accepted.peer_address

    @property
    def full(self) -> bool:
        """Whether no more connections may wait."""
        return len(self._waiting) >= self.backlog

    def enqueue(self, sock: MemorySocket) -> None:
        """A connection has come."""
        self._waiting.append(sock)

    def readiness(self) -> int:
        """Readable while a connection waits."""
        return READ if self._waiting or self._faults else 0

    def fileno(self) -> int:
        """The descriptor, -1 when closed."""
        return self._descriptor if self._descriptor is not None else -1

    def getsockname(self) -> Any:
        """The socket address."""
        return _sockaddr_of(self.address)

    def close(self) -> None:
        """Give the address back; what waits is reset."""
        if self._descriptor is not None:
            self._descriptor = None
            self._network.leave(self.address)
            while self._waiting:
                self._waiting.popleft().abort()


class MemoryNetwork:
    """Everything that listens in one memory. Names need no resolution: each is an address of its own.

    Args:
        capacities: of all connections where nobody says otherwise: ``receive_capacity``, ``send_capacity`` or
            ``lockstep``, see :func:`~theater_tcp.testing.memory_socket.memory_pair`.
    """

    def __init__(self, **capacities: Any) -> None:
        self._capacities = capacities
        self._listening: dict[Address, MemoryListeningSocket] = {}
        self._next_port = FIRST_PORT

    def listen(self, address: Address, backlog: int) -> MemoryListeningSocket:
        """Listen at an address; port 0 takes a free one.

        Raises:
            AddressInUse: somebody listens there.
        """
        if isinstance(address, HostPort) and address.port == 0:
            address = HostPort(address.host, self._free_port(), address.family)
        address = _canonical(address)
        if address in self._listening:
            raise AddressInUse(str(address))
        self._listening[address] = listening = MemoryListeningSocket(self, address, backlog)
        return listening

    def leave(self, address: Address) -> None:
        """Nobody listens there any more."""
        self._listening.pop(address, None)

    def connect(self, address: Address, **capacities: Any) -> MemorySocket | None:
        """The connecting end of a new connection, whose other end waits to be accepted.

        Args:
            address: where somebody listens.
            capacities: of this connection.

        Returns:
            the socket, or None: the backlog there is full, and there is no answer.

        Raises:
            ConnectionRefusedError: nobody listens there.
        """
        listening = self._listening_at(_canonical(address))
        if listening is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        if listening.full:
            return None
        names = (_family_of(address), self._client_of(address), _sockaddr_of(address))
        here, there = memory_pair(*names, **(capacities or self._capacities))
        listening.enqueue(there)
        return here

    def open_listening_socket(self, address: Address, _options: Options, listen_options: ListenOptions) -> Any:
        """In the place of :func:`theater_tcp.listening_socket.open_listening_socket`."""
        return self.listen(address, listen_options.backlog)

    @staticmethod
    def accept_from(listening: Any) -> tuple[Any, Any]:
        """In the place of :func:`theater_tcp.listening_socket.accept_from`."""
        accepted: tuple[Any, Any] = listening.accept()
        return accepted

    @staticmethod
    def file_of(_address: Address) -> None:
        """In the place of :func:`theater_tcp.listening_socket.file_of`: nothing in memory has a file."""

    def _listening_at(self, address: Address) -> MemoryListeningSocket | None:
        listening = self._listening.get(address)
        if listening is None and isinstance(address, HostPort):
            listening = self._listening.get(parse(f"*:{address.port}", listening=True))
        return listening

    def _client_of(self, address: Address) -> Any:
        """The socket address of who connects there: on the same host, or without a name on a Unix socket."""
        if not isinstance(address, HostPort):
            return ""
        if address.family == socket.AF_INET6:
            return ("::1", self._free_port(), 0, 0)
        return ("127.0.0.1", self._free_port())

    def _free_port(self) -> int:
        self._next_port += 1
        return self._next_port - 1


class MemoryConnector:
    """Opens connections in memory; in the place of :class:`theater_tcp.connector.Connector`.

    Args:
        loop: the event loop of the actors that connect.
        network: where they find who listens.
    """

    def __init__(self, loop: EventLoop, network: MemoryNetwork) -> None:
        self._loop = loop
        self._network = network
        self._waiting: dict[Future[Any], Timer] = {}

    def connect(self, address: Address, timeout: float, _permitted: object = None) -> Future[Any]:
        """A future of a connected socket, settled in the loop's next turn, or with a timeout if there is no answer.

        No name is resolved here, so there are no addresses that might not be permitted.
        """
        future: Future[Any] = Future()
        late = TimedOut(f"{address}: no connection in {timeout:g} s")
        self._waiting[future] = self._loop.call_later(timeout, partial(self._fail, future, late))
        self._loop.call_soon(partial(self._attempt, future, address))
        return future

    def close(self) -> None:
        """Give up what is under way; it fails with ``shutdown``."""
        for future in list(self._waiting):
            self._fail(future, ShutDown())

    def _attempt(self, future: Future[Any], address: Address) -> None:
        if future not in self._waiting:
            return
        try:
            sock = self._network.connect(address)
        except OSError as error:
            self._fail(future, from_os_error(error, str(address)))
            return
        if sock is not None:
            self._waiting.pop(future).cancel()
            future.set(sock)

    def _fail(self, future: Future[Any], error: Exception) -> None:
        timer = self._waiting.pop(future, None)
        if timer is not None:
            timer.cancel()
            future.set_exception_value(error)


def _canonical(address: Address) -> Address:
    """``localhost`` is 127.0.0.1, to listen and to connect."""
    if isinstance(address, HostPort) and address.host == "localhost":
        return HostPort("127.0.0.1", address.port, socket.AF_INET)
    return address


def _family_of(address: Address) -> int:
    if not isinstance(address, HostPort):
        return socket.AF_UNIX
    return address.family if address.family == socket.AF_INET6 else socket.AF_INET


def _sockaddr_of(address: Address) -> Any:
    if isinstance(address, HostPort) and address.family == socket.AF_UNSPEC:
        return (address.host or "0.0.0.0", address.port)
    return address.sockaddr()
