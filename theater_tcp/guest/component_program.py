"""A compiled component for the component road, and what the host defines for it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Collection
from ctypes import c_size_t, memmove
from typing import TYPE_CHECKING, Any

import wasmtime
import wasmtime.component

from theater_tcp.errors import ShutDown, TheaterError
from theater_tcp.future import Future
from theater_tcp.guest import wasmtime_internals as inner
from theater_tcp.guest.calls import GuestCalls, method_of
from theater_tcp.guest.canonical_abi import NO_BOUND
from theater_tcp.guest.component_road import FLAG, ComponentInstance
from theater_tcp.guest.component_values import Lift, Lower, lifter, lowerer
from theater_tcp.guest.interface import BLOCKING, EXPORTS, IMPORTS
from theater_tcp.guest.lowering import lower_result
from theater_tcp.guest.outcome import GuestTrap
from theater_tcp.guest.wasmtime_internals import COMPONENT_VALUE
from theater_tcp.guest.wit_types import Err, Function, Ok, Result

if TYPE_CHECKING:
    from theater_tcp.guest.core_callbacks import CoreRoad
    from theater_tcp.guest_settings import Limits

__all__ = ["MAX_RECEIVED", "ComponentProgram", "HostFunction"]

MAX_RECEIVED = 64 << 10
"""Bytes of a raw stream that one ``receive`` gives at most: of more, the conversion would hold up the loop."""

_MONOTONIC_CLOCK = "wasi:clocks/monotonic-clock@"


class HostFunction:
    """A function of an interface, as components see it.

    Args:
        function: its name and types.
        method: what it does: the host's side of the guest, and the arguments.
    """

    __slots__ = ("_lifts", "_most", "_put", "_wrapped", "function", "method")

    def __init__(self, function: Function, method: Callable[..., Any]) -> None:
        self.function = function
        self.method = method
        self._lifts = [lifter(kind) for kind in function.types]
        self._put: Lower | None = lowerer(function.result) if function.result else None
        self._wrapped = isinstance(function.result, Result)

    def lift(self, instance: ComponentInstance, arguments: int, count: int) -> list[Any]:
        """The arguments of a call, which is the guest's.

        Args:
            arguments: the address of the first.
            count: how many there are.
        """
        if count != len(self._lifts):
            raise GuestTrap(f"{self.function.name} was passed {count} arguments, and takes {len(self._lifts)}")
        most = instance.limits.call_data
        lifted = [lift(arguments + number * COMPONENT_VALUE, most) for number, lift in enumerate(self._lifts)]
        carried = sum(len(value) for value in lifted if isinstance(value, (str, bytes)))
        if carried > most:
            raise GuestTrap(f"limit: call_data: it passed {carried} bytes, and {most} may be")
        return lifted

    def put(self, instance: ComponentInstance, results: int, value: Any) -> None:
        """Put the result, or the error in its place, where wasmtime finds it.

        Raises:
            GuestTrap: it is more than one call may carry.
        """
        if self._put is None:
            return
        failed = isinstance(value, TheaterError)
        if failed:
            value = str(value)
        if isinstance(value, (str, bytes, bytearray, memoryview)):
            size = len(value)
        elif isinstance(value, dict):
            size = sum(size for size, _ in lower_result(self.function, Ok(value), max_data=NO_BOUND).allocations)
        else:
            size = 0
        if size > instance.most_given:
            raise GuestTrap(f"limit: call_data: {self.function.name} would give {size} bytes")
        if self._wrapped:
            value = Err(value) if failed else Ok(value)
        self._put(results, value)


class ComponentProgram:
    """What guests of one component share.

    Args:
        road: which guest runs, and for how long; the same one as the core road's.
        component: the compiled component, known to be a guest by :mod:`theater_tcp.guest.binary`.
        imports: the interfaces that it imports; those of WASI are granted.
        memories: how many memories it has in all.
    """

    road_name = "component"
    takes_arrivals = True
    arrivals: memoryview | None = None

    def __init__(
        self,
        road: CoreRoad,
        component: wasmtime.component.Component,
        imports: Collection[str] = (),
        memories: int = 1,
    ) -> None:
        self.road = road
        self.memories = max(1, memories)
        wasi = [name for name in imports if name.startswith("wasi:")]
        self.has_wasi = bool(wasi)
        linker = wasmtime.component.Linker(road.engine)
        if wasi:
            linker.allow_shadowing = True
            linker.add_wasip2()
        self._kept: list[Any] = [component, linker]
        self.component = inner.address_of(component)
        self.linker = inner.address_of(linker)
        with linker.root() as root:
            for interface, functions in IMPORTS.items():
                with root.add_instance(interface) as instance:
                    for function in functions.values():
                        self._kept.append(_define(road, instance, function))
            for interface in wasi:
                if interface.startswith(_MONOTONIC_CLOCK):
                    with root.add_instance(interface) as instance:
                        _define_clock(instance)
        self.functions: dict[str, tuple[int, list[Lower], Lift]] = {}
        """For each export, as ``on-data``: wasmtime's index, what lowers its arguments, what lifts its result."""
        self._indices: list[int] = []
        for function in EXPORTS.values():
            index = self._export(self._export(None, function.interface), function.name)
            if index and function.result is not None:
                lowers = [lowerer(kind) for kind in function.types]
                self.functions[function.name] = (index, lowers, lifter(function.result))
        self.exports = frozenset(self.functions)
        """The names of the exports that it has, as ``on-data``."""

    def _export(self, within: int | None, name: str) -> int | None:
        """Wasmtime's index of an export, or of a function in an exported interface; None if there is none."""
        encoded = name.encode()
        index = inner.component_get_export(self.component, within, encoded, len(encoded))
        if index:
            self._indices.append(index)
        return index  # type: ignore[no-any-return]

    def instantiate(self, calls: GuestCalls, limits: Limits) -> ComponentInstance:
        """A new guest. On the loop's thread. What is in it is made when it begins.

        Raises:
            ShutDown: the runtime that it was loaded for has ended.
        """
        if not self.component:
            raise ShutDown
        return ComponentInstance(self, calls, limits)

    def prepared(self, export: str, value: str) -> str:
        """An argument as it goes to an export: here, as it is."""
        del export
        return value

    def may_enter(self) -> bool:
        """Whether no guest of this engine is running further up the stack."""
        return self.road.current is None

    def close(self) -> None:
        """Give back what it has of wasmtime; its guests have ended."""
        self.component = 0
        while self._indices:
            inner.component_export_delete(self._indices.pop())
        self._kept.clear()


# -- what the host defines --------------------------------------------------------------------------------------------


def _receive(calls: GuestCalls, connection_id: str, most: int) -> Any:
    handle = calls.handles.get(connection_id)
    if handle is not None and handle._core.options.framing == "raw":  # a frame is never given in parts
        most = min(most, MAX_RECEIVED)
    return calls.receive(connection_id, most)


def _define_clock(instance: wasmtime.component.LinkerInstance) -> None:
    """Define the clock of WASI by which a guest could wait: wasmtime would block the whole thread for that."""

    def refuse(*_: Any) -> None:
        raise wasmtime.WasmtimeError("a guest can't wait by wasi:clocks, only by the calls of theater:simple/tcp")

    instance.add_func("now", lambda _: time.monotonic_ns())
    instance.add_func("resolution", lambda _: 1)
    instance.add_func("subscribe-instant", refuse)
    instance.add_func("subscribe-duration", refuse)


def _define(road: CoreRoad, instance: wasmtime.component.LinkerInstance, function: Function) -> Any:
    """Define a function of the interfaces; what C code knows of it is returned, and must be kept."""
    method = method_of(function)
    host_function = HostFunction(function, _receive if method is GuestCalls.receive else method)
    name = function.name.encode()
    if function.full_name in BLOCKING:
        callback = inner.SUSPENDABLE_OF_COMPONENT(functools.partial(_wait, road, host_function))
    elif method is GuestCalls.send:  # which mostly answers at once, and now and then has to wait
        callback = inner.SUSPENDABLE_OF_COMPONENT(functools.partial(_may_wait, road, host_function))
    else:
        callback = inner.SYNCHRONOUS_OF_COMPONENT(functools.partial(_answer, road, host_function))
        add = inner.component_add
        inner.check(add(inner.address_of(instance), name, len(name), callback, None, None), None)
        return callback
    add = inner.component_add_suspendable
    inner.check(add(inner.address_of(instance), name, len(name), callback, None, None), None)
    return callback


def _answer(road: CoreRoad, function: HostFunction, *given: int) -> int:
    """A call that can be answered at once."""
    instance: ComponentInstance = road.current
    try:
        values = function.lift(instance, given[3], given[4])
        try:
            value = function.method(instance.calls, *values)
        except TheaterError as error:
            value = error
        function.put(instance, given[5], value)
        return 0
    except BaseException as error:
        return _fault(instance, error)


def _wait(road: CoreRoad, function: HostFunction, *given: int) -> None:
    """A call that has to wait: note for what, and suspend the guest."""
    instance: ComponentInstance = road.current
    try:
        instance.block[FLAG] = 0
        memmove(given[8], instance.continuation, inner.CONTINUATION.size)
        instance.asked = (function, function.lift(instance, given[3], given[4]), given[5], None)
    except BaseException as error:
        c_size_t.from_address(given[7]).value = _fault(instance, error)


def _may_wait(road: CoreRoad, function: HostFunction, *given: int) -> None:
    """A call that can mostly be answered at once."""
    instance: ComponentInstance = road.current
    try:
        instance.block[FLAG] = 1
        memmove(given[8], instance.continuation, inner.CONTINUATION.size)
        values = function.lift(instance, given[3], given[4])
        try:
            value = function.method(instance.calls, *values)
        except TheaterError as error:
            value = error
        if value.__class__ is Future:
            instance.block[FLAG] = 0
            instance.asked = (function, values, given[5], value)
        else:
            function.put(instance, given[5], value)
    except BaseException as error:
        c_size_t.from_address(given[7]).value = _fault(instance, error)


def _fault(instance: ComponentInstance | None, error: BaseException) -> int:
    """Stop the guest: the address of an error, and the exception where the one who entered the guest finds it."""
    if instance is not None:
        instance.fault = error
    text = str(error) if isinstance(error, GuestTrap) else "the host failed"
    return int(inner.new_error(text.encode("utf-8", "replace").replace(b"\0", b"?")))
