"""The mailbox of an actor on the event loop, and the flag that tells that the actor has ended.

pykka's message loop blocks in ``inbox.get()``. Here an empty mailbox raises :class:`Idle` instead, which leaves that
loop and gives the thread back to the event loop; the next message schedules the actor's next turn. So pykka's own
loop runs every message, and none of its rules is written a second time.

``scheduled`` is the mailbox's one lock: true while the actor has a turn ahead, is in a turn, or waits in the middle
of a handler. Whoever finds it false, on the loop's thread, may give the actor a turn right there; messages that come
meanwhile queue up behind it. Other threads look at it and set it in one go, which is what the GIL is for here.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from pykka import ActorDeadError

from theater_tcp.errors import BlockingCall
from theater_tcp.event_loop import running_loop

if TYPE_CHECKING:
    from theater_tcp.event_loop import EventLoop

__all__ = ["Idle", "Mailbox", "StopFlag"]

TURN = 64
"""Messages that an actor may handle before the others have their turn."""

_guard = threading.RLock()  # a signal's handler may tell an actor while its thread does


class Idle(BaseException):
    """The mailbox is empty, or the turn is over: back to the event loop. Never seen by an actor's code."""


class TakesTurns(Protocol):
    """An actor, as its mailbox sees it."""

    def actor_run_turn(self) -> None: ...


class Mailbox:
    """A FIFO of envelopes that schedules its actor. ``put`` may be called by any thread.

    Args:
        loop: the event loop that gives the actor its turns.
        actor: its ``actor_run_turn`` is called on the loop's thread for each.
    """

    __slots__ = ("actor", "budget", "closed", "current", "first", "loop", "queue", "scheduled")

    def __init__(self, loop: EventLoop, actor: TakesTurns) -> None:
        self.loop = loop
        self.actor: TakesTurns | None = actor
        self.queue: deque[Any] | None = None  # made with the first message: an empty deque takes 760 bytes
        self.first: Any = None  # an envelope that overtakes: the end of a handler that had to wait
        self.current: Any = None  # the envelope being handled
        self.budget = 0
        self.scheduled = True  # until the actor's first turn
        self.closed = False

    def put(self, envelope: Any, /) -> None:
        """Queue an envelope; after the actor's end, whoever waits for its answer gets ``ActorDeadError``."""
        queue = self.queue
        if queue is None:
            with _guard:
                if self.queue is None:
                    self.queue = deque()
                queue = self.queue
        queue.append(envelope)
        if not self.scheduled:
            self.scheduled = True
            self.schedule()
        elif self.closed:
            self.refuse_all()

    def get(self) -> Any:
        """The next envelope of this turn.

        Raises:
            Idle: there is none.
        """
        if self.first is not None:
            self.current, self.first = self.first, None
            return self.current
        if self.budget and self.queue:
            self.budget -= 1
            self.current = envelope = self.queue.popleft()
            return envelope
        raise Idle

    def take_asker(self) -> Any:
        """The future of who asked for what is being handled, or None. pykka doesn't settle it then: its taker does."""
        envelope, asker = self.current, None
        if envelope is not None:
            asker, envelope.reply_to = envelope.reply_to, None
        return asker

    def empty(self) -> bool:
        """Whether no envelope waits."""
        return not self.queue and self.first is None

    def schedule(self) -> None:
        """Ask the loop for a turn; ``scheduled`` must be true already."""
        if self.actor is not None:
            self.loop.call_soon(self.actor.actor_run_turn)

    def rest(self) -> None:
        """End a turn: let go of the actor, or ask for another turn if messages have come."""
        self.current = None
        if self.queue:
            self.schedule()
            return
        self.scheduled = False
        if self.queue and not self.scheduled:  # another thread put one between the two lines
            self.scheduled = True
            self.schedule()

    def close(self) -> None:
        """The actor has ended: refuse what waits and what will come."""
        self.closed = self.scheduled = True
        self.actor = self.current = None
        self.refuse_all()

    def refuse_all(self) -> None:
        """Answer everything that waits with ``ActorDeadError``."""
        queue = self.queue
        while queue:
            try:
                envelope = queue.popleft()
            except IndexError:
                return  # another thread took the last one
            if envelope.reply_to is not None:
                error = ActorDeadError("the actor stopped before handling the message")
                envelope.reply_to.set_exception((ActorDeadError, error, None))


class StopFlag:
    """What actors use of ``threading.Event``, without the condition and lock of each (1 µs and 500 bytes an actor)."""

    __slots__ = ("_gates", "flag")

    def __init__(self) -> None:
        self.flag = False
        self._gates: list[threading.Lock] | None = None

    def is_set(self) -> bool:
        """Whether the actor has been stopped."""
        return self.flag

    def set(self) -> None:
        """The actor has been stopped; wake who waits for it."""
        self.flag = True
        if self._gates is not None:
            with _guard:
                gates, self._gates = self._gates, None
            for gate in gates or ():
                gate.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the actor has been stopped, at most ``timeout`` seconds; whether it has.

        Raises:
            BlockingCall: it has not, and this is the thread of an event loop.
        """
        if self.flag:
            return True
        if running_loop() is not None:
            raise BlockingCall("a wait for an actor's end would block the event loop's own thread")
        gate = threading.Lock()
        gate.acquire()
        with _guard:
            self._gates = [*(self._gates or ()), gate]
        try:
            # The flag is looked at after the gate is there: set() looks for gates after it has set.
            return self.flag or gate.acquire(timeout=-1 if timeout is None else max(timeout, 0)) or self.flag
        finally:
            with _guard:
                self._gates = [other for other in self._gates or () if other is not gate] or None
