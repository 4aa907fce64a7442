"""The thread that looks at how long a guest runs: by the time in which the guest had a processor."""

from __future__ import annotations

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
