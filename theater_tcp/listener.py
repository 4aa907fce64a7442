"""The Listener actor: accepts connections and brings each to the owner, and never waits for anybody.

A connection is taken from the kernel only when somebody is there for it: a waiting ``accept``, or an owner that
implements ``handle_connection`` and is not too far behind. Otherwise it stays in the kernel's backlog, and the
listening socket is not watched. Each way that an ``accept`` can end has its name in :meth:`Listener._accept_one`.
"""

from __future__ import annotations

import errno
import logging
import os
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from theater_tcp.actor import LoopActor
from theater_tcp.address import Address, format_sockaddr
from theater_tcp.connection import Connection
from theater_tcp.connection_state import HANDSHAKING, PENDING
from theater_tcp.errors import Closed, IoFailed, NotFound, NotOwner
from theater_tcp.future import Future
from theater_tcp.poller import READ
from theater_tcp.pykka_internals import registry
from theater_tcp.socket_options import reset_on_close

if TYPE_CHECKING:
    import socket

    from theater_tcp.network import Network
    from theater_tcp.ownership import Owner
    from theater_tcp.settings import ListenOptions, Options

__all__ = ["Listener", "ListenerInfo", "info_of"]

logger = logging.getLogger("theater_tcp.listener")

BATCH = 64
"""Connections accepted for one readiness event, before others have their turn."""

MAX_UNHEARD = 64
"""Connections whose announcement may lie in the owner's mailbox; the others wait in the kernel's backlog."""

_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_GONE = {errno.ECONNABORTED, errno.EPROTO, errno.EINTR}


class ListenerInfo(NamedTuple):
    """An open listener: its id, the bound address, and the class name and URN of the owning actor."""

    id: str
    address: str
    actor: str
    actor_urn: str


class Listener(LoopActor):
    """One listening socket. Its id is its actor's URN. All methods run on the loop's thread.

    Args:
        network: what it shares with the runtime's connections.
        sock: a socket that listens already; closed by this actor from now on.
        address: the address that was asked for; a Unix socket's file is removed at the end.
        owner: who gets the connections.
        options: what the accepted connections have.
        listen_options: its own.
        make_handle: makes the owner's handle on this listener.
    """

    def __init__(
        self,
        network: Network,
        sock: socket.SocketType,
        address: Address,
        owner: Owner,
        options: Options,
        listen_options: ListenOptions,
        make_handle: Any,
    ) -> None:
        self._settle(network.loop)
        self._actor_begun = True
        self.actor_inbox.scheduled = False
        self.network = network
        self.sock = sock
        self.fd = sock.fileno()
        self.asked = address
        self.address = format_sockaddr(sock.family, sock.getsockname())
        self._file = network.file_of(address)
        self.owner: Owner | None = owner
        self.options = options
        self.listen_options = listen_options
        self.handle: Any = make_handle(self)
        self.connections_now = 0
        self._introduces = owner.hears("handle_connection")
        self._accepts: deque[Future[Any]] = deque()
        self._unheard: dict[Connection, None] = {}
        self._secured: dict[Connection, None] = {}  # through with TLS, and nobody has taken them yet
        tls = options.server_tls
        self._credentials = network.credentials.server(tls) if tls is not None and tls.enabled else None
        self._secures = tls is not None and tls.auto_handshake  # from the first byte
        self._watching = False
        self._exhausted = False
        self._exhaustion_told = False
        owner.listeners[self.actor_urn] = self
        network.listeners[self.actor_urn] = self
        registry().append(self.actor_ref)
        self.resume()

    # -- accepting ------------------------------------------------------------------------------------------------

    def accept(self, handle: Any) -> Future[Any]:
        """A future of the handle of the next connection, which is pending; those who ask are served in turn."""
        self.check_owner(handle)
        future: Future[Any] = Future()
        if self._secured:
            connection = next(iter(self._secured))
            del self._secured[connection]
            connection.hidden = False
            future.set(connection.handle)
            return future
        self._accepts.append(future)
        self.resume()
        return future

    def resume(self) -> None:
        """Watch the socket, if there is somebody for a connection and room for one."""
        if self.fd >= 0 and not self._watching and not self._exhausted and self._has_taker():
            if self._full() and self.listen_options.at_limit == "pause":
                self._wait_for_room()
                return
            self.network.loop.register(self.fd, READ, self._on_ready)
            self._watching = True

    def connection_ended(self) -> None:
        """The socket of one of this listener's connections has been closed."""
        self.connections_now -= 1
        if not self._watching:
            self.resume()

    def heard_of(self, connection: Connection) -> None:
        """The owner begins to handle the announcement of a connection, or never will."""
        if self._secured:
            self._secured.pop(connection, None)
        if self._unheard:
            self._unheard.pop(connection, None)
            if not self._watching:
                self.resume()

    def _on_ready(self, _mask: int) -> None:
        for _ in range(BATCH):
            if not self._accepts and not self._has_taker():
                self._pause()
                return
            full = self._full()
            if full and not self._may_refuse():
                return
            if not self._accept_one(full) or self.fd < 0:  # the callback may have closed this listener
                return

    def _accept_one(self, refuse: bool) -> bool:
        """Take one connection from the kernel. Returns whether there may be another."""
        try:
            sock, peer = self.network.accept_from(self.sock)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            if error.errno in _EXHAUSTED:
                self._rest(error)
                return False
            if error.errno in _GONE:
                self.network.metrics.accept_aborted += 1
                return True
            logger.error("accepting at %s failed: %s", self.address, error)
            self.close_now("io: " + (error.strerror or "accept failed"))
            return False
        if self._exhaustion_told:
            self._exhaustion_told = False
            logger.info("accepting at %s goes on", self.address)
        if refuse:
            self.network.metrics.refused_at_limit += 1
            reset_on_close(sock)
            sock.close()
            return True
        self._bring(sock, peer)
        return True

    def _bring(self, sock: socket.SocketType, peer: Any) -> None:
        """A new connection goes to who waits for one, or to the owner's callback; with TLS, when it is secure."""
        network = self.network
        owner = self.owner
        assert owner is not None
        sock.setblocking(False)
        network.metrics.accepted += 1
        network.accepted_now += 1
        self.connections_now += 1
        if self._credentials is not None and self._secures:
            Connection(network, sock, peer, self.options, HANDSHAKING, owner, self).accept_tls(self._credentials)
            return
        connection = Connection(network, sock, peer, self.options, PENDING, owner, self)
        if self._accepts:
            future = self._accepts.popleft()
            connection.wait_for_activation()
            future.set(connection.handle)
            return
        self._introduce(connection, owner)

    def secured(self, connection: Connection) -> None:
        """A connection is through with its TLS handshake: now it goes to who waits for one."""
        owner = connection.owner
        assert owner is not None
        if self._accepts:
            future = self._accepts.popleft()
            connection.hidden = False
            connection.wait_for_activation()
            future.set(connection.handle)
        elif self._introduces:
            connection.hidden = False
            self._introduce(connection, owner)
        elif self.fd >= 0:  # the accept that it was taken for has got another one that was faster
            self._secured[connection] = None
            connection.wait_for_activation()
        else:
            connection.owner_ended()  # nobody is left who could take it

    def _introduce(self, connection: Connection, owner: Owner) -> None:
        actor = owner.loop_actor
        if actor is None or actor.actor_inbox.scheduled:
            self._unheard[connection] = None
            connection.wait_for_activation()
            connection.announce("handle_connection")
        else:
            connection.introduce(actor)
            if connection.state.phase is PENDING:
                connection.wait_for_activation()

    def _has_taker(self) -> bool:
        if self._accepts:
            return True
        return self._introduces and len(self._unheard) < MAX_UNHEARD

    def _full(self) -> bool:
        limit = self.listen_options.max_connections
        if limit is not None and self.connections_now >= limit:
            return True
        if self.network.accepted_now >= self.network.settings.max_connections:
            return True
        owner = self.owner
        return owner is not None and owner.is_full

    def _may_refuse(self) -> bool:
        """At the limit: whether to go on accepting and reset what comes; if not, the listener waits for room."""
        if self.listen_options.at_limit == "refuse":
            return True
        self._pause()
        self._wait_for_room()
        return False

    def _wait_for_room(self) -> None:
        self.network.metrics.paused_at_limit += 1
        if self.network.at_limit():
            self.network.waiting_listeners[self.actor_urn] = self
        # else it is this listener's own limit: connection_ended() resumes

    def _pause(self) -> None:
        if self._watching:
            self._watching = False
            self.network.loop.unregister(self.fd)

    def _rest(self, error: OSError) -> None:
        """Out of descriptors or memory: leave the backlog alone for a while instead of spinning on it."""
        self.network.metrics.accept_exhausted += 1
        if not self._exhaustion_told:
            self._exhaustion_told = True
            logger.warning("accepting at %s rests until there is room: %s", self.address, error.strerror)
        self._pause()
        self._exhausted = True
        self.network.loop.call_later(self.network.settings.accept_pause, self._rested)

    def _rested(self) -> None:
        self._exhausted = False
        self.resume()

    # -- the end --------------------------------------------------------------------------------------------------

    def check_owner(self, handle: Any) -> None:
        """Refuse a stranger (``NotOwner``), and everybody after the end (``NotFound``)."""
        if self.handle is not handle:
            raise NotFound(self.actor_urn) if self.handle is None else NotOwner(self.actor_urn)

    def close(self, handle: Any) -> None:
        """Close by the owner's wish; connections that were accepted go on, waiting accepts end with ``closed``."""
        self.check_owner(handle)
        self.close_now()

    def owner_ended(self) -> None:
        """The owner's life is over."""
        self.close_now()

    def close_now(self, reason: str = "closed") -> None:
        """Close the socket, once."""
        if self.fd < 0:
            return
        self._pause()
        self.fd = -1
        if self._file is not None and self.network.file_of(self.asked) == self._file:
            _remove_socket_file(str(self.asked.sockaddr()))
        self.sock.close()
        network = self.network
        network.listeners.pop(self.actor_urn, None)
        network.waiting_listeners.pop(self.actor_urn, None)
        if self.owner is not None:
            self.owner.listeners.pop(self.actor_urn, None)
        self.owner = self.handle = None
        for connection in list(self._secured):
            connection.owner_ended()
        self._secured.clear()
        accepts, self._accepts = self._accepts, deque()
        for future in accepts:
            future.set_exception_value(Closed() if reason == "closed" else IoFailed(reason.partition(": ")[2]))
        if not self.actor_stopped.is_set():
            registry().remove(self.actor_ref)
            self.actor_stopped.set()
            if not self.actor_inbox.scheduled:
                self._end_life()

    def on_stop(self) -> None:
        """The actor is stopped from outside."""
        self.close_now()


def _remove_socket_file(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        logger.debug("the socket file %s was gone", path)


def info_of(listener: Listener, owner: Owner) -> ListenerInfo:
    """A listener for who looks from outside."""
    return ListenerInfo(listener.actor_urn, listener.address, type(owner.actor).__name__, owner.actor.actor_urn)
