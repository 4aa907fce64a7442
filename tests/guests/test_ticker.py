"""The thread that looks at how long a guest runs: by the time in which the guest had a processor."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import wasmtime

from tests.peers import TIMEOUT, eventually
from theater_tcp.guest import wasmtime_internals as inner
from theater_tcp.guest.ticker import Ticker


class Road:
    """What the ticker sees of a road."""

    def __init__(self) -> None:
        self.engine = wasmtime.Engine()
        self.engine_address = inner.address_of(self.engine)
        self.entries = self.ticks = 0
        self.parked = False
        self.current: object = None

    def unpark(self) -> None:
        raise NotImplementedError


@pytest.fixture
def road() -> Iterator[Road]:
    road = Road()
    ticker = Ticker(road, "ticker")  # type: ignore[arg-type]
    yield road
    ticker.close()


def test_time_in_which_the_thread_of_a_guest_has_no_processor_does_not_count(road: Road) -> None:
    road.entries += 1
    road.current = "a guest"
    road.unpark()
    time.sleep(0.2)
    assert road.ticks == 0


def test_time_in_which_it_runs_does(road: Road) -> None:
    road.entries += 1
    road.current = "a guest"
    road.unpark()
    until = time.monotonic() + TIMEOUT
    while road.ticks < 3 and time.monotonic() < until:
        pass
    assert road.ticks >= 3


def test_nothing_is_raised_while_no_guest_runs(road: Road) -> None:
    road.entries += 1
    road.unpark()
    eventually(lambda: road.parked)
    assert road.ticks == 0


class RacingRoad(Road):
    """A guest is entered just when the ticker goes to sleep; it has seen the ticker awake, and wakes nobody."""

    parked_once = False

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name == "parked" and value and threading.current_thread().name == "ticker":
            self.entries += 1
            self.parked_once = True


def test_a_guest_that_is_entered_while_it_goes_to_sleep_is_looked_at() -> None:
    road = RacingRoad()
    ticker = Ticker(road, "ticker")  # type: ignore[arg-type]
    try:
        road.unpark()
        eventually(lambda: road.parked_once)
        eventually(lambda: not road.parked)
    finally:
        ticker.close()
