"""Contract 6 to 9: activate, set-active in every direction, once and count."""

from __future__ import annotations

import itertools
import queue
from typing import Any

import pytest

from tests.peers import TIMEOUT
from tests.support import Stage, let_pass, settled
from theater_tcp.errors import AlreadyActive, Busy, InvalidArgument

MODES: tuple[str | int, ...] = ("passive", "active", "once", 2)
LINES = [b"one\n", b"two\n", b"three\n", b"four\n"]


def test_contract_06_a_second_activate_is_already_active_and_harmless(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="active")
    for _ in range(2):
        with pytest.raises(AlreadyActive):
            owner.call(connection.activate)
    peer.sendall(b"still active")
    assert owner.collect(12) == b"still active"


@pytest.mark.parametrize(("before", "after"), list(itertools.product(MODES, MODES)))
def test_contract_07_set_active_changes_every_mode_into_every_mode_from_outside(
    stage: Stage, kind: str, before: str | int, after: str | int
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode=before, framing="line")
    owner.call(connection.set_active, after)
    peer.sendall(b"".join(LINES))
    behaves_as(owner, connection, after, LINES)


@pytest.mark.parametrize(("before", "after"), list(itertools.product(("active", "once", 2), MODES)))
def test_contract_07_set_active_changes_every_mode_into_every_mode_inside_of_a_callback(
    stage: Stage, kind: str, before: str | int, after: str | int
) -> None:
    def on_data(_actor: Any, connection: Any, data: bytes) -> None:
        if data == b"first\n":
            connection.set_active(after)

    owner = stage.owner(kind, on_data=on_data)
    connection, peer = owner.meet(mode=before, framing="line")
    peer.sendall(b"first\n" + b"".join(LINES))
    owner.expect("on_data", b"first\n")
    behaves_as(owner, connection, after, LINES)


def behaves_as(owner: Any, connection: Any, mode: str | int, lines: list[bytes]) -> None:
    """The lines come as they do in this mode, and none is lost."""
    pushed = {"passive": 0, "once": 1, "active": len(lines)}.get(str(mode), mode)
    assert isinstance(pushed, int)
    for line in lines[:pushed]:
        owner.expect("on_data", line)
    if isinstance(mode, int):
        owner.expect("on_passive")
    owner.hears_nothing()
    for line in lines[pushed:]:
        assert owner.call(connection.receive, 100) == line


def test_contract_07_after_passive_has_returned_no_on_data_begins_though_a_turn_is_in_the_mailbox(
    stage: Stage, kind: str
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="active")

    async def in_one_turn(actor: Any) -> None:
        peer.sendall(b"too late for a callback")
        await let_pass(stage, actor)  # the data's turn lies in the mailbox behind this one
        connection.set_active("passive")

    owner.act(in_one_turn)
    owner.hears_nothing()
    assert owner.call(connection.receive, 100) == b"too late for a callback"
    owner.call(connection.set_active, "once")
    peer.sendall(b"in time")
    assert owner.collect(7) == b"in time"


def test_contract_07_set_active_there_and_back_delivers_once(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="active")

    async def in_one_turn(actor: Any) -> None:
        peer.sendall(b"once")
        await let_pass(stage, actor)
        connection.set_active("passive")
        connection.set_active("once")

    owner.act(in_one_turn)
    assert owner.collect(4) == b"once"
    owner.hears_nothing()
    peer.sendall(b"twice")
    owner.hears_nothing()


def test_contract_07_set_active_while_a_receive_waits_is_busy_and_changes_nothing(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="passive")
    received = owner.begin(connection.receive, 100)
    stage.pass_turns()
    for mode in ("active", "once", 2):
        with pytest.raises(Busy):
            connection.set_active(mode) if kind == "thread" else owner.call(connection.set_active, mode)
    peer.sendall(b"for the receive")
    value = received.get(timeout=TIMEOUT)
    assert (value.get(timeout=TIMEOUT) if kind != "thread" else value) == b"for the receive"
    owner.hears_nothing()


@pytest.mark.parametrize("mode", ["", "Active", 0, -1, 32768, True, None, 1.0, b"once"])
def test_contract_07_a_mode_that_is_none_is_invalid_and_changes_nothing(stage: Stage, kind: str, mode: Any) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="once")
    with pytest.raises(InvalidArgument, match="mode"):
        owner.call(connection.set_active, mode)
    peer.sendall(b"one")
    owner.expect("on_data", b"one")


def test_contract_07_an_owner_without_on_data_can_not_be_pushed_to(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind, without=["on_data"])
    connection, peer = owner.meet(mode="passive")
    for mode in ("active", "once", 1):
        with pytest.raises(InvalidArgument, match="on_data"):
            owner.call(connection.set_active, mode)
    peer.sendall(b"pulled")
    assert owner.call(connection.receive, 100) == b"pulled"


def test_contract_08_once_is_exactly_one_on_data(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="once")
    peer.sendall(b"first")
    owner.expect("on_data", b"first")
    peer.sendall(b"second")
    owner.hears_nothing()
    owner.call(connection.set_active, "once")
    owner.expect("on_data", b"second")
    owner.hears_nothing()


def test_contract_08_once_can_be_re_armed_in_its_callback(stage: Stage, kind: str) -> None:
    def on_data(_actor: Any, connection: Any, data: bytes) -> None:
        if data != b"three\n":
            connection.set_active("once")

    owner = stage.owner(kind, on_data=on_data)
    connection, peer = owner.meet(mode="once", framing="line")
    peer.sendall(b"".join(LINES))
    for line in LINES[:3]:
        owner.expect("on_data", line)
    owner.hears_nothing()
    assert owner.call(connection.receive, 100) == LINES[3]


def test_contract_08_once_is_passive_already_in_its_callback_which_may_receive(stage: Stage, kind: str) -> None:
    received: queue.SimpleQueue[Any] = queue.SimpleQueue()

    async def on_data(_actor: Any, connection: Any, data: bytes) -> None:
        if data != b"head":
            return
        connection.send(b"more?")
        received.put(await settled(connection.receive(100)))
        connection.set_active("once")

    owner = stage.owner(kind, on_data=on_data)
    _, peer = owner.meet(mode="once")
    peer.sendall(b"head")
    owner.expect("on_data", b"head")
    assert peer.recv(100) == b"more?"
    peer.sendall(b"body")
    assert received.get(timeout=TIMEOUT) == b"body"
    peer.sendall(b"next head")
    owner.expect("on_data", b"next head")


@pytest.mark.parametrize("count", [1, 2, 3])
def test_contract_09_count_is_so_many_callbacks_then_passive_and_on_passive(
    stage: Stage, kind: str, count: int
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode=count, framing="line")
    peer.sendall(b"".join(LINES))
    for line in LINES[:count]:
        owner.expect("on_data", line)
    assert owner.expect("on_passive").connection is connection
    owner.hears_nothing()
    for line in LINES[count:]:
        assert owner.call(connection.receive, 100) == line


def test_contract_09_count_can_be_renewed_in_on_passive(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind, on_passive=lambda _actor, connection: connection.set_active(2))
    _, peer = owner.meet(mode=2, framing="line")
    peer.sendall(b"".join(LINES))
    for first, second in (LINES[:2], LINES[2:]):
        owner.expect("on_data", first)
        owner.expect("on_data", second)
        owner.expect("on_passive")


@pytest.mark.parametrize("mode", ["passive", "active", "once", 5])
def test_contract_09_a_mode_set_in_the_last_callback_of_a_count_takes_the_place_of_on_passive(
    stage: Stage, kind: str, mode: str | int
) -> None:
    def on_data(_actor: Any, connection: Any, data: bytes) -> None:
        if data == LINES[0]:
            connection.set_active(mode)

    owner = stage.owner(kind, on_data=on_data)
    connection, peer = owner.meet(mode=1, framing="line")
    peer.sendall(LINES[0])
    owner.expect("on_data", LINES[0])
    owner.hears_nothing()
    peer.sendall(LINES[1])
    if mode == "passive":
        assert owner.call(connection.receive, 100) == LINES[1]
    else:
        owner.expect("on_data", LINES[1])
    owner.hears_nothing()


def test_contract_09_an_owner_without_on_passive_finds_the_connection_passive_all_the_same(
    stage: Stage, kind: str
) -> None:
    owner = stage.owner(kind, without=["on_passive"])
    connection, peer = owner.meet(mode=1, framing="line")
    peer.sendall(LINES[0] + LINES[1])
    owner.expect("on_data", LINES[0])
    owner.hears_nothing()
    assert owner.call(connection.receive, 100) == LINES[1]


def test_contract_09_the_largest_count_is_32767(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind)
    _, peer = owner.meet(mode=32767)
    peer.sendall(b"x")
    owner.expect("on_data", b"x")
