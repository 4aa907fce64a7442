"""The fast road: a guest's core module, run through wasmtime's C interface, with the canonical ABI done here.

Theory of operation. Every guest has a store with two instances: the adapter (:mod:`theater_tcp.guest.adapter`) and the
guest. To enter an export is one call on a fiber: :meth:`CoreInstance.call` writes sizes and lengths into an array,
starts the call, and polls it. While the guest runs, the callbacks of :mod:`theater_tcp.guest.core_callbacks` find it as
``road.current``; there is never more than one, since there is one thread, and no guest is entered from inside of
another one's call.

A call that has to wait does nothing but note what was asked (:attr:`CoreInstance.asked`) on the guest's stack. The
guest is suspended then, and the asking is done out here: Python frames on ten thousand suspended stacks would be most
of their memory. Where the answer is there at once, the guest goes on at once.
"""

from __future__ import annotations

import ctypes
import struct
from typing import TYPE_CHECKING, Any

from theater_tcp.errors import TheaterError
from theater_tcp.guest import wasmtime_internals as inner
from theater_tcp.guest.adapter import ARGUMENTS
from theater_tcp.guest.core_values import NARROW
from theater_tcp.guest.linear_memory import LinearMemory
from theater_tcp.guest.outcome import GuestTrap, Outcome
from theater_tcp.guest.suspendable import Suspendable
from theater_tcp.guest.wasmtime_internals import EXTERN, FUNCREF, I64, OF, VALUE

if TYPE_CHECKING:
    from theater_tcp.guest.calls import GuestCalls
    from theater_tcp.guest.core_program import CoreProgram
    from theater_tcp.guest_settings import Limits

__all__ = ["FLAG", "CoreInstance"]

# Where things are in the one block of memory that an instance shares with wasmtime.
TRAP, ERROR, RESULT = 0, 8, 16
ADAPTER, GUEST, FLAG = RESULT + VALUE, RESULT + VALUE + 16, RESULT + VALUE + 32
MEMORY = FLAG + 16
ENTER = MEMORY + EXTERN
VALUES = ENTER + EXTERN
BLOCK_SIZE = VALUES + ARGUMENTS * VALUE

EXPORT, POST, NUMBERS = (VALUES + n * VALUE for n in (2, 3, 4))
NO_FUNCTION = bytes((FUNCREF, *bytes(VALUE - 1)))

START_TICKS = 5
"""Slices that a module's start function may take: it runs before the guest can be suspended. They are counted by the
clock, so a few more than an honest one needs, for a machine that has other things to do."""

# A write through a memoryview or a struct costs a third of one through ctypes, hence their use wherever calls are many.
_pair = struct.Struct("<II")
_end = struct.Struct("<QQ8xI")  # trap, error, the i32 that was returned
_numbers = struct.Struct("<" + "8xI20x" * 7)  # seven values, i32 as their kind is 0: the result before, sizes, lengths
_answer = struct.Struct("<B7xq")  # a value of kind i64


class CoreInstance(Suspendable):
    """A running guest on the fast road.

    Args:
        program: what it is an instance of.
        calls: the host's side of it.
        limits: what it may use.

    Raises:
        GuestTrap: it can't be instantiated, or its start function trapped.
    """

    __slots__ = (
        "_before",
        "_c_block",
        "_cleaned_up",
        "_context",
        "_entered",
        "_entry",
        "_exports",
        "_returned",
        "_store",
        "arguments",
        "at",
        "block",
        "continuation",
        "memory",
        "noted",
        "placing",
        "program",
        "results",
    )

    def __init__(self, program: CoreProgram, calls: GuestCalls, limits: Limits) -> None:
        Suspendable.__init__(self, program.road, calls, limits)
        self.program = program
        self.arguments: tuple[bytes, bytes] = (b"", b"")
        self.placing: Any = None  # what the next block that the guest allocates is for
        self.noted: Any = None  # what a call that began at once is to wait for
        self.results: Any = None  # where wasmtime takes the answer from, while the guest is suspended
        self._entered = ""
        self._entry: tuple[Any, ...] = ()
        self._before = 0
        self._exports: dict[str, tuple[bytes, bytes]] = {}
        self._returned = self._cleaned_up = ""  # the last call's export, and that whose clean-up is in its place
        self._c_block = (ctypes.c_ubyte * BLOCK_SIZE)()
        self.block = memoryview(self._c_block).cast("B")
        self.at = at = ctypes.addressof(self._c_block)
        self.continuation = inner.CONTINUATION.pack(*inner.continuation(at + FLAG))
        road = self.road
        self._store: int | None = inner.store_new(road.engine_address, None, None)
        self._context = context = inner.store_context(self._store)
        inner.store_limiter(self._store, limits.memory, limits.tables, 2, 16, 1)
        inner.set_epoch_deadline(context, START_TICKS)
        self.memory = LinearMemory(0, 0)
        try:
            self._instantiate(program, context, at)
        except inner.Failed as failed:
            trap = self._trap_of(failed)
            self.discard()
            raise trap from None
        except GuestTrap:
            self.discard()
            raise

    def _instantiate(self, program: CoreProgram, context: int, at: int) -> None:
        road = self.road
        inner.check(inner.pre_instantiate(program.adapter, context, at + ADAPTER, at + TRAP), self._take_trap())
        externs = program.externs
        for place, name in program.own_imports:
            inner.export_get(context, at + ADAPTER, name, len(name), externs + place)
        for place, module, name in program.foreign_imports:
            inner.linker_get(program.foreign_linker, context, module, len(module), name, len(name), externs + place)
        if program.foreign_imports:
            inner.give_wasi(context)
        road.entries += 1
        if road.parked:  # a start function may run for long too
            road.unpark()
        road.current, before = self, road.current
        try:
            error = inner.instance_new(context, program.module, externs, program.import_count, at + GUEST, at + TRAP)
        finally:
            road.current = before
        inner.check(error, self._take_trap())
        inner.yield_at_epoch(context, 1)
        inner.export_get(context, at + GUEST, b"memory", 6, at + MEMORY)
        self.memory = LinearMemory(context, at + MEMORY + OF)
        inner.export_get(context, at + ADAPTER, b"enter", 5, at + ENTER)
        inner.linker_get(road.suspending, context, road.MODULE, len(road.MODULE), b"block", 5, at + EXPORT)
        values = self.block[EXPORT + OF : EXPORT + OF + 16].tobytes(), self._function(b"cabi_realloc")
        # As C values, made once: to make them of ints anew is a third of the call's time.
        self._entry = inner.call_arguments(
            context, at + ENTER + OF, at + VALUES, ARGUMENTS, at + RESULT, 1, at + TRAP, at + ERROR
        )
        self.block[VALUES : VALUES + 4 * VALUE] = b"".join((*map(_reference, values), NO_FUNCTION, NO_FUNCTION))

    # -- entering -------------------------------------------------------------------------------------------------

    def begin(self) -> Outcome:
        """Run ``_initialize``, where the guest has one; it comes before every other call."""
        if not self.program.initializes:
            return Outcome.RETURNED
        at, block = self.at, self.block
        # The places of the export, its post-return function and the first number are free as yet.
        block[EXPORT : EXPORT + VALUE] = block[VALUES : VALUES + VALUE]
        block[POST : POST + VALUE] = _reference(self._function(b"_initialize"))
        inner.export_get(self._context, at + ADAPTER, b"call", 4, at + NUMBERS)
        self._future = inner.call(self._context, at + NUMBERS + OF, at + EXPORT, 2, None, 0, at + TRAP, at + ERROR)
        block[EXPORT:NUMBERS] = 2 * NO_FUNCTION
        return self._go_on()

    def call(self, export: str, first: Any, second: Any = None) -> Outcome:
        """Enter an export, which the guest has and is not inside of.

        Args:
            export: its name, as ``on-data``.
            first, second: its arguments, one or two: texts, data, or texts that :meth:`CoreProgram.prepared` made.

        Raises:
            GuestTrap: it trapped.
        """
        if self._entered == export and self._cleaned_up == self._returned and second.__class__ is bytes:
            data, alignment, length = first if first.__class__ is tuple else self.program.prepared(export, first)
            size, size2 = len(data), len(second)
            if size + size2 <= self.limits.call_data:  # as the call before: all is in its place but this
                _numbers.pack_into(self.block, NUMBERS, self._before, size, alignment, length, size2, 1, size2)
                self.arguments = data, second
                self._used = 0.0
                self._future = inner.call(*self._entry)
                return self._go_on()
        data, alignment, length = self.program.prepared(export, first) if first.__class__ is not tuple else first
        if second is None:
            other, size2, alignment2, length2 = b"", -1, 0, 0
        elif second.__class__ is bytes:
            other, alignment2, size2 = second, 1, len(second)
            length2 = size2
        else:
            other, alignment2, length2 = self.program.prepared(export, second)
            size2 = len(other)
        size = len(data)
        if size + size2 > self.limits.call_data:
            raise GuestTrap(f"limit: call_data: {export} would carry more than {self.limits.call_data} bytes")
        block = self.block
        _numbers.pack_into(
            block, NUMBERS, self._before, size, alignment, length, size2 & 0xFFFFFFFF, alignment2, length2
        )
        self.arguments = (data, other)
        if self._entered != export:
            block[EXPORT : EXPORT + VALUE] = self._export(export)[0]
            self._entered = export
        if self._cleaned_up != self._returned:
            block[POST : POST + VALUE] = self._export(self._returned)[1]
            self._cleaned_up = self._returned
        self._used = 0.0
        self._future = inner.call(*self._entry)
        return self._go_on()

    def arrived(self, value: Any) -> Outcome:
        """See :meth:`Suspendable.arrived`; data, which it mostly is, by a shorter way."""
        if value.__class__ is not bytes:
            return Suspendable.arrived(self, value)
        size = len(value)
        self._used = 0.0
        self.placing = (value, self._asking[2], NARROW, 0, 1, size)
        _answer.pack_into(self.results, 0, I64, size | 1 << 32)
        self.block[FLAG] = 1
        return self._go_on()

    def _put_answer(self, value: Any) -> None:
        function, _values, pointer = self._asking
        lower = function.lower_error if isinstance(value, TheaterError) else function.lower
        _answer.pack_into(self.results, 0, I64, lower(self, pointer, value))
        self.block[FLAG] = 1

    def _memory_size(self) -> int:
        return self.memory.size

    def _ended(self) -> Outcome:
        inner.forget_call(self._future)
        self._future = None
        trap, error, result = _end.unpack_from(self.block, 0)
        if trap or error or self.fault is not None:
            self.block[TRAP:RESULT] = bytes(RESULT - TRAP)
            try:
                inner.check(error, trap)
            except inner.Failed as failed:
                raise self._trap_of(failed) from None
            raise self._fault()
        export = self._entered
        if not export:  # _initialize, which returns nothing
            return Outcome.RETURNED
        self._before = result
        self._returned = export
        if result & 3:
            raise GuestTrap(f"{export} returned a result at {result:#x}, which is not aligned")
        view = self.memory.view
        if result + 12 > len(view):
            self.memory.check(result, 12, "its result")
            view = self.memory.view
        case = view[result]
        if case == 0:
            return Outcome.RETURNED
        if case != 1:
            raise GuestTrap(f"{export} returned a result of the case {case}, which there is not")
        pointer, length = _pair.unpack_from(view, result + 4)
        self.error = self.text(pointer, length, self.program.decoders[export])
        return Outcome.FAILED

    def discard(self) -> None:
        """Let go of everything, also of a call under way. Never from inside of the guest's own call."""
        self._abandon_call()
        self.memory.close()
        store, self._store = self._store, None
        if store is not None:
            inner.store_delete(store)

    # -- what it passes -------------------------------------------------------------------------------------------

    def data(self, address: int, size: int) -> bytes:
        """A list of bytes that the guest passes.

        Raises:
            GuestTrap: it is outside of its memory, or more than one call may carry.
        """
        if size > self.limits.call_data:
            self.memory.check(address, size, "a list")  # the worse mistake comes first
            raise GuestTrap(f"limit: call_data: it passed {size} bytes, and {self.limits.call_data} may be")
        return self.memory.read(address, size)

    def text(self, address: int, length: int, decode: Any) -> str:
        """A text that the guest passes.

        Args:
            address: where it is.
            length: in code units, as the encoding has it.
            decode: see :class:`~theater_tcp.guest.text.Encoding`.

        Raises:
            GuestTrap: as :meth:`data`; or it is not aligned, or isn't in its encoding.
        """
        size, alignment, codec = decode(length)
        if address % alignment:
            raise GuestTrap(f"a text at {address:#x} is not aligned")
        raw = self.data(address, size)
        try:
            return raw.decode(codec)
        except UnicodeDecodeError as error:
            raise GuestTrap(f"a text is not {codec}: {error.reason} at byte {error.start}") from None

    # -- inside ---------------------------------------------------------------------------------------------------

    def _function(self, name: bytes) -> bytes:
        """The reference to an exported function of the guest."""
        if not inner.export_get(self._context, self.at + GUEST, name, len(name), self.at + RESULT):
            return bytes(16)
        return self.block[RESULT + OF : RESULT + OF + 16].tobytes()

    def _export(self, export: str) -> tuple[bytes, bytes]:
        """An export and its post-return function, as values for ``enter``."""
        values = self._exports.get(export)
        if values is None:
            name, post = self.program.export_names[export]
            values = self._exports[export] = (
                _reference(self._function(name)),
                _reference(self._function(post)) if post else NO_FUNCTION,
            )
        return values

    def _take_trap(self) -> int:
        trap = int.from_bytes(self.block[TRAP : TRAP + 8], "little")
        self.block[TRAP : TRAP + 8] = bytes(8)
        return trap


def _reference(function: bytes) -> bytes:
    return NO_FUNCTION[:OF] + function + bytes(VALUE - OF - len(function))
