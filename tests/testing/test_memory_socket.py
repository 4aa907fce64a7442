"""Sockets in memory do what the system's TCP sockets do, and the faults that are asked of them."""

from __future__ import annotations

import errno
import select
import socket
import struct
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theater_tcp.poller import ERROR, HANGUP, PEER_SHUTDOWN, READ, WRITE
from theater_tcp.testing import MemorySocket, memory_pair

BITS = READ | WRITE | ERROR | HANGUP | PEER_SHUTDOWN
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
RESET = ConnectionResetError(errno.ECONNRESET, "reset")


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected TCP sockets of the system."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        first = socket.create_connection(listening.getsockname())
        second, _ = listening.accept()
    for end in (first, second):
        end.setblocking(False)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return first, second


def outcome_of(call: Callable[..., Any], *args: Any) -> Any:
    """What a call returns, or the name of the errno that it raises."""
    try:
        return call(*args)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def readiness_of(end: Any) -> int | None:
    """The bits that a poller reports for a socket; None for a closed one."""
    if isinstance(end, MemorySocket):
        return end.readiness() if end.fileno() >= 0 else None
    if end.fileno() < 0:
        return None
    with closing(select.epoll()) as poller:
        poller.register(end.fileno(), BITS)
        return next((mask & BITS for _, mask in poller.poll(0)), 0)


def receive_into(end: Any, size: int) -> bytes:
    buffer = bytearray(size)
    return bytes(buffer[: end.recv_into(buffer)])


def abort(end: Any) -> None:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    end.close()


CALLS: dict[str, Callable[[Any, int], Any]] = {
    "send": lambda end, size: end.send(bytes(range(size))),
    "sendmsg": lambda end, size: end.sendmsg([b"a" * size, memoryview(b"bc")]),
    "recv": lambda end, size: end.recv(size),
    "recv_into": receive_into,
    "peek": lambda end, size: end.recv(size, socket.MSG_PEEK),
    "shutdown": lambda end, _: end.shutdown(socket.SHUT_WR),
    "close": lambda end, _: end.close(),
    "abort": lambda end, _: abort(end),
    "error": lambda end, _: end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR),
    "peer": lambda end, _: end.getpeername() and "known",
}

steps = st.tuples(st.sampled_from(list(CALLS)), st.sampled_from((0, 1)), st.integers(1, 9))


@settings(max_examples=300)
@given(st.lists(steps, max_size=20))
def test_a_pair_in_memory_answers_every_call_as_a_tcp_pair_of_the_system_does(
    script: list[tuple[str, int, int]],
) -> None:
    system, memory = tcp_pair(), memory_pair()
    try:
        for call, end, size in script:
            expected = outcome_of(CALLS[call], system[end], size)
            assert outcome_of(CALLS[call], memory[end], size) == expected, (call, end)
            assert [readiness_of(one) for one in memory] == [readiness_of(one) for one in system], (call, end)
    finally:
        for one in system:
            one.close()


# -- room ----------------------------------------------------------------------------------------------------------


def test_a_peer_that_does_not_read_stops_the_sender_when_both_buffers_are_full() -> None:
    left, right = memory_pair(receive_capacity=4, send_capacity=3)
    assert left.send(b"0123456789") == 7
    with pytest.raises(BlockingIOError):
        left.send(b"789")
    assert right.recv(100) == b"0123", "what has not arrived can't be read yet"
    assert right.recv(100) == b"456"


def test_in_lockstep_each_byte_is_read_before_the_next_is_taken() -> None:
    left, right = memory_pair(lockstep=True)
    for byte in (b"a", b"b"):
        assert left.send(byte + b"x") == 1
        with pytest.raises(BlockingIOError):
            left.send(b"x")
        assert not left.readiness() & WRITE
        assert right.recv(10) == byte
        assert left.readiness() & WRITE


def test_a_full_buffer_is_writable_again_when_a_third_of_it_is_free() -> None:
    left, right = memory_pair(receive_capacity=60, send_capacity=30)
    left.send(bytes(90))
    right.recv(29)
    assert not left.readiness() & WRITE
    right.recv(1)
    assert left.readiness() & WRITE


def test_the_end_of_the_stream_comes_behind_bytes_that_are_still_on_their_way() -> None:
    left, right = memory_pair(receive_capacity=2, send_capacity=2)
    left.send(b"abcd")
    left.close()
    assert not right.readiness() & PEER_SHUTDOWN
    assert right.recv(10) == b"ab"
    assert right.readiness() & PEER_SHUTDOWN
    assert (right.recv(10), right.recv(10)) == (b"cd", b"")


def test_a_reset_destroys_what_is_on_its_way_and_not_what_has_arrived() -> None:
    left, right = memory_pair(receive_capacity=2, send_capacity=2)
    left.send(b"abcd")
    left.abort()
    assert right.recv(10) == b"ab"
    with pytest.raises(ConnectionResetError):
        right.recv(10)
    assert right.recv(10) == b""


@pytest.mark.parametrize(("receive_capacity", "send_capacity"), [(0, 5), (1, -1)])
def test_a_pair_without_room_for_a_byte_is_refused(receive_capacity: int, send_capacity: int) -> None:
    with pytest.raises(ValueError, match="room for a byte"):
        memory_pair(receive_capacity=receive_capacity, send_capacity=send_capacity)


# -- faults --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [lambda end: end.recv(5), lambda end: end.recv_into(bytearray(5))])
def test_a_queued_fault_happens_at_the_next_recv_and_then_no_more(call: Callable[[MemorySocket], object]) -> None:
    left, right = memory_pair()
    right.send(b"abc")
    left.fail_next("recv", RESET)
    with pytest.raises(ConnectionResetError):
        call(left)
    assert left.recv(5) == b"abc"


@pytest.mark.parametrize("call", [lambda end: end.send(b"a"), lambda end: end.sendmsg([b"a", b"b"])])
def test_faults_of_one_call_happen_in_order(call: Callable[[MemorySocket], object]) -> None:
    left, right = memory_pair()
    left.fail_next("send", BlockingIOError(), times=2)
    left.fail_next("send", RESET)
    for error in (BlockingIOError, BlockingIOError, ConnectionResetError):
        with pytest.raises(error):
            call(left)
    call(left)
    assert right.recv(1) == b"a"


def test_a_write_or_a_read_can_be_cut_short() -> None:
    left, right = memory_pair()
    left.shorten_next("send", 2)
    assert left.send(b"abcd") == 2
    assert left.send(b"cd") == 2
    right.shorten_next("recv", 1, times=2)
    assert [right.recv(9) for _ in range(3)] == [b"a", b"b", b"cd"]


def test_a_socket_with_a_fault_ahead_counts_as_ready_for_it() -> None:
    left, _ = memory_pair(lockstep=True)
    left.send(b"x")
    assert left.readiness() == 0
    left.fail_next("recv", RESET)
    assert left.readiness() == READ
    left.fail_next("send", RESET)
    assert left.readiness() == READ | WRITE


@pytest.mark.parametrize("call", ["shutdown", "getpeername", "getsockname"])
def test_the_other_calls_can_fail_too(call: str) -> None:
    left, _ = memory_pair()
    left.fail_next(call, OSError(errno.ENOBUFS, "no buffers"))
    arguments = [socket.SHUT_WR] if call == "shutdown" else []
    with pytest.raises(OSError, match="no buffers"):
        getattr(left, call)(*arguments)
    getattr(left, call)(*arguments)


def test_a_fault_of_a_call_that_there_is_not_is_refused() -> None:
    left, _ = memory_pair()
    with pytest.raises(ValueError, match="accept"):
        left.fail_next("accept", RESET)
    with pytest.raises(ValueError, match="shutdown"):
        left.shorten_next("shutdown", 1)


# -- what else a connection asks of a socket -----------------------------------------------------------------------


def test_a_pair_knows_its_addresses_and_options() -> None:
    left, right = memory_pair(socket.AF_INET6, ("::1", 1, 0, 0), ("::1", 2, 0, 0))
    assert (left.family, left.getsockname(), left.getpeername()) == (
        socket.AF_INET6,
        ("::1", 1, 0, 0),
        ("::1", 2, 0, 0),
    )
    assert right.getpeername() == left.getsockname()
    left.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    assert left.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    assert right.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0


def test_no_two_descriptors_are_the_same_and_a_closed_socket_has_none() -> None:
    ends = [end for _ in range(5) for end in memory_pair()]
    assert len({end.fileno() for end in ends}) == 10
    ends[0].close()
    assert ends[0].fileno() == -1


def test_a_socket_in_memory_does_not_block() -> None:
    left, _ = memory_pair()
    left.setblocking(False)
    with pytest.raises(OSError, match="Invalid argument"):
        left.setblocking(True)
