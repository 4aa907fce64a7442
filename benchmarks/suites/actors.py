"""What an actor's life costs beside few and beside many others, and 19 000 live connections in one process."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import msgspec

from benchmarks.catalogue import OURS, Peer
from benchmarks.comparison import Column, Comparison, Figures, take_turns
from benchmarks.load import HeldConnections, Load, run_load
from benchmarks.plan import Plan
from benchmarks.server import Server, ServerFailed
from benchmarks.suites.messages import THREADS, start_measure

__all__ = ["BESIDE_FEW", "BESIDE_MANY", "CASES", "LIVE", "POPULATE", "actors"]

LIVE = "live connections"
"""The case of many connections in one process."""

POPULATE = "populate"
"""What the measuring program is told so that it starts the other actors."""

BESIDE_FEW = f"{OURS} beside few"
"""Our actor's life beside 100 others."""

BESIDE_MANY = f"{OURS} beside many"
"""Our actor's life beside 50 000 others."""

_FEW, _MANY = 100, 50_000
_MANY_THREADS = 2_000
_CONNECTIONS = 19_000

CASES = {
    "life, driven from another thread": "spawns and stops of an actor, one after another, from another thread",
    "life, driven from the loop": "spawns and stops of an actor, one after another, from an actor on the loop",
}
"""The cases, and what is done in each."""


def actors(plan: Plan) -> Iterator[Comparison]:
    """Start and stop beside 100 and beside 50 000 others, then many live connections."""
    yield from _lives(plan)
    ours = next((peer for peer in plan.peers if peer.name == OURS), None)
    if ours is not None:
        yield _live_connections(plan, ours)


def _lives(plan: Plan) -> Iterator[Comparison]:
    count = 50 if plan.quick else 1_000
    many, many_threads = (_MANY // 10, _MANY_THREADS // 10) if plan.quick else (_MANY, _MANY_THREADS)
    wanted = {
        BESIDE_FEW: (OURS, _FEW),
        BESIDE_MANY: (OURS, many),
        f"{THREADS} beside few": (THREADS, _FEW),
        f"{THREADS} beside many": (THREADS, many_threads),
    }
    failures: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        programs = {}
        for name, (kind, others) in wanted.items():
            plan.say(f"actors: starting {others} others for {name}")
            try:
                program = stack.enter_context(start_measure(name, "actors", kind, str(others), str(count)))
                program.ask(POPULATE)
                programs[name] = program
            except ServerFailed as error:
                failures[name] = str(error)
                plan.say(f"{name} is left out: {error}")

        def measure(program: Server, case: str) -> Callable[[], Figures]:
            return lambda: msgspec.json.decode(program.ask(case), type=dict[str, float])

        for case, what in CASES.items():
            about = f"{count} {what}; beside {_FEW} others and beside {many} ({many_threads} threads)"
            plan.say(f"actors, {case}: {about}")
            # A ThreadingActor can't be driven from the loop: its start and stop block.
            kinds = {OURS} if "from the loop" in case else {OURS, THREADS}
            contestants = {
                name: measure(program, case) for name, program in programs.items() if wanted[name][0] in kinds
            }
            take_turns(contestants, 1)
            rounds, dropped = take_turns(contestants, plan.rounds)
            yield Comparison(
                "actors",
                case,
                about,
                "cpu_us",
                (Column("cpu_us", "CPU µs/life"), Column("wall_us", "µs/life"), Column("others", "others", 0)),
                rounds,
                against=dict.fromkeys(wanted, BESIDE_FEW),
                failures={**failures, **dropped},
            )


def _live_connections(plan: Plan, peer: Peer) -> Comparison:
    count = plan.connections(_CONNECTIONS)
    about = f"{count} live connections, each a pykka actor, in one process; then an echo over all of them at once"
    plan.say(f"actors, {LIVE}: {about}")
    everywhere = Load("all", "one message of 64 B there and back on each", "echo", count)

    def measure() -> Figures:
        with Server(peer.name, peer.command) as server:
            before, begun = server.memory(), time.monotonic()
            with HeldConnections(server, count) as held:
                opened = time.monotonic()
                registered, memory = int(server.ask("actors")), server.memory()
            if registered < count:
                raise ServerFailed(f"ours: {registered} actors for {count} connections")
            echo = run_load(server, everywhere, seconds=plan.seconds).figures()
        return {
            "actors": registered,
            "open_s": opened - begun,
            "rss_kib": (memory.rss_kib - before.rss_kib) / count,
            "dropped": held.dropped or 0,
            **echo,
        }

    rounds, failures = take_turns({peer.name: measure}, 1)
    columns = (
        Column("actors", "actors in the registry", 0),
        Column("open_s", "s to open all"),
        Column("rss_kib", "RSS KiB each", 2),
        Column("dropped", "dropped", 0),
        Column("cpu_us", "echo CPU µs/op", 2),
        Column("per_second", "echo ops/s", 0),
        Column("errors", "errors", 0),
    )
    return Comparison("actors", LIVE, about, "cpu_us", columns, rounds, failures=failures)
