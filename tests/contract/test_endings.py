"""Contract 18 and 19: the peer's end, and exactly one on-close with its reason."""

from __future__ import annotations

import queue
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.peers import TIMEOUT, cut, eventually, receive_exactly, receive_to_end, stuff
from tests.support import Owner, Stage, outcome_of, settled
from theater_tcp.errors import NotFound

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20
MUCH = bytes(range(256)) * (8 * MIB // 256)
"""More than the system takes while nobody reads."""

ROOMY: dict[str, Any] = {"write_buffer_limit": 64 * MIB, "write_buffer_hard_limit": 128 * MIB}


# -- 18: the peer's end -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["127.0.0.1:0", "[::1]:0", "unix:/path"])
@pytest.mark.parametrize("mode", ["passive", "active", "once", 1])
def test_contract_18_at_the_peers_end_buffered_bytes_come_first_and_then_on_close_eof(
    stage: Stage, kind: str, where: str, mode: str | int, tmp_path: Path
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(where.replace("/path", f"{tmp_path}/socket"), mode="passive", framing="line")
    peer.sendall(b"one\ntwo\nthree\n")
    peer.close()
    stage.pass_turns()
    owner.call(connection.set_active, mode)
    pushed = {"passive": 0, "active": 3}.get(str(mode), 1)
    lines = [b"one\n", b"two\n", b"three\n"]
    for line in lines[:pushed]:
        owner.expect("on_data", line)
    if mode == 1:
        owner.expect("on_passive")
    for line in lines[pushed:]:
        assert owner.call(connection.receive, 100) == line
    assert owner.expect("on_close", "eof").connection is connection
    owner.hears_nothing()
    eventually(lambda: stage.theater.metrics().connections == 0)


def test_contract_18_a_large_rest_is_delivered_before_the_end(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="passive")
    sent = stuff(peer)
    peer.close()
    owner.call(connection.set_active, "active")
    owner.collect(sent)
    owner.expect("on_close", "eof")


def test_contract_18_the_owner_can_send_in_on_close_and_it_is_flushed(stage: Stage, kind: str) -> None:
    async def on_close(actor: Any, connection: Any, reason: str) -> None:
        connection.send(reason.encode() + b": ")
        if hasattr(actor, "sleep"):
            await actor.sleep(0.01)
        connection.send(MUCH)

    owner = stage.owner(kind, on_close=on_close)
    connection, peer = owner.meet(mode="active", **ROOMY)
    peer.sendall(b"and the answer?")
    peer.shutdown(socket.SHUT_WR)
    owner.collect(15)
    owner.expect("on_close", "eof")
    assert receive_to_end(peer) == b"eof: " + MUCH
    with pytest.raises(NotFound):
        owner.call(connection.send, b"more")
    owner.hears_nothing()


def test_contract_18_half_open_stays_writable_until_close(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="active", half_open=True)
    peer.shutdown(socket.SHUT_WR)
    owner.expect("on_close", "eof")
    owner.hears_nothing()
    for answer in (b"one", b"two"):
        owner.call(connection.send, answer)
        assert receive_exactly(peer, 3) == answer
    owner.call(connection.close)
    assert receive_to_end(peer) == b""
    owner.hears_nothing()


def test_contract_18_half_open_can_be_set_in_on_close(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind, on_close=lambda _actor, connection, _reason: connection.set_options(half_open=True))
    connection, peer = owner.meet(mode="passive")
    peer.shutdown(socket.SHUT_WR)
    owner.expect("on_close", "eof")
    owner.hears_nothing()
    owner.call(connection.send, b"still open")
    assert receive_exactly(peer, 10) == b"still open"


def test_contract_18_after_both_half_closes_the_connection_ends(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="passive")
    owner.call(connection.send, b"mine")
    owner.call(connection.shutdown_write)
    assert receive_to_end(peer) == b"mine"
    peer.sendall(b"yours")
    peer.shutdown(socket.SHUT_WR)
    assert owner.call(connection.receive, 100) == b"yours"
    owner.expect("on_close", "eof")
    eventually(lambda: stage.theater.metrics().connections == 0)


# -- 19: exactly one on_close ------------------------------------------------------------------------------------


def end_by_eof(_owner: Owner, _connection: Any, peer: socket.socket) -> None:
    peer.close()


def end_by_reset(_owner: Owner, _connection: Any, peer: socket.socket) -> None:
    cut(peer)


def end_by_callback(_owner: Owner, _connection: Any, peer: socket.socket) -> None:
    peer.sendall(b"raise")


def end_by_shutdown(owner: Owner, _connection: Any, _peer: socket.socket) -> None:
    owner.stage.theater.request_shutdown(0)


def end_by_limit(_owner: Owner, _connection: Any, peer: socket.socket) -> None:
    peer.sendall(b"a line that is too long" * 10)


def end_by_timeout(owner: Owner, connection: Any, _peer: socket.socket) -> None:
    owner.call(connection.set_options, idle_timeout=0.05)


def end_by_stop_of_its_actor(_owner: Owner, connection: Any, _peer: socket.socket) -> None:
    connection.actor_ref.stop()


def end_by_torn_frame(owner: Owner, connection: Any, peer: socket.socket) -> None:
    owner.call(connection.set_framing, "length-4")
    peer.sendall(b"\0\0\0\7torn")
    peer.close()


ENDS = {
    "eof": end_by_eof,
    "reset": end_by_reset,
    "timeout": end_by_timeout,
    "callback: ValueError": end_by_callback,
    "shutdown": end_by_shutdown,
    "limit: a line of more than 100 bytes": end_by_limit,
    "io: the stream ended inside of a frame": end_by_torn_frame,
}


def raise_if_told_to(_actor: Any, _connection: Any, data: bytes) -> None:
    if data == b"raise":
        raise ValueError("a secret of the owner")


@pytest.mark.parametrize("reason", ENDS)
@pytest.mark.parametrize("mode", ["active", 30000])
def test_contract_19_every_end_is_told_once_with_its_reason(
    stage: Stage, kind: str, reason: str, mode: str | int
) -> None:
    stage.foresee_callback_failures()
    told: queue.SimpleQueue[str] = queue.SimpleQueue()
    owner = stage.owner(kind, on_data=raise_if_told_to, on_close=lambda _actor, _connection, why: told.put(why))
    framing: dict[str, Any] = {"framing": "line", "max_frame": 100} if reason.startswith("limit") else {}
    connection, peer = owner.meet(mode=mode, **framing)
    ENDS[reason](owner, connection, peer)
    assert told.get(timeout=TIMEOUT) == reason
    if reason == "shutdown":
        assert stage.theater.wait(TIMEOUT)
    else:
        eventually(lambda: stage.theater.metrics().connections == 0)
        stage.pass_turns()
        owner.call(lambda: None)
    assert told.empty()


def test_contract_19_a_connection_actor_that_is_stopped_from_outside_tells_its_owner_shutdown(
    stage: Stage, kind: str
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="active")
    connection.actor_ref.stop()
    assert owner.expect("on_close", "shutdown").connection is connection
    with pytest.raises((ConnectionResetError, AssertionError)):
        receive_exactly(peer, 1)
    owner.hears_nothing()


def test_contract_19_the_end_is_told_to_the_owner_at_that_time(stage: Stage, kind: str) -> None:
    first, second = stage.owner(kind), stage.owner(kind)
    connection, peer = first.meet(mode="active")
    first.call(connection.transfer, second.ref)
    peer.close()
    second.expect("handle_connection_transfer")
    second.expect("on_close", "eof")
    first.hears_nothing()
    second.hears_nothing()


def test_contract_19_bytes_that_came_before_a_reset_are_still_delivered(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="passive")
    peer.sendall(b"before the reset")
    cut(peer)
    stage.pass_turns()
    assert owner.call(connection.receive, 100) == b"before the reset"
    owner.expect("on_close", "reset")
    owner.hears_nothing()


def test_contract_19_a_reset_that_a_send_in_a_callback_meets_is_told_behind_the_bytes_that_came_before_it(
    stage: Stage, kind: str
) -> None:
    async def answer(_actor: Any, connection: Any, data: bytes) -> None:
        if data == b"question":
            peer.sendall(b"unread")
            cut(peer)
            for _ in range(2):
                await settled(connection.send(b"answer"))

    owner = stage.owner(kind, on_data=answer)
    _, peer = owner.meet(mode="active")
    peer.sendall(b"question")
    owner.expect("on_data", b"question")
    owner.expect("on_data", b"unread")
    owner.expect("on_close", "reset")
    owner.hears_nothing()
    assert stage.theater.metrics().callback_failures == 0


@pytest.mark.parametrize("mode", ["pending", "once"])
def test_contract_19_a_callback_that_a_reset_ends_takes_a_passive_connection_with_it(stage: Stage, mode: str) -> None:
    """Nobody would read on, and the connection would be there for ever."""

    def answer(_actor: Any, connection: Any, _data: bytes = b"") -> None:
        if mode == "pending":
            connection.activate()
            assert connection.receive(8) == b"question"
        peer.sendall(b"unread")
        cut(peer)
        connection.send(b"answer")

    hooks: dict[str, Any] = {"handle_connection" if mode == "pending" else "on_data": answer}
    owner = stage.owner("thread", **hooks)
    peer = stage.dial(owner.listen().address)
    connection = owner.expect("handle_connection").connection
    if mode == "once":
        owner.call(connection.activate)
        owner.call(connection.set_active, mode)
    peer.sendall(b"question")
    if mode == "once":
        owner.expect("on_data", b"question")
    owner.expect("on_close", "reset")
    owner.hears_nothing()
    assert stage.theater.metrics().callback_failures == 0


def test_contract_19_an_owner_without_on_close_loses_nothing_but_the_word(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind, without=["on_close"])
    connection, peer = owner.meet(mode="active")
    peer.sendall(b"last")
    peer.close()
    assert owner.collect(4) == b"last"
    eventually(lambda: stage.theater.metrics().connections == 0)
    with pytest.raises(NotFound):
        owner.call(connection.send, b"more")


@pytest.mark.parametrize("where", ["handle_connection", "handle_connection_transfer", "on_data", "on_passive"])
def test_contract_19_a_failed_callback_flushes_what_was_sent_and_is_told_once(
    stage: Stage, kind: str, where: str
) -> None:
    stage.foresee_callback_failures()

    def fail(_actor: Any, connection: Any, _data: bytes = b"") -> None:
        if where == "handle_connection":
            connection.activate()
        connection.send(MUCH)
        raise KeyError("inside")

    hooks: dict[str, Any] = {where: fail}
    owner = stage.owner(kind, **hooks)
    if where == "handle_connection_transfer":
        first = stage.owner("loop")
        connection, peer = first.meet(**ROOMY)
        first.call(connection.transfer, owner.ref)
        owner.expect(where)
    else:
        connection, peer = owner.meet(**ROOMY)
        if where != "handle_connection":
            owner.call(connection.activate)
            owner.call(connection.set_active, 1)
            peer.sendall(b"x")
            owner.expect("on_data", b"x")
        if where == "on_passive":
            owner.expect(where)
    # Where on_data failed, the count ran out with it, but the connection has ended before its on_passive.
    owner.expect("on_close", "callback: KeyError")
    assert receive_to_end(peer) == MUCH
    owner.hears_nothing()
    assert stage.theater.metrics().callback_failures == 1


def test_contract_19_a_failed_on_close_ends_the_connection_all_the_same(stage: Stage, kind: str) -> None:
    stage.foresee_callback_failures()

    def on_close(_actor: Any, connection: Any, _reason: str) -> None:
        connection.send(b"good")
        raise ValueError("bye")

    owner = stage.owner(kind, on_close=on_close)
    _, peer = owner.meet(mode="active")
    peer.shutdown(socket.SHUT_WR)
    owner.expect("on_close", "eof")
    assert receive_to_end(peer) == b"good"
    eventually(lambda: stage.theater.metrics().connections == 0)
    owner.hears_nothing()


def test_contract_19_at_shutdown_an_owner_that_waits_is_interrupted_and_may_wait_again_in_on_close() -> None:
    saved = threading.Event()

    async def wait_for_ever(_actor: Any, connection: Any) -> None:
        connection.activate()
        await connection.receive(100)

    async def on_close(actor: Any, _connection: Any, reason: str) -> None:
        await actor.to_thread(threading.Event().wait, 0.01)
        await actor.sleep(0.01)
        if reason == "shutdown":
            saved.set()

    with Stage() as stage:
        owner = stage.owner("async", handle_connection=wait_for_ever, on_close=on_close)
        stage.dial(owner.listen().address)
        owner.expect("handle_connection")
        stage.theater.request_shutdown(0)
        owner.expect("on_drain")
        owner.expect("on_close", "shutdown")
        assert stage.theater.wait(TIMEOUT)
        assert saved.is_set()


def test_contract_19_shutdown_while_on_close_waits_lets_it_go_and_leaves_nothing() -> None:
    began = threading.Event()

    async def on_close(actor: Any, _connection: Any, _reason: str) -> None:
        began.set()
        await actor.sleep(1000)

    with Stage() as stage:
        owner = stage.owner("async", on_close=on_close)
        connection, peer = owner.meet(mode="active")
        peer.close()
        assert began.wait(TIMEOUT)
        assert stage.theater.shutdown(0) is False
        assert not connection.actor_ref.is_alive()
        assert stage.theater.metrics().connections == 0


def test_contract_19_idle_timeout_trips_and_traffic_in_either_direction_puts_it_off(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="active", idle_timeout=0.4)
    pause = threading.Event()
    for _ in range(3):
        pause.wait(0.2)
        peer.sendall(b"ping")
        assert owner.collect(4) == b"ping"
        pause.wait(0.2)
        owner.call(connection.send, b"pong")
        assert receive_exactly(peer, 4) == b"pong"
    owner.expect("on_close", "timeout")
    assert receive_to_end(peer) == b""
    assert stage.theater.metrics().timeouts == 1


def test_contract_19_stopping_all_actors_ends_connections_and_tells_nobody_twice(kind: str) -> None:
    import pykka  # noqa: PLC0415

    with Stage() as stage:
        owner = stage.owner(kind)
        _, peer = owner.meet(mode="active")
        outcome_of(pykka.ActorRegistry.stop_all(timeout=TIMEOUT))
        with pytest.raises((ConnectionResetError, AssertionError)):
            receive_exactly(peer, 1)
        heard = []
        while not owner.script.heard.empty():
            heard.append(owner.script.heard.get())
        assert len(heard) <= 1
