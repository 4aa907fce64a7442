"""What a guest is passed and what it sends on the short ways, where those could go wrong: in the middle of a yield, in
another order, with more than there is room for. By whichever road, a guest gets its own data and its peer gets all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.guests.wat_guests import CLIENT, guest
from tests.peers import dial, receive_exactly, receive_to_end

if TYPE_CHECKING:
    from tests.guests.puppets import GuestStage

SLOWLY = """
  (local.set 0 (i32.const 12000000))
  (loop $again (br_if $again (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))"""
"""As the beginning of ``cabi_realloc``: it takes longer than a guest may run at a stretch."""

ALLOCATE = """
  (if (i32.gt_u (global.get $top) (i32.const 0x60000)) (then (global.set $top (i32.const 0x2000)))) (; not the id ;)
  (local.set 0 (global.get $top))
  (global.set $top (i32.add (local.get 0) (local.get 3)))
  (local.get 0)"""
MEMORY = '(memory (export "memory") 16)'
TOP = '(global $top (mut i32) (i32.const 0x1000)) (data (i32.const 0x20) "active")'
OPEN = f"""
  (func (export "{CLIENT}#handle-connection") (param i32 i32) (result i32)
    (if (i32.eqz (i32.load8_u (i32.const 0x300))) (then
      (memory.copy (i32.const 0x300) (local.get 0) (local.get 1)))) (; the first one's id is kept ;)
    (call $tcp#activate (local.get 0) (local.get 1) (i32.const 0x40))
    (call $tcp#set-active (local.get 0) (local.get 1) (i32.const 0x20) (i32.const 6) (i32.const 0x40))
    (i32.const 0x100))"""
SEND = "(call $tcp#send (local.get 0) (local.get 1) (local.get 2) (local.get 3) (i32.const 0x40))"


def on_data(body: str, before: str = "", imports: tuple[str, ...] = ()) -> bytes:
    """A guest that does this with data: the id is in the locals 0 and 1, the data in 2 and 3."""
    return guest(
        imports=["tcp#send", "tcp#activate", "tcp#set-active", *imports],
        memory=MEMORY,
        more=TOP,
        allocate=before + ALLOCATE,
        exports=f'{OPEN}\n  (func (export "{CLIENT}#on-data") (param i32 i32 i32 i32) (result i32)\n    {body}\n'
        "    (i32.const 0x100))",
    )


def in_a_loop(most: int, before: str = "") -> bytes:
    """A guest that sends back what it receives, so many bytes at a time."""
    return guest(
        imports=["tcp#send", "tcp#activate", "tcp#receive"],
        memory=MEMORY,
        more=TOP,
        allocate=before + ALLOCATE,
        exports=f"""
  (func (export "{CLIENT}#handle-connection") (param i32 i32) (result i32)
    (call $tcp#activate (local.get 0) (local.get 1) (i32.const 0x40))
    (loop $next
      (call $tcp#receive (local.get 0) (local.get 1) (i32.const {most}) (i32.const 0x60))
      (if (i32.and (i32.eqz (i32.load8_u (i32.const 0x60))) (i32.ne (i32.const 0) (i32.load (i32.const 0x68)))) (then
        (call $tcp#send
          (local.get 0) (local.get 1) (i32.load (i32.const 0x64)) (i32.load (i32.const 0x68)) (i32.const 0x40))
        (br $next))))
    (i32.const 0x100))""",
    )


SLOW = {"by on-data": on_data(SEND, SLOWLY), "by receive": in_a_loop(100_000, SLOWLY)}


@pytest.mark.parametrize("way", SLOW)
def test_a_guest_that_yields_while_it_makes_room_gets_its_own_data_and_no_other_guests(
    stage: GuestStage, road: str, way: str
) -> None:
    guests = [stage.spawn(road, SLOW[way]) for _ in range(3)]
    peers = [dial(stage.theater.listen_for(each, "127.0.0.1:0").address) for each in guests]
    for turn in range(4):
        messages = [bytes((ord("a") + number,)) * (700 * turn + 100 * number + 1) for number in range(len(peers))]
        for peer, message in zip(peers, messages, strict=True):
            peer.sendall(message)
        for peer, message in zip(peers, messages, strict=True):
            assert receive_exactly(peer, len(message)) == message
    for peer in peers:
        peer.close()


def test_what_a_guest_sends_in_one_call_goes_out_in_its_order_and_before_the_end(stage: GuestStage, road: str) -> None:
    half_close = "(call $tcp-ext#shutdown-write (local.get 0) (local.get 1) (i32.const 0x40))"
    large = "(call $tcp#send (local.get 0) (local.get 1) (i32.const 0x1000) (i32.const 70000) (i32.const 0x40))"
    body = f"{SEND} {SEND} (i32.store8 (local.get 2) (i32.const 0x21)) {SEND} {large} {SEND} {half_close}"
    theirs = stage.spawn(road, on_data(body, imports=("tcp-ext#shutdown-write",)))
    with dial(stage.theater.listen_for(theirs, "127.0.0.1:0").address) as peer:
        peer.sendall(b"go on")
        got = receive_exactly(peer, 4 * 5 + 70_000)
        assert got[:15] == b"go ongo on!o on"
        assert got[-5:] == b"!o on"
        assert peer.recv(1) == b""


def test_what_a_guest_sends_over_another_connection_goes_there(stage: GuestStage, road: str) -> None:
    to_the_first = "(call $tcp#send (i32.const 0x300) (local.get 1) (local.get 2) (local.get 3) (i32.const 0x40))"
    theirs = stage.spawn(road, on_data(f"{SEND} {to_the_first} {SEND}"))
    address = stage.theater.listen_for(theirs, "127.0.0.1:0").address
    with dial(address) as first, dial(address) as second:
        first.sendall(b"mine ")
        assert receive_exactly(first, 15) == b"mine mine mine "
        second.sendall(b"theirs ")
        assert receive_exactly(second, 14) == b"theirs theirs "
        first.sendall(b"mine ")
        assert receive_exactly(first, 22) == b"theirs mine mine mine "


def test_a_guest_may_send_more_in_one_call_than_is_gathered(stage: GuestStage, road: str) -> None:
    theirs = stage.spawn(road, on_data(f"{SEND} (i32.store8 (local.get 2) (i32.const 0x21))" + 40 * SEND))
    with dial(stage.theater.listen_for(theirs, "127.0.0.1:0").address) as peer:
        message = b"m" * 4000
        peer.sendall(message)
        first = receive_exactly(peer, 4000)
        assert first == message
        assert receive_exactly(peer, 40 * 4000) == 40 * (b"!" + message[1:])


@pytest.mark.parametrize("most", [1, 1000, 16_384, 16_385, 300_000])
def test_a_guest_receives_a_long_stream_in_pieces_of_any_size(stage: GuestStage, road: str, most: int) -> None:
    theirs = stage.spawn(road, in_a_loop(most))
    sent = bytes(range(256)) * (8 if most == 1 else 2000)
    with dial(stage.theater.listen_for(theirs, "127.0.0.1:0").address) as peer:
        sender = stage.in_background(lambda: peer.sendall(sent))
        assert receive_exactly(peer, len(sent)) == sent
        sender()


@pytest.mark.parametrize("road", ["core", "threads"])  # by the other one wasmtime looks at that place afterwards
@pytest.mark.parametrize(
    "wrong",
    [
        SEND.replace("0x40", "0x44"),  # the result has 8 bytes in it
        SEND.replace("0x40", "0xffff8"),
        SEND.replace("0x40", "-16"),
        SEND.replace("(local.get 2)", "(i32.const 0xfffff)"),
        SEND.replace("(local.get 0)", "(i32.const 0xffff0)"),
    ],
)
def test_a_send_with_a_place_that_is_none_sends_nothing_and_ends_the_guest(
    stage: GuestStage, road: str, wrong: str
) -> None:
    stage.foresee_callback_failures()
    theirs = stage.spawn(road, on_data(f"{SEND} {wrong}"))
    with dial(stage.theater.listen_for(theirs, "127.0.0.1:0").address) as peer:
        peer.sendall(b"once")
        assert receive_to_end(peer) == b"once"
    assert stage.theater.metrics().guest_traps == 1
