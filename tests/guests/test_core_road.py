"""The core road where its timing matters: what is between a call of the guest and the answer to it."""

from __future__ import annotations

import socket
from functools import partial
from unittest import mock

from tests.guests.guest_files import ACTORS
from theater_tcp import Future, Theater
from theater_tcp.guest.stage import OUT_SIZE


def test_a_guest_that_yields_before_it_begins_to_wait_gets_its_answer() -> None:
    """A send that has to wait, and takes so long that the guest's slice is over when it goes on to wait."""
    from theater_tcp.guest import wasmtime_internals as inner  # noqa: PLC0415 - after pytest's faulthandler
    from theater_tcp.guest.calls import GuestCalls  # noqa: PLC0415

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
