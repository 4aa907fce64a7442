"""What a run of the benchmarks does: with whom, how often, how long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.catalogue import Peer
from benchmarks.certificate import Certificate

__all__ = ["Plan"]


@dataclass
class Plan:
    """The choices that every suite follows.

    Args:
        peers: the servers that take part, ours first.
        rounds: how often each contestant is measured in a case.
        seconds: how long a load is measured each time.
        quick: look whether everything works rather than what it costs: smaller numbers of connections too.
        descriptors: how many descriptors a process may have open.
        say: prints a line about what is going on.
        missing: who can't take part, and why; suites add what they find.
        certificate: what all TLS servers show; None where TLS can't be measured.
    """

    peers: list[Peer]
    rounds: int
    seconds: float
    quick: bool
    descriptors: int
    say: Callable[[str], None]
    missing: dict[str, str] = field(default_factory=dict)
    certificate: Certificate | None = None

    def connections(self, wanted: int) -> int:
        """How many connections a server can have of the number wanted; it needs some descriptors for itself."""
        return min(wanted // 10 if self.quick else wanted, self.descriptors - 500)
