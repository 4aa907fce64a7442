"""The contract's table "Calls", cell by cell, through handles of each kind of owner; strangers; the dead."""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING, Any

import pytest

from tests.peers import TIMEOUT, eventually, receive_exactly, receive_to_end
from tests.support import Owner, Stage, settled
from theater_tcp.connection_state import Event
from theater_tcp.errors import NotFound, NotOwner, TheaterError

if TYPE_CHECKING:
    from collections.abc import Callable

PHASES = ("pending", "passive", "active", "once", "count", "closing")
MODES: dict[str, str | int] = {"passive": "passive", "active": "active", "once": "once", "count": 3}

CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "activate": lambda connection, _target: connection.activate(),
    "set-active passive": lambda connection, _target: connection.set_active("passive"),
    "set-active active": lambda connection, _target: connection.set_active("active"),
    "set-active once": lambda connection, _target: connection.set_active("once"),
    "set-active count": lambda connection, _target: connection.set_active(2),
    "transfer": lambda connection, target: connection.transfer(target),
    "peer-address": lambda connection, _target: connection.peer_address,
    "local-address": lambda connection, _target: connection.local_address,
    "send": lambda connection, _target: connection.send(b"sent"),
    "receive": lambda connection, _target: connection.receive(100),
    "shutdown-write": lambda connection, _target: connection.shutdown_write(),
    "close": lambda connection, _target: connection.close(),
    "abort": lambda connection, _target: connection.abort(),
}

ALLOWED = "O"
CELLS: dict[str, tuple[str, str, str, str]] = {
    # call: pending, open passive, open active/once/count, closing (with nothing buffered)
    "activate": (ALLOWED, "already-active", "already-active", "closed"),
    "set-active passive": ("pending", ALLOWED, ALLOWED, "closed"),
    "set-active active": ("pending", ALLOWED, ALLOWED, "closed"),
    "set-active once": ("pending", ALLOWED, ALLOWED, "closed"),
    "set-active count": ("pending", ALLOWED, ALLOWED, "closed"),
    "transfer": (ALLOWED, ALLOWED, ALLOWED, "closed"),
    "peer-address": (ALLOWED, ALLOWED, ALLOWED, ALLOWED),
    "local-address": (ALLOWED, ALLOWED, ALLOWED, ALLOWED),
    "send": ("pending", ALLOWED, ALLOWED, "closed"),
    "receive": ("pending", ALLOWED, "wrong-mode", "closed"),
    "shutdown-write": ("pending", ALLOWED, ALLOWED, "closed"),
    "close": (ALLOWED, ALLOWED, ALLOWED, "closed"),
    "abort": (ALLOWED, ALLOWED, ALLOWED, "closed"),
}
COLUMN = {"pending": 0, "passive": 1, "active": 2, "once": 2, "count": 2, "closing": 3}
ROWS = [(call, phase, CELLS[call][COLUMN[phase]]) for call in CELLS for phase in PHASES]


async def attempt(call: Callable[[Any, Any], Any], connection: Any, target: Any) -> str:
    """``O``, or the kind of the error."""
    try:
        await settled(call(connection, target))
    except TheaterError as error:
        return error.kind
    return ALLOWED


def kind_of_outcome(owner: Owner, call: Callable[[Any, Any], Any], connection: Any, target: Any) -> str:
    """As :func:`attempt`, as the owner."""
    try:
        owner.call(call, connection, target)
    except TheaterError as error:
        return error.kind
    return ALLOWED


def still_works(owner: Owner, connection: Any, phase: str) -> bool:
    """A refused call has changed nothing: the connection is where it was, and carries data both ways."""
    peer = owner.stage.peers[0]
    if phase == "pending":
        owner.call(connection.activate)
    owner.call(connection.send, b"unharmed")
    assert receive_exactly(peer, 8) == b"unharmed"
    peer.sendall(b"too")
    if phase in ("pending", "passive"):
        return bool(owner.call(connection.receive, 100) == b"too")
    return owner.collect(3) == b"too"


@pytest.mark.parametrize(("call", "phase", "expected"), [row for row in ROWS if row[1] != "closing"])
def test_contract_calls_each_cell_before_the_end(stage: Stage, kind: str, call: str, phase: str, expected: str) -> None:
    owner, target = stage.owner(kind), stage.owner("loop")
    connection, peer = owner.meet(mode=MODES.get(phase, "pending"))
    if (call, phase) == ("receive", "passive"):
        peer.sendall(b"x")
    assert kind_of_outcome(owner, CALLS[call], connection, target.ref) == expected
    if expected != ALLOWED:
        assert still_works(owner, connection, phase)


@pytest.mark.parametrize(("call", "expected"), [(call, CELLS[call][COLUMN["closing"]]) for call in CELLS])
def test_contract_calls_each_cell_while_the_connection_is_closing(
    stage: Stage, kind: str, call: str, expected: str
) -> None:
    outcomes: queue.SimpleQueue[str] = queue.SimpleQueue()
    target = stage.owner("loop")

    async def on_close(_actor: Any, connection: Any, _reason: str) -> None:
        outcomes.put(await attempt(CALLS[call], connection, target.ref))

    owner = stage.owner(kind, on_close=on_close)
    connection, _peer = owner.meet(mode="passive", idle_timeout=0.05)
    owner.expect("on_close", "timeout")
    assert outcomes.get(timeout=TIMEOUT) == expected
    owner.hears_nothing()
    with pytest.raises(NotFound):
        owner.call(connection.close)


def test_contract_calls_receive_while_closing_gives_what_is_buffered_and_then_closed(stage: Stage, kind: str) -> None:
    outcomes: queue.SimpleQueue[Any] = queue.SimpleQueue()

    async def on_close(_actor: Any, connection: Any, _reason: str) -> None:
        outcomes.put(await settled(connection.receive(2)))
        outcomes.put(await settled(connection.receive(100)))
        outcomes.put(await attempt(CALLS["receive"], connection, None))

    owner = stage.owner(kind, on_close=on_close)
    connection, peer = owner.meet(mode="passive", framing="line", idle_timeout=0.2)
    peer.sendall(b"abcdefg\n")
    assert owner.call(connection.receive, 2) == b"ab"
    owner.expect("on_close", "timeout")
    assert [outcomes.get(timeout=TIMEOUT) for _ in range(3)] == [b"cd", b"efg\n", "closed"]


def test_contract_calls_every_call_of_the_state_table_has_its_row_here() -> None:
    ends = {Event.UPGRADE, Event.SECURE, Event.FAIL, Event.RELEASE}  # the upgrade has a table of its own
    assert {event.value for event in Event if event not in ends} == {
        call.split()[0] for call in CELLS if not call.endswith("-address")
    }


def test_contract_calls_a_stranger_is_not_the_owner_by_any_call(stage: Stage, kind: str) -> None:
    stranger, owner = stage.owner(kind), stage.owner("loop")
    connection, peer = stranger.meet(mode="passive")
    stranger.call(connection.transfer, owner.ref)
    mine = owner.expect("handle_connection_transfer").connection
    kinds = {name: kind_of_outcome(stranger, call, connection, stranger.ref) for name, call in CALLS.items()}
    assert kinds == dict.fromkeys(CALLS, NotOwner.kind)
    owner.call(mine.send, b"mine")
    assert receive_exactly(peer, 4) == b"mine"
    stranger.hears_nothing()


@pytest.mark.parametrize("end", ["close", "abort", "eof"])
def test_contract_calls_the_dead_are_not_found_by_any_call(stage: Stage, kind: str, end: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="passive")
    if end == "eof":
        peer.close()
        owner.expect("on_close", "eof")
        eventually(lambda: not connection.actor_ref.is_alive())  # the callback has returned
    else:
        owner.call(CALLS[end], connection, None)
    kinds = {name: kind_of_outcome(owner, call, connection, owner.ref) for name, call in CALLS.items()}
    assert kinds == dict.fromkeys(CALLS, NotFound.kind)


def test_contract_calls_a_second_close_of_a_listener_and_an_accept_after_it_are_not_found(
    stage: Stage, kind: str
) -> None:
    owner = stage.owner(kind)
    listener = owner.listen()
    owner.call(listener.close)
    with pytest.raises(NotFound):
        owner.call(listener.close)
    with pytest.raises(NotFound):
        owner.call(listener.accept)


def test_contract_calls_a_handle_keeps_the_id_of_its_connection_through_transfers(stage: Stage, kind: str) -> None:
    first, second = stage.owner(kind), stage.owner(kind)
    connection, peer = first.meet(mode="passive")
    first.call(connection.transfer, second.ref)
    after = second.expect("handle_connection_transfer").connection
    assert after.id == connection.id == connection.actor_ref.actor_urn
    second.call(after.close)
    assert receive_to_end(peer) == b""
