"""Weaknesses that an older implementation of this interface had, each with the symptom that its users saw.

The numbers are those of the list that this project keeps of them; those about TLS and guests are not here.
"""

from __future__ import annotations

import errno
import socket
import threading
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from tests.peers import TIMEOUT, dial, eventually, expect_reset, receive_exactly, receive_to_end
from tests.support import KINDS, Stage, let_pass, outcome_of, settled
from theater_tcp import Settings
from theater_tcp.errors import InvalidArgument, LimitReached, NoSuchActor, NotOwner, TimedOut

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of the owner."""
    return str(request.param)


@pytest.fixture
def stage() -> Iterator[Stage]:
    """A running Theater with the contract's defaults."""
    with Stage() as stage:
        yield stage


def test_weakness_01_a_listener_is_recorded_so_that_accept_close_and_port_0_work(stage: Stage, kind: str) -> None:
    """``accept`` and ``close-listener`` always failed with "not found", and nobody learned the port behind 0."""
    owner = stage.owner(kind, without=["handle_connection"])
    listener = owner.listen("127.0.0.1:0")
    assert int(listener.address.rpartition(":")[2]) > 0
    assert [info.id for info in stage.theater.listeners()] == [listener.id]
    peer = stage.dial(listener.address)
    connection = owner.call(listener.accept)
    owner.call(connection.activate)
    owner.call(connection.send, b"accepted")
    assert receive_exactly(peer, 8) == b"accepted"
    owner.call(listener.close)
    with pytest.raises(ConnectionRefusedError):
        dial(listener.address)


def test_weakness_02_max_connections_is_applied_and_pending_connections_are_bounded(stage: Stage, kind: str) -> None:
    """The setting was read and nothing came of it: peers that never finished their handshake piled up without end."""
    owner = stage.owner(kind)
    listener = owner.listen(max_connections=2)
    for _ in range(10):
        stage.dial(listener.address)
    pending = [owner.expect("handle_connection").connection for _ in range(2)]
    owner.hears_nothing()
    assert stage.theater.metrics().connections == 2
    owner.call(pending[0].abort)
    owner.expect("handle_connection")
    owner.hears_nothing()


def test_weakness_05_after_once_a_connection_can_be_read_and_armed_again(stage: Stage, kind: str) -> None:
    """After one ``once`` the connection was deaf: neither ``receive`` nor another ``once`` ever gave a byte."""
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="once")
    peer.sendall(b"first")
    owner.expect("on_data", b"first")
    peer.sendall(b"second")
    assert owner.call(connection.receive, 100) == b"second"
    owner.call(connection.set_active, "once")
    peer.sendall(b"third")
    owner.expect("on_data", b"third")


def test_weakness_05_arming_again_inside_of_the_callback_is_not_lost(stage: Stage, kind: str) -> None:
    """``set-active("once")`` inside of ``on-data`` was undone when the callback returned."""
    owner = stage.owner(kind, on_data=lambda _actor, connection, _data: connection.set_active("once"))
    _, peer = owner.meet(mode="once")
    for word in (b"one", b"two", b"three"):
        peer.sendall(word)
        owner.expect("on_data", word)


def test_weakness_06_transfer_in_active_mode_stops_feeding_the_old_owner(stage: Stage, kind: str) -> None:
    """The reader went on with the old owner: it got the bytes that were the new owner's."""
    old, new = stage.owner(kind), stage.owner(kind)
    connection, peer = old.meet(mode="active")
    peer.sendall(b"for the old one")
    assert old.collect(15) == b"for the old one"
    old.call(connection.transfer, new.ref)
    after = new.expect("handle_connection_transfer").connection
    peer.sendall(b"for the new one")
    assert new.call(after.receive, 100) == b"for the new one"
    old.hears_nothing()
    with pytest.raises(NotOwner):
        old.call(connection.receive, 100)


def test_weakness_06_the_old_owners_end_does_not_kill_the_connection(stage: Stage, kind: str) -> None:
    """The connection died with the actor that had handed it over long before."""
    old, new = stage.owner(kind), stage.owner(kind)
    connection, peer = old.meet(mode="active")
    old.call(connection.transfer, new.ref)
    after = new.expect("handle_connection_transfer").connection
    old.ref.stop(timeout=TIMEOUT)
    new.call(after.send, b"alive")
    assert receive_exactly(peer, 5) == b"alive"
    new.hears_nothing()


def test_weakness_07_transfer_to_an_actor_that_does_not_exist_orphans_nothing(stage: Stage, kind: str) -> None:
    """``transfer`` to a wrong id succeeded, and the connection belonged to nobody for the rest of its life."""
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="active")
    with pytest.raises(NoSuchActor):
        owner.call(connection.transfer, "urn:uuid:00000000-0000-4000-8000-000000000000")
    peer.sendall(b"still yours")
    assert owner.collect(11) == b"still yours"


def test_weakness_07_transfer_to_oneself_does_not_deadlock(stage: Stage, kind: str) -> None:
    """``transfer`` waited for the target's answer: to oneself, for ever."""

    def on_data(actor: Any, connection: Any, _data: bytes) -> None:
        connection.transfer(actor.actor_ref)

    owner = stage.owner(kind, on_data=on_data)
    _, peer = owner.meet(mode="active")
    peer.sendall(b"x")
    owner.expect("on_data", b"x")
    after = owner.expect("handle_connection_transfer").connection
    owner.call(after.send, b"still here")
    assert receive_exactly(peer, 10) == b"still here"


def test_weakness_08_close_in_active_mode_stops_the_reader_and_the_callbacks(stage: Stage, kind: str) -> None:
    """Callbacks came after ``close`` had returned, for a connection that its owner had forgotten."""
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="active")

    async def close_on_top_of_data(actor: Any) -> None:
        peer.sendall(b"too late")
        await let_pass(stage, actor)
        connection.close()

    owner.act(close_on_top_of_data)
    peer.sendall(b"later still")
    assert receive_to_end(peer) == b""
    peer.close()
    owner.hears_nothing()
    eventually(lambda: not connection.actor_ref.is_alive())


def test_weakness_09_a_failed_callback_does_not_take_the_connection_from_its_new_owner(stage: Stage, kind: str) -> None:
    """A callback that handed its connection over and failed afterwards cut it off, whoever owned it by then."""
    stage.foresee_callback_failures()
    new = stage.owner(kind)

    def on_data(_actor: Any, connection: Any, _data: bytes) -> None:
        connection.transfer(new.ref)
        raise ValueError("after the handover")

    old = stage.owner(kind, on_data=on_data)
    _, peer = old.meet(mode="active")
    peer.sendall(b"hand me over")
    after = new.expect("handle_connection_transfer").connection
    peer.sendall(b"are you there?")
    assert new.call(after.receive, 100) == b"are you there?"
    old.expect("on_data")
    old.hears_nothing()
    new.hears_nothing()


def test_weakness_10_every_wait_for_a_peer_has_a_deadline(kind: str) -> None:
    """Connect, send and close waited for ever where the other side did nothing."""
    with Stage(Settings(drain_timeout=0, connect_timeout=0.05)) as stage:
        owner = stage.owner(kind)
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            callers = [socket.socket() for _ in range(4)]
            for caller in callers:
                caller.setblocking(False)
                assert caller.connect_ex(full.getsockname()) == errno.EINPROGRESS
            with pytest.raises(TimedOut):
                owner.connect(f"127.0.0.1:{full.getsockname()[1]}")
            for caller in callers:
                caller.close()
        options: dict[str, Any] = {"write_buffer_limit": 16 << 20}
        sending, silent = owner.meet(mode="passive", send_timeout=0.05, **options)
        owner.call(sending.send, bytes(8 << 20))
        owner.expect("on_close", "timeout")
        expect_reset(silent)
        closing, silent = owner.meet(mode="passive", linger_timeout=0.05, **options)
        owner.call(closing.send, bytes(8 << 20))
        owner.call(closing.close)
        eventually(lambda: stage.theater.metrics().connections == 0)
        expect_reset(silent)


def test_weakness_10_a_peer_that_does_not_read_does_not_pin_its_sender(stage: Stage, kind: str) -> None:
    """One peer with a closed window held the actor that served a thousand others."""
    owner = stage.owner(kind)
    options: dict[str, Any] = {"write_buffer_limit": 16 << 20}
    stuck, _ = owner.meet(mode="active", **options)
    fine, peer = owner.meet(mode="active")
    assert owner.call(stuck.send, bytes(8 << 20)) == 8 << 20
    owner.call(fine.send, b"served")
    assert receive_exactly(peer, 6) == b"served"


@pytest.mark.parametrize("kind", ["loop", "async"])
def test_weakness_10_what_waits_for_a_peer_that_does_not_read_is_bounded(stage: Stage, kind: str) -> None:
    """An actor that went on sending filled the memory."""
    owner = stage.owner(kind)
    connection, _ = owner.meet(mode="passive", write_buffer_hard_limit=1 << 20)

    def send_on(_actor: Any) -> None:
        for _ in range(1000):
            connection.send(bytes(1 << 18))

    with pytest.raises(LimitReached):
        owner.act(send_on)


def test_weakness_11_receive_of_0_is_refused(stage: Stage, kind: str) -> None:
    """``receive(0)`` gave the empty list, which means end of stream: healthy connections were dropped."""
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="passive")
    with pytest.raises(InvalidArgument):
        owner.call(connection.receive, 0)
    peer.sendall(b"no end at all")
    assert owner.call(connection.receive, 100) == b"no end at all"


def test_weakness_11_receive_of_4_gib_does_not_allocate_4_gib(stage: Stage, kind: str) -> None:
    """A buffer of the size that was asked for was made before the first byte had come."""
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="passive")
    tracemalloc.start()
    try:
        received = owner.begin(connection.receive, (1 << 32) - 1)
        stage.pass_turns()
        peer.sendall(b"x")
        assert outcome_of(received) == b"x"
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_weakness_12_out_of_descriptors_the_accept_loop_does_not_spin(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EMFILE leaves the connection in the backlog and the listener readable: a core at 100 %, and endless log lines."""
    failures = 0

    class Exhausted(socket.SocketType):
        """A socket whose accept finds no descriptor left."""

        def _accept(self) -> Any:
            nonlocal failures
            failures += 1
            raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "SocketType", Exhausted)
    owner = stage.owner("loop")
    listener = owner.listen()
    monkeypatch.undo()
    stage.dial(listener.address)
    passed = threading.Event()
    owner.act(lambda actor: actor.call_later(0.25, passed.set))
    assert passed.wait(TIMEOUT)
    assert 1 <= failures <= 10, "with a pause of 100 ms: about three"
    assert len([line for _, line in stage.log.lines if "Too many open files" in line]) == 1


def test_weakness_12_an_ipv6_address_in_brackets_is_taken_apart_rightly(stage: Stage, kind: str) -> None:
    """The host of ``[::1]:443`` came out as ``[::1]`` or as ``[``."""
    server, client = stage.owner("loop"), stage.owner(kind)
    listener = server.listen("[::1]:0")
    connection = client.connect(listener.address)
    assert client.call(lambda: connection.peer_address) == listener.address
    server.expect("handle_connection")


def test_weakness_13_one_actors_end_closes_its_own_connections_alone(stage: Stage, kind: str) -> None:
    """When one actor ended, the clean-up closed the connections of all actors."""
    ending, staying = stage.owner(kind), stage.owner(kind)
    _, ending_peer = ending.meet(mode="active")
    connection, peer = staying.meet(mode="active")
    ending.ref.stop(timeout=TIMEOUT)
    assert receive_to_end(ending_peer) == b""
    peer.sendall(b"unharmed")
    assert staying.collect(8) == b"unharmed"
    staying.call(connection.send, b"indeed")
    assert receive_exactly(peer, 6) == b"indeed"


def test_weakness_15_two_local_actors_that_talk_to_each_other_do_not_deadlock(stage: Stage, kind: str) -> None:
    """A lock was held during I/O: a receive in one actor kept the send of the other from ever happening."""

    async def answer(_actor: Any, connection: Any) -> None:
        connection.activate()
        word = await settled(connection.receive(100))
        await settled(connection.send(word.upper()))

    server, client = stage.owner(kind, handle_connection=answer), stage.owner(kind)
    connection = client.connect(server.listen().address)
    received = client.begin(connection.receive, 100)
    stage.pass_turns()  # the receive waits when the send comes
    connection.send(b"hello") if kind == "thread" else client.call(connection.send, b"hello")
    assert outcome_of(received) == b"HELLO"


def test_weakness_16_one_bad_connection_does_not_stop_the_actor_that_owns_the_listener(stage: Stage, kind: str) -> None:
    """An error in the callback of one connection stopped the actor, and with it the service."""
    stage.foresee_callback_failures()

    def handle_connection(_actor: Any, connection: Any) -> None:
        connection.activate()
        connection.set_active("active")

    def on_data(_actor: Any, connection: Any, data: bytes) -> None:
        connection.send(str(int(data)).encode())

    owner = stage.owner(kind, handle_connection=handle_connection, on_data=on_data)
    listener = owner.listen()
    good, bad = stage.dial(listener.address), stage.dial(listener.address)
    bad.sendall(b"no number")
    assert receive_to_end(bad) == b""
    for peer in (good, stage.dial(listener.address)):
        peer.sendall(b"7")
        assert receive_exactly(peer, 1) == b"7"
    assert owner.ref.is_alive()
