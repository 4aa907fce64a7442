"""The poller in memory keeps epoll's rules."""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Callable
from contextlib import closing

import pytest

from theater_tcp.poller import ERROR, HANGUP, PEER_SHUTDOWN, READ, WRITE, Poller
from theater_tcp.testing import MemoryPoller, MemorySocket, memory_pair

Pair = tuple[MemorySocket, MemorySocket] | tuple[socket.socket, socket.socket]


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        first = socket.create_connection(listening.getsockname())
        return first, listening.accept()[0]


both_kinds = pytest.mark.parametrize(
    ("make_poller", "make_pair"), [(MemoryPoller, memory_pair), (select.epoll, tcp_pair)], ids=["memory", "epoll"]
)
MakePoller = Callable[[], Poller]
MakePair = Callable[[], Pair]


@both_kinds
def test_readiness_is_told_as_long_as_it_lasts(make_poller: MakePoller, make_pair: MakePair) -> None:
    first, second = make_pair()
    with closing(first), closing(second), closing(make_poller()) as poller:
        poller.register(first.fileno(), READ)
        assert poller.poll(0) == []
        second.send(b"ab")
        for _ in range(2):
            assert poller.poll(0) == [(first.fileno(), READ)]
        assert first.recv(2) == b"ab"
        assert poller.poll(0) == []


@both_kinds
def test_only_what_was_asked_for_is_told_but_a_hang_up_always(make_poller: MakePoller, make_pair: MakePair) -> None:
    first, second = make_pair()
    with closing(first), closing(second), closing(make_poller()) as poller:
        poller.register(first.fileno(), WRITE)
        assert poller.poll(0) == [(first.fileno(), WRITE)]
        second.send(b"x")
        poller.modify(first.fileno(), PEER_SHUTDOWN)
        assert poller.poll(0) == []
        second.shutdown(socket.SHUT_WR)
        assert poller.poll(0) == [(first.fileno(), PEER_SHUTDOWN)]
        poller.modify(first.fileno(), 0)
        assert poller.poll(0) == []
        first.shutdown(socket.SHUT_WR)
        assert poller.poll(0) == [(first.fileno(), HANGUP)]


@both_kinds
def test_a_reset_is_told_unasked_as_an_error(make_poller: MakePoller, make_pair: MakePair) -> None:
    first, second = make_pair()
    with closing(first), closing(make_poller()) as poller:
        poller.register(first.fileno(), 0)
        first.send(b"never read")
        second.close()
        assert poller.poll(0) == [(first.fileno(), ERROR | HANGUP)]


@both_kinds
def test_a_descriptor_is_registered_once_and_known_before_it_is_changed(
    make_poller: MakePoller, make_pair: MakePair
) -> None:
    first, second = make_pair()
    with closing(first), closing(second), closing(make_poller()) as poller:
        with pytest.raises(FileNotFoundError):
            poller.modify(first.fileno(), READ)
        with pytest.raises(FileNotFoundError):
            poller.unregister(first.fileno())
        poller.register(first.fileno(), READ)
        with pytest.raises(FileExistsError):
            poller.register(first.fileno(), READ)
        poller.unregister(first.fileno())
        second.send(b"x")
        assert poller.poll(0) == []


@both_kinds
def test_a_closed_descriptor_is_silent(make_poller: MakePoller, make_pair: MakePair) -> None:
    first, second = make_pair()
    with closing(second), closing(make_poller()) as poller:
        poller.register(first.fileno(), READ)
        second.send(b"x")
        first.close()
        assert poller.poll(0) == []


@both_kinds
def test_no_more_events_are_told_than_were_asked_for(make_poller: MakePoller, make_pair: MakePair) -> None:
    first, second = make_pair()
    with closing(first), closing(second), closing(make_poller()) as poller:
        poller.register(first.fileno(), WRITE)
        poller.register(second.fileno(), WRITE)
        assert len(poller.poll(0, 1)) == 1
        assert len(poller.poll(0)) == 2


def test_a_closed_descriptor_cant_be_registered() -> None:
    first, _ = memory_pair()
    first.close()
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        MemoryPoller().register(first.fileno(), READ)
    assert caught.value.errno == errno.EBADF


def test_waiting_for_ever_for_nothing_is_refused_instead_of_hanging() -> None:
    with pytest.raises(RuntimeError, match="nothing is ready"):
        MemoryPoller().poll()


def test_the_order_of_what_is_ready_is_the_tests_to_choose() -> None:
    first, second = memory_pair()
    poller = MemoryPoller(order=list.reverse)
    for end in (first, second):
        poller.register(end.fileno(), WRITE)
    assert [fd for fd, _ in poller.poll(0)] == [second.fileno(), first.fileno()]


def test_what_is_watched_can_be_seen_and_the_systems_own_descriptors_are_left_out() -> None:
    first, _ = memory_pair()
    poller = MemoryPoller()
    poller.register(0, READ)
    poller.register(first.fileno(), READ)
    assert poller.watched == {first.fileno(): READ}
    assert poller.poll(0) == []
