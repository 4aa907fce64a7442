"""How a call into a guest went, whichever road it took."""

from __future__ import annotations

from enum import Enum

__all__ = ["GuestTrap", "Outcome"]


class Outcome(Enum):
    """Where a guest that was entered or resumed is now."""

    RETURNED = "returned"
    """Its export has returned ok."""

    FAILED = "failed"
    """Its export has returned an error, which is its own text."""

    WAITING = "waiting"
    """It is suspended until a future is settled."""

    YIELDED = "yielded"
    """It has run for the length of a slice, and goes on when others had their turn."""


class GuestTrap(Exception):
    """A guest broke a rule of WebAssembly, of the canonical ABI, or of its limits; it can't go on.

    Args:
        reason: what happened, in one line.
        backtrace: the guest's functions at that moment, the innermost first, a line each; empty where none ran.
    """

    def __init__(self, reason: str, backtrace: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.backtrace = backtrace
