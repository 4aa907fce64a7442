"""The interface for pykka actors with a thread of their own: the same names as in :mod:`theater_tcp.tcp`, and they
block.

Each call is done on the event loop's thread while the actor's thread waits; callbacks run on the actor's thread, as
messages of its mailbox. The methods raise what their counterparts raise, and :class:`~theater_tcp.errors.ShutDown`
when the runtime has ended.
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import pykka

from theater_tcp.actor import hosting
from theater_tcp.errors import ShutDown
from theater_tcp.event_loop import running_loop
from theater_tcp.future import Future, refuse_to_block
from theater_tcp.opening import open_connection, open_listener
from theater_tcp.ownership import CALLBACKS

if TYPE_CHECKING:
    from collections.abc import Callable

    from theater_tcp.connection import Connection
    from theater_tcp.listener import Listener
    from theater_tcp.messages import Turn
    from theater_tcp.network import Network
    from theater_tcp.ownership import Owner
    from theater_tcp.runtime import Theater
    from theater_tcp.settings import Options, Settings
    from theater_tcp.tls_engine import TlsInfo

__all__ = ["BlockingConnectionHandle", "BlockingListenerHandle", "BlockingTcp", "TcpMixin"]

T = TypeVar("T")


def _on_loop(network: Network, call: Callable[..., Any], *args: Any) -> Any:
    refuse_to_block("a call through a blocking handle")
    outcome: Future[Any] = Future()
    network.loop.submit(call, *args, into=outcome)
    return outcome.get()


class BlockingConnectionHandle:
    """An owner's hold on one connection, for an actor with a thread of its own.

    The calls are those of :class:`~theater_tcp.tcp.ConnectionHandle`; ``send``, ``receive`` and ``drained`` wait.
    """

    __slots__ = ("_core",)

    def __init__(self, core: Connection) -> None:
        self._core = core

    def __repr__(self) -> str:
        return f"<BlockingConnectionHandle {self.id}>"

    @property
    def id(self) -> str:
        """The connection's id: the URN of its actor."""
        return self._core.actor_urn

    @property
    def actor_ref(self) -> pykka.ActorRef[Connection]:
        """pykka's reference to the connection's actor."""
        return self._core.actor_ref

    @property
    def peer_address(self) -> str:
        """The peer's address as text."""
        return str(self._call(self._for_owner, self._core.peer_address))

    @property
    def local_address(self) -> str:
        """The local address as text."""
        return str(self._call(self._for_owner, self._core.local_address))

    def activate(self) -> None:
        """Make a pending connection open, in passive mode."""
        self._call(self._core.activate, self)

    def set_active(self, mode: str | int) -> None:
        """Change how data arrives: ``"passive"``, ``"active"``, ``"once"`` or a count."""
        self._call(self._core.set_active, self, mode)

    def transfer(self, target: pykka.ActorRef[Any] | str) -> None:
        """Hand the connection to another actor, in one step."""
        self._call(self._transfer, target)

    def send(self, data: bytes | bytearray | memoryview) -> int:
        """Send all of ``data``; waits while more than ``write_buffer_limit`` bytes are on their way.

        Raises:
            TimedOut: the peer took nothing for ``send_timeout``; the connection is closed.
        """
        return int(self._call(self._core.send_in_pieces, self, data))

    def receive(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Wait for the next data of a passive connection; ``b""`` at the end of the stream."""
        return bytes(self._call(self._core.receive, self, max_bytes, timeout))

    def drained(self) -> None:
        """Wait until no more than ``write_buffer_limit`` bytes are on their way."""
        self._call(self._core.drained, self)

    def shutdown_write(self) -> None:
        """Half-close: what was sent goes out, then FIN; receiving goes on."""
        self._call(self._core.shutdown_write, self)

    def upgrade_to_tls_server(self) -> None:
        """Go on in TLS, as the server; waits for the handshake.

        Raises:
            TlsFailed: it failed or took longer than ``handshake_timeout``; the connection is closed.
        """
        self._call(self._core.upgrade_to_tls_server, self)

    def upgrade_to_tls_client(self, server_name: str) -> None:
        """Go on in TLS, as the client, with a server that proves to be ``server_name``; waits for the handshake."""
        self._call(self._core.upgrade_to_tls_client, self, server_name)

    @property
    def tls_info(self) -> TlsInfo | None:
        """What the two ends agreed on in TLS; None in plaintext."""
        info: TlsInfo | None = self._call(self._for_owner, self._core.tls_info)
        return info

    @property
    def tls_available(self) -> bool:
        """Whether ``upgrade_to_tls_server`` could begin."""
        return bool(self._call(self._for_owner, self._core.tls_available))

    def set_framing(self, framing: str, max_frame: int | None = None) -> None:
        """Cut the stream into chunks by another rule, from the next chunk on."""
        self._call(self._core.set_options, self, {"framing": framing, "max_frame": max_frame})

    def set_options(self, **options: Any) -> None:
        """Change options of this connection; see :class:`~theater_tcp.settings.Options`."""
        self._call(self._core.set_options, self, options)

    def close(self) -> None:
        """Flush what was sent, then FIN. Returns at once; no callback follows."""
        self._call(self._core.close, self)

    def abort(self) -> None:
        """RST, at once. No callback follows."""
        self._call(self._core.abort, self)

    def _call(self, call: Callable[..., Any], *args: Any) -> Any:
        return _on_loop(self._core.network, call, *args)

    def _for_owner(self, call: Callable[[], T]) -> T:
        self._core.check_owner(self)
        return call()

    def _transfer(self, target: pykka.ActorRef[Any] | str) -> None:
        self._core.check_owner(self)
        self._core.transfer(self, self._core.network.ownership.resolve(target))


class BlockingListenerHandle:
    """An owner's hold on one listener, for an actor with a thread of its own."""

    __slots__ = ("_core",)

    def __init__(self, core: Listener) -> None:
        self._core = core

    def __repr__(self) -> str:
        return f"<BlockingListenerHandle {self.address}>"

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

    def accept(self) -> BlockingConnectionHandle:
        """Wait for the next connection, pending.

        Raises:
            Closed: the listener was closed meanwhile.
        """
        handle: BlockingConnectionHandle = _on_loop(self._core.network, self._core.accept, self)
        return handle

    def close(self) -> None:
        """Stop listening; the connections that were accepted go on."""
        _on_loop(self._core.network, self._core.close, self)


class BlockingTcp:
    """``connect`` and ``listen`` for an actor with a thread of its own, at ``self.tcp``."""

    __slots__ = ("_network", "_owner")

    def __init__(self, network: Network, owner: Owner) -> None:
        self._network = network
        self._owner = owner

    @property
    def options(self) -> Options:
        """What this actor's connections have where it says nothing else."""
        return self._owner.settings.options

    @property
    def settings(self) -> Settings:
        """This actor's settings, its permissions among them: what ``theater.spawn_with`` gives to a child."""
        return self._owner.settings

    def listen(self, address: str, **options: Any) -> BlockingListenerHandle:
        """Listen at an address; see :meth:`theater_tcp.tcp.Tcp.listen`."""
        call = partial(open_listener, self._network, self._owner, address, options, BlockingListenerHandle)
        handle: BlockingListenerHandle = _on_loop(self._network, call).handle
        return handle

    def connect(self, address: str, timeout: float | None = None, **options: Any) -> BlockingConnectionHandle:
        """Wait for a connection to an address; see :meth:`theater_tcp.tcp.Tcp.connect`."""
        call = partial(open_connection, self._network, self._owner, address, timeout, options)
        handle: BlockingConnectionHandle = _on_loop(self._network, call)
        return handle


class TcpMixin(pykka.Actor):
    """Lets any actor with a thread of its own have connections: ``class Greeter(TcpMixin, pykka.ThreadingActor)``.

    The callbacks are those of :class:`~theater_tcp.tcp.TcpActor`, as plain methods on the actor's thread. To be
    started by ``theater.spawn`` or, inside ``with Theater():``, by its own ``start``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        theater = hosting.get(None)
        if theater is None:
            raise RuntimeError(f"{type(self).__name__} lives in a Theater: start it by theater.spawn(...)")
        if theater.network.draining:
            raise ShutDown
        super().__init__(*args, **kwargs)
        self._theater: Theater = theater
        self._theater_owner = theater.ownership.enrol(self, BlockingConnectionHandle, None)
        self._theater_tcp = BlockingTcp(theater.network, self._theater_owner)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a callback that is ``async def``: nobody would run its coroutine."""
        super().__init_subclass__(**kwargs)
        for name in (*CALLBACKS, "on_start", "on_stop", "on_failure"):
            if inspect.iscoroutinefunction(getattr(cls, name, None)):
                raise TypeError(f"{cls.__name__}.{name} is async def: an actor with a thread of its own has plain def")

    @property
    def tcp(self) -> BlockingTcp:
        """The TCP interface."""
        return self._theater_tcp

    @property
    def theater(self) -> Theater:
        """The runtime this actor lives in."""
        return self._theater

    def tcp_turn(self, turn: Turn) -> None:
        """A connection's turn came out of the mailbox. Called by the runtime."""
        connection, loop = turn.connection, self._theater.network.loop
        try:
            callback = _on_loop(connection.network, connection.begin, turn)
        except ShutDown:
            return
        if callback is None:
            return
        failure: BaseException | None = None
        try:
            getattr(self, callback.name)(*callback.arguments)
        except BaseException as error:
            failure = error
            if not isinstance(error, Exception):
                raise  # SystemExit and its like: pykka stops all actors
        finally:
            loop.call_soon(partial(connection.end, self._theater_owner, callback.name, failure))

    def _stop(self) -> None:
        super()._stop()
        self._ended()  # before pykka answers: who has stopped an actor finds its listeners closed

    def _actor_loop_teardown(self) -> None:
        self._ended()  # where a failure was the end
        super()._actor_loop_teardown()

    def _ended(self) -> None:
        network, owner = self._theater.network, self._theater_owner
        if owner.alive and running_loop() is network.loop:  # which could not give it a thread
            network.ownership.ended(owner)
        elif owner.alive:
            try:
                _on_loop(network, network.ownership.ended, owner)
            except ShutDown:
                pass
