"""How much somebody may write into the log who isn't trusted with it."""

from __future__ import annotations

__all__ = ["LogAllowance"]


class LogAllowance:
    """So many lines of the log in each second of a clock; what is above is counted.

    Args:
        lines: in a second.
    """

    __slots__ = ("_dropped", "_left", "_lines", "_second")

    def __init__(self, lines: int) -> None:
        self._lines = self._left = lines
        self._second: int | None = None
        self._dropped = 0

    def take(self, now: float) -> bool:
        """Whether one more line may be written.

        Args:
            now: by the clock, in seconds.
        """
        second = int(now)
        if second != self._second:
            self._second, self._left = second, self._lines
        if self._left:
            self._left -= 1
            return True
        self._dropped += 1
        return False

    def dropped(self) -> int:
        """Lines not written since this was asked last: to be said in front of one that may be, and at the end."""
        dropped, self._dropped = self._dropped, 0
        return dropped
