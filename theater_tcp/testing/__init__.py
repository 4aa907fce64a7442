"""For tests of your own actors: a :class:`Stage` plays them without sockets, threads or time.

``docs/testing.md`` shows how. The names below are public; :mod:`theater_tcp.testing.conformance` is the suite that
every transport of this project passes.
"""

from __future__ import annotations

from theater_tcp.testing.clock import FakeClock
from theater_tcp.testing.memory_network import MemoryListeningSocket
from theater_tcp.testing.memory_poller import MemoryPoller
from theater_tcp.testing.memory_socket import MemorySocket, memory_pair
from theater_tcp.testing.peer import Peer
from theater_tcp.testing.stage import Stage, SteppedTheater
from theater_tcp.testing.system_stage import SystemStage

__all__ = [
    "FakeClock",
    "MemoryListeningSocket",
    "MemoryPoller",
    "MemorySocket",
    "Peer",
    "Stage",
    "SteppedTheater",
    "SystemStage",
    "memory_pair",
]
