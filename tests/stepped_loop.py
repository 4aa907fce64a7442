"""An event loop that a test runs turn by turn on its own thread, with a clock that stands still."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from theater_tcp.event_loop import EventLoop
from theater_tcp.testing.clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from theater_tcp.poller import Poller

__all__ = ["ScriptedPoller", "SteppedLoop"]


class ScriptedPoller:
    """A poller that reports what the test put into ``ready``, once, and never waits."""

    def __init__(self) -> None:
        self.ready: list[tuple[int, int]] = []
        self.masks: dict[int, int] = {}
        self.asked: list[tuple[float, int]] = []
        """Timeout and maximum of each :meth:`poll`."""
        self.during_poll: Callable[[], object] | None = None
        """Called in the next :meth:`poll`, as if another thread did something while the loop sleeps."""

    def poll(self, timeout: float = -1, maxevents: int = -1) -> list[tuple[int, int]]:
        self.asked.append((timeout, maxevents))
        call, self.during_poll = self.during_poll, None
        if call is not None:
            call()
        found, self.ready = self.ready, []
        return found

    def register(self, fd: int, eventmask: int) -> None:
        self.masks[fd] = eventmask

    def modify(self, fd: int, eventmask: int) -> None:
        assert fd in self.masks
        self.masks[fd] = eventmask

    def unregister(self, fd: int) -> None:
        del self.masks[fd]

    def close(self) -> None:
        self.masks.clear()


class SteppedLoop(EventLoop):
    """The loop. In its ``with`` block the test's thread is the loop's, and nothing moves but by :meth:`turn`.

    Args:
        poller: what waits for readiness; the best one of the system when absent.
    """

    def __init__(self, poller: Poller | None = None) -> None:
        self.hands = FakeClock()
        super().__init__(poller, clock=self.hands, name="stepped")

    def __enter__(self) -> Self:
        self.enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.leave()
        self.close()

    def turn(self, seconds: float = 0.0, times: int = 1) -> None:
        """Let ``seconds`` pass on the clock, then run so many turns."""
        self.hands.advance(seconds)
        for _ in range(times):
            self.run_once(block=False)

    def settle(self) -> None:
        """Run turns until nothing is scheduled and no timer is due any more; the clock stands still."""
        for _ in range(1000):
            if not self.ready and self.next_due > self.hands.now:
                return
            self.turn()
        raise AssertionError("the loop does not come to rest")
