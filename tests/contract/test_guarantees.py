"""G2, G3, G4 and G7: bounded memory, contained failures, an owner's end, and no word of it to strangers."""

from __future__ import annotations

import socket
import threading
import tracemalloc
from collections import Counter
from typing import TYPE_CHECKING, Any

import pykka
import pytest

from tests.peers import (
    TIMEOUT,
    dial,
    eventually,
    receive_exactly,
    receive_to_end,
    settled_unread_in_kernel,
    stuff,
    unread_in_kernel,
)
from tests.support import Stage, outcome_of, result_of, settled
from theater_tcp import TcpActor, TcpMixin
from theater_tcp.errors import NotFound, TheaterError, TimedOut
from theater_tcp.poller import Poller, best_poller

if TYPE_CHECKING:
    from collections.abc import Callable

KIB = 1 << 10


class Gate:
    """Lets a callback wait until the test opens it, on the loop and on a thread."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._opened = threading.Event()

    async def wait(self, actor: Any) -> None:
        self.reached.set()
        on_loop = isinstance(actor, TcpActor)
        assert await settled(actor.to_thread(self._opened.wait, TIMEOUT) if on_loop else self._opened.wait(TIMEOUT))

    def open(self) -> None:
        self._opened.set()


# -- G2 ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["raw", "line", "length-4"])
def test_contract_G2_a_slow_owner_stops_the_reading_and_the_host_holds_at_most_read_buffer_limit(
    stage: Stage, kind: str, framing: str
) -> None:
    gate = Gate()
    limit = 16 * KIB

    async def on_data(actor: Any, _connection: Any, _data: bytes) -> None:
        await gate.wait(actor)

    owner = stage.owner(kind, on_data=on_data)
    _, peer = owner.meet(mode="active", framing=framing, read_buffer_limit=limit)
    frame = limit.to_bytes(4, "big") + b"x" * limit
    unit = {"raw": b"x", "line": b"x" * (limit - 1) + b"\n", "length-4": frame}[framing]
    sent = stuff(peer, unit * (64 * KIB // len(unit) or 1))
    assert gate.reached.wait(TIMEOUT)
    stage.pass_turns(20)
    handled = len(owner.expect("on_data").value) if framing != "raw" else 0
    # A frame's prefix comes on top of the frame.
    assert sent - settled_unread_in_kernel(peer) <= handled + limit + 8
    assert sent > 1 << 20, "the peer is held by the window of TCP, not by this test's modesty"
    gate.open()


def test_contract_G2_a_frame_that_is_gathered_and_what_follows_it_stay_under_the_limit_together(
    stage: Stage, kind: str
) -> None:
    limit = 16 * KIB
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="passive", framing="line", read_buffer_limit=limit)
    peer.sendall(b"x" * (limit - 1))
    with pytest.raises(TimedOut):
        owner.call(connection.receive, 1, 0.05)
    eventually(lambda: unread_in_kernel(peer) == 0)  # the line is gathered in the host, but for its end
    sent = limit - 1 + stuff(peer, b"\n" * KIB)
    assert owner.call(connection.receive, 1) == b"x"
    stage.pass_turns()
    assert sent - settled_unread_in_kernel(peer) <= limit + 8


def test_contract_G2_at_most_one_turn_of_a_connection_is_in_its_owners_mailbox(stage: Stage, kind: str) -> None:
    gate = Gate()
    waiting: list[int] = []

    async def watch(actor: Any) -> None:
        await gate.wait(actor)
        waiting.append(len(actor.actor_inbox.queue or ()))

    owner = stage.owner(kind)
    met = [owner.meet(mode="active") for _ in range(3)]
    watching = owner.ref.ask(watch, block=False)
    assert gate.reached.wait(TIMEOUT)
    for _ in range(10):
        for _, peer in met:
            peer.sendall(b"again and again")
        stage.pass_turns(2)
    for _, peer in met:
        peer.close()
    stage.pass_turns()
    gate.open()
    outcome_of(watching)
    assert waiting == [3]


def test_contract_G2_memory_stays_bounded_while_a_hundred_peers_flood_a_slow_owner(stage: Stage, kind: str) -> None:
    gate = Gate()

    async def on_data(actor: Any, _connection: Any, _data: bytes) -> None:
        await gate.wait(actor)

    owner = stage.owner(kind, on_data=on_data)
    peers = [owner.meet(mode="active", read_buffer_limit=8 * KIB)[1] for _ in range(100)]
    piece = bytes(64 * KIB)
    tracemalloc.start()
    try:
        sent = sum(stuff(peer, piece) for peer in peers)
        assert gate.reached.wait(TIMEOUT)
        stage.pass_turns()
        assert tracemalloc.get_traced_memory()[1] < 100 * 8 * KIB + (1 << 20) < sent
    finally:
        tracemalloc.stop()
        gate.open()


class ReportingPoller:
    """The system's poller; counts how often it reported each descriptor."""

    def __init__(self) -> None:
        self._poller: Poller = best_poller()
        self.reports: Counter[int] = Counter()
        self.register = self._poller.register
        self.modify = self._poller.modify
        self.unregister = self._poller.unregister
        self.close = self._poller.close

    def poll(self, timeout: float = -1, maxevents: int = -1) -> list[tuple[int, int]]:
        events = self._poller.poll(timeout, maxevents)
        self.reports.update(fd for fd, _ in events)
        return events


@pytest.mark.parametrize("mode", ["active", "once", 5])
def test_contract_G2_data_for_an_owner_in_its_on_stop_stays_in_the_kernel_and_keeps_nobody_busy(
    monkeypatch: pytest.MonkeyPatch, kind: str, mode: str | int
) -> None:
    gate, poller = Gate(), ReportingPoller()
    monkeypatch.setattr("theater_tcp.event_loop.best_poller", lambda: poller)

    def stay_a_while(actor: Any) -> None:
        actor.on_stop = lambda: gate.wait(actor) if isinstance(actor, TcpActor) else result_of(gate.wait(actor))

    with Stage() as stage:
        owner = stage.owner(kind)
        connection, peer = owner.meet(mode=mode)
        owner.act(stay_a_while)
        stopped = owner.ref.stop(block=False)
        assert gate.reached.wait(TIMEOUT)
        for data in (b"unheard", b""):
            peer.sendall(data) if data else peer.shutdown(socket.SHUT_WR)
            stage.pass_turns()
            reported = poller.reports[connection._core.fd]
            stage.pass_turns()
            assert poller.reports[connection._core.fd] == reported
        gate.open()
        outcome_of(stopped)
        assert receive_to_end(peer) == b""
        assert owner.script.heard.empty()


# -- G3 ------------------------------------------------------------------------------------------------------------


def test_contract_G3_an_actor_with_1000_connections_keeps_999_after_one_callback_raised(
    stage: Stage, kind: str
) -> None:
    stage.foresee_callback_failures()

    def handle_connection(_actor: Any, connection: Any) -> None:
        connection.activate()
        connection.set_active("active")

    def on_data(_actor: Any, connection: Any, data: bytes) -> None:
        if data == b"trap":
            raise ZeroDivisionError
        connection.send(data)

    owner = stage.owner(kind, handle_connection=handle_connection, on_data=on_data)
    address = owner.listen().address
    peers = [stage.dial(address) for _ in range(1000)]
    peers[500].sendall(b"trap")
    assert receive_to_end(peers.pop(500)) == b""
    for peer in peers:
        peer.sendall(b"alive")
    for peer in peers:
        assert receive_exactly(peer, 5) == b"alive"
    assert stage.theater.metrics().connections == 999
    assert stage.theater.metrics().callback_failures == 1
    assert owner.ref.is_alive()
    stage.dial(address).close()


@pytest.mark.parametrize("callback", ["handle_connection", "on_data", "on_passive", "on_close"])
def test_contract_G3_whatever_callback_raises_the_listener_and_the_others_go_on(
    stage: Stage, kind: str, callback: str
) -> None:
    stage.foresee_callback_failures()
    failing = threading.Event()

    def fail(_actor: Any, _connection: Any, _value: Any = None) -> None:
        if failing.is_set():
            raise RuntimeError("of the owner's making")

    hooks: dict[str, Any] = {callback: fail}
    owner = stage.owner(kind, **hooks)
    listener = owner.listen()
    other, other_peer = owner.meet(mode="active")
    failing.set()
    peer = stage.dial(listener.address)
    connection = owner.expect("handle_connection").connection
    if callback != "handle_connection":
        owner.call(connection.activate)
        owner.call(connection.set_active, 1)
        peer.sendall(b"x")
        owner.expect("on_data")
        if callback != "on_data":
            owner.expect("on_passive")
        if callback == "on_close":
            peer.close()
    owner.expect("on_close", "eof" if callback == "on_close" else "callback: RuntimeError")
    failing.clear()
    other_peer.sendall(b"still served")
    assert owner.collect(12) == b"still served"
    owner.call(other.send, b"both ways")
    assert receive_exactly(other_peer, 9) == b"both ways"
    stage.dial(listener.address)
    owner.expect("handle_connection")
    assert owner.ref.is_alive()


# -- G4 ------------------------------------------------------------------------------------------------------------


class Unfit(Exception):
    """What ends an actor in these tests."""


def raise_unfit(_actor: Any) -> None:
    raise Unfit


ENDS: dict[str, Callable[[pykka.ActorRef[Any]], Any]] = {
    "stop": lambda ref: ref.stop(timeout=TIMEOUT),
    "a failed tell": lambda ref: ref.tell(raise_unfit),
}


@pytest.mark.parametrize("end", ENDS)
def test_contract_G4_when_an_actor_ends_its_connections_and_listeners_close_and_no_one_elses(
    stage: Stage, kind: str, end: str
) -> None:
    ending, other = stage.owner(kind), stage.owner(kind)
    connection, peer = ending.meet(mode="active")
    pending, pending_peer = ending.meet()
    own_address = ending.listen().address
    other_connection, other_peer = other.meet(mode="active")
    other_address = other.listen().address
    connected = ending.connect(other_address)
    there = other.expect("handle_connection").connection
    ending.call(connection.send, b"a last word")
    ENDS[end](ending.ref)
    assert receive_to_end(peer) == b"a last word"
    assert receive_to_end(pending_peer) == b""
    eventually(lambda: not any(handle.actor_ref.is_alive() for handle in (connection, pending, connected)))
    with pytest.raises(ConnectionRefusedError):
        dial(own_address)
    assert other_address in {info.address for info in stage.theater.listeners()}
    other_peer.sendall(b"unharmed")
    assert other.collect(8) == b"unharmed"
    other.call(other_connection.send, b"indeed")
    assert receive_exactly(other_peer, 6) == b"indeed"
    other.call(there.activate)
    other.expect("on_close", "eof")
    assert ending.script.heard.empty()


@pytest.mark.parametrize("base", [(TcpActor,), (TcpMixin, pykka.ThreadingActor)])
def test_contract_G4_an_actor_whose_on_start_raises_leaves_nothing(stage: Stage, base: Any) -> None:
    addresses: list[str] = []

    def on_start(actor: Any) -> None:
        addresses.append(actor.tcp.listen("127.0.0.1:0").address)
        raise Unfit("for the stage")

    with pytest.raises(Unfit, match="for the stage"):
        stage.theater.spawn(type("Half", base, {"on_start": on_start, "handle_connection": print}))
    eventually(lambda: stage.theater.listeners() == [])
    with pytest.raises(ConnectionRefusedError):
        dial(addresses[0])


def test_contract_G4_an_actors_end_wakes_what_waits_on_its_connections(stage: Stage) -> None:
    owner = stage.owner("loop", without=["handle_connection"])
    listener = owner.listen()
    stage.dial(listener.address)
    connection = owner.call(listener.accept)
    owner.call(connection.activate)
    received = owner.begin(connection.receive, 10).get(timeout=TIMEOUT)
    accepted = owner.begin(listener.accept).get(timeout=TIMEOUT)
    owner.ref.stop(timeout=TIMEOUT)
    for future in (received, accepted):
        with pytest.raises(TheaterError, match="closed"):
            future.get(timeout=TIMEOUT)
    with pytest.raises(NotFound):
        connection.close()


# -- G7 ------------------------------------------------------------------------------------------------------------


def test_contract_G7_the_peer_of_a_failed_callback_gets_no_word_of_it(stage: Stage, kind: str) -> None:
    stage.foresee_callback_failures()

    def on_data(_actor: Any, connection: Any, _data: bytes) -> None:
        connection.send(b"220 ready\r\n")
        raise OSError(2, "No such file", "/etc/secret/key.pem")

    owner = stage.owner(kind, on_data=on_data)
    _, peer = owner.meet(mode="active")
    peer.sendall(b"x")
    assert receive_to_end(peer) == b"220 ready\r\n"
    owner.expect("on_data")
    owner.expect("on_close", "callback: FileNotFoundError")
    assert any("/etc/secret/key.pem" in line for _, line in stage.log.errors), "the log of the host has all of it"


def test_contract_G7_errors_are_one_line_with_the_kind_first_and_no_place_in_the_code(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind)
    connection, _ = owner.meet()
    calls: list[Callable[[], Any]] = [
        lambda: owner.listen("256.1.1.1:1\n"),
        lambda: owner.listen("127.0.0.1:0", backlog="x\n"),
        lambda: owner.connect("unix:/nowhere/at/all"),
        lambda: owner.call(connection.send, b"x"),
        lambda: owner.call(connection.transfer, "urn:\n:x"),
        lambda: owner.call(connection.set_active, "act\nive"),
        lambda: owner.call(lambda: connection.set_options(nodelay="x\ny")),
    ]
    for call in calls:
        with pytest.raises(TheaterError) as caught:
            call()
        text = str(caught.value)
        assert text.isprintable(), text
        assert text.partition(": ")[0] == caught.value.kind
        assert ".py" not in text
