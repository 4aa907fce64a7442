"""The event loop: one thread that carries every connection, listener and event-driven actor.

Theory of operation. One turn of the loop is: wait for readiness, call the handler of each ready descriptor, run what
is due by the clock, run what was scheduled before the turn began. Handlers and scheduled calls run on the loop's
thread and never block. Other threads may call :meth:`EventLoop.call_soon` and :meth:`EventLoop.submit` alone: these
append to a deque (atomic) and write the wake-up descriptor only while the loop sleeps. The loop raises its
``sleeping`` flag *before* it looks at the deque for the last time, so an append is either seen by that look or sees
the flag.

Timers come in two kinds. :meth:`EventLoop.call_later` is a heap for the odd ones. :class:`Deadlines` is for the
timeouts that thousands of connections have in common: entries of one duration stand in the order of their end, so
setting, moving and clearing one are dict operations, and only the oldest is ever looked at.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import math
import os
import reprlib
import select
import socket
import threading
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from theater_tcp.errors import InvalidArgument, ShutDown, WrongThread
from theater_tcp.poller import READ, Poller, best_poller

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

__all__ = ["Deadlines", "EventLoop", "Timer", "running_loop"]

logger = logging.getLogger("theater_tcp.event_loop")

MAX_EVENTS = 1024
"""Descriptors taken from the kernel in one turn: bounds the time until timers and scheduled calls get theirs."""

MAX_SLEEP = 24 * 3600.0
"""Seconds that the loop sleeps at most: epoll can't for more than 24 days, and to wake early does no harm."""

MANY = 64
"""What is over and done with is looked for among more than so many; among fewer it does no harm."""

FOREVER = float("inf")

K = TypeVar("K", bound="Hashable")
_here = threading.local()
_forked = False


def _fork_begins() -> None:
    global _forked  # noqa: PLW0603  # a fact about the process
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_fork_begins)  # not run for subprocess, whose child closes what it inherited at once


def running_loop() -> EventLoop | None:
    """The loop that the calling thread is running, if it is running one."""
    return getattr(_here, "loop", None)


class Timer:
    """A call that is due later. ``cancel`` may be called at any time, on the loop's thread."""

    __slots__ = ("call", "due", "kept_by")

    def __init__(self, due: float, call: Callable[[], object], loop: EventLoop) -> None:
        self.due = due
        self.call: Callable[[], object] | None = call
        self.kept_by: EventLoop | None = loop  # until it is due

    def cancel(self) -> None:
        """Forget the call; harmless when it has run."""
        if self.call is not None:
            self.call = None
            if self.kept_by is not None:
                self.kept_by.timer_cancelled()


class Deadlines(Generic[K]):
    """The same timeout for many keys, each operation O(1).

    Args:
        loop: whose clock counts.
        expired: called with the key on the loop's thread when its time is over; the key is forgotten before.
    """

    __slots__ = ("_by_duration", "_expired", "_loop", "_room")

    def __init__(self, loop: EventLoop, expired: Callable[[K], object]) -> None:
        self._loop = loop
        self._expired = expired
        self._by_duration: dict[float, dict[K, float]] = {}
        self._room = MANY
        loop.add_deadlines(self)

    @property
    def durations(self) -> int:
        """How many durations are kept, those included for which nobody waits any more."""
        return len(self._by_duration)

    def set(self, key: K, duration: float) -> None:
        """Let ``key`` end ``duration`` seconds from now; a second call moves the end."""
        due = self._loop.now + duration
        entries = self._by_duration.get(duration)
        if entries is None:
            if len(self._by_duration) >= self._room:  # durations that never come again, as what is left of another
                self._forget_empty()
            entries = self._by_duration[duration] = {}
        else:
            entries.pop(key, None)
        entries[key] = due
        self._loop.remind(due)

    def clear(self, key: K, duration: float) -> None:
        """Forget the deadline that was set with this duration, if there is one."""
        entries = self._by_duration.get(duration)
        if entries is not None:
            entries.pop(key, None)

    def run_expired(self, now: float) -> float:
        """Expire what is due and return when the next one is (infinity: none)."""
        following = FOREVER
        for entries in list(self._by_duration.values()):
            while entries:
                key = next(iter(entries))
                if entries[key] > now:
                    following = min(following, entries[key])
                    break
                del entries[key]
                try:
                    self._expired(key)
                except Exception:
                    logger.exception("a deadline's handler failed")
        self._forget_empty()
        return following

    def _forget_empty(self) -> None:
        """Forget durations that nobody waits for; not each at once, since the usual ones come again and again."""
        self._by_duration = {duration: entries for duration, entries in self._by_duration.items() if entries}
        self._room = max(2 * len(self._by_duration), MANY)


class EventLoop:
    """Readiness, timers and wake-ups on one thread.

    Args:
        poller: what waits for readiness; the best one of the system when absent.
        clock: a monotonic clock in seconds; tests pass a fake one.
        name: shown as the thread's name.
    """

    def __init__(
        self, poller: Poller | None = None, clock: Callable[[], float] = time.monotonic, name: str = "theater"
    ) -> None:
        self.name = name
        self.poller = poller if poller is not None else best_poller()
        self.now = clock()
        """The clock's reading at the start of this turn, in seconds."""
        self.thread_id: int | None = None
        """Identifier of the thread that runs the loop; None while nobody does."""
        self.ready: deque[Callable[[], object]] = deque()
        self.sleeping = False
        self.closed = False
        self.tasks: set[Any] = set()
        """The coroutines that wait (:class:`~theater_tcp.task.Task`), for an orderly end. On the loop's thread."""
        self._clock = clock
        self._poll = self.poller.poll
        self._poller_forgets = hasattr(select, "epoll") and isinstance(self.poller, select.epoll)
        self._handlers: dict[int, Callable[[int], object]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._cancelled = 0  # so many of the timers
        self._serial = itertools.count()
        self._deadlines: list[Deadlines[Any]] = []
        self._next_due = FOREVER
        self.stopping = False
        """Whether :meth:`stop` was asked for."""
        self._wake_lock = threading.RLock()  # a signal's handler may wake the loop while its thread does
        self._failure: BaseException | None = None
        self._open_wake_up()

    # -- readiness ------------------------------------------------------------------------------------------------

    def register(self, fd: int, mask: int, handler: Callable[[int], object]) -> None:
        """Call ``handler(mask)`` whenever the descriptor is ready for one of the bits of ``mask``."""
        self.poller.register(fd, mask)
        self._handlers[fd] = handler

    def modify(self, fd: int, mask: int) -> None:
        """Change what a registered descriptor waits for."""
        self.poller.modify(fd, mask)

    def unregister(self, fd: int) -> None:
        """Forget the descriptor, which stays open."""
        if self._handlers.pop(fd, None) is not None:
            self.poller.unregister(fd)

    def forget(self, fd: int) -> None:
        """Forget the descriptor, which is closed next.

        epoll forgets a closed descriptor by itself, which saves a system call, unless a forked child holds it too: then
        it would report it for ever. So from the first fork on it is told.
        """
        if self._handlers.pop(fd, None) is not None and (_forked or not self._poller_forgets):
            self.poller.unregister(fd)

    # -- scheduled calls ------------------------------------------------------------------------------------------

    def call_soon(self, call: Callable[[], object]) -> None:
        """Run ``call()`` on the loop's thread, in its next turn. Any thread may ask."""
        self.ready.append(call)
        if self.sleeping:
            self.wake()

    def submit(self, call: Callable[..., Any], *args: Any, into: Any) -> None:
        """Run ``call(*args)`` on the loop's thread and put its outcome into the future ``into``. Any thread may ask.

        A future that ``call`` returns is followed. ``into`` fails with :class:`ShutDown` when the loop has ended.
        """
        if self.closed:
            into.set_exception_value(ShutDown("the event loop has ended"))
            return
        self.call_soon(partial(_run_into, into, call, args))
        if self.closed:  # it ended in between: nobody will run the call, unless the last turn just did
            self._refuse_leftovers()

    def wake(self) -> None:
        """End the loop's sleep. Any thread may ask."""
        with self._wake_lock:  # or a late wake-up would write into a descriptor that is somebody else's by now
            self.sleeping = False
            if not self.closed:
                os.write(self._wake_write, b"\x01\0\0\0\0\0\0\0")  # an eventfd wants eight bytes, a socket takes any

    # -- timers ---------------------------------------------------------------------------------------------------

    def call_later(self, delay: float, call: Callable[[], object]) -> Timer:
        """Run ``call()`` on the loop's thread after ``delay`` seconds. To be asked on that thread.

        Raises:
            InvalidArgument: the delay is not a number.
            WrongThread: see :meth:`check_thread`.
        """
        self.check_thread()
        try:
            due = self._clock() + delay
            no_time = math.isnan(due)
        except (TypeError, OverflowError):
            no_time = True
        if no_time:
            raise InvalidArgument(f"a delay is a number of seconds, not {reprlib.repr(delay)}")
        timer = Timer(due, call, self)
        heapq.heappush(self._timers, (timer.due, next(self._serial), timer))
        self.remind(timer.due)
        return timer

    @property
    def timers(self) -> int:
        """How many timers are kept, some that were cancelled included."""
        return len(self._timers)

    def timer_cancelled(self) -> None:
        """A timer need not run any more. When most need not, they are forgotten: their time may be far ahead."""
        self._cancelled += 1
        timers = self._timers
        if self._cancelled > MANY and 2 * self._cancelled > len(timers):
            timers[:] = [entry for entry in timers if entry[2].call is not None]
            heapq.heapify(timers)
            self._cancelled = 0

    def add_deadlines(self, deadlines: Deadlines[Any]) -> None:
        """Look at these deadlines too, whenever the time they reminded of has come."""
        self._deadlines.append(deadlines)

    @property
    def next_due(self) -> float:
        """When the loop looks at its timers next, by its clock (infinity: no timer)."""
        return self._next_due

    def remind(self, due: float) -> None:
        """Look at the timers not later than ``due`` (the loop's clock, seconds)."""
        self._next_due = min(due, self._next_due)

    # -- running --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run until :meth:`stop`, on the calling thread."""
        if self.thread_id is not None or running_loop() is not None:
            raise RuntimeError(f"event loop {self.name!r}: this loop or this thread is running already")
        self.enter()
        try:
            while not self.stopping:
                self.run_once()
        finally:
            self.leave()

    def enter(self) -> None:
        """Make the calling thread the loop's: for who runs it turn by turn, by :meth:`run_once`."""
        _here.loop = self
        self.thread_id = threading.get_ident()
        self.now = self._clock()

    def leave(self) -> None:
        """The calling thread does not run the loop any more."""
        _here.loop = None
        self.thread_id = None

    def check_thread(self) -> None:
        """Refuse a call that another thread makes while one runs the loop: nothing here is guarded against that.

        Raises:
            WrongThread: it is another one.
        """
        if self.thread_id != threading.get_ident() and self.thread_id is not None:
            raise WrongThread(
                f"this is for the thread of the event loop {self.name!r}; another one tells or asks an actor to do it"
            )

    def run_once(self, block: bool = True) -> None:
        """One turn. ``block=False`` doesn't wait for readiness (tests step the loop with it)."""
        ready = self.ready
        if ready or not block:
            timeout = 0.0
        else:
            self.sleeping = True  # before the last look at `ready`: see the head of this module
            if ready:
                timeout = 0.0
            elif self._next_due == FOREVER:
                timeout = -1
            else:
                timeout = min(max(self._next_due - self._clock(), 0.0), MAX_SLEEP)
        events = self._poll(timeout, MAX_EVENTS)
        self.sleeping = False
        self.now = now = self._clock()
        handlers = self._handlers
        for fd, mask in events:
            handler = handlers.get(fd)
            if handler is not None:  # None: an earlier handler of this turn closed it
                try:
                    handler(mask)
                except Exception:
                    logger.exception("the handler of descriptor %d failed", fd)
        if now >= self._next_due:
            self._run_due(now)
        for _ in range(len(ready)):  # what these schedule has its turn after the next look at the sockets
            try:
                ready.popleft()()
            except Exception:
                logger.exception("a scheduled call failed")

    def stop(self) -> None:
        """End :meth:`run` after the turn under way. Any thread may ask."""
        self.call_soon(self._stop)

    def fail(self, error: BaseException) -> None:
        """Let :meth:`run` raise ``error`` in its next turn; once, however often it is said. On the loop's thread."""
        if self._failure is None:
            self.call_soon(self._raise_failure)
        self._failure = error

    def close(self) -> None:
        """Give the descriptors back. Calls that nobody ran any more fail with :class:`ShutDown`."""
        with self._wake_lock:
            if self.closed:
                return
            self.closed = True
        self._refuse_leftovers()
        self._handlers.clear()
        self.poller.close()
        self._close_wake_up()

    def _raise_failure(self) -> None:
        error, self._failure = self._failure, None
        if error is not None:
            raise error

    def _stop(self) -> None:
        self.stopping = True

    def _run_due(self, now: float) -> None:
        self._next_due = FOREVER
        timers = self._timers
        due = []  # taken off before any is called: a call that sets a timer of no delay must not keep the loop here
        while timers and timers[0][0] <= now:
            timer = heapq.heappop(timers)[2]
            timer.kept_by = None
            due.append(timer)
            self._cancelled -= timer.call is None
        for timer in due:
            if timer.call is not None:
                try:
                    timer.call()
                except Exception:
                    logger.exception("a timer's call failed")
        if timers:
            self.remind(timers[0][0])
        for deadlines in self._deadlines:
            self.remind(deadlines.run_expired(now))

    def _refuse_leftovers(self) -> None:
        while True:
            try:
                call = self.ready.popleft()
            except IndexError:
                return  # a thread that submits may do the same, and have taken the last one
            if isinstance(call, partial) and call.func is _run_into:
                call.args[0].set_exception_value(ShutDown("the event loop has ended"))

    # -- the wake-up descriptor -----------------------------------------------------------------------------------

    def _open_wake_up(self) -> None:
        if hasattr(os, "eventfd"):
            self._wake_read = self._wake_write = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            reading, writing = socket.socketpair()
            reading.setblocking(False)
            writing.setblocking(False)
            self._wake_read, self._wake_write = reading.detach(), writing.detach()
        self.register(self._wake_read, READ, self._drain_wake_up)

    def _drain_wake_up(self, _mask: int) -> None:
        os.read(self._wake_read, 4096)

    def _close_wake_up(self) -> None:
        for fd in {self._wake_read, self._wake_write}:
            os.close(fd)


def _run_into(future: Any, call: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """Run a submitted call and settle its future; a future that it returned is followed."""
    try:
        outcome = call(*args)
    except BaseException as error:
        future.set_exception_value(error)
        if not isinstance(error, Exception):
            raise  # SystemExit and its like are the loop's too
        return
    if hasattr(outcome, "follow_into"):
        outcome.follow_into(future)
    else:
        future.set(outcome)
