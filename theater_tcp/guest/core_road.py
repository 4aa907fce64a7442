"""The fast road: a guest's core module, run through wasmtime's C interface, with the canonical ABI done here.

Theory of operation. Every guest has a store with three instances: the adapter (:mod:`theater_tcp.guest.adapter`), the
guest, and the entrance (:mod:`theater_tcp.guest.entrance`). To enter an export is one call on a fiber:
:meth:`CoreInstance.call` puts the arguments on the stage (:mod:`theater_tcp.guest.stage`), starts the call, and polls
it. While the guest runs, the callbacks of :mod:`theater_tcp.guest.core_callbacks` find it as
``road.current``; there is never more than one, since there is one thread, and no guest is entered from inside of
another one's call.

A call that has to wait does nothing but note what was asked (:attr:`CoreInstance.asked`) on the guest's stack. The
guest is suspended then, and the asking is done out here: Python frames on ten thousand suspended stacks would be most
of their memory. Where the answer is there at once, the guest goes on at once.

What a guest sends to the peer that a call is about is gathered on the stage, and :meth:`CoreInstance.flush` sends it:
before anything else that the guest asks for, and when it has come out.
"""

from __future__ import annotations

import codecs
import ctypes
import struct
from typing import TYPE_CHECKING, Any

from theater_tcp.errors import TheaterError
from theater_tcp.guest import wasmtime_internals as inner
from theater_tcp.guest.adapter import STAGED
from theater_tcp.guest.calls import MAX_LOG_LINE
from theater_tcp.guest.core_values import too_much
from theater_tcp.guest.entrance import CLEAN, IMPORTS, SMALL
from theater_tcp.guest.linear_memory import LinearMemory
from theater_tcp.guest.outcome import GuestTrap, Outcome
from theater_tcp.guest.stage import (
    FIRST,
    FIRST_SIZE,
    HEADER,
    ID_SIZE,
    NOTHING,
    OUT,
    OUT_SIZE,
    PENDING,
    SECOND,
    WORDS,
)
from theater_tcp.guest.suspendable import Suspendable
from theater_tcp.guest.wasmtime_internals import EXTERN, FUNCREF, I64, OF, VALUE
from theater_tcp.guest_settings import MAX_TABLES

if TYPE_CHECKING:
    from theater_tcp.guest.calls import GuestCalls
    from theater_tcp.guest.core_program import CoreProgram
    from theater_tcp.guest_settings import Limits

__all__ = ["FLAG", "CoreInstance"]

# Where things are in the one block of memory that an instance shares with wasmtime.
TRAP, ERROR, RESULT = 0, 8, 16
ADAPTER, GUEST, ENTRANCE, FLAG = (RESULT + VALUE + 16 * n for n in range(4))
EXTERNS = FLAG + 16  # what the entrance imports
MEMORY, FUNCTIONS, INSIDE, REALLOC, BLOCK = (EXTERNS + EXTERN * n for n in range(1, len(IMPORTS)))
ENTER = BLOCK + EXTERN
EXPORT = ENTER + EXTERN
POST = EXPORT + VALUE
END = POST + VALUE

NO_WORDS = bytes(WORDS.size)
NO_FUNCTION = bytes((FUNCREF, *bytes(VALUE - 1)))

COPIED = 16 << 10
"""Bytes that go to a guest by the stage, if they aren't there already: to copy more than that a second time costs more
than the call of the host that writes it into the guest's memory."""

MAX_TEXT_BYTES = 4 * MAX_LOG_LINE
"""Bytes of a text that are looked at: no line of the log has more, and nothing has a name that is nearly as long."""

START_TICKS = 5
"""Slices that a module's start function may take: it runs before the guest can be suspended. They are counted by the
clock, so a few more than an honest one needs, for a machine that has other things to do."""

# A write through a memoryview or a struct costs a third of one through ctypes, hence their use wherever calls are many.
_pair = struct.Struct("<II")
_end = struct.Struct("<QQ8xq")  # trap, error, the i64 that was returned
_word = struct.Struct("<I")
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
        "_c_block",
        "_context",
        "_entered",
        "_entry",
        "_exports",
        "_kept",
        "_stage",
        "_store",
        "arguments",
        "at",
        "block",
        "continuation",
        "memory",
        "placing",
        "program",
        "results",
    )

    def __init__(self, program: CoreProgram, calls: GuestCalls, limits: Limits) -> None:
        Suspendable.__init__(self, program.road, calls, limits)
        self.program = program
        self.arguments: tuple[bytes, bytes] = (b"", b"")
        self.placing: Any = None  # what the next block that the guest allocates is for
        self.results: Any = None  # where wasmtime takes the answer from, while the guest is suspended
        self._entered = ""
        self._entry: tuple[Any, ...] = ()
        self._exports: dict[str, bytes] = {}
        self._stage = program.road.stage
        self._kept = b""  # what was on the stage for it when it yielded
        self._c_block = (ctypes.c_ubyte * END)()
        self.block = memoryview(self._c_block).cast("B")
        self.at = at = ctypes.addressof(self._c_block)
        self.continuation = inner.CONTINUATION.pack(*inner.continuation(at + FLAG))
        road = self.road
        self._store: int | None = inner.store_new(road.engine_address, None, None)
        self._context = context = inner.store_context(self._store)
        # three instances; the adapter has a table too
        inner.store_limiter(self._store, limits.memory, limits.tables, 3, MAX_TABLES + 1, 1)
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
        self.block[EXTERNS:MEMORY] = road.stage_extern
        inner.export_get(context, at + GUEST, b"memory", 6, at + MEMORY)
        inner.export_get(context, at + ADAPTER, b"functions", 9, at + FUNCTIONS)
        inner.export_get(context, at + ADAPTER, b"inside", 6, at + INSIDE)
        inner.export_get(context, at + GUEST, b"cabi_realloc", 12, at + REALLOC)
        inner.linker_get(road.suspending, context, road.MODULE, len(road.MODULE), b"block", 5, at + BLOCK)
        error = inner.instance_new(context, road.entrance, at + EXTERNS, len(IMPORTS), at + ENTRANCE, at + TRAP)
        inner.check(error, self._take_trap())
        inner.yield_at_epoch(context, 1)
        self.memory = LinearMemory(context, at + MEMORY + OF)
        inner.export_get(context, at + ENTRANCE, b"enter", 5, at + ENTER)
        # As C values, made once: to make them of ints anew is a third of the call's time.
        self._entry = inner.call_arguments(context, at + ENTER + OF, at + EXPORT, at + RESULT, at + TRAP, at + ERROR)

    # -- entering -------------------------------------------------------------------------------------------------

    def begin(self) -> Outcome:
        """Run ``_initialize``, where the guest has one; it comes before every other call."""
        if not self.program.initializes:
            return Outcome.RETURNED
        at = self.at
        # The place of a post-return function is free as yet, and stays what it is until the call has ended.
        inner.export_get(self._context, at + ENTRANCE, b"begin", 5, at + POST)
        self.block[EXPORT:POST] = _reference(self._function(b"_initialize"))
        self._stage[: WORDS.size] = NO_WORDS
        self._future = inner.call(self._context, at + POST + OF, at + EXPORT, 1, None, 0, at + TRAP, at + ERROR)
        return self._go_on()

    def call(self, export: str, first: Any, second: Any = None, connection: Any = None) -> Outcome:
        """Enter an export, which the guest has and is not inside of.

        Args:
            export: its name, as ``on-data``.
            first, second: its arguments, one or two: texts, data, or texts that :meth:`CoreProgram.prepared` made.
            connection: the handle of the connection that the call is about, if its id is the first argument.

        Raises:
            GuestTrap: it trapped.
        """
        data, alignment, length = first if first.__class__ is tuple else self.program.prepared(export, first)
        if second is None:
            other, alignment2, length2, size2 = b"", 1, 0, NOTHING
        else:
            if second.__class__ is bytes:
                other, alignment2, length2 = second, 1, len(second)
            else:
                other, alignment2, length2 = self.program.prepared(export, second)
            size2 = len(other)
        size = len(data)
        if size + len(other) > self.limits.call_data:
            raise GuestTrap(f"limit: call_data: {export} would carry more than {self.limits.call_data} bytes")
        stage = self._stage
        if size <= FIRST_SIZE and len(other) <= COPIED:
            pending = SECOND + len(other)
            stage[FIRST : FIRST + size] = data
            stage[SECOND:pending] = other
        else:
            pending = 0
            self.arguments = data, other
        # Who is passed much sends much, which isn't gathered.
        direct = connection is not None and len(other) <= SMALL and alignment == 1 and self._gathers(connection)
        HEADER.pack_into(stage, 0, 0, direct, 0, pending, size, alignment, length, size2, alignment2, length2)
        if self._entered != export:
            self.block[EXPORT:END] = self._export(export)
            self._entered = export
        self._used = 0.0
        self._future = inner.call(*self._entry)
        return self._go_on()

    # -- the stage ------------------------------------------------------------------------------------------------

    def _gathers(self, connection: Any) -> bool:
        """Whether what the guest sends over a connection, whose id is on the stage, is to be gathered there."""
        core = connection._core
        if core.handle is connection and core.sends_directly and core.options.write_buffer_limit >= OUT_SIZE:
            self.gathering = core
            return True
        return False

    def flush(self) -> None:
        """Send what the guest has gathered; what it sends from now on comes by the host."""
        stage, core = self._stage, self.gathering
        (size,) = _word.unpack_from(stage)
        stage[:PENDING] = NO_WORDS[:PENDING]
        self.gathering = None
        if size:
            core.send_directly(stage[OUT : OUT + size])

    def received(self, connection_id: str, most: int, data: bytes | int) -> bool:
        """See that data which the guest received is on the stage, and say there how it may go on.

        Args:
            connection_id: from where.
            most: the bytes that it asked for.
            data: what it gets; or its size, if it is there already.

        Returns:
            whether it is there; else it is too much, or nothing.

        Raises:
            GuestTrap: it is more than one call may carry.
        """
        stage = self._stage
        if data.__class__ is int:
            size: int = data
            if size > self.limits.call_data:
                raise too_much("receive", size)
        else:
            size = len(data)  # type: ignore[arg-type]
            if not 0 < size <= COPIED or size > self.limits.call_data:
                return False
            stage[SECOND : SECOND + size] = data  # type: ignore[assignment]
        connection: Any = self.calls.handles.get(connection_id)
        direct = ready = False
        if connection is not None:
            if size <= SMALL and self._gathers(connection):
                stage[FIRST : FIRST + ID_SIZE] = connection.id_bytes
                direct = True
            ready = size >= most or size >= connection._core.options.read_buffer_limit
        WORDS.pack_into(stage, 0, 0, direct, ready, SECOND + size)
        self._used = 0.0  # that is what it was waiting for
        return True

    def _yielded(self) -> None:
        (end,) = _word.unpack_from(self._stage, PENDING)
        if end:
            self._kept = self._stage[FIRST:end].tobytes()

    def resume(self) -> Outcome:
        """See :meth:`Suspendable.resume`; what is for it comes back to the stage."""
        kept, self._kept = self._kept, b""
        end = FIRST + len(kept)
        self._stage[FIRST:end] = kept
        WORDS.pack_into(self._stage, 0, 0, 0, 0, end if kept else 0)
        return Suspendable.resume(self)

    def arrived(self, value: Any) -> Outcome:
        """See :meth:`Suspendable.arrived`; data, which it mostly is, by a shorter way."""
        _function, values, _pointer, _begun = self._asking
        if isinstance(value, TheaterError) or not self.received(values[0], values[1], value):
            return Suspendable.arrived(self, value)
        self.awaited = None
        _answer.pack_into(self.results, 0, I64, STAGED)
        self.block[FLAG] = 1
        return self._go_on()

    def _put_answer(self, value: Any) -> None:
        function, values, pointer, _begun = self._asking
        if function.receives and not isinstance(value, TheaterError) and self.received(values[0], values[1], value):
            answer = STAGED
        else:
            self._stage[: WORDS.size] = NO_WORDS
            lower = function.lower_error if isinstance(value, TheaterError) else function.lower
            answer = lower(self, pointer, value)
        _answer.pack_into(self.results, 0, I64, answer)
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
        if result == CLEAN:
            return Outcome.RETURNED
        if result & 3:
            raise GuestTrap(f"{export} returned a result at {result:#x}, which is not aligned")
        view = self.memory.view
        if result + 12 > len(view):
            self.memory.check(result, 12, "its result")
            view = self.memory.view
        case = view[result]
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
            self._check_data(address, size)
        return self.memory.read(address, size)

    def text(self, address: int, length: int, decode: Any) -> str:
        """A text that the guest passes; of a long one only the begin, which is as wrong as all of it, or enough.

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
        try:
            if size > MAX_TEXT_BYTES:
                self._check_data(address, size)
                raw = self.memory.read(address, MAX_TEXT_BYTES)
                begin: str = codecs.getincrementaldecoder(codec)().decode(raw)  # it may end within a character
                return begin
            return self.data(address, size).decode(codec)
        except UnicodeDecodeError as error:
            raise GuestTrap(f"a text is not {codec}: {error.reason} at byte {error.start}") from None

    # -- inside ---------------------------------------------------------------------------------------------------

    def _check_data(self, address: int, size: int) -> None:
        self.memory.check(address, size, "a list")  # the worse mistake comes first
        if size > self.limits.call_data:
            raise GuestTrap(f"limit: call_data: it passed {size} bytes, and {self.limits.call_data} may be")

    def _function(self, name: bytes) -> bytes:
        """The reference to an exported function of the guest."""
        if not inner.export_get(self._context, self.at + GUEST, name, len(name), self.at + RESULT):
            return bytes(16)
        return self.block[RESULT + OF : RESULT + OF + 16].tobytes()

    def _export(self, export: str) -> bytes:
        """An export and its post-return function, as values for ``enter``."""
        values = self._exports.get(export)
        if values is None:
            name, post = self.program.export_names[export]
            values = self._exports[export] = _reference(self._function(name)) + (
                _reference(self._function(post)) if post else NO_FUNCTION
            )
        return values

    def _take_trap(self) -> int:
        trap = int.from_bytes(self.block[TRAP : TRAP + 8], "little")
        self.block[TRAP : TRAP + 8] = bytes(8)
        return trap


def _reference(function: bytes) -> bytes:
    return NO_FUNCTION[:OF] + function + bytes(VALUE - OF - len(function))
