"""TLS on connections that live: echo and bulk after STARTTLS, and the memory of those that are silent."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator

from benchmarks.catalogue import Peer
from benchmarks.comparison import Column, Comparison, take_turns
from benchmarks.load import AGREED
from benchmarks.plan import Plan
from benchmarks.suites.idle import MEMORY, MEMORY_ROUNDS, memory
from benchmarks.suites.traffic import BULK, COUNTS, CPU, ECHO, LATENCY, compare_loads

__all__ = ["BARE", "TLS_BULK", "TLS_ECHO", "secure_peers", "tls", "tls_idle"]

BARE = "bare"
"""An epoll loop that keeps a socket, an ``ssl.SSLObject`` and two ``ssl.MemoryBIO`` of each connection."""

TLS_ECHO = dataclasses.replace(ECHO[0], tls="line")
TLS_BULK = dataclasses.replace(BULK, tls="line")

_RATES = {TLS_ECHO: Column("per_second", "ops/s", 0), TLS_BULK: Column("megabytes_per_second", "MB/s", 0)}
_IDLE = 2_000


def secure_peers(plan: Plan) -> list[Peer]:
    """The servers of the plan that speak TLS."""
    return [peer for peer in plan.peers if peer.tls_command]


def tls(plan: Plan) -> Iterator[Comparison]:
    """Ping-pong and large messages on connections that were upgraded."""
    certificate = plan.certificate
    if certificate is None:
        return
    for load, rate in _RATES.items():
        about = f"{load.about}; after STARTTLS, {AGREED}"
        contestants = {
            peer.name: ([*peer.tls_command, *certificate.arguments("starttls")], load) for peer in secure_peers(plan)
        }
        columns = (CPU, rate, *LATENCY, *COUNTS)
        yield compare_loads(plan, "tls", load.name, about, contestants, columns, ca=certificate.ca)


def tls_idle(plan: Plan) -> Iterator[Comparison]:
    """Memory of the server's process for each of 2 000 TLS connections that are silent."""
    certificate = plan.certificate
    if certificate is None:
        return
    count = plan.connections(_IDLE)
    about = f"server's memory for each of {count} idle TLS connections, each of which has echoed one message of 64 B"
    plan.say(f"tls-idle: {about}")
    commands = {peer.name: peer.tls_command for peer in secure_peers(plan)}
    commands[BARE] = (sys.executable, "-m", "benchmarks.servers.tls_memory_bio")
    arguments = certificate.arguments("accept")
    measures = {name: memory(name, [*command, *arguments], count, "accept") for name, command in commands.items()}
    rounds, failures = take_turns(measures, min(plan.rounds, MEMORY_ROUNDS))
    yield Comparison("tls-idle", f"{count} connections", about, "rss_kib", MEMORY, rounds, failures=failures)
