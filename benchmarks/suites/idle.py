"""What connections cost that say nothing: memory for each, and what the busy ones cost beside them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

from benchmarks.catalogue import OURS
from benchmarks.comparison import Column, Comparison, Figures, take_turns
from benchmarks.load import HeldConnections, Load, run_load
from benchmarks.plan import Plan
from benchmarks.server import Server, ServerFailed
from benchmarks.suites.traffic import CHURN, CPU, ECHO, preparation_s

__all__ = ["BESIDE", "MEMORY", "MEMORY_ROUNDS", "beside_idle", "idle", "memory"]

BESIDE = " beside idle"
"""What is appended to a server's name where it has the idle connections."""

_IDLE = 10_000
_BESIDE = 18_000
_BESIDE_PEERS = (OURS, "uvloop", "asyncio")

MEMORY_ROUNDS = 2
"""Rounds in which memory is measured; it hardly varies."""

MEMORY = (
    Column("rss_kib", "RSS KiB each", 2),
    Column("pss_kib", "PSS KiB each", 2),
    Column("base_mib", "RSS MiB before", 1),
    Column("open_s", "s to open all", 1),
    Column("dropped", "dropped", 0),
)
"""What a table of memory shows."""


def idle(plan: Plan) -> Iterator[Comparison]:
    """Memory of the server's process for each of 10 000 connections that have echoed one message and are silent now."""
    count = plan.connections(_IDLE)
    about = f"server's memory for each of {count} idle connections, each of which has echoed one message of 64 B"
    plan.say(f"idle: {about}")
    measures = {peer.name: memory(peer.name, peer.command, count) for peer in plan.peers}
    rounds, failures = take_turns(measures, min(plan.rounds, MEMORY_ROUNDS))
    yield Comparison("idle", f"{count} connections", about, "rss_kib", MEMORY, rounds, failures=failures)


def memory(name: str, command: Sequence[str], count: int, tls: str = "") -> Callable[[], Figures]:
    """What measures once how much memory a server has for each idle connection.

    Args:
        name: what messages call the server.
        command: program and arguments.
        count: how many connections.
        tls: how TLS begins, as :class:`~benchmarks.load.Load` has it; empty without TLS.
    """
    first = Load("first", "a few connections, so that everything is loaded before memory is read", "echo", 10, tls=tls)

    def measure() -> Figures:
        with Server(name, command) as server:
            run_load(server, first, seconds=0.1)
            before, begun = server.memory(), time.monotonic()
            with HeldConnections(server, count, tls) as held:
                opened = time.monotonic()
                after = server.memory()
        return {
            "rss_kib": (after.rss_kib - before.rss_kib) / count,
            "pss_kib": (after.pss_kib - before.pss_kib) / count,
            "base_mib": before.rss_kib / 1024,
            "open_s": opened - begun,
            "dropped": held.dropped or 0,
        }

    return measure


def beside_idle(plan: Plan) -> Iterator[Comparison]:
    """Ping-pong and churn with 18 000 idle connections beside, against a second server of the kind without them."""
    count = plan.connections(_BESIDE)
    peers = [peer for peer in plan.peers if peer.name in _BESIDE_PEERS]
    failures: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        servers: dict[str, Server] = {}
        for peer in peers:
            plan.say(f"beside-idle: opening {count} connections to {peer.name}")
            try:
                alone = stack.enter_context(Server(peer.name, peer.command))
                beside = stack.enter_context(Server(peer.name + BESIDE, peer.command))
                stack.enter_context(HeldConnections(beside, count))
            except ServerFailed as error:
                failures[peer.name] = str(error)
                continue
            servers |= {alone.name: alone, beside.name: beside}
        for load in (ECHO[0], CHURN):
            yield _compare_beside(plan, load, count, servers, failures)


def _compare_beside(
    plan: Plan, load: Load, count: int, servers: dict[str, Server], failures: dict[str, str]
) -> Comparison:
    about = f"{load.about}; with and without {count} idle connections beside"
    plan.say(f"beside-idle, {load.name}: {about}")

    def measure(server: Server, seconds: float) -> Callable[[], Figures]:
        return lambda: run_load(server, load, seconds=seconds).figures()

    take_turns({name: measure(server, preparation_s(plan)) for name, server in servers.items()}, 1)
    rounds, dropped = take_turns({name: measure(server, plan.seconds) for name, server in servers.items()}, plan.rounds)
    return Comparison(
        "beside-idle",
        load.name,
        about,
        CPU.figure,
        (CPU, Column("per_second", "ops/s", 0), Column("p99_us", "p99 µs", 0), Column("errors", "errors", 0)),
        rounds,
        against={name: name.removesuffix(BESIDE) for name in servers},
        failures={**failures, **dropped},
    )
