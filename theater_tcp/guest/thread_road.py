"""The slow road: guests on threads, by wasmtime-py's public parts alone.

It is for a wasmtime whose private parts are not as the fast roads know them
(:data:`theater_tcp.guest.wasmtime_internals.FAILURE`): guests run there too, only slower. There are no fibers, so a
guest that waits has a thread that waits. Every call goes to that thread and back, and every import the other way.

There are at most :data:`MAX_GUESTS` such guests in a runtime. One more can't be started: that is ``limit``, and a
connection that it was to serve is reset.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import wasmtime

from theater_tcp.errors import LimitReached
from theater_tcp.guest.binary import WASI_MODULE
from theater_tcp.guest.calls import GuestCalls, method_of
from theater_tcp.guest.interface import EXPORTS, IMPORTS
from theater_tcp.guest.thread_cell import Cell, HostFunction, adapter_text
from theater_tcp.guest.thread_instance import ThreadInstance

if TYPE_CHECKING:
    from theater_tcp.guest.wit_types import Function
    from theater_tcp.guest_settings import Limits

__all__ = ["MAX_GUESTS", "MAX_STACK", "ThreadProgram", "ThreadRoad"]

logger = logging.getLogger("theater_tcp.guest")

MAX_GUESTS = 1000
"""Guests, and so threads, of a runtime at one time."""

IDLE_CELLS = 8
"""Cells of each program that are kept for guests to come."""

LOOK = 0.02
"""Seconds between two looks at the CPU time of the guests that compute."""

MAX_STACK = 2 << 20
"""Bytes of stack that a guest's own functions may use: more, and wasmtime wants a setting that has no public name."""

THREAD_STACK = 8 << 20
"""Bytes of a thread's stack, the host's part and the guest's."""

PATIENCE = 5.0
"""Seconds that the threads of guests may take, at the end, to stop."""

_stack_lock = threading.Lock()


class ThreadRoad:
    """The guests of one runtime that run on threads.

    Args:
        name: names the threads.
        make_config: what makes a configuration for an engine; it is used up by that.
    """

    def __init__(self, name: str, make_config: Callable[[], wasmtime.Config]) -> None:
        self.make_config = make_config
        self.engine = wasmtime.Engine(make_config())
        """Compiles, and runs nothing."""
        self._name = name
        self._lock = threading.Lock()
        self._threads: dict[threading.Thread, ThreadInstance] = {}
        self._idle: dict[ThreadProgram, list[Cell]] = {}
        self._closed = False
        self._computing: set[ThreadInstance] = set()
        self._wanted = threading.Event()
        self._watch: threading.Thread | None = None

    # -- threads --------------------------------------------------------------------------------------------------

    def start_thread(self, guest: ThreadInstance, run: Callable[[], None]) -> None:
        """A thread for a guest.

        Raises:
            LimitReached: there are as many as there may be, or the system has no more.
        """

        def run_and_leave() -> None:
            try:
                run()
            finally:
                with self._lock:
                    self._threads.pop(threading.current_thread(), None)

        thread = threading.Thread(target=run_and_leave, name=f"{self._name}-guest", daemon=True)
        with self._lock:
            if self._closed or len(self._threads) >= MAX_GUESTS:
                raise LimitReached(f"threads: {MAX_GUESTS} guests may run by this road")
            if self._watch is None:
                self._watch = threading.Thread(target=self._keep_watch, name=f"{self._name}-watch", daemon=True)
                self._watch.start()
            self._threads[thread] = guest
            try:
                _start(thread)
            except RuntimeError as error:
                del self._threads[thread]
                raise LimitReached(f"threads: {error}") from None

    def close(self) -> None:
        """End every thread."""
        with self._lock:
            self._closed = True
            threads = dict(self._threads)
        for guest in threads.values():
            guest.discard()
        until = time.monotonic() + PATIENCE
        for thread in threads:
            thread.join(max(until - time.monotonic(), 0))
        left = sum(thread.is_alive() for thread in threads)
        if left:
            logger.warning("%d threads of guests did not end in %g s", left, PATIENCE)
        with self._lock:
            idle, self._idle = self._idle, {}
        for cell in (cell for cells in idle.values() for cell in cells):
            cell.close()
        if self._watch is not None:
            self._wanted.set()
            self._watch.join()
        del self.engine

    # -- cells ----------------------------------------------------------------------------------------------------

    def take_cell(self, program: ThreadProgram) -> Cell | None:
        """A cell of a program that nobody uses; from now on it is the caller's."""
        with self._lock:
            cells = self._idle.get(program)
            return cells.pop() if cells else None

    def give_back(self, program: ThreadProgram, cell: Cell) -> None:
        """A cell whose guest has ended."""
        with self._lock:
            cells = self._idle.setdefault(program, []) if not self._closed else None
            if cells is not None and len(cells) < IDLE_CELLS:
                cells.append(cell)
                return
        cell.close()

    # -- time -----------------------------------------------------------------------------------------------------

    def watch(self, guest: ThreadInstance) -> None:
        """A guest begins to compute."""
        self._computing.add(guest)
        if not self._wanted.is_set():
            self._wanted.set()

    def leave(self, guest: ThreadInstance) -> None:
        """A guest has stopped to compute."""
        self._computing.discard(guest)

    def _keep_watch(self) -> None:
        while not self._closed:
            self._wanted.wait()
            time.sleep(LOOK)
            if not self._computing:
                self._wanted.clear()
                if self._computing or self._closed:  # it came in between
                    self._wanted.set()
            for guest in list(self._computing):
                guest.look_at_time()


class ThreadProgram:
    """A compiled guest for the road of threads.

    Args:
        road: by which it runs.
        module: the compiled core module, known to be a guest by :mod:`theater_tcp.guest.binary`.
        encodings: the encoding of texts for each function of the interface that isn't ``utf8``, by full name.
    """

    road_name = "threads"
    takes_arrivals = False
    arrivals: memoryview | None = None

    def __init__(self, road: ThreadRoad, module: wasmtime.Module, encodings: Mapping[str, str]) -> None:
        self.road = road
        functions: list[HostFunction] = []
        self.import_names: list[tuple[str | None, str]] = []
        """How to find what the guest imports: (None, number of the adapter's export), or a name of WASI's."""
        self.wasi = False
        for item in module.imports:
            name = item.name or ""
            if item.module == WASI_MODULE:
                self.wasi = True
                self.import_names.append((item.module, name))
                continue
            self.import_names.append((None, str(len(functions))))
            function = IMPORTS[item.module][name]
            method = method_of(function)
            functions.append(HostFunction(function, method, encodings.get(function.full_name, "utf8")))
        self.functions = functions
        self.module = bytes(module.serialize())
        adapter = wasmtime.Module(road.engine, bytes(wasmtime.wat2wasm(adapter_text(functions))))
        self.adapter = bytes(adapter.serialize())
        names = {item.name for item in module.exports}
        self.export_functions: dict[str, tuple[Function, str]] = {
            function.name: (function, encodings.get(function.full_name, "utf8"))
            for function in EXPORTS.values()
            if function.full_name in names
        }
        """Its exports, as ``on-data``, with the encoding of their texts."""
        self.exports = frozenset(self.export_functions)

    def instantiate(self, calls: GuestCalls, limits: Limits) -> ThreadInstance:
        """A new guest, which is instantiated when it begins. On the loop's thread."""
        return ThreadInstance(self, calls, limits)

    def prepared(self, _export: str, value: str) -> Any:
        """A text as an argument of a call."""
        return value

    def may_enter(self) -> bool:
        """Always: no guest of this road runs on the loop's thread."""
        return True

    def close(self) -> None:
        """Nothing: what it has are bytes, and cells that the road closes."""

    # -- on the threads of guests ---------------------------------------------------------------------------------

    def take_cell(self) -> Cell:
        """An engine for a guest, which is nobody else's until it is given back."""
        return self.road.take_cell(self) or Cell(
            self.road.make_config(), self.module, self.adapter, self.functions, self.wasi
        )


def _start(thread: threading.Thread) -> None:
    """Start a thread with enough stack, whatever is usual here. The size is that of all threads which start meanwhile;
    it is large enough for any."""
    with _stack_lock:
        before = threading.stack_size(THREAD_STACK)
        try:
            thread.start()
        finally:
            threading.stack_size(before)
