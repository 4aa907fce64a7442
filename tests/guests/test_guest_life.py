"""How guests begin and end: one for each connection, a pool of them, one for all; and the runtime's own end."""

from __future__ import annotations

import gc
import socket
import subprocess
import sys
import threading
from functools import partial
from typing import Any
from unittest import mock

import pykka
import pytest

from tests.guests import roads
from tests.guests.process import descriptors, environment, maps, resident
from tests.guests.puppets import Gone, GuestStage, stage_settings
from tests.guests.roads import ROADS
from tests.guests.wat_guests import CLIENT, guest
from tests.in_time import in_time
from tests.peers import TIMEOUT, dial, receive_exactly, receive_to_end
from theater_tcp import Permissions, Theater
from theater_tcp.errors import BlockingCall, CallbackFailed, InvalidArgument, ShutDown, TheaterError
from theater_tcp.guest.calls import GuestCalls
from theater_tcp.guest_settings import Limits

SERVICE = guest(
    imports=["tcp#set-active", "tcp#send", "tcp#receive", "tcp#close", "tcp-ext#set-framing", "runtime#shutdown"],
    more="""
  (data (i32.const 0x300) "active")
  (data (i32.const 0x310) "passive")
  (data (i32.const 0x320) "line")
  (global $heap (mut i32) (i32.const 0x1000))
  (func $mode (param i32 i32 i32 i32)
    (call $tcp#set-active (local.get 0) (local.get 1) (local.get 2) (local.get 3) (i32.const 0x200)))
  (func $said (param i32 i32 i32) (result i32)
    (i32.eq (i32.load8_u (local.get 2)) (local.get 0)))""",
    allocate="""
    (global.set $heap (i32.add (global.get $heap) (i32.add (local.get 3) (i32.const 8))))
    (i32.and (i32.sub (global.get $heap) (i32.add (local.get 3) (i32.const 4))) (i32.const -4))""",
    exports=f"""
  (func (export "{CLIENT}#handle-connection-transfer") (param i32 i32) (result i32)
    (global.set $heap (i32.const 0x1000))
    (call $tcp-ext#set-framing (local.get 0) (local.get 1) (i32.const 0x320) (i32.const 4) (i32.const 0)
      (i32.const 0x200))
    (call $mode (local.get 0) (local.get 1) (i32.const 0x300) (i32.const 6))
    (i32.const 0x100))
  (func (export "{CLIENT}#on-data") (param $id i32) (param $n i32) (param $data i32) (param $size i32) (result i32)
    (local $what i32)
    (local.set $what (i32.load8_u (local.get $data)))
    (i32.store8 (i32.const 0x400) (i32.add (i32.load8_u (i32.const 0x400)) (i32.const 1)))
    (if (i32.eq (local.get $what) (i32.const 99)) (then (; c: how many lines it has heard in its life ;)
      (call $tcp#send (local.get $id) (local.get $n) (i32.const 0x400) (i32.const 1) (i32.const 0x200))))
    (if (i32.eq (local.get $what) (i32.const 116)) (then unreachable)) (; t: trap ;)
    (if (i32.eq (local.get $what) (i32.const 108)) (then (loop $again (br $again)))) (; l: loop ;)
    (if (i32.eq (local.get $what) (i32.const 115)) (then (call $runtime#shutdown))) (; s: shut down ;)
    (if (i32.eq (local.get $what) (i32.const 120)) (then (; x: close ;)
      (call $tcp#close (local.get $id) (local.get $n) (i32.const 0x200))))
    (if (i32.eq (local.get $what) (i32.const 119)) (then (; w: wait for the next line, and send it back ;)
      (call $mode (local.get $id) (local.get $n) (i32.const 0x310) (i32.const 7))
      (call $tcp#receive (local.get $id) (local.get $n) (i32.const 100) (i32.const 0x200))
      (if (i32.eqz (i32.load8_u (i32.const 0x200))) (then
        (call $tcp#send (local.get $id) (local.get $n)
          (i32.load (i32.const 0x204)) (i32.load (i32.const 0x208)) (i32.const 0x200))))
      (call $mode (local.get $id) (local.get $n) (i32.const 0x300) (i32.const 6))))
    (global.set $heap (i32.const 0x1000))
    (i32.const 0x100))""",
)
"""Does what a line of its peer says."""

HEAP = "(global $heap (mut i32) (i32.const 0x1000))"
BUMP = "(global.set $heap (i32.add (global.get $heap) (i32.const 0x400))) (global.get $heap)"
"""A ``cabi_realloc`` for a few blocks of up to a KiB."""


def serve(stage: GuestStage, road: str, **options: Any) -> str:
    """Start the service; returns its address."""
    server = stage.spawn(road, SERVICE, **{"per_connection": True, **options})
    return stage.theater.listen_for(server, "127.0.0.1:0").address


def ask(peer: socket.socket, line: bytes = b"c\n") -> bytes:
    """One line to the service, and the byte that it answers."""
    peer.sendall(line)
    return receive_exactly(peer, 1)


def leave(stage: GuestStage, peer: socket.socket) -> None:
    """Hang up, and wait until the runtime has noticed."""
    connections = stage.theater.metrics().connections
    peer.close()
    stage.until(lambda: stage.theater.metrics().connections < connections)
    stage.pass_turns()


def guests() -> set[str]:
    """The ids of the guests that are alive."""
    return {ref.actor_urn for ref in pykka.ActorRegistry.get_all() if ref.actor_class.__name__ == "GuestActor"}


def living() -> int:
    return len(guests())


def replaced(ended: str) -> bool:
    """Whether another guest is there in the place of the only one."""
    return len(guests()) == 1 and ended not in guests()


def handed_over(stage: GuestStage, guest_id: str) -> socket.socket:
    """The peer of a connection that a guest got from another actor, and not from its server."""
    giver = stage.owner("loop")
    peer: socket.socket
    connection, peer = giver.meet(mode="passive")
    giver.call(connection.transfer, guest_id)
    return peer


def is_cut(stage: GuestStage, address: str) -> bool:
    """Whether a new connection ends without a word."""
    try:
        return end_of(stage.dial(address)) == b""
    except ConnectionResetError:  # before the system had said that it's there
        return True


# -- one for each connection ----------------------------------------------------------------------------------------


def test_with_per_connection_each_connection_has_a_memory_of_its_own(stage: GuestStage, road: str) -> None:
    address = serve(stage, road)
    peers = [stage.dial(address) for _ in range(5)]
    for turn in range(1, 4):
        for peer in peers:
            assert ask(peer) == bytes((turn,))
    for peer in peers:
        leave(stage, peer)
    assert ask(stage.dial(address)) == b"\1"


def test_with_per_connection_a_guest_ends_with_its_connection_whoever_ends_it(stage: GuestStage, road: str) -> None:
    stage.foresee_callback_failures()
    address = serve(stage, road)
    assert living() == 0
    for line in (b"", b"x\n", b"t\n", b"s\n"):
        peer = stage.dial(address)
        ask(peer)
        assert living() == 1
        if line:
            peer.sendall(line)
            end_of(peer)
        else:
            peer.close()
        stage.until(lambda: living() == 0)
        stage.until(lambda: stage.theater.metrics().connections == 0)


def test_with_per_connection_a_trap_a_loop_and_a_wait_are_for_that_connection_alone(
    stage: GuestStage, road: str
) -> None:
    stage.foresee_callback_failures()
    address = serve(stage, road, limits=Limits(cpu=0.3))
    trapping, looping, waiting, fine = (stage.dial(address) for _ in range(4))
    for peer in (trapping, looping, waiting, fine):
        ask(peer)
    waiting.sendall(b"w\n")
    looping.sendall(b"l\n")
    trapping.sendall(b"t\n")
    assert ask(fine) == b"\2"
    assert end_of(trapping) == b""
    assert ask(fine) == b"\3"
    assert end_of(looping) == b""
    waiting.sendall(b"answer\n")
    assert receive_exactly(waiting, 7) == b"answer\n"
    assert ask(fine) == b"\4"
    assert stage.theater.metrics().guest_traps == 2


def test_one_guest_for_all_shares_its_memory_and_ends_with_all_its_connections(stage: GuestStage, road: str) -> None:
    stage.foresee_callback_failures()
    server = stage.spawn(road, SERVICE)
    giver = stage.owner("loop")
    peers = []
    for _ in range(3):
        connection, peer = giver.meet(mode="passive")
        giver.call(connection.transfer, server)
        peers.append(peer)
    assert [ask(peer) for peer in peers] == [b"\1", b"\2", b"\3"]
    peers[1].sendall(b"t\n")
    for peer in peers:
        assert end_of(peer) == b""
    stage.until(lambda: not server.is_alive())


def test_a_guest_that_can_not_start_is_told_of_when_the_server_starts(stage: GuestStage, road: str) -> None:
    handler = f'(func (export "{CLIENT}#handle-connection") (param i32 i32) (result i32) (i32.const 0x100))'
    for pool in (0, 3):
        with pytest.raises(CallbackFailed, match="unreachable"):
            stage.spawn(road, guest(init="unreachable", exports=handler), per_connection=True, pool=pool)
        with pytest.raises(InvalidArgument, match="handle-connection"):
            stage.spawn(road, guest(), per_connection=True, pool=pool)
    assert living() == 0


def test_a_guest_with_only_handle_connection_serves_connections_too(stage: GuestStage, road: str) -> None:
    only = guest(
        imports=["tcp#activate", "tcp#send", "tcp#close"],
        allocate="(global.set $heap (i32.add (global.get $heap) (i32.const 256))) (global.get $heap)",
        more='(data (i32.const 0x300) "hello") (global $heap (mut i32) (i32.const 0x1000))',
        exports=f"""
  (func (export "{CLIENT}#handle-connection") (param i32 i32) (result i32)
    (call $tcp#activate (local.get 0) (local.get 1) (i32.const 0x200))
    (call $tcp#send (local.get 0) (local.get 1) (i32.const 0x300) (i32.const 5) (i32.const 0x200))
    (call $tcp#close (local.get 0) (local.get 1) (i32.const 0x200))
    (i32.const 0x100))""",
    )
    server = stage.spawn(road, only, per_connection=True)
    peer = stage.dial(stage.theater.listen_for(server, "127.0.0.1:0").address)
    assert end_of(peer) == b"hello"
    assert stage.theater.metrics().guest_traps == 0


def test_with_per_connection_a_guest_whose_on_close_waits_ends_when_that_has_returned(
    stage: GuestStage, road: str
) -> None:
    waiting = guest(
        imports=["tcp#send", "tcp#connect"],
        more='(data (i32.const 0x300) "127.0.0.1:1")',
        allocate="(i32.const 0x800)",
        exports=f"""
  (func (export "{CLIENT}#handle-connection-transfer") (param i32 i32) (result i32)
    (call $tcp#send (local.get 0) (local.get 1) (i32.const 0x300) (i32.const 1) (i32.const 0x200)) (i32.const 0x100))
  (func (export "{CLIENT}#on-close") (param i32 i32 i32 i32) (result i32)
    (call $tcp#connect (i32.const 0x300) (i32.const 11) (i32.const 0x200)) (i32.const 0x100))""",
    )
    server = stage.spawn(road, waiting, per_connection=True)
    peer = stage.dial(stage.theater.listen_for(server, "127.0.0.1:0").address)
    assert receive_exactly(peer, 1) == b"1"
    peer.close()
    stage.until(lambda: living() == 0)
    assert stage.theater.metrics().connections == 0


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("pool", [0, 1])
def test_with_per_connection_each_guest_has_the_permissions_that_were_given(
    stage: GuestStage, road: str, pool: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        address = f"127.0.0.1:{door.getsockname()[1]}"
        connecting = guest(
            imports=["tcp#send", "tcp#connect", "tcp#close"],
            more=f'{HEAP} (data (i32.const 0x300) "{address}")',
            allocate=BUMP,
            exports=f"""
  (func (export "{CLIENT}#handle-connection-transfer") (param i32 i32) (result i32)
    (call $tcp#connect (i32.const 0x300) (i32.const {len(address)}) (i32.const 0x200))
    (call $tcp#send (local.get 0) (local.get 1)
      (i32.load (i32.const 0x204)) (i32.load (i32.const 0x208)) (i32.const 0x210))
    (call $tcp#close (local.get 0) (local.get 1) (i32.const 0x210))
    (i32.const 0x100))""",
        )
        given: list[tuple[Permissions | None, bytes]] = [
            (Permissions(), b"denied: "),
            (Permissions(enabled=True, allowlist=("127.0.0.1:1",)), b"denied: "),
            (Permissions(enabled=True, allowlist=(address,)), b"urn:uuid:"),
            (None, b"urn:uuid:"),
        ]
        for permissions, answer in given:
            server = stage.spawn(road, connecting, per_connection=True, pool=pool, permissions=permissions)
            peer = stage.dial(stage.theater.listen_for(server, "127.0.0.1:0").address)
            assert end_of(peer).startswith(answer)


@pytest.mark.parametrize("road", ROADS[:2])
def test_a_connection_whose_guest_ends_before_it_has_it_is_cut(stage: GuestStage, road: str) -> None:
    ending = guest(
        imports=["runtime#shutdown"],
        init="(call $runtime#shutdown) (i32.const 0x100)",
        exports=f'(func (export "{CLIENT}#handle-connection") (param i32 i32) (result i32) (i32.const 0x100))',
    )
    address = stage.theater.listen_for(stage.spawn(road, ending, per_connection=True), "127.0.0.1:0").address
    assert is_cut(stage, address)
    stage.until(lambda: stage.theater.metrics().connections == 0)


@pytest.mark.parametrize("pool", [0, 1])
@pytest.mark.parametrize("road", ROADS)
def test_a_connection_for_which_its_guest_has_no_room_is_cut(stage: GuestStage, road: str, pool: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        address = f"127.0.0.1:{door.getsockname()[1]}"
        full = guest(
            imports=["tcp#connect"],
            more=f'(data (i32.const 0x300) "{address}")',
            allocate="(i32.const 0x800)",
            init=f"""
    (call $tcp#connect (i32.const 0x300) (i32.const {len(address)}) (i32.const 0x200)) (i32.const 0x100)""",
            exports=f'(func (export "{CLIENT}#handle-connection") (param i32 i32) (result i32) (i32.const 0x100))',
        )
        server = stage.spawn(road, full, per_connection=True, pool=pool, limits=Limits(connections=1))
        address = stage.theater.listen_for(server, "127.0.0.1:0").address
        for _ in range(2):
            assert is_cut(stage, address)
        stage.until(lambda: living() == pool)
        assert stage.guest_errors()[-1].endswith("has 1 connections already")


def test_a_guest_that_is_made_for_a_connection_which_ends_meanwhile_ends_too(stage: GuestStage, road: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        door.settimeout(TIMEOUT)
        address = f"127.0.0.1:{door.getsockname()[1]}"
        waiting = guest(
            imports=["tcp#connect", "tcp#receive", "tcp#close"],
            more=f'{HEAP} (data (i32.const 0x300) "{address}")',
            allocate=BUMP,
            init=f"""
    (call $tcp#connect (i32.const 0x300) (i32.const {len(address)}) (i32.const 0x200))
    (call $tcp#receive (i32.load (i32.const 0x204)) (i32.load (i32.const 0x208)) (i32.const 1) (i32.const 0x210))
    (call $tcp#close (i32.load (i32.const 0x204)) (i32.load (i32.const 0x208)) (i32.const 0x210))
    (i32.const 0x100)""",
            exports=f'(func (export "{CLIENT}#handle-connection") (param i32 i32) (result i32) (i32.const 0x100))',
        )
        started = stage.in_background(lambda: stage.spawn(road, waiting, per_connection=True))
        first, _ = door.accept()
        with first:
            first.sendall(b"!")
            server = started()
        peer = stage.dial(stage.theater.listen_for(server, "127.0.0.1:0", pending_timeout=0.05).address)
        second, _ = door.accept()
        with second:
            assert end_of(peer) == b""
            assert living() == 1
            second.sendall(b"!")
            stage.until(lambda: living() == 0)


# -- a pool ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("road", ROADS[:2])
def test_a_pool_keeps_its_guests_from_one_connection_to_the_next_up_to_recycle_after(
    stage: GuestStage, road: str
) -> None:
    address = serve(stage, road, pool=1, recycle_after=3)
    assert living() == 1
    seen = []
    for _ in range(7):
        peer = stage.dial(address)
        seen.append(ask(peer))
        leave(stage, peer)
    assert b"".join(seen) == b"\1\2\3\1\2\3\1"
    stage.until(lambda: living() == 1)


@pytest.mark.parametrize("road", ROADS[:2])
def test_a_guest_of_the_pool_is_replaced_after_a_trap(stage: GuestStage, road: str) -> None:
    stage.foresee_callback_failures()
    address = serve(stage, road, pool=1, recycle_after=100)
    first = stage.dial(address)
    assert ask(first) == b"\1"
    first.sendall(b"t\n")
    assert end_of(first) == b""
    for turn in (b"\1", b"\2"):
        peer = stage.dial(address)
        assert ask(peer) == turn
        leave(stage, peer)


@pytest.mark.parametrize("road", ROADS[:2])
def test_a_guest_of_the_pool_is_replaced_after_a_mistake_of_the_host(stage: GuestStage, road: str) -> None:
    stage.foresee_callback_failures()
    with mock.patch.object(GuestCalls, "set_framing", side_effect=ZeroDivisionError):
        address = serve(stage, road, pool=1, recycle_after=100)
    for _ in range(3):
        (unlucky,) = guests()
        assert end_of(stage.dial(address)) == b""
        stage.until(partial(replaced, unlucky))
    assert stage.theater.metrics().guest_traps == 3


@pytest.mark.parametrize("road", ROADS[:2])
@pytest.mark.parametrize("line", [b"t\n", b"s\n"], ids=["it traps", "it shuts itself down"])
def test_in_place_of_a_guest_of_the_pool_that_ended_a_warm_one_is_there_before_anybody_connects(
    stage: GuestStage, road: str, line: bytes
) -> None:
    stage.foresee_callback_failures()
    address = serve(stage, road, pool=1, recycle_after=100)
    (first,) = guests()
    peer = stage.dial(address)
    ask(peer)
    peer.sendall(line)
    assert end_of(peer) == b""
    stage.until(lambda: len(guests() - {first}) == 1)


@pytest.mark.parametrize("road", ROADS[:2])
def test_a_guest_of_the_pool_that_ends_before_it_has_served_anybody_is_not_made_again_and_again(
    stage: GuestStage, road: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "theater_tcp.guest")
    ending = guest(
        imports=["runtime#log", "runtime#shutdown"],
        more='(data (i32.const 0x300) "made")',
        init="""
    (call $runtime#log (i32.const 1) (i32.const 0x300) (i32.const 4))
    (call $runtime#shutdown)
    (i32.const 0x100)""",
        exports=f'(func (export "{CLIENT}#handle-connection") (param i32 i32) (result i32) (i32.const 0x100))',
    )
    stage.spawn(road, ending, per_connection=True, pool=3)
    for _ in range(10):
        stage.pass_turns()
    assert living() == 0
    assert sum("made" in record.getMessage() for record in caplog.records) == 3


@pytest.mark.parametrize("road", ROADS[:2])
def test_no_guest_is_made_in_the_place_of_one_that_the_pool_had_no_room_for(
    stage: GuestStage, road: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "theater_tcp.guest")
    waiting = guest(
        imports=["runtime#log", "tcp#receive", "tcp#send", "tcp#close"],
        more='(data (i32.const 0x300) "made")',
        init="(call $runtime#log (i32.const 1) (i32.const 0x300) (i32.const 4)) (i32.const 0x100)",
        exports=f"""
  (func (export "{CLIENT}#handle-connection-transfer") (param i32 i32) (result i32)
    (call $tcp#send (local.get 0) (local.get 1) (i32.const 0x300) (i32.const 1) (i32.const 0x200))
    (call $tcp#receive (local.get 0) (local.get 1) (i32.const 1) (i32.const 0x200))
    (call $tcp#close (local.get 0) (local.get 1) (i32.const 0x200))
    (i32.const 0x100))""",
    )
    server = stage.spawn(road, waiting, per_connection=True, pool=1)
    address = stage.theater.listen_for(server, "127.0.0.1:0").address
    peers = [stage.dial(address), stage.dial(address)]
    assert [receive_exactly(peer, 1) for peer in peers] == [b"m", b"m"]
    for _ in range(30):  # two leave and two come: one finds the warm guest, and for the other one is made
        leave(stage, peers.pop())
        peers.pop().close()
        peers = [stage.dial(address), stage.dial(address)]
        assert [receive_exactly(peer, 1) for peer in peers] == [b"m", b"m"]
    assert sum("made" in record.getMessage() for record in caplog.records) <= 2 + 30


@pytest.mark.parametrize("road", ROADS[:2])
def test_the_warm_guests_of_a_server_end_with_it_and_the_others_with_their_connections(
    stage: GuestStage, road: str
) -> None:
    server = stage.spawn(road, SERVICE, per_connection=True, pool=2)
    peer = stage.dial(stage.theater.listen_for(server, "127.0.0.1:0").address)
    assert ask(peer) == b"\1"
    in_time(server.stop)
    stage.until(lambda: living() == 1)
    assert ask(peer) == b"\2"
    leave(stage, peer)
    stage.until(lambda: living() == 0)


def test_more_connections_than_the_pool_has_guests_are_served_all_the_same(stage: GuestStage, road: str) -> None:
    address = serve(stage, road, pool=2, recycle_after=100)
    peers = [stage.dial(address) for _ in range(6)]
    assert [ask(peer) for peer in peers] == [b"\1"] * 6
    for peer in peers:
        leave(stage, peer)
    stage.until(lambda: living() == 2)


@pytest.mark.parametrize("road", ROADS[:2])
def test_after_a_connection_that_it_closed_itself_a_guest_of_the_pool_is_used_again(
    stage: GuestStage, road: str
) -> None:
    stage.foresee_callback_failures()
    address = serve(stage, road, pool=1, recycle_after=100)
    peer = stage.dial(address)
    assert ask(peer) == b"\1"
    peer.sendall(b"x\n")
    assert end_of(peer) == b""
    stage.pass_turns()
    assert ask(stage.dial(address)) == b"\3"


@pytest.mark.parametrize("road", ROADS[:2])
def test_a_warm_guest_that_ends_by_what_somebody_else_handed_to_it_is_replaced(stage: GuestStage, road: str) -> None:
    stage.foresee_callback_failures()
    address = serve(stage, road, pool=1, recycle_after=100)
    peer = stage.dial(address)
    assert ask(peer) == b"\1"
    leave(stage, peer)
    (first,) = guests()
    handed = handed_over(stage, first)
    assert ask(handed) == b"\2"
    handed.sendall(b"t\n")
    assert end_of(handed) == b""
    stage.until(partial(replaced, first))


@pytest.mark.parametrize("road", ROADS[:2])
def test_a_warm_guest_that_has_no_room_for_a_connection_is_replaced_and_the_connection_served(
    stage: GuestStage, road: str
) -> None:
    address = serve(stage, road, pool=1, recycle_after=100, limits=Limits(connections=1))
    (full,) = guests()
    handed = handed_over(stage, full)
    assert ask(handed) == b"\1"
    peer = stage.dial(address)
    assert ask(peer) == b"\1"
    leave(stage, peer)
    stage.until(partial(replaced, full))
    assert not stage.guest_errors()


@pytest.mark.parametrize("road", ROADS[:2])
def test_one_guest_is_made_for_each_that_is_recycled_and_nothing_is_left_of_that(
    stage: GuestStage, road: str, quiet: None
) -> None:
    def references() -> int:
        gc.collect()
        found = [each for each in gc.get_objects() if isinstance(each, pykka.ActorRef)]
        return sum(each.actor_class.__name__ == "GuestActor" for each in found)

    before = references()  # of actors of other tests, which something may still hold
    program = stage.load(road, SERVICE)
    with mock.patch.object(program, "instantiate", wraps=program.instantiate) as made:
        server = stage.theater.spawn_guest(program, per_connection=True, pool=1, recycle_after=2)
        address = stage.theater.listen_for(server, "127.0.0.1:0").address
        for _ in range(20):
            for turn in (b"\1", b"\2"):
                peer = stage.dial(address)
                assert ask(peer) == turn
                leave(stage, peer)
        stage.until(lambda: living() == 1)
        assert made.call_count == 21
    made.reset_mock()
    assert references() <= before + 2


@pytest.mark.parametrize("road", ROADS[:2])
def test_no_warm_guest_is_made_any_more_when_the_runtime_goes_down(road: str) -> None:
    with GuestStage(stage_settings(drain_timeout=TIMEOUT)) as stage:
        peer = stage.dial(serve(stage, road, pool=1, recycle_after=1))
        assert ask(peer) == b"\1"
        down = stage.in_background(stage.theater.shutdown)
        stage.until(lambda: stage.theater.network.draining)
        peer.close()
        down()
        assert not stage.guest_errors()


# -- the end --------------------------------------------------------------------------------------------------------


def end_of(peer: socket.socket) -> bytes:
    """What a peer still gets, whether its connection ends in order or is cut."""
    try:
        return receive_to_end(peer)
    except ConnectionResetError:
        return b""


def test_the_runtime_goes_down_with_guests_that_wait_loop_and_idle(road: str) -> None:
    with GuestStage(stage_settings(drain_timeout=0.1)) as stage:
        stage.foresee_guest_errors()
        stage.foresee_callback_failures()
        address = serve(stage, road)
        peers = [stage.dial(address) for _ in range(9)]
        for peer in peers:
            ask(peer)
        for peer, line in zip(peers, (b"w\n", b"l\n", b"c\n") * 3, strict=True):
            peer.sendall(line)
        accepting = stage.guest(road)
        listener = accepting.listen()
        waiting = accepting.begin(listener.accept)
        in_time(stage.theater.shutdown)
        with pytest.raises((Gone, TheaterError)):
            waiting.get(timeout=TIMEOUT)
        for peer in peers:
            end_of(peer)
        assert living() == 0


def test_a_guest_that_is_suspended_in_its_init_does_not_hold_up_the_runtimes_end(road: str) -> None:
    waiting = guest(
        imports=["tcp#listen", "tcp#accept"],
        more='(data (i32.const 0x300) "127.0.0.1:0")',
        init="""
    (call $tcp#listen (i32.const 0x300) (i32.const 11) (i32.const 0x200))
    (call $tcp#accept (i32.load (i32.const 0x204)) (i32.load (i32.const 0x208)) (i32.const 0x200))
    (i32.const 0x100)""",
    )
    with GuestStage() as stage:
        starting = stage.in_background(lambda: stage.spawn(road, waiting))
        stage.until(lambda: stage.theater.metrics().listeners == 1)
        in_time(lambda: stage.theater.shutdown(0))
        with pytest.raises((TheaterError, pykka.ActorDeadError)):
            starting()


@pytest.mark.parametrize("road", ROADS[:2])
def test_what_a_guest_is_told_at_shutdown_is_shutdown(road: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "theater_tcp.guest")
    telling = guest(
        imports=["runtime#log"],
        allocate="(i32.add (i32.const 0x400) (i32.mul (local.get 3) (i32.const 16)))",
        exports=f"""
  (func (export "{CLIENT}#handle-connection-transfer") (param i32 i32) (result i32) (i32.const 0x100))
  (func (export "{CLIENT}#on-close") (param i32 i32 i32 i32) (result i32)
    (call $runtime#log (i32.const 1) (local.get 2) (local.get 3)) (i32.const 0x100))""",
    )
    with GuestStage() as stage:
        server = stage.spawn(road, telling, name="told")
        giver = stage.owner("loop")
        connection, _peer = giver.meet(mode="passive")
        giver.call(connection.transfer, server)
        giver.call(lambda: None)
        stage.pass_turns()
        in_time(lambda: stage.theater.shutdown(0))
    assert [record.getMessage() for record in caplog.records if "told: " in record.getMessage()] == ["told: shutdown"]


ANSWERS = """
  (call $tcp#receive (local.get 0) (local.get 1) (i32.const 100) (i32.const 0x200))
  (if (i32.eqz (i32.load (i32.const 0x208))) (then
    (call $tcp#close (local.get 0) (local.get 1) (i32.const 0x200))
    (return (i32.const 0x100))))
  (call $tcp#send (local.get 0) (local.get 1)
    (i32.load (i32.const 0x204)) (i32.load (i32.const 0x208)) (i32.const 0x210))"""
"""Sends back what a ``receive`` gives, the text of an error too; closes at the end of the stream."""


def answering(begins: str) -> bytes:
    """A guest that answers in a loop, or each time that ``on-data`` tells it to, after it has sent that back."""
    return guest(
        imports=["tcp#activate", "tcp#set-active", "tcp#receive", "tcp#send", "tcp#close"],
        more='(data (i32.const 0x300) "active") (data (i32.const 0x310) "passive")',
        allocate="(i32.add (i32.const 0x1000) (i32.and (local.get 3) (i32.const 0x3f)))",
        exports=f"""
  (func (export "{CLIENT}#handle-connection") (param i32 i32) (result i32)
    (call $tcp#activate (local.get 0) (local.get 1) (i32.const 0x200)) {begins}
    (i32.const 0x100))
  (func $mode (param i32 i32 i32 i32)
    (call $tcp#set-active (local.get 0) (local.get 1) (local.get 2) (local.get 3) (i32.const 0x220)))
  (func (export "{CLIENT}#on-data") (param i32 i32 i32 i32) (result i32)
    (call $mode (local.get 0) (local.get 1) (i32.const 0x310) (i32.const 7))
    (call $tcp#send (local.get 0) (local.get 1) (local.get 2) (local.get 3) (i32.const 0x210)) {ANSWERS}
    (call $mode (local.get 0) (local.get 1) (i32.const 0x300) (i32.const 6))
    (i32.const 0x100))""",
    )


def test_when_the_runtime_goes_down_the_receive_that_waits_or_else_the_next_is_shutdown_and_no_other(road: str) -> None:
    in_a_loop = answering(f"(loop $again {ANSWERS} (br $again))")
    when_told = answering("(call $mode (local.get 0) (local.get 1) (i32.const 0x300) (i32.const 6))")
    with GuestStage(stage_settings(drain_timeout=TIMEOUT)) as stage:
        servers = [stage.spawn(road, content, per_connection=True) for content in (in_a_loop, when_told)]
        waiting, active = peers = [
            stage.dial(stage.theater.listen_for(server, "127.0.0.1:0").address) for server in servers
        ]

        def answer(peer: socket.socket, line: bytes, answer: bytes) -> None:
            peer.sendall(line)
            assert receive_exactly(peer, len(answer)) == answer

        answer(waiting, b"before", b"before")
        answer(active, b"receive: ", b"receive: ")
        answer(active, b"before", b"before")
        down = stage.in_background(stage.theater.shutdown)
        answer(waiting, b"", b"shutdown")
        answer(waiting, b"after", b"after")
        answer(active, b"receive: ", b"receive: shutdown")
        answer(active, b"receive: ", b"receive: ")
        answer(active, b"after", b"after")
        for peer in peers:
            peer.shutdown(socket.SHUT_WR)
            assert end_of(peer) == b""
        down()


def test_stopping_all_actors_ends_guests_that_wait_and_guests_that_idle(stage: GuestStage, road: str) -> None:
    address = serve(stage, road)
    peers = [stage.dial(address) for _ in range(4)]
    for peer in peers:
        ask(peer)
    for peer in peers[:2]:
        peer.sendall(b"w\n")
    stage.pass_turns()
    in_time(pykka.ActorRegistry.stop_all)
    for peer in peers:
        assert end_of(peer) == b""
    assert living() == 0


def test_the_end_of_a_guests_actor_closes_its_connections_and_no_one_elses(stage: GuestStage, road: str) -> None:
    ending, other = stage.guest(road), stage.guest(road)
    connection, peer = ending.meet(mode="active")
    spared, spared_peer = other.meet(mode="active")
    assert ending.ref.stop(timeout=TIMEOUT)
    assert end_of(peer) == b""
    other.call(spared.send, b"spared")
    assert receive_exactly(spared_peer, 6) == b"spared"
    assert connection.id != spared.id


def test_thousands_of_lives_leave_nothing_behind(stage: GuestStage, quiet: None) -> None:
    program = stage.load("core", SERVICE)

    def live(count: int) -> None:
        for _ in range(count):
            stage.theater.spawn_guest(program).stop(block=False)
        stage.pass_turns()

    live(500)
    stage.until(lambda: living() == 0)
    before = resident(), maps(), descriptors()
    live(2500)
    stage.until(lambda: living() == 0)
    after = resident(), maps(), descriptors()
    assert after[0] - before[0] < 4 << 20, "memory grows"
    assert after[1] - before[1] < 50, "memory maps are left"
    assert after[2] - before[2] < 5, "descriptors are left"


def test_a_thousand_connections_served_by_guests_leave_nothing_behind(stage: GuestStage, quiet: None) -> None:
    address = serve(stage, "core")

    def visit(count: int) -> None:
        for _ in range(count):
            with dial(address) as peer:
                assert ask(peer) == b"\1"
                peer.sendall(b"w\n")  # half of them are cut while their guest is suspended

    visit(200)
    stage.until(lambda: stage.theater.metrics().connections == 0)
    before = resident(), maps(), descriptors()
    visit(1000)
    stage.until(lambda: stage.theater.metrics().connections == 0)
    stage.until(lambda: living() == 0)
    after = resident(), maps(), descriptors()
    assert after[0] - before[0] < 4 << 20, "memory grows"
    assert after[1] - before[1] < 50, "memory maps are left"
    assert after[2] - before[2] < 5, "descriptors are left"


@pytest.mark.parametrize("road", ROADS[1:])
def test_connections_served_by_the_other_roads_leave_nothing_behind_either(
    stage: GuestStage, road: str, quiet: None
) -> None:
    address = serve(stage, road)

    def visit(count: int) -> None:
        for _ in range(count):
            with dial(address) as peer:
                assert ask(peer) == b"\1"
                peer.sendall(b"w\n")
        stage.until(lambda: stage.theater.metrics().connections == 0)
        stage.until(lambda: living() == 0)

    visit(30)
    before = maps(), descriptors()
    visit(200)
    assert maps() - before[0] < 100, "memory maps are left"
    assert descriptors() - before[1] < 5, "descriptors are left"


def test_guests_that_are_stopped_while_they_wait_leave_nothing_behind(
    stage: GuestStage, road: str, quiet: None
) -> None:
    program = stage.load(road, SERVICE)

    def stop(count: int) -> None:
        for _ in range(count):
            ref = stage.theater.spawn_guest(program)
            peer = handed_over(stage, ref.actor_urn)
            assert ask(peer) == b"\1"
            peer.sendall(b"w\n")
            stage.pass_turns()
            assert ref.stop(timeout=TIMEOUT)
            assert end_of(peer) == b""
            peer.close()
        stage.until(lambda: living() == 0)

    stop(10)
    before = maps()
    stop(60)
    assert maps() - before < 50, "memory maps are left"


def test_no_guest_is_compiled_when_the_runtime_has_ended_or_on_its_loop(stage: GuestStage) -> None:
    with pytest.raises(BlockingCall, match="compiled on another thread"):
        stage.owner("loop").act(lambda _: stage.theater.load_guest(SERVICE))
    stage.theater.load_guest(SERVICE)
    in_time(lambda: stage.theater.shutdown(0))
    with pytest.raises(ShutDown):
        stage.theater.load_guest(SERVICE)


def test_a_theater_without_guests_loads_no_wasmtime() -> None:
    code = "import sys, theater_tcp\nwith theater_tcp.Theater(): pass\nassert 'wasmtime' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env=environment())


def test_theaters_with_guests_leave_no_threads_and_no_descriptors(road: str) -> None:
    def once() -> None:
        with Theater(stage_settings()) as theater:
            theater.spawn_guest(roads.load(theater, road, SERVICE))

    for _ in range(3):
        once()
    gc.collect()
    before = threading.active_count(), descriptors()
    for _ in range(10):
        once()
    gc.collect()
    assert threading.active_count() == before[0]
    assert descriptors() - before[1] < 5


@pytest.mark.parametrize("road", ROADS)
def test_nothing_of_wasmtime_is_left_to_the_garbage_collector_when_a_runtime_has_ended(road: str) -> None:
    from wasmtime._managed import Managed  # noqa: PLC0415

    def held() -> set[str]:
        return {f"{type(each).__name__} {id(each):#x}" for each in gc.get_objects() if isinstance(each, Managed)}

    gc.collect()
    gc.disable()
    try:
        before = held()
        with GuestStage() as stage:
            stage.foresee_guest_errors()
            peer = stage.dial(serve(stage, road, pool=1))
            assert ask(peer) == b"\1"
            trapping = stage.dial(serve(stage, road))
            trapping.sendall(b"t\n")
            assert end_of(trapping) == b""
            stage.foresee_callback_failures()
            peer.close()
            trapping.close()
        del stage
        assert not held() - before
    finally:
        gc.enable()
