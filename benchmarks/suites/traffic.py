"""Echo, bulk and churn: every server under the same load."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.comparison import Column, Comparison, Figures, take_turns
from benchmarks.load import Load, run_load
from benchmarks.plan import Plan
from benchmarks.server import Server, ServerFailed

__all__ = [
    "BULK",
    "CHURN",
    "COUNTS",
    "CPU",
    "ECHO",
    "LATENCY",
    "bulk",
    "churn",
    "compare",
    "compare_loads",
    "echo",
    "preparation_s",
    "start_all",
]

CPU = Column("cpu_us", "CPU µs/op", 2)
LATENCY = (Column("p50_us", "p50 µs", 0), Column("p99_us", "p99 µs", 0))
COUNTS = (Column("client_cpu_us", "client CPU µs/op", 2), Column("errors", "errors", 0))

ECHO = (
    Load("64 × 64 B", "64 connections, each one message of 64 B there and back (ping-pong)", "echo", 64),
    Load("1000 × 64 B", "1 000 connections, each one message of 64 B there and back (ping-pong)", "echo", 1000),
)
BULK = Load("8 × 64 KiB", "8 connections, each four messages of 64 KiB on their way", "echo", 8, 65536, 4)
CHURN = Load("32 slots", "32 slots: connect, 64 B there and back, half-close, the server's end, close", "churn", 32)


def preparation_s(plan: Plan) -> float:
    """Seconds of load that each server gets before the first round and that is not counted.

    A fresh process is not yet what it will be: asyncio's first half second of reads costs three times what all later
    ones do, until malloc has learnt the size of its buffers.
    """
    return 0.05 if plan.quick else 0.4


def start_all(
    stack: contextlib.ExitStack, plan: Plan, commands: Mapping[str, Sequence[str]], failures: dict[str, str]
) -> dict[str, Server]:
    """Start the servers; the stack ends them. One that does not start is added to the failures.

    Args:
        stack: what ends them.
        plan: the choices.
        commands: for each name program and arguments.
        failures: what becomes of those that don't start.
    """
    servers = {}
    for name, command in commands.items():
        try:
            servers[name] = stack.enter_context(Server(name, command))
        except ServerFailed as error:
            failures[name] = str(error)
            plan.say(f"{name} is left out: {error}")
    return servers


def compare(plan: Plan, suite: str, load: Load, *columns: Column) -> Comparison:
    """All servers of the plan under one load, in turn."""
    contestants = {peer.name: (peer.command, load) for peer in plan.peers}
    return compare_loads(plan, suite, load.name, load.about, contestants, columns)


def compare_loads(
    plan: Plan,
    suite: str,
    case: str,
    about: str,
    contestants: Mapping[str, tuple[Sequence[str], Load]],
    columns: tuple[Column, ...],
    *,
    against: Mapping[str, str] | None = None,
    ca: Path | None = None,
) -> Comparison:
    """Servers, each under a load of its own, in turn.

    Args:
        plan: the choices.
        suite, case, about, columns, against: as :class:`~benchmarks.comparison.Comparison` has them.
        contestants: for each name the server's program and arguments, and its load.
        ca: the file of the CA that signed the servers' certificate, where they speak TLS. Then the preparation looks at
            the certificate and at every byte.
    """
    plan.say(f"{suite}, {case}: {about}")
    failures: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        commands = {name: command for name, (command, _) in contestants.items()}
        servers = start_all(stack, plan, commands, failures)

        def measure(server: Server) -> Callable[[], Figures]:
            load = contestants[server.name][1]
            return lambda: run_load(server, load, seconds=plan.seconds).figures()

        def prepare(server: Server) -> Callable[[], Figures]:
            load, seconds = contestants[server.name][1], preparation_s(plan)
            return lambda: run_load(server, load, seconds=seconds, warmup=0, verify=ca is not None, ca=ca).figures()

        # Over TLS twice: what a server has learnt of the size of its buffers begins to count when connections have
        # come and gone (uvloop's first thousands of messages cost two to three times what all later ones do).
        _, unprepared = take_turns({name: prepare(server) for name, server in servers.items()}, 1 if ca is None else 2)
        ready = {name: measure(server) for name, server in servers.items() if name not in unprepared}
        rounds, dropped = take_turns(ready, plan.rounds)
    failures |= unprepared | dropped
    return Comparison(suite, case, about, CPU.figure, columns, rounds, dict(against or {}), failures)


def echo(plan: Plan) -> Iterator[Comparison]:
    """Ping-pong over few and over many connections."""
    for load in ECHO:
        yield compare(plan, "echo", load, CPU, Column("per_second", "ops/s", 0), *LATENCY, *COUNTS)


def bulk(plan: Plan) -> Iterator[Comparison]:
    """Large messages, several on their way."""
    yield compare(plan, "bulk", BULK, CPU, Column("megabytes_per_second", "MB/s", 0), *LATENCY, *COUNTS)


def churn(plan: Plan) -> Iterator[Comparison]:
    """Connections that come and go."""
    yield compare(plan, "churn", CHURN, CPU, Column("per_second", "lives/s", 0), *LATENCY, *COUNTS)
