"""The component road: a component as it is, run through wasmtime's C interface for components.

It is for components whose work is done by several core modules, as those of languages that bring their interpreter.
wasmtime does the canonical ABI; values come and go as its tagged unions (:mod:`theater_tcp.guest.component_values`).
All else is as on the core road: a call is one fiber, a call of the guest that has to wait suspends it, and the same
methods of :class:`~theater_tcp.guest.calls.GuestCalls` answer.

To instantiate such a guest runs its code, sometimes for long, so that is suspendable too and is what
:meth:`ComponentInstance.begin` does.
"""

from __future__ import annotations

import ctypes
import struct
from typing import TYPE_CHECKING, Any

from theater_tcp.guest import wasmtime_internals as inner
from theater_tcp.guest.outcome import GuestTrap, Outcome
from theater_tcp.guest.suspendable import Suspendable
from theater_tcp.guest.wasmtime_internals import COMPONENT_FUNCTION, COMPONENT_VALUE
from theater_tcp.guest.wit_types import Err

if TYPE_CHECKING:
    from theater_tcp.guest.calls import GuestCalls
    from theater_tcp.guest.component_program import ComponentProgram
    from theater_tcp.guest_settings import Limits

__all__ = ["FLAG", "ComponentInstance"]

# Where things are in the one block of memory that an instance shares with wasmtime.
ERROR, FLAG, INSTANCE = 0, 8, 16
RESULT = 32
ARGUMENTS = RESULT + COMPONENT_VALUE
FUNCTION = ARGUMENTS + 2 * COMPONENT_VALUE
BLOCK_SIZE = FUNCTION + COMPONENT_FUNCTION

MAX_INSTANCES = 200
"""Core instances and components in one guest."""

MAX_TABLES = 32
"""Tables in one guest, each of as many elements as its limits allow."""

MAX_PASSED = 2 << 20
"""Bytes of one call that every component can pass. Above it wasmtime ends the guest: it allows 128 MiB for the values
of a call, and they are tens of times as large as the bytes that they stand for."""

_TOO_MUCH = "fuel allocated for hostcalls has been exhausted"

NO_VALUE = bytes(COMPONENT_VALUE)

_address = struct.Struct("<Q")


class ComponentInstance(Suspendable):
    """A running guest on the component road.

    Args:
        program: what it is an instance of.
        calls: the host's side of it.
        limits: what it may use; its memories share what there is for one.
    """

    __slots__ = (
        "_at",
        "_c_block",
        "_context",
        "_entered",
        "_functions",
        "_lowered",
        "_store",
        "block",
        "continuation",
        "most_given",
        "program",
    )

    def __init__(self, program: ComponentProgram, calls: GuestCalls, limits: Limits) -> None:
        super().__init__(program.road, calls, limits)
        self.program = program
        self.most_given = min(limits.call_data, MAX_PASSED)
        """Bytes that it is given in one call: of more, the conversion would hold up the loop and take much memory."""
        self._entered = ""
        self._lowered = 0  # how many arguments are there to be freed
        self._functions: dict[str, bytes] = {}
        self._c_block = (ctypes.c_ubyte * BLOCK_SIZE)()
        self.block = memoryview(self._c_block).cast("B")
        self._at = at = ctypes.addressof(self._c_block)
        self.continuation = inner.CONTINUATION.pack(*inner.continuation(at + FLAG))
        self._store: int | None = inner.store_new(program.road.engine_address, None, None)
        self._context = context = inner.store_context(self._store)
        memory = limits.memory // program.memories
        inner.store_limiter(self._store, memory, limits.tables, MAX_INSTANCES, MAX_TABLES, program.memories)
        if program.has_wasi:
            inner.give_wasi(context)
        inner.set_epoch_deadline(context, 1)
        inner.yield_at_epoch(context, 1)

    def begin(self) -> Outcome:
        """Instantiate the component; it comes before every call.

        Raises:
            GuestTrap: it does not fit in its limits, or something of it that runs then trapped.
        """
        at, program = self._at, self.program
        self._future = inner.component_instantiate(
            program.linker, self._context, program.component, at + INSTANCE, at + ERROR
        )
        return self._go_on()

    def call(self, export: str, first: Any, second: Any = None, connection: Any = None) -> Outcome:
        """Enter an export, which the guest has and is not inside of.

        Args:
            export: its name, as ``on-data``.
            first, second: its arguments, one or two: texts or data.

        Raises:
            GuestTrap: it trapped.
        """
        values = (first,) if second is None else (first, second)
        if sum(map(len, values)) > self.most_given:
            raise GuestTrap(f"limit: call_data: {export} would carry more than {self.most_given} bytes")
        _, lowers, _ = self.program.functions[export]
        at = self._at
        for number, (lower, value) in enumerate(zip(lowers, values, strict=True)):
            lower(at + ARGUMENTS + number * COMPONENT_VALUE, value)
        self._lowered = len(values)
        self.block[FUNCTION : FUNCTION + COMPONENT_FUNCTION] = self._function(export)
        self._entered = export
        self._used = 0.0
        self._future = inner.component_call(
            at + FUNCTION, self._context, at + ARGUMENTS, len(values), at + RESULT, 1, at + ERROR
        )
        return self._go_on()

    def discard(self) -> None:
        """Let go of everything, also of a call under way. Never from inside of the guest's own call."""
        self._abandon_call()
        self._free_arguments()
        store, self._store = self._store, None
        if store is not None:
            inner.store_delete(store)

    # -- inside ---------------------------------------------------------------------------------------------------

    def _put_answer(self, value: Any) -> None:
        function, _, results, _ = self._asking
        function.put(self, results, value)
        self.block[FLAG] = 1

    def _ended(self) -> Outcome:
        inner.forget_call(self._future)
        self._future = None
        self._free_arguments()
        (error,) = _address.unpack_from(self.block, ERROR)
        if error or self.fault is not None:
            self.block[ERROR : ERROR + 8] = bytes(8)
            try:
                inner.check(error, None)
            except inner.Failed as failed:
                raise self._trap_of(failed) from None
            raise self._fault()
        export = self._entered
        if not export:  # it has been instantiated
            return Outcome.RETURNED
        _, _, lift = self.program.functions[export]
        result = self._at + RESULT
        try:
            value = lift(result, self.limits.call_data)
        finally:
            inner.value_delete(result)
            self.block[RESULT : RESULT + COMPONENT_VALUE] = NO_VALUE
        if isinstance(value, Err):
            self.error = str(value.value)
            return Outcome.FAILED
        return Outcome.RETURNED

    def _trap_of(self, failed: inner.Failed) -> BaseException:
        if _TOO_MUCH in failed.message:
            return GuestTrap(f"limit: call_data: it passed more than {MAX_PASSED} bytes, which a component can't")
        return super()._trap_of(failed)

    def _memory_size(self) -> int:
        return 0  # it is inside, and no function of wasmtime's tells

    def _function(self, export: str) -> bytes:
        function = self._functions.get(export)
        if function is None:
            index, _, _ = self.program.functions[export]
            if not inner.component_get_function(self._at + INSTANCE, self._context, index, self._at + FUNCTION):
                raise GuestTrap(f"it has no {export}")
            function = self.block[FUNCTION : FUNCTION + COMPONENT_FUNCTION].tobytes()
            self._functions[export] = function
        return function

    def _free_arguments(self) -> None:
        for number in range(self._lowered):
            inner.value_delete(self._at + ARGUMENTS + number * COMPONENT_VALUE)
        self._lowered = 0
