"""The interface for actors on the event loop: ``self.tcp``, and handles on connections and listeners.

Each method is one call of the interface ``theater:simple/tcp`` or of what this project adds to it. What can be answered
at once returns or raises on the spot; what may have to wait returns a future to ``await``. A handle belongs to one
owner: after a transfer, the old owner's handle raises ``NotOwner``. Handles are for the loop's own thread; a
:class:`~pykka.ThreadingActor` uses :mod:`theater_tcp.blocking`.
"""

from __future__ import annotations

from threading import get_ident
from typing import TYPE_CHECKING, Any

import pykka

from theater_tcp.actor import LoopActor, hosting
from theater_tcp.connection import Connection
from theater_tcp.connection_state import CLOSING
from theater_tcp.future import Future
from theater_tcp.listener import Listener
from theater_tcp.opening import open_connection, open_listener

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from theater_tcp.messages import Turn
    from theater_tcp.network import Network
    from theater_tcp.ownership import Owner
    from theater_tcp.runtime import Theater
    from theater_tcp.settings import Options, Settings
    from theater_tcp.tls_engine import TlsInfo

__all__ = ["ConnectionHandle", "ListenerHandle", "Tcp", "TcpActor"]


class ConnectionHandle:
    """An owner's hold on one connection.

    Every method raises :class:`~theater_tcp.errors.NotFound` when the connection has ended and
    :class:`~theater_tcp.errors.NotOwner` when it belongs to another actor; what else a call refuses in which phase is
    in ``docs/connection-life-cycle.md``. But for what is only looked at, they raise
    :class:`~theater_tcp.errors.WrongThread` on any thread but the loop's.
    """

    __slots__ = ("_core",)

    def __init__(self, core: Connection) -> None:
        self._core = core

    def __repr__(self) -> str:
        return f"<ConnectionHandle {self.id} {self._core.state!r}>"

    @property
    def id(self) -> str:
        """The connection's id: the URN of its actor, the same for its whole life and for every owner."""
        return self._core.actor_urn

    @property
    def actor_ref(self) -> pykka.ActorRef[Connection]:
        """pykka's reference to the connection's actor."""
        return self._core.actor_ref

    @property
    def peer_address(self) -> str:
        """The peer's address as text, ``host:port``, ``[v6]:port`` or ``unix:/path``; still there in ``on_close``."""
        self._core.check_owner(self)
        return self._core.peer_address()

    @property
    def local_address(self) -> str:
        """The local address as text."""
        self._core.check_owner(self)
        return self._core.local_address()

    def activate(self) -> None:
        """Make a pending connection open, in passive mode.

        Raises:
            AlreadyActive: it was activated before; harmless.
        """
        self._here().activate(self)

    def set_active(self, mode: str | int) -> None:
        """Change how data arrives, from every mode to every mode.

        Args:
            mode: ``"passive"``: by ``receive``; ``"active"``: by ``on_data``; ``"once"``: one ``on_data``, then
                passive; a number n from 1 to 32767: n times ``on_data``, then passive and ``on_passive``.
        """
        self._here().set_active(self, mode)

    def transfer(self, target: pykka.ActorRef[Any] | str) -> None:
        """Hand the connection to another actor, in one step. It gets it open and passive, with every unread byte.

        Args:
            target: reference, URN or name of an actor of the same Theater that implements
                ``handle_connection_transfer`` or ``handle_connection``.

        Raises:
            NoSuchActor: the target is dead, unknown or implements neither; nothing has changed.
        """
        core = self._here()
        core.check_owner(self)
        core.transfer(self, core.network.ownership.resolve(target))

    def send(self, data: bytes | bytearray | memoryview) -> int:
        """Send all of ``data``; what the kernel does not take waits here, in order.

        Returns:
            the number of bytes taken, always all of them.

        Raises:
            LimitReached: more than ``write_buffer_hard_limit`` would wait; the connection is closed.
        """
        core = self._core
        if (
            core.handle is self
            and core.sends_directly
            and data.__class__ is bytes
            and core.network.loop.thread_id == get_ident()
        ):
            return core.send_directly(data)
        return self._here().send(self, data)

    def receive(self, max_bytes: int, timeout: float | None = None) -> Future[bytes]:
        """Await the next data of a passive connection.

        Args:
            max_bytes: the most to receive, 1 to 2**32 - 1 bytes; nothing of that size is allocated.
            timeout: seconds to wait; by default the option ``receive_timeout``.

        Returns:
            a future of 1 to ``max_bytes`` bytes, or of ``b""`` at the end of the stream, again at every later call.

        Raises:
            WrongMode: data is pushed.
            Busy: another ``receive`` waits.
            TimedOut: from the future: nothing came; the connection goes on.
        """
        return _as_future(self._here().receive(self, max_bytes, timeout))

    def drained(self) -> Future[None]:
        """Await that no more than ``write_buffer_limit`` bytes wait to be sent (once above it: half of it)."""
        return self._here().drained(self)

    def shutdown_write(self) -> None:
        """Half-close: what was sent goes out, then FIN; receiving goes on."""
        self._here().shutdown_write(self)

    def upgrade_to_tls_server(self) -> Future[None]:
        """Go on in TLS, as the server (STARTTLS): await the handshake. Id, actor and owner stay the same.

        What was sent before goes out first, in plaintext. What the peer sent before must have been received: anything
        unread is refused, but for the first handshake record of a client that is early. While the handshake is under
        way ``send``, ``receive``, ``set_active`` and ``transfer`` are ``busy``. The certificate is that of the option
        ``server_tls``. An owner that can't wait here implements ``on_tls``.

        Raises:
            WrongMode: data is pushed; ``set_active("passive")`` first.
            AlreadyTls: it is encrypted already.
            TlsNotConfigured: there is no ``server_tls``.
            Busy: a ``receive`` waits, or a handshake is under way.
            PlaintextBeforeTls: from the future: unread bytes were there; the connection is closed.
            TlsFailed: from the future: the handshake failed, or took longer than ``handshake_timeout``; the connection
                is closed.
        """
        return self._here().upgrade_to_tls_server(self)

    def upgrade_to_tls_client(self, server_name: str) -> Future[None]:
        """Go on in TLS, as the client (STARTTLS); see :meth:`upgrade_to_tls_server`.

        Args:
            server_name: the name or address that is asked for (SNI) and that the server's certificate must show.
        """
        return self._here().upgrade_to_tls_client(self, server_name)

    @property
    def tls_info(self) -> TlsInfo | None:
        """What the two ends agreed on in TLS; None in plaintext. Still there in ``on_close``."""
        self._core.check_owner(self)
        return self._core.tls_info()

    @property
    def tls_available(self) -> bool:
        """Whether ``upgrade_to_tls_server`` could begin: the connection is plaintext, and ``server_tls`` is set."""
        self._core.check_owner(self)
        return self._core.tls_available()

    def set_framing(self, framing: str, max_frame: int | None = None) -> None:
        """Cut the stream into chunks by another rule, from the next chunk on.

        Args:
            framing: ``"raw"``, ``"line"``, ``"length-1"``, ``"length-2"`` or ``"length-4"``. What is unread is cut
                anew, but for the rest of a chunk whose beginning a ``receive`` took: that stays a chunk.
            max_frame: the longest line or frame in bytes; by default ``read_buffer_limit``.
        """
        self._here().set_options(self, {"framing": framing, "max_frame": max_frame})

    def set_options(self, **options: Any) -> None:
        """Change options of this connection; see :class:`~theater_tcp.settings.Options` for names and units."""
        self._here().set_options(self, options)

    def close(self) -> None:
        """Flush what was sent (at most for ``linger_timeout``), then FIN. Returns at once; no callback follows."""
        self._here().close(self)

    def abort(self) -> None:
        """RST, at once; what was not sent is lost. No callback follows."""
        self._here().abort(self)

    def _here(self) -> Connection:
        """The connection, for a call that may be made on the loop's thread only; after the end it matters no more."""
        core = self._core
        if core.handle is self:
            core.network.loop.check_thread()
        return core


class ListenerHandle:
    """An owner's hold on one listener."""

    __slots__ = ("_core",)

    def __init__(self, core: Listener) -> None:
        self._core = core

    def __repr__(self) -> str:
        return f"<ListenerHandle {self.address}>"

    @property
    def id(self) -> str:
        """The listener's id: the URN of its actor."""
        return self._core.actor_urn

    @property
    def actor_ref(self) -> pykka.ActorRef[Listener]:
        """pykka's reference to the listener's actor."""
        return self._core.actor_ref

    @property
    def address(self) -> str:
        """The address that is bound, with the real port."""
        return self._core.address

    def accept(self) -> Future[ConnectionHandle]:
        """Await the next connection, pending. Callers are served in turn, and before ``handle_connection``.

        Raises:
            Closed: from the future: the listener was closed meanwhile.
        """
        return self._here().accept(self)

    def close(self) -> None:
        """Stop listening; the connections that were accepted go on."""
        self._here().close(self)

    def _here(self) -> Listener:
        """See the same of :class:`ConnectionHandle`."""
        core = self._core
        if core.handle is self:
            core.network.loop.check_thread()
        return core


class Tcp:
    """The calls of the interface that need no connection. One for each actor, at ``self.tcp``."""

    __slots__ = ("_network", "_owner")

    def __init__(self, network: Network, owner: Owner) -> None:
        self._network = network
        self._owner = owner

    @property
    def network(self) -> Network:
        """What all connections of the runtime share."""
        return self._network

    @property
    def options(self) -> Options:
        """What this actor's connections have where it says nothing else."""
        return self._owner.settings.options

    @property
    def settings(self) -> Settings:
        """This actor's settings, its permissions among them: what ``theater.spawn_with`` gives to a child."""
        return self._owner.settings

    def listen(self, address: str, **options: Any) -> ListenerHandle:
        """Listen at an address.

        Args:
            address: ``host:port``, ``[v6]:port``, ``*:port``, ``unix:/path``; port 0 lets the system choose.
            options: names of :class:`~theater_tcp.settings.ListenOptions` and, for the connections that will be
                accepted, of :class:`~theater_tcp.settings.Options`.

        Raises:
            AddressInUse: somebody listens there already.
            Denied: the actor's permissions don't allow it.
            InvalidArgument: the address or an option is wrong, or a file of ``server_tls`` is.
        """
        self._network.loop.check_thread()
        handle: ListenerHandle = open_listener(self._network, self._owner, address, options, ListenerHandle).handle
        return handle

    def connect(self, address: str, timeout: float | None = None, **options: Any) -> Future[ConnectionHandle]:
        """Await a connection to an address; it is open and passive.

        Args:
            address: ``host:port``, ``[v6]:port`` or ``unix:/path``.
            timeout: seconds for name resolution and all attempts; by default the setting ``connect_timeout``. A TLS
                handshake comes after it, and has ``handshake_timeout``.
            options: names of :class:`~theater_tcp.settings.Options`. With ``client_tls``, and its ``auto_handshake``,
                the connection is TLS from the first byte.

        Raises:
            InvalidArgument: the address or an option is wrong, or a file of ``client_tls`` is.
            Denied: the actor's permissions don't allow it; from the future, if it is for what the name resolved to.
            Refused, Unreachable, TimedOut, TlsFailed: from the future.
        """
        self._network.loop.check_thread()
        return open_connection(self._network, self._owner, address, timeout, options)


class TcpActor(LoopActor):
    """An actor on the event loop that may own connections and listeners.

    Subclasses implement what they need of these callbacks, as ``def`` or ``async def``:

    - ``handle_connection(connection)``: a listener of this actor accepted a connection; it is pending.
    - ``handle_connection_transfer(connection)``: another actor handed one over; it is open and passive.
    - ``on_data(connection, data)``: a chunk (bytes) of a connection in active, once or count mode.
    - ``on_passive(connection)``: the count ran out.
    - ``on_tls(connection)``: an upgrade to TLS is done; the connection is passive.
    - ``on_close(connection, reason)``: the connection ended, and not by this actor's ``close`` or ``abort``.
    - ``on_drain()``: the runtime is about to end; no new connections will come.

    An exception in a callback ends the connection it was about (``callback: <class>``), nothing else.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._theater: Theater = hosting.get()
        self._theater_owner = self._theater.ownership.enrol(self, ConnectionHandle, self)
        self._theater_tcp: Tcp | None = None

    @property
    def tcp(self) -> Tcp:
        """The TCP interface."""
        if self._theater_tcp is None:
            self._theater_tcp = Tcp(self._theater.network, self._theater_owner)
        return self._theater_tcp

    @property
    def theater(self) -> Theater:
        """The runtime this actor lives in."""
        return self._theater

    @property
    def connections(self) -> list[ConnectionHandle]:
        """Handles on the connections that this actor owns now, but for those that are ending."""
        cores = self._theater_owner.connections
        return [core.handle for core in cores if core.state.phase is not CLOSING and not core.hidden]

    def to_thread(self, call: Callable[..., Any], *args: Any) -> Future[Any]:
        """Await ``call(*args)`` done by one of the runtime's worker threads: for what blocks."""
        return self._theater.to_thread(call, *args)

    def asyncio(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
        """Await an asyncio coroutine, run on the runtime's companion asyncio loop, a thread of its own."""
        return self._theater.run_asyncio(coroutine)

    def tcp_turn(self, turn: Turn) -> Any:
        """A connection's turn came out of the mailbox. Called by the runtime."""
        return turn.connection.take_turn(turn, self)

    def _ended(self) -> None:
        self._theater.ownership.ended(self._theater_owner)


def _as_future(outcome: Any) -> Future[Any]:
    if isinstance(outcome, Future):
        return outcome
    future: Future[Any] = Future()
    future.set(outcome)
    return future
