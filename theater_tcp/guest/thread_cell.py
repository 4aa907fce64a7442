"""What a guest on the road of threads runs in: an engine of its own, with its module and its host functions.

The one way to stop a guest from another thread, by wasmtime-py's public parts, is to raise the epoch of its engine: it
ends every guest of that engine. So each guest has an engine to itself. It gets there compiled already; that takes less
than a millisecond. When the guest has ended, the next one can have the engine.

Host functions may not raise: wasmtime-py keeps the exception in a variable of the whole process, where another thread
would find it. A host function returns a number instead, and a small module between guest and host turns that into a
trap::

    guest ── import ──> adapter ── ask ──> host          0, or something else and the adapter traps
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import wasmtime

from theater_tcp.guest.binary import WASI_MODULE
from theater_tcp.guest.wit_types import Function

__all__ = ["Cell", "HostFunction", "HostSide", "adapter_text"]

MODULE = "theater:host"

FAULT = 21
"""WASI's number for an address that is none."""

_TYPES = {"i32": wasmtime.ValType.i32, "i64": wasmtime.ValType.i64}


class HostFunction(NamedTuple):
    """A function that guests of one program import.

    Args:
        function: its name and types.
        method: of :class:`~theater_tcp.guest.calls.GuestCalls`.
        encoding: of the texts in its arguments and its result.
    """

    function: Function
    method: Callable[..., Any]
    encoding: str


class HostSide:
    """Where the host functions of a cell find the guest that calls. Never a cell itself: wasmtime-py keeps what is
    known to C code in a table of the process, and what that refers to would live as long as the process."""

    __slots__ = ("asked", "no_event")

    def __init__(self) -> None:
        self.no_event: Callable[[Any, int], bool] | None = None
        """(the caller, where it wants the number of events) to whether there is such a place; it never raises."""
        self.asked: Callable[[Any, HostFunction, Sequence[int]], int | None] | None = None
        """(the caller, what it calls, core values) to what it returns, or None for a trap; it never raises."""


class Cell:
    """An engine with all that one guest needs, for one guest at a time.

    Args:
        config: of the engine.
        module: the guest, as ``serialize`` gave it.
        adapter: the same for the module between guest and host.
        functions: what the guest imports of the interface.
        wasi: whether it imports WASI too.
    """

    def __init__(
        self, config: wasmtime.Config, module: bytes, adapter: bytes, functions: Sequence[HostFunction], wasi: bool
    ) -> None:
        self.engine = wasmtime.Engine(config)
        self.module = wasmtime.Module.deserialize(self.engine, module)
        self.host = HostSide()
        self.adapter = wasmtime.Module.deserialize(self.engine, adapter)
        self.linker = wasmtime.Linker(self.engine)
        for number, function in enumerate(functions):
            kind = wasmtime.FuncType(
                [_TYPES[core]() for core in function.function.core_params],
                [_TYPES[core]() for core in _host_results(function.function)],
            )
            self.linker.define_func(MODULE, str(number), kind, _asking(self.host, function), access_caller=True)
        if wasi:
            self.linker.define_wasi()
            self.linker.allow_shadowing = True
            kind = wasmtime.FuncType([wasmtime.ValType.i32()] * 4, [wasmtime.ValType.i32()])
            self.linker.define_func(WASI_MODULE, "poll_oneoff", kind, _polling(self.host), access_caller=True)

    def close(self) -> None:
        """Give back what it has of the system: memory, and descriptors for the images of memory."""
        for part in (self.linker, self.adapter, self.module, self.engine):
            part.close()


def adapter_text(functions: Sequence[HostFunction]) -> str:
    """The adapter in WebAssembly's text format; it exports the function number n as ``n``."""
    lines = ["(module $theater"]
    for number, (function, *_) in enumerate(functions):
        signature = _signature(function.core_params, _host_results(function))
        lines.append(f'  (import "{MODULE}" "{number}" (func $host{number} {signature}))')
    for number, (function, *_) in enumerate(functions):
        signature = _signature(function.core_params, (function.core_result,) if function.core_result else ())
        passed = " ".join(f"(local.get {index})" for index in range(len(function.core_params)))
        lines.append(
            f'  (func ${function.name}-{number} (export "{number}") {signature}\n'
            f"    (call $host{number} {passed})\n    (if (then (unreachable))))"
        )
    return "\n".join([*lines, ")"])


def _host_results(function: Function) -> tuple[str, ...]:
    return (function.core_result, "i32") if function.core_result else ("i32",)


def _signature(params: Sequence[str], results: Sequence[str]) -> str:
    taken = f"(param {' '.join(params)})" if params else ""
    return f"{taken} (result {' '.join(results)})" if results else taken


def _asking(host: HostSide, function: HostFunction) -> Callable[..., Any]:
    """The host's side of one function, as wasmtime-py calls it."""
    gives = function.function.core_result is not None

    def asked(caller: wasmtime.Caller, *values: int) -> Any:
        answer = host.asked(caller, function, values) if host.asked is not None else None
        if answer is None:
            return [0, 1] if gives else 1
        return [answer, 0] if gives else 0

    return asked


def _polling(host: HostSide) -> Callable[..., int]:
    """In the place of WASI's ``poll_oneoff``, which would sleep where nobody could stop it: there is no event."""

    def poll_oneoff(caller: wasmtime.Caller, _in: int, _out: int, _count: int, events: int) -> int:
        return 0 if host.no_event is not None and host.no_event(caller, events & 0xFFFFFFFF) else FAULT

    return poll_oneoff
