"""A guest that echoes: ``guest_echo FILE active|waiting core|component|threads``.

``active``: one guest owns the listener and every connection, and gets each chunk by ``on-data``. ``waiting``: a guest for
each connection, which loops over ``receive`` and ``send``. Limits and deadlines are the ones that any guest has.

The component road is taken by guests that the core road can't run, and the road of threads where wasmtime's inner parts
are not as they are known; here either is taken on demand, so that the same guest can be compared.
"""

from __future__ import annotations

import sys

from benchmarks.servers.launch import BACKLOG, announce, raise_descriptor_limit
from theater_tcp import Settings, Theater
from theater_tcp.guest import engine
from theater_tcp.guest import wasmtime_internals as inner
from theater_tcp.guest.binary import read_guest

__all__ = ["ACTIVE", "ROADS", "WAITING", "main", "take_road"]

ACTIVE, WAITING = "active", "waiting"

ROADS = ("core", "component", "threads")


def take_road(road: str) -> None:
    """Let all guests that are loaded from now on run by this road."""
    if road == "threads":
        inner.FAILURE = "it was asked for"
    elif road == "component":
        engine.read_guest = lambda content, grants: read_guest(content, grants)._replace(core=None, why_not="")


def main() -> None:
    """Serve until standard input closes."""
    file, style, road = sys.argv[1:]
    if style not in (ACTIVE, WAITING) or road not in ROADS:
        sys.exit(f"guest_echo: {style!r} or {road!r} is unknown")
    take_road(road)
    with Theater(Settings(max_connections=raise_descriptor_limit())) as theater:
        program = theater.load_guest(file)
        if program.road_name != road:
            sys.exit(f"guest_echo: {file} runs by the {program.road_name} road, not by {road}")
        echo = theater.spawn_guest(program, name="echo", per_connection=style == WAITING)
        listener = theater.listen_for(echo, "127.0.0.1:0", backlog=BACKLOG)
        announce(int(listener.address.rpartition(":")[2]))
        theater.wait()


if __name__ == "__main__":
    main()
