"""How long others wait while a guest computes without end on the same runtime."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from benchmarks.catalogue import OURS
from benchmarks.comparison import Column, Comparison, Figures, take_turns
from benchmarks.load import Load, run_load
from benchmarks.plan import Plan
from benchmarks.server import Server
from benchmarks.suites.guests import C_GUEST, guest_file
from benchmarks.suites.traffic import preparation_s, start_all

__all__ = ["BESIDE_BUSY", "BUSY", "LOAD", "PYTHON", "QUIET", "guest_latency"]

PYTHON, BUSY, QUIET = "python", "busy", "quiet"
"""What the server of :mod:`benchmarks.servers.guest_busy` is told."""

BESIDE_BUSY = " beside a busy guest"
"""What is appended to a contestant's name where it has that company."""

LOAD = Load("100 × 64 B", "100 connections, each one message of 64 B there and back (ping-pong)", "echo", 100)


def guest_latency(plan: Plan) -> Iterator[Comparison]:
    """Latencies of echoing connections with and without a guest beside that never waits."""
    commands, against = {}, {}
    for name, echo in {OURS: PYTHON, C_GUEST: guest_file("c")}.items():
        for suffix, company in {"": QUIET, BESIDE_BUSY: BUSY}.items():
            commands[name + suffix] = (sys.executable, "-m", "benchmarks.servers.guest_busy", echo, company)
            against[name + suffix] = name
    about = f"{LOAD.about}; with and without a guest on the same loop that computes and never waits"
    plan.say(f"guest-latency, {LOAD.name}: {about}")
    failures: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        servers = start_all(stack, plan, commands, failures)
        take_turns({name: _measure(server, preparation_s(plan)) for name, server in servers.items()}, 1)
        measures = {name: _measure(server, plan.seconds) for name, server in servers.items()}
        rounds, dropped = take_turns(measures, plan.rounds)
    columns = (
        Column("p50_ms", "p50 ms", 2),
        Column("p99_ms", "p99 ms", 2),
        Column("p999_ms", "p99.9 ms", 2),
        Column("max_ms", "longest ms", 2),
        Column("per_second", "ops/s", 0),
        Column("errors", "errors", 0),
    )
    yield Comparison(
        "guest-latency", LOAD.name, about, "p50_ms", columns, rounds, against, failures={**failures, **dropped}
    )


def _measure(server: Server, seconds: float) -> Callable[[], Figures]:
    def measure() -> Figures:
        result = run_load(server, LOAD, seconds=seconds)
        return {
            "p50_ms": result.p50_us / 1e3,
            "p99_ms": result.p99_us / 1e3,
            "p999_ms": result.p999_us / 1e3,
            "max_ms": result.max_us / 1e3,
            "per_second": result.operations / max(result.seconds, 1e-9),
            "errors": result.errors,
        }

    return measure
