"""Contract 3, 4, 5 and 21: how connections reach the listener's owner, and what a pending one does."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.peers import TIMEOUT, cut, dial, eventually, receive_exactly, receive_to_end, stuff, unread_in_kernel
from tests.support import Stage, outcome_of
from theater_tcp import Options, Settings
from theater_tcp.errors import Closed
from theater_tcp.listener import MAX_UNHEARD
from theater_tcp.poller import Poller, best_poller

if TYPE_CHECKING:
    import socket
    from pathlib import Path


class CountingPoller:
    """The system's poller; counts how often it came back."""

    def __init__(self) -> None:
        self._poller: Poller = best_poller()
        self.returns = 0
        self.register = self._poller.register
        self.modify = self._poller.modify
        self.unregister = self._poller.unregister
        self.close = self._poller.close

    def poll(self, timeout: float = -1, maxevents: int = -1) -> list[tuple[int, int]]:
        events = self._poller.poll(timeout, maxevents)
        self.returns += 1
        return events


@pytest.fixture
def poller(monkeypatch: pytest.MonkeyPatch) -> CountingPoller:
    """What the next stage waits with."""
    counting = CountingPoller()
    monkeypatch.setattr("theater_tcp.event_loop.best_poller", lambda: counting)
    return counting


def returns_while_nothing_happens(stage: Stage, poller: CountingPoller) -> int:
    """How often the loop woke up in a tenth of a second in which nobody did anything."""
    passed = threading.Event()
    clock = stage.owner("loop")
    stage.pass_turns()
    before = poller.returns
    clock.act(lambda actor: actor.call_later(0.1, passed.set))
    assert passed.wait(TIMEOUT)
    return poller.returns - before


def port_of(peer: socket.socket) -> int:
    return int(peer.getsockname()[1])


def peer_port(connection: Any) -> int:
    """The port of a connection's peer; to be asked by the owner."""
    return int(connection.peer_address.rpartition(":")[2])


@pytest.mark.parametrize("where", ["127.0.0.1:0", "[::1]:0", "unix:/path"])
def test_contract_03_an_owner_with_handle_connection_is_called(
    stage: Stage, kind: str, where: str, tmp_path: Path
) -> None:
    owner = stage.owner(kind)
    listener = owner.listen(where.replace("/path", f"{tmp_path}/socket"))
    for _ in range(3):
        peer = stage.dial(listener.address)
        connection = owner.expect("handle_connection").connection
        owner.call(connection.activate)
        owner.call(connection.send, b"welcome")
        assert receive_exactly(peer, 7) == b"welcome"
    assert stage.theater.metrics().accepted == 3


def test_contract_03_a_waiting_accept_gets_the_connection_before_handle_connection_and_both_work_on_one_listener(
    stage: Stage, kind: str
) -> None:
    owner = stage.owner(kind)
    listener = owner.listen()
    accepted = owner.begin(listener.accept)
    stage.pass_turns()
    first = stage.dial(listener.address)
    connection = outcome_of(accepted)
    second = stage.dial(listener.address)
    called = owner.expect("handle_connection").connection
    assert owner.call(peer_port, connection) == port_of(first)
    assert owner.call(peer_port, called) == port_of(second)
    for handle, peer in ((connection, first), (called, second)):
        owner.call(handle.activate)
        peer.sendall(b"hello")
        assert owner.call(handle.receive, 100) == b"hello"


def test_contract_03_an_owner_may_close_its_listener_in_handle_connection(stage: Stage, kind: str) -> None:
    """The stage fails where an error is logged: the listener went on to accept from the socket that it had closed."""
    owner = stage.owner(kind, handle_connection=lambda _actor, _connection: listener.close())
    listener = owner.listen()
    peer = stage.dial(listener.address)
    connection = owner.expect("handle_connection").connection
    owner.call(connection.activate)
    owner.call(connection.send, b"the last one")
    assert receive_exactly(peer, 12) == b"the last one"
    assert stage.theater.listeners() == []


def test_contract_03_an_owner_without_handle_connection_leaves_its_peers_in_the_backlog_without_a_busy_loop(
    poller: CountingPoller, kind: str
) -> None:
    with Stage() as stage:
        owner = stage.owner(kind, without=["handle_connection"])
        listener = owner.listen()
        peers = [stage.dial(listener.address) for _ in range(3)]
        peers[0].sendall(b"early")
        assert returns_while_nothing_happens(stage, poller) < 20
        assert stage.theater.metrics().accepted == 0
        connection = owner.call(listener.accept)
        assert owner.call(peer_port, connection) == port_of(peers[0])
        owner.call(connection.activate)
        assert owner.call(connection.receive, 100) == b"early"
        assert returns_while_nothing_happens(stage, poller) < 20
        assert stage.theater.metrics().accepted == 1


def test_contract_03_an_owner_that_is_busy_is_not_flooded(stage: Stage, kind: str) -> None:
    began, go_on = threading.Event(), threading.Event()

    def handle_connection(actor: Any, _connection: Any) -> Any:
        began.set()
        if kind == "thread":
            assert go_on.wait(TIMEOUT)
            return None
        return actor.to_thread(go_on.wait, TIMEOUT) if kind == "async" else None

    owner = stage.owner(kind, handle_connection=handle_connection)
    listener = owner.listen()
    peers = []
    if kind == "loop":  # a callback that never waits is never behind
        peers = [stage.dial(listener.address) for _ in range(200)]
    else:
        peers.append(stage.dial(listener.address))
        assert began.wait(TIMEOUT)
        peers += [stage.dial(listener.address) for _ in range(199)]
        stage.pass_turns()
        assert stage.theater.metrics().accepted <= 1 + 64
    go_on.set()
    for _ in peers:
        owner.expect("handle_connection")
    owner.hears_nothing()


@pytest.mark.parametrize("end", ["close", "abort", "transfer"])
def test_contract_03_connections_that_their_owner_has_not_heard_of_and_lets_go_leave_room_for_others(
    stage: Stage, end: str
) -> None:
    began, go_on, handed_over = threading.Event(), threading.Event(), threading.Event()

    async def be_busy(actor: Any) -> None:
        began.set()
        await actor.to_thread(handed_over.wait, TIMEOUT)

    async def let_go(actor: Any) -> int:
        await actor.to_thread(go_on.wait, TIMEOUT)
        unheard = actor.connections
        for connection in unheard:
            getattr(connection, end)(*([target.ref] if end == "transfer" else []))
        return len(unheard)

    owner, target = stage.owner("loop"), stage.owner("loop")
    listener = owner.listen()
    target.ref.tell(be_busy)
    assert began.wait(TIMEOUT)
    target.ref.stop(block=False)  # it ends without having heard of what it is handed meanwhile
    letting_go = owner.ref.ask(let_go, block=False)
    for _ in range(MAX_UNHEARD):
        stage.dial(listener.address)
    eventually(lambda: stage.theater.metrics().accepted == MAX_UNHEARD)
    go_on.set()
    assert outcome_of(letting_go) == MAX_UNHEARD
    stage.dial(listener.address)
    owner.expect("handle_connection")
    handed_over.set()
    owner.hears_nothing()
    eventually(lambda: stage.theater.metrics().connections == 1)


def test_contract_04_accept_blocks_its_caller_alone(stage: Stage, kind: str) -> None:
    owner, other = stage.owner(kind, without=["handle_connection"]), stage.owner(kind)
    listener = owner.listen()
    accepted = owner.begin(listener.accept)
    connection, peer = other.meet(mode="active")
    peer.sendall(b"meanwhile")
    assert other.collect(9) == b"meanwhile"
    other.call(connection.send, b"of course")
    assert receive_exactly(peer, 9) == b"of course"
    stage.dial(listener.address)
    assert outcome_of(accepted).id


def test_contract_04_two_who_accept_are_served_in_turn(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind, without=["handle_connection"])
    listener = owner.listen()
    accepted = []
    if kind == "thread":
        results: dict[int, Any] = {}

        def accept(place: int) -> None:
            results[place] = listener.accept()

        threads = []
        for place in range(2):
            threads.append(threading.Thread(target=accept, args=(place,)))
            threads[-1].start()
            eventually(lambda: len(listener._core._accepts) > place)  # noqa: B023
    else:
        accepted = [owner.begin(listener.accept).get(timeout=TIMEOUT) for _ in range(2)]
    peers = [stage.dial(listener.address) for _ in range(2)]
    if kind == "thread":
        for thread in threads:
            thread.join(TIMEOUT)
        connections = [results[0], results[1]]
    else:
        connections = [outcome_of(future) for future in accepted]
    assert [owner.call(peer_port, connection) for connection in connections] == [port_of(peer) for peer in peers]


def test_contract_04_close_listener_wakes_those_who_accept_with_closed(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind, without=["handle_connection"])
    listener = owner.listen()
    if kind == "thread":
        waiting: Any = [owner.begin(listener.accept)]
        eventually(lambda: len(listener._core._accepts) == 1)
        listener.close()  # the actor's own thread waits
    else:
        waiting = [owner.begin(listener.accept).get(timeout=TIMEOUT) for _ in range(2)]
        owner.call(listener.close)
    for accepted in waiting:
        with pytest.raises(Closed):
            outcome_of(accepted)
    with pytest.raises(ConnectionRefusedError):
        dial(listener.address)


@pytest.mark.parametrize("way", ["accept", "handle_connection"])
def test_contract_05_a_pending_connection_reads_nothing(stage: Stage, kind: str, way: str) -> None:
    owner = stage.owner(kind, without=["handle_connection"] if way == "accept" else [])
    listener = owner.listen()
    peer = stage.dial(listener.address)
    connection = owner.call(listener.accept) if way == "accept" else owner.expect("handle_connection").connection
    sent = stuff(peer)
    owner.hears_nothing()
    eventually(lambda: unread_in_kernel(peer) == sent)
    owner.call(connection.activate)
    owner.hears_nothing()
    eventually(lambda: unread_in_kernel(peer) == sent)  # passive, and nobody has received
    owner.call(connection.set_active, "active")
    owner.collect(sent)


@pytest.mark.parametrize("way", ["accept", "handle_connection"])
@pytest.mark.parametrize("by", ["listen", "settings"])
def test_contract_05_pending_timeout_trips_with_the_reason_timeout(kind: str, way: str, by: str) -> None:
    options: dict[str, Any] = {"pending_timeout": 0.05} if by == "listen" else {}
    settings = Settings(drain_timeout=0, options=Options(pending_timeout=0.05 if by == "settings" else 1000.0))
    with Stage(settings) as stage:
        owner = stage.owner(kind, without=["handle_connection"] if way == "accept" else [])
        listener = owner.listen(**options)
        peer = stage.dial(listener.address)
        connection = owner.call(listener.accept) if way == "accept" else owner.expect("handle_connection").connection
        assert owner.expect("on_close", "timeout").connection is connection
        assert receive_to_end(peer) == b""
        owner.hears_nothing()
        assert stage.theater.metrics().timeouts == 1


@pytest.mark.parametrize("way", ["activate", "transfer"])
def test_contract_05_pending_timeout_is_over_with_activate_and_with_transfer(stage: Stage, kind: str, way: str) -> None:
    owner, target = stage.owner(kind), stage.owner("loop")
    connection, peer = owner.meet(pending_timeout=0.3)
    if way == "activate":
        owner.call(connection.activate)
    else:
        owner.call(connection.transfer, target.ref)
        target.expect("handle_connection_transfer")
    other, other_peer = owner.meet(pending_timeout=0.4)  # began later, and ends later
    owner.expect("on_close", "timeout")
    owner.hears_nothing()
    target.hears_nothing()
    assert receive_to_end(other_peer) == b""
    assert other is not connection
    peer.sendall(b"alive")
    if way == "activate":
        assert owner.call(connection.receive, 100) == b"alive"


def test_contract_05_a_peer_that_cuts_a_pending_connection_is_told_as_reset(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet()
    cut(peer)
    assert owner.expect("on_close", "reset").connection is connection
    owner.hears_nothing()


@pytest.mark.parametrize("where", ["127.0.0.1:0", "unix:/path"])
def test_contract_05_what_a_peer_sent_before_it_left_a_pending_connection_is_there_after_activate(
    stage: Stage, kind: str, where: str, tmp_path: Path
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(where.replace("/path", f"{tmp_path}/socket"))
    peer.sendall(b"last words")
    peer.close()
    owner.hears_nothing()
    owner.call(connection.activate)
    assert owner.call(connection.receive, 4) == b"last"
    owner.call(connection.set_active, "active")
    owner.expect("on_data", b" words")
    owner.expect("on_close", "eof")


@pytest.mark.parametrize("where", ["127.0.0.1:0", "unix:/path"])
def test_contract_05_a_peer_that_left_a_pending_connection_silently_is_told_as_eof_after_activate(
    stage: Stage, kind: str, where: str, tmp_path: Path
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(where.replace("/path", f"{tmp_path}/socket"))
    peer.close()
    owner.hears_nothing()
    owner.call(connection.activate)
    owner.expect("on_close", "eof")


def test_contract_21_500_peers_that_say_nothing_do_not_delay_the_501st(stage: Stage, kind: str) -> None:
    def handle_connection(_actor: Any, connection: Any) -> None:
        connection.activate()
        connection.set_active("active")

    owner = stage.owner(
        kind, handle_connection=handle_connection, on_data=lambda _actor, connection, data: connection.send(data)
    )
    listener = owner.listen()
    for _ in range(500):
        stage.dial(listener.address)
    last = stage.dial(listener.address)
    last.sendall(b"here I am")
    assert receive_exactly(last, 9) == b"here I am"
    assert stage.theater.metrics().connections == 501


def test_contract_21_an_accepting_listener_does_not_wait_for_another_owners_callback(stage: Stage, kind: str) -> None:
    release = threading.Event()

    def handle_connection(actor: Any, _connection: Any) -> Any:
        return release.wait(TIMEOUT) if kind == "thread" else actor.to_thread(release.wait, TIMEOUT)

    slow = stage.owner(kind if kind != "loop" else "async", handle_connection=handle_connection)
    quick = stage.owner(kind)
    stage.dial(slow.listen().address)
    slow.expect("handle_connection")
    _, peer = quick.meet(mode="active")
    peer.sendall(b"quick")
    assert quick.collect(5) == b"quick"
    release.set()


def test_contract_05_a_reset_peer_in_the_backlog_does_not_stop_the_listener(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind, without=["handle_connection"])
    listener = owner.listen()
    gone = dial(listener.address)
    cut(gone)
    peer = stage.dial(listener.address)
    connections = [owner.call(listener.accept) for _ in range(2)]
    owner.call(connections[1].activate)
    owner.call(connections[1].send, b"next")
    assert receive_exactly(peer, 4) == b"next"
    assert owner.expect("on_close", "reset").connection is connections[0]
