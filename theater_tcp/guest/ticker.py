"""Looks at how long a guest runs at a stretch, and makes it yield.

wasmtime has a counter for it, the epoch: compiled code looks at it wherever a loop or a function begins, and yields
when it has gone on. A thread raises it when it finds the same guest running that it found the last time, so that a
guest runs for one to two slices before the others have their turn. Time in which the guest's thread had no processor
does not count, for on a busy machine that may be most of it. While no guest runs, nothing is raised, and after a while
the thread sleeps until one does.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from theater_tcp.guest import wasmtime_internals as inner
from theater_tcp.guest.suspendable import SLICE

if TYPE_CHECKING:
    from theater_tcp.guest.core_callbacks import CoreRoad

__all__ = ["Ticker"]

PATIENCE = 250
"""Looks that find no guest before the thread goes to sleep."""

RAN = SLICE / 2
"""Seconds of CPU time in which a guest has run since the last look, and not only been there."""


class Ticker:
    """The thread that looks.

    Args:
        road: whose guests it looks at.
        name: of the thread.
    """

    def __init__(self, road: CoreRoad, name: str) -> None:
        self._road = road
        self._closed = False
        self._cpu_clock: int | None = None  # of the thread that runs the guests
        self._wanted = threading.Event()
        road.parked = True
        road.unpark = self._unpark
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        self._wanted.set()
        self._thread.join()

    def _unpark(self) -> None:
        if self._cpu_clock is None and hasattr(time, "pthread_getcpuclockid"):
            self._cpu_clock = time.pthread_getcpuclockid(threading.get_ident())
        self._road.parked = False
        self._wanted.set()

    def _run(self) -> None:
        road = self._road
        quiet = seen = 0
        spent = 0.0
        while not self._closed:
            if road.parked:
                self._wanted.wait()
                self._wanted.clear()
            time.sleep(SLICE)
            entries = road.entries
            if entries != seen:
                seen, quiet = entries, 0
                spent = self._cpu_time()
            elif road.current is not None:
                now = self._cpu_time()
                if now - spent >= RAN:
                    spent = now
                    road.ticks += 1
                    inner.increment_epoch(road.engine_address)
            else:
                quiet += 1
                if quiet == PATIENCE:
                    quiet = 0
                    road.parked = True
                    if road.entries != seen:  # one came in between, and saw a thread awake
                        road.parked = False

    def _cpu_time(self) -> float:
        """Seconds that the thread of the guests has had a processor; by the wall where the system doesn't tell."""
        return time.monotonic() if self._cpu_clock is None else time.clock_gettime(self._cpu_clock)
