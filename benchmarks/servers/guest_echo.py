"""A guest that echoes: ``guest_echo FILE active|waiting|pooled core|component|threads``.

``active``: one guest owns the listener and every connection, and gets each chunk by ``on-data``. ``waiting``: a guest
for each connection, which loops over ``receive`` and ``send``; ``pooled`` too, with guests that are kept warm. Limits
and deadlines are the ones that any guest has.

The component road is taken by guests that the core road can't run, and the road of threads where wasmtime's inner parts
are not as they are known; here either is taken on demand, so that the same guest can be compared.

The line ``linear`` gets how many KiB of the guests' own memories are resident, and how many guests there are.
"""

from __future__ import annotations

import gc
import re
import sys
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.servers.launch import BACKLOG, announce, raise_descriptor_limit
from benchmarks.suites.guests import ACTIVE, LINEAR, POOLED, ROADS, WAITING
from theater_tcp import Settings, Theater
from theater_tcp.guest import wasmtime_internals as inner
from theater_tcp.guest.binary import GuestBinary, read_guest
from theater_tcp.guest.core_road import CoreInstance

__all__ = ["main"]

POOL = 32
"""Guests that are kept warm."""


def take_road(road: str) -> None:
    """Let all guests that are loaded from now on run by this road."""

    def read(content: bytes, grants: Any) -> GuestBinary:
        return read_guest(content, grants)._replace(core=None, why_not="is to take the component road")

    if road == "threads":
        inner.FAILURE = "it was asked for"
    elif road == "component":
        mock.patch("theater_tcp.guest.engine.read_guest", read).start()


def linear_memory() -> str:
    """KiB of the memories of all guests of the core road that are resident, and how many guests there are.

    A memory's place is known, and wasmtime gives each one mappings of its own; so it is the sum of what
    ``/proc/self/smaps`` says of the mappings in there.
    """
    guests = [each for each in gc.get_objects() if isinstance(each, CoreInstance)]
    places = {base_of(guest.memory): guest.memory.size for guest in guests}
    resident, end = 0, 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if mapping := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            begin = int(mapping[1], 16)
            if begin in places:  # what follows up to the memory's end belongs to it
                end = begin + places[begin]
            inside = begin < end
        elif line.startswith("Rss:") and inside:
            resident += int(line.split()[1])
    return f"{resident} {len(guests)}"


def base_of(memory: Any) -> int:
    """The address of a guest's memory."""
    return int(memory.base)


def main() -> None:
    """Serve until standard input closes."""
    file, style, road = sys.argv[1:]
    if style not in (ACTIVE, WAITING, POOLED) or road not in ROADS:
        sys.exit(f"guest_echo: {style!r} or {road!r} is unknown")
    take_road(road)
    with Theater(Settings(max_connections=raise_descriptor_limit())) as theater:
        program = theater.load_guest(file)
        if program.road_name != road:
            sys.exit(f"guest_echo: {file} runs by the {program.road_name} road, not by {road}")
        pool = POOL if style == POOLED else 0
        echo = theater.spawn_guest(program, name="echo", per_connection=style != ACTIVE, pool=pool)
        listener = theater.listen_for(echo, "127.0.0.1:0", backlog=BACKLOG)
        announce(int(listener.address.rpartition(":")[2]), {LINEAR: linear_memory})
        theater.wait()


if __name__ == "__main__":
    main()
