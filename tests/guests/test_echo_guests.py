"""Echo as a guest, in every language: in active mode for a listener of its own, and as a loop for each connection."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pykka
import pytest

from tests.guests.guest_files import GuestFolder, every_guest
from tests.peers import cut, dial, eventually, receive_exactly, receive_to_end
from theater_tcp import Theater
from theater_tcp.guest_settings import Limits

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

EVERY_GUEST = pytest.mark.parametrize("guest", every_guest("echo"))

MANY_CALLS = pytest.mark.parametrize("guest", every_guest("echo", by_threads=("c",)))
"""For ten thousand calls and more, by the slow road once for all languages: what it does is the same for each."""

STYLES = pytest.mark.parametrize("per_connection", [False, True], ids=["active", "loop"])

PAGE = 1 << 16


@pytest.fixture
def theater(guest: GuestFolder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Theater]:
    guest.take_road(monkeypatch)
    with Theater() as theater:
        yield theater


def serve(theater: Theater, guest: GuestFolder, per_connection: bool, memory: int = 4 << 20) -> str:
    """Start the guest; returns where it listens."""
    echo = theater.spawn_guest(guest.content("echo"), per_connection=per_connection, limits=Limits(memory=memory))
    return theater.listen_for(echo, "127.0.0.1:0").address


def send_all(peer: socket.socket, data: bytes) -> None:
    peer.sendall(data)
    peer.shutdown(1)


@EVERY_GUEST
@STYLES
def test_what_a_peer_sends_comes_back(theater: Theater, guest: GuestFolder, per_connection: bool) -> None:
    with dial(serve(theater, guest, per_connection)) as peer:
        for data in (b"hello", b"\x00", bytes(range(256)), "grüße".encode()):
            peer.sendall(data)
            assert receive_exactly(peer, len(data)) == data


@EVERY_GUEST
@STYLES
def test_all_of_a_long_stream_comes_back_in_order_and_then_its_end(
    theater: Theater, guest: GuestFolder, per_connection: bool
) -> None:
    data = b"".join(number.to_bytes(4, "big") for number in range(1 << 19))
    with dial(serve(theater, guest, per_connection)) as peer:
        sender = threading.Thread(target=send_all, args=(peer, data))
        sender.start()
        assert receive_to_end(peer) == data
        sender.join()


@EVERY_GUEST
@STYLES
def test_a_guest_serves_many_peers_at_once(theater: Theater, guest: GuestFolder, per_connection: bool) -> None:
    address = serve(theater, guest, per_connection)
    peers = [dial(address) for _ in range(50)]
    for number, peer in enumerate(peers):
        peer.sendall(b"%03d" % number)
    for number, peer in reversed([*enumerate(peers)]):
        assert receive_exactly(peer, 3) == b"%03d" % number
        peer.close()
    eventually(lambda: theater.metrics().connections == 0)


@EVERY_GUEST
@STYLES
def test_a_peer_that_resets_ends_its_own_connection_and_no_other(
    theater: Theater, guest: GuestFolder, per_connection: bool
) -> None:
    address = serve(theater, guest, per_connection)
    with dial(address) as peer:
        broken = dial(address)
        broken.sendall(b"x")
        assert receive_exactly(broken, 1) == b"x"
        cut(broken)
        eventually(lambda: theater.metrics().connections == 1)
        peer.sendall(b"still here")
        assert receive_exactly(peer, 10) == b"still here"
    assert theater.metrics().guest_traps == 0


@MANY_CALLS
@STYLES
def test_the_memory_of_a_guest_does_not_grow_with_what_it_echoes(
    theater: Theater, guest: GuestFolder, per_connection: bool
) -> None:
    """A leak of one id or one chunk for each message would go beyond what the guest may use, many times over."""
    with dial(serve(theater, guest, per_connection, memory=3 * PAGE)) as peer:
        for _ in range(5_000):
            peer.sendall(b"a short message")
            receive_exactly(peer, 15)
    with dial(serve(theater, guest, per_connection, memory=8 * PAGE)) as peer:
        data = bytes(PAGE)
        for _ in range(50):
            peer.sendall(data)
            assert receive_exactly(peer, len(data)) == data
    assert theater.metrics().guest_traps == 0


@EVERY_GUEST
def test_a_guest_for_each_connection_ends_with_it(theater: Theater, guest: GuestFolder) -> None:
    address = serve(theater, guest, per_connection=True)
    before = len(pykka.ActorRegistry.get_all())
    for _ in range(10):
        with dial(address) as peer:
            peer.sendall(b"x")
            assert receive_exactly(peer, 1) == b"x"
            assert len(pykka.ActorRegistry.get_all()) > before
            peer.shutdown(1)
            assert receive_to_end(peer) == b""
    eventually(lambda: len(pykka.ActorRegistry.get_all()) == before)
    assert theater.metrics().guest_traps == 0
