"""Contract 12: receive, and the framings under it."""

from __future__ import annotations

import queue
import struct
import threading
import tracemalloc
from typing import Any

import pytest

from tests.peers import TIMEOUT, cut, receive_exactly
from tests.support import Owner, Stage, outcome_of, settled
from theater_tcp import Options, Settings
from theater_tcp.errors import Busy, InvalidArgument, IoFailed, LimitReached, Reset, TheaterError, TimedOut

PREFIXED = {"length-1": ">B", "length-2": ">H", "length-4": ">I"}


def framed(framing: str, *payloads: bytes) -> bytes:
    return b"".join(struct.pack(PREFIXED[framing], len(payload)) + payload for payload in payloads)


@pytest.mark.parametrize("size", [1, 3, 10, 1 << 20, (1 << 32) - 1])
def test_contract_12_receive_returns_1_to_max_bytes(stage: Stage, kind: str, size: int) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="passive")
    peer.sendall(b"0123456789")
    received = b""
    while len(received) < 10:
        piece = owner.call(connection.receive, size)
        assert 1 <= len(piece) <= size
        received += piece
    assert received == b"0123456789"


def test_contract_12_receive_waits_for_data(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="passive")
    for word in (b"one", b"two"):
        received = owner.begin(connection.receive, 100)
        stage.pass_turns()
        peer.sendall(word)
        assert outcome_of(received) == word


@pytest.mark.parametrize("size", [0, -1, 1 << 32, True, 1.5, "10", None])
def test_contract_12_a_max_out_of_range_is_invalid_and_takes_nothing(stage: Stage, kind: str, size: Any) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="passive")
    peer.sendall(b"all of it")
    with pytest.raises(InvalidArgument, match="receive"):
        owner.call(connection.receive, size)
    assert owner.call(connection.receive, 100) == b"all of it"


def test_contract_12_a_second_receive_while_one_waits_is_busy(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="passive")
    received = owner.begin(connection.receive, 100)
    stage.pass_turns()
    with pytest.raises(Busy):
        connection.receive(100) if kind == "thread" else owner.call(connection.receive, 100)
    peer.sendall(b"for the first")
    assert outcome_of(received) == b"for the first"


def test_contract_12_receive_of_4_gib_allocates_what_has_arrived(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="passive")
    tracemalloc.start()
    try:
        received = owner.begin(connection.receive, (1 << 32) - 1)
        stage.pass_turns()
        peer.sendall(b"little")
        assert outcome_of(received) == b"little"
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_contract_12_at_the_end_of_the_stream_receive_gives_nothing_again_and_again(stage: Stage, kind: str) -> None:
    received: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    async def read_on(_actor: Any, connection: Any) -> None:
        connection.activate()
        for _ in range(5):
            received.put(await settled(connection.receive(5)))
        connection.send(b"and now I answer")

    owner = stage.owner(kind, handle_connection=read_on)
    peer = stage.dial(owner.listen().address)
    peer.sendall(b"the end")
    peer.shutdown(1)
    assert [received.get(timeout=TIMEOUT) for _ in range(5)] == [b"the e", b"nd", b"", b"", b""]
    assert receive_exactly(peer, 16) == b"and now I answer"
    owner.expect("handle_connection")
    owner.expect("on_close", "eof")
    owner.hears_nothing()


def test_contract_12_half_open_receive_gives_nothing_also_after_on_close(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="passive", half_open=True)
    peer.shutdown(1)
    owner.expect("on_close", "eof")
    for _ in range(3):
        assert owner.call(connection.receive, 100) == b""


def test_contract_12_a_receive_that_waits_hears_the_end_and_the_reset(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="passive")
    received = owner.begin(connection.receive, 100)
    stage.pass_turns()
    peer.close()
    assert outcome_of(received) == b""
    owner.expect("on_close", "eof")
    connection, peer = owner.meet(mode="passive")
    received = owner.begin(connection.receive, 100)
    stage.pass_turns()
    cut(peer)
    with pytest.raises(Reset):
        outcome_of(received)
    owner.expect("on_close", "reset")


@pytest.mark.parametrize("by", ["argument", "listen", "settings", "set_options"])
def test_contract_12_receive_timeout_trips_and_the_connection_goes_on(kind: str, by: str) -> None:
    settings = Settings(drain_timeout=0, options=Options(receive_timeout=0.05 if by == "settings" else None))
    with Stage(settings) as stage:
        owner = stage.owner(kind)
        own: dict[str, Any] = {"receive_timeout": 0.05} if by == "listen" else {}
        connection, peer = owner.meet(mode="passive", **own)
        if by == "set_options":
            owner.call(connection.set_options, receive_timeout=0.05)
        with pytest.raises(TimedOut):
            owner.call(connection.receive, 100, *([0.05] if by == "argument" else []))
        peer.sendall(b"late")
        assert owner.call(connection.receive, 100, TIMEOUT) == b"late"
        owner.hears_nothing()


def test_contract_12_a_receive_that_was_served_does_not_time_out_the_next_one(stage: Stage, kind: str) -> None:
    owner, clock = stage.owner(kind), stage.owner("loop")
    connection, peer = owner.meet(mode="passive")
    received = owner.begin(connection.receive, 100, 0.05)
    stage.pass_turns()
    peer.sendall(b"in time")
    assert outcome_of(received) == b"in time"
    received = owner.begin(connection.receive, 100, TIMEOUT)
    passed = threading.Event()
    clock.act(lambda actor: actor.call_later(0.1, passed.set))
    assert passed.wait(TIMEOUT)
    peer.sendall(b"much later")
    assert outcome_of(received) == b"much later"


def test_contract_12_a_timeout_that_is_no_duration_is_invalid(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="passive")
    for wrong in (-1, "1", float("nan")):
        with pytest.raises(InvalidArgument, match="timeout"):
            owner.call(connection.receive, 100, wrong)
    peer.sendall(b"fine")
    assert owner.call(connection.receive, 100) == b"fine"


@pytest.mark.parametrize("end", ["close", "abort"])
def test_contract_12_a_close_while_a_receive_waits_wakes_it_with_closed(stage: Stage, kind: str, end: str) -> None:
    owner = stage.owner(kind)
    connection, _peer = owner.meet(mode="passive")
    received = owner.begin(connection.receive, 100)
    stage.pass_turns()
    getattr(connection, end)() if kind == "thread" else owner.call(getattr(connection, end))
    with pytest.raises(TheaterError, match=r"^closed"):
        outcome_of(received)
    owner.hears_nothing()


# -- framing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["listen", "set_framing"])
@pytest.mark.parametrize("pushed", [True, False])
def test_contract_12_lines_come_whole_however_the_stream_is_cut(
    stage: Stage, kind: str, way: str, pushed: bool
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="passive", **({"framing": "line"} if way == "listen" else {}))
    if way == "set_framing":
        owner.call(connection.set_framing, "line")
    if pushed:
        owner.call(connection.set_active, "active")
    for piece in (b"on", b"e\ntwo\n", b"\nthr", b"ee\r\nun"):
        peer.sendall(piece)
        stage.pass_turns(2)
    expected = [b"one\n", b"two\n", b"\n", b"three\r\n"]
    assert chunks(owner, connection, 4, pushed) == expected
    peer.shutdown(1)
    assert chunks(owner, connection, 1, pushed) == [b"un"], "a line without its end is a chunk"
    owner.expect("on_close", "eof")


def chunks(owner: Owner, connection: Any, number: int, pushed: bool) -> list[bytes]:
    if pushed:
        return [owner.expect("on_data").value for _ in range(number)]
    return [owner.call(connection.receive, 1 << 20) for _ in range(number)]


@pytest.mark.parametrize("framing", PREFIXED)
@pytest.mark.parametrize("pushed", [True, False])
def test_contract_12_length_prefixed_frames_come_whole_and_are_sent_with_their_prefix(
    stage: Stage, kind: str, framing: str, pushed: bool
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="active" if pushed else "passive", framing=framing)
    wire = framed(framing, b"one", b"", b"two" * 80, b"", b"", b"three")
    for start in range(0, len(wire), 50):
        peer.sendall(wire[start : start + 50])
        stage.pass_turns(1)
    assert chunks(owner, connection, 3, pushed) == [b"one", b"two" * 80, b"three"]
    for payload in (b"reply", b""):
        assert owner.call(connection.send, payload) == len(payload)
        assert receive_exactly(peer, len(framed(framing, payload))) == framed(framing, payload)


@pytest.mark.parametrize("framing", PREFIXED)
def test_contract_12_an_empty_frame_does_not_hold_up_those_behind_it(stage: Stage, kind: str, framing: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="passive", framing=framing)
    received = owner.begin(connection.receive, 100)
    stage.pass_turns()
    peer.sendall(framed(framing, b"", b"", b"behind", b""))
    assert outcome_of(received) == b"behind"
    peer.sendall(framed(framing, b"", b"and on"))
    assert owner.call(connection.receive, 100) == b"and on"


@pytest.mark.parametrize(("framing", "wire"), [("line", b"x" * 101), ("length-2", struct.pack(">H", 101))])
@pytest.mark.parametrize("way", ["pushed", "receive", "waiting receive"])
def test_contract_12_max_frame_trips_with_the_reason_limit(
    stage: Stage, kind: str, framing: str, wire: bytes, way: str
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="active" if way == "pushed" else "passive", framing=framing, max_frame=100)
    if way == "pushed":
        peer.sendall(wire)
    elif way == "receive":
        peer.sendall(wire)
        stage.pass_turns()
        with pytest.raises(LimitReached, match="100"):
            owner.call(connection.receive, 1000)
    else:
        received = owner.begin(connection.receive, 1000)
        stage.pass_turns()
        peer.sendall(wire)
        with pytest.raises(LimitReached, match="100"):
            outcome_of(received)
    assert owner.expect("on_close").value.startswith("limit: ")
    owner.hears_nothing()


def test_contract_12_a_frame_of_exactly_max_frame_passes(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="passive", framing="line", max_frame=100)
    peer.sendall(b"x" * 99 + b"\n")
    assert len(owner.call(connection.receive, 1000)) == 100
    owner.call(connection.set_framing, "length-4", 100)
    peer.sendall(framed("length-4", b"y" * 100))
    assert owner.call(connection.receive, 1000) == b"y" * 100


def test_contract_12_a_frame_too_long_for_its_prefix_is_limit_and_nothing_is_sent(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="passive", framing="length-1")
    with pytest.raises(LimitReached):
        owner.call(connection.send, bytes(256))
    owner.call(connection.send, b"short")
    assert receive_exactly(peer, 6) == b"\x05short"


def test_contract_12_the_framing_can_change_between_two_chunks_of_one_segment(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="passive", framing="line")
    peer.sendall(b"BINARY 5\n" + framed("length-2", b"12345") + b"then raw\nand raw")
    assert owner.call(connection.receive, 100) == b"BINARY 5\n"
    owner.call(connection.set_framing, "length-2")
    assert owner.call(connection.receive, 100) == b"12345"
    owner.call(connection.set_framing, "raw")
    assert owner.call(connection.receive, 8) == b"then raw"
    assert owner.call(connection.receive, 100) == b"\nand raw"


def test_contract_12_the_framing_can_change_inside_of_on_data(stage: Stage, kind: str) -> None:
    def on_data(_actor: Any, connection: Any, data: bytes) -> None:
        if data == b"BINARY\n":
            connection.set_framing("length-1")

    owner = stage.owner(kind, on_data=on_data)
    _, peer = owner.meet(mode="active", framing="line")
    peer.sendall(b"one\nBINARY\n" + framed("length-1", b"1", b"22"))
    for expected in (b"one\n", b"BINARY\n", b"1", b"22"):
        owner.expect("on_data", expected)


@pytest.mark.parametrize("way", ["pushed", "receive"])
def test_contract_12_a_stream_that_ends_inside_of_a_frame_is_no_eof(stage: Stage, kind: str, way: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="active" if way == "pushed" else "passive", framing="length-2")
    peer.sendall(framed("length-2", b"whole") + b"\0\5tor")
    peer.shutdown(1)
    assert chunks(owner, connection, 1, way == "pushed") == [b"whole"]
    if way == "receive":
        with pytest.raises(IoFailed, match="inside of a frame"):
            owner.call(connection.receive, 100)
    assert owner.expect("on_close").value == "io: the stream ended inside of a frame"
    owner.hears_nothing()


@pytest.mark.parametrize("wrong", [{"framing": "lines"}, {"framing": "line", "max_frame": 0}, {"framing": 7}])
def test_contract_12_a_wrong_framing_is_invalid_and_changes_nothing(
    stage: Stage, kind: str, wrong: dict[str, Any]
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="passive", framing="line")
    with pytest.raises(InvalidArgument, match=list(wrong)[-1]):
        owner.call(lambda: connection.set_framing(**wrong))
    peer.sendall(b"one\ntwo\n")
    assert owner.call(connection.receive, 100) == b"one\n"


def test_contract_12_a_line_of_many_small_pieces_is_not_searched_again_and_again(stage: Stage) -> None:
    """A peer that sends a byte at a time costs its bytes, not the square of them."""
    owner = stage.owner("loop")
    connection, peer = owner.meet(mode="passive", framing="line")
    received = owner.begin(connection.receive, 1 << 20)
    done = threading.Event()
    outcome: list[bytes] = []

    def wait() -> None:
        outcome.append(outcome_of(received))
        done.set()

    waiter = threading.Thread(target=wait)
    waiter.start()
    for _ in range(2000):
        peer.send(b"x")
    peer.send(b"\n")
    assert done.wait(TIMEOUT)
    waiter.join()
    assert outcome == [b"x" * 2000 + b"\n"]
