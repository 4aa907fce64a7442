"""Measures what it costs to start a guest: ``guests FILE COUNT``. A case's name as a line gets its figures.

Every case starts COUNT instances of the same compiled module, one after another, on the thread of the loop, and its
time ends before they are taken down again. wasmtime's own part is made by its public classes, in an engine of the same
configuration, with a linker that defines all that the guest imports.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import wasmtime

from benchmarks.servers.launch import announce
from benchmarks.suites.guest_spawn import INSTANCE, SPAWN, SPAWN_INIT, WASMTIME
from theater_tcp import Limits, TcpActor, Theater
from theater_tcp.guest.binary import read_guest
from theater_tcp.guest.engine import fiber_config
from theater_tcp.guest.guest_actor import GuestActor

__all__ = ["main"]


class UninitializedGuest(GuestActor):
    """A guest whose ``init`` isn't called."""

    def on_start(self) -> None:
        self._guest_instance = self._guest_program.instantiate(self._guest_calls, self._guest_limits)


class Starter(TcpActor):
    """Starts guests, on the loop.

    Args:
        program: what they run.
        binary: their core module.
        count: how many are started in a measurement.
    """

    def __init__(self, program: Any, binary: bytes, count: int) -> None:
        super().__init__()
        self.program, self.count, self.limits = program, count, Limits()
        self.engine = wasmtime.Engine(fiber_config(self.theater.settings.guest_stack))
        self.module = wasmtime.Module(self.engine, binary)
        self.linker = wasmtime.Linker(self.engine)
        for item in self.module.imports:
            assert isinstance(item.type, wasmtime.FuncType)
            self.linker.define_func(item.module, item.name or "", item.type, lambda *_: 0)

    async def measure(self, case: str) -> dict[str, float]:
        """The figures of a case."""
        started: list[Any] = []
        starts: dict[str, Callable[[], Any]] = {
            WASMTIME: self.bare,
            INSTANCE: self.instance,
            SPAWN: lambda: self.theater.spawn(UninitializedGuest, "guest", self.program, b"", self.limits),
            SPAWN_INIT: lambda: self.theater.spawn(GuestActor, "guest", self.program, b"", self.limits),
        }
        start = starts[case]
        cpu, begun = time.thread_time(), time.perf_counter()
        for _ in range(self.count):
            started.append(start())
        wall, cpu = time.perf_counter() - begun, time.thread_time() - cpu
        for each in started:
            if case == WASMTIME:
                each.close()
            elif case == INSTANCE:
                each.discard()
            else:
                await each.stop(block=False)
        return {"cpu_us": cpu / self.count * 1e6, "wall_us": wall / self.count * 1e6}

    def bare(self) -> wasmtime.Store:
        """wasmtime's own way."""
        store = wasmtime.Store(self.engine)
        store.set_epoch_deadline(1)
        self.linker.instantiate(store, self.module)
        return store

    def instance(self) -> Any:
        """Our instance, without an actor."""
        return self.program.instantiate(None, self.limits)


def main() -> None:
    """Answer until standard input closes."""
    file, count = Path(sys.argv[1]), int(sys.argv[2])
    with Theater() as theater:
        program = theater.load_guest(file)
        core = read_guest(file.read_bytes(), frozenset()).core
        if core is None:
            sys.exit(f"guests: {file} does not run by the core road")
        starter: Any = theater.spawn(Starter, program, core[0], count).proxy()

        def answer(case: str) -> Callable[[], str]:
            return lambda: msgspec.json.encode(starter.measure(case).get()).decode()

        announce(0, {case: answer(case) for case in (WASMTIME, INSTANCE, SPAWN, SPAWN_INIT)})
        theater.wait()


if __name__ == "__main__":
    main()
