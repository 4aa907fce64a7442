"""The core road where its timing matters: what is between a call of the guest and the answer to it."""

from __future__ import annotations

import socket
import struct
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from tests.guests.guest_files import ACTORS
from tests.guests.puppets import GAP, GuestStage
from tests.guests.wat_guests import CLIENT, guest
from theater_tcp import Future, Settings, Theater
from theater_tcp.errors import TimedOut
from theater_tcp.guest.calls import ARRIVES, GuestCalls
from theater_tcp.guest.core_road import MAX_TEXT_BYTES, CoreInstance
from theater_tcp.guest.stage import OUT_SIZE, SECOND
from theater_tcp.guest.suspendable import SLICE
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
