"""Both pollers keep the same promises, and a whole Theater runs over either."""

from __future__ import annotations

import select
import selectors
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.in_time import TIMEOUT, in_time
from theater_tcp import Settings, TcpActor, Theater
from theater_tcp.errors import Refused
from theater_tcp.event_loop import EventLoop
from theater_tcp.poller import ERROR, HANGUP, PEER_SHUTDOWN, READ, WRITE, Poller, SelectorsPoller, best_poller

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

POLLERS = {"epoll": best_poller, "selectors": SelectorsPoller}


@pytest.fixture(params=POLLERS)
def poller(request: pytest.FixtureRequest) -> Iterator[Poller]:
    poller = POLLERS[request.param]()
    yield poller
    poller.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        far.setblocking(False)
        yield near, far


def fill(sock: socket.socket) -> None:
    """Send until the system takes no more."""
    try:
        while True:
            sock.send(bytes(1 << 16))
    except BlockingIOError:
        pass


def test_the_bits_are_epoll_s() -> None:
    assert (READ, WRITE, ERROR, HANGUP, PEER_SHUTDOWN) == (
        select.EPOLLIN,
        select.EPOLLOUT,
        select.EPOLLERR,
        select.EPOLLHUP,
        select.EPOLLRDHUP,
    )


def test_epoll_is_the_best_and_selectors_does_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    best = best_poller()
    assert isinstance(best, select.epoll)
    best.close()
    monkeypatch.delattr(select, "epoll")
    instead = best_poller()
    assert isinstance(instead, SelectorsPoller)
    instead.close()


def test_a_socket_is_readable_when_data_is_there_and_as_long_as_it_is(
    poller: Poller, pair: tuple[socket.socket, socket.socket]
) -> None:
    near, far = pair
    poller.register(near.fileno(), READ)
    assert poller.poll(0) == []
    far.send(b"x")
    assert poller.poll(0) == [(near.fileno(), READ)]
    assert poller.poll(0) == [(near.fileno(), READ)]
    near.recv(10)
    assert poller.poll(0) == []


def test_a_socket_is_writable_when_there_is_room(poller: Poller, pair: tuple[socket.socket, socket.socket]) -> None:
    near, _far = pair
    poller.register(near.fileno(), WRITE)
    assert poller.poll(0) == [(near.fileno(), WRITE)]
    fill(near)
    assert poller.poll(0) == []


def test_readable_and_writable_come_in_one_mask(poller: Poller, pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    poller.register(near.fileno(), READ | WRITE)
    far.send(b"x")
    assert poller.poll(0) == [(near.fileno(), READ | WRITE)]


def test_only_what_is_asked_for_is_reported(poller: Poller, pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    far.send(b"x")
    poller.register(near.fileno(), WRITE)
    poller.modify(near.fileno(), READ)
    assert poller.poll(0) == [(near.fileno(), READ)]
    poller.modify(near.fileno(), WRITE)
    assert poller.poll(0) == [(near.fileno(), WRITE)]


def test_a_socket_can_rest_without_being_forgotten(poller: Poller, pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    far.send(b"x")
    poller.register(near.fileno(), 0)
    assert poller.poll(0) == []
    poller.modify(near.fileno(), READ)
    assert poller.poll(0) == [(near.fileno(), READ)]
    poller.modify(near.fileno(), 0)
    assert poller.poll(0) == []
    poller.modify(near.fileno(), 0)
    poller.unregister(near.fileno())


def test_a_forgotten_socket_is_not_reported(poller: Poller, pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    poller.register(near.fileno(), READ)
    poller.unregister(near.fileno())
    far.send(b"x")
    assert poller.poll(0) == []


def test_the_end_of_the_stream_makes_a_socket_readable(
    poller: Poller, pair: tuple[socket.socket, socket.socket]
) -> None:
    near, far = pair
    poller.register(near.fileno(), READ)
    far.shutdown(socket.SHUT_WR)
    ((fd, mask),) = poller.poll(0)
    assert fd == near.fileno()
    assert mask & READ


def test_a_refused_connect_makes_its_socket_ready_for_writing(poller: Poller) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = closed.getsockname()
    with socket.socket() as sock:
        sock.setblocking(False)
        sock.connect_ex(address)
        poller.register(sock.fileno(), WRITE)
        ((fd, mask),) = poller.poll(TIMEOUT)
        assert fd == sock.fileno()
        assert mask & WRITE


def test_a_poll_with_a_timeout_ends_without_news(poller: Poller) -> None:
    assert poller.poll(0.001) == []


def test_a_poll_without_a_timeout_waits_for_news(poller: Poller, pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    poller.register(near.fileno(), READ)
    polling = threading.Timer(0.01, far.send, [b"x"])
    polling.start()
    assert in_time(lambda: poller.poll(-1)) == [(near.fileno(), READ)]
    polling.join()


def test_epoll_reports_a_hang_up_unasked_and_a_resting_socket_of_selectors_hears_nothing(
    poller: Poller, pair: tuple[socket.socket, socket.socket]
) -> None:
    near, far = pair
    poller.register(near.fileno(), 0)
    far.close()
    seen = poller.poll(0)
    assert [fd for fd, _ in seen] == ([] if isinstance(poller, SelectorsPoller) else [near.fileno()])
    assert all(mask & HANGUP for _, mask in seen)


# -- a whole Theater over each -------------------------------------------------------------------------------------


class Echo(TcpActor):
    """Sends back what it gets, in active mode; tells of the ends."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[str] = []

    def on_start(self) -> None:
        self.listener = self.tcp.listen("127.0.0.1:0")

    def address(self) -> str:
        return self.listener.address

    def handle_connection(self, connection: Any) -> None:
        connection.activate()
        connection.set_active("active")

    def on_data(self, connection: Any, data: bytes) -> None:
        connection.send(data)

    def on_close(self, _connection: Any, reason: str) -> None:
        self.ends.append(reason)

    def told(self) -> list[str]:
        return self.ends


class Caller(TcpActor):
    """Connects, sends, and collects the answer."""

    async def call(self, address: str, data: bytes) -> bytes:
        connection = await self.tcp.connect(address)
        connection.send(data)
        got = bytearray()
        while len(got) < len(data):
            got += await connection.receive(1 << 16, TIMEOUT)
        connection.shutdown_write()
        assert await connection.receive(1, TIMEOUT) == b""
        return bytes(got)


# A class of selectors that only knows select(2), as on the systems that have nothing better.
KINDS: dict[str, Callable[[], type[selectors.BaseSelector]]] = {
    "epoll": lambda: selectors.EpollSelector,
    "poll": lambda: selectors.PollSelector,
    "select": lambda: selectors.SelectSelector,
}


@pytest.fixture(params=["best", *KINDS])
def theater(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Theater]:
    """A Theater over epoll itself, and over ``selectors`` with what each system may have."""
    if request.param == "best":
        poller = best_poller()
    else:
        monkeypatch.setattr(selectors, "DefaultSelector", KINDS[request.param]())
        poller = SelectorsPoller()
    with Theater(Settings(drain_timeout=TIMEOUT), loop=EventLoop(poller)) as theater:
        yield theater


def test_a_theater_echoes_over_every_poller(theater: Theater) -> None:
    address = theater.spawn(Echo).proxy().address().get(timeout=TIMEOUT)
    host, _, port = address.rpartition(":")
    peers = [socket.create_connection((host, int(port)), TIMEOUT) for _ in range(20)]
    for number, peer in enumerate(peers):
        peer.sendall(b"hello %d" % number)
    for number, peer in enumerate(peers):
        assert peer.recv(100) == b"hello %d" % number
        peer.close()


def test_output_that_the_kernel_does_not_take_at_once_follows_over_every_poller(theater: Theater) -> None:
    """8 MiB there and back: both sides wait for writability and stop reading meanwhile."""
    echo = theater.spawn(Echo)
    caller = theater.spawn(Caller)
    data = bytes(range(256)) * (32 << 10)
    address = echo.proxy().address().get(timeout=TIMEOUT)
    assert caller.proxy().call(address, data).get(timeout=TIMEOUT * 3) == data


def test_the_end_of_the_stream_is_told_over_every_poller(theater: Theater) -> None:
    echo = theater.spawn(Echo).proxy()
    host, _, port = echo.address().get(timeout=TIMEOUT).rpartition(":")
    with socket.create_connection((host, int(port)), TIMEOUT) as peer:
        peer.sendall(b"last")
        peer.shutdown(socket.SHUT_WR)
        assert peer.recv(100) == b"last"
        assert peer.recv(100) == b""
    assert echo.told().get(timeout=TIMEOUT) == ["eof"]


def test_contract_01_a_refused_connect_is_told_over_every_poller(theater: Theater) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = "{}:{}".format(*closed.getsockname())
    caller = theater.spawn(Caller).proxy()
    with pytest.raises(Refused):
        caller.call(address, b"x").get(timeout=TIMEOUT)
