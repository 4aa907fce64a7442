"""A Theater that a test runs turn by turn: no thread, no sockets, no time but the test's own.

Theory of operation. A :class:`Stage` is a :class:`~theater_tcp.runtime.Theater` whose event loop the test's thread
runs by hand. Whoever waits (:meth:`SteppedTheater.until`, a :class:`~theater_tcp.testing.peer.Peer`) lets the loop take
its turns until the condition holds or nothing moves any more: in memory, what does not move will never move, so that a
test fails at once and nothing ever hangs. Everything is deterministic: the same test takes the same turns.

All runs on the test's thread, which *is* the loop's thread as long as the stage stands: a handle's methods can be
called from the test, and a blocking ``get()`` of an unsettled future raises instead of hanging (use
:meth:`SteppedTheater.result`).
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import pykka

from theater_tcp.actor import LoopActor, hosting
from theater_tcp.address import parse
from theater_tcp.credentials import Credentials
from theater_tcp.errors import InvalidArgument
from theater_tcp.event_loop import EventLoop, running_loop
from theater_tcp.future import Future
from theater_tcp.runtime import Theater
from theater_tcp.testing.clock import FakeClock
from theater_tcp.testing.memory_network import MemoryConnector, MemoryListeningSocket, MemoryNetwork
from theater_tcp.testing.memory_poller import MemoryPoller
from theater_tcp.testing.peer import Peer

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from theater_tcp.settings import Settings

__all__ = ["Stage", "SteppedTheater"]

logger = logging.getLogger("theater_tcp.testing")

A = TypeVar("A", bound=pykka.Actor)

MAX_TURNS = 10_000
"""Turns that the loop may take until it comes to rest: more means that it spins."""


class SteppedTheater(Theater):
    """A Theater whose loop the test's thread runs turn by turn. The common part of all stages.

    Args:
        settings: limits and timeouts; the defaults when absent.
        loop: the event loop, which nobody runs yet.
        address: where :meth:`connect_to` lets its actors listen; port 0 for a new port each time.
    """

    def __init__(self, settings: Settings | None, loop: EventLoop, address: str) -> None:
        super().__init__(settings, loop.name, loop)
        self._address = address
        self._doors: dict[str, str] = {}
        self._peers: list[Peer] = []
        self._stepping = False
        self.can_reset = True
        """Whether the transport knows a reset; Unix sockets don't."""

    # -- running ------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Make this thread the loop's. ``with`` does it."""
        if running_loop() is not None:
            raise RuntimeError("this thread runs an event loop already: one stage at a time")
        self._begin()
        self._tokens.append(hosting.set(self))
        self.loop.enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.shutdown(0)
        finally:
            hosting.reset(self._tokens.pop())

    def step(self) -> None:
        """One turn of the loop, without waiting."""
        if self._stepping:
            raise RuntimeError("a stage can't go on from inside of an actor's turn")
        self._stepping = True
        try:
            self.loop.run_once(block=False)
        finally:
            self._stepping = False

    def settle(self) -> None:
        """Let the loop take its turns until nothing moves any more.

        Raises:
            AssertionError: it never comes to rest.
        """
        for _ in range(MAX_TURNS):
            self.step()
            moved = [peer for peer in self._peers if peer.pump()]
            if not moved and self.at_rest:
                return
        raise AssertionError(f"the event loop took {MAX_TURNS} turns and did not come to rest: something spins")

    @property
    def at_rest(self) -> bool:
        """Whether the loop has nothing to do now."""
        loop = self.loop
        return not loop.ready and loop.next_due > loop.now and not loop.poller.poll(0)

    def until(self, condition: Callable[[], bool], otherwise: Callable[[], str] | str = "it never came to it") -> None:
        """Let the loop take its turns until ``condition()`` holds.

        Args:
            condition: looked at whenever the loop is at rest; it may move things itself.
            otherwise: what the failure says, or a function that tells it.

        Raises:
            AssertionError: nothing moves any more, and it does not hold.
        """
        self.settle()
        while not condition():
            if self.at_rest:
                self._wait_for_more(otherwise)
            self.settle()

    def _wait_for_more(self, otherwise: Callable[[], str] | str) -> None:
        raise NotImplementedError

    def result(self, future: pykka.Future[Any]) -> Any:
        """The value of a future, for which the loop takes its turns; or raises what it failed with.

        Args:
            future: as ``ref.ask(message, block=False)`` or ``connection.receive(100)`` gives it.

        Raises:
            AssertionError: it is not settled when nothing moves any more.
        """
        if not isinstance(future, Future):
            raise InvalidArgument(f"a stage can wait for the runtime's futures only, not for {future!r}")
        waiting = future
        self.until(lambda: waiting.done, "the future is not settled")
        return waiting.get()

    def shutdown(self, drain_timeout: float | None = None) -> bool:
        """Go down; see :meth:`Theater.shutdown <theater_tcp.runtime.Theater.shutdown>`. Fake time passes meanwhile."""
        if not self._stopped.is_set():
            self.request_shutdown(drain_timeout)
            if not self._stopped.is_set():  # it was started
                try:
                    self._run_to_the_end()
                finally:
                    self._close()
                    self.loop.leave()
                    hosting.reset(self._tokens.pop())
                    for peer in self._peers:
                        peer.socket.close()
        return self._drain is None or self._drain.clean

    def _run_to_the_end(self) -> None:
        raise NotImplementedError

    # -- actors and their peers -----------------------------------------------------------------------------------

    def spawn(self, actor_class: type[A], *args: Any, **kwargs: Any) -> pykka.ActorRef[A]:
        """Start an actor; see :meth:`Theater.spawn <theater_tcp.runtime.Theater.spawn>`."""
        if self._stepping:
            return super().spawn(actor_class, *args, **kwargs)
        started = self.spawn_async(actor_class, *args, **kwargs)
        self.until(lambda: started.done, f"on_start of {actor_class.__name__} waits for something that does not come")
        return started.get()

    def dial(self, address: str, **capacities: Any) -> Peer:
        """Connect to an actor that listens; it has handled the connection's arrival when this returns.

        Args:
            address: where it listens, as ``127.0.0.1:25``.
            capacities: in memory: those of this connection, see :class:`Stage`.

        Raises:
            ConnectionRefusedError: nobody listens there.
        """
        raise NotImplementedError

    def peer_at(self, sock: Any) -> Peer:
        """A peer with this non-blocking socket, which is closed at the latest when the stage goes down."""
        peer = Peer(self, sock)
        self._peers.append(peer)
        return peer

    def connect_to(self, ref: pykka.ActorRef[Any], **capacities: Any) -> Peer:
        """A new connection of an actor that implements ``handle_connection``, whether it listens or not."""
        address = self._doors.get(ref.actor_urn)
        if address is None:
            address = self._doors[ref.actor_urn] = self.listen_for(ref, self._address).address
        return self.dial(address, **capacities)


class _Turns:
    """In the place of :class:`theater_tcp.workers.Workers`: what would block is done in the loop's next turn."""

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop

    def submit(self, call: Callable[..., Any], args: tuple[Any, ...], outcome: Future[Any]) -> None:
        self._loop.submit(call, *args, into=outcome)

    def close(self) -> None:
        pass


class Stage(SteppedTheater):
    """Actors without sockets, threads or time: listeners, connections and the clock are in memory.

    ::

        with Stage() as stage:
            stage.spawn(Echo)                            # listens at 127.0.0.1:7000
            peer = stage.dial("127.0.0.1:7000")
            peer.send(b"hello")
            assert peer.receive() == b"hello"
            stage.advance(30)                            # seconds that pass at once

    Actors with a thread of their own need a real :class:`~theater_tcp.runtime.Theater`.

    Args:
        settings: limits and timeouts; the defaults when absent.
        order: see :class:`~theater_tcp.testing.memory_poller.MemoryPoller`.
        capacities: of all connections: ``receive_capacity``, ``send_capacity`` (bytes) or ``lockstep``, see
            :func:`~theater_tcp.testing.memory_socket.memory_pair`.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        order: Callable[[list[tuple[int, int]]], object] | None = None,
        **capacities: Any,
    ) -> None:
        self.clock = FakeClock()
        """The time of this stage."""
        self.poller = MemoryPoller(order)
        super().__init__(settings, EventLoop(self.poller, self.clock, "stage"), "127.0.0.1:0")
        self._memory = MemoryNetwork(**capacities)
        network: Any = self.network  # what is in memory has no more than the methods that are used
        network.connector = MemoryConnector(self.loop, self._memory)
        network.open_listening_socket = self._memory.open_listening_socket
        network.workers = _Turns(self.loop)
        network.credentials = Credentials(self.loop, network.workers, network.metrics)
        network.accept_from = self._memory.accept_from
        network.file_of = self._memory.file_of

    def advance(self, seconds: float) -> None:
        """Let time pass: every timer on the way has its turn at its time."""
        end = self.clock.now + seconds
        self.settle()
        while self.loop.next_due <= end:
            self.clock.advance(max(self.loop.next_due - self.clock.now, 0.0))
            self.settle()
        self.clock.advance(max(end - self.clock.now, 0.0))
        self.settle()

    def dial(self, address: str, **capacities: Any) -> Peer:
        """See :meth:`SteppedTheater.dial`. A full backlog gives ``TimeoutError``."""
        sock = self._memory.connect(parse(address), **capacities)
        if sock is None:
            raise TimeoutError(f"{address}: the backlog is full")
        self.settle()
        return self.peer_at(sock)

    def listen(self, address: str, backlog: int = 128) -> MemoryListeningSocket:
        """Be a server that actors can connect to; :meth:`accept` takes their connections.

        Args:
            address: any address that ``connect`` takes, names included: ``"mail.example:25"``.
            backlog: connections that may wait to be accepted. With 0 the server never answers.
        """
        return self._memory.listen(parse(address), backlog)

    def accept(self, listening: MemoryListeningSocket) -> Peer:
        """The peer at the server's end of a connection that an actor opened.

        Raises:
            AssertionError: no actor connects.
        """
        self.until(lambda: bool(listening.readiness()), f"nobody connects to {listening.address}")
        sock, _ = listening.accept()
        return self.peer_at(sock)

    def spawn_async(self, actor_class: type[A], *args: Any, **kwargs: Any) -> Future[pykka.ActorRef[A]]:
        """See :meth:`Theater.spawn_async <theater_tcp.runtime.Theater.spawn_async>`; for actors on the loop only."""
        is_actor = isinstance(actor_class, type) and issubclass(actor_class, pykka.Actor)
        if is_actor and not issubclass(actor_class, LoopActor):
            raise InvalidArgument(f"{actor_class.__name__} has a thread of its own: a Stage has none, use a Theater")
        return super().spawn_async(actor_class, *args, **kwargs)

    def run_asyncio(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
        """An asyncio coroutine, run from beginning to end in the loop's next turn. It can't wait for actors."""
        outcome: Future[Any] = Future()
        self.loop.submit(partial(asyncio.run, coroutine), into=outcome)
        return outcome

    def _wait_for_more(self, otherwise: Callable[[], str] | str) -> None:
        raise AssertionError(otherwise if isinstance(otherwise, str) else otherwise())

    def _run_to_the_end(self) -> None:
        while not self.loop.stopping:
            self.settle()
            if not self.loop.stopping:
                self.clock.advance(max(self.loop.next_due - self.clock.now, 0.0))
