"""What every transport promises, as a suite: bytes, their order, the two ends, modes, framing and handover.

A check is a function that takes a stage and raises ``AssertionError`` if the promise is broken. It knows nothing of how
the stage moves bytes, so that the same checks run over memory, in lockstep, over TCP and over Unix sockets, and under
any test runner::

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_my_transport(check):
        with MyStage() as stage:
            check(stage)

Numbers in the docstrings are the lines of the contract (``docs/connection-life-cycle.md``) that a check is about.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from theater_tcp.address import format_sockaddr
from theater_tcp.tcp import ConnectionHandle
from theater_tcp.testing.line import Line, expect, receive_exactly, refusal, spawn

if TYPE_CHECKING:
    from collections.abc import Callable

    from theater_tcp.future import Future
    from theater_tcp.testing.stage import SteppedTheater

__all__ = ["CHECKS"]

STREAM = bytes(range(256)) * 12
"""Three kibibytes in which every position of a byte can be told from its neighbours'."""


# -- bytes -----------------------------------------------------------------------------------------------------------


def pushed_bytes_arrive_once_and_in_order(stage: SteppedTheater) -> None:
    """G1."""
    owner, connection, peer = Line.on(stage)
    connection.set_active("active")
    for start in range(0, len(STREAM), 700):
        peer.send(STREAM[start : start + 700])
    stage.until(lambda: len(owner.data) >= len(STREAM), lambda: f"{len(owner.data)} of {len(STREAM)} bytes came")
    expect(owner.data, STREAM, "pushed")


def pulled_bytes_arrive_once_and_in_order(stage: SteppedTheater) -> None:
    """G1, 12: 1 to max bytes each time, waited for or there already."""
    _, connection, peer = Line.on(stage)
    waiting = connection.receive(5)
    peer.send(STREAM[:3])
    data = stage.result(waiting)
    expect(0 < len(data) <= 5, True, f"a receive of 5 got {len(data)} bytes")
    peer.send(STREAM[3:64])
    while len(data) < 64:
        got = stage.result(connection.receive(7))
        expect(0 < len(got) <= 7, True, f"a receive of 7 got {len(got)} bytes")
        data += got
    expect(data, STREAM[:64], "received")


def sent_bytes_arrive_once_and_in_order(stage: SteppedTheater) -> None:
    """11: sends leave in order, though the peer is slow."""
    _, connection, peer = Line.on(stage)
    for start in range(0, len(STREAM), 100):
        expect(connection.send(STREAM[start : start + 100]), len(STREAM[start : start + 100]), "send takes all")
    expect(peer.receive_exactly(len(STREAM)), STREAM, "the peer received")


def both_directions_carry_at_the_same_time(stage: SteppedTheater) -> None:
    """G1, with an echo that the peer reads while it sends."""
    owner, connection, peer = Line.on(stage)
    owner.reaction = lambda connection, data: connection.send(data)
    connection.set_active("active")
    echoed = b""
    for start in range(0, len(STREAM), 256):
        peer.send(STREAM[start : start + 256])
        echoed += peer.receive_exactly(256)
    expect(echoed, STREAM, "echoed")


def a_passive_connection_leaves_bytes_with_the_peer(stage: SteppedTheater) -> None:
    """G2: nobody reads ahead, so the peer can't send for ever; nothing is lost by it."""
    owner, connection, peer = Line.on(stage)
    taken = 0
    while size := peer.offer(STREAM):
        taken += size
        expect(taken < 64 << 20, True, "the peer sends for ever")
        stage.settle()
    expect(owner.data, b"", "pushed to a passive owner")
    got = receive_exactly(stage, connection, min(taken, 4 * len(STREAM)))
    expect(got, (STREAM * 4)[: len(got)], "the first bytes")


def drained_waits_for_a_peer_that_does_not_read(stage: SteppedTheater) -> None:
    """11: send takes all, drained waits, and reading pauses meanwhile."""
    owner, connection, peer = Line.on(stage)
    connection.set_options(write_buffer_limit=2048, write_buffer_hard_limit=1 << 20)
    connection.set_active("active")
    sent = 0
    while (drained := connection.drained()).done:
        sent += connection.send(STREAM)
        expect(sent < 64 << 20, True, "what the kernel takes has no end")
    peer.send(b"!")
    expect(owner.data, b"", "read though output waits")
    expect(peer.receive_exactly(sent)[-len(STREAM) :], STREAM, "the last bytes")
    stage.result(drained)
    stage.until(lambda: owner.data == b"!", "reading did not go on")


# -- modes -----------------------------------------------------------------------------------------------------------


def once_pushes_one_chunk_and_can_be_armed_again(stage: SteppedTheater) -> None:
    """8: passive already when the callback starts, which may arm it again."""
    owner, connection, peer = Line.on(stage)
    connection.set_active("once")
    peer.send(b"a")
    stage.until(lambda: bool(owner.chunks), "no chunk")
    peer.send(b"b")
    stage.settle()
    expect(owner.chunks, [b"a"], "pushed by once")
    owner.reaction = lambda connection, _data: connection.set_active("once") if len(owner.chunks) < 3 else None
    connection.set_active("once")
    stage.until(lambda: len(owner.chunks) == 2, "no second chunk")
    peer.send(b"c")
    stage.until(lambda: len(owner.chunks) == 3, "arming in the callback was lost")
    peer.send(b"d")
    stage.settle()
    expect(owner.chunks, [b"a", b"b", b"c"], "pushed")
    expect(receive_exactly(stage, connection, 1), b"d", "the rest")


def count_pushes_so_many_chunks_and_tells(stage: SteppedTheater) -> None:
    """9."""
    owner, connection, peer = Line.on(stage)
    connection.set_active(2)
    for told, byte in enumerate((b"a", b"b", b"c")):
        stage.until(lambda told=told: len(owner.chunks) == told, lambda: f"only {owner.chunks}")  # type: ignore[misc]
        peer.send(byte)
    stage.until(lambda: owner.passive == 1, "no on_passive")
    stage.settle()
    expect((owner.chunks, owner.passive), ([b"a", b"b"], 1), "pushed by count(2)")
    expect(receive_exactly(stage, connection, 1), b"c", "the rest")


def passive_holds_at_once_and_loses_nothing(stage: SteppedTheater) -> None:
    """7: no on_data begins after set_active("passive"); receive gives what was not handed over."""
    owner, connection, peer = Line.on(stage)
    owner.reaction = lambda connection, _data: connection.set_active("passive")
    connection.set_active("active")
    peer.send(b"a")
    stage.until(lambda: bool(owner.chunks), "no chunk")
    peer.send(b"bc")
    stage.settle()
    expect(owner.chunks, [b"a"], "pushed")
    expect(receive_exactly(stage, connection, 2), b"bc", "the rest")


def a_transfer_takes_every_unread_byte_along(stage: SteppedTheater) -> None:
    """10: the new owner finds it open and passive; the old one is a stranger."""
    owner, connection, peer = Line.on(stage)
    other = spawn(stage)
    connection.set_framing("line", 64)
    connection.set_active("once")
    peer.send(b"one\ntwo\n")
    stage.until(lambda: owner.chunks == [b"one\n"], "no line")
    connection.transfer(other.actor_ref)
    peer.send(b"three\n")
    stage.until(lambda: bool(other.arrived), "the new owner did not hear of it")
    expect((owner.chunks, other.chunks), ([b"one\n"], []), "pushed")
    expect(refusal(stage, lambda: connection.send(b"!")), "not-owner", "the old owner's send")
    other.arrived[0].set_active("active")
    stage.until(lambda: len(other.chunks) == 2, "no more lines")
    expect(other.chunks, [b"two\n", b"three\n"], "the new owner's lines")


# -- framing ---------------------------------------------------------------------------------------------------------


def lines_are_cut_where_they_end(stage: SteppedTheater) -> None:
    """Whatever the pieces in which they come; the last one may lack its end."""
    owner, connection, peer = Line.on(stage)
    connection.set_framing("line", 100)
    connection.set_active("active")
    for piece in (b"on", b"e\ntwo\n\nth", b"ree", b"\nfour"):
        peer.send(piece)
    stage.until(lambda: len(owner.chunks) == 4, lambda: f"only {owner.chunks}")
    peer.shutdown_write()
    stage.until(lambda: bool(owner.closed), "no end")
    expect(owner.chunks, [b"one\n", b"two\n", b"\n", b"three\n", b"four"], "the lines")
    expect(owner.closed, ["eof"], "the end")


def a_line_without_its_end_is_received_before_the_end(stage: SteppedTheater) -> None:
    """12, 18: though it may come together with the end."""
    _, connection, peer = Line.on(stage)
    connection.set_options(half_open=True)
    connection.set_framing("line", 100)
    peer.send(b"last")
    peer.close()
    for wanted in (b"last", b"", b""):
        expect(stage.result(connection.receive(100)), wanted, "received")


def a_frame_without_its_end_is_no_end_of_stream(stage: SteppedTheater) -> None:
    """A part of a frame is nothing, and the owner is told that there was more to come."""
    owner, connection, peer = Line.on(stage)
    connection.set_framing("length-2", 100)
    peer.send(b"\0\3tw")
    peer.close()
    expect(refusal(stage, lambda: connection.receive(100)), "io", "a part of a frame")
    stage.until(lambda: bool(owner.closed), "no on_close")
    expect(owner.closed, ["io: the stream ended inside of a frame"], "the reasons")


def a_change_of_framing_cuts_what_is_unread_anew(stage: SteppedTheater) -> None:
    """As BDAT of SMTP needs it (RFC 3030): a line, so many bytes, and lines again, all in one segment."""
    owner, connection, peer = Line.on(stage)
    connection.set_framing("line", 100)
    peer.send(b"BDAT 5\r\nhelloNOOP\r\nQUIT\r\n\3endrest")
    expect(stage.result(connection.receive(100)), b"BDAT 5\r\n", "the line")
    connection.set_framing("raw")
    expect(receive_exactly(stage, connection, 5), b"hello", "the bytes")
    connection.set_framing("line", 100)
    expect(stage.result(connection.receive(100)), b"NOOP\r\n", "the line after the bytes")
    connection.set_active("once")
    stage.until(lambda: bool(owner.chunks), "no line")
    expect(owner.chunks, [b"QUIT\r\n"], "the pushed line")
    connection.set_framing("length-1")
    expect(stage.result(connection.receive(100)), b"end", "the frame")
    connection.set_framing("raw")
    expect(receive_exactly(stage, connection, 4), b"rest", "the rest")


def frames_are_cut_by_their_length(stage: SteppedTheater) -> None:
    """The prefix comes off here, and is put on for what is sent."""
    owner, connection, peer = Line.on(stage)
    connection.set_framing("length-2", 1000)
    connection.set_active("active")
    for piece in (b"\0", b"\3on", b"e\0\1x\0", b"\2yz"):
        peer.send(piece)
    stage.until(lambda: len(owner.chunks) == 3, lambda: f"only {owner.chunks}")
    expect(owner.chunks, [b"one", b"x", b"yz"], "the frames")
    connection.send(b"reply")
    expect(peer.receive_exactly(7), b"\0\5reply", "the frame that was sent")


# -- the end ---------------------------------------------------------------------------------------------------------


def the_end_of_stream_comes_after_the_last_byte(stage: SteppedTheater) -> None:
    """18, 19."""
    owner, connection, peer = Line.on(stage)
    connection.set_active("active")
    peer.send(STREAM[:100])
    peer.close()
    stage.until(lambda: bool(owner.closed), "no on_close")
    stage.settle()
    expect(owner.data, STREAM[:100], "the bytes before the end")
    expect(owner.closed, ["eof"], "the reasons")


def a_passive_owner_hears_of_the_end_and_receives_what_came_before(stage: SteppedTheater) -> None:
    """12, 18: the bytes first, then the end of the stream again and again."""
    owner, connection, peer = Line.on(stage)
    connection.set_options(half_open=True)
    peer.send(b"last words"[:1])
    peer.close()
    stage.settle()
    expect(owner.closed, [], "told before the bytes were received")
    expect(receive_exactly(stage, connection, 1), b"l", "the bytes before the end")
    for _ in range(3):
        expect(stage.result(connection.receive(10)), b"", "after the end")
    stage.until(lambda: bool(owner.closed), "no on_close")
    expect(owner.closed, ["eof"], "the reasons")


def a_peer_that_half_closes_still_gets_its_answer(stage: SteppedTheater) -> None:
    """18: half_open leaves the connection writable until close."""
    owner, connection, peer = Line.on(stage)
    connection.set_options(half_open=True)
    connection.set_active("active")
    peer.send(b"question")
    peer.shutdown_write()
    stage.until(lambda: bool(owner.closed), "no on_close")
    connection.send(b"answer")
    expect(peer.receive_exactly(6), b"answer", "the answer")
    connection.close()
    expect(peer.receive_all(), b"", "after the answer")
    expect(peer.ended, "eof", "the peer's end")


def an_owner_that_half_closes_goes_on_receiving(stage: SteppedTheater) -> None:
    """shutdown_write: what was sent, then FIN; the other direction goes on."""
    owner, connection, peer = Line.on(stage)
    connection.set_active("active")
    connection.send(STREAM)
    connection.shutdown_write()
    expect(peer.receive_all(), STREAM, "before the end")
    peer.send(b"still here")
    stage.until(lambda: owner.data == b"still here", "nothing came after the half-close")


def a_reset_by_the_peer_is_told_once(stage: SteppedTheater) -> None:
    """19."""
    owner, connection, peer = Line.on(stage)
    connection.set_active("active")
    peer.send(b"x")
    peer.abort()
    stage.until(lambda: bool(owner.closed), "no on_close")
    stage.settle()
    without_reset = "eof" if peer.tls is None else "tls-truncated"
    expect(owner.closed, ["reset" if stage.can_reset else without_reset], "the reasons")


def close_delivers_what_was_sent(stage: SteppedTheater) -> None:
    """13: flushed, then FIN; the owner that closed hears nothing more."""
    owner, connection, peer = Line.on(stage)
    connection.set_active("active")
    connection.send(STREAM)
    connection.close()
    expect(peer.receive_all(), STREAM, "before the end")
    expect(peer.ended, "eof", "the peer's end")
    peer.close()
    stage.until(lambda: not stage.network.connections, "the connection did not end")
    expect((owner.chunks, owner.closed), ([], []), "heard after close")


def close_on_top_of_unread_bytes_delivers_what_was_sent(stage: SteppedTheater) -> None:
    """13: unread bytes must not turn the close into a reset that destroys the last words."""
    owner, connection, peer = Line.on(stage)
    peer.offer(b"never read")
    stage.settle()
    connection.send(b"bye")
    connection.close()
    expect(peer.receive_all(), b"bye", "the last words")
    expect(peer.ended, "eof", "the peer's end")
    expect(owner.closed, [], "heard after close")


def abort_resets_the_peer(stage: SteppedTheater) -> None:
    """13: RST, at once; the owner that aborted hears nothing more."""
    owner, connection, peer = Line.on(stage)
    connection.set_active("active")
    connection.abort()
    peer.receive_all()
    without_reset = "eof" if peer.tls is None else "truncated"
    expect(peer.ended, "reset" if stage.can_reset else without_reset, "the peer's end")
    expect((owner.chunks, owner.closed), ([], []), "heard after abort")
    expect(len(stage.network.connections), 0, "connections that are left")


def nothing_begins_after_a_close_in_a_callback(stage: SteppedTheater) -> None:
    """13: not even for bytes that are there already."""
    owner, connection, peer = Line.on(stage)
    owner.reaction = lambda connection, _data: connection.close()
    connection.set_framing("line", 64)
    peer.send(b"one\n")
    connection.set_active("active")
    peer.offer(b"two\n")
    stage.until(lambda: bool(owner.chunks), "no line")
    stage.settle()
    expect((owner.chunks, owner.closed), ([b"one\n"], []), "heard")


def a_failing_callback_ends_its_connection_alone(stage: SteppedTheater) -> None:
    """G3, 19: callback: and the exception's class; another connection of the same owner goes on."""
    owner, connection, peer = Line.on(stage)
    other_peer = stage.connect_to(owner.actor_ref)
    stage.until(lambda: len(owner.arrived) == 2, "the second connection did not arrive")

    def react(its: ConnectionHandle, data: bytes) -> None:
        if its is connection:
            raise ValueError("on purpose")
        its.send(data)

    owner.reaction = react
    for its in owner.arrived:
        its.set_active("active")
    peer.send(b"x")
    stage.until(lambda: bool(owner.closed), "no on_close")
    expect(owner.closed, ["callback: ValueError"], "the reasons")
    other_peer.send(b"y")
    expect(other_peer.receive_exactly(1), b"y", "the other connection's echo")


def addresses_are_those_of_the_two_ends(stage: SteppedTheater) -> None:
    """The peer's is its own, and the local one is the one that the peer is connected to."""
    _, connection, peer = Line.on(stage)
    family = peer.socket.family
    expect(connection.local_address, format_sockaddr(family, peer.socket.getpeername()), "the local address")
    expect(connection.peer_address, format_sockaddr(family, peer.socket.getsockname()), "the peer's address")


def a_waiting_receive_ends_with_the_connection(stage: SteppedTheater) -> None:
    """12: end of stream is the empty byte string; a second receive while one waits is busy."""
    _, connection, peer = Line.on(stage)
    waiting: Future[Any] = connection.receive(10)
    expect(refusal(stage, lambda: connection.receive(10)), "busy", "a second receive")
    peer.close()
    expect(stage.result(waiting), b"", "the waiting receive")


CHECKS: tuple[Callable[[SteppedTheater], None], ...] = (
    pushed_bytes_arrive_once_and_in_order,
    pulled_bytes_arrive_once_and_in_order,
    sent_bytes_arrive_once_and_in_order,
    both_directions_carry_at_the_same_time,
    a_passive_connection_leaves_bytes_with_the_peer,
    drained_waits_for_a_peer_that_does_not_read,
    once_pushes_one_chunk_and_can_be_armed_again,
    count_pushes_so_many_chunks_and_tells,
    passive_holds_at_once_and_loses_nothing,
    a_transfer_takes_every_unread_byte_along,
    lines_are_cut_where_they_end,
    a_line_without_its_end_is_received_before_the_end,
    a_change_of_framing_cuts_what_is_unread_anew,
    frames_are_cut_by_their_length,
    a_frame_without_its_end_is_no_end_of_stream,
    the_end_of_stream_comes_after_the_last_byte,
    a_passive_owner_hears_of_the_end_and_receives_what_came_before,
    a_peer_that_half_closes_still_gets_its_answer,
    an_owner_that_half_closes_goes_on_receiving,
    a_reset_by_the_peer_is_told_once,
    close_delivers_what_was_sent,
    close_on_top_of_unread_bytes_delivers_what_was_sent,
    abort_resets_the_peer,
    nothing_begins_after_a_close_in_a_callback,
    a_failing_callback_ends_its_connection_alone,
    addresses_are_those_of_the_two_ends,
    a_waiting_receive_ends_with_the_connection,
)
"""The suite."""
