"""A clock that stands still until a test moves it."""

from __future__ import annotations

__all__ = ["FakeClock"]


class FakeClock:
    """A monotonic clock for an :class:`~theater_tcp.event_loop.EventLoop`: calling it tells the time.

    Args:
        start: its first reading, in seconds.
    """

    def __init__(self, start: float = 1000.0) -> None:
        self.now = start
        """What it shows, in seconds."""

    def __call__(self) -> float:
        return self.now

    def __repr__(self) -> str:
        return f"<FakeClock {self.now:g} s>"

    def advance(self, seconds: float) -> None:
        """Move it on.

        Args:
            seconds: how far; not negative, since a monotonic clock never goes back.
        """
        if seconds < 0:
            raise ValueError(f"a monotonic clock does not go back, not even by {-seconds:g} s")
        self.now += seconds
