"""So many lines of the log in a second, and the number of those that were above."""

from __future__ import annotations

from theater_tcp.log_allowance import LogAllowance


def test_in_each_second_so_many_lines_may_be_written_and_those_above_are_counted_once() -> None:
    allowance = LogAllowance(2)
    assert [allowance.take(now) for now in (7.0, 7.5, 7.6, 7.9)] == [True, True, False, False]
    assert [allowance.take(now) for now in (8.0, 8.1, 8.2)] == [True, True, False]
    assert allowance.dropped() == 3
    assert allowance.dropped() == 0
    assert allowance.take(9.0)


def test_a_clock_that_is_set_back_begins_another_second() -> None:
    allowance = LogAllowance(1)
    assert [allowance.take(now) for now in (7.0, 7.0, 6.0)] == [True, False, True]
