"""A guest on the road of threads: two halves, one on the loop's thread and one on a thread of the guest's own.

The half on the loop has the face of every road: it is called, has to wait, and is resumed. The other half has
everything of wasmtime's. They talk by two ways: orders go through a queue, on which the guest's thread sleeps while
there is nothing to do; news settle a future on the loop. At any time at most one order is on its way, or its news::

    call ──── order ───>  enters the export
                          the guest calls an import
         <─── news ─────  "it asks for receive(id, 100)"
    asks, waits
         ──── order ───>  the answer
         <─── news ─────  "the export has returned"

Ending it in the middle takes no waiting: the queue gets an order to stop, which is found by a guest that is in an
import, and the epoch of its engine goes on, which stops one that is busy. The thread then cleans up behind itself.
"""

from __future__ import annotations

import ctypes
import queue
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import wasmtime

from theater_tcp.errors import TheaterError
from theater_tcp.event_loop import running_loop
from theater_tcp.future import Future
from theater_tcp.guest.canonical_abi import NO_BOUND, AbiError, check_place
from theater_tcp.guest.interface import BLOCKING
from theater_tcp.guest.lifting import lift_parameters, lift_result
from theater_tcp.guest.lowering import Lowered, lower_parameters, lower_result
from theater_tcp.guest.outcome import GuestTrap, Outcome
from theater_tcp.guest.thread_cell import Cell, HostFunction
from theater_tcp.guest.trap_text import backtrace_of, message_of, reason_of
from theater_tcp.guest.wit_types import Err, Ok, Result
from theater_tcp.guest_settings import MAX_TABLES

if TYPE_CHECKING:
    from theater_tcp.guest.calls import GuestCalls
    from theater_tcp.guest.thread_road import ThreadProgram
    from theater_tcp.guest_settings import Limits

__all__ = ["ThreadInstance"]


class _Asked(NamedTuple):
    """News: the guest calls an import."""

    method: Callable[..., Any]
    values: Sequence[Any]


class _Returned(NamedTuple):
    """News: an order was carried out. The text is the error that an export returned, or None."""

    error: str | None


class _Stop(BaseException):
    """The order to stop: raised where the guest's thread finds it, and caught where that ends."""


class ThreadInstance:
    """A running guest with a thread of its own.

    Args:
        program: what it is an instance of.
        calls: the host's side of it.
        limits: what it may use.
    """

    def __init__(self, program: ThreadProgram, calls: GuestCalls, limits: Limits) -> None:
        self.program = program
        self.limits = limits
        self.awaited: Future[Any] | None = None
        self.error = ""
        self._calls = calls
        self._loop = running_loop()
        self._news: Future[Any] | None = None
        self._orders: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._lock = threading.Lock()  # for what says whether the epoch of the engine is this guest's
        self._cell: Cell | None = None
        self._stopped = False
        self._used_up = False
        # The rest belongs to the guest's thread.
        self._clock = 0
        self._since: float | None = None  # the thread's CPU time when the guest began to compute; None when it doesn't
        self._inside = False  # of a function from which it may not call the host
        self._fault: BaseException | None = None
        self._store: Any = None
        self._exports: dict[str, Any] = {}
        self._memory: Any = None

    # -- on the loop ----------------------------------------------------------------------------------------------

    def begin(self) -> Outcome:
        """Instantiate the guest, and run its ``_initialize`` if it has one.

        Raises:
            LimitReached: there is no thread for it.
        """
        self.program.road.start_thread(self, self._run)
        return self._order(self._begin)

    def call(
        self, export: str, first: str | bytes, second: str | bytes | None = None, connection: Any = None
    ) -> Outcome:
        """Enter an export, which the guest has and is not inside of.

        Args:
            export: its name, as ``on-data``.
            first, second: its arguments, one or two.
        """
        return self._order(partial(self._enter, export, (first,) if second is None else (first, second)))

    def resume(self) -> Outcome:
        """Go on after ``WAITING``, when :attr:`awaited` is settled.

        Raises:
            GuestTrap: it trapped, or its CPU time is used up.
        """
        awaited, self.awaited = self.awaited, None
        if awaited is None:
            raise RuntimeError("a guest that does not wait can't be resumed")
        if awaited is not self._news:
            return self._answer(awaited, waited=True)
        news = awaited.get()
        if isinstance(news, _Asked):
            return self._ask(news)
        if isinstance(news, _Returned):
            if news.error is None:
                return Outcome.RETURNED
            self.error = news.error
            return Outcome.FAILED
        raise news

    def arrived(self, value: Any) -> Outcome:
        """For guests that have no future for each ``receive``; those of this road have one."""
        raise NotImplementedError

    def arrived_early(self, value: Any) -> None:
        """As :meth:`arrived`."""
        raise NotImplementedError

    def discard(self) -> None:
        """Let go of it, also in the middle of a call. Its thread ends soon after; any thread may ask."""
        with self._lock:
            self._stopped = True
            if self._cell is not None:
                self._cell.engine.increment_epoch()
        self._orders.put(_Stop)

    def _order(self, order: Any) -> Outcome:
        """Let the guest's thread do something, or go on with an answer."""
        self._news = self.awaited = Future()
        self._orders.put(order)
        return Outcome.WAITING

    def _ask(self, asked: _Asked) -> Outcome:
        """Do what the guest asks for."""
        try:
            value = asked.method(self._calls, *asked.values)
        except TheaterError as error:
            value = error
        if not isinstance(value, Future):
            return self._order((value, False))
        if value.done:
            return self._answer(value, waited=False)
        self.awaited = value
        return Outcome.WAITING

    def _answer(self, settled: Future[Any], waited: bool) -> Outcome:
        try:
            value = settled.get()
        except TheaterError as error:
            value = error
        return self._order((value, waited))

    # -- on the watch's thread ------------------------------------------------------------------------------------

    def look_at_time(self) -> None:
        """Stop the guest if it has taken more CPU time than it may."""
        since = self._since
        if since is None:
            return
        try:
            used = time.clock_gettime(self._clock) - since
        except OSError:  # its thread has ended meanwhile
            return
        if used > self.limits.cpu:
            with self._lock:
                if self._since == since and self._cell is not None:
                    self._used_up = True
                    self._cell.engine.increment_epoch()

    # -- on the guest's thread ------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._clock = time.pthread_getcpuclockid(threading.get_ident())
        try:
            while True:
                news = self._carry_out(self._next_order())
                self._tell(news)
        except _Stop:
            pass
        finally:
            self._release()

    def _next_order(self) -> Any:
        order = self._orders.get()
        if order is _Stop or self._stopped:
            raise _Stop
        return order

    def _tell(self, news: Any) -> None:
        told, loop = self._news, self._loop
        if told is not None and loop is not None:
            loop.call_soon(partial(told.set, news))

    def _carry_out(self, order: Callable[[], str | None]) -> Any:
        """Do something that runs the guest; the news of it."""
        self._compute()
        try:
            return _Returned(order())
        except (wasmtime.Trap, wasmtime.WasmtimeError) as error:
            return self._trap_of(message_of(error))
        except AbiError as error:
            return GuestTrap(str(error))
        except Exception as error:
            return error
        finally:
            self._rest()

    def _trap_of(self, message: str) -> BaseException:
        """What ended the guest, from wasmtime's words."""
        fault, self._fault = self._fault, None
        if self._stopped or isinstance(fault, _Stop):
            raise _Stop
        backtrace = backtrace_of(message)
        if self._used_up:
            return GuestTrap(f"limit: cpu: it ran for {self.limits.cpu:g} s without waiting for anything", backtrace)
        if fault is None:
            return GuestTrap(reason_of(message, self._memory_size(), self.limits.memory), backtrace)
        if isinstance(fault, GuestTrap) and not fault.backtrace:
            fault.backtrace = backtrace
        return fault

    def _begin(self) -> None:
        """Make the instance. The store exists from here until the thread ends."""
        program, limits = self.program, self.limits
        cell = program.take_cell()
        with self._lock:
            self._cell = cell
            stopped = self._stopped
        if stopped:
            raise _Stop
        cell.host.asked, cell.host.no_event = self._asked, self._no_event
        store = self._store = wasmtime.Store(cell.engine)
        store.set_limits(limits.memory, limits.tables, 2, MAX_TABLES + 1, 1)  # the adapter has one too
        store.set_epoch_deadline(1)
        if program.wasi:
            store.set_wasi(wasmtime.WasiConfig())
        adapter = cell.linker.instantiate(store, cell.adapter).exports(store)
        imports = [
            adapter[name] if module is None else cell.linker.get(store, module, name)
            for module, name in program.import_names
        ]
        exports = wasmtime.Instance(store, cell.module, imports).exports(store)
        self._memory = exports["memory"]
        self._exports = {name: exports[name] for name in exports}
        initialize = self._exports.get("_initialize")
        if initialize is not None:
            self._check_stopped()
            initialize(store)

    def _enter(self, export: str, values: tuple[str | bytes, ...]) -> str | None:
        """Call an export; the error that it returned."""
        function, encoding = self.program.export_functions[export]
        lowered = lower_parameters(function, values, encoding, NO_BOUND)
        if sum(size for size, _ in lowered.allocations) > self.limits.call_data:
            raise GuestTrap(f"limit: call_data: {export} would carry more than {self.limits.call_data} bytes")
        self._check_stopped()
        store = self._store
        memory = _Memory(self, store)
        flat = lowered.into(memory)
        returned = self._exports[function.full_name](store, *map(_signed, flat))
        result = lift_result(function, returned, memory, encoding, NO_BOUND)
        clean_up = self._exports.get(f"cabi_post_{function.full_name}")
        if clean_up is not None:
            self._call_inside(clean_up, store, returned)
        return str(result.value) if isinstance(result, Err) else None

    def _check_stopped(self) -> None:
        """A stop that came before the deadline of the epoch was set has not changed it."""
        if self._stopped:
            raise _Stop

    # -- imports --------------------------------------------------------------------------------------------------

    def _asked(self, caller: wasmtime.Caller, host: HostFunction, values: Sequence[int]) -> int | None:
        """The guest calls an import: its value, if it is one, or 0; None if the guest is to trap. Never raises."""
        try:
            if self._inside:
                raise GuestTrap("a guest may not call its host from cabi_realloc or post-return")
            return self._do(caller, host, values)
        except (wasmtime.Trap, wasmtime.WasmtimeError) as error:  # of its cabi_realloc
            if self._fault is None:
                message = message_of(error)
                self._fault = GuestTrap(
                    reason_of(message, self._memory_size(caller), self.limits.memory), backtrace_of(message)
                )
        except AbiError as error:
            self._fault = GuestTrap(str(error))
        except BaseException as error:
            self._fault = error
        return None

    def _no_event(self, caller: wasmtime.Caller, place: int) -> bool:
        """Tell the guest that there are no events. Never raises."""
        memory = _Memory(self, caller)
        if place + 4 > memory.size:
            return False
        memory.write(place, bytes(4))
        return True

    def _do(self, caller: wasmtime.Caller, host: HostFunction, values: Sequence[int]) -> int:
        function, limits = host.function, self.limits
        memory = _Memory(self, caller)
        arguments = lift_parameters(function, values, memory, host.encoding, NO_BOUND)
        pointer = values[-1] & 0xFFFFFFFF if function.asks else 0
        if function.asks and function.result is not None:
            result = function.result
            check_place("the place for a result", pointer, result.size, result.alignment, memory.size)
        spent = self._rest()
        self._tell(_Asked(host.method, arguments))
        value, waited = self._next_order()
        served = function.full_name in BLOCKING and not isinstance(value, TheaterError)
        self._compute(0.0 if waited or served else spent)  # to be refused again and again is no waiting
        if function.result is None:
            return 0
        lowered = self._lowered(host, value)
        needed = sum(size for size, _ in lowered.allocations)
        if needed > limits.call_data:
            raise GuestTrap(f"limit: call_data: {function.name} would give {needed} bytes")
        flat = lowered.into(memory, pointer)
        return 0 if function.asks else _signed(flat[0], function.core_result)

    @staticmethod
    def _lowered(host: HostFunction, value: Any) -> Lowered:
        if isinstance(host.function.result, Result):
            value = Err(str(value)) if isinstance(value, TheaterError) else Ok(value)
        return lower_result(host.function, value, host.encoding, NO_BOUND)

    # -- inside ---------------------------------------------------------------------------------------------------

    def allocate(self, caller: Any, size: int, alignment: int) -> int:
        """A block in the guest's memory, by its ``cabi_realloc``."""
        return int(self._call_inside(self._exports["cabi_realloc"], caller, 0, 0, alignment, _signed(size)))

    def _call_inside(self, function: Any, caller: Any, *values: int) -> Any:
        self._inside = True
        try:
            return function(caller, *values)
        finally:
            self._inside = False

    def _memory_size(self, caller: Any = None) -> int:
        return self._memory.data_len(caller or self._store) if self._memory is not None else 0

    def memory_of(self, caller: Any) -> tuple[int, int]:
        """Where its memory is in this process, and its size in bytes; both as of now."""
        if self._memory is None:  # its start function calls: there is nothing to be seen of it yet
            return 0, 0
        size = self._memory.data_len(caller)
        return (ctypes.addressof(self._memory.data_ptr(caller).contents) if size else 0), size

    def _compute(self, spent: float = 0.0) -> None:
        """The guest begins to compute, after it has spent so many seconds since it waited the last time."""
        self._since = time.thread_time() - spent
        self.program.road.watch(self)

    def _rest(self) -> float:
        """It does not compute any more; what it has spent."""
        since, self._since = self._since, None
        self.program.road.leave(self)
        return time.thread_time() - since if since is not None else 0.0

    def _release(self) -> None:
        with self._lock:  # from here on the epoch is another guest's
            cell, self._cell = self._cell, None
        store, self._store = self._store, None
        self._exports, self._memory = {}, None
        if store is not None:
            store.close()
        if cell is not None:
            cell.host.asked = cell.host.no_event = None
            self.program.road.give_back(self.program, cell)


class _Memory:
    """A guest's memory for the canonical ABI, for the length of one call.

    Args:
        guest: whose it is.
        caller: by what wasmtime lets one at it: the store, or in a host function the caller.
    """

    __slots__ = ("_caller", "_guest")

    def __init__(self, guest: ThreadInstance, caller: Any) -> None:
        self._guest = guest
        self._caller = caller

    @property
    def size(self) -> int:
        """Its bytes, at this moment."""
        return self._guest.memory_of(self._caller)[1]

    def read(self, offset: int, size: int) -> bytes:
        """These bytes, which are inside of it."""
        limit = self._guest.limits.call_data
        if size > limit:
            raise GuestTrap(f"limit: call_data: it passed {size} bytes, and {limit} may be")
        return ctypes.string_at(self._guest.memory_of(self._caller)[0] + offset, size) if size else b""

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Put bytes where there is room for them."""
        if data:
            ctypes.memmove(self._guest.memory_of(self._caller)[0] + offset, bytes(data), len(data))

    def allocate(self, size: int, alignment: int) -> int:
        """The offset of a new block, by the guest's ``cabi_realloc``."""
        return self._guest.allocate(self._caller, size, alignment)


def _signed(value: int, core: str | None = "i32") -> int:
    """A core value as wasmtime-py takes it."""
    half = 1 << (63 if core == "i64" else 31)
    return (value & (2 * half - 1) ^ half) - half
