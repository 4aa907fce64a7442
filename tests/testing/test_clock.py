"""The fake clock stands still until it is moved, and drives a loop's timers."""

from __future__ import annotations

import pytest

from theater_tcp.event_loop import Deadlines, EventLoop
from theater_tcp.testing import FakeClock, MemoryPoller


def test_it_stands_still_until_it_is_moved() -> None:
    clock = FakeClock(5.0)
    assert (clock(), clock()) == (5.0, 5.0)
    clock.advance(2.5)
    assert clock() == 7.5


def test_it_does_not_go_back() -> None:
    with pytest.raises(ValueError, match="does not go back"):
        FakeClock().advance(-1)


def test_a_loop_that_tells_its_time_by_it_runs_timers_when_they_are_due_and_not_before() -> None:
    clock, happened = FakeClock(), list[str]()
    loop = EventLoop(MemoryPoller(), clock)
    deadlines: Deadlines[str] = Deadlines(loop, happened.append)
    loop.call_later(3, lambda: happened.append("timer"))
    deadlines.set("deadline", 2)
    for expected in ([], ["deadline"], ["deadline", "timer"]):
        clock.advance(1)
        loop.run_once(block=False)
        assert happened == expected
    loop.close()
