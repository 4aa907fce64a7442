"""What the host defines for the adapters of the fast road: how calls come out of a guest, and answers go in.

One :class:`CoreRoad` for each engine. A callback finds the guest that calls as ``road.current``. It lifts the arguments
out of the guest's memory, calls the method of :class:`~theater_tcp.guest.calls.GuestCalls`, and lowers the result. No
exception ever leaves a callback: an error of the interface becomes the guest's ``result``; whatever else is a trap, and
waits in ``fault`` for the one who entered the guest.
"""

from __future__ import annotations

import ctypes
import struct
from ctypes import c_size_t
from typing import TYPE_CHECKING, Any

import wasmtime

from theater_tcp.errors import TheaterError
from theater_tcp.future import Future
from theater_tcp.guest import wasmtime_internals as inner
from theater_tcp.guest.adapter import DONE, MODULE, STAGED, WAIT, Import
from theater_tcp.guest.binary import WASI_MODULE
from theater_tcp.guest.calls import ARRIVES, GuestCalls, method_of
from theater_tcp.guest.core_road import FLAG, CoreInstance
from theater_tcp.guest.core_values import RESULT_BYTES, check_result_place, error_lowerer, lifter, lowerer
from theater_tcp.guest.entrance import ENTRANCE
from theater_tcp.guest.interface import BLOCKING
from theater_tcp.guest.outcome import GuestTrap
from theater_tcp.guest.stage import ID_SIZE, STAGE
from theater_tcp.guest.wit_types import Function

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CoreRoad", "HostFunction"]

_TYPES = {"i32": wasmtime.ValType.i32, "i64": wasmtime.ValType.i64}

RAW_BYTES = 6 * inner.VALUE
"""The most that a callback looks at behind an address it was given: the arguments of ``block``."""

MAX_VIEWS = 8192
"""Addresses that are known at one time."""

_word = struct.Struct("<I")
_two_words = struct.Struct("<I12xI")  # two raw values of 16 bytes
_long = struct.Struct("<q")
_sent = struct.Struct("<B7xQ")  # the case ok, and how many bytes
_block_arguments = struct.Struct("<8xi" + "20x8xI" * 5)  # six wasmtime_val_t: the number, and what the guest passed


class HostFunction:
    """One function of the interface, as guests with one encoding of texts see it.

    Args:
        function: its name and types.
        method: what it does.
        encoding: of the texts in its arguments and its result.
    """

    __slots__ = ("encoding", "function", "lift", "lower", "lower_error", "method", "pointer_at", "receives")

    def __init__(self, function: Function, method: Callable[..., Any], encoding: str) -> None:
        self.function = function
        self.method = method
        self.encoding = encoding
        self.lift = lifter(function, encoding)
        self.lower = lowerer(function, encoding)
        self.lower_error = error_lowerer(function, encoding)
        self.pointer_at = len(function.core_params) - 1
        self.receives = method is GuestCalls.receive


class CoreRoad:
    """The fast road of one engine.

    Args:
        engine: wasmtime's.
    """

    MODULE = MODULE.encode()

    def __init__(self, engine: wasmtime.Engine) -> None:
        self.engine = engine
        self.engine_address = inner.address_of(engine)
        self.current: Any = None  # the guest that runs
        self.entries = 0  # how often a guest was entered or resumed
        self.ticks = 0  # how often the epoch went on
        self.parked = False  # nobody looks at how long guests run, since none did of late
        self.unpark: Callable[[], None] = _nothing
        self._views: dict[int, memoryview] = {}
        self._kept: list[Any] = []  # callbacks and types that C code knows
        self.blocking: list[HostFunction] = []
        self.linker = wasmtime.Linker(engine)  # with everything that adapters import
        self._numbers: dict[tuple[str, str, str], int] = {}
        self._shared = inner.SharedMemory(engine, STAGE.pages)
        self._shared.define(self.linker, MODULE, STAGE.name)
        self.stage = self._shared.view
        self.stage_extern = self._shared.extern
        entrance = wasmtime.Module(engine, bytes(wasmtime.wat2wasm(ENTRANCE)))
        self.entrance = inner.address_of(entrance)
        self._define("place", ("i32",), "i64", self._place)
        self._define("arguments", ("i32", "i32"), None, self._arguments)
        suspending = wasmtime.Linker(engine)
        kind = wasmtime.FuncType([wasmtime.ValType.i32()] * 6, [wasmtime.ValType.i64()])
        callback = inner.SUSPENDABLE(self._block)
        inner.define_suspendable(suspending, MODULE, "block", kind, callback)
        self._kept += [entrance, suspending, kind, callback]
        self.suspending = inner.address_of(suspending)
        self._defined: set[str] = set()

    def import_of(self, function: Function, encoding: str) -> Import:
        """How an adapter imports a function of the interface, which is defined with that."""
        params, result, asks = function.core_params, function.core_result, function.asks
        name = function.name if encoding == "utf8" else f"{function.name}:{encoding}"
        key = (function.interface, function.name, encoding)
        if function.full_name in BLOCKING:
            number = self._numbers.get(key)
            if number is None:
                number = self._numbers[key] = len(self.blocking)
                host_function = self._host_function(function, encoding)
                self.blocking.append(host_function)
            made = Import(function.interface, name, params, result, asks, number)
            if made.receives and made.host_name not in self._defined:
                self._defined.add(made.host_name)
                self._define(made.host_name, params, "i64", self._answering(self.blocking[number], len(params)))
            return made
        made = Import(function.interface, name, params, result, asks, None)
        if made.host_name not in self._defined:
            self._defined.add(made.host_name)
            host_function = self._host_function(function, encoding)
            self._define(made.host_name, params, "i64" if asks else result, self._answering(host_function, len(params)))
        return made

    def close(self) -> None:
        """Give back what it has of wasmtime. No guest is entered any more; one that is there may still be let go of."""
        self.unpark = _nothing
        self._views.clear()
        self._kept.clear()
        del self.engine, self.linker, self._shared

    # -- callbacks ------------------------------------------------------------------------------------------------

    def _seen(self, address: int) -> memoryview:
        """What a callback was given the address of: :data:`RAW_BYTES` of a stack, which is soon another's.

        Stacks are few and calls are many, so the same addresses come again and again; a view that is there is looked
        through in a fifth of the time that it takes to copy the bytes out.
        """
        if len(self._views) >= MAX_VIEWS:
            self._views.clear()
        view = self._views[address] = memoryview((ctypes.c_ubyte * RAW_BYTES).from_address(address)).cast("B")
        return view

    def _answering(self, host_function: HostFunction, count: int) -> Callable[[int, int, int, int], int]:
        """The callback of a function that can mostly answer at once."""
        unpack = struct.Struct("<" + "I12x" * (count - 1) + "I").unpack_from
        if not host_function.function.asks:
            return self._plain(host_function)
        if host_function.method is GuestCalls.send and host_function.encoding == "utf8":
            return self._sending(host_function)
        lift, lower, method = host_function.lift, host_function.lower, host_function.method
        lower_error, receives = host_function.lower_error, host_function.receives
        seen, views, fault = self._seen, self._views, self._fault

        def callback(_env: int, _caller: int, raw: int, _count: int) -> int:
            instance: CoreInstance = self.current
            try:
                view = views.get(raw) or seen(raw)
                values = unpack(view)
                pointer = values[-1]
                if pointer & 3 or pointer + RESULT_BYTES > len(instance.memory.view):
                    check_result_place(instance, pointer)
                if instance.gathering is not None:
                    instance.flush()
                given = lift(instance, values)
                try:
                    value = method(instance.calls, *given)
                except TheaterError as error:
                    answer = lower_error(instance, pointer, error)
                else:
                    if value.__class__ is Future or value is ARRIVES:
                        instance.noted = (host_function, given, pointer, value)
                        answer = WAIT
                    elif receives and instance.received(given[0], given[1], value):
                        answer = STAGED
                    else:
                        answer = lower(instance, pointer, value)
                _long.pack_into(view, 0, answer)
                return 0
            except BaseException as error:
                return fault(instance, error)

        return callback

    def _sending(self, host_function: HostFunction) -> Callable[[int, int, int, int], int]:
        """The callback of ``send``, which comes most often: without a copy of the data, and without a frame more."""
        unpack = struct.Struct("<I12xI12xI12xI12xI").unpack_from
        lift, lower_error = host_function.lift, host_function.lower_error
        seen, views, fault, send = self._seen, self._views, self._fault, GuestCalls.send_view
        write, done = _sent.pack_into, _long.pack(DONE)

        def callback(_env: int, _caller: int, raw: int, _count: int) -> int:
            instance: CoreInstance = self.current
            try:
                view = views.get(raw) or seen(raw)
                address, length, data_at, size, pointer = values = unpack(view)
                pages = instance.memory.view
                room = len(pages)
                if (
                    pointer & 7
                    or pointer + RESULT_BYTES > room
                    or data_at + size > room
                    or address + length > room
                    or size > instance.limits.call_data
                ):
                    check_result_place(instance, pointer, 8)
                    lift(instance, values)  # says what is wrong, if it isn't that the memory has grown
                    pages = instance.memory.view
                if instance.gathering is not None:
                    instance.flush()
                try:
                    if length > ID_SIZE:
                        called = lift(instance, values)[0]
                    else:
                        called = str(pages[address : address + length], "utf-8")
                except UnicodeDecodeError:
                    lift(instance, values)  # says so in its words
                    raise
                try:
                    value = send(instance.calls, called, pages[data_at : data_at + size])
                except TheaterError as error:
                    _long.pack_into(view, 0, lower_error(instance, pointer, error))
                    return 0
                if value.__class__ is int:
                    write(pages, pointer, 0, value)
                    view[:8] = done
                else:
                    instance.noted = (host_function, (called, b""), pointer, value)
                    _long.pack_into(view, 0, WAIT)
                return 0
            except BaseException as error:
                return fault(instance, error)

        return callback

    def _plain(self, host_function: HostFunction) -> Callable[[int, int, int, int], int]:
        """The callback of a function whose result, if any, is a number."""
        count = len(host_function.function.core_params)
        unpack = struct.Struct("<" + "I12x" * count).unpack_from
        lift, method = host_function.lift, host_function.method
        gives = host_function.function.core_result is not None

        def callback(_env: int, _caller: int, raw: int, _count: int) -> int:
            instance: CoreInstance = self.current
            try:
                view = self._views.get(raw) or self._seen(raw)
                value = method(instance.calls, *lift(instance, unpack(view)))
                if gives:
                    _long.pack_into(view, 0, value)
                return 0
            except BaseException as error:
                return self._fault(instance, error)

        return callback

    def _place(self, _env: int, _caller: int, raw: int, _count: int) -> int:
        """The guest has allocated a block: put there what it is for."""
        instance: CoreInstance = self.current
        try:
            view = self._views.get(raw) or self._seen(raw)
            (address,) = _word.unpack_from(view)
            placing = instance.placing
            if placing.__class__ is tuple:
                data, pointer, header, case, alignment, length = placing
                if address & (alignment - 1):
                    raise GuestTrap(f"cabi_realloc gave {address:#x}, which is not aligned to {alignment}")
                memory = instance.memory
                memory.write(address, data, "what cabi_realloc gave")
                if case is None:
                    header.pack_into(memory.view, pointer, address, length)
                else:
                    header.pack_into(memory.view, pointer, case, address, length)
                answer = DONE
            else:
                answer = placing.place(instance, address)
            _long.pack_into(view, 0, answer)
            return 0
        except BaseException as error:
            return self._fault(instance, error)

    def _arguments(self, _env: int, _caller: int, raw: int, _count: int) -> int:
        """The guest has allocated blocks for the arguments of the call under way."""
        instance: CoreInstance = self.current
        try:
            first_at, second_at = _two_words.unpack_from(self._views.get(raw) or self._seen(raw))
            first, second = instance.arguments
            pages = instance.memory.view
            try:
                pages[first_at : first_at + len(first)] = first
                if second:
                    pages[second_at : second_at + len(second)] = second
            except ValueError:  # it grew meanwhile, or the addresses are wrong
                instance.memory.write(first_at, first, "what cabi_realloc gave")
                instance.memory.write(second_at, second, "what cabi_realloc gave")
            return 0
        except BaseException as error:
            return self._fault(instance, error)

    def _block(
        self, _e: int, _c: int, arguments: int, _count: int, results: int, _places: int, trap: int, going_on: int
    ) -> None:
        """The guest has to wait: note for what, and suspend it."""
        instance: CoreInstance = self.current
        views, seen = self._views, self._seen
        try:
            number, *values = _block_arguments.unpack_from(views.get(arguments) or seen(arguments))
            instance.results = views.get(results) or seen(results)
            instance.block[FLAG] = 0
            (views.get(going_on) or seen(going_on))[: inner.CONTINUATION.size] = instance.continuation
            if number >= 0:
                host_function = self.blocking[number]
                pointer = values[host_function.pointer_at]
                if pointer & 3 or pointer + RESULT_BYTES > len(instance.memory.view):
                    check_result_place(instance, pointer)
                instance.asked = (host_function, host_function.lift(instance, values), pointer, None)
            else:  # only now: between the two calls the guest may have yielded, and there was no place for an answer
                instance.asked = instance.noted
        except BaseException as error:
            c_size_t.from_address(trap).value = self._fault(instance, error)

    @staticmethod
    def _fault(instance: CoreInstance | None, error: BaseException) -> int:
        """Stop the guest: the address of a trap, and the error where the one who entered the guest finds it."""
        if instance is not None:
            instance.fault = error
        return inner.new_trap(str(error) if isinstance(error, GuestTrap) else "the host failed")

    def wasi(self) -> wasmtime.Linker:
        """A linker with WASI, in which no call blocks the thread: ``poll_oneoff``, which would, says "no event"."""
        linker = wasmtime.Linker(self.engine)
        linker.define_wasi()
        linker.allow_shadowing = True
        kind = wasmtime.FuncType([wasmtime.ValType.i32()] * 4, [wasmtime.ValType.i32()])
        callback = inner.SYNCHRONOUS(self._poll_oneoff)
        inner.define_synchronous(linker, WASI_MODULE, "poll_oneoff", kind, callback)
        self._kept += [kind, callback]
        return linker

    def _poll_oneoff(self, _env: int, _caller: int, raw: int, _count: int) -> int:
        instance: CoreInstance = self.current
        try:
            view = self._views.get(raw) or self._seen(raw)
            instance.memory.write(_word.unpack_from(view, 48)[0], bytes(4), "the number of events")
            _word.pack_into(view, 0, 0)
            return 0
        except BaseException as error:
            return self._fault(instance, error)

    # -- defining -------------------------------------------------------------------------------------------------

    @staticmethod
    def _host_function(function: Function, encoding: str) -> HostFunction:
        return HostFunction(function, method_of(function), encoding)

    def _define(self, name: str, params: tuple[str, ...], result: str | None, callback: Any) -> None:
        kind = wasmtime.FuncType([_TYPES[p]() for p in params], [_TYPES[result]()] if result else [])
        known = inner.SYNCHRONOUS(callback)
        inner.define_synchronous(self.linker, MODULE, name, kind, known)
        self._kept += [kind, known]


def _nothing() -> None:
    """In the place of what wakes a thread up, where there is none."""
