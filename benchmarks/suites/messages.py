"""What a message to an actor costs: to one on the loop, and to a ``pykka.ThreadingActor``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

import msgspec

from benchmarks.catalogue import OURS
from benchmarks.comparison import Column, Comparison, Figures, take_turns
from benchmarks.plan import Plan
from benchmarks.server import Server, ServerFailed

__all__ = ["CASES", "THREADS", "messages", "start_measure"]

THREADS = "threads"
"""The name of the contestant that is a ``pykka.ThreadingActor``."""

CASES = {
    "tell from the loop": "tells from an actor on the loop, until the receiver has handled the last",
    "tell from another thread": "tells from another thread, until the receiver has handled the last",
    "ask from another thread": "asks from another thread, each waiting for its answer",
    "pipelined ask from another thread": "asks from another thread, all answers collected afterwards",
    "pipelined ask between actors": "asks from an actor of the same kind, all answers collected afterwards",
}
"""The cases, and what is done in each."""


def start_measure(name: str, module: str, *arguments: str) -> Server:
    """A measuring program of ``benchmarks.measures``, which answers a case with its figures."""
    return Server(name, [sys.executable, "-m", f"benchmarks.measures.{module}", *arguments])


def messages(plan: Plan) -> Iterator[Comparison]:
    """tell and ask, ours and pykka's."""
    # Tells are a stream of half a second to a ThreadingActor, long enough for its thread to fight for the interpreter.
    count = 500 if plan.quick else max(1_000, round(100_000 * plan.seconds))
    columns = (
        Column("wall_us", "µs/message"),
        Column("cpu_us", "CPU µs/message"),
        Column("per_second", "messages/s", 0),
    )
    failures: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        programs = {}
        for name in (OURS, THREADS):
            try:
                programs[name] = stack.enter_context(start_measure(name, "messages", name, str(count)))
            except ServerFailed as error:
                failures[name] = str(error)
                plan.say(f"{name} is left out: {error}")

        def measure(program: Server, case: str) -> Callable[[], Figures]:
            return lambda: msgspec.json.decode(program.ask(case), type=dict[str, float])

        for case, what in CASES.items():
            about = f"{count if case.startswith('tell') else count // 5} {what}"
            plan.say(f"messages, {case}: {about}")
            contestants = {name: measure(program, case) for name, program in programs.items()}
            take_turns(contestants, 1)
            rounds, dropped = take_turns(contestants, plan.rounds)
            yield Comparison("messages", case, about, "wall_us", columns, rounds, failures={**failures, **dropped})
