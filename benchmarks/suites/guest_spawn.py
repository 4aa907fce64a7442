"""What it costs to start a guest, beside wasmtime's own part of it; and the lives of guests for one connection each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import msgspec

from benchmarks.catalogue import OURS
from benchmarks.comparison import Column, Comparison, Figures, take_turns
from benchmarks.plan import Plan
from benchmarks.server import Server, ServerFailed
from benchmarks.suites.guests import C_GUEST, POOLED, WAITING, command_for, guest_file
from benchmarks.suites.messages import start_measure
from benchmarks.suites.traffic import CHURN, COUNTS, CPU, LATENCY, compare_loads

__all__ = ["INSTANCE", "LIVES", "SPAWN", "SPAWN_INIT", "START", "WASMTIME", "guest_spawn"]

WASMTIME = "wasmtime"
"""wasmtime's ``Store`` and ``Linker.instantiate``."""
INSTANCE = f"{OURS}, no actor"
"""An instance with all that it needs to be called and suspended."""
SPAWN = f"{OURS}, no init"
"""An actor with that, whose ``init`` isn't called."""
SPAWN_INIT = f"{OURS}, with init"
"""What ``spawn_guest`` does with a compiled guest."""

START = "start"
LIVES = "lives"


def guest_spawn(plan: Plan) -> Iterator[Comparison]:
    """Starts of guests, and whole lives."""
    count = 50 if plan.quick else 500
    about = f"{count} guests started one after another on the loop's thread, of a compiled module (C), in one process"
    plan.say(f"guest-spawn, {START}: {about}")
    cases = (WASMTIME, INSTANCE, SPAWN, SPAWN_INIT)
    with contextlib.ExitStack() as stack:
        try:
            program = stack.enter_context(start_measure("guests", "guests", guest_file("c"), str(count)))
        except ServerFailed as error:
            plan.missing["guests"] = str(error)
            return

        def measure(server: Server, case: str) -> Callable[[], Figures]:
            return lambda: msgspec.json.decode(server.ask(case), type=dict[str, float])

        contestants = {case: measure(program, case) for case in cases}
        take_turns(contestants, 1)
        rounds, failures = take_turns(contestants, plan.rounds)
    columns = (Column("cpu_us", "CPU µs/guest"), Column("wall_us", "µs/guest"))
    yield Comparison(
        "guest-spawn", START, about, "cpu_us", columns, rounds, dict.fromkeys(cases, WASMTIME), failures=failures
    )
    ours = {peer.name: peer.command for peer in plan.peers if peer.name == OURS}
    commands = {
        **ours,
        C_GUEST: tuple(command_for("c", WAITING)),
        f"{C_GUEST}, warm": tuple(command_for("c", POOLED)),
    }
    lives = {name: (command, CHURN) for name, command in commands.items()}
    about = f"{CHURN.about}; a guest for each connection, new or out of a pool"
    figures = (CPU, Column("per_second", "lives/s", 0), *LATENCY, *COUNTS)
    yield compare_loads(plan, "guest-spawn", LIVES, about, lives, figures)
