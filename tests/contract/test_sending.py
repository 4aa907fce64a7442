"""Contract 11 and 12's half-close: what send takes, where it waits, and the limits that end it."""

from __future__ import annotations

import array
import socket
import threading
from typing import Any

import pykka
import pytest

from tests.peers import TIMEOUT, eventually, expect_reset, receive_exactly, receive_to_end
from tests.support import Owner, Stage, outcome_of, settled
from theater_tcp import Options, Settings
from theater_tcp.errors import Closed, InvalidArgument, LimitReached, TheaterError, TimedOut

KIB = 1 << 10
MIB = 1 << 20
MORE_THAN_THE_SYSTEM_TAKES = 8 * MIB
"""Bytes: above what the buffers of both sockets hold together while nobody reads (4 MiB and a little)."""

ROOMY: dict[str, Any] = {"write_buffer_limit": 64 * MIB, "write_buffer_hard_limit": 128 * MIB}


def patterned(size: int) -> bytes:
    """Bytes whose order shows."""
    return array.array("I", range(size // 4)).tobytes()


def small_window(owner: Owner, **options: Any) -> tuple[Any, socket.socket]:
    """A connection whose peer takes little before it reads."""
    listener = owner.listen(**options)
    peer = socket.socket()
    owner.stage.peers.append(peer)
    peer.settimeout(TIMEOUT)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * KIB)
    peer.connect(("127.0.0.1", int(listener.address.rpartition(":")[2])))
    connection = owner.expect("handle_connection").connection
    owner.call(connection.activate)
    return connection, peer


@pytest.mark.parametrize("form", [bytes, bytearray, memoryview])
def test_contract_11_send_returns_the_number_of_bytes_always_the_whole_length(
    stage: Stage, kind: str, form: Any
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="passive")
    for size in (1, 0, 1000, 3 * KIB):
        assert owner.call(connection.send, form(patterned(size))) == len(patterned(size))
    assert receive_exactly(peer, 4 * 1018) == patterned(1000) + patterned(3 * KIB)


def test_contract_11_a_view_of_wider_items_is_sent_byte_for_byte(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="passive", send_timeout=0.2)
    numbers = array.array("I", range(100))
    assert owner.call(connection.send, memoryview(numbers)) == 400
    assert owner.call(connection.send, memoryview(bytes(range(200)))[::2]) == 100
    assert receive_exactly(peer, 500) == numbers.tobytes() + bytes(range(0, 200, 2))
    owner.hears_nothing()


@pytest.mark.parametrize("wrong", ["text", None, 7, [1, 2]])
def test_contract_11_what_is_no_bytes_is_invalid_and_changes_nothing(stage: Stage, kind: str, wrong: Any) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="passive")
    with pytest.raises(InvalidArgument, match=type(wrong).__name__):
        owner.call(connection.send, wrong)
    owner.call(connection.send, b"right")
    assert receive_exactly(peer, 5) == b"right"


def test_contract_11_what_was_sent_can_be_changed_afterwards_by_its_owner(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="passive", **ROOMY)
    data = bytearray(patterned(MORE_THAN_THE_SYSTEM_TAKES))
    whole = bytes(data)
    assert owner.call(connection.send, data) == len(whole)
    data[:] = bytes(len(data))
    assert receive_exactly(peer, len(whole)) == whole


def test_contract_11_sends_of_one_owner_leave_in_order(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="passive", **ROOMY)
    data = patterned(MORE_THAN_THE_SYSTEM_TAKES)
    start, size = 0, 1

    async def send_all(_actor: Any) -> None:
        nonlocal start, size
        while start < len(data):
            await settled(connection.send(data[start : start + size]))
            start, size = start + size, min(size * 2, MIB)

    owner.act(send_all)
    assert receive_exactly(peer, len(data)) == data


def test_contract_11_a_thread_blocks_above_write_buffer_limit_until_the_peer_takes_it(stage: Stage) -> None:
    owner = stage.owner("thread")
    connection, peer = small_window(owner, write_buffer_limit=64 * KIB)
    data = patterned(MORE_THAN_THE_SYSTEM_TAKES)
    sending = owner.begin(connection.send, data)
    received = receive_exactly(peer, 1000)
    stage.pass_turns()
    with pytest.raises(pykka.Timeout):
        sending.get(timeout=0)
    assert received + receive_exactly(peer, len(data) - 1000) == data
    assert outcome_of(sending) == len(data)


@pytest.mark.parametrize("hard", [64 * KIB, 100 * KIB, 16 * MIB])
def test_contract_11_a_thread_never_meets_the_hard_limit(stage: Stage, hard: int) -> None:
    owner = stage.owner("thread")
    connection, peer = small_window(owner, write_buffer_limit=64 * KIB, write_buffer_hard_limit=hard)
    data = patterned(8 * MIB)
    sending = owner.begin(lambda: [connection.send(data[start : start + MIB]) for start in range(0, 8 * MIB, MIB)])
    assert receive_exactly(peer, len(data)) == data
    assert outcome_of(sending) == [MIB] * 8


@pytest.mark.parametrize("kind", ["loop", "async"])
def test_contract_11_on_the_loop_send_takes_the_data_reading_pauses_and_drained_waits(kind: str) -> None:
    with Stage() as stage:
        owner = stage.owner(kind)
        connection, peer = small_window(owner, write_buffer_limit=64 * KIB)
        data = patterned(MORE_THAN_THE_SYSTEM_TAKES)
        owner.call(connection.set_active, "active")
        assert owner.call(connection.send, data) == len(data)
        drained = owner.begin(connection.drained).get(timeout=TIMEOUT)
        peer.sendall(b"unheard while so much waits")
        owner.hears_nothing()
        assert not drained.done
        assert receive_exactly(peer, len(data)) == data
        assert outcome_of(drained) is None
        assert owner.collect(27) == b"unheard while so much waits"
        assert owner.call(connection.drained) is None


@pytest.mark.parametrize("kind", ["loop", "async"])
@pytest.mark.parametrize("pieces", [1, 3, 64])
def test_contract_11_write_buffer_hard_limit_trips_on_the_loop_and_closes_the_connection(
    kind: str, pieces: int
) -> None:
    with Stage() as stage:
        owner = stage.owner(kind)
        connection, peer = small_window(owner, write_buffer_limit=64 * KIB, write_buffer_hard_limit=1 * MIB)

        def send_too_much(_actor: Any) -> None:
            for _ in range(pieces):
                connection.send(bytes(MORE_THAN_THE_SYSTEM_TAKES // pieces))

        with pytest.raises(LimitReached, match=r"limit: .*1048576"):
            owner.act(send_too_much)
        assert owner.expect("on_close").value.startswith("limit: ")
        owner.hears_nothing()
        with pytest.raises(TheaterError, match="not-found"):
            owner.call(connection.send, b"more")
        try:
            receive_to_end(peer)
        except ConnectionResetError:
            pass


@pytest.mark.parametrize("by", ["argument", "settings"])
def test_contract_11_send_timeout_trips_where_the_peer_takes_nothing(kind: str, by: str) -> None:
    own = {"send_timeout": 0.1} if by == "argument" else {}
    settings = Settings(drain_timeout=0, options=Options(send_timeout=0.1 if by == "settings" else 1000.0))
    with Stage(settings) as stage:
        owner = stage.owner(kind)
        connection, peer = small_window(owner, write_buffer_limit=64 * KIB, **own)
        if kind == "thread":
            with pytest.raises(TimedOut):
                owner.call(connection.send, bytes(MORE_THAN_THE_SYSTEM_TAKES))
        else:
            owner.call(connection.send, bytes(MORE_THAN_THE_SYSTEM_TAKES))
            with pytest.raises(TimedOut):
                owner.call(connection.drained)
        assert owner.expect("on_close", "timeout").connection is connection
        owner.hears_nothing()
        expect_reset(peer)
        assert stage.theater.metrics().timeouts == 1


def test_contract_11_a_peer_that_takes_nothing_is_closed_also_where_nobody_waits(kind: str) -> None:
    with Stage() as stage:
        owner = stage.owner(kind)
        connection, peer = small_window(owner, send_timeout=0.1, **ROOMY)
        owner.call(connection.send, bytes(MORE_THAN_THE_SYSTEM_TAKES))  # under the limit: it returns on a thread, too
        owner.expect("on_close", "timeout")
        expect_reset(peer)


def test_contract_11_a_peer_that_takes_a_little_at_a_time_is_not_timed_out(kind: str) -> None:
    with Stage() as stage:
        owner = stage.owner(kind)
        connection, peer = small_window(owner, send_timeout=1, **ROOMY)
        data = patterned(8 * MIB)
        sending = owner.begin(connection.send, data)
        pause = threading.Event()
        received = bytearray()
        for _ in range(12):
            pause.wait(0.1)  # over all longer than the timeout, each time shorter
            received += receive_exactly(peer, 256 * KIB)
        received += receive_exactly(peer, len(data) - len(received))
        assert bytes(received) == data
        assert outcome_of(sending) == len(data)
        owner.hears_nothing()


def test_contract_11_a_peer_that_goes_away_while_a_send_waits_ends_it(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind)
    connection, peer = small_window(owner, write_buffer_limit=64 * KIB)
    if kind == "thread":
        waiting = owner.begin(connection.send, bytes(MORE_THAN_THE_SYSTEM_TAKES))
    else:
        owner.call(connection.send, bytes(MORE_THAN_THE_SYSTEM_TAKES))
        waiting = owner.begin(connection.drained).get(timeout=TIMEOUT)
    receive_exactly(peer, 1000)
    peer.close()  # with unread bytes: RST
    with pytest.raises(TheaterError, match="reset"):
        outcome_of(waiting)
    owner.expect("on_close", "reset")
    owner.hears_nothing()


def test_contract_11_a_close_while_drained_waits_wakes_it(stage: Stage) -> None:
    owner = stage.owner("loop")
    connection, _peer = small_window(owner, write_buffer_limit=64 * KIB)
    owner.call(connection.send, bytes(MORE_THAN_THE_SYSTEM_TAKES))
    drained = owner.begin(connection.drained).get(timeout=TIMEOUT)
    owner.call(connection.abort)
    with pytest.raises(TheaterError, match="closed"):
        outcome_of(drained)


def test_contract_11_after_the_hosts_half_close_send_is_closed_and_receive_goes_on(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="passive")
    owner.call(connection.send, b"all I have")
    owner.call(connection.shutdown_write)
    owner.call(connection.shutdown_write)  # harmless
    assert receive_to_end(peer) == b"all I have"
    with pytest.raises(Closed):
        owner.call(connection.send, b"more")
    peer.sendall(b"but I have more")
    assert owner.call(connection.receive, 100) == b"but I have more"
    peer.close()
    assert owner.expect("on_close", "eof").connection is connection


def test_contract_11_a_half_close_comes_after_what_waits_to_be_sent(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind)
    connection, peer = small_window(owner, **ROOMY)
    data = patterned(MORE_THAN_THE_SYSTEM_TAKES)
    owner.call(connection.send, data)
    owner.call(connection.shutdown_write)
    assert receive_to_end(peer) == data
    peer.sendall(b"got it")
    assert owner.call(connection.receive, 100) == b"got it"


def test_contract_11_two_actors_that_send_much_to_each_other_get_it_all(stage: Stage, kind: str) -> None:
    data = patterned(4 * MIB)
    near = stage.owner(kind)
    far = stage.owner("thread")
    listener = near.listen(**ROOMY)
    there = far.connect(listener.address, **ROOMY)
    here = near.expect("handle_connection").connection
    near.call(here.activate)
    sending = [near.begin(here.send, data), far.begin(there.send, data)]
    for future in sending:
        assert outcome_of(future) == len(data)
    for owner, connection in ((near, here), (far, there)):
        owner.call(connection.set_active, "active")
    for owner in (near, far):
        assert owner.collect(len(data)) == data
    eventually(lambda: stage.theater.metrics().connections == 2)
