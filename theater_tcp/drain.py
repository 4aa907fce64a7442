"""The way down of a runtime: listeners, connections, actors, in this order and in bounded time."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast

import pykka

from theater_tcp.errors import BlockingCall
from theater_tcp.mailbox import Mailbox

if TYPE_CHECKING:
    from collections.abc import Callable

    from theater_tcp.actor import LoopActor
    from theater_tcp.event_loop import EventLoop, Timer
    from theater_tcp.network import Network

__all__ = ["STOP_TIMEOUT", "Drain", "is_there", "loop_actor_of", "loop_of"]

logger = logging.getLogger("theater_tcp.runtime")

MIN_PAUSE, MAX_PAUSE = 0.0005, 0.02
"""Seconds between two looks at what is left on the way down: short at first, since mostly there is nothing."""

STOP_TIMEOUT = 5.0
"""Seconds that an actor may take in ``on_stop`` while the runtime goes down."""


class Drain:
    """The way down, step by step, on the loop's thread.

    Args:
        network: whose connections and listeners end.
        living: the actors of the runtime that are alive, in the order of their starts.
        timeout: seconds for the connections to end by themselves.
    """

    def __init__(self, network: Network, living: Callable[[], list[pykka.ActorRef[Any]]], timeout: float) -> None:
        self._network = network
        self._living = living
        self._loop = network.loop
        self.clean = True
        """Whether every connection ended by itself, so far."""
        self._aborting = False
        self._stopping: list[tuple[pykka.ActorRef[Any], pykka.Future[bool]]] | None = None
        self._pause = MIN_PAUSE
        self._next: Timer | None = None
        self._network.draining = True
        self._deadline = self._hurry = self._loop.now + timeout
        if self._network.connections:
            logger.info("going down: %d connections have %g s to end", len(self._network.connections), timeout)
        for listener in list(self._network.listeners.values()):
            listener.close_now()
        for connection in list(network.connections):
            if connection.hidden:  # in its first handshake: nobody knows of it
                connection.owner_ended()
        for owner in network.ownership.owners():
            if owner.drain is not None:
                owner.drain()
            if owner.hears("on_drain"):
                self._tell(owner.actor.actor_ref)
        self._look()

    @staticmethod
    def _tell(ref: pykka.ActorRef[Any]) -> None:
        try:
            ref.tell(pykka.messages.ProxyCall(attr_path=("on_drain",), args=(), kwargs={}))
        except pykka.ActorDeadError:
            pass

    def shorten(self, timeout: float) -> None:
        """A later request may hurry."""
        self._deadline = min(self._deadline, self._loop.now + timeout)
        self._loop.call_soon(self._look)

    def _look(self) -> None:
        """One step of the way down. The next is set first: Ctrl-C strikes anywhere, and must not end it halfway."""
        if self._next is not None:
            self._next.cancel()
        self._pause = min(2 * self._pause, MAX_PAUSE)
        self._next = self._loop.call_later(self._pause, self._look)
        if self._stopping is not None:
            self._await_actors(self._stopping)
        elif not self._network.connections:
            self._stop_actors()
        elif self._loop.now >= self._deadline:
            if self._aborting:
                self._stop_actors()  # an owner does not even handle its on_close: go on without
            else:
                self._abort()

    def _abort(self) -> None:
        """The time is over for connections to end by themselves."""
        self._aborting = True
        self._deadline = self._loop.now + STOP_TIMEOUT
        self.clean = False
        connections = list(self._network.connections)
        logger.warning("%d connections did not end in time and are reset", len(connections))
        self._interrupt(self._living())  # first, so that every owner can hear of the end
        for connection in connections:
            connection.abort_for_shutdown()
        self._look_soon()

    def _look_soon(self) -> None:
        self._pause = MIN_PAUSE
        self._loop.call_soon(self._look)

    @staticmethod
    def _interrupt(refs: list[pykka.ActorRef[Any]]) -> None:
        for ref in refs:
            actor = loop_actor_of(ref)
            if actor is not None:
                actor.actor_interrupt()

    def _stop_actors(self) -> None:
        living = self._living()
        self._interrupt([ref for ref in living if getattr(loop_actor_of(ref), "actor_starting", False)])
        self._hurry = max(min(self._deadline, self._loop.now + STOP_TIMEOUT), self._loop.now)
        self._stopping = [(ref, ref.stop(block=False)) for ref in reversed(living)]
        self._look_soon()

    def _await_actors(self, stopping: list[tuple[pykka.ActorRef[Any], pykka.Future[bool]]]) -> None:
        """Whether the actors have stopped. A handler that waits gives way to on_stop, which may take its time."""
        waiting = [(ref, stopped) for ref, stopped in stopping if not is_there(stopped)]
        if (waiting or self._loop.tasks) and self._loop.now < self._hurry + STOP_TIMEOUT:
            self._stopping = waiting  # if none: an on_stop may have begun before
            if self._loop.now >= self._hurry:
                self._interrupt([ref for ref, _ in waiting if ref.is_alive()])
            return
        for ref, _ in waiting:
            logger.warning("%s did not stop in %g s", ref, STOP_TIMEOUT)
        self._stopping = []  # each is told once, though there may be another look before the loop ends
        self._loop.stop()


def loop_of(ref: pykka.ActorRef[Any]) -> EventLoop | None:
    """The event loop of an actor that has one."""
    return ref.actor_inbox.loop if isinstance(ref.actor_inbox, Mailbox) else None


def loop_actor_of(ref: pykka.ActorRef[Any]) -> LoopActor | None:
    """The actor behind a reference, if it lives on a loop."""
    return cast("LoopActor | None", ref.actor_inbox.actor) if isinstance(ref.actor_inbox, Mailbox) else None


def is_there(future: pykka.Future[Any]) -> bool:
    """Whether a future is settled; never waits."""
    try:
        future.get(timeout=0)
    except (BlockingCall, pykka.Timeout):
        return False
    except BaseException:
        return True  # what on_stop raised was logged, or has ended everything already
    return True
