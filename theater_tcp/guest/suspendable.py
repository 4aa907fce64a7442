"""A guest's call on a fiber: it is polled until it has ended, has to wait, or has used up its slice.

A host function that has to wait notes what was asked (:attr:`Suspendable.asked`) and suspends the guest. The asking is
done here, below the guest's stack and not on it. How an answer gets into the guest, and what is left when the call has
ended, is for each road to say.
"""

from __future__ import annotations

from time import perf_counter, thread_time
from typing import TYPE_CHECKING, Any

from theater_tcp.errors import TheaterError
from theater_tcp.future import Future
from theater_tcp.guest import wasmtime_internals as inner
from theater_tcp.guest.calls import ARRIVES
from theater_tcp.guest.outcome import GuestTrap, Outcome
from theater_tcp.guest.trap_text import backtrace_of, reason_of

if TYPE_CHECKING:
    from theater_tcp.guest.calls import GuestCalls
    from theater_tcp.guest.core_callbacks import CoreRoad
    from theater_tcp.guest_settings import Limits

__all__ = ["Suspendable"]

SLICE = 0.004
"""Seconds between two looks at whether a guest runs for too long."""

AT_ONCE = 16
"""Answers that a guest may get one after the other without waiting, before others have their turn; fewer where it takes
more than a slice to ask for them."""


class Suspendable:
    """A running guest whose calls can be suspended.

    Args:
        road: who knows which guest runs.
        calls: the host's side of it.
        limits: what it may use.
    """

    __slots__ = (
        "_asking",
        "_future",
        "_rough",
        "_used",
        "asked",
        "awaited",
        "calls",
        "error",
        "fault",
        "gathering",
        "limits",
        "noted",
        "road",
        "ticks",
    )

    def __init__(self, road: CoreRoad, calls: GuestCalls, limits: Limits) -> None:
        self.road = road
        self.calls = calls
        self.limits = limits
        self.fault: BaseException | None = None
        """What stopped the guest from out here."""
        self.asked: tuple[Any, Any, int, Any] | None = None
        """What it waits for: the function, its arguments, where the result goes, and where the call has begun already
        what that gave, a future or :data:`ARRIVES`."""
        self.gathering: Any = None
        """The connection of which is gathered what the guest sends: :meth:`flush` is to be called."""
        self.noted: Any = None
        """What a call that has begun already is to wait for, as in :attr:`asked`, until the guest is suspended."""
        self.awaited: Future[Any] | None = None
        """What it waits for: :data:`ARRIVES` for :meth:`arrived`; None while it is not suspended."""
        self.error = ""
        self.ticks = road.ticks
        self._asking: Any = None
        self._future: int | None = None
        self._rough = min(SLICE, limits.cpu)  # seconds for which the time of day is good enough
        self._used = 0.0

    def resume(self) -> Outcome:
        """Go on after ``WAITING``, when :attr:`awaited` is settled, or after ``YIELDED``.

        Raises:
            GuestTrap: it trapped, or its CPU time is used up.
        """
        awaited, self.awaited = self.awaited, None
        if awaited is not None:
            self._used = 0.0
            try:
                value = awaited.get()
            except TheaterError as error:
                value = error
            self._answer(value)
        return self._go_on()

    def arrived(self, value: Any) -> Outcome:
        """Go on after ``WAITING`` without a future: with what has arrived, or the error that came instead.

        Raises:
            GuestTrap: it trapped.
        """
        self.awaited = None
        self._used = 0.0
        self._answer(value)
        return self._go_on()

    def arrived_early(self, value: Any) -> None:
        """What a ``receive`` is to wait for has arrived, and the guest has yielded on its way to wait: there it finds
        it."""
        function, given, results, _begun = self.noted
        there: Future[Any] = Future()
        if isinstance(value, TheaterError):
            there.set_exception_value(value)
        else:
            there.set(value)
        self.noted = function, given, results, there

    # -- what each road does in its own way ------------------------------------------------------------------------

    def _put_answer(self, value: Any) -> None:
        """Put the answer, a value or a :class:`TheaterError`, where the suspended guest finds it, and let it go on."""
        raise NotImplementedError

    def flush(self) -> None:
        """Send what is gathered of :attr:`gathering`."""
        raise NotImplementedError

    def _yielded(self) -> None:
        """Others have their turn now, in the middle of the guest's call."""

    def _ended(self) -> Outcome:
        """The call has ended: see how."""
        raise NotImplementedError

    def _memory_size(self) -> int:
        """Bytes of the guest's memory, as far as they are known."""
        raise NotImplementedError

    # -- inside ---------------------------------------------------------------------------------------------------

    def _go_on(self) -> Outcome:
        """Poll the call under way until it has ended, has to wait, or has used up its slice."""
        road, future = self.road, self._future
        at_once, spent = AT_ONCE, 0.0
        while True:
            road.entries += 1  # before the look at `parked`, as the ticker looks at them the other way round
            if road.parked:
                road.unpark()
            road.current = self
            # The thread's own time costs three times as much to ask for as the time of day, so it's asked for only when
            # the guest has run for some while. Most never do.
            own = thread_time() if self._used >= self._rough else None
            began = perf_counter()
            try:
                ended = inner.poll(future)
            finally:
                road.current = None
            if self.gathering is not None:
                self.flush()
            if ended:
                return self._ended()
            asked = self.asked
            if asked is not None:
                self.asked = None
                self.awaited = self._ask(asked)
                if self.awaited is not None:
                    return Outcome.WAITING
                ran = perf_counter() - began
                self._account(ran, own)
                at_once -= 1
                spent += ran
                if not at_once or spent > SLICE:
                    self._yielded()
                    return Outcome.YIELDED
                continue
            if self.fault is not None:
                self._abandon_call()
                raise self._fault()
            ran = perf_counter() - began
            self._account(ran, own)
            if ran < SLICE and self.ticks != road.ticks:
                self.ticks = road.ticks  # it was another guest's time that had run out
                continue
            self._yielded()
            return Outcome.YIELDED

    def _account(self, ran: float, own: float | None) -> None:
        """Add to the CPU time that the guest took since it waited last; what it asked for and had at once counts too.

        Args:
            ran: seconds by the time of day. In it is what the thread waited for a processor, which is not the guest's
                fault: so they end no guest, and count for two slices at most, which is the longest stretch.
            own: the thread's own time when the stretch began, which counts in their place; None: it wasn't asked for.
        """
        if own is None:
            self._used = min(self._used + ran, 2 * SLICE, self.limits.cpu)
            return
        self._used += thread_time() - own
        if self._used > self.limits.cpu:
            self._abandon_call()
            raise GuestTrap(f"limit: cpu: it ran for {self.limits.cpu:g} s without waiting for anything")

    def _ask(self, asked: tuple[Any, Any, int, Any]) -> Future[Any] | None:
        """Do what a suspended guest asked for: a future if it has to wait for that, else it has its answer."""
        function, values, _, begun = self._asking = asked
        try:
            value = begun if begun is not None else function.method(self.calls, *values)
            if value is ARRIVES or (value.__class__ is Future and not value.done):
                return value
            if value.__class__ is Future:
                value = value.get()
        except TheaterError as error:
            value = error
        self._answer(value)
        return None

    def _answer(self, value: Any) -> None:
        if not isinstance(value, TheaterError):  # to be refused again and again is no waiting
            self._used = 0.0
        try:
            self._put_answer(value)
        except GuestTrap:
            self._abandon_call()
            raise

    def _abandon_call(self) -> None:
        future, self._future = self._future, None
        self.asked = self.awaited = None
        if future is not None:
            inner.forget_call(future)

    def _fault(self) -> BaseException:
        fault, self.fault = self.fault, None
        return fault if fault is not None else GuestTrap("its call ended without a word")

    def _trap_of(self, failed: inner.Failed) -> BaseException:
        if self.fault is not None:
            trap = self._fault()
            if isinstance(trap, GuestTrap):
                trap.backtrace = backtrace_of(failed.message)
            return trap
        return GuestTrap(
            reason_of(failed.message, self._memory_size(), self.limits.memory), backtrace_of(failed.message)
        )
