"""Echo through WebAssembly guests, beside our echo in Python."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from benchmarks.catalogue import OURS
from benchmarks.comparison import Column, Comparison
from benchmarks.load import Load
from benchmarks.plan import Plan
from benchmarks.programs import ROOT
from benchmarks.suites.traffic import BULK, COUNTS, CPU, ECHO, LATENCY, compare_loads

__all__ = [
    "ACTIVE",
    "C_GUEST",
    "LINEAR",
    "POOLED",
    "ROADS",
    "RUST_GUEST",
    "STYLES",
    "WAITING",
    "case_of",
    "command_for",
    "guest_file",
    "guests",
]

C_GUEST, RUST_GUEST = "C guest", "Rust guest"

ACTIVE, WAITING, POOLED = "active", "waiting", "pooled"
"""How the server of :mod:`benchmarks.servers.guest_echo` has its guests."""

ROADS = ("core", "component", "threads")
"""By which road they may run."""

LINEAR = "linear"
"""What that server is told so that it says how much of the guests' own memories is resident."""

STYLES = {
    ACTIVE: "one guest that owns all connections and gets their data by on-data",
    WAITING: "a guest for each connection, which loops over receive and send",
}
"""How a guest can be written, and what that means."""

LOADS = (ECHO[0], BULK)

_CONTESTANTS = {
    C_GUEST: ("c", "core"),
    RUST_GUEST: ("rust", "core"),
    "WAT guest": ("wat", "core"),
    "C guest, component road": ("c", "component"),
    "C guest, threads": ("c", "threads"),
}
"""For each contestant the language, and the road that its guests take."""


def guest_file(language: str) -> str:
    """The echo guest in a language."""
    return str(ROOT / "actors" / "echo" / language / "echo.wasm")


def command_for(language: str, style: str, road: str = "core") -> Sequence[str]:
    """How the server of an echo guest is started."""
    return sys.executable, "-m", "benchmarks.servers.guest_echo", guest_file(language), style, road


def case_of(style: str, load: Load) -> str:
    """The name of a case."""
    return f"{style}, {load.name}"


def guests(plan: Plan) -> Iterator[Comparison]:
    """Both styles of a guest, with small messages and with large ones."""
    ours = [peer for peer in plan.peers if peer.name == OURS]
    columns = (CPU, Column("megabytes_per_second", "MB/s", 0), Column("per_second", "ops/s", 0), *LATENCY, *COUNTS)
    for style, meaning in STYLES.items():
        for load in LOADS:
            commands = {peer.name: peer.command for peer in ours}
            for name, (language, road) in _CONTESTANTS.items():
                commands[name] = tuple(command_for(language, style, road))
            contestants = {name: (command, load) for name, command in commands.items()}
            yield compare_loads(plan, "guests", case_of(style, load), f"{load.about}; {meaning}", contestants, columns)
