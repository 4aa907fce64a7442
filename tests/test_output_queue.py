"""The output queue: what was appended comes out of it once and in order, whatever the socket takes at a time."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theater_tcp.output_queue import MAX_PIECES, OutputQueue

Sent = bytes | bytearray | memoryview

KINDS: list[Callable[[bytes], Sent]] = [bytes, bytearray, memoryview, lambda data: memoryview(bytearray(data))]
datas = st.builds(lambda kind, data: kind(data), st.sampled_from(KINDS), st.binary(max_size=40))


class Narrow:
    """A socket that takes so many bytes at each call, and counts the calls."""

    def __init__(self, appetites: list[int]) -> None:
        self.appetites = appetites
        self.taken = b""
        self.pieces: list[int] = []

    def send(self, data: bytes | memoryview) -> int:
        return self.sendmsg([memoryview(data)])

    def sendmsg(self, buffers: list[memoryview]) -> int:
        self.pieces.append(len(buffers))
        data = b"".join(buffers)
        appetite = self.appetites.pop(0) if self.appetites else len(data)
        self.taken += data[:appetite]
        return min(appetite, len(data))


class Broken:
    """A socket that raises."""

    def __init__(self, error: OSError) -> None:
        self.error = error

    def send(self, _data: bytes | memoryview) -> int:
        raise self.error

    def sendmsg(self, _buffers: list[memoryview]) -> int:
        raise self.error


@given(pieces=st.lists(datas, max_size=80), appetites=st.lists(st.integers(0, 60), max_size=30))
def test_everything_goes_out_once_and_in_order_whatever_the_socket_takes(
    pieces: list[Sent], appetites: list[int]
) -> None:
    queue, sink = OutputQueue(), Narrow(appetites)
    expected = b"".join(bytes(piece) for piece in pieces)
    for piece in pieces:
        queue.append(piece)
    assert queue.size == len(expected)
    while queue.size:
        before = queue.size
        taken = queue.write_to(sink)
        assert queue.size == before - taken
        assert len(sink.taken) + queue.size == len(expected)
    assert sink.taken == expected


@given(script=st.lists(st.one_of(datas, st.integers(1, 60)), max_size=60))
def test_appending_and_writing_may_alternate(script: list[Sent | int]) -> None:
    queue, sink, expected = OutputQueue(), Narrow([]), b""
    for step in script:
        if isinstance(step, int):
            if queue.size:
                sink.appetites = [step]
                queue.write_to(sink)
        else:
            queue.append(step)
            expected += bytes(step)
    while queue.size:
        queue.write_to(sink)
    assert sink.taken == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("start", range(5))
def test_what_the_kernel_took_already_is_left_out(kind: Callable[[bytes], Sent], start: int) -> None:
    queue, sink = OutputQueue(), Narrow([])
    queue.append(kind(b"abcd"), start)
    assert queue.size == 4 - start
    if queue.size:
        queue.write_to(sink)
    assert sink.taken == b"abcd"[start:]


@pytest.mark.parametrize("view", [bytearray, lambda data: memoryview(bytearray(data))])
def test_what_the_owner_changes_after_sending_goes_out_as_it_was(
    view: Callable[[bytes], bytearray | memoryview],
) -> None:
    queue, sink = OutputQueue(), Narrow([])
    data = view(b"before")
    queue.append(data)
    data[:] = b"after!"
    queue.write_to(sink)
    assert sink.taken == b"before"


def test_immutable_data_is_not_copied() -> None:
    queue, data = OutputQueue(), bytes(100)
    queue.append(data)
    seen: list[object] = []

    class Looking(Narrow):
        def send(self, data: bytes | memoryview) -> int:
            seen.append(data.obj if isinstance(data, memoryview) else data)
            return super().send(data)

    queue.write_to(Looking([]))
    assert len(seen) == 1
    assert seen[0] is data


def test_one_call_takes_no_more_pieces_than_the_system_allows() -> None:
    queue, sink = OutputQueue(), Narrow([])
    for _ in range(3 * MAX_PIECES):
        queue.append(b"x")
    while queue.size:
        queue.write_to(sink)
    assert sink.pieces == [MAX_PIECES] * 3


def test_empty_data_is_no_piece() -> None:
    queue, sink = OutputQueue(), Narrow([])
    for data in (b"", b"a", bytearray(), b"b"):
        queue.append(data)
    queue.write_to(sink)
    assert (sink.taken, sink.pieces) == (b"ab", [2])


@pytest.mark.parametrize("error", [BlockingIOError(), ConnectionResetError(), BrokenPipeError()])
@pytest.mark.parametrize("pieces", [[b"abc"], [b"abc", b"def"]])
def test_what_a_socket_refuses_stays_in_the_queue(error: OSError, pieces: list[bytes]) -> None:
    queue, sink = OutputQueue(), Narrow([])
    for piece in pieces:
        queue.append(piece)
    with pytest.raises(type(error)):
        queue.write_to(Broken(error))
    assert queue.size == 3 * len(pieces)
    queue.write_to(sink)
    assert sink.taken == b"".join(pieces)


def test_a_cleared_queue_holds_nothing() -> None:
    queue = OutputQueue()
    queue.append(b"abc")
    queue.clear()
    assert queue.size == 0
    queue.append(b"d")
    sink = Narrow([])
    queue.write_to(sink)
    assert sink.taken == b"d"


def test_a_socket_of_the_system_takes_what_a_queue_writes() -> None:
    queue = OutputQueue()
    left, right = socket.socketpair()
    with left, right:
        for piece in (b"one ", bytearray(b"two "), memoryview(b"three")):
            queue.append(piece)
        assert queue.write_to(left) == 13
        assert right.recv(100) == b"one two three"
