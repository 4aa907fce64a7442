"""The suite of ``theater_tcp.testing.conformance`` over memory, in lockstep, over TCP (IPv4 and IPv6) and Unix sockets.

A check fails where its promise is broken: that is tried with a transport that is broken on purpose.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from theater_tcp import TheaterError
from theater_tcp.socket_options import reset_on_close
from theater_tcp.testing import MemorySocket, Stage, SteppedTheater, SystemStage, conformance
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


# -- the suite itself ----------------------------------------------------------------------------------------------


def drops_a_byte(sock: MemorySocket) -> None:
    receive = sock._receive
    sock._receive = lambda size, take: receive(size, take)[:-1] if size > 1 else receive(size, take)  # type: ignore[method-assign]


def tells_bytes_twice(sock: MemorySocket) -> None:
    receive = sock._receive
    told: list[bytes] = []

    def again(size: int, take: bool) -> bytes:
        data = receive(size, take=take and bool(told))
        told.append(data)
        return data

    sock._receive = again  # type: ignore[method-assign]


def never_ends(sock: MemorySocket) -> None:
    sock.other_end.close = lambda: None  # type: ignore[method-assign]
    sock.other_end.shutdown = lambda how: None  # type: ignore[method-assign]


def loses_what_is_sent_in_parts(sock: MemorySocket) -> None:
    send = sock.send
    sock.send = lambda data: send(data) and len(data)  # type: ignore[method-assign]


def resets_where_it_should_close(sock: MemorySocket) -> None:
    reset_on_close(sock)  # type: ignore[arg-type]


def never_resets(sock: MemorySocket) -> None:
    sock.setsockopt = lambda level, option, value: None  # type: ignore[method-assign]
    sock.other_end.setsockopt = lambda level, option, value: None  # type: ignore[method-assign]


SABOTAGE = [
    drops_a_byte,
    tells_bytes_twice,
    never_ends,
    loses_what_is_sent_in_parts,
    resets_where_it_should_close,
    never_resets,
]


@pytest.mark.parametrize("sabotage", SABOTAGE, ids=lambda sabotage: sabotage.__name__)
def test_a_transport_that_breaks_a_promise_does_not_pass(sabotage: Callable[[MemorySocket], None]) -> None:
    failed = []
    for check in CHECKS:
        try:
            with Stage(receive_capacity=100, send_capacity=0) as stage:
                accept_from = stage.network.accept_from

                def accept(listening: Any, accept_from: Callable[[Any], Any] = accept_from) -> Any:
                    sock, peer = accept_from(listening)
                    sabotage(sock)
                    return sock, peer

                stage.network.accept_from = accept
                check(stage)
        except (AssertionError, TheaterError):
            failed.append(check.__name__)
    assert failed
    assert len(failed) < len(CHECKS)


def test_every_check_says_what_it_is_about_and_none_is_left_out() -> None:
    functions = {
        value
        for value in vars(conformance).values()
        if inspect.isfunction(value) and list(inspect.signature(value).parameters) == ["stage"]
    }
    assert functions == set(CHECKS)
    assert all(check.__doc__ for check in CHECKS)
