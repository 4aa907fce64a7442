"""The socket's side of a connection: what is watched when, short and failing calls, lingering, the one release.

Sockets in memory, whose calls fail on demand, and a clock that the test moves.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from typing import Any

import pytest

from tests.certificates_fixture import Certificates
from theater_tcp import ConnectionHandle, Options, ServerTls, Settings
from theater_tcp.errors import ShutDown
from theater_tcp.framing import FRAMINGS
from theater_tcp.poller import PEER_SHUTDOWN, READ, WRITE
from theater_tcp.testing import MemorySocket, Peer, Stage
from theater_tcp.testing.conformance import STREAM
from theater_tcp.testing.line import GO_AHEAD, STARTTLS, Line, Owner, receive_exactly, refusal, spawn


class Keeper(Owner):
    """Leaves its connections pending."""

    def handle_connection(self, connection: ConnectionHandle) -> None:
        self.arrived.append(connection)


class Deaf(Owner):
    """Does not want to hear of the end."""

    on_close = None  # type: ignore[assignment]


def stage_with(capacity: int = 1 << 16, **options: Any) -> Stage:
    return Stage(Settings(options=Options(**options)), receive_capacity=capacity, send_capacity=0)


def far(peer: Peer) -> MemorySocket:
    """The connection's own socket."""
    end: MemorySocket = peer.socket.other_end
    return end


def watched(stage: Stage, peer: Peer) -> int | None:
    """The event mask of the connection's socket; None if it is not watched."""
    return stage.poller.watched.get(far(peer).fileno())


def os_error(code: int) -> OSError:
    return OSError(code, os.strerror(code))


# -- interest follows from the state -------------------------------------------------------------------------------


def test_contract_05_a_pending_connection_is_not_read_from() -> None:
    with Stage() as stage:
        ref = spawn(stage, Keeper).actor_ref
        peer = stage.connect_to(ref)
        peer.send(b"early")
        assert not (watched(stage, peer) or 0) & READ
        assert far(peer).recv(10, socket.MSG_PEEK) == b"early"


def test_a_passive_connection_is_watched_for_its_end_only() -> None:
    with Stage() as stage:
        _, _, peer = Line.on(stage)
        peer.send(b"unread")
        assert watched(stage, peer) == PEER_SHUTDOWN


def test_an_active_connection_is_watched_for_data() -> None:
    with Stage() as stage:
        _, connection, peer = Line.on(stage)
        connection.set_active("active")
        assert watched(stage, peer) == READ


def test_interest_in_data_ends_at_the_first_event_that_nobody_wants() -> None:
    with Stage() as stage:
        _, connection, peer = Line.on(stage)
        connection.set_active("active")
        connection.set_active("passive")
        assert watched(stage, peer) == READ, "it may be wanted again at once"
        peer.send(b"x")
        assert watched(stage, peer) == PEER_SHUTDOWN


def test_a_socket_is_watched_for_room_only_while_output_waits() -> None:
    with stage_with(capacity=10) as stage:
        _, connection, peer = Line.on(stage)
        connection.send(bytes(15))
        assert (watched(stage, peer) or 0) & WRITE
        assert peer.receive_exactly(15) == bytes(15)
        assert not (watched(stage, peer) or 0) & WRITE


def test_a_socket_that_is_read_too_is_watched_for_room_only_while_output_waits() -> None:
    with stage_with(capacity=10) as stage:
        _, connection, peer = Line.on(stage)
        connection.set_active("active")
        connection.send(bytes(15))
        assert watched(stage, peer) == READ | WRITE
        assert peer.receive_exactly(15) == bytes(15)
        assert watched(stage, peer) == READ


def test_a_closing_connection_is_watched_for_nothing_but_room_while_output_waits() -> None:
    with stage_with(capacity=10) as stage:
        _, connection, peer = Line.on(stage)
        connection.send(STREAM[:100])
        connection.close()
        peer.send(b"unread")
        peer.shutdown_write()
        assert watched(stage, peer) == WRITE
        assert peer.receive_all() == STREAM[:100]


def test_the_end_of_a_passive_connection_does_not_keep_the_loop_busy_while_its_owner_is() -> None:
    class Busy(Owner):
        """Is busy for a second after it heard of a connection."""

        async def handle_connection(self, connection: ConnectionHandle) -> None:  # type: ignore[override]
            connection.activate()
            await self.sleep(1)

    with Stage() as stage:
        owner = spawn(stage, Busy)
        peer = stage.connect_to(owner.actor_ref)
        peer.shutdown_write()
        assert watched(stage, peer) is None
        stage.advance(1)
        assert owner.closed == ["eof"]


def test_a_connection_that_is_gone_is_not_watched_again_when_its_options_change() -> None:
    with Stage() as stage:
        owner, connection, peer = Line.on(stage)
        peer.send(b"unread")
        peer.close()
        connection.shutdown_write()
        connection.set_options(nodelay=False)
        stage.settle()
        assert watched(stage, peer) is None
        assert stage.result(connection.receive(10)) == b"unread"
        stage.until(lambda: owner.closed == ["eof"])


def test_g2_reading_pauses_while_more_than_the_limit_waits_to_go_out_and_goes_on_below_it() -> None:
    with stage_with(capacity=10, write_buffer_limit=20) as stage:
        owner, connection, peer = Line.on(stage)
        connection.set_active("active")
        connection.send(bytes(31))
        peer.send(b"x")
        assert owner.chunks == []
        assert peer.receive_exactly(5) == bytes(5)
        stage.until(lambda: owner.chunks == [b"x"])


def test_unread_bytes_before_the_end_of_a_passive_connection_do_not_keep_the_loop_busy() -> None:
    with Stage() as stage:
        owner, _, peer = Line.on(stage)
        peer.send(b"unread")
        peer.close()  # settles: the loop came to rest
        assert watched(stage, peer) is None
        assert owner.closed == []


def test_a_half_open_connection_whose_end_was_told_is_watched_for_nothing_and_does_not_spin() -> None:
    with stage_with(half_open=True) as stage:
        owner, connection, peer = Line.on(stage)
        connection.set_active("active")
        peer.shutdown_write()
        connection.shutdown_write()
        stage.settle()
        assert owner.closed == ["eof"]
        assert watched(stage, peer) is None


def test_a_half_open_connection_of_an_owner_without_on_close_does_not_spin_at_its_end() -> None:
    with stage_with(half_open=True) as stage:
        owner = spawn(stage, Deaf)
        peer = stage.connect_to(owner.actor_ref)
        owner.arrived[0].set_active("active")
        peer.shutdown_write()
        assert watched(stage, peer) is None
        owner.arrived[0].send(b"still open")
        assert peer.receive_exactly(10) == b"still open"


@pytest.mark.parametrize("mode", ["active", "once", 1])
def test_what_a_receive_left_of_a_line_is_pushed_at_once(mode: str | int) -> None:
    with stage_with(framing="line") as stage:
        owner, connection, peer = Line.on(stage)
        peer.send(b"hello\n")
        assert stage.result(connection.receive(3)) == b"hel"
        connection.set_active(mode)
        stage.settle()
        assert owner.chunks == [b"lo\n"]


def test_lines_that_came_while_the_owner_waited_are_handled_one_behind_the_other() -> None:
    class Slow(Owner):
        """Takes a second over each line."""

        async def on_data(self, _connection: ConnectionHandle, data: bytes) -> None:  # type: ignore[override]
            self.chunks.append(data)
            await self.sleep(1)

    with stage_with(framing="line") as stage:
        owner = spawn(stage, Slow)
        peer = stage.connect_to(owner.actor_ref)
        owner.arrived[0].set_active("active")
        peer.send(b"one\n")
        peer.send(b"two\nthree\nfour\n")
        for expected in (b"one\n", b"two\n", b"three\n", b"four\n"):
            assert owner.chunks.pop() == expected
            assert owner.chunks == []
            stage.advance(1)


def test_data_is_watched_for_again_after_a_turn_that_had_become_about_nothing() -> None:
    class Slow(Owner):
        """Receives, after a second, what came meanwhile, and wants to be told of the rest."""

        async def on_data(self, connection: ConnectionHandle, data: bytes) -> None:  # type: ignore[override]
            self.chunks.append(data)
            await self.sleep(1)
            connection.set_active("passive")
            if data == b"one":
                self.chunks.append(await connection.receive(100))
            connection.set_active("active")

    with Stage() as stage:
        owner = spawn(stage, Slow)
        peer = stage.connect_to(owner.actor_ref)
        owner.arrived[0].set_active("active")
        for word in (b"one", b"two", b"+"):
            peer.send(word)
        stage.advance(1)
        peer.send(b"three")
        assert owner.chunks == [b"one", b"two+", b"three"]


# -- reading -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["active", "once", 5])
@pytest.mark.parametrize("error", [BlockingIOError(), InterruptedError()])
def test_a_wake_up_for_nothing_is_no_end(mode: str | int, error: OSError) -> None:
    with Stage() as stage:
        owner, connection, peer = Line.on(stage)
        connection.set_active(mode)
        far(peer).fail_next("recv", error)
        stage.settle()
        peer.send(b"x")
        assert (owner.chunks, owner.closed) == ([b"x"], [])


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.ECONNRESET, "reset"),
        (errno.ETIMEDOUT, "timeout"),
        (errno.EHOSTUNREACH, "unreachable"),
        (errno.EIO, "io: input/output error"),
    ],
)
@pytest.mark.parametrize("mode", ["passive", "active", "once"])
def test_contract_19_a_failing_read_ends_the_connection_with_its_reason(code: int, reason: str, mode: str) -> None:
    with Stage() as stage:
        owner, connection, peer = Line.on(stage)
        connection.set_active(mode)
        far(peer).fail_next("recv", os_error(code))
        if mode == "passive":
            with pytest.raises(Exception, match=reason.partition(":")[0]):
                stage.result(connection.receive(10))
        stage.settle()
        assert owner.closed == [reason]
        assert not stage.network.connections


def test_contract_12_a_waiting_receive_is_told_why_it_will_get_nothing() -> None:
    with Stage() as stage:
        owner, connection, peer = Line.on(stage)
        waiting = connection.receive(10)
        far(peer).fail_next("recv", os_error(errno.ECONNRESET))
        with pytest.raises(Exception, match="reset"):
            stage.result(waiting)
        stage.settle()
        assert owner.closed == ["reset"]


def test_who_had_all_and_waits_again_is_told_by_the_loop_what_has_come() -> None:
    with Stage() as stage:
        _, connection, peer = Line.on(stage)
        waiting = connection.receive(100)
        peer.send(b"one")
        assert stage.result(waiting) == b"one"
        peer.offer(b"two")
        waiting = connection.receive(100)
        assert not waiting.done, "others have their turn before"
        assert stage.result(waiting) == b"two"


def test_who_may_not_have_had_all_finds_the_rest_at_once() -> None:
    with Stage() as stage:
        _, connection, peer = Line.on(stage)
        waiting = connection.receive(3)
        at_once: list[bool] = []
        waiting.on_done(lambda _: at_once.append(connection.receive(3).done))
        peer.send(b"onetwo")
        assert stage.result(waiting) == b"one"
        assert at_once == [True]


def test_who_changes_the_framing_finds_what_is_here_already_and_does_not_wait_for_the_loop() -> None:
    with Stage() as stage:
        _, connection, peer = Line.on(stage)
        waiting = connection.receive(100)
        peer.send(b"raw")
        assert stage.result(waiting) == b"raw"
        connection.set_framing("line", 100)
        waiting = connection.receive(100)
        peer.send(b"one\ntwo\n")
        assert stage.result(waiting) == b"one\n"
        waiting = connection.receive(2)
        assert stage.result(waiting) == b"tw"
        assert stage.result(connection.receive(100)) == b"o\n"


def test_who_loops_over_receive_lets_others_have_their_turn_after_sixteen_answers() -> None:
    with Stage() as stage:
        _, connection, peer = Line.on(stage)
        peer.send(STREAM[:18])
        stage.step()
        answers = [connection.receive(1) for _ in range(16)]
        assert all(answer.done for answer in answers)
        late = connection.receive(1)
        assert not late.done
        assert stage.result(late) == STREAM[16:17]
        stage.advance(0.1)
        assert connection.receive(1).done, "a new turn"


def test_a_receive_that_has_to_wait_for_its_turn_and_finds_nothing_then_waits_for_the_peer() -> None:
    with Stage() as stage:
        _, connection, peer = Line.on(stage)
        peer.send(STREAM[:16])
        stage.step()
        for _ in range(16):
            assert connection.receive(1).done
        late = connection.receive(1)
        stage.settle()
        assert not late.done
        peer.send(b"x")
        assert stage.result(late) == b"x"


@pytest.mark.parametrize("framing", ["raw", "line"])
def test_the_timeout_of_a_receive_that_was_answered_does_not_end_the_next_one(framing: str) -> None:
    with stage_with(framing=framing) as stage:
        _, connection, peer = Line.on(stage)
        waiting = connection.receive(100, timeout=10)
        stage.advance(6)
        peer.send(b"one\n")
        assert stage.result(waiting) == b"one\n"
        waiting = connection.receive(100)
        stage.advance(6)
        peer.send(b"two\n")
        assert stage.result(waiting) == b"two\n"


@pytest.mark.parametrize("framing", ["length-1", "length-2", "length-4"])
@pytest.mark.parametrize("mode", ["active", "receive"])
def test_a_frame_may_be_as_long_as_the_read_buffer_limit(framing: str, mode: str) -> None:
    with stage_with(framing=framing, read_buffer_limit=100) as stage:
        owner, connection, peer = Line.on(stage)
        waiting = None
        if mode == "active":
            connection.set_active("active")
        else:
            waiting = connection.receive(100)
        prefix = (100).to_bytes(FRAMINGS[framing], "big")
        for start in range(0, 100, 50):
            peer.send(prefix * (start == 0) + STREAM[start : start + 50])
        assert (b"".join(owner.chunks) if waiting is None else stage.result(waiting)) == STREAM[:100]


def test_g2_a_receive_that_finds_much_gives_no_more_than_the_read_buffer_limit() -> None:
    with stage_with(read_buffer_limit=10) as stage:
        _, connection, peer = Line.on(stage)
        peer.send(STREAM[:50])
        assert stage.result(connection.receive(100)) == STREAM[:10]


def test_g1_what_a_receive_left_of_a_line_comes_first_also_in_another_framing() -> None:
    with stage_with(framing="line") as stage:
        _, connection, peer = Line.on(stage)
        peer.send(b"hello\nworld")
        assert stage.result(connection.receive(3)) == b"hel"
        connection.set_framing("raw")
        assert receive_exactly(stage, connection, 8) == b"lo\nworld"


@pytest.mark.parametrize(("framing", "part"), [("line", b"DELETE 1"), ("length-1", b"\x64DELETE 1")])
@pytest.mark.parametrize("mode", ["active", "receive"])
def test_contract_19_a_reset_leaves_no_part_of_a_chunk_and_is_told_as_what_it_is(
    framing: str, part: bytes, mode: str
) -> None:
    with stage_with(framing=framing) as stage:
        owner, connection, peer = Line.on(stage)
        waiting = None
        if mode == "active":
            connection.set_active("active")
        else:
            waiting = connection.receive(100)
        peer.send(part)
        peer.abort()
        if waiting is not None:
            assert refusal(stage, lambda: waiting) == "reset"
            stage.settle()
        assert (owner.chunks, owner.closed) == ([], ["reset"])


def test_a_frame_that_is_too_long_is_found_where_it_lies_and_not_with_the_next_bytes() -> None:
    with stage_with(framing="length-1", max_frame=5) as stage:
        owner, connection, peer = Line.on(stage)
        peer.send(b"\1a\x64part")
        assert stage.result(connection.receive(5)) == b"a"
        connection.set_active("once")
        stage.settle()
        assert [reason.partition(":")[0] for reason in owner.closed] == ["limit"]


def test_a_receive_while_the_end_is_told_is_refused_as_closed() -> None:
    kinds = []

    class Last(Owner):
        """Tries once more."""

        def on_close(self, connection: ConnectionHandle, reason: str) -> None:
            kinds.append((reason, refusal(stage, lambda: connection.receive(10))))

    with Stage() as stage:
        peer = stage.connect_to(spawn(stage, Last).actor_ref)
        peer.abort()
        assert kinds == [("reset", "closed")]


@pytest.mark.parametrize("limit", [1, 10, 1000])
def test_g2_no_more_is_read_at_a_time_than_the_read_buffer_limit(limit: int) -> None:
    with stage_with(read_buffer_limit=limit) as stage:
        owner, connection, peer = Line.on(stage)
        connection.set_active("active")
        peer.send(STREAM)
        assert owner.data == STREAM
        assert max(len(chunk) for chunk in owner.chunks) == limit


# -- writing -------------------------------------------------------------------------------------------------------


def test_contract_11_what_the_kernel_takes_in_parts_leaves_in_order() -> None:
    with Stage() as stage:
        _, connection, peer = Line.on(stage)
        for size in (1, 3, 2, 50):
            far(peer).shorten_next("send", size)
        far(peer).fail_next("send", BlockingIOError())
        for start in range(0, 300, 100):
            assert connection.send(STREAM[start : start + 100]) == 100
        assert peer.receive_exactly(300) == STREAM[:300]


@pytest.mark.parametrize("code", [errno.ECONNRESET, errno.EPIPE, errno.ENOBUFS])
def test_a_failing_write_drops_the_output_and_leaves_what_the_peer_sent_readable(code: int) -> None:
    with Stage() as stage:
        owner, connection, peer = Line.on(stage)
        peer.send(b"before")
        far(peer).fail_next("send", os_error(code))
        assert connection.send(b"lost") == 4
        assert stage.result(connection.receive(100)) == b"before"
        assert peer.receive() == b""
        assert owner.closed == []


def test_contract_11_a_peer_that_takes_nothing_is_reset_after_send_timeout() -> None:
    with stage_with(capacity=10, send_timeout=30) as stage:
        owner, connection, peer = Line.on(stage)
        connection.send(bytes(100))
        stage.advance(29)
        assert owner.closed == []
        stage.advance(1)
        assert owner.closed == ["timeout"]
        peer.receive_all()
        assert peer.ended == "reset"
        assert stage.metrics().timeouts == 1


def test_contract_11_a_peer_that_takes_a_little_at_a_time_is_waited_for() -> None:
    with stage_with(capacity=10, send_timeout=30) as stage:
        owner, connection, peer = Line.on(stage)
        connection.send(STREAM[:50])
        got = b""
        while len(got) < 50:
            stage.advance(29)
            got += peer.receive_exactly(10)
        stage.advance(60)
        assert (got, owner.closed) == (STREAM[:50], [])


def test_contract_11_a_peer_that_takes_nothing_is_reset_though_the_owner_goes_on_sending() -> None:
    with stage_with(capacity=10, send_timeout=30) as stage:
        owner, connection, _ = Line.on(stage)
        for _ in range(2):
            connection.send(bytes(100))
            stage.advance(14)
        connection.send(bytes(100))
        stage.advance(2)
        assert owner.closed == ["timeout"]


def test_contract_11_drained_waits_until_half_of_the_limit_is_free() -> None:
    with stage_with(capacity=10, write_buffer_limit=40) as stage:
        _, connection, peer = Line.on(stage)
        connection.send(bytes(100))
        drained = connection.drained()
        while (output := connection._core.output) is not None and output.size > 20:
            assert not drained.done
            assert peer.receive_exactly(1) == b"\0"
        stage.result(drained)


@pytest.mark.parametrize(("code", "end"), [(errno.ECONNRESET, "reset"), (errno.EPIPE, "eof"), (errno.ENOBUFS, "eof")])
@pytest.mark.parametrize("mode", ["passive", "active"])
def test_contract_19_the_end_after_a_failed_write_is_the_peers_unless_that_was_its_reset(
    code: int, end: str, mode: str
) -> None:
    with Stage() as stage:
        owner, connection, peer = Line.on(stage)
        connection.set_active(mode)
        far(peer).fail_next("send", os_error(code))
        connection.send(b"lost")
        stage.settle()
        peer.shutdown_write()
        assert owner.closed == [end]
        assert far(peer).fileno() == -1
        assert not stage.network.connections


def test_output_that_was_dropped_has_no_deadline_any_more() -> None:
    with stage_with(capacity=10, send_timeout=30) as stage:
        owner, connection, peer = Line.on(stage)
        connection.send(bytes(100))
        far(peer).fail_next("send", os_error(errno.EPIPE))
        assert peer.receive_exactly(10) == bytes(10)
        stage.advance(60)
        assert owner.closed == []
        assert stage.metrics().timeouts == 0


@pytest.mark.parametrize("sent", ["bytes", "bytearray"])
def test_nothing_is_sent_behind_output_that_was_lost(sent: str) -> None:
    with Stage() as stage:
        _, connection, peer = Line.on(stage)
        far(peer).fail_next("send", os_error(errno.ENOBUFS))
        for word in (b"lost", b"behind", b"the hole"):
            connection.send(word if sent == "bytes" else bytearray(word))
        stage.settle()
        connection.set_active("active")
        connection.send(b"later")
        assert peer.receive() == b""
        connection.close()
        assert (peer.receive_all(), peer.ended) == (b"", "reset")


def test_who_waits_for_room_is_told_when_the_output_is_lost() -> None:
    with stage_with(capacity=10, write_buffer_limit=20) as stage:
        _, connection, peer = Line.on(stage)
        connection.send(bytes(100))
        drained = connection.drained()
        far(peer).fail_next("send", os_error(errno.EPIPE))
        assert peer.receive_exactly(10) == bytes(10)
        with pytest.raises(Exception, match="reset"):
            stage.result(drained)


def test_who_waits_for_room_is_told_when_reading_finds_the_connection_gone() -> None:
    class Sends(Owner):
        """Sends much, and waits for room."""

        async def on_data(self, connection: ConnectionHandle, data: bytes) -> None:  # type: ignore[override]
            connection.set_active("passive")
            connection.send(bytes(100))
            await connection.drained()

    with stage_with(capacity=10, write_buffer_limit=20) as stage:
        owner = spawn(stage, Sends)
        peer = stage.connect_to(owner.actor_ref)
        owner.arrived[0].set_active("active")
        peer.send(b"x")
        far(peer).fail_next("recv", os_error(errno.ECONNRESET))
        peer.shutdown_write()
        assert owner.closed == ["reset"]


def test_who_waits_for_room_is_told_when_the_connection_is_closed() -> None:
    with stage_with(capacity=10, write_buffer_limit=20) as stage:
        _, connection, peer = Line.on(stage)
        connection.send(bytes(100))
        drained = connection.drained()
        connection.close()
        with pytest.raises(Exception, match="closed"):
            stage.result(drained)
        assert peer.receive_all() == bytes(100)


def test_contract_18_a_half_open_connection_whose_output_is_lost_refuses_the_next_send() -> None:
    """Its owner has heard of the end already, and no callback tells of this."""
    with stage_with(half_open=True) as stage:
        owner, connection, peer = Line.on(stage)
        connection.set_active("active")
        peer.shutdown_write()
        assert owner.closed == ["eof"]
        far(peer).fail_next("send", os_error(errno.EPIPE))
        assert connection.send(b"lost") == 4
        with pytest.raises(Exception, match="reset"):
            connection.send(b"in vain")


def test_who_may_write_does_so_before_more_is_read() -> None:
    with stage_with(capacity=10) as stage:
        owner, connection, peer = Line.on(stage)
        connection.set_active("active")
        connection.send(bytes(15))
        assert peer.socket.recv(10) == bytes(10)
        peer.offer(b"x")
        connection._core.on_ready(READ | WRITE)
        assert (connection._core.output, owner.chunks) == (None, [b"x"])


def test_a_half_close_waits_for_the_output_before_it() -> None:
    with stage_with(capacity=10) as stage:
        _, connection, peer = Line.on(stage)
        connection.send(bytes(25))
        connection.shutdown_write()
        assert peer.receive_exactly(10) == bytes(10)
        assert peer.ended == ""
        assert peer.receive_all() == bytes(15)


def test_a_half_close_of_a_connection_that_is_gone_is_no_error() -> None:
    with Stage() as stage:
        owner, connection, peer = Line.on(stage)
        far(peer).fail_next("shutdown", os_error(errno.ENOTCONN))
        connection.shutdown_write()
        assert owner.closed == []


# -- the end -------------------------------------------------------------------------------------------------------


def test_contract_13_close_lingers_for_a_peer_that_reads_slowly_and_no_longer_than_its_time() -> None:
    with stage_with(capacity=10, linger_timeout=5) as stage:
        _, connection, peer = Line.on(stage)
        connection.send(bytes(100))
        connection.close()
        stage.advance(4)
        assert peer.receive_exactly(20) == bytes(20)
        stage.advance(1)
        peer.receive_all()
        assert peer.ended == "reset", "the stream is not complete"
        assert not stage.network.connections


def test_contract_13_a_peer_that_goes_on_sending_after_close_is_read_and_dropped_until_the_linger_time_is_over() -> (
    None
):
    with stage_with(linger_timeout=5) as stage:
        owner, connection, peer = Line.on(stage)
        peer.send(b"unread")
        connection.send(b"bye")
        connection.close()
        for _ in range(5):
            peer.send(b"more")
            assert not peer.unsent
            stage.advance(0.9)
        assert peer.receive_exactly(3) == b"bye"
        assert stage.network.connections
        stage.advance(1)
        assert not stage.network.connections
        assert (owner.chunks, owner.closed) == ([], [])


def test_contract_13_what_a_peer_has_not_got_rid_of_when_the_owner_closes_is_read_and_dropped() -> None:
    with stage_with(capacity=10) as stage:
        _, connection, peer = Line.on(stage)
        peer.send(STREAM[:100])
        assert len(peer.unsent) == 90
        connection.close()
        stage.settle()
        assert not peer.unsent


def test_contract_13_a_peers_end_that_was_seen_in_the_turn_of_the_close_does_not_cut_off_the_output() -> None:
    with stage_with(capacity=10) as stage:
        _, connection, peer = Line.on(stage)
        core = connection._core
        connection.send(STREAM[:100])
        peer.socket.shutdown(socket.SHUT_WR)
        connection.close()
        core.on_ready(READ | PEER_SHUTDOWN)  # as epoll had told before another handler let the owner close
        assert peer.receive_all() == STREAM[:100]
        assert peer.ended == "eof"


@pytest.mark.parametrize("code", [errno.ECONNRESET, errno.EPIPE])
def test_contract_13_a_failure_while_it_flushes_ends_a_closing_connection_silently(code: int) -> None:
    with stage_with(capacity=10) as stage:
        owner, connection, peer = Line.on(stage)
        connection.send(bytes(100))
        connection.close()
        far(peer).fail_next("send", os_error(code))
        stage.settle()
        assert not stage.network.connections
        assert owner.closed == []


@pytest.mark.parametrize("mode", ["active", "once", 1])
def test_contract_18_the_end_behind_the_last_bytes_is_told_though_the_owner_is_passive_by_then(mode: str | int) -> None:
    with Stage() as stage:
        owner, connection, peer = Line.on(stage)
        owner.reaction = lambda connection, _data: connection.set_active("passive")
        peer.send(b"last")
        peer.close()
        connection.set_active(mode)
        stage.until(lambda: owner.closed == ["eof"])
        assert owner.data == b"last"


def test_contract_19_what_was_sent_before_a_callback_failed_is_delivered() -> None:
    def send_and_fail(connection: ConnectionHandle, _data: bytes) -> None:
        connection.send(STREAM)
        raise ValueError("on purpose")

    with stage_with(capacity=10) as stage:
        owner, connection, peer = Line.on(stage)
        owner.reaction = send_and_fail
        connection.set_active("active")
        peer.send(b"x")
        assert peer.receive_all() == STREAM
        assert (peer.ended, owner.closed) == ("eof", ["callback: ValueError"])


def test_contract_11_a_connection_that_reached_its_limit_is_reset_since_its_stream_is_cut() -> None:
    with stage_with(capacity=10, write_buffer_limit=20, write_buffer_hard_limit=50) as stage:
        owner, connection, peer = Line.on(stage)
        with pytest.raises(Exception, match="limit"):
            connection.send(bytes(100))
        peer.receive_all()
        assert peer.ended == "reset"
        assert [reason.partition(":")[0] for reason in owner.closed] == ["limit"]


@pytest.mark.parametrize("kind", [Owner, Deaf], ids=["on_close", "no on_close"])
def test_contract_13_a_stream_that_ends_inside_of_a_frame_is_flushed_and_closed_within_the_linger_time(
    kind: type[Owner],
) -> None:
    with stage_with(capacity=10, framing="length-2", linger_timeout=5) as stage:
        owner = spawn(stage, kind)
        for takes in (True, False):
            peer = stage.connect_to(owner.actor_ref)
            connection = owner.arrived[-1]
            connection.set_active("active")
            connection.send(STREAM[:98])
            peer.send(b"\0\3tw")
            peer.shutdown_write()
            if takes:
                assert peer.receive_all() == b"\0\x62" + STREAM[:98]
            stage.advance(5)
            assert not stage.network.connections
        reason = "io: the stream ended inside of a frame"
        assert owner.closed == ([reason, reason] if kind is Owner else [])


def test_contract_18_a_half_open_connection_whose_end_was_told_ends_with_its_send_timeout() -> None:
    with stage_with(capacity=10, half_open=True, send_timeout=30) as stage:
        owner, connection, peer = Line.on(stage)
        connection.set_active("active")
        peer.shutdown_write()
        connection.send(bytes(100))
        stage.advance(30)
        assert owner.closed == ["eof"]
        assert not stage.network.connections


def test_contract_19_a_callback_that_passes_on_the_runtimes_end_is_no_failure() -> None:
    def passes_on(_connection: ConnectionHandle, _data: bytes) -> None:
        raise ShutDown

    with Stage() as stage:
        owner, connection, peer = Line.on(stage)
        owner.reaction = passes_on
        connection.set_active("active")
        peer.send(b"x")
        assert owner.closed == ["shutdown"]
        assert stage.metrics().callback_failures == 0


def test_contract_09_no_on_passive_comes_behind_the_failure_of_the_last_callback() -> None:
    def fail(_connection: ConnectionHandle, _data: bytes) -> None:
        raise ValueError("on purpose")

    with Stage() as stage:
        owner, connection, peer = Line.on(stage)
        owner.reaction = fail
        connection.set_active(1)
        peer.send(b"x")
        assert (owner.passive, owner.closed) == (0, ["callback: ValueError"])


def end_by_peer_close(_connection: ConnectionHandle, peer: Peer) -> None:
    peer.close()


def end_by_peer_reset(_connection: ConnectionHandle, peer: Peer) -> None:
    peer.abort()


def end_by_close(connection: ConnectionHandle, _peer: Peer) -> None:
    connection.close()


def end_by_close_on_unread_bytes(connection: ConnectionHandle, peer: Peer) -> None:
    connection.set_active("passive")
    peer.send(b"unread")
    connection.close()
    peer.close()


def end_by_abort(connection: ConnectionHandle, _peer: Peer) -> None:
    connection.abort()


def end_by_limit(connection: ConnectionHandle, peer: Peer) -> None:
    connection.set_framing("line", 3)
    peer.send(b"too long")


def end_by_read_error(_connection: ConnectionHandle, peer: Peer) -> None:
    far(peer).fail_next("recv", os_error(errno.EIO))


def end_by_stop_of_its_actor(connection: ConnectionHandle, _peer: Peer) -> None:
    connection.actor_ref.stop(block=False)


ENDS = [value for name, value in globals().items() if name.startswith("end_by")]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
@pytest.mark.parametrize("sent", [0, 5])
def test_whatever_ends_a_connection_its_socket_is_released_once_and_nothing_is_left(end: Any, sent: int) -> None:
    with Stage() as stage:
        _, connection, peer = Line.on(stage)
        connection.set_active("active")
        connection.send(bytes(sent))
        end(connection, peer)
        stage.advance(10)
        assert far(peer).fileno() == -1
        assert stage.metrics().closed == 1
        assert stage.metrics().connections == stage.network.accepted_now == 0
        assert len(stage.poller.watched) == 1, "the listener's"
        assert not stage.network.connections


def kept(stage: Stage) -> int:
    """How many connections the idle deadlines keep in memory."""
    return sum(map(len, stage.network.idle_deadlines._by_duration.values()))


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
def test_a_connection_that_ends_while_the_rest_of_its_idle_timeout_passes_is_not_kept_for_it(end: Any) -> None:
    with stage_with(idle_timeout=1000) as stage:
        _, connection, peer = Line.on(stage)
        connection.set_active("active")
        stage.advance(400)
        peer.send(b"x")
        stage.advance(700)
        assert kept(stage) == 1
        end(connection, peer)
        stage.advance(10)
        assert not stage.network.connections
        assert kept(stage) == 0


@pytest.mark.parametrize("mode", ["active", "once", "passive", "receive"])
def test_a_connection_that_hears_of_its_peer_is_not_idle(mode: str) -> None:
    with stage_with(idle_timeout=1000) as stage:
        owner, connection, peer = Line.on(stage)
        owner.reaction = lambda connection, _data: connection.set_active(mode)
        if mode in ("active", "once"):
            connection.set_active(mode)
        for _ in range(3):
            waiting = connection.receive(10) if mode == "receive" else None
            stage.advance(700)
            peer.send(b"x")
            if mode == "passive":
                waiting = connection.receive(10)
            assert waiting is None or stage.result(waiting) == b"x"
        assert owner.closed == []


def test_what_was_sent_goes_out_though_the_connection_is_idle() -> None:
    with stage_with(capacity=10, idle_timeout=20, linger_timeout=50) as stage:
        owner, connection, peer = Line.on(stage)
        connection.send(STREAM[:50])
        stage.advance(20)
        assert owner.closed == ["timeout"]
        assert (peer.receive_all(), peer.ended) == (STREAM[:50], "eof")
        assert stage.metrics().timeouts == 1


def test_a_connection_whose_peer_takes_a_little_at_a_time_is_not_idle() -> None:
    with stage_with(capacity=10, idle_timeout=20, send_timeout=1000) as stage:
        owner, connection, peer = Line.on(stage)
        connection.send(STREAM[:50])
        for start in range(0, 40, 10):
            stage.advance(15)
            assert peer.receive_exactly(10) == STREAM[start : start + 10]
        assert owner.closed == []


def test_changed_options_replace_the_rest_of_an_idle_timeout() -> None:
    with stage_with(idle_timeout=1000) as stage:
        owner, connection, peer = Line.on(stage)
        stage.advance(400)
        connection.send(b"x")
        stage.advance(700)
        connection.set_options(idle_timeout=5000)
        assert kept(stage) == 1
        connection.set_options(idle_timeout=None)
        assert kept(stage) == 0
        stage.advance(10000)
        assert (owner.closed, peer.ended) == ([], "")


def test_an_upgrade_replaces_the_rest_of_an_idle_timeout(certificates: Certificates) -> None:
    files = certificates.server
    server_tls = ServerTls(cert=files.cert, key=files.key, auto_handshake=False)
    with stage_with(idle_timeout=1000, server_tls=server_tls) as stage:
        peer = stage.connect_to(spawn(stage).actor_ref)
        stage.advance(400)
        peer.send(STARTTLS[:4])
        stage.advance(700)
        peer.send(STARTTLS[4:])
        assert peer.receive_until(b"\n") == GO_AHEAD
        peer.start_tls("localhost", ssl.create_default_context(cafile=certificates.ca))
        assert kept(stage) == 1


def test_a_connection_that_is_activated_when_its_socket_has_failed_already_is_not_kept_for_its_idle_timeout() -> None:
    class Slow(Owner):
        """Activates its connections a second after it heard of them."""

        async def handle_connection(self, connection: ConnectionHandle) -> None:  # type: ignore[override]
            await self.sleep(1)
            connection.activate()

    with stage_with(idle_timeout=1000) as stage:
        owner = spawn(stage, Slow)
        stage.connect_to(owner.actor_ref).abort()
        stage.advance(1)
        assert owner.closed == ["reset"]
        assert kept(stage) == 0


def test_a_peer_that_resets_a_pending_connection_is_told_by_on_close() -> None:
    with Stage() as stage:
        owner = spawn(stage, Keeper)
        peer = stage.connect_to(owner.actor_ref)
        peer.abort()
        stage.until(lambda: owner.closed == ["reset"])
        assert not stage.network.connections


def test_a_peer_that_leaves_a_pending_connection_is_told_when_it_is_activated() -> None:
    with Stage() as stage:
        owner = spawn(stage, Keeper)
        peer = stage.connect_to(owner.actor_ref)
        peer.close()
        assert owner.closed == []
        owner.arrived[0].activate()
        stage.until(lambda: owner.closed == ["eof"])


class Handler(Owner):
    """Hands its connection over, and is ended while it still waits."""

    actor_stop_interrupts = True

    async def on_data(self, connection: ConnectionHandle, data: bytes) -> None:  # type: ignore[override]
        self.reaction(connection, data)
        await self.sleep(1000)


def test_contract_g4_an_owner_that_is_ended_in_its_callback_takes_no_connection_along_that_it_had_handed_over() -> None:
    with Stage() as stage:
        other, owner = spawn(stage), spawn(stage, Handler)
        peer = stage.connect_to(owner.actor_ref)
        owner.reaction = lambda connection, _data: connection.transfer(other.actor_ref)
        owner.arrived[0].set_active("active")
        peer.send(b"x")
        assert len(other.arrived) == 1
        owner.actor_ref.stop(block=False)
        stage.settle()
        assert not owner.actor_ref.is_alive()
        other.arrived[0].send(b"alive")
        assert peer.receive_exactly(5) == b"alive"


def test_a_connection_whose_end_is_being_told_does_not_outlive_the_runtime() -> None:
    class Lingering(Owner):
        """Takes its time over the end."""

        async def on_close(self, connection: ConnectionHandle, reason: str) -> None:  # type: ignore[override]
            self.closed.append(reason)
            await self.sleep(10000)

    with Stage() as stage:
        owner = spawn(stage, Lingering)
        peer = stage.connect_to(owner.actor_ref)
        peer.shutdown_write()
        assert owner.closed == ["eof"]
        stage.shutdown(0)
        assert not stage.network.connections
        assert far(peer).fileno() == -1


# -- addresses and options -----------------------------------------------------------------------------------------


def test_changed_timeouts_hold_for_what_waits_already() -> None:
    with stage_with(capacity=10, send_timeout=30, pending_timeout=30) as stage:
        owner, connection, _ = Line.on(stage)
        keeper = spawn(stage, Keeper)
        stage.connect_to(keeper.actor_ref)
        connection.send(bytes(100))
        stage.advance(20)
        connection.set_options(send_timeout=100)
        keeper.arrived[0].set_options(pending_timeout=100)
        stage.advance(90)
        assert owner.closed == keeper.closed == []
        stage.advance(10)
        assert owner.closed == keeper.closed == ["timeout"]


def test_changed_framing_makes_a_chunk_of_what_was_none() -> None:
    with stage_with(framing="line") as stage:
        owner, connection, peer = Line.on(stage)
        connection.set_active("active")
        peer.send(b"no line")
        connection.set_framing("raw")
        stage.settle()
        assert owner.chunks == [b"no line"]


def test_addresses_are_still_there_in_on_close() -> None:
    seen = []

    class Last(Owner):
        def on_close(self, connection: ConnectionHandle, reason: str) -> None:
            seen.append((connection.peer_address, connection.local_address, reason))

    with Stage() as stage:
        peer = stage.connect_to(spawn(stage, Last).actor_ref)
        own, there = (f"{host}:{port}" for host, port in (peer.socket.getsockname(), peer.socket.getpeername()))
        peer.close()
        assert seen == [(own, there, "eof")]


def test_an_address_that_the_system_does_not_tell_any_more_is_empty() -> None:
    with Stage() as stage:
        _, connection, peer = Line.on(stage)
        far(peer).fail_next("getsockname", os_error(errno.ENOTCONN))
        assert connection.local_address == ""


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"nodelay": False}, {socket.TCP_NODELAY: 0}),
        ({"nodelay": True, "keepalive": 60}, {socket.TCP_NODELAY: 1, socket.TCP_KEEPIDLE: 60}),
    ],
)
def test_changed_options_reach_the_socket(options: dict[str, Any], expected: dict[int, int]) -> None:
    with Stage() as stage:
        _, connection, peer = Line.on(stage)
        connection.set_options(**options)
        found = {option: far(peer).getsockopt(socket.IPPROTO_TCP, option) for option in expected}
        assert found == expected
        wanted = int(options.get("keepalive", False) is not False)
        assert far(peer).getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == wanted


def test_changed_options_hold_for_the_next_send_also_while_data_waits_for_the_owner() -> None:
    class Slow(Owner):
        """Reacts a second after the data came."""

        async def on_data(self, connection: ConnectionHandle, data: bytes) -> None:  # type: ignore[override]
            self.chunks.append(data)
            await self.sleep(1)
            self.reaction(connection, data)

    def answer_in_a_frame(connection: ConnectionHandle, _data: bytes) -> None:
        connection.set_framing("length-1")
        connection.send(b"framed")

    with Stage() as stage:
        owner = spawn(stage, Slow)
        peer = stage.connect_to(owner.actor_ref)
        owner.reaction = answer_in_a_frame
        owner.arrived[0].set_active("active")
        peer.send(b"raw")
        peer.send(b"\4more")
        stage.advance(1)
        assert peer.receive_exactly(7) == b"\6framed"
        assert owner.chunks == [b"raw", b"more"]
