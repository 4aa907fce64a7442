"""What a guest costs that waits: ten thousand of them in one process, each suspended in ``receive`` of a connection."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.comparison import Column, Comparison, Figures, take_turns
from benchmarks.load import HeldConnections, Load, run_load
from benchmarks.plan import Plan
from benchmarks.server import Server, ServerFailed
from benchmarks.suites.guests import C_GUEST, LINEAR, WAITING, command_for
from benchmarks.suites.idle import MEMORY_ROUNDS

__all__ = ["CASE", "COUNT", "fitting", "guest_idle"]

COUNT = 10_000
"""Guests that are wanted."""

CASE = "suspended in receive"

_PROBE = 1_000
"""Guests from which it is learnt how many mappings each of them needs."""

_MAPS_LEFT = 1_000
"""Mappings that are kept free for all else."""


def guest_idle(plan: Plan) -> Iterator[Comparison]:
    """Memory of the server's process for each guest, beside the guest's own."""
    count = plan.connections(COUNT)
    try:
        count, each = _room(plan, count)
    except ServerFailed as error:
        plan.missing[C_GUEST] = str(error)
        return
    about = (
        f"{count} guests, each suspended in receive of its connection over which it has echoed one message of 64 B; "
        f"RSS beside the guests' own memories ({each:.1f} mappings each, vm.max_map_count is {_map_limit()})"
    )
    if count < COUNT:
        about += f"; {COUNT} do not fit here (descriptors, mappings) or it is a quick run"
    plan.say(f"guest-idle: {about}")
    rounds, failures = take_turns({C_GUEST: lambda: _measure(count)}, min(plan.rounds, MEMORY_ROUNDS))
    columns = (
        Column("guests", "guests", 0),
        Column("host_kib", "host's KiB each", 2),
        Column("linear_kib", "guest's own KiB each", 2),
        Column("maps", "mappings each", 1),
        Column("base_mib", "RSS MiB before", 1),
        Column("open_s", "s to open all", 1),
        Column("dropped", "dropped", 0),
    )
    yield Comparison("guest-idle", CASE, about, "host_kib", columns, rounds, failures=failures)


def fitting(wanted: int, mappings_each: float, used: int, limit: int) -> int:
    """How many guests fit under the kernel's limit of mappings.

    Args:
        wanted: how many there are to be.
        mappings_each: what one of them needs.
        used: mappings that the process has without them.
        limit: of the kernel for each process.
    """
    return min(wanted, int((limit - used - _MAPS_LEFT) / max(mappings_each, 1e-9)))


def _room(plan: Plan, count: int) -> tuple[int, float]:
    """How many guests fit, and how many mappings each needs."""
    probe = min(_PROBE, count)
    plan.say(f"guest-idle: looking how many mappings {probe} guests need")
    with Server(C_GUEST, command_for("c", WAITING)) as server:
        before = _mappings(server)
        with HeldConnections(server, probe):
            each = (_mappings(server) - before) / probe
    return fitting(count, each, before, _map_limit()), each


def _map_limit() -> int:
    return int(Path("/proc/sys/vm/max_map_count").read_text())


def _mappings(server: Server) -> int:
    return Path(f"/proc/{server.pid}/maps").read_text().count("\n")


def _measure(count: int) -> Figures:
    first = Load("first", "a few connections, so that everything is loaded before memory is read", "echo", 10)
    with Server(C_GUEST, command_for("c", WAITING)) as server:
        run_load(server, first, seconds=0.1)
        before, maps, begun = server.memory(), _mappings(server), time.monotonic()
        with HeldConnections(server, count) as held:
            opened = time.monotonic()
            after, mapped = server.memory(), _mappings(server)
            linear, guests = map(int, server.ask(LINEAR).split())
    if guests < count:
        raise ServerFailed(f"{C_GUEST}: {guests} guests for {count} connections")
    return {
        "guests": guests,
        "host_kib": (after.rss_kib - before.rss_kib - linear) / count,
        "linear_kib": linear / count,
        "maps": (mapped - maps) / count,
        "base_mib": before.rss_kib / 1024,
        "open_s": opened - begun,
        "dropped": held.dropped or 0,
    }
