"""Measures lives of actors: ``actors ours|threads OTHERS COUNT``. A case's name as a line gets its figures.

OTHERS actors that do nothing are started by the line ``populate`` and stay. A life is: spawned, ``on_start`` run,
stopped, gone from pykka's registry; COUNT of them, one after another.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pykka

from benchmarks.catalogue import OURS
from benchmarks.servers.launch import announce
from benchmarks.suites.actors import CASES, POPULATE
from benchmarks.suites.messages import THREADS
from theater_tcp import TcpActor, Theater

__all__ = ["main"]


class LoopIdler(TcpActor):
    """An actor on the loop that does nothing."""


class ThreadIdler(pykka.ThreadingActor):
    """An actor with a thread that does nothing."""

    use_daemon_thread = True


class LoopDriver(TcpActor):
    """Starts and stops actors from the loop."""

    async def live(self, count: int) -> None:
        for _ in range(count):
            ref: Any = await self.theater.spawn_async(LoopIdler)
            await ref.stop(block=False)


class Measure:
    """The cases.

    Args:
        theater: a running runtime.
        kind: ``ours`` or ``threads``.
        others: actors that are there all the time.
        count: lives of a measurement.
    """

    def __init__(self, theater: Theater, kind: str, others: int, count: int) -> None:
        self.count, self.others = count, others
        self.start: Callable[[], pykka.ActorRef[Any]] = ThreadIdler.start
        if kind == OURS:
            self.start = lambda: theater.spawn(LoopIdler)
        self.driver: Any = theater.spawn(LoopDriver).proxy()
        self.kept: list[pykka.ActorRef[Any]] = []
        cases = zip(CASES, (self.outside, self.inside), strict=True)
        self.answers = {POPULATE: self.populate, **{name: self.answer(case) for name, case in cases}}

    def populate(self) -> int:
        """Start the others: after the garbage collector was told to forget what it has seen, not before."""
        self.kept = [self.start() for _ in range(self.others)]
        return len(self.kept)

    def answer(self, case: Callable[[], None]) -> Callable[[], str]:
        def measure() -> str:
            cpu, begun = time.process_time(), time.perf_counter()
            case()
            wall, cpu = time.perf_counter() - begun, time.process_time() - cpu
            figures = {"wall_us": wall / self.count * 1e6, "cpu_us": cpu / self.count * 1e6, "others": self.others}
            return msgspec.json.encode(figures).decode()

        return measure

    def outside(self) -> None:
        for _ in range(self.count):
            self.start().stop()

    def inside(self) -> None:
        self.driver.live(self.count).get()


def main() -> None:
    """Answer until standard input closes."""
    kind, others, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    if kind not in (OURS, THREADS):
        sys.exit(f"actors: there is no kind {kind!r}")
    with Theater() as theater:
        announce(0, Measure(theater, kind, others, count).answers)
        theater.wait()


if __name__ == "__main__":
    main()
