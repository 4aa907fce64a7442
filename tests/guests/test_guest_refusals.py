"""What is refused, and well: one clear error, at most that guest ends, its connections close, and nothing is left."""

from __future__ import annotations

import os
import re
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from tests.guests.component_maker import component_of
from tests.guests.process import descriptors, maps, resident
from tests.guests.puppets import Gone, GuestOwner, GuestStage
from tests.guests.wat_guests import (
    ACTOR,
    CLIENT,
    OUT_OF_BOUNDS,
    RET,
    USER,
    call_frame,
    guest,
    puppet,
    script,
    wasm,
    write_frame,
)
from tests.peers import TIMEOUT, cut, receive_exactly, receive_to_end
from tests.support import Echo
from theater_tcp import Options, Theater
from theater_tcp.errors import CallbackFailed, InvalidArgument, LimitReached, NoSuchActor, TheaterError, by_kind
from theater_tcp.guest.calls import GuestCalls
from theater_tcp.guest_settings import Limits

if TYPE_CHECKING:
    from collections.abc import Callable

# -- before anything runs -------------------------------------------------------------------------------------------

NO_WASM = [b"", b"\0", b"\0asm", b"\0asm\1\0\0\0\xff", b"\0asm\2\0\0\0", b"\x7fELF" * 100, b"(module)", os.urandom(999)]


@pytest.mark.parametrize("content", NO_WASM, ids=range(len(NO_WASM)))
def test_a_file_that_is_no_webassembly_is_refused_in_one_line_that_names_it(
    stage: GuestStage, tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "guest.wasm"
    file.write_bytes(content)
    with pytest.raises(InvalidArgument) as caught:
        stage.theater.load_guest(file)
    text = str(caught.value)
    assert text.startswith(f"invalid: {file}: ")
    assert text.isprintable()
    assert len(text) < 500


def test_a_file_that_is_not_there_or_no_file_is_refused_and_named(stage: GuestStage, tmp_path: Path) -> None:
    for path in (tmp_path / "missing.wasm", tmp_path, tmp_path / "guest.wasm" / "below"):
        with pytest.raises(InvalidArgument, match=re.escape(str(path))):
            stage.theater.spawn_guest(path)


def test_a_module_that_is_cut_off_anywhere_is_refused(stage: GuestStage) -> None:
    whole = guest(imports=["tcp#send", "runtime#self"])
    for size in range(0, len(whole), 7):
        with pytest.raises(InvalidArgument):
            stage.theater.load_guest(whole[:size])


def test_a_module_with_a_flipped_byte_is_refused_or_is_a_guest(stage: GuestStage) -> None:
    whole = guest(imports=["tcp#send", "runtime#self"])
    for place in range(8, len(whole), 5):
        changed = bytearray(whole)
        changed[place] ^= 0x55
        try:
            stage.theater.load_guest(bytes(changed))
        except InvalidArgument as error:
            if not str(error).isprintable():
                raise


WRONG_OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "a number for init": ({"config": 5}, "config: expected bytes, a text or a mapping, got int"),
    "a list for init": ({"config": [1]}, "config: expected bytes, a text or a mapping, got list"),
    "what JSON can't hold": ({"config": {"a": object()}}, "config: JSON has no object as '<object object at "),
    "no name": ({"name": ""}, "name: expected a name of at most 64 letters, digits, '.', '_' and '-', got ''"),
    "a name with a space": ({"name": "a b"}, "name: expected a name of at most 64 letters"),
    "an unknown grant": ({"grants": ["clok"]}, "grants: 'clok' is unknown (did you mean 'clock'?)"),
    "a text of grants": ({"grants": "clock"}, "grants: expected a list as [clock], got 'clock'"),
    "a mapping of limits": ({"limits": {}}, "limits: expected an instance of Limits, got {}"),
    "a number of limits": ({"limits": 0}, "limits: expected an instance of Limits, got 0"),
    "a number for a flag": ({"per_connection": 1}, "per_connection: expected true or false, got 1"),
    "a pool of one guest": ({"pool": 3}, "pool: is for a guest with per_connection: true"),
    "a negative pool": ({"pool": -1, "per_connection": True}, "pool: expected a whole number from 0 to 100000, got -1"),
    "never recycled": ({"recycle_after": 0}, "recycle_after: expected a whole number from 1 to 1000000, got 0"),
    "a mapping of permissions": ({"permissions": {}}, "permissions: expected an instance of Permissions or null, got "),
    "other settings": ({"settings": Options()}, "settings: expected an instance of Settings, got Options"),
    "no settings": ({"settings": False}, "settings: expected an instance of Settings, got bool"),
}


@pytest.mark.parametrize("name", WRONG_OPTIONS)
def test_a_wrong_option_of_a_guest_is_named_and_nothing_is_started(stage: GuestStage, name: str) -> None:
    options, reason = WRONG_OPTIONS[name]
    with pytest.raises(InvalidArgument) as caught:
        stage.theater.spawn_guest(guest(), **options)
    assert str(caught.value).startswith(f"invalid: {reason}")
    assert stage.theater.ownership.owners() == []


def test_a_name_is_one_living_actors(stage: GuestStage) -> None:
    first = stage.theater.spawn_guest(guest(), name="the-one")
    with pytest.raises(InvalidArgument, match="name: 'the-one' is another actor's"):
        stage.theater.spawn_guest(guest(), name="the-one")
    first.stop()
    second = stage.theater.spawn_guest(guest(), name="the-one")
    assert stage.theater.ownership.resolve("the-one").actor.actor_urn == second.actor_urn
    unnamed = [stage.theater.spawn_guest(guest()) for _ in range(2)]
    assert all(ref.is_alive() for ref in unnamed)
    second.stop()
    with pytest.raises(NoSuchActor, match="the-one"):
        stage.theater.ownership.resolve("the-one")
    assert not stage.theater.ownership._names  # or each name that there ever was would stay


def test_a_guest_of_another_theater_is_refused(stage: GuestStage) -> None:
    with Theater() as another:
        program = another.load_guest(guest())
        with pytest.raises(InvalidArgument, match="what load_guest of this Theater gave"):
            stage.theater.spawn_guest(program)
        assert another.spawn_guest(program).is_alive()


@pytest.mark.parametrize("thing", [5, None, bytearray(b"\0asm")])
def test_what_is_neither_a_path_nor_bytes_is_no_guest(stage: GuestStage, thing: Any) -> None:
    for call in (stage.theater.load_guest, stage.theater.spawn_guest):
        with pytest.raises(InvalidArgument, match="a guest is a path, bytes, or what load_guest"):
            call(thing)


def module(body: str) -> bytes:
    return wasm(f"(module {body})")


MEMORY = '(memory (export "memory") 1)'
REALLOC = '(func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0x400))'
INIT = f'(func (export "{ACTOR}#init") (param i32 i32) (result i32) (i32.const 0x100))'
WHOLE = MEMORY + REALLOC + INIT
TWO = "(param i32 i32) (result i32)"

REFUSED: dict[str, tuple[str, str]] = {
    # the module, and what has to be named
    "wasi": (
        '(import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))' + WHOLE,
        "wasi",
    ),
    "env": ('(import "env" "puts" (func))' + WHOLE, "env"),
    "a function that there is not": ('(import "theater:simple/tcp" "steal" (func))' + WHOLE, "steal"),
    "an interface that there is not": ('(import "theater:simple/files" "open" (func))' + WHOLE, "theater:simple/files"),
    "another version": ('(import "theater:simple/tcp@9.0.0" "close" (func))' + WHOLE, "theater:simple/tcp@9.0.0"),
    "the host's own module": (
        '(import "theater:host" "place" (func (param i32) (result i64)))' + WHOLE,
        "theater:host",
    ),
    "the clock": ('(import "theater:simple/clock" "now" (func (result i64)))' + WHOLE, "clock"),
    "an import of a wrong type": ('(import "theater:simple/tcp" "close" (func (param i32)))' + WHOLE, "close"),
    "an import that is no function": ('(import "theater:simple/tcp" "close" (global i32))' + WHOLE, "close"),
    "an imported memory": ('(import "env" "memory" (memory 1))' + REALLOC + INIT, "env"),
    "init of a wrong type": (
        MEMORY + REALLOC + f'(func (export "{ACTOR}#init") (param i32) (result i32) (i32.const 0))',
        f"{ACTOR}#init",
    ),
    "init without a result": (MEMORY + REALLOC + f'(func (export "{ACTOR}#init") (param i32 i32))', f"{ACTOR}#init"),
    "on-data of a wrong type": (
        WHOLE + f'(func (export "{CLIENT}#on-data") {TWO} (i32.const 0))',
        f"{CLIENT}#on-data",
    ),
    "on-close that is no function": (
        WHOLE + f'(global (export "{CLIENT}#on-close") i32 (i32.const 0))',
        f"{CLIENT}#on-close",
    ),
    "a post-return of a wrong type": (
        WHOLE + f'(func (export "cabi_post_{ACTOR}#init") {TWO} (i32.const 0))',
        f"cabi_post_{ACTOR}#init",
    ),
    "no init": (MEMORY + REALLOC, f"{ACTOR}#init"),
    "no memory": (REALLOC + INIT, "memory"),
    "no cabi_realloc": (MEMORY + INIT, "cabi_realloc"),
    "cabi_realloc of a wrong type": (
        MEMORY + INIT + f'(func (export "cabi_realloc") {TWO} (i32.const 0))',
        "cabi_realloc",
    ),
    "a memory that is a function": ('(func (export "memory"))' + REALLOC + INIT, "memory"),
    "a shared memory": ('(memory (export "memory") 1 1 shared)' + REALLOC + INIT, "shared memory"),
    "nothing": ("", "memory"),
    "_initialize of a wrong type": (WHOLE + '(func (export "_initialize") (param i32))', "_initialize"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_guest_that_imports_or_exports_what_it_should_not_is_refused_and_it_is_named(
    stage: GuestStage, case: str
) -> None:
    body, named = REFUSED[case]
    with pytest.raises(InvalidArgument, match=re.escape(named)) as caught:
        stage.theater.spawn_guest(module(body))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "case", [case for case in REFUSED if case.endswith("of a wrong type") and "import" not in case]
)
def test_a_component_is_refused_for_what_its_core_module_exports(stage: GuestStage, case: str) -> None:
    body, named = REFUSED[case]
    with pytest.raises(InvalidArgument, match=re.escape(named)) as caught:
        stage.theater.spawn_guest(component_of(module(body)))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "more", ["(tag $t) (func (throw $t))", "(type $s (struct (field i32))) (func (param (ref null $s)))"]
)
def test_what_no_limit_bounds_is_not_compiled(stage: GuestStage, road: str, more: str) -> None:
    with pytest.raises(InvalidArgument, match="can't be compiled"):
        stage.load(road, guest(more=more))


def test_a_memory_of_64_bit_addresses_is_not_compiled(stage: GuestStage) -> None:
    with pytest.raises(InvalidArgument, match="can't be compiled"):
        stage.theater.load_guest(guest(memory='(memory (export "memory") i64 1)'))


def test_a_grant_that_there_is_not_is_refused_and_named(stage: GuestStage) -> None:
    with pytest.raises(InvalidArgument, match="files"):
        stage.theater.load_guest(guest(), grants=["files"])


# -- while it runs --------------------------------------------------------------------------------------------------

BAD_CALLS: dict[str, tuple[bytes, ...]] = {
    "a text out of bounds": (call_frame("tcp#close", OUT_OF_BOUNDS, 45, RET),),
    "a text whose end is out of bounds": (call_frame("tcp#close", 0x1FFF0, 45, RET),),
    "a text that goes around": (call_frame("tcp#close", 0x1000, 0xFFFF_FFFF, RET),),
    "a text of 4 GiB": (call_frame("tcp#close", 0, 0xFFFF_FFFF, RET),),
    "data out of bounds": (call_frame("tcp#send", USER, 0, OUT_OF_BOUNDS, 5, RET),),
    "data of 4 GiB": (call_frame("tcp#send", USER, 0, 0, 0xFFFF_FFFF, RET),),
    "a result out of bounds": (call_frame("tcp#close", USER, 1, OUT_OF_BOUNDS),),
    "a result whose end is out of bounds": (call_frame("tcp#close", USER, 1, 0x1FFFC),),
    "a result that is not aligned": (call_frame("tcp#close", USER, 1, RET + 2),),
    "a result of receive that is not aligned": (call_frame("tcp#receive", USER, 1, 5, RET + 1),),
    "a result of send that is not aligned to 8 bytes": (call_frame("tcp#send", USER, 1, USER, 1, RET + 4),),
    "a result of send whose end is out of bounds": (call_frame("tcp#send", USER, 1, USER, 1, 0x1FFF8),),
    "an id whose end is out of bounds": (call_frame("tcp#send", 0x1FFF0, 45, USER, 1, RET),),
    "a result of self out of bounds": (call_frame("runtime#self", OUT_OF_BOUNDS),),
    "a text that is not UTF-8": (write_frame(USER, b"\xff\xfe\xfd"), call_frame("tcp#close", USER, 3, RET)),
    "a text with a surrogate": (write_frame(USER, b"\xed\xa0\x80"), call_frame("tcp#connect", USER, 3, RET)),
    "a text that is cut off": (write_frame(USER, b"\xc3"), call_frame("tcp#receive", USER, 1, 5, RET)),
    "an overlong text": (write_frame(USER, b"\xc0\x80"), call_frame("runtime#log", 0, USER, 2)),
    "a level that there is not": (call_frame("runtime#log", 4, USER, 1),),
    "a level far away": (call_frame("runtime#log", 0xFFFF_FFFF, USER, 1),),
    "unreachable": (b"T\0\0\0\0",),
    "a division by zero": (b"0\0\0\0\0",),
    "its own memory out of bounds": (b"M\xf0\xff\xff\xff",),
    "a call of nothing": (b"I\0\0\0\0",),
    "a call out of its table": (b"I\xff\xff\0\0",),
    "endless recursion": (b"D\0\0\0\0",),
    "a result of init out of bounds": (struct.pack("<cI", b"P", OUT_OF_BOUNDS),),
    "a result of init that is not aligned": (struct.pack("<cI", b"P", USER + 1),),
    "a result of init of a case that there is not": (
        write_frame(USER, struct.pack("<III", 7, 0, 0)),
        struct.pack("<cI", b"P", USER),
    ),
    "an error out of bounds": (
        write_frame(USER, struct.pack("<III", 1, OUT_OF_BOUNDS, 5)),
        struct.pack("<cI", b"P", USER),
    ),
    "an error of 4 GiB": (
        write_frame(USER, struct.pack("<III", 1, 0, 0xFFFF_FFFF)),
        struct.pack("<cI", b"P", USER),
    ),
    "an error that is not UTF-8": (struct.pack("<cI", b"E", 3) + b"\xff\xfe\xfd",),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_a_guest_that_breaks_a_rule_in_init_does_not_start_and_the_reason_is_one_line(
    stage: GuestStage, road: str, case: str
) -> None:
    with pytest.raises((CallbackFailed, LimitReached)) as caught:
        stage.theater.spawn_guest(stage.program(road), script(*BAD_CALLS[case]), permissions=None)
    text = str(caught.value)
    assert "init" in text
    assert text.isprintable()
    assert "Traceback" not in text
    assert len(text) < 500
    assert stage.theater.metrics().guest_traps == 1
    assert len(stage.guest_errors()) == 1
    assert stage.theater.spawn_guest(stage.program(road)).is_alive()


def test_a_trap_in_init_is_told_and_counted_as_ever_where_initialize_took_longer_than_a_slice(
    stage: GuestStage, road: str
) -> None:
    count = """
      (local $left i32) (local.set $left (i32.const 50000000))
      (loop $again (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))"""
    for traps, body in enumerate(("", count), 1):
        begins = guest(more=f'(func (export "_initialize") {body})', init="unreachable")
        with pytest.raises(CallbackFailed, match=r"^callback: init: [^:]*unreachable[^:]*$") as caught:
            stage.spawn(road, begins)
        assert "init" not in str(caught.value).removeprefix("callback: init: ")  # the functions are for the log
        assert stage.theater.metrics().guest_traps == traps
        assert len(stage.guest_errors()) == traps


def test_a_guest_may_call_its_host_in_initialize_and_wait_there(stage: GuestStage, road: str) -> None:
    body = """
      (call $runtime#self (i32.const 0x200))
      (call $tcp#connect (i32.const 0x20) (i32.const 11) (i32.const 0x210))"""
    begins = guest(
        imports=["runtime#self", "tcp#connect"],
        more=f"""(data (i32.const 0x20) "127.0.0.1:1") (func (export "_initialize") {body})""",
        init="(if (i32.ne (i32.load8_u (i32.const 0x210)) (i32.const 1)) (then unreachable)) (i32.const 0x100)",
    )
    assert stage.spawn(road, begins, permissions=None).is_alive()
    assert stage.theater.metrics().guest_traps == 0


def test_an_error_of_init_is_what_the_spawner_hears_and_no_trap(stage: GuestStage, road: str) -> None:
    with pytest.raises(CallbackFailed, match=r"^callback: init: no room today$"):
        stage.theater.spawn_guest(
            stage.program(road), script(struct.pack("<cI", b"E", 13) + b"no room today"), permissions=None
        )
    with pytest.raises(CallbackFailed) as caught:
        stage.theater.spawn_guest(
            stage.program(road), script(struct.pack("<cI", b"E", 5000) + b"\n\x1b[1mlong!" * 500), permissions=None
        )
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 5000
    assert stage.theater.metrics().guest_traps == 0


def crowd(stage: GuestStage, owner: GuestOwner, count: int = 3) -> list[tuple[Any, socket.socket]]:
    """Connections of a guest in active mode, and their peers."""
    listener = owner.listen()
    met = []
    for _ in range(count):
        peer = stage.dial(listener.address)
        connection = owner.expect("handle_connection").connection
        owner.call(connection.activate)
        owner.call(connection.set_active, "active")
        met.append((connection, peer))
    return met


def end_of(peer: socket.socket) -> bytes:
    """What a peer still gets, whether its connection ends in order or is cut."""
    try:
        return receive_to_end(peer)
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize("how", [b"T", b"D", b"0", b"M", b"I"])
def test_contract_G3_a_trap_in_on_data_ends_that_guest_and_its_connections_and_no_one_elses(
    stage: GuestStage, road: str, how: bytes
) -> None:
    stage.foresee_callback_failures()
    echo = stage.theater.listen_for(stage.theater.spawn(Echo), "127.0.0.1:0").address
    victim, other = stage.guest(road, hold=["on-data"], name="victim"), stage.guest(road)
    its, others = crowd(stage, victim), crowd(stage, other)
    its[0][1].sendall(b"data")
    victim.expect("on_data", b"data")
    victim.traps(how)
    victim.ends()
    for _connection, peer in its:
        assert end_of(peer) == b""
    for connection, peer in others:
        peer.sendall(b"still")
        assert other.expect("on_data", b"still").connection is connection
        other.call(connection.send, b"here")
        assert receive_exactly(peer, 4) == b"here"
    with socket.create_connection(("127.0.0.1", int(echo.rpartition(":")[2])), TIMEOUT) as peer:
        peer.sendall(b"echo")
        assert receive_exactly(peer, 4) == b"echo"
    [line] = stage.guest_errors()
    assert "victim" in line
    assert "on-data" in line
    assert "Traceback" not in line
    assert stage.theater.metrics().guest_traps == 1
    stage.until(lambda: stage.theater.metrics().connections == len(others))


def test_contract_G3_no_call_enters_a_guest_that_has_trapped(stage: GuestStage, road: str) -> None:
    stage.foresee_callback_failures()
    victim = stage.guest(road, hold=["on-data"])
    (_, first), (_, second) = crowd(stage, victim, 2)
    first.sendall(b"data")
    victim.expect("on_data", b"data")
    second.sendall(b"waits in the mailbox")
    stage.pass_turns()
    victim.traps()
    victim.ends()
    assert victim.script.heard.empty()
    assert end_of(second) == b""
    assert stage.theater.metrics().guest_traps == 1


def test_contract_G3_a_mistake_of_the_host_ends_the_guest_too_and_its_actor_with_it(
    stage: GuestStage, road: str
) -> None:
    def fail(*_: Any) -> Any:
        raise ZeroDivisionError

    with mock.patch.object(GuestCalls, "self_id", fail):
        victim = stage.guest(road)
    other = stage.guest(road)
    its, others = crowd(stage, victim), crowd(stage, other)
    stage.foresee_callback_failures()
    with pytest.raises(Gone):
        victim.calls("runtime#self")
    victim.ends()
    for _connection, peer in its:
        assert end_of(peer) == b""
    for connection, peer in others:
        other.call(connection.send, b"here")
        assert receive_exactly(peer, 4) == b"here"
    assert stage.theater.metrics().guest_traps == 1


def test_contract_G7_a_trap_is_logged_with_the_names_of_its_functions_and_the_peer_gets_no_word(
    stage: GuestStage, road: str
) -> None:
    stage.foresee_callback_failures()
    victim = stage.guest(road, hold=["on-data"])
    [(_connection, peer)] = crowd(stage, victim, 1)
    peer.sendall(b"x")
    victim.expect("on_data")
    victim.traps()
    victim.ends()
    assert end_of(peer) == b""
    [line] = stage.guest_errors()
    assert "follow" in line
    assert "held" in line
    assert "unreachable" in line


def test_what_breaks_a_rule_of_the_host_is_logged_with_the_functions_that_led_there(
    stage: GuestStage, road: str
) -> None:
    outside = "(call $tcp#close (i32.const -16) (i32.const 45) (i32.const 0x200)) (i32.const 0x100)"
    with pytest.raises(CallbackFailed, match=r"outside|out of bounds"):
        stage.spawn(road, guest(imports=["tcp#close"], init=outside))
    [text] = stage.guest_errors()
    assert any(frame.endswith("!init") for frame in text.split("\n")[1:])


FORGED = r"\1b[2J\1b[31mERROR\e2\80\ae\c2\85\r\n   9:    0x0 - forged\n   ERROR forged"


def test_contract_G7_the_names_of_a_guests_functions_are_one_line_each_in_the_log(stage: GuestStage, road: str) -> None:
    content = guest(
        more=f"""(func $bad (@name "{FORGED}") unreachable)
          (func $long (@name "{"x" * 10_000}") (call $bad))""",
        init="(call $long) (i32.const 0x100)",
    )
    with pytest.raises(CallbackFailed):
        stage.spawn(road, content)
    [text] = stage.guest_errors()
    first, *frames = text.split("\n")
    assert "unreachable" in first
    assert all(line.isprintable() for line in (first, *frames))
    assert all(line.startswith("    ") and len(line) < 400 for line in frames)
    assert not any(line.strip().startswith(("forged", "ERROR")) for line in frames)
    assert any("x" * 200 in line for line in frames)
    assert any(r"\x1b[2J" in line for line in frames)


@pytest.mark.parametrize("export", ["handle-connection", "handle-connection-transfer", "on-data", "on-passive"])
def test_contract_G3_an_error_that_a_callback_returns_ends_that_connection_alone(
    stage: GuestStage, road: str, export: str
) -> None:
    stage.foresee_callback_failures()
    owner = stage.guest(road)
    (spared, spared_peer), *_ = crowd(stage, owner, 1)
    owner.call(owner.set_word, 0x50, 1 << ["init", "handle-connection", "handle-connection-transfer", "on-data",
                                           "on-passive", "on-close"].index(export))  # fmt: skip
    name = export.replace("-", "_")
    if export == "handle-connection-transfer":
        giver = stage.owner("loop")
        connection, peer = giver.meet(mode="passive")
        giver.call(connection.transfer, owner.ref)
    else:
        peer = stage.dial(owner.listen().address)
        if export != "handle-connection":
            connection = owner.expect("handle_connection").connection
            owner.call(connection.activate)
            owner.call(connection.set_active, 1 if export == "on-passive" else "active")
            peer.sendall(b"x")
            if export == "on-passive":
                owner.expect("on_data")
    failing = owner.expect(name).connection
    owner.returns_error("quota: not today")
    assert owner.expect("on_close").connection is failing
    assert owner.last_reason == f"callback: {export}: quota: not today"
    assert end_of(peer) == b""
    spared_peer.sendall(b"spared")
    while owner.expect(*["on_data"]).value != b"spared":
        pass
    assert owner.ref.is_alive()
    assert stage.theater.metrics().callback_failures == 1
    assert stage.theater.metrics().guest_traps == 0
    assert all("Traceback" not in line for _name, line in stage.log.lines)
    assert spared.id


def test_an_error_that_tells_of_the_connections_end_in_words_of_its_own_is_no_failure(
    stage: GuestStage, road: str
) -> None:
    def answer(_actor: Any, connection: Any, _data: bytes) -> None:
        cut(peer)
        connection.send(b"answer")
        raise by_kind["reset"]("before all was said")

    owner = stage.guest(road, hooks={"on_data": answer})
    _connection, peer = owner.meet(mode="active")
    peer.sendall(b"question")
    owner.expect("on_data", b"question")
    owner.expect("on_close", "reset")
    assert stage.theater.metrics().callback_failures == 0


def test_an_error_that_on_close_returns_is_logged_and_nothing_more(stage: GuestStage, road: str) -> None:
    stage.foresee_callback_failures()
    owner = stage.guest(road, hold=["on-close"])
    (_first, peer), (second, other_peer) = crowd(stage, owner, 2)
    peer.close()
    owner.expect("on_close", "eof")
    owner.returns_error("io: too late")
    other_peer.sendall(b"fine")
    assert owner.expect("on_data", b"fine").connection is second
    assert any("io: too late" in line for _name, line in stage.log.lines)


def test_a_suspended_guest_that_is_stopped_in_the_middle_of_its_call_leaves_nothing(
    stage: GuestStage, road: str
) -> None:
    owner = stage.guest(road)
    connection, peer = owner.meet(mode="passive")
    waiting = owner.begin(connection.receive, 10)
    assert owner.ref.stop(timeout=TIMEOUT)
    with pytest.raises(Gone):
        waiting.get(timeout=TIMEOUT)
    assert end_of(peer) == b""
    stage.until(lambda: stage.theater.metrics().connections == 0)
    assert stage.theater.metrics().guest_traps == 0
    assert not stage.guest_errors()


# -- ten thousand in a row ------------------------------------------------------------------------------------------


def test_ten_thousand_guests_that_are_refused_in_a_row_leave_nothing_behind(stage: GuestStage, quiet: None) -> None:
    program = stage.program("core")
    large = stage.load("core", guest(memory='(memory (export "memory") 32)'))
    configs = [script(*frames) for frames in BAD_CALLS.values()]
    configs.append(script(struct.pack("<cI", b"E", 13) + b"no room today"))
    configs.append(script(write_frame(0x40, b"\2"), call_frame("runtime#self", RET)))  # cabi_realloc traps
    small = Limits(memory=1 << 20)
    spawn = stage.theater.spawn_guest

    def refuse(number: int) -> None:
        case = number % (len(configs) + 2)
        try:
            if case < len(configs):
                spawn(program, configs[case])
            elif case == len(configs):
                spawn(large, limits=small)
            else:
                stage.theater.load_guest(b"\0asm\1\0\0\0" + number.to_bytes(4, "little"))
        except TheaterError:
            return
        raise AssertionError(f"case {case} was not refused")

    measured: list[Callable[[], int]] = [resident, maps, descriptors]
    for number in range(2000):
        refuse(number)
    before = [measure() for measure in measured]
    for number in range(8000):
        refuse(number)
    after = [measure() for measure in measured]
    assert after[0] - before[0] < 4 << 20, "memory grows"
    assert after[1] - before[1] < 50, "memory maps are left"
    assert after[2] - before[2] < 5, "descriptors are left"
    assert stage.theater.metrics().connections == 0


def test_guests_whose_start_function_traps_leave_nothing_behind(stage: GuestStage, road: str, quiet: None) -> None:
    program = stage.load(road, guest(more="(func $begin unreachable) (start $begin)"))

    def refuse(count: int) -> None:
        for _ in range(count):
            with pytest.raises(CallbackFailed, match="unreachable"):
                stage.theater.spawn_guest(program)
        stage.pass_turns()

    refuse(20)
    before = maps(), descriptors()
    refuse(200)
    assert maps() - before[0] < 50, "memory maps are left"
    assert descriptors() - before[1] < 5, "descriptors are left"


def test_a_thousand_connections_whose_guests_trap_leave_nothing_behind(stage: GuestStage, quiet: None) -> None:
    trapping = guest(
        imports=["tcp#set-active"],
        more='(data (i32.const 0x300) "active")',
        allocate="(i32.const 0x800)",
        exports=f"""
  (func (export "{CLIENT}#handle-connection-transfer") (param i32 i32) (result i32)
    (call $tcp#set-active (local.get 0) (local.get 1) (i32.const 0x300) (i32.const 6) (i32.const 0x200))
    (i32.const 0x100))
  (func (export "{CLIENT}#on-data") (param i32 i32 i32 i32) (result i32) unreachable)""",
    )
    server = stage.theater.spawn_guest(trapping, per_connection=True)
    address = stage.theater.listen_for(server, "127.0.0.1:0").address
    port = int(address.rpartition(":")[2])

    def serve(count: int) -> None:
        for _ in range(count):
            with socket.create_connection(("127.0.0.1", port), TIMEOUT) as peer:
                peer.sendall(b"x")
                assert end_of(peer) == b""

    serve(200)
    before = resident(), maps(), descriptors()
    serve(1000)
    stage.until(lambda: stage.theater.metrics().connections == 0)
    after = resident(), maps(), descriptors()
    assert stage.theater.metrics().guest_traps == 1200
    assert after[0] - before[0] < 4 << 20, "memory grows"
    assert after[1] - before[1] < 50, "memory maps are left"
    assert after[2] - before[2] < 5, "descriptors are left"


def test_the_puppet_is_a_guest_like_any_other(stage: GuestStage, road: str) -> None:
    assert stage.load(road, puppet()).exports >= {"on-data", "on-close"}
