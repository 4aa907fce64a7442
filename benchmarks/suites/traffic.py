"""Echo, bulk and churn: every server under the same load."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from benchmarks.catalogue import Peer
from benchmarks.comparison import Column, Comparison, Figures, take_turns
from benchmarks.load import Load, run_load
from benchmarks.plan import Plan
from benchmarks.server import Server, ServerFailed

__all__ = ["CPU", "bulk", "churn", "compare", "echo", "preparation_s", "start_all"]

CPU = Column("cpu_us", "CPU µs/op", 2)
_LATENCY = (Column("p50_us", "p50 µs", 0), Column("p99_us", "p99 µs", 0))
_COUNTS = (Column("client_cpu_us", "client CPU µs/op", 2), Column("errors", "errors", 0))

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
    stack: contextlib.ExitStack, plan: Plan, peers: list[Peer], failures: dict[str, str]
) -> dict[str, Server]:
    """Start a server for each peer; the stack ends them. One that does not start is added to the failures."""
    servers = {}
    for peer in peers:
        try:
            servers[peer.name] = stack.enter_context(Server(peer.name, peer.command))
        except ServerFailed as error:
            failures[peer.name] = str(error)
            plan.say(f"{peer.name} is left out: {error}")
    return servers


def compare(plan: Plan, suite: str, load: Load, *columns: Column) -> Comparison:
    """All servers of the plan under one load, in turn."""
    plan.say(f"{suite}, {load.name}: {load.about}")
    failures: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        servers = start_all(stack, plan, plan.peers, failures)

        def measure(server: Server) -> Callable[[], Figures]:
            return lambda: run_load(server, load, seconds=plan.seconds).figures()

        def prepare(server: Server) -> Callable[[], Figures]:
            return lambda: run_load(server, load, seconds=preparation_s(plan), warmup=0).figures()

        _, unprepared = take_turns({name: prepare(server) for name, server in servers.items()}, 1)
        contestants = {name: measure(server) for name, server in servers.items() if name not in unprepared}
        rounds, dropped = take_turns(contestants, plan.rounds)
    return Comparison(
        suite, load.name, load.about, CPU.figure, columns, rounds, failures={**failures, **unprepared, **dropped}
    )


def echo(plan: Plan) -> Iterator[Comparison]:
    """Ping-pong over few and over many connections."""
    for load in ECHO:
        yield compare(plan, "echo", load, CPU, Column("per_second", "ops/s", 0), *_LATENCY, *_COUNTS)


def bulk(plan: Plan) -> Iterator[Comparison]:
    """Large messages, several on their way."""
    yield compare(plan, "bulk", BULK, CPU, Column("megabytes_per_second", "MB/s", 0), *_LATENCY, *_COUNTS)


def churn(plan: Plan) -> Iterator[Comparison]:
    """Connections that come and go."""
    yield compare(plan, "churn", CHURN, CPU, Column("per_second", "lives/s", 0), *_LATENCY, *_COUNTS)
