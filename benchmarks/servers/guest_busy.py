"""An echo server beside a guest that computes without end: ``guest_busy python|FILE quiet|busy``.

The echo is ours, or one guest that owns all connections. ``busy``: on the same runtime another guest runs a loop that
never waits, with as much CPU time as it likes; in ``quiet`` it is missing.
"""

from __future__ import annotations

import sys
import threading

import wasmtime

from benchmarks.servers.launch import BACKLOG, announce, raise_descriptor_limit
from benchmarks.servers.ours import Echo
from benchmarks.suites.guest_latency import BUSY, PYTHON, QUIET
from theater_tcp import Limits, Settings, Theater

__all__ = ["main"]

_ENDLESS = """
(module
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 64))
  (func (export "theater:simple/actor#init") (param i32 i32) (result i32)
    (loop $again (br $again))
    (i32.const 0)))
"""

_HOURS = 3600.0 * 24


def main() -> None:
    """Serve until standard input closes."""
    kind, company = sys.argv[1:]
    if company not in (BUSY, QUIET):
        sys.exit(f"guest_busy: {company!r} is unknown")
    with Theater(Settings(max_connections=raise_descriptor_limit())) as theater:
        endless = theater.load_guest(bytes(wasmtime.wat2wasm(_ENDLESS)))
        echo = theater.spawn(Echo) if kind == PYTHON else theater.spawn_guest(kind, name="echo")
        listener = theater.listen_for(echo, "127.0.0.1:0", backlog=BACKLOG)
        if company == BUSY:  # its `init` never returns, nor does this call
            busy = {"name": "busy", "limits": Limits(cpu=_HOURS)}
            threading.Thread(target=theater.spawn_guest, args=(endless,), kwargs=busy, daemon=True).start()
        announce(int(listener.address.rpartition(":")[2]))
        theater.wait()


if __name__ == "__main__":
    main()
