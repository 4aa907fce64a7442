"""What the connections of a runtime share: the read buffer, the count of those accepted, the tables."""

from __future__ import annotations

import mmap
from typing import Any

import pytest

from theater_tcp import ConnectionHandle, Settings, TcpActor
from theater_tcp.event_loop import EventLoop
from theater_tcp.network import READ_BUFFER_SIZE, Network
from theater_tcp.testing import FakeClock, MemoryPoller, Stage


class Waiting:
    """A listener that waits for room: it takes ``peers`` connections when it is resumed, if there is room."""

    def __init__(self, network: Network, name: str, peers: int) -> None:
        self.network = network
        self.name = name
        self.peers = peers
        self.resumed = 0

    def resume(self) -> None:
        self.resumed += 1
        while self.peers and not self.network.at_limit():
            self.peers -= 1
            self.network.accepted_now += 1
        if self.peers:
            self.network.waiting_listeners[self.name] = self


@pytest.fixture
def network() -> Any:
    loop = EventLoop(MemoryPoller(), FakeClock())
    yield Network(loop, Settings(max_connections=3))
    loop.close()


@pytest.mark.parametrize("limit", [1, 7, 4096, READ_BUFFER_SIZE - 1, READ_BUFFER_SIZE])
def test_a_view_of_the_read_buffer_is_as_large_as_its_limit(network: Network, limit: int) -> None:
    view = network.read_view(limit)
    assert len(view) == limit
    view[0] = 65
    assert network.read_buffer[0] == 65


def test_no_view_is_larger_than_the_buffer(network: Network) -> None:
    assert len(network.read_view(1 << 30)) == READ_BUFFER_SIZE


def test_the_read_buffer_is_made_of_whole_pages_of_its_own(network: Network) -> None:
    """Into memory that begins inside of a page the kernel copies more slowly."""
    assert isinstance(network.read_buffer, mmap.mmap)
    assert len(network.read_buffer) % mmap.PAGESIZE == 0


def test_contract_20_the_limit_is_reached_by_its_last_connection_and_not_before(network: Network) -> None:
    seen = []
    for _ in range(4):
        seen.append(network.at_limit())
        network.accepted_now += 1
    assert seen == [False, False, False, True]


def test_contract_20_room_wakes_every_listener_since_not_each_has_a_peer_waiting(network: Network) -> None:
    network.accepted_now = 3
    first, second, third = (Waiting(network, name, peers) for name, peers in (("a", 0), ("b", 2), ("c", 1)))
    network.waiting_listeners = {listener.name: listener for listener in (first, second, third)}
    network.accepted_now -= 1
    network.room_again()
    assert [listener.resumed for listener in (first, second, third)] == [1, 1, 1]
    assert (network.accepted_now, list(network.waiting_listeners)) == (3, ["b", "c"])


def test_contract_20_without_room_nobody_is_woken(network: Network) -> None:
    waiting = Waiting(network, "a", 1)
    network.waiting_listeners = {"a": waiting}
    network.accepted_now = 3
    network.room_again()
    assert (waiting.resumed, list(network.waiting_listeners)) == (0, ["a"])


class Holder(TcpActor):
    """Accepts and keeps."""

    def handle_connection(self, connection: ConnectionHandle) -> None:
        connection.activate()

    def on_receive(self, message: Any) -> Any:
        return self.tcp.listen(message).address


def test_contract_20_at_the_runtimes_limit_peers_wait_and_come_in_when_others_leave() -> None:
    with Stage(Settings(max_connections=2)) as stage:
        ref = stage.spawn(Holder)
        one, other = (stage.result(ref.ask("127.0.0.1:0", block=False)) for _ in range(2))
        peers = [stage.dial(address) for address in (one, one, other, other)]
        assert (stage.metrics().connections, stage.network.accepted_now) == (2, 2)
        for peer in peers[:2]:
            peer.close()
        assert stage.metrics().accepted == 4
        for peer in peers[2:]:
            peer.close()
        assert (stage.metrics().connections, stage.network.accepted_now) == (0, 0)
        assert not stage.network.connections


def test_what_has_ended_is_forgotten_by_the_tables() -> None:
    with Stage() as stage:
        ref = stage.spawn(Holder)
        peer = stage.connect_to(ref)
        assert (len(stage.network.connections), len(stage.network.listeners)) == (1, 1)
        peer.close()
        assert len(stage.network.connections) == 0
        ref.stop(block=False)
        stage.settle()
        assert len(stage.network.listeners) == 0
        assert not stage.poller.watched
