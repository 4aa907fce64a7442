"""Guests that do what no compiler makes them do: a hostile ``cabi_realloc``, hostile post-return functions and results.

Whatever they do, the process goes on, only that guest ends, and the others are served.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import pytest

from tests.guests.puppets import Gone, GuestOwner, GuestStage
from tests.guests.wat_guests import (
    CLIENT,
    HEAP,
    HOSTILE_ARGUMENTS,
    OUT_OF_BOUNDS,
    RET,
    USER,
    Post,
    Realloc,
    Word,
    call_frame,
    guest,
    script,
    write_frame,
)
from tests.peers import dial, receive_exactly
from tests.support import Echo
from theater_tcp.errors import CallbackFailed, LimitReached, TheaterError
from theater_tcp.guest_settings import Limits

if TYPE_CHECKING:
    from collections.abc import Iterator

MEMORY_END = 2 << 16


def word(at: Word, value: int) -> bytes:
    return write_frame(at, struct.pack("<I", value))


@pytest.fixture
def canary(stage: GuestStage, road: str) -> Iterator[GuestOwner]:
    """A guest that is there before, and is as well afterwards; and so is an actor of Python."""
    address = stage.theater.listen_for(stage.theater.spawn(Echo), "127.0.0.1:0").address
    canary = stage.guest(road)
    yield canary
    assert canary.calls("runtime#self") == canary.ref.actor_urn
    with dial(address) as peer:
        peer.sendall(b"sings")
        assert receive_exactly(peer, 5) == b"sings"


CELLS: dict[str, tuple[int, int]] = {
    "out of bounds": (Realloc.GIVE_VALUE, OUT_OF_BOUNDS),
    "its end out of bounds": (Realloc.GIVE_VALUE, MEMORY_END - 1),
    "at the very end": (Realloc.GIVE_VALUE, MEMORY_END),
    "minus one": (Realloc.GIVE_VALUE, 0xFFFF_FFFF),
    "traps": (Realloc.TRAP, 0),
    "calls an import": (Realloc.CALL_IMPORT, 0),
    "calls an import that waits": (Realloc.BLOCK, 0),
    "loops": (Realloc.LOOP, 0),
    "recurses": (Realloc.RECURSE, 0),
}
HARMLESS: dict[str, tuple[int, int]] = {
    "address 0": (Realloc.GIVE_VALUE, 0),
    "where the result goes": (Realloc.GIVE_VALUE, RET),
    "over its own code's data": (Realloc.GIVE_VALUE, 0x40),
    "grows the memory first": (Realloc.GROW_FIRST, 3),
    "can't grow the memory": (Realloc.GROW_FIRST, 0xFFFF),
    "not aligned": (Realloc.UNALIGNED, 0),
}
"""What may or may not be noticed: nothing that matters to the host is wrong."""


@pytest.mark.parametrize("case", CELLS)
@pytest.mark.parametrize("call", ["runtime#self", "tcp#connect", "tcp#close", "tcp#receive"])
@pytest.mark.usefixtures("canary")
def test_a_hostile_cabi_realloc_for_a_result_ends_the_guest(stage: GuestStage, road: str, case: str, call: str) -> None:
    mode, value = CELLS[case]
    words = (RET,) if call == "runtime#self" else (USER, 3, *((7,) if call == "tcp#receive" else ()), RET)
    config = script(word(Word.REALLOC_VALUE, value), word(Word.REALLOC, mode), call_frame(call, *words))
    with pytest.raises(TheaterError, match="init") as caught:
        stage.theater.spawn_guest(stage.program(road), config, limits=Limits(cpu=0.1), permissions=None)
    assert isinstance(caught.value, (CallbackFailed, LimitReached))
    assert stage.theater.metrics().guest_traps == 1


@pytest.mark.parametrize("case", HARMLESS)
@pytest.mark.usefixtures("canary")
def test_an_odd_cabi_realloc_harms_nobody_but_its_guest(stage: GuestStage, road: str, case: str) -> None:
    mode, value = HARMLESS[case]
    for call, words in (("runtime#self", (RET,)), ("tcp#close", (USER, 3, RET)), ("tcp#receive", (USER, 3, 7, RET))):
        config = script(word(Word.REALLOC_VALUE, value), word(Word.REALLOC, mode), call_frame(call, *words))
        try:
            stage.theater.spawn_guest(
                stage.program(road), config, limits=Limits(cpu=0.1, memory=1 << 20), permissions=None
            )
        except (CallbackFailed, LimitReached) as error:
            if not str(error).isprintable():
                raise


@pytest.mark.parametrize("case", CELLS)
@pytest.mark.parametrize("skip", [0, 1])
@pytest.mark.usefixtures("canary")
def test_a_hostile_cabi_realloc_for_arguments_ends_the_guest(
    stage: GuestStage, road: str, case: str, skip: int
) -> None:
    stage.foresee_callback_failures()
    mode, value = CELLS[case]
    victim = stage.guest(road, limits=Limits(cpu=0.1))
    _connection, peer = victim.meet(mode="active")

    def turn_hostile(_actor: Any) -> None:
        victim.set_word(Word.REALLOC_VALUE, value)
        victim.set_word(Word.REALLOC_SKIP, skip + 2)  # the next frame and the one that lets it return come before
        victim.set_word(Word.REALLOC, mode)

    try:
        victim.act(turn_hostile)
        peer.sendall(b"data for on-data")
    except (Gone, OSError):
        pass
    victim.ends()
    assert stage.theater.metrics().guest_traps == 1


POSTS = {
    "traps": Post.TRAP,
    "calls an import": Post.CALL_IMPORT,
    "calls an import that waits": Post.BLOCK,
    "loops": Post.LOOP,
    "recurses": Post.RECURSE,
}


@pytest.mark.parametrize("case", POSTS)
@pytest.mark.usefixtures("canary")
def test_a_hostile_post_return_ends_the_guest_when_it_is_entered_again_at_the_latest(
    stage: GuestStage, road: str, case: str
) -> None:
    stage.foresee_callback_failures()
    victim = stage.guest(road, limits=Limits(cpu=0.1))
    connection, peer = victim.meet(mode="active")
    try:
        victim.call(victim.set_word, Word.POST, POSTS[case])
        peer.sendall(b"once")
        peer.sendall(b"more")
    except (Gone, OSError):
        pass
    victim.ends()
    assert stage.theater.metrics().guest_traps == 1
    assert connection.id


def test_a_post_return_that_calls_its_host_ends_the_guest(stage: GuestStage, road: str) -> None:
    stage.foresee_callback_failures()
    victim = stage.guest(road)
    _connection, peer = victim.meet(mode="active")
    try:
        victim.call(victim.set_word, Word.POST, Post.CALL_IMPORT)
        peer.sendall(b"once")
        peer.sendall(b"more")
    except (Gone, OSError):
        pass
    victim.ends()
    assert stage.theater.metrics().guest_traps == 1


def test_a_post_return_is_called_once_for_each_call_that_returned_also_for_an_error(
    stage: GuestStage, road: str
) -> None:
    stage.foresee_callback_failures()
    counting = guest(
        imports=["tcp#activate", "tcp#set-active", "tcp#send"],
        more="""(data (i32.const 0x300) "active") (data (i32.const 0x500) "sorry")""",
        allocate="(i32.add (i32.const 0x1000) (i32.mul (i32.and (local.get 3) (i32.const 0x3f)) (i32.const 64)))",
        exports=f"""
  (func (export "{CLIENT}#handle-connection") (param i32 i32) (result i32)
    (call $tcp#activate (local.get 0) (local.get 1) (i32.const 0x200))
    (call $tcp#set-active (local.get 0) (local.get 1) (i32.const 0x300) (i32.const 6) (i32.const 0x200))
    (i32.const 0x100))
  (func (export "{CLIENT}#on-data") (param i32 i32 i32 i32) (result i32)
    (call $tcp#send (local.get 0) (local.get 1) (i32.const 0x400) (i32.const 1) (i32.const 0x200))
    (i32.store8 (i32.const 0x180) (i32.eq (i32.load8_u (local.get 2)) (i32.const 101)))
    (i32.store (i32.const 0x184) (i32.const 0x500))
    (i32.store (i32.const 0x188) (i32.const 5))
    (i32.const 0x180))
  (func (export "cabi_post_{CLIENT}#on-data") (param i32)
    (if (i32.ne (local.get 0) (i32.const 0x180)) (then unreachable))
    (i32.store8 (i32.const 0x400) (i32.add (i32.load8_u (i32.const 0x400)) (i32.const 1))))""",
    )
    address = stage.theater.listen_for(stage.spawn(road, counting), "127.0.0.1:0").address
    told = b""
    for word in (b"ok", b"error", b"ok", b"error", b"error", b"ok"):
        with dial(address) as peer:
            peer.sendall(word)
            told += receive_exactly(peer, 1)
    assert told == bytes(range(6))
    assert stage.theater.metrics().guest_traps == 0


def test_a_post_return_that_grows_the_memory_is_no_harm(stage: GuestStage, road: str, canary: GuestOwner) -> None:
    victim = stage.guest(road)
    connection, peer = victim.meet(mode="active")
    victim.call(victim.set_word, Word.POST, Post.GROW)
    for turn in range(20):
        peer.sendall(b"%d" % turn)
        victim.expect("on_data", b"%d" % turn)
    assert victim.calls("tcp#send", connection.id, b"well") == 4
    assert canary.ref.is_alive()


RESULTS: dict[str, tuple[bytes, int]] = {
    # what is at USER, and the address that is returned
    "out of bounds": (b"", OUT_OF_BOUNDS),
    "its end out of bounds": (b"", MEMORY_END - 4),
    "not aligned": (b"", USER + 2),
    "not aligned, and an error": (b"\0\0" + struct.pack("<III", 1, USER, 1), USER + 2),
    "a case that there is not": (struct.pack("<III", 2, 0, 0), USER),
    "a case of 255": (struct.pack("<III", 255, 0, 0), USER),
    "an error out of bounds": (struct.pack("<III", 1, OUT_OF_BOUNDS, 1), USER),
    "an error whose end is out of bounds": (struct.pack("<III", 1, HEAP, 0x7FFF_FFFF), USER),
    "an error of 4 GiB": (struct.pack("<III", 1, 0, 0xFFFF_FFFF), USER),
    "an error that goes around": (struct.pack("<III", 1, 0xFFFF_FFFF, 2), USER),
    "an error that is not UTF-8": (struct.pack("<III", 1, USER + 12, 4) + b"\xff\xfe\0\x80", USER),
}


@pytest.mark.parametrize("case", RESULTS)
@pytest.mark.parametrize("export", ["handle-connection", "on-data", "on-close"])
@pytest.mark.usefixtures("canary")
def test_a_hostile_result_of_an_export_ends_the_guest(stage: GuestStage, road: str, case: str, export: str) -> None:
    stage.foresee_callback_failures()
    content, address = RESULTS[case]
    victim = stage.guest(road, hold=[export])
    listener = victim.listen()
    peer = stage.dial(listener.address)
    if export != "handle-connection":
        connection = victim.expect("handle_connection").connection
        victim.call(connection.activate)
        victim.call(connection.set_active, "active")
        peer.sendall(b"x")
        if export == "on-close":
            victim.expect("on_data")
            peer.close()
    victim.expect(export.replace("-", "_"))
    if content:
        victim.write(USER, content)
    victim.returns_address(address)
    victim.ends()
    assert stage.theater.metrics().guest_traps == 1
    [line] = stage.guest_errors()
    assert export in line
    assert "Traceback" not in line


def test_an_error_with_any_text_is_one_line_wherever_it_is_told(
    stage: GuestStage, road: str, canary: GuestOwner
) -> None:
    stage.foresee_callback_failures()
    victim = stage.guest(road, hold=["on-data"])
    for text in ("", "\n", "two\nlines\x1b[2J", "\u202e", "ü" * 5000, "not-found: urn:uuid:x", "%s{}", "x" * 100_000):
        connection, peer = victim.meet(mode="active")
        peer.sendall(b"x")
        victim.expect("on_data")
        victim.returns_error(text)
        assert victim.expect("on_close").connection is connection
        assert victim.last_reason.startswith("callback: on-data")
        assert victim.last_reason.isprintable()
        assert len(victim.last_reason) < 12_000
    assert all(line.partition("\n")[0].isprintable() for _name, line in stage.log.lines)
    assert canary.ref.is_alive()
    assert stage.theater.metrics().guest_traps == 0


def test_what_the_host_wrote_goes_where_it_should_though_blocks_overlap(stage: GuestStage, road: str) -> None:
    victim = stage.guest(road)
    connection, peer = victim.meet(mode="passive")
    peer.sendall(b"A" * 64)

    def overlap(_actor: Any) -> tuple[int, bytes]:
        victim.write(USER, connection.id.encode())
        victim.set_word(Word.REALLOC_VALUE, USER)
        # the next frame and its data are allocated well, the block for what was received is not
        frame = call_frame("tcp#receive", USER, 45, 100, RET)
        victim.set_word(Word.REALLOC_SKIP, 2)
        victim.set_word(Word.REALLOC, Realloc.GIVE_VALUE)
        victim.control.tell(frame)
        return 0, b""

    try:
        victim.act(overlap)
    except (Gone, OSError):
        pass
    assert stage.theater.metrics().guest_traps <= 1


def test_the_words_for_hostile_calls_are_never_taken_for_others(stage: GuestStage, road: str) -> None:
    """A hostile ``cabi_realloc`` calls with words of its choice; none of them does anything."""
    other = stage.guest(road)
    connection, peer = other.meet(mode="passive")
    arguments = struct.pack("<5I", USER, 45, USER, 5, RET)
    config = script(
        write_frame(USER, connection.id.encode()),
        write_frame(HOSTILE_ARGUMENTS, arguments),
        word(Word.REALLOC, Realloc.CALL_IMPORT),
        call_frame("runtime#self", RET),
    )
    with pytest.raises(CallbackFailed):
        stage.theater.spawn_guest(stage.program(road), config, permissions=None)
    other.call(connection.send, b"only this")
    assert receive_exactly(peer, 9) == b"only this"
