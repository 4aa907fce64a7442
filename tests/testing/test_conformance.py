"""The suite of ``theater_tcp.testing.conformance`` over memory, in lockstep, over TCP (IPv4 and IPv6) and Unix sockets.

A check fails where its promise is broken: that is tried with a transport that is broken on purpose.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from theater_tcp.testing import Stage, SteppedTheater, SystemStage
from theater_tcp.testing.conformance import CHECKS

STAGES: dict[str, Callable[[Path], SteppedTheater]] = {
    "memory": lambda _: Stage(),
    "narrow memory": lambda _: Stage(receive_capacity=7, send_capacity=3),
    "lockstep": lambda _: Stage(lockstep=True),
    "TCP over IPv4": lambda _: SystemStage(address="127.0.0.1:0"),
    "TCP over IPv6": lambda _: SystemStage(address="[::1]:0"),
    "Unix": lambda folder: SystemStage(address=f"unix:{folder}/socket"),
}


@pytest.mark.parametrize("make_stage", STAGES.values(), ids=STAGES.keys())
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_every_transport_keeps_the_promise(
    check: Callable[[SteppedTheater], None], make_stage: Callable[[Path], SteppedTheater], tmp_path: Path
) -> None:
    with make_stage(tmp_path) as stage:
        check(stage)
