"""Compiles guests and runs them: one engine for each runtime, made when the first guest comes."""

from __future__ import annotations

import hashlib
import importlib
import logging
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import wasmtime

from theater_tcp.errors import InvalidArgument, ShutDown
from theater_tcp.fields import did_you_mean
from theater_tcp.guest import wasmtime_internals as inner
from theater_tcp.guest.binary import GRANTS, WASI, BinaryError, GuestBinary, read_guest
from theater_tcp.guest.core_callbacks import CoreRoad
from theater_tcp.guest.core_program import CoreProgram
from theater_tcp.guest.thread_road import MAX_STACK, ThreadProgram, ThreadRoad
from theater_tcp.guest.ticker import Ticker

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from theater_tcp.guest.compile_cache import CompileCache
    from theater_tcp.guest.guest_actor import GuestProgram

__all__ = ["Engine"]

logger = logging.getLogger("theater_tcp.guest")

CONFIGURED = "stage, no memory64, gc, exceptions, cow"
"""What the two configurations below say, for the cache: what was compiled for another is of no use."""

HOST_STACK = 512 << 10
"""Bytes of a fiber's stack for what the host does in a guest's call, above the guest's own part."""


def engine_config(stack: int) -> wasmtime.Config:
    """What wasmtime is told.

    Args:
        stack: bytes of stack that a guest's own functions may use.
    """
    config = wasmtime.Config()
    config.epoch_interruption = True
    config.wasm_threads = False  # a shared memory is bounded by no limit
    config.wasm_memory64 = False
    config.wasm_gc = False  # what it collects is bounded by no limit of ours, nor is what is thrown
    config.wasm_exceptions = False
    config.max_wasm_stack = stack
    return config


def fiber_config(stack: int) -> wasmtime.Config:
    """What wasmtime is told for the fast road; see :func:`engine_config`."""
    config = engine_config(stack)
    config.wasm_threads = config.shared_memory = True  # for the stage; a guest may have no shared memory
    config.memory_init_cow = False  # two mappings less for each guest, of which a process may have 65 530 by default
    config.memory_may_move = False  # the address of a guest's memory stays what it is
    inner.set_fiber_stack(config, stack + HOST_STACK)
    return config


class Engine:
    """Compiles and runs guests.

    Args:
        name: names its thread.
        stack: bytes of stack for the functions of a guest.
        cache: of compiled guests, beyond the life of this process; None for none.
    """

    def __init__(self, name: str, stack: int, cache: CompileCache | None = None) -> None:
        self._name = name
        self._stack = stack
        self._cache = cache
        self._lock = threading.Lock()
        self._closed = False
        self._programs: dict[tuple[str, frozenset[str]], GuestProgram] = {}
        self._road: CoreRoad | None = None
        self._ticker: Ticker | None = None
        self._threads: ThreadRoad | None = None

    def load(self, content: bytes, grants: Collection[str] = ()) -> GuestProgram:
        """A compiled guest; the same content is compiled once. Takes milliseconds to seconds: not on the loop.

        Args:
            content: a core module or a component.
            grants: the interfaces that it may import beyond the usual ones.

        Raises:
            InvalidArgument: it is none, or imports or exports something that it should not.
            ShutDown: the runtime has ended.
        """
        key = hashlib.sha256(content).hexdigest(), frozenset(grants)
        with self._lock:
            if self._closed:
                raise ShutDown
            program = self._programs.get(key)
            if program is None:
                program = self._programs[key] = self._compile(content, frozenset(grants))
                logger.info("a guest of %d bytes runs by the %s road", len(content), program.road_name)
            return program

    def has(self, program: object) -> bool:
        """Whether this is a guest of this engine; of another's, an instance would be on the wrong thread."""
        with self._lock:
            return any(own is program for own in self._programs.values())

    def close(self) -> None:
        """End its threads, and give back what it has of wasmtime. No guest runs any more.

        Nothing of that is left to the garbage collector, whose moment can be a bad one (ARCHITECTURE.md, decision 24).
        """
        with self._lock:
            self._closed = True
            ticker, self._ticker = self._ticker, None
            road, self._road = self._road, None
            programs, self._programs = self._programs, {}
        if ticker is not None:
            ticker.close()
        if self._threads is not None:
            self._threads.close()
        for program in programs.values():
            program.close()
        if road is not None:
            road.close()

    def _compile(self, content: bytes, grants: frozenset[str]) -> GuestProgram:
        for grant in grants - GRANTS:
            raise InvalidArgument(f"grants: {grant!r} is unknown{did_you_mean(grant, sorted(GRANTS))}")
        try:
            found = read_guest(content, grants)
        except BinaryError as error:
            raise InvalidArgument(str(error)) from None
        if found.core is None:
            return self._by_components(content, found)
        binary, encodings = found.core
        if inner.FAILURE is not None:
            threads = self._by_threads(inner.FAILURE)
            return ThreadProgram(threads, self._module(threads.engine, binary), encodings)
        road = self._by_fibers()
        wasi = road.wasi() if WASI in grants else None
        return CoreProgram(road, self._module(road.engine, binary), encodings, wasi)

    def _by_components(self, content: bytes, found: GuestBinary) -> GuestProgram:
        """A component of several parts. What runs those is loaded when the first one comes."""
        check = importlib.import_module("theater_tcp.guest.component_check")
        failure = inner.FAILURE or check.component_failure()
        if failure is not None:
            raise InvalidArgument(f"it {found.why_not}, and {failure}")
        road = self._by_fibers()
        kind = importlib.import_module("wasmtime.component").Component
        component = self._compiled(
            "component", content, partial(kind, road.engine), partial(kind.deserialize, road.engine)
        )
        program: GuestProgram = importlib.import_module("theater_tcp.guest.component_program").ComponentProgram(
            road, component, found.imports, found.memories
        )
        return program

    def _by_fibers(self) -> CoreRoad:
        if self._road is None:
            self._road = CoreRoad(wasmtime.Engine(fiber_config(self._stack)))
        if self._ticker is None:
            self._ticker = Ticker(self._road, f"{self._name}-ticker")
        return self._road

    def _by_threads(self, failure: str) -> ThreadRoad:
        if self._threads is None:
            stack = min(self._stack, MAX_STACK)
            less = f", and with {stack} bytes of stack" if stack < self._stack else ""
            logger.warning("guests run by the slow road, on a thread each%s: %s", less, failure)
            self._threads = ThreadRoad(self._name, lambda: engine_config(stack))
        return self._threads

    def _module(self, engine: wasmtime.Engine, binary: bytes) -> wasmtime.Module:
        road = "fibers" if inner.FAILURE is None else "threads"
        module: wasmtime.Module = self._compiled(
            road, binary, partial(wasmtime.Module, engine), partial(wasmtime.Module.deserialize, engine)
        )
        return module

    def _compiled(self, what: str, binary: bytes, make: Callable[[bytes], Any], take: Callable[[bytes], Any]) -> Any:
        """Something compiled, from the cache if it is there."""
        key = f"{hashlib.sha256(binary).hexdigest()} wasmtime {inner.VERSION} {what} {CONFIGURED} stack={self._stack}"
        known = self._cache.get(key) if self._cache is not None else None
        if known is not None:
            try:
                return take(known)
            except wasmtime.WasmtimeError as error:  # made for another processor, as where a home is shared
                logger.info("a compiled guest is of no use here: %s", " ".join(str(error).split()))
        try:
            made = make(binary)
        except wasmtime.WasmtimeError as error:
            raise InvalidArgument(f"can't be compiled: {' '.join(str(error).split())}") from None
        if self._cache is not None:
            self._cache.put(key, bytes(made.serialize()))
        return made
