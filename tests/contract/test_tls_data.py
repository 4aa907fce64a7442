"""Contract 7 to 12, G1 and G2 over TLS: data modes, framing, limits and back-pressure are as they are in plaintext."""

from __future__ import annotations

import array
import queue
import socket
import ssl
import threading
import tracemalloc
from typing import TYPE_CHECKING, Any

import pykka
import pytest

from tests.peers import TIMEOUT, eventually, settled_unread_in_kernel, stuff
from tests.support import outcome_of, settled
from tests.tls_peer import TlsPeer
from tests.tls_stage import SIDES, TlsOwner, TlsStage
from theater_tcp.errors import LimitReached, TimedOut, TlsFailed, WrongMode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.certificates_fixture import Certificates

KIB = 1 << 10
MIB = 1 << 20
MORE_THAN_THE_SYSTEM_TAKES = 8 * MIB

ROOMY: dict[str, Any] = {"write_buffer_limit": 64 * MIB, "write_buffer_hard_limit": 128 * MIB}


@pytest.fixture
def stage(certificates: Certificates) -> Iterator[TlsStage]:
    with TlsStage(certificates) as stage:
        yield stage


@pytest.fixture(params=["loop", "thread"])
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of the owner."""
    return str(request.param)


@pytest.fixture(params=SIDES)
def side(request: pytest.FixtureRequest) -> str:
    """Which end of TLS the runtime is."""
    return str(request.param)


def patterned(size: int) -> bytes:
    """Bytes whose order shows."""
    return array.array("I", range(size // 4)).tobytes()


def small_window(owner: TlsOwner, **options: Any) -> tuple[Any, TlsPeer]:
    """An encrypted connection whose peer takes little before it reads."""
    stage = owner.stage
    listener = owner.listen(**{**stage.tls_options(auto_handshake=True), **options})
    sock = socket.socket()
    stage.peers.append(sock)
    sock.settimeout(TIMEOUT)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * KIB)
    sock.connect(("127.0.0.1", int(listener.address.rpartition(":")[2])))
    peer = stage.tls_peer("server", sock).handshake()
    connection = owner.expect("handle_connection").connection
    owner.call(connection.activate)
    return connection, peer


# -- modes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("segments", [1, 3])
def test_contract_08_once_is_one_on_data_also_where_more_records_are_here_already(
    stage: TlsStage, kind: str, side: str, segments: int
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_tls(side, framing="line")
    lines = [b"one\n", b"two\n", b"three\n"]
    if segments == 1:
        peer.sock.sendall(b"".join(peer.seal(line) for line in lines))
    else:
        for line in lines:
            peer.send(line)
            stage.pass_turns()
    for line in lines:
        owner.call(connection.set_active, "once")
        owner.expect("on_data", line)
        owner.hears_nothing()


def test_contract_08_once_may_be_rearmed_inside_of_its_callback(stage: TlsStage, kind: str, side: str) -> None:
    owner = stage.owner(kind, on_data=lambda _actor, connection, _data: connection.set_active("once"))
    connection, peer = owner.meet_tls(side, framing="line")
    peer.send(b"".join(b"line %d\n" % number for number in range(50)))
    owner.call(connection.set_active, "once")
    for number in range(50):
        owner.expect("on_data", b"line %d\n" % number)
    owner.hears_nothing()


def test_contract_08_once_and_then_receive_gives_what_follows_in_the_same_record(
    stage: TlsStage, kind: str, side: str
) -> None:
    received: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    async def on_data(_actor: Any, connection: Any, _data: bytes) -> None:
        received.put(await settled(connection.receive(100)))

    owner = stage.owner(kind, on_data=on_data)
    connection, peer = owner.meet_tls(side, framing="line")
    owner.call(connection.set_active, "once")
    peer.send(b"one\ntwo\n")
    owner.expect("on_data", b"one\n")
    assert received.get(timeout=TIMEOUT) == b"two\n"


def test_contract_09_a_count_runs_out_exactly_and_on_passive_follows(stage: TlsStage, kind: str, side: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_tls(side, framing="line")
    peer.send(b"".join(b"line %d\n" % number for number in range(5)))
    owner.call(connection.set_active, 3)
    for number in range(3):
        owner.expect("on_data", b"line %d\n" % number)
    owner.expect("on_passive")
    owner.hears_nothing()
    assert owner.call(connection.receive, 100) == b"line 3\n"
    assert owner.call(connection.receive, 100) == b"line 4\n"


def test_contract_07_after_passive_no_on_data_begins_and_what_was_decrypted_is_received(
    stage: TlsStage, kind: str, side: str
) -> None:
    def on_data(_actor: Any, connection: Any, data: bytes) -> None:
        if data == b"stop\n":
            connection.set_active("passive")

    owner = stage.owner(kind, on_data=on_data)
    connection, peer = owner.meet_tls(side, mode="active", framing="line")
    peer.send(b"go\nstop\nthree\nfour\n")
    owner.expect("on_data", b"go\n")
    owner.expect("on_data", b"stop\n")
    owner.hears_nothing()
    assert owner.call(connection.receive, 100) == b"three\n"
    owner.call(connection.set_active, "active")
    owner.expect("on_data", b"four\n")


def test_contract_07_a_change_of_framing_or_mode_forgets_no_decrypted_byte(
    stage: TlsStage, kind: str, side: str
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_tls(side, framing="line")
    peer.send(b"head\n" + b"\0\0\0\4body" + b"x" * 40_000)
    assert owner.call(connection.receive, 100) == b"head\n"
    owner.call(connection.set_framing, "length-4")
    assert owner.call(connection.receive, 100) == b"body"
    owner.call(connection.set_framing, "raw")
    for mode in ("once", 1):
        owner.call(connection.set_active, mode)
        data = owner.expect("on_data").value
        assert set(data) == {ord("x")}
        if mode == 1:
            owner.expect("on_passive")
        peer.send(b"x")
    owner.hears_nothing()


@pytest.mark.parametrize("size", [1, 7, 1000, 16 * KIB, 16 * KIB + 1, 100_000])
def test_contract_12_receive_returns_1_to_max_bytes_and_the_rest_of_a_record_is_kept(
    stage: TlsStage, kind: str, side: str, size: int
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_tls(side)
    data = patterned(40_000 if size >= 1000 else 400)
    peer.send(data)
    received = b""
    while len(received) < len(data):
        piece = owner.call(connection.receive, size)
        assert 1 <= len(piece) <= size
        received += piece
    assert received == data
    with pytest.raises(TimedOut):
        owner.call(connection.receive, size, 0.02)


@pytest.mark.parametrize("mode", ["active", "once", 7])
def test_contract_12_receive_is_wrong_mode_while_data_is_pushed(
    stage: TlsStage, kind: str, side: str, mode: str | int
) -> None:
    owner = stage.owner(kind)
    connection, _ = owner.meet_tls(side, mode=mode)
    with pytest.raises(WrongMode):
        owner.call(connection.receive, 100)


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.parametrize("framing", ["line", "length-1", "length-2", "length-4"])
@pytest.mark.parametrize("crumbs", ["one segment", "a record for each byte", "ciphertext byte by byte"])
def test_contract_12_frames_are_exact_however_the_records_are_cut(
    stage: TlsStage, kind: str, framing: str, crumbs: str, version: str
) -> None:
    owner = stage.owner(kind)
    context = stage.peer_context("server", version=ssl.TLSVersion[version])
    _, peer = owner.meet_tls("server", mode="active", framing=framing, context=context)
    bodies = [b"first", b"second one", b"x" * 200]
    if framing == "line":
        bodies = [body + b"\n" for body in (*bodies, b"")]
    width = 0 if framing == "line" else int(framing[-1])
    stream = b"".join((len(body).to_bytes(width, "big") if width else b"") + body for body in bodies)
    if crumbs == "a record for each byte":
        ciphertext = [b"".join(peer.seal(stream[i : i + 1]) for i in range(len(stream)))]
    else:
        sealed = peer.seal(stream)
        ciphertext = [sealed] if crumbs == "one segment" else [sealed[i : i + 1] for i in range(len(sealed))]
    for piece in ciphertext:
        peer.sock.sendall(piece)
    for body in bodies:
        owner.expect("on_data", body)
    owner.hears_nothing()


def test_contract_12_frames_go_out_with_their_length_encrypted(stage: TlsStage, kind: str, side: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_tls(side, framing="length-2")
    for body in (b"first", b"second"):
        owner.call(connection.send, body)
    assert peer.receive_exactly(15) == b"\0\5first\0\6second"


def test_contract_G1_every_byte_arrives_once_and_in_order_across_changes_of_mode(
    stage: TlsStage, kind: str, side: str
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_tls(side)
    data = patterned(2 * MIB)
    sending = threading.Thread(target=peer.send, args=(data,))
    sending.start()
    received = bytearray()
    modes: list[str | int] = ["once", 2, "passive", "once", "passive", 3]
    turn = 0
    while len(received) < len(data):
        mode = modes[turn % len(modes)]
        turn += 1
        if mode == "passive":
            received += owner.call(connection.receive, 10_000)
            continue
        owner.call(connection.set_active, mode)
        for _ in range(1 if mode == "once" else int(mode)):
            if len(received) < len(data):
                received += owner.expect("on_data").value
        if mode != "once" and len(received) < len(data):
            owner.expect("on_passive")
    assert bytes(received) == data
    sending.join(TIMEOUT)


# -- sending and both at once ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [bytes, bytearray, memoryview])
def test_contract_11_send_takes_the_whole_length_in_any_form(stage: TlsStage, kind: str, side: str, form: Any) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_tls(side)
    for size in (1, 0, 1000, 16 * KIB, 16 * KIB + 4, 300 * KIB):
        data = patterned(size) if size >= 4 else b"x" * size
        assert owner.call(connection.send, form(data)) == len(data)
        assert peer.receive_exactly(len(data)) == data


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_contract_G5_8_mib_both_ways_at_once_arrive_whole_and_nobody_waits_for_the_other(
    stage: TlsStage, kind: str, side: str, version: str
) -> None:
    owner = stage.owner(kind)
    context = stage.peer_context(side, version=ssl.TLSVersion[version])
    connection, peer = owner.meet_tls(side, context=context, mode="active", **(ROOMY if kind == "loop" else {}))
    data = patterned(8 * MIB)
    out = peer.seal(data)  # now, since one SSLObject is not for two threads at once
    feeding = threading.Thread(target=peer.sock.sendall, args=(out,))
    feeding.start()
    sending = owner.begin(connection.send, data)
    assert peer.receive_exactly(len(data)) == data
    assert outcome_of(sending) == len(data)
    assert owner.collect(len(data)) == data
    feeding.join(TIMEOUT)


def test_contract_G5_two_actors_of_one_runtime_flood_each_other_over_tls(stage: TlsStage, kind: str) -> None:
    data = patterned(4 * MIB)

    def handle_connection(_actor: Any, connection: Any) -> None:
        connection.activate()
        connection.set_active("active")

    def echo(_actor: Any, connection: Any, piece: bytes) -> None:
        connection.send(piece)

    server = stage.owner(kind, handle_connection=handle_connection, on_data=echo)
    options = {**stage.tls_options(auto_handshake=True), **ROOMY}
    address = server.listen("localhost:0", **options).address
    client = stage.owner("loop")
    connection = client.connect(f"localhost:{address.rpartition(':')[2]}", **options)
    client.call(connection.set_active, "active")
    client.call(connection.send, data)
    assert client.collect(len(data)) == data


def test_contract_11_a_thread_blocks_above_write_buffer_limit_until_the_peer_takes_it(stage: TlsStage) -> None:
    owner = stage.owner("thread")
    connection, peer = small_window(owner, write_buffer_limit=64 * KIB)
    data = patterned(MORE_THAN_THE_SYSTEM_TAKES)
    sending = owner.begin(connection.send, data)
    received = peer.receive_exactly(1000)
    stage.pass_turns()
    with pytest.raises(pykka.Timeout):
        sending.get(timeout=0)
    assert received + peer.receive_exactly(len(data) - 1000) == data
    assert outcome_of(sending) == len(data)


def test_contract_11_on_the_loop_reading_pauses_and_drained_waits(stage: TlsStage) -> None:
    owner = stage.owner("loop")
    connection, peer = small_window(owner, write_buffer_limit=64 * KIB)
    data = patterned(MORE_THAN_THE_SYSTEM_TAKES)
    owner.call(connection.set_active, "active")
    assert owner.call(connection.send, data) == len(data)
    drained = owner.begin(connection.drained).get(timeout=TIMEOUT)
    peer.send(b"unheard while so much waits")
    owner.hears_nothing()
    assert not drained.done
    assert peer.receive_exactly(len(data)) == data
    assert outcome_of(drained) is None
    assert owner.collect(27) == b"unheard while so much waits"


@pytest.mark.parametrize("pieces", [1, 3, 64])
def test_contract_11_write_buffer_hard_limit_trips_and_the_stream_does_not_look_whole(
    stage: TlsStage, pieces: int
) -> None:
    owner = stage.owner("loop")
    connection, peer = small_window(owner, write_buffer_limit=64 * KIB, write_buffer_hard_limit=MIB)
    size = MORE_THAN_THE_SYSTEM_TAKES // pieces

    def send_all(_actor: Any) -> None:
        for _ in range(pieces):
            connection.send(bytes(size))

    with pytest.raises(LimitReached):
        owner.act(send_all)
    assert owner.expect("on_close").value.startswith("limit: ")
    assert peer.ending()[1] in ("reset", "eof"), "and no close_notify"
    owner.hears_nothing()


def test_contract_11_what_waits_is_counted_before_it_is_encrypted_and_not_held_twice(stage: TlsStage) -> None:
    owner = stage.owner("loop")
    connection, peer = small_window(owner, **ROOMY)
    data = bytes(32 * MIB)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        owner.call(connection.send, data)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert peak < 2.5 * len(data)
    owner.call(connection.abort)
    assert peer.ending()[1] == "reset"


def test_contract_11_a_peer_that_takes_nothing_for_send_timeout_is_closed(stage: TlsStage, kind: str) -> None:
    owner = stage.owner(kind)
    connection, peer = small_window(owner, send_timeout=0.2, **(ROOMY if kind == "loop" else {}))
    sending = owner.begin(connection.send, patterned(MORE_THAN_THE_SYSTEM_TAKES))
    if kind == "thread":
        with pytest.raises(TimedOut):
            outcome_of(sending)
    owner.expect("on_close", "timeout")
    assert peer.ending()[1] == "reset"


def test_contract_19_idle_timeout_is_put_off_by_traffic_in_either_direction(
    stage: TlsStage, kind: str, side: str
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_tls(side, mode="active", idle_timeout=0.4)
    pause = threading.Event()
    for _ in range(3):
        pause.wait(0.2)
        peer.send(b"ping")
        assert owner.collect(4) == b"ping"
        pause.wait(0.2)
        owner.call(connection.send, b"pong")
        assert peer.receive_exactly(4) == b"pong"
    owner.expect("on_close", "timeout")
    assert peer.receive_to_end() == b""


# -- G2 ---------------------------------------------------------------------------------------------------------------


class Gate:
    """Lets a callback wait until the test opens it, on the loop and on a thread."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._opened = threading.Event()

    async def wait(self, actor: Any) -> None:
        self.reached.set()
        on_loop = hasattr(actor, "to_thread")
        assert await settled(actor.to_thread(self._opened.wait, TIMEOUT) if on_loop else self._opened.wait(TIMEOUT))

    def open(self) -> None:
        self._opened.set()


@pytest.mark.parametrize("framing", ["raw", "line"])
def test_contract_G2_a_slow_owner_stops_the_reading_and_the_peer_is_held_by_its_window(
    stage: TlsStage, kind: str, framing: str
) -> None:
    gate = Gate()
    limit = 16 * KIB

    async def on_data(actor: Any, _connection: Any, _data: bytes) -> None:
        await gate.wait(actor)

    owner = stage.owner(kind, on_data=on_data)
    _, peer = owner.meet_tls("server", mode="active", framing=framing, read_buffer_limit=limit)
    line = b"x" * (limit - 1) + b"\n"
    sent = stuff(peer.sock, peer.seal(line * 640))  # 10 MiB: the system takes no more than 4 MiB and a little
    assert gate.reached.wait(TIMEOUT)
    stage.pass_turns(20)
    handled = len(owner.expect("on_data").value)
    # Beyond what was handled and the limit, the engine holds what it needs to make out a record.
    assert sent - settled_unread_in_kernel(peer.sock) <= handled + limit + 40 * KIB
    assert sent > MIB, "the peer is held by the window of TCP, not by this test's modesty"
    gate.open()


def test_contract_G2_a_passive_connection_that_nobody_receives_from_holds_nothing(stage: TlsStage, kind: str) -> None:
    owner = stage.owner(kind)
    _, peer = owner.meet_tls("server")
    sent = stuff(peer.sock, peer.seal(bytes(10 * MIB)))
    stage.pass_turns()
    # The end of the stream might stand behind it, so a little is looked at.
    assert sent - settled_unread_in_kernel(peer.sock) <= 40 * KIB
    assert sent > MIB
    owner.hears_nothing()


def test_contract_G2_memory_stays_bounded_while_fifty_peers_flood_a_slow_owner(stage: TlsStage, kind: str) -> None:
    gate = Gate()

    async def on_data(actor: Any, _connection: Any, _data: bytes) -> None:
        await gate.wait(actor)

    owner = stage.owner(kind, on_data=on_data)
    peers = [owner.meet_tls("server", at_once=True, read_buffer_limit=8 * KIB)[0:2] for _ in range(50)]
    for connection, _ in peers:
        owner.call(connection.set_active, "active")
    sealed = [peer.seal(bytes(MIB)) for _, peer in peers]
    tracemalloc.start()
    try:
        sent = sum(stuff(peer.sock, out) for (_, peer), out in zip(peers, sealed, strict=True))
        assert gate.reached.wait(TIMEOUT)
        stage.pass_turns()
        assert tracemalloc.get_traced_memory()[1] < 50 * 64 * KIB + MIB < sent
    finally:
        tracemalloc.stop()
        gate.open()


def test_contract_G2_a_fast_sender_of_tiny_records_does_not_keep_other_connections_from_their_turn(
    stage: TlsStage,
) -> None:
    owner = stage.owner("loop")
    _, flooding = owner.meet_tls("server")
    owner.call(lambda: None)
    other = stage.owner("loop")
    connection, peer = other.meet_tls("server")
    out = b"".join(flooding.seal(b"x") for _ in range(20_000))
    feeding = threading.Thread(target=flooding.sock.sendall, args=(out,))
    first = next(iter(owner.act(lambda actor: actor.connections)))
    owner.call(first.set_active, "active")
    feeding.start()
    for _ in range(10):
        other.speaks(connection, peer)
    owner.collect(20_000)
    feeding.join(TIMEOUT)


def test_contract_19_a_hundred_connections_over_tls_are_told_apart(stage: TlsStage) -> None:
    owner = stage.owner("loop", on_data=lambda _actor, connection, data: connection.send(data))
    address = owner.listen(**stage.tls_options(auto_handshake=True)).address
    peers = []
    for _ in range(100):
        peers.append(stage.tls_peer("server", stage.dial(address)).handshake())
        connection = owner.expect("handle_connection").connection
        owner.call(connection.activate)
        owner.call(connection.set_active, "active")
    for number, peer in enumerate(peers):
        peer.send(b"%6d" % number)
    for number, peer in enumerate(peers):
        assert peer.receive_exactly(6) == b"%6d" % number
    for peer in peers:
        peer.sock.sendall(peer.goodbye())
    eventually(lambda: stage.theater.metrics().connections == 0)


# -- what comes in one piece with something else ----------------------------------------------------------------------

FORGED = b"\x17\x03\x03\x00\x20" + b"A" * 32


def test_contract_19_an_answer_to_what_came_with_a_forged_record_is_no_failure_of_the_callback(
    stage: TlsStage, kind: str
) -> None:
    owner = stage.owner(kind, on_data=lambda _actor, connection, data: connection.send(data))
    _, peer = owner.meet_tls("server", mode="active")
    peer.sock.sendall(peer.seal(b"good") + FORGED)
    assert owner.expect("on_data").value == b"good"
    assert owner.expect("on_close").value.startswith("tls: a record is wrong (")
    assert stage.theater.metrics().callback_failures == 0


def test_contract_12_a_receive_by_lines_hears_of_a_forged_record_behind_half_a_line(stage: TlsStage, kind: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_tls("server", framing="line")
    peer.sock.sendall(peer.seal(b"half a line") + FORGED)
    with pytest.raises(TlsFailed, match="a record is wrong"):
        owner.call(connection.receive, 100)


def test_contract_12_a_receive_goes_on_with_what_the_engine_has(stage: TlsStage, kind: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_tls("server", framing="length-1", read_buffer_limit=4096)
    peer.send(b"\0" * 4097 + b"\5hello")
    assert owner.call(connection.receive, 100) == b"hello"


def test_contract_12_a_line_in_two_records_is_whole_after_a_half_close_and_a_change_of_framing(
    stage: TlsStage, kind: str
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_tls("server")
    peer.sock.sendall(peer.seal(b"HEADhello ") + peer.seal(b"world\n"))
    assert owner.call(connection.receive, 4) == b"HEAD"
    owner.call(connection.shutdown_write)
    owner.call(connection.set_options, framing="line")
    assert owner.call(connection.receive, 100) == b"hello world\n"


@pytest.mark.parametrize("limit", [512, 64 * KIB])
def test_contract_11_a_thread_that_sends_much_waits_for_room_also_where_both_limits_are_one(
    stage: TlsStage, limit: int
) -> None:
    owner = stage.owner("thread")
    connection, peer = owner.meet_tls("server", write_buffer_limit=limit, write_buffer_hard_limit=limit)
    sent = patterned(MORE_THAN_THE_SYSTEM_TAKES)
    sending = owner.ref.ask(lambda _: connection.send(sent), block=False)
    assert peer.receive_exactly(len(sent)) == sent
    assert outcome_of(sending) == len(sent)


def test_contract_11_a_thread_sends_also_where_the_limit_has_no_room_for_a_record(stage: TlsStage) -> None:
    owner = stage.owner("thread")
    connection, peer = owner.meet_tls("server", write_buffer_limit=100)
    sending = owner.ref.ask(lambda _: connection.send(b"hello"), block=False)
    assert peer.receive_exactly(5) == b"hello"
    assert outcome_of(sending) == 5
