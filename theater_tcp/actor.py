"""The pykka actor that lives on the event loop.

:class:`LoopActor` keeps everything that pykka documents (references, ``tell``, ``ask``, proxies, failure rules,
registry) and changes what carries it: no thread, but turns on the loop; an actor costs microseconds and bytes.
pykka's own ``_actor_loop_running`` handles each message. Handlers may be ``async def``: while one waits, the mailbox
waits too, so that an actor does one thing at a time; its end overtakes the queue and is answered by pykka's rules as
any message.

Private names of pykka are overridden here and checked at import by :mod:`theater_tcp.pykka_internals`.
"""

from __future__ import annotations

import logging
import sys
import threading
import weakref
from contextvars import ContextVar
from functools import partial
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast

import pykka
from pykka import ActorDeadError, ActorRegistry

from theater_tcp import pykka_internals
from theater_tcp.errors import ShutDown
from theater_tcp.future import Future
from theater_tcp.mailbox import TURN, Idle, Mailbox, StopFlag
from theater_tcp.task import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from theater_tcp.event_loop import EventLoop, Timer

__all__ = ["Interrupted", "LoopActor", "LoopActorRef", "hosting"]

logger = logging.getLogger("theater_tcp.actor")

A = TypeVar("A", bound=pykka.Actor)

_urn_guard = threading.RLock()


hosting: ContextVar[Any] = ContextVar("hosting")
"""The runtime that an actor constructed in this context will live in."""


class LoopActorRef(pykka.ActorRef[A], Generic[A]):
    """A reference as pykka's, but for three things.

    ``stop(block=False)`` can be awaited on the loop, where pykka's would block; ``tell`` does in one step what pykka's
    does in three; and the URN is made when it is first asked for: few connections are ever asked, and making one for
    each was a tenth of a short connection's life.
    """

    __slots__ = ("_actor_weakref", "_urn", "actor_class", "actor_inbox", "actor_stopped")

    def __init__(self, actor: A) -> None:
        self._urn: str | None = None
        self._actor_weakref = weakref.ref(actor)
        self.actor_class = actor.__class__
        self.actor_inbox = actor.actor_inbox
        self.actor_stopped = actor.actor_stopped

    @property
    def actor_urn(self) -> str:  # type: ignore[override]  # read-only, as for everybody but pykka's constructor
        """See :attr:`pykka.ActorRef.actor_urn`."""
        if self._urn is None:
            with _urn_guard:
                if self._urn is None:
                    self._urn = pykka_internals.new_urn()
        return self._urn

    def tell(self, message: Any) -> None:
        """Send a message without waiting for a response. See :meth:`pykka.ActorRef.tell`."""
        if self.actor_stopped.flag:  # type: ignore[attr-defined]  # a StopFlag, looked at without a call
            raise ActorDeadError(f"{self} not found")
        self.actor_inbox.put(pykka_internals.Envelope(message))

    def stop(self, *, block: bool = True, timeout: float | None = None) -> Any:
        """Ask the actor to stop. See :meth:`pykka.ActorRef.stop`."""
        asked = cast("Future[None]", self.ask(pykka_internals.STOP, block=False))
        actor: Any = self._actor_weakref()
        if actor is not None and actor.actor_stop_interrupts:
            actor.actor_inbox.loop.call_soon(actor.actor_interrupt)
        answer: Future[bool] = Future()

        def settle(_: Future[None]) -> None:
            try:
                asked.get()
            except ActorDeadError:
                answer.set(False)
            except BaseException as error:
                answer.set_exception_value(error)
            else:
                answer.set(True)

        asked.on_done(settle)
        return answer.get(timeout=timeout) if block else answer


class _Outcome:
    """The message that ends a handler which had to wait: it returns or raises what the handler did."""

    __slots__ = ("error", "value")

    def __init__(self, value: Any, error: BaseException | None) -> None:
        self.value = value
        self.error = error

    def unwrap(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value


class _Call:
    """A message that calls a function as a turn of the actor."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call


class Interrupted(ActorDeadError):
    """The handler was ended by :meth:`LoopActor.actor_interrupt`."""


def _is_private(name: str) -> bool:
    return name.startswith(("_", "actor_")) and not name.startswith("__")


class LoopActor(pykka.Actor):
    """An actor whose turns run on an event loop.

    It is constructed and started as any actor of pykka's (``start``, ``stop``, ``on_start``, ``on_receive``, …),
    inside a running :class:`~theater_tcp.runtime.Theater`. Handlers (``on_start``, ``on_receive``, ``on_stop``,
    methods called through a proxy) may be ``async def`` and await futures of pykka and of this runtime.
    """

    # In slots, since every actor has them and the machinery reads them; a subclass has its own fields as ever.
    __slots__ = ("_actor_ref", "actor_inbox", "actor_stopped")

    actor_stop_interrupts = False
    """Whether a stop ends the handler that waits, which it else waits for."""
    _actor_task: Task | None = None  # the handler that waits
    _actor_begun = False
    _actor_started: Future[pykka.ActorRef[Any]] | None = None
    actor_inbox: Mailbox

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        host = hosting.get(None)
        if host is None:
            raise RuntimeError(f"{type(self).__name__} lives in a Theater: start it by theater.spawn(...)")
        self._settle(host.loop)

    def _settle(self, loop: EventLoop) -> None:
        """Take a place on the loop: the fields that ``pykka.Actor.__init__`` would make, at a fifth of the cost."""
        # Make the __dict__ while nobody else knows of the actor. Before Python 3.12 two threads that are the first to
        # look at it (a proxy is made in each) may each get one, with the same memory: garbage that is collected between
        # may let go of the interpreter lock. The one that is lost is found by a later collection, which crashes.
        vars(self)
        self.actor_inbox = Mailbox(loop, self)
        self.actor_stopped = StopFlag()  # type: ignore[assignment]  # all of an Event that actors use
        self._actor_ref = LoopActorRef(self)

    @property
    def actor_urn(self) -> str:  # type: ignore[override]  # as in the reference
        """See :attr:`pykka.Actor.actor_urn`."""
        return self._actor_ref.actor_urn

    @classmethod
    def start(cls, *args: Any, **kwargs: Any) -> pykka.ActorRef[Self]:
        """Start an actor of this class. See :meth:`pykka.Actor.start`."""
        actor = cls(*args, **kwargs)
        if not hasattr(actor, "_actor_ref"):
            raise pykka_internals.unconstructed(cls)
        pykka_internals.registry().append(actor._actor_ref)
        if actor.actor_inbox.loop.closed:
            actor.actor_abandon()
            raise ShutDown
        actor._start_actor_loop()
        return actor._actor_ref

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a class whose methods would hide private ones of the runtime or of pykka, which would break it."""
        super().__init_subclass__(**kwargs)
        if cls.__module__.partition(".")[0] == "theater_tcp":
            return
        ours = [base for base in cls.__mro__[1:] if base.__module__.partition(".")[0] in ("theater_tcp", "pykka")]
        for theirs in cls.__mro__[: cls.__mro__.index(ours[0])]:  # the class and its mixins
            for name, member in vars(theirs).items():
                if callable(member) and _is_private(name) and any(name in vars(base) for base in ours):
                    raise TypeError(f"{theirs.__name__}.{name} hides a method of the runtime: give it another name")

    # -- for actors to use ----------------------------------------------------------------------------------------

    def call_later(self, seconds: float, call: Callable[..., Any], *args: Any) -> Timer:
        """Call ``call(*args)`` as a turn of this actor, in ``seconds`` seconds. On the loop's thread.

        Returns:
            a timer; its ``cancel()`` forgets the call.
        """
        envelope = pykka_internals.Envelope(_Call(partial(call, *args)))
        return self.actor_inbox.loop.call_later(seconds, partial(self.actor_inbox.put, envelope))

    def sleep(self, seconds: float) -> Future[None]:
        """A future to await: it is settled in ``seconds`` seconds. This actor's mailbox waits meanwhile."""
        future: Future[None] = Future()
        self.actor_inbox.loop.call_later(seconds, future.set)
        return future

    # -- for the machinery ----------------------------------------------------------------------------------------

    def actor_launch_now(self) -> Future[pykka.ActorRef[Any]]:
        """Start on the loop's thread: ``on_start`` runs before this returns, up to its first wait.

        Returns:
            a future of the reference, settled when ``on_start`` has returned, and failed with what it raised.
        """
        started: Future[pykka.ActorRef[Any]] = Future()
        self._actor_started = started
        pykka_internals.registry().append(self._actor_ref)
        self.actor_run_turn()
        return started

    @property
    def actor_starting(self) -> bool:
        """Whether ``on_start`` has not returned yet."""
        return self._actor_started is not None

    def actor_drive(
        self, coroutine: Coroutine[Any, Any, Any], finished: Callable[[Any, BaseException | None], None]
    ) -> bool:
        """Run a coroutine in a turn which the caller took (see :mod:`theater_tcp.mailbox`).

        Args:
            coroutine: what an async handler returned.
            finished: called with its value or its error when it has ended.

        Returns:
            whether it has ended already; if not, the turn goes on, and is ended here when the coroutine ends.
        """

        def end(value: Any, error: BaseException | None) -> None:
            waited = self._actor_task is not None
            self._actor_task = None
            if error is not None and not isinstance(error, Exception):
                self.actor_end_everything(error)
            finished(value, error)
            if waited:
                self._go_on()

        task = Task(self.actor_inbox.loop, coroutine, end)
        task.step()
        if not task.done:
            self._actor_task = task
        return task.done

    def actor_interrupt(self) -> None:
        """End the handler that waits, if one does; who asked for its result gets ``ActorDeadError``."""
        if self._actor_task is not None:
            self._actor_task.cancel(Interrupted(f"{self} was interrupted"))

    def actor_end_everything(self, error: BaseException) -> None:
        """What pykka does when a handler raises no ``Exception`` but ``SystemExit`` and the like: stop all actors."""
        logger.debug("%r in %s: stopping all actors", error, self)
        reply_to = self.actor_inbox.take_asker()
        if not self.actor_stopped.is_set():
            try:
                self._stop()
            except BaseException as another:  # on_stop is of the same mind: more than all can't be stopped
                logger.debug("%r in on_stop of %s", another, self)
        ActorRegistry.stop_all(block=False)
        self._hand_on(error)
        if reply_to is not None:
            reply_to.set_exception_value(error)
        self.actor_inbox.schedule()  # for the end of its life: the turn under way may be a connection's

    def actor_abandon(self) -> None:
        """The loop has ended under this actor: no turn will come any more, and whoever asks or has asked is told so."""
        pykka_internals.registry().remove(self._actor_ref)
        self.actor_stopped.set()
        box = self.actor_inbox
        if box.first is not None and box.first.reply_to is not None:  # the interrupted handler's asker
            box.first.reply_to.set_exception_value(ActorDeadError(f"{self} ended with its event loop"))
        box.close()

    def _ended(self) -> None:
        """The last thing in the actor's life, after ``on_stop`` or ``on_failure``. For classes built on this one; may
        come twice."""

    # -- pykka's private hooks ------------------------------------------------------------------------------------

    @staticmethod
    def _create_actor_inbox() -> Mailbox:
        raise TypeError("the mailbox of a LoopActor is made by its constructor")

    @staticmethod
    def _create_future() -> Future[Any]:
        return Future()

    def _start_actor_loop(self) -> None:
        self.actor_inbox.schedule()

    def actor_run_turn(self) -> None:
        """One turn on the loop: at most ``TURN`` messages, handled by pykka's own loop."""
        box = self.actor_inbox
        if box.closed:
            return  # the turn before this one ended its life
        if not self._actor_begun:
            self._actor_begun = True
            self._actor_loop_setup()
            if self._actor_task is not None:
                return  # on_start waits
        box.budget = TURN
        try:
            self._actor_loop_running()
        except Idle:
            if self._actor_task is None:  # else a handler waits, and the mailbox with it
                box.rest()
            return
        except BaseException as error:  # on_failure raised SystemExit or its like
            self.actor_end_everything(error)
        if self._actor_task is None:  # else on_stop waits
            self._end_life()

    def _go_on(self) -> None:
        """After a wait: to the messages that came meanwhile, or to the end if the actor was stopped in it."""
        if not self.actor_stopped.is_set():
            self.actor_inbox.rest()
        elif self.actor_inbox.loop.closed:
            self._end_life()  # on_stop did not end in time: no turn comes any more
        else:
            self.actor_inbox.schedule()

    def _end_life(self) -> None:
        box = self.actor_inbox
        try:
            if box.queue:
                box.budget = len(box.queue)
                self._actor_loop_teardown()
        except Idle:
            pass  # more came while the first were refused: close() refuses them
        finally:
            box.close()
            self._ended()

    def _actor_loop_setup(self) -> None:
        try:
            outcome: Any = self.on_start()  # type: ignore[func-returns-value]  # a coroutine where it is async
        except BaseException as error:
            self._report_start(error)
        else:
            if outcome.__class__ is CoroutineType:
                self.actor_drive(outcome, lambda _, error: self._report_start(error))
            else:
                self._report_start(None)

    def _report_start(self, error: BaseException | None) -> None:
        started, self._actor_started = self._actor_started, None
        if error is None:
            if started is not None:
                started.set(self._actor_ref)
        elif started is None:
            self._handle_failure(type(error), error, error.__traceback__)
        else:  # whoever spawned it is told: no need for the log
            pykka_internals.registry().remove(self._actor_ref)
            self.actor_stopped.set()
            self._ended()  # before it is told, as in _stop
            started.set_exception_value(error)

    def _handle_receive(self, message: Any) -> Any:
        try:
            if message.__class__ is _Outcome:
                return message.unwrap()
            if message.__class__ is _Call:
                outcome = message.call()
            elif isinstance(message, tuple):  # pykka's own messages are named tuples: it knows them apart
                outcome = pykka.Actor._handle_receive(self, message)
            else:
                outcome = self.on_receive(message)
            if outcome.__class__ is CoroutineType:
                return self._await(outcome)
        except Interrupted:
            if self.actor_inbox.current.reply_to is not None:
                raise
            return None
        except Exception:
            raise  # by pykka's rules: to the asker, or to on_failure
        except BaseException as error:
            self.actor_end_everything(error)
            return None
        return outcome

    def _await(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run an async handler to its end if it never waits; else its end will come as a message of its own."""
        box = self.actor_inbox
        envelope = box.current
        reply_to = envelope.reply_to
        outcome: _Outcome | None = None

        def end(value: Any, error: BaseException | None) -> None:
            nonlocal outcome
            outcome = _Outcome(value, error)
            if self._actor_task is not None:
                self._actor_task = None
                box.first = pykka_internals.Envelope(outcome, reply_to=reply_to)
                box.schedule()

        task = Task(box.loop, coroutine, end)
        task.step()
        if outcome is not None:
            return outcome.unwrap()
        self._actor_task = task
        envelope.reply_to = None  # else pykka would answer it now
        box.budget = 0
        return None

    def _hand_on(self, error: BaseException | None) -> None:
        """A signal's interrupt is meant for the program: whoever runs the loop gets it."""
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            self.actor_inbox.loop.fail(error)

    def _stop(self) -> None:
        self._hand_on(sys.exception())  # it may have struck in pykka's loop, between two handlers
        pykka_internals.registry().remove(self._actor_ref)
        self.actor_stopped.set()
        outcome = None
        try:
            outcome = cast("Any", self.on_stop)()
        except Exception as error:
            self._handle_failure(type(error), error, error.__traceback__)
        if outcome.__class__ is not CoroutineType:
            self._ended()  # before pykka answers: who has stopped an actor finds its listeners closed
            return
        reply_to = self.actor_inbox.take_asker()  # who asked the actor to stop is answered when on_stop has ended

        def finished(_: Any, error: BaseException | None) -> None:
            if error is not None:
                self._handle_failure(type(error), error, error.__traceback__)
            self._ended()
            if reply_to is not None:
                reply_to.set(None)

        self.actor_drive(cast("Any", outcome), finished)
