"""The actor of a guest: turns of its mailbox become calls of its exports.

To the rest of the runtime it is a :class:`~theater_tcp.tcp.TcpActor` like any other. A call that ends at once is a
plain call. One that has to wait is a coroutine, so that the mailbox waits with it, as for an ``async def`` handler;
but while it goes from one wait to the next, the guest is resumed where the future it waits for is settled, and not by
way of the coroutine.
"""

from __future__ import annotations

import logging
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Protocol

from theater_tcp.connection_state import OPEN
from theater_tcp.errors import CallbackFailed, LimitReached
from theater_tcp.future import Future
from theater_tcp.guest.calls import ARRIVES, GuestCalls
from theater_tcp.guest.outcome import GuestTrap, Outcome
from theater_tcp.tcp import ConnectionHandle, TcpActor

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from theater_tcp.guest_settings import Limits
    from theater_tcp.settings import Options

__all__ = ["CALLBACKS", "GuestActor", "GuestInstance", "GuestProgram", "Keeper"]

logger = logging.getLogger("theater_tcp.guest")

MAX_ERROR = 1000
"""Characters of a guest's error that are kept."""

CALLBACKS = {
    "handle-connection": "handle_connection",
    "handle-connection-transfer": "handle_connection_transfer",
    "on-data": "on_data",
    "on-passive": "on_passive",
    "on-close": "on_close",
}
"""Exports of ``tcp-client`` to callbacks of an owner."""


@lru_cache
def _heard(exports: frozenset[str]) -> frozenset[str]:
    """The callbacks of a guest as an owner: also ``on_close``, else an id that has ended would be kept."""
    return frozenset({CALLBACKS[export] for export in CALLBACKS if export in exports} | {"on_close"})


class GuestInstance(Protocol):
    """A running guest, by whichever road."""

    awaited: Future[Any] | None
    """What it waits for, after ``WAITING``, and only then; :data:`ARRIVES` where ``arrived`` is to be called."""
    error: str
    """What its export returned, after ``FAILED``."""

    def begin(self) -> Outcome:
        """What comes before the first call."""

    def call(self, export: str, first: Any, second: Any = None, connection: Any = None) -> Outcome:
        """Enter an export; with the handle of the connection that it is about, if that's what ``first`` is."""

    def resume(self) -> Outcome:
        """Go on after ``WAITING``, when ``awaited`` is settled, or after ``YIELDED``."""

    def arrived(self, value: Any) -> Outcome:
        """Go on after ``WAITING`` for :data:`ARRIVES`: data, or how much of it is in ``arrivals``, or an error."""

    def arrived_early(self, value: Any) -> None:
        """The same, data or an error, for a guest that has yielded before it came to wait; it goes on in its turn."""

    def discard(self) -> None:
        """Let go of it, also in the middle of a call."""


class GuestProgram(Protocol):
    """A compiled guest."""

    road_name: str
    """``core``, ``component`` or ``threads``."""
    exports: frozenset[str]
    takes_arrivals: bool
    """Whether its guests have ``arrived``, and don't need a future for each ``receive``."""
    arrivals: memoryview | None
    """Where what arrives may be put; ``arrived`` takes the number of bytes then."""

    def instantiate(self, calls: GuestCalls, limits: Limits) -> GuestInstance:
        """A new guest."""

    def prepared(self, export: str, value: str) -> Any:
        """A text as an argument that ``call`` takes, with what can be done for it beforehand."""

    def may_enter(self) -> bool:
        """Whether a guest can be entered now: none is running further up the stack."""

    def close(self) -> None:
        """Give back what it has of wasmtime; its guests have ended."""


class Keeper(Protocol):
    """Who made a guest for one connection after another."""

    def connection_done(self, guest: GuestActor) -> None:
        """The guest has no connection any more."""

    def guest_ended(self, guest: GuestActor) -> None:
        """The guest has come to its end, by whatever way."""


class GuestConnectionHandle(ConnectionHandle):
    """A guest's hold on a connection, with its id as the guest's exports take it."""

    __slots__ = ("_began", "_id_bytes", "_prepared")

    @property
    def began(self) -> Options:
        """The options with which the guest got the connection: to be looked at before it changes them."""
        try:
            return self._began
        except AttributeError:
            self._began: Options = self._core.options
            return self._began

    @property
    def id_bytes(self) -> bytes:
        """The id in ASCII, made once."""
        try:
            return self._id_bytes
        except AttributeError:
            self._id_bytes: bytes = self.id.encode()
            return self._id_bytes

    def prepared_id(self, program: GuestProgram) -> Any:
        """The id as an argument of ``on-data``: made once, for the call that comes most often."""
        try:
            return self._prepared
        except AttributeError:
            self._prepared: Any = program.prepared("on-data", self.id)
            return self._prepared


class _Arrival:
    """In the place of a future, for the ``receive`` of a guest: there is one at a time, so one object does for all."""

    __slots__ = ("buffer", "set", "set_exception_value")

    def __init__(self, arrived: Callable[[Any], None], buffer: memoryview | None) -> None:
        self.buffer = buffer
        self.set = self.set_exception_value = arrived


class GuestActor(TcpActor):
    """A WebAssembly guest.

    Args:
        name: what the log calls it.
        program: what it runs.
        config: for its ``init``.
        limits: what it may use.
        keeper: told when the guest's connections have all ended, and when the guest has; None for one that lives on.
    """

    actor_stop_interrupts = True  # somebody else's code may wait for ever

    def __init__(
        self, name: str, program: GuestProgram, config: bytes, limits: Limits, keeper: Keeper | None = None
    ) -> None:
        super().__init__()
        self.guest_name = name
        self.connections_served = 0
        self._guest_program = program
        self._guest_config = config
        self._guest_limits = limits
        self._guest_keeper = keeper
        self._guest_instance: GuestInstance | None = None
        self._guest_calls = GuestCalls(name, self.tcp, self._theater_owner, limits, self._guest_wants_end)
        if program.takes_arrivals:
            self._guest_calls.arrival = _Arrival(self._guest_go_on, program.arrivals)
        self._guest_finished: Future[Outcome] | None = None
        self._guest_ending = False
        self._guest_serves: ConnectionHandle | None = None  # what was handed to it last
        self._theater_owner.heard = _heard(program.exports)
        self._theater_owner.handle_for = GuestConnectionHandle
        self._theater_owner.drain = self._guest_calls.drain
        self._theater_owner.max_connections = limits.connections

    @property
    def road(self) -> str:
        """By which road it runs."""
        return self._guest_program.road_name

    def on_start(self) -> Any:
        """Instantiate the guest and call its ``init``."""
        try:
            instance = self._guest_instance = self._guest_program.instantiate(self._guest_calls, self._guest_limits)
            outcome = instance.begin()
        except BaseException as error:
            raise self._guest_crash("init", error) from None
        if outcome is Outcome.RETURNED:
            return self._guest_enter("init", self._guest_config)
        return self._guest_follow_start(outcome)

    async def _guest_follow_start(self, outcome: Outcome) -> None:
        await self._guest_follow("init", outcome)
        entered = self._guest_enter("init", self._guest_config)
        if entered is not None:
            await entered

    # -- callbacks of the owner -----------------------------------------------------------------------------------

    def handle_connection(self, connection: ConnectionHandle) -> Any:
        """A listener of the guest accepted a connection."""
        return self._guest_serve("handle-connection", connection)

    def handle_connection_transfer(self, connection: ConnectionHandle) -> Any:
        """Somebody handed a connection over."""
        return self._guest_serve("handle-connection-transfer", connection)

    def on_data(self, connection: GuestConnectionHandle, data: bytes) -> Any:
        """A chunk."""
        return self._guest_enter("on-data", connection.prepared_id(self._guest_program), data, connection)

    def on_passive(self, connection: ConnectionHandle) -> Any:
        """The count ran out."""
        return self._guest_enter("on-passive", connection.id)

    def on_close(self, connection: ConnectionHandle, reason: str) -> Any:
        """A connection ended."""
        ending = None
        try:
            if "on-close" in self._guest_program.exports:
                ending = self._guest_enter("on-close", connection.id, reason)
        finally:
            if ending is None:
                self._guest_forget(connection)
        return ending and self._guest_closing(connection, ending)

    async def _guest_closing(self, connection: ConnectionHandle, ending: Coroutine[Any, Any, None]) -> None:
        try:
            await ending
        finally:
            self._guest_forget(connection)

    def _ended(self) -> None:
        self._guest_discard()
        super()._ended()
        keeper, self._guest_keeper = self._guest_keeper, None
        if keeper is not None:
            keeper.guest_ended(self)

    # -- entering -------------------------------------------------------------------------------------------------

    def _guest_serve(self, export: str, connection: ConnectionHandle) -> Coroutine[Any, Any, None] | None:
        self._guest_serves = connection
        self.connections_served += 1
        return self._guest_enter(export, self._guest_calls.learn(connection), None, connection)

    def _guest_enter(
        self, export: str, first: Any, second: Any = None, connection: ConnectionHandle | None = None
    ) -> Coroutine[Any, Any, None] | None:
        instance = self._guest_instance
        if instance is None:
            return None  # it has crashed, and its end is on the way
        try:
            outcome = instance.call(export, first, second, connection)
        except BaseException as error:
            raise self._guest_crash(export, error) from None
        if outcome is Outcome.RETURNED:
            if self._guest_ending or self._guest_keeper is not None:
                self._guest_left()
            return None
        return self._guest_follow(export, outcome)

    async def _guest_follow(self, export: str, outcome: Outcome) -> None:
        """See a call to its end that did not end at once."""
        if outcome is not Outcome.FAILED:
            finished: Future[Outcome] = Future()
            self._guest_finished = finished
            self._guest_wait(outcome)
            try:
                outcome = await finished
            except Exception as error:
                raise self._guest_crash(export, error) from None
            except BaseException:  # the handler was ended from outside: the guest can't be entered any more
                self._guest_discard()
                self.stop()
                raise
            finally:
                self._guest_finished = None
        if outcome is Outcome.FAILED:
            text = self._guest_instance.error[:MAX_ERROR] if self._guest_instance is not None else ""
            self._guest_left()
            raise CallbackFailed(f"{export}: {text}", cause=text.partition(": ")[0])
        self._guest_left()

    def _guest_wait(self, outcome: Outcome) -> None:
        if outcome is Outcome.WAITING:
            awaited: Any = self._guest_instance.awaited  # type: ignore[union-attr]
            if awaited is not ARRIVES:
                awaited.on_done(self._guest_go_on)
        elif outcome is Outcome.YIELDED:
            self.actor_inbox.loop.call_soon(self._guest_go_on)
        elif self._guest_finished is not None:
            self._guest_finished.set(outcome)

    def _guest_go_on(self, news: Any = None) -> None:
        """What the guest waited for is here: its turn again, the future of it, or what arrived for its ``receive``."""
        instance, finished = self._guest_instance, self._guest_finished
        if instance is None or finished is None:
            return
        if not self._guest_program.may_enter():  # settled by another guest's call: not on top of that
            self.actor_inbox.loop.call_soon(partial(self._guest_go_on, self._guest_copied(news)))
            return
        awaited = instance.awaited
        try:
            if news is awaited:
                outcome = instance.resume()
            elif awaited is ARRIVES:
                outcome = instance.arrived(news)
            else:  # it is its turn soon
                instance.arrived_early(self._guest_copied(news))
                return
        except BaseException as error:
            finished.set_exception_value(error)
            return
        if outcome is not Outcome.WAITING or instance.awaited is not ARRIVES:  # else the next arrival is told
            self._guest_wait(outcome)

    def _guest_copied(self, news: Any) -> Any:
        """What arrived, to be kept: data that is on the stage doesn't stay there."""
        return self._guest_calls.arrival.buffer[:news].tobytes() if news.__class__ is int else news

    # -- the end --------------------------------------------------------------------------------------------------

    def _guest_wants_end(self) -> None:
        self._guest_ending = True

    def _guest_forget(self, connection: ConnectionHandle) -> None:
        """The guest has heard of a connection's end: it is over, unless only the peer's half has ended."""
        core = connection._core
        if core.options.half_open and core.state.phase is OPEN:
            return
        self._guest_calls.forget(connection.id)
        if self._guest_keeper is not None:
            self.actor_inbox.loop.call_soon(self._guest_left)  # when the connection is out of the owner's hands

    def _guest_left(self) -> None:
        """The guest is outside of every call: perhaps it is done."""
        if self.actor_stopped.is_set() or self._guest_instance is None:
            return
        if self._guest_ending:
            self._guest_ending = False
            self.stop()
        elif self._guest_keeper is not None and self._guest_serves is not None:
            core = self._guest_serves._core
            if core.handle is not self._guest_serves:  # what else it has open is its own, and stays with a warm guest
                self._guest_serves = None
                self._guest_keeper.connection_done(self)

    def _guest_crash(self, export: str, error: BaseException) -> BaseException:
        """The guest can't go on: its actor ends, and with it its connections. What is to be raised for it."""
        self._guest_discard()
        if not isinstance(error, GuestTrap):  # a mistake in the host, whose traceback is logged where it is caught
            if not self.actor_starting:
                self._theater.network.metrics.guest_traps += 1
                self.stop()
            return error
        self._theater.network.metrics.guest_traps += 1
        lines = "".join(f"\n    {frame}" for frame in error.backtrace)
        logger.error("%s ended in %s: %s%s", self.guest_name, export, error.reason, lines)
        if not self.actor_starting:
            self.stop()
        elif error.reason.startswith("limit: "):
            return LimitReached(f"{export}: {error.reason.removeprefix('limit: ')}")
        return CallbackFailed(f"{export}: {error.reason}")

    def _guest_discard(self) -> None:
        instance, self._guest_instance = self._guest_instance, None
        if instance is not None:
            instance.discard()
            self._guest_calls.tell_dropped()
            self._guest_calls.handles.clear()
            self._guest_calls.listeners.clear()
