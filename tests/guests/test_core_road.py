"""The core road where its timing matters: what is between a call of the guest and the answer to it."""

from __future__ import annotations

import socket
import struct
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from tests.guests.component_maker import component_of
from tests.guests.guest_files import ACTORS
from tests.guests.puppets import GAP, GuestStage
from tests.guests.roads import ROADS
from tests.guests.wat_guests import ACTOR, CLIENT, guest, wasm
from tests.peers import dial, receive_exactly
from theater_tcp import Future, Settings, Theater
from theater_tcp.errors import CallbackFailed, TimedOut
from theater_tcp.guest.calls import ARRIVES, GuestCalls
from theater_tcp.guest.core_road import MAX_TEXT_BYTES, CoreInstance
from theater_tcp.guest.stage import OUT_SIZE, SECOND
from theater_tcp.guest.suspendable import AT_ONCE, SLICE
from theater_tcp.guest_settings import Limits
from theater_tcp.poller import READ

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_guest_that_yields_before_it_begins_to_wait_gets_its_answer() -> None:
    """A send that has to wait, and takes so long that the guest's slice is over when it goes on to wait."""
    from theater_tcp.guest import wasmtime_internals as inner  # noqa: PLC0415 - after pytest's faulthandler

    waited: list[Future[int]] = []

    def send_later(calls: GuestCalls, connection_id: str, data: memoryview) -> Future[int]:
        sent: Future[int] = Future()
        waited.append(sent)  # before the client can hear of it
        GuestCalls.send(calls, connection_id, data.tobytes())
        for _ in range(10):  # more than a new guest may have
            inner.increment_epoch(road.engine_address)
        road.ticks += 1
        theater.loop.call_later(0.01, partial(sent.set, len(data)))
        return sent

    with mock.patch.object(GuestCalls, "send_view", send_later), Theater() as theater:
        program = theater.load_guest(ACTORS / "echo" / "c" / "echo.wasm")
        road = program.road  # type: ignore[attr-defined]  # it is of the core road
        echo = theater.spawn_guest(program)
        # with less room than the stage has, nothing is gathered there and the host is asked for each send
        listener = theater.listen_for(echo, "127.0.0.1:0", write_buffer_limit=OUT_SIZE - 1)
        host, _, port = listener.address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=10) as client:
            for message in (b"one", b"two", b"three"):
                client.sendall(message)
                assert client.recv(100) == message
        assert len(waited) == 3
        assert theater.metrics().guest_traps == 0


TWO_RECEIVES = f"""(func (export "{CLIENT}#handle-connection") (param $id i32) (param $length i32) (result i32)
    (memory.copy (i32.const 0x1000) (local.get $id) (local.get $length))
    (call $tcp#activate (i32.const 0x1000) (local.get $length) (i32.const 0))
    (loop $again
      (call $tcp#receive (i32.const 0x1000) (local.get $length) (i32.const 1) (i32.const 0x200))
      (call $tcp#receive (i32.const 0x1000) (local.get $length) (i32.const 2) (i32.const 0x300))
      (call $tcp#send (i32.const 0x1000) (local.get $length)
        (i32.load (i32.const 0x304)) (i32.load (i32.const 0x308)) (i32.const 0x400))
      (br_if $again (i32.eqz (i32.load8_u (i32.const 0x200)))))
    (i32.const 0x100))"""
"""Sends what the second of two receives gave. After the first, which gave all that it asked for, the host
is asked for the second before the guest is suspended."""


@pytest.mark.parametrize(
    ("happens", "told"),
    [
        pytest.param(lambda client, _: client.sendall(b"y"), b"y", id="data"),
        pytest.param(lambda _, core: core.interrupt_receive(TimedOut("now")), b"timeout: now", id="an-error"),
    ],
)
def test_what_arrives_while_a_guest_yields_before_it_waits_is_what_its_receive_gives(
    happens: Callable[[socket.socket, Any], None], told: bytes
) -> None:
    from theater_tcp.guest import wasmtime_internals as inner  # noqa: PLC0415 - after pytest's faulthandler

    receive = GuestCalls.receive
    yields: list[str] = []

    def receive_slowly(calls: GuestCalls, connection_id: str, most: int) -> Any:
        value = receive(calls, connection_id, most)
        if value is ARRIVES and most == 2 and road.current is not None:  # inside of the guest's call
            yields.append(connection_id)
            core = calls.handles[connection_id]._core
            theater.loop.call_soon(partial(happens, client, core))  # before the guest has its turn again
            if not told.startswith(b"timeout"):
                theater.loop.call_soon(partial(core.on_ready, READ))
                theater.loop.call_soon(partial(road.stage.__setitem__, SECOND, ord("?")))  # another guest's by now
            for _ in range(10):  # its slice is over
                inner.increment_epoch(road.engine_address)
            road.current.ticks = road.ticks  # and it was its own
        return value

    module = guest(
        imports=["tcp#activate", "tcp#receive", "tcp#send"],
        exports=TWO_RECEIVES,
        allocate="(i32.add (i32.const 0x800) (i32.and (local.get 3) (i32.const 0x7f)))",
    )
    with mock.patch.object(GuestCalls, "receive", receive_slowly), Theater(Settings(drain_timeout=0)) as theater:
        program = theater.load_guest(module)
        road = program.road  # type: ignore[attr-defined]  # it is of the core road
        listener = theater.listen_for(theater.spawn_guest(program), "127.0.0.1:0")
        host, _, port = listener.address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=10) as client:
            for _ in range(3):
                client.sendall(b"x")
                assert client.recv(100) == told
        assert len(yields) == 3
        assert theater.metrics().guest_traps == 0


def test_of_a_text_that_is_too_long_for_anything_only_the_begin_is_looked_at() -> None:
    begin = ("x" + "\U0001f600" * (MAX_TEXT_BYTES // 4)).encode()  # what is looked at ends within a character
    with closing(GuestStage()) as stage:
        puppet = stage.guest("core")
        place = (puppet.call(puppet.grow, 40) + GAP) << 16
        puppet.call(puppet.write, place, begin)
        puppet.call(puppet.fill, place + len(begin), 0xFF, 1 << 20)  # no text
        length = len(begin) + (1 << 20)
        for call, more, said in (
            ("tcp#connect", [], "invalid: a text of more than 1024 characters"),
            ("tcp#peer-address", [], "not-found: x"),
            ("tcp#send", [place, 1], "not-found: x"),
            ("tcp#receive", [1], "not-found: x"),
        ):
            _, ret = puppet.calls_raw(call, place, length, *more)
            error = puppet.call(puppet.read, *struct.unpack_from("<II", ret, 8 if call == "tcp#send" else 4))
            assert error.decode().startswith(said), call
        puppet.calls_raw("runtime#log", 0, place, length)


def test_a_guest_whose_answers_take_long_gives_way_before_it_had_as_many_as_it_may_have_at_once() -> None:
    now = [0.0]
    yields: list[float] = []

    def clock() -> float:
        return now[0]

    def yielded(_: CoreInstance) -> None:
        yields.append(now[0])

    def connect_slowly(*_: Any) -> Any:
        now[0] += SLICE
        raise TimedOut

    init = """(call $tcp#connect (i32.const 0) (i32.const 0) (i32.const 0x200))
      (call $tcp#connect (i32.const 0) (i32.const 0) (i32.const 0x200))
      (call $tcp#connect (i32.const 0) (i32.const 0) (i32.const 0x200))
      (call $tcp#connect (i32.const 0) (i32.const 0) (i32.const 0x200)) (i32.const 0x100)"""
    with (
        mock.patch("theater_tcp.guest.suspendable.perf_counter", clock),
        mock.patch.object(CoreInstance, "_yielded", yielded),
        mock.patch.object(GuestCalls, "connect", connect_slowly),
        Theater() as theater,
    ):
        theater.spawn_guest(theater.load_guest(guest(imports=["tcp#connect"], init=init)))
    assert yields == [2 * SLICE, 4 * SLICE]


REFUSED = "(call $tcp#connect (i32.const 0x500) (i32.const 1) (i32.const 0x200))"
"""Is refused at once, and takes as long as the test says."""

WAITS = f"""(func (export "{CLIENT}#handle-connection") (param i32 i32) (result i32)
    (call $tcp#activate (local.get 0) (local.get 1) (i32.const 0x200))
    (call $tcp-ext#set-option (local.get 0) (local.get 1) (i32.const 0x300) (i32.const 15) (i32.const 0x310)
      (i32.const 4) (i32.const 0x200))
    (call $tcp#receive (local.get 0) (local.get 1) (i32.const 1) (i32.const 0x200)) {REFUSED}
    (call $tcp#receive (local.get 0) (local.get 1) (i32.const 1) (i32.const 0x200)) {REFUSED}
    (call $tcp#receive (local.get 0) (local.get 1) (i32.const 1) (i32.const 0x200)) {REFUSED}
    (call $tcp#accept (i32.const 0x500) (i32.const 1) (i32.const 0x200)) {REFUSED}
    (call $tcp#accept (i32.const 0x500) (i32.const 1) (i32.const 0x200)) {REFUSED}
    (call $tcp#accept (i32.const 0x500) (i32.const 1) (i32.const 0x200)) {REFUSED}
    (call $tcp#set-active (local.get 0) (local.get 1) (i32.const 0x320) (i32.const 6) (i32.const 0x200))
    (call $tcp#send (local.get 0) (local.get 1) (i32.const 0x320) (i32.const 1) (i32.const 0x200))
    (i32.const 0x100))
  (func (export "{CLIENT}#on-data") (param i32 i32 i32 i32) (result i32) {REFUSED}
    (call $tcp#send (local.get 0) (local.get 1) (i32.const 0x320) (i32.const 1) (i32.const 0x200))
    (i32.const 0x100))"""


@pytest.mark.parametrize("road", ROADS[:2])
def test_the_time_of_a_guest_begins_anew_with_each_call_and_behind_each_wait_whatever_that_gave(road: str) -> None:
    now = [0.0]

    def connect_slowly(*_: Any) -> Any:
        now[0] += 0.4  # of the second that it may
        raise TimedOut

    def accept_nobody(*_: Any) -> Any:
        nobody: Future[str] = Future()
        stage.theater.loop.call_soon(partial(nobody.set_exception_value, TimedOut()))
        return nobody

    module = guest(
        imports=[
            "tcp#accept",
            "tcp#activate",
            "tcp#connect",
            "tcp#receive",
            "tcp#send",
            "tcp#set-active",
            "tcp-ext#set-option",
        ],
        more="""(data (i32.const 0x300) "receive_timeout") (data (i32.const 0x310) "1 ms")
          (data (i32.const 0x320) "active")""",
        allocate="(i32.add (i32.const 0x1000) (i32.mul (i32.and (local.get 3) (i32.const 0x3f)) (i32.const 64)))",
        exports=WAITS,
    )
    with (
        mock.patch("theater_tcp.guest.suspendable.perf_counter", partial(now.__getitem__, 0)),
        mock.patch.object(GuestCalls, "connect", connect_slowly),
        mock.patch.object(GuestCalls, "accept", accept_nobody),
        closing(GuestStage()) as stage,
    ):
        waiting = stage.spawn(road, module, limits=Limits(cpu=1))
        with dial(stage.theater.listen_for(waiting, "127.0.0.1:0").address) as peer:
            for _ in range(4):
                assert receive_exactly(peer, 1) == b"a"
                peer.sendall(b"x")
        assert stage.theater.metrics().guest_traps == 0


def test_a_guest_with_answers_that_take_no_time_gives_way_after_as_many_as_it_may_have_at_once() -> None:
    yields: list[CoreInstance] = []

    def yielded(instance: CoreInstance) -> None:
        yields.append(instance)

    def refuse(*_: Any) -> Any:
        raise TimedOut

    init = f"""(local.set 0 (i32.const 40))
      (loop $again {REFUSED} (br_if $again (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))) (i32.const 0x100)"""
    with (
        mock.patch("theater_tcp.guest.suspendable.perf_counter", return_value=0.0),
        mock.patch.object(CoreInstance, "_yielded", yielded),
        mock.patch.object(GuestCalls, "connect", refuse),
        Theater() as theater,
    ):
        theater.spawn_guest(theater.load_guest(guest(imports=["tcp#connect"], init=init)))
    assert len(yields) == 40 // AT_ONCE


@pytest.mark.parametrize("encoding", ["utf16", "latin1+utf16"])
@pytest.mark.parametrize(
    ("passed", "given", "said"),
    [("0x301", "0x400", "a text at 0x301 is not"), ("0x300", "0x401", "cabi_realloc gave 0x401, which is not")],
)
def test_a_text_that_may_be_utf_16_lies_at_an_even_address(encoding: str, passed: str, given: str, said: str) -> None:
    init = f"(call $tcp#close (i32.const {passed}) (i32.const 1) (i32.const 0x200)) (i32.const 0x100)"
    module = guest(imports=["tcp#close"], init=init, allocate=f"(i32.const {given})")
    with closing(GuestStage()) as stage:
        stage.foresee_guest_errors()
        with pytest.raises(CallbackFailed, match=f"{said} aligned"):
            stage.spawn("core", component_of(module, encoding))


def test_an_argument_in_utf_16_goes_to_an_even_address() -> None:
    handler = f"""(func (export "{CLIENT}#handle-connection") (param i32 i32) (result i32)
      (call $tcp#close (local.get 0) (local.get 1) (i32.const 0x200)) (i32.const 0x100))"""
    module = guest(imports=["tcp#close"], allocate="(i32.const 0x401)", exports=handler)
    with closing(GuestStage()) as stage:
        stage.foresee_guest_errors()
        stage.foresee_callback_failures()
        odd = stage.spawn("core", component_of(module, "utf16"))
        with dial(stage.theater.listen_for(odd, "127.0.0.1:0").address) as peer:
            assert peer.recv(1) == b""
        assert "what_cabi_realloc_gave_is_not_aligned" in stage.guest_errors()[0]


POLLS = f"""(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0x20) "\\\\ff\\\\ff\\\\ff\\\\ff")
  (func (export "{ACTOR}#init") (param i32 i32) (result i32)
    (if (call $poll (i32.const 0x100) (i32.const 0x200) (i32.const 1) (i32.const PLACE)) (then unreachable))
    (if (i32.load (i32.const 0x20)) (then unreachable))
    (i32.const 0x100))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0x400)))"""
"""Would wait for a time of WASI's, which is up already: there is no event all the same."""


def test_a_guest_with_wasi_waits_for_nothing_by_that_and_passes_a_place_that_it_has() -> None:
    with closing(GuestStage()) as stage:
        stage.foresee_guest_errors()
        for place, trap in (("0x20", None), ("-2", "the number of events at 0xfffffffe of 4 bytes is outside")):
            program = stage.load("core", wasm(POLLS.replace("PLACE", place)), grants=["wasi"])
            if trap is None:
                stage.theater.spawn_guest(program)
            else:
                with pytest.raises(CallbackFailed, match=trap):
                    stage.theater.spawn_guest(program)


def test_what_is_known_of_the_stacks_of_guests_is_bounded() -> None:
    with mock.patch("theater_tcp.guest.core_callbacks.MAX_VIEWS", 3), closing(GuestStage()) as stage:
        puppets = [stage.guest("core") for _ in range(5)]
        for _ in range(2):
            for puppet in puppets:
                assert puppet.calls("runtime#self") == puppet.ref.actor_urn
        assert len(stage.program("core").road._views) <= 3
