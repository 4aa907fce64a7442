"""What is the component road's own: how a component is made, what it may use, and how it goes when something is wrong.

That it does what the interface promises is tested where every road is.
"""

from __future__ import annotations

import ctypes
import logging
import socket
from typing import TYPE_CHECKING, Any

import pytest
import wasmtime

from tests.guests.component_maker import SECOND_MODULE, component_of
from tests.guests.process import resident
from tests.guests.wat_guests import ACTOR, CLIENT, guest
from tests.peers import cut, dial, receive_exactly, receive_to_end
from theater_tcp import Theater
from theater_tcp.errors import CallbackFailed, InvalidArgument, LimitReached
from theater_tcp.guest import component_check
from theater_tcp.guest import wasmtime_internals as inner
from theater_tcp.guest.component_check import component_failure
from theater_tcp.guest.component_program import MAX_RECEIVED
from theater_tcp.guest.component_road import MAX_PASSED
from theater_tcp.guest.component_values import lifter, lowerer
from theater_tcp.guest.outcome import GuestTrap
from theater_tcp.guest.wit_types import BOOL, BYTES, STRING, U8, U32, U64, Enum, Err, List, Ok, Result, Tuple, WitType
from theater_tcp.guest_settings import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAGE = 1 << 16
OK = "(i32.const 0x100)"


@pytest.fixture
def theater() -> Iterator[Theater]:
    with Theater() as theater:
        yield theater


def component(*, encoding: str = "utf8", beside: str = SECOND_MODULE, **parts: Any) -> bytes:
    """A small guest as a component that has to take this road.

    Args:
        encoding: of its texts.
        beside: text of what else is in the component.
        parts: see :func:`tests.guests.wat_guests.guest`.
    """
    return component_of(guest(**parts), encoding, beside)


def fails(theater: Theater, content: Any, **options: Any) -> Exception:
    """What starting a guest raises."""
    with pytest.raises((CallbackFailed, LimitReached, InvalidArgument)) as failed:
        theater.spawn_guest(content, **options)
    return failed.value


def test_wasmtimes_inner_parts_are_as_they_are_known() -> None:
    assert component_failure() is None


def test_a_failure_of_the_self_test_names_the_version_and_what_failed() -> None:
    def fail() -> None:
        raise RuntimeError("no such thing")

    assert inner.tested(fail) == (
        f"the inner parts of wasmtime {inner.VERSION} are not as they are known: RuntimeError: no such thing"
    )


def polls(*answers: bool | None) -> Callable[[int], bool]:
    """In the place of ``poll``: what it says is true, but where an answer is given for it."""
    left, poll = list(answers), inner.poll

    def polled(future: int) -> bool:
        told, answer = bool(poll(future)), left.pop(0)
        return told if answer is None else answer

    return polled


@pytest.mark.parametrize(
    ("name", "changed", "failed"),
    [
        ("_missing", ["wasmtime_store_new"], "there is no wasmtime_store_new"),
        ("export_get", lambda *_: False, "an export is not found"),
        ("memory_size", lambda *_: 0, "a memory of 65536 bytes has another size"),
        ("poll", polls(True, None, None), "a suspended call does not go on as it should"),
        ("poll", polls(None, False, None), "a suspended call does not go on as it should"),
        ("poll", polls(None, None, True), "an endless guest does not yield"),
    ],
)
def test_what_is_otherwise_in_wasmtime_is_found_by_the_self_test(
    monkeypatch: pytest.MonkeyPatch, name: str, changed: Any, failed: str
) -> None:
    assert inner.tested(inner._self_test) is None
    monkeypatch.setattr(inner, name, changed)
    assert str(inner.tested(inner._self_test)).endswith(f"RuntimeError: {failed}")


@pytest.mark.parametrize(
    ("name", "changed", "failed"),
    [
        ("component_get_function", lambda *_: False, "an export of a component is not found"),
        ("poll", polls(None, True, None), "a suspended call of a component does not go on as it should"),
        ("poll", polls(None, None, False), "a suspended call of a component does not go on as it should"),
    ],
)
def test_what_is_otherwise_for_components_is_found_by_their_self_test(
    theater: Theater, monkeypatch: pytest.MonkeyPatch, name: str, changed: Any, failed: str
) -> None:
    monkeypatch.setattr(inner, name, changed)
    monkeypatch.setattr(component_check, "component_failure", component_failure.__wrapped__)
    told = str(fails(theater, component()))
    assert told.startswith("invalid: it has 2 core modules that do its work")
    assert told.endswith(f"RuntimeError: {failed}")


# -- which road -----------------------------------------------------------------------------------------------------


def test_a_component_of_several_modules_takes_it_and_one_of_a_single_module_does_not(theater: Theater) -> None:
    program = theater.load_guest(component())
    assert (program.road_name, sorted(program.exports)) == ("component", ["init"])
    assert theater.load_guest(component(beside="")).road_name == "core"


def test_what_wasmtime_can_not_compile_is_refused_in_one_line(theater: Theater) -> None:
    broken = component().replace(b"\x41\x80\x02\x0b", b"\x41\x80\x02\x1a")  # init ends with a drop
    text = str(fails(theater, broken))
    assert text.startswith("invalid: can't be compiled: ")
    assert text.isprintable()


# -- what a guest does ----------------------------------------------------------------------------------------------

ECHO = f"""
  (func (export "{CLIENT}#on-data") (param i32 i32 i32 i32) (result i32)
    (call $tcp#send (local.get 0) (local.get 1) (local.get 2) (local.get 3) (i32.const 0x200)) {OK})
  (func (export "{CLIENT}#handle-connection") (param i32 i32) (result i32)
    (call $tcp#activate (local.get 0) (local.get 1) (i32.const 0x200))
    (call $tcp#set-active (local.get 0) (local.get 1) (i32.const 0x300) (i32.const ACTIVE) (i32.const 0x200)) {OK})"""
GROWING = """
  (local.set 0 (global.get $top))
  (global.set $top (i32.add (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)) (local.get 3)))
  (i32.and (i32.add (local.get 0) (i32.const 7)) (i32.const -8))"""


@pytest.mark.parametrize("encoding", ["utf8", "utf16", "latin1+utf16"])
def test_it_echoes_whatever_the_encoding_of_its_texts(theater: Theater, encoding: str) -> None:
    mode = "active".encode("utf-16-le" if encoding == "utf16" else "ascii")
    content = component(
        encoding=encoding,
        imports=("tcp#send", "tcp#activate", "tcp#set-active"),
        exports=ECHO.replace("ACTIVE", "6"),
        memory='(memory (export "memory") 40)',
        allocate=GROWING,
        more=f'(global $top (mut i32) (i32.const 0x1000)) (data (i32.const 0x300) "{_escaped(mode)}")',
    )
    ref = theater.spawn_guest(content)
    with dial(theater.listen_for(ref, "127.0.0.1:0").address) as peer:
        for data in (b"x", bytes(range(256)) * 300, b"\0"):
            peer.sendall(data)
            assert receive_exactly(peer, len(data)) == data
        cut(peer)


def _escaped(data: bytes) -> str:
    return "".join(f"\\{byte:02x}" for byte in data)


def test_a_result_that_is_an_error_is_the_errors_text(theater: Theater) -> None:
    failing = """(i32.store8 (i32.const 0x100) (i32.const 1)) (i32.store (i32.const 0x104) (i32.const 0x300))
      (i32.store (i32.const 0x108) (i32.const 6)) (i32.const 0x100)"""
    content = component(init=failing, more='(data (i32.const 0x300) "refuse")')
    assert str(fails(theater, content)) == "callback: init: refuse"


def test_its_texts_reach_the_log_and_each_case_of_an_enum_its_level(
    theater: Theater, caplog: pytest.LogCaptureFixture
) -> None:
    calls = "".join(f"(call $runtime#log (i32.const {level}) (i32.const 0x300) (i32.const 6))" for level in range(4))
    content = component(
        imports=("runtime#log",),
        init=f"{calls} {OK}",
        more=f'(data (i32.const 0x300) "{_escaped("grüß".encode())}")',
    )
    with caplog.at_level(logging.DEBUG, "theater_tcp.guest"):
        theater.spawn_guest(content, name="it")
    assert [(each.levelname, each.message) for each in caplog.records if "it: " in each.message] == [
        (level, "it: grüß") for level in ("DEBUG", "INFO", "WARNING", "ERROR")
    ]


SPLIT = """
(component
  (import "theater:simple/runtime" (instance $runtime
    (type $plain (enum "debug" "info" "warning" "error")) (export "level" (type $level (eq $plain)))
    (export "log" (func (param "level" $level) (param "message" string)))))
  (core module $memory
    (memory (export "memory") 1)
    (func (export "allocate") (param i32 i32 i32 i32) (result i32) i32.const 0x400))
  (core instance $memory (instantiate $memory))
  (alias core export $memory "memory" (core memory $pages))
  (alias core export $memory "allocate" (core func $allocate))
  (alias export $runtime "log" (func $log))
  (core func $log-core (canon lower (func $log) (memory $pages)))
  (core module $main
    (import "memory" "memory" (memory 1))
    (import "runtime" "log" (func $log (param i32 i32 i32)))
    (func (export "start") (param i32 i32) (result i32)
      (call $log (i32.const 1) (local.get 0) (local.get 1)) i32.const 0x100)
    (func (export "clean") (param i32) (i32.store8 (i32.const 0x400) (i32.const 63))))
  (core instance $main (instantiate $main (with "memory" (instance $memory))
    (with "runtime" (instance (export "log" (func $log-core))))))
  (alias core export $main "start" (core func $start))
  (alias core export $main "clean" (core func $clean))
  (func $init (param "config" (list u8)) (result (result (error string)))
    (canon lift (core func $start) (memory $pages) (realloc $allocate) (post-return $clean)))
  (instance $actor (export "init" (func $init)))
  (export "theater:simple/actor" (instance $actor))
)"""
"""Its memory is in one module, its work is in another, and nothing has its usual name."""


def test_the_work_may_be_shared_among_modules_with_names_of_their_own(
    theater: Theater, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "theater_tcp.guest"):
        theater.spawn_guest(bytes(wasmtime.wat2wasm(SPLIT)), b"hello", name="split")
    assert "split: hello" in [each.message for each in caplog.records]


def test_a_receive_gives_no_more_than_can_be_converted_while_others_wait(theater: Theater) -> None:
    content = component(
        imports=("tcp#activate", "tcp#receive", "tcp#send", "tcp#close"),
        exports=f"""(func (export "{CLIENT}#handle-connection") (param i32 i32) (result i32)
          (call $tcp#activate (local.get 0) (local.get 1) (i32.const 0x200))
          (call $tcp#receive (local.get 0) (local.get 1) (i32.const {1 << 20}) (i32.const 0x210))
          (call $tcp#send (local.get 0) (local.get 1) (i32.load (i32.const 0x214)) (i32.load (i32.const 0x218))
            (i32.const 0x200))
          (call $tcp#close (local.get 0) (local.get 1) (i32.const 0x200)) {OK})""",
        memory='(memory (export "memory") 10)',
        allocate=GROWING,
        more="(global $top (mut i32) (i32.const 0x1000))",
    )
    ref = theater.spawn_guest(content)
    with dial(theater.listen_for(ref, "127.0.0.1:0").address) as peer:
        sent = bytes(range(256)) * 800
        peer.sendall(sent)
        came = receive_to_end(peer)
    assert 0 < len(came) <= MAX_RECEIVED
    assert came == sent[: len(came)]


def test_one_call_gives_no_more_than_can_be_converted_while_others_wait(theater: Theater) -> None:
    content = component(
        imports=("tcp#activate", "tcp#receive"),
        exports=f"""(func (export "{CLIENT}#handle-connection") (param i32 i32) (result i32)
          (call $tcp#activate (local.get 0) (local.get 1) (i32.const 0x200))
          (call $tcp#receive (local.get 0) (local.get 1) (i32.const -1) (i32.const 0x210)) {OK})""",
        memory='(memory (export "memory") 100)',
    )
    assert str(fails(theater, content, config=bytes(MAX_PASSED + 1))) == (
        f"limit: init: call_data: init would carry more than {MAX_PASSED} bytes"
    )
    ref = theater.spawn_guest(content)
    options = {"framing": "length-4", "read_buffer_limit": MAX_PASSED + 5}
    with dial(theater.listen_for(ref, "127.0.0.1:0", **options).address) as peer:
        peer.sendall((MAX_PASSED + 1).to_bytes(4, "big") + bytes(MAX_PASSED + 1))
        assert receive_to_end(peer) == b""
    assert theater.metrics().guest_traps == 2


# -- what is wrong with a guest -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"init": "unreachable"}, "wasm `unreachable` instruction executed"),
        ({"init": "(i32.const 0x102)"}, "pointer not aligned"),
        ({"init": "(i32.const 0xfffff0)"}, "pointer out of bounds"),
        ({"init": "(i32.store8 (i32.const 0x100) (i32.const 7)) (i32.const 0x100)"}, "discriminant 7 out of range"),
        ({"allocate": "(i32.const -1)"}, "realloc return: beyond end of memory"),
        ({"imports": ("runtime#log",), "init": f"(call $runtime#log (i32.const 9) (i32.const 0) (i32.const 0)) {OK}"},
         "discriminant 9 out of range"),
        ({"imports": ("runtime#log",),
          "init": f"(call $runtime#log (i32.const 0) (i32.const 0) (i32.const -1)) {OK}"},
         "string pointer/length out of bounds"),
    ],
)  # fmt: skip
def test_a_guest_that_breaks_a_rule_ends_with_the_reason(theater: Theater, parts: dict[str, Any], words: str) -> None:
    error = fails(theater, component(**parts), config=b"config")
    assert isinstance(error, CallbackFailed)
    assert words in str(error)
    assert str(error).isprintable()


def test_a_guest_that_calls_its_host_while_it_gives_memory_is_ended(theater: Theater) -> None:
    content = component(imports=("runtime#shutdown",), allocate="(call $runtime#shutdown) (i32.const 0x400)")
    assert "cannot leave component instance" in str(fails(theater, content, config=b"config"))


def test_more_data_in_a_call_than_its_limit_is_a_limit(theater: Theater) -> None:
    init = f"(call $runtime#log (i32.const 0) (i32.const 0) (i32.const 1001)) {OK}"
    content = component(imports=("runtime#log",), init=init)
    error = fails(theater, content, limits=Limits(call_data=1000))
    assert isinstance(error, LimitReached)
    assert str(error) == "limit: init: call_data: it passed 1001 bytes, and 1000 may be"
    error = fails(theater, component(), config=bytes(1001), limits=Limits(call_data=1000))
    assert str(error) == "limit: init: call_data: init would carry more than 1000 bytes"


def test_what_a_call_passes_counts_together(theater: Theater) -> None:
    init = f"(call $tcp#send (i32.const 0) (i32.const 45) (i32.const 0) (i32.const SIZE) (i32.const 0x200)) {OK}"
    fits, too_much = (
        component(imports=["tcp#send"], init=init.replace("SIZE", str(size)), allocate="(i32.const 0x2000)")
        for size in (4096 - 45, 4096 - 44)
    )
    limits = Limits(call_data=4096)
    assert theater.spawn_guest(fits, limits=limits).is_alive()
    assert str(fails(theater, too_much, limits=limits)).endswith("it passed 4097 bytes, and 4096 may be")


def test_more_data_in_a_call_than_wasmtime_carries_is_a_limit_too(theater: Theater) -> None:
    init = f"(call $tcp#send (i32.const 0) (i32.const 1) (i32.const 0) (i32.const {8 << 20}) (i32.const 0x200)) {OK}"
    content = component(imports=("tcp#send",), init=init, memory='(memory (export "memory") 200)')
    assert str(fails(theater, content)) == (
        "limit: init: call_data: it passed more than 2097152 bytes, which a component can't"
    )


def test_a_guest_that_needs_more_memory_than_its_limit_does_not_start(theater: Theater) -> None:
    content = component(memory='(memory (export "memory") 5)')
    assert str(fails(theater, content, limits=Limits(memory=4 * PAGE))) == (
        f"limit: init: memory: it needs more than {4 * PAGE} bytes"
    )
    assert theater.spawn_guest(content, limits=Limits(memory=5 * PAGE)).is_alive()


def test_all_memories_of_a_component_share_what_there_is_for_one(theater: Theater) -> None:
    second = '(core module $other (memory (export "memory") 2)) (core instance $other (instantiate $other))'
    content = component(beside=second)
    assert theater.spawn_guest(content, limits=Limits(memory=4 * PAGE)).is_alive()
    assert "limit: init: memory" in str(fails(theater, content, limits=Limits(memory=3 * PAGE)))


def test_more_memories_than_any_guest_has_are_refused(theater: Theater) -> None:
    module = "(core module $other (memory 1))" + "(core instance (instantiate $other))" * 9
    assert str(fails(theater, component(beside=module))) == "invalid: has 10 memories; 8 are the most"


SPIN = "(loop $again (br $again)) unreachable"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(lambda: component(init=SPIN), id="in init"),
        pytest.param(
            lambda: component(exports="(func $spin (loop $again (br $again))) (start $spin)"), id="in its start"
        ),
        pytest.param(lambda: component(exports=f'(func (export "_initialize") {SPIN})'), id="in its initialization"),
        pytest.param(lambda: component(allocate=SPIN), id="in its allocation"),
    ],
)
def test_a_guest_that_never_ends_is_ended_and_holds_up_nobody(theater: Theater, content: Any) -> None:
    error = fails(theater, content(), config=b"config", limits=Limits(cpu=0.1))
    assert isinstance(error, LimitReached)
    assert str(error) == "limit: init: cpu: it ran for 0.1 s without waiting for anything"


def test_a_guest_that_waits_can_be_let_go_of(theater: Theater) -> None:
    content = component(
        imports=("tcp#activate", "tcp#send", "tcp#receive"),
        exports=f"""(func (export "{CLIENT}#handle-connection") (param i32 i32) (result i32)
          (call $tcp#activate (local.get 0) (local.get 1) (i32.const 0x200))
          (call $tcp#send (local.get 0) (local.get 1) (i32.const 0x200) (i32.const 1) (i32.const 0x200))
          (call $tcp#receive (local.get 0) (local.get 1) (i32.const 100) (i32.const 0x200)) {OK})""",
    )
    ref = theater.spawn_guest(content)
    with dial(theater.listen_for(ref, "127.0.0.1:0").address) as peer:
        assert receive_exactly(peer, 1) == b"\0"
        theater.shutdown(drain_timeout=0)
        with pytest.raises(ConnectionResetError):
            peer.recv(1)
    assert not ref.is_alive()


def test_what_a_component_returns_is_freed(theater: Theater) -> None:
    size = 256 << 10
    program = theater.load_guest(
        component(
            memory='(memory (export "memory") 8)',
            init=f"""
    (i32.store8 (i32.const 0x100) (i32.const 1))
    (i32.store (i32.const 0x104) (i32.const 0x1000))
    (i32.store (i32.const 0x108) (i32.const {size}))
    {OK}""",
        )
    )

    def begin(times: int) -> None:
        for _ in range(times):
            assert str(fails(theater, program)).startswith("callback: init: ")

    begin(5)
    before = resident()
    begin(100)
    assert resident() - before < 8 << 20


def test_what_a_component_is_passed_is_freed(theater: Theater) -> None:
    takes = component(
        imports=["tcp#activate", "tcp#set-active"],
        memory='(memory (export "memory") 8)',
        more='(data (i32.const 0x300) "active")',
        allocate="(i32.const 0x10000)",
        exports=f"""
  (func (export "{CLIENT}#handle-connection") (param i32 i32) (result i32)
    (call $tcp#activate (local.get 0) (local.get 1) (i32.const 0x200))
    (call $tcp#set-active (local.get 0) (local.get 1) (i32.const 0x300) (i32.const 6) (i32.const 0x200)) {OK})
  (func (export "{CLIENT}#on-data") (param i32 i32 i32 i32) (result i32) {OK})""",
    )
    address = theater.listen_for(theater.spawn_guest(takes), "127.0.0.1:0").address

    def send(size: int) -> None:
        with dial(address) as peer:
            peer.sendall(bytes(size))
            peer.shutdown(socket.SHUT_WR)
            assert receive_to_end(peer) == b""

    send(4 << 20)
    before = resident()
    send(8 << 20)  # in wasmtime's values 256 MiB
    assert resident() - before < 64 << 20


# -- WASI -----------------------------------------------------------------------------------------------------------

WAITING = """
(component
  (import "wasi:io/poll@0.2.0" (instance $poll (export "pollable" (type $pollable (sub resource)))))
  (alias export $poll "pollable" (type $pollable))
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
    (alias outer 1 $pollable (type $outer)) (export "pollable" (type $pollable (eq $outer)))
    (export "now" (func (result u64)))
    (export "subscribe-duration" (func (param "when" u64) (result (own $pollable))))))
  (alias export $clock "now" (func $now))
  (alias export $clock "subscribe-duration" (func $subscribe))
  (core func $now-core (canon lower (func $now)))
  (core func $subscribe-core (canon lower (func $subscribe)))
  (core module $main
    (import "clock" "now" (func $now (result i64)))
    (import "clock" "subscribe" (func $subscribe (param i64) (result i32)))
    (memory (export "memory") 1)
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 0x400)
    (func (export "init") (param i32 i32) (result i32)
      (if (i64.eqz (call $now)) (then unreachable))
      (if (local.get 1) (then (drop (call $subscribe (i64.const 1000000000000)))))
      i32.const 0x100))
  (core instance $main (instantiate $main (with "clock" (instance
    (export "now" (func $now-core)) (export "subscribe" (func $subscribe-core))))))
  (alias core export $main "memory" (core memory $memory))
  (alias core export $main "cabi_realloc" (core func $realloc))
  (alias core export $main "init" (core func $init))
  (func $lifted (param "config" (list u8)) (result (result (error string)))
    (canon lift (core func $init) (memory $memory) (realloc $realloc)))
  (instance $actor (export "init" (func $lifted)))
  (export "ACTOR" (instance $actor))
)""".replace("ACTOR", ACTOR)


def test_a_guest_with_wasi_has_the_clock_and_can_not_block_the_thread_by_it(theater: Theater) -> None:
    content = bytes(wasmtime.wat2wasm(WAITING))
    assert str(fails(theater, content)) == (
        "invalid: imports wasi:io/poll@0.2.0 and wasi:clocks/monotonic-clock@0.2.0, which its manifest does not grant"
        " (grants: [wasi])"
    )
    assert theater.spawn_guest(content, grants=["wasi"]).is_alive()
    error = fails(theater, content, config=b"wait", grants=["wasi"])
    assert "a guest can't wait by wasi:clocks, only by the calls of theater:simple/tcp" in str(error)


# -- values ---------------------------------------------------------------------------------------------------------


class Place:
    """Room for one value."""

    def __init__(self) -> None:
        self._room = (ctypes.c_uint64 * (inner.COMPONENT_VALUE // 8))()
        self.address = ctypes.addressof(self._room)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (BYTES, b""),
        (BYTES, b"\0\xff"),
        (BYTES, bytes(range(256)) * 257),
        (STRING, ""),
        (STRING, "grüße €😀\0"),
        (U32, 0xFFFFFFFF),
        (U64, 1 << 63),
        (U8, 200),
        (Result(None, STRING), Ok()),
        (Result(None, STRING), Err("no")),
        (Result(BYTES, STRING), Ok(b"data")),
        (Result(BYTES), Err()),
    ],
)
def test_a_value_goes_to_wasmtime_and_comes_back(kind: WitType, value: Any) -> None:
    place = Place()
    lowerer(kind)(place.address, value)
    assert lifter(kind)(place.address, 1 << 20) == value
    inner.value_delete(place.address)


def test_a_lone_surrogate_is_replaced_since_wasmtime_would_end_the_process() -> None:
    place = Place()
    lowerer(STRING)(place.address, "a\udc80b")
    assert lifter(STRING)(place.address, 100) == "a?b"
    inner.value_delete(place.address)


def test_a_value_of_another_kind_is_no_address() -> None:
    place = Place()
    lowerer(BOOL)(place.address, True)
    for kind in (STRING, BYTES, U32, Enum("e", ("a",)), Result()):
        with pytest.raises(GuestTrap, match="a value of the kind 0 where one of the kind"):
            lifter(kind)(place.address, 100)


def test_a_type_that_no_function_of_the_interface_has_there_is_a_mistake_of_the_program() -> None:
    with pytest.raises(TypeError):
        lifter(List(STRING))
    with pytest.raises(TypeError):
        lowerer(Enum("e", ("a",)))
    lowerer(Tuple((U8, STRING)))
