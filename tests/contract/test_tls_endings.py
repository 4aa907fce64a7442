"""Contract 13, 17, 18 and 19 over TLS: how a connection ends, what comes before, and what the peer sees."""

from __future__ import annotations

import queue
import socket
import ssl
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.peers import TIMEOUT, cut, eventually, expect_reset
from tests.support import outcome_of, settled
from tests.tls_peer import TlsPeer, records_of
from tests.tls_stage import SIDES, TlsOwner, TlsStage
from theater_tcp.errors import Closed, NotFound, TheaterError, TlsFailed, TlsTruncated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.certificates_fixture import Certificates

MIB = 1 << 20
MUCH = bytes(range(256)) * (8 * MIB // 256)
"""More than the system takes while nobody reads."""

ROOMY: dict[str, Any] = {"write_buffer_limit": 64 * MIB, "write_buffer_hard_limit": 128 * MIB}

VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}

MODES = ["passive", "active", "once", 3]


@pytest.fixture
def stage(certificates: Certificates) -> Iterator[TlsStage]:
    with TlsStage(certificates) as stage:
        yield stage


@pytest.fixture(params=SIDES)
def side(request: pytest.FixtureRequest) -> str:
    """Which end of TLS the runtime is."""
    return str(request.param)


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> ssl.TLSVersion:
    """The only version that the peer speaks."""
    return VERSIONS[request.param]


def comes_before_the_end(owner: TlsOwner, connection: Any, mode: str | int, data: bytes) -> None:
    """All of ``data`` is delivered by the mode; ``passive`` receives it."""
    if mode != "passive":
        assert owner.collect(len(data)) == data
        return
    received = b""
    while len(received) < len(data):
        piece = owner.call(connection.receive, 1 << 20)
        assert piece
        received += piece
    assert received == data


# -- 17: an end without close_notify -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_contract_17_fin_without_close_notify_is_tls_truncated_after_the_data_before_it(
    stage: TlsStage, kind: str, side: str, mode: str | int, version: ssl.TLSVersion
) -> None:
    owner = stage.owner(kind)
    context = stage.peer_context(side, version=version)
    connection, peer = owner.meet_tls(side, mode=mode, context=context)
    peer.send(b"all but the end")
    peer.sock.shutdown(socket.SHUT_WR)
    comes_before_the_end(owner, connection, mode, b"all but the end")
    assert owner.expect("on_close", "tls-truncated").connection is connection
    owner.hears_nothing()
    eventually(lambda: stage.theater.metrics().connections == 0)


@pytest.mark.parametrize("at_once", [False, True])
def test_contract_17_it_is_told_wherever_tls_began(stage: TlsStage, kind: str, side: str, at_once: bool) -> None:
    owner = stage.owner(kind)
    _, peer = owner.meet_tls(side, at_once=at_once, mode="active")
    peer.sock.shutdown(socket.SHUT_WR)
    owner.expect("on_close", "tls-truncated")
    owner.hears_nothing()


def test_contract_17_a_receive_raises_tls_truncated_and_never_looks_like_an_orderly_end(
    stage: TlsStage, kind: str, side: str
) -> None:
    received: queue.SimpleQueue[Any] = queue.SimpleQueue()

    async def read_to_the_end(_actor: Any) -> None:
        for _ in range(4):
            try:
                received.put(await settled(connection.receive(5)))
            except TheaterError as error:
                received.put(type(error))

    owner = stage.owner(kind)
    connection, peer = owner.meet_tls(side)
    peer.send(b"the end")
    peer.sock.shutdown(socket.SHUT_WR)
    owner.act(read_to_the_end)
    heard = [received.get(timeout=TIMEOUT) for _ in range(4)]
    assert heard[:3] == [b"the e", b"nd", TlsTruncated]
    assert heard[3] in (TlsTruncated, Closed, NotFound)
    owner.expect("on_close", "tls-truncated")


def test_contract_17_a_receive_that_waits_is_told(stage: TlsStage, kind: str, side: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_tls(side)
    received = owner.begin(connection.receive, 100)
    stage.pass_turns()
    peer.sock.shutdown(socket.SHUT_WR)
    with pytest.raises(TlsTruncated):
        outcome_of(received)
    owner.expect("on_close", "tls-truncated")


@pytest.mark.parametrize("cut_after", [1, 2, 4, 5, 6, 20, -17, -1])
def test_contract_17_a_cut_inside_of_a_record_is_tls_truncated_and_nothing_of_that_record_is_delivered(
    stage: TlsStage, kind: str, side: str, cut_after: int
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_tls(side, mode="active")
    whole, torn = peer.seal(b"whole"), peer.seal(b"torn" * 10)
    peer.sock.sendall(whole + torn[:cut_after])
    peer.sock.shutdown(socket.SHUT_WR)
    assert owner.collect(5) == b"whole"
    owner.expect("on_close", "tls-truncated")
    owner.hears_nothing()
    assert not connection.actor_ref.is_alive()


@pytest.mark.parametrize("mode", ["passive", "active"])
def test_contract_17_a_cut_at_every_byte_of_a_stream_gives_the_records_before_it_and_tls_truncated(
    stage: TlsStage, side: str, mode: str
) -> None:
    owner = stage.owner("loop")
    lines = [b"one", b"two", b"three"]
    for at in range(0, 80, 3):
        connection, peer = owner.meet_tls(side, at_once=True, mode=mode)
        sealed = [peer.seal(line) for line in lines]
        ciphertext = b"".join(sealed)[:at]
        whole, left = b"", at
        for line, record in zip(lines, sealed, strict=True):
            left -= len(record)
            whole += line if left >= 0 else b""
        peer.sock.sendall(ciphertext)
        peer.sock.shutdown(socket.SHUT_WR)
        comes_before_the_end(owner, connection, mode, whole)
        owner.expect("on_close", "tls-truncated")
    owner.hears_nothing()


@pytest.mark.parametrize("mode", ["passive", "active"])
def test_contract_17_a_large_rest_is_delivered_before_tls_truncated(
    stage: TlsStage, kind: str, side: str, mode: str
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_tls(side)
    data = bytes(range(256)) * 2048  # 512 KiB

    def send_and_leave() -> None:
        peer.send(data)
        peer.sock.shutdown(socket.SHUT_WR)

    sending = threading.Thread(target=send_and_leave)
    sending.start()
    owner.call(connection.set_active, mode)
    comes_before_the_end(owner, connection, mode, data)
    owner.expect("on_close", "tls-truncated")
    sending.join(TIMEOUT)


def test_contract_17_half_open_does_not_make_a_truncated_stream_a_half_closed_one(
    stage: TlsStage, kind: str, side: str
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_tls(side, mode="active", half_open=True)
    peer.sock.shutdown(socket.SHUT_WR)
    owner.expect("on_close", "tls-truncated")
    eventually(lambda: not connection.actor_ref.is_alive())


def test_contract_17_a_pending_connection_that_was_cut_off_is_told_as_truncated(stage: TlsStage, kind: str) -> None:
    owner = stage.owner(kind)
    address = owner.listen(**stage.tls_options(auto_handshake=True)).address
    peer = stage.tls_peer("server", stage.dial(address)).handshake()
    connection = owner.expect("handle_connection").connection
    peer.send(b"unread")
    peer.sock.shutdown(socket.SHUT_WR)
    stage.pass_turns()
    owner.call(connection.activate)
    assert owner.call(connection.receive, 100) == b"unread"
    owner.expect("on_close", "tls-truncated")


@pytest.mark.parametrize("mode", MODES)
def test_contract_19_a_reset_is_a_reset(stage: TlsStage, kind: str, side: str, mode: str | int) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_tls(side, mode=mode)
    cut(peer.sock)
    if mode == "passive":
        with pytest.raises(TheaterError, match=r"reset|not-found|closed"):
            owner.call(connection.receive, 100)
    owner.expect("on_close", "reset")
    owner.hears_nothing()


# -- 18: close_notify --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fin", [True, False])
@pytest.mark.parametrize("mode", ["active", "once", 3])
def test_contract_18_data_and_close_notify_in_one_segment_are_the_data_and_then_eof(
    stage: TlsStage, kind: str, side: str, mode: str | int, version: ssl.TLSVersion, fin: bool
) -> None:
    owner = stage.owner(kind)
    context = stage.peer_context(side, version=version)
    _, peer = owner.meet_tls(side, mode=mode, context=context)
    peer.sock.sendall(peer.seal(b"a last word") + peer.goodbye())
    if fin:
        peer.sock.shutdown(socket.SHUT_WR)
    owner.collect(11)
    owner.expect("on_close", "eof")
    assert peer.receive_to_end() == b"", "our close_notify in return"
    owner.hears_nothing()
    eventually(lambda: stage.theater.metrics().connections == 0)


@pytest.mark.parametrize("fin", [True, False])
def test_contract_12_at_close_notify_receive_gives_the_data_and_then_nothing_again_and_again(
    stage: TlsStage, kind: str, side: str, fin: bool
) -> None:
    received: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    async def read_on(_actor: Any) -> None:
        for _ in range(5):
            received.put(await settled(connection.receive(5)))
        connection.send(b"and now I answer")

    owner = stage.owner(kind)
    connection, peer = owner.meet_tls(side)
    peer.sock.sendall(peer.seal(b"the end") + peer.goodbye())
    if fin:
        peer.sock.shutdown(socket.SHUT_WR)
    owner.act(read_on)
    assert [received.get(timeout=TIMEOUT) for _ in range(5)] == [b"the e", b"nd", b"", b"", b""]
    assert peer.receive_to_end() == b"and now I answer"
    owner.expect("on_close", "eof")
    owner.hears_nothing()


def test_contract_18_the_end_of_a_passive_connection_is_noticed_by_itself_when_fin_follows(
    stage: TlsStage, kind: str, side: str
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_tls(side)
    peer.sock.sendall(peer.goodbye())
    peer.sock.shutdown(socket.SHUT_WR)
    assert owner.expect("on_close", "eof").connection is connection
    owner.hears_nothing()


def test_contract_18_unread_data_in_front_of_the_end_keeps_on_close_back(stage: TlsStage, kind: str, side: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_tls(side)
    data = b"0123456789" * 1000
    peer.sock.sendall(peer.seal(data) + peer.goodbye())
    peer.sock.shutdown(socket.SHUT_WR)
    owner.hears_nothing()
    comes_before_the_end(owner, connection, "passive", data)
    owner.expect("on_close", "eof")


@pytest.mark.parametrize("mode", ["active", "passive"])
def test_contract_18_what_an_attacker_adds_behind_close_notify_is_not_delivered(
    stage: TlsStage, kind: str, side: str, mode: str
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_tls(side, mode=mode, half_open=True)
    peer.sock.sendall(peer.seal(b"the end") + peer.goodbye() + b"\x17\x03\x03\x00\x20" + bytes(32) + b"QUIT\r\n")
    comes_before_the_end(owner, connection, mode, b"the end")
    owner.expect("on_close", "eof")
    owner.hears_nothing()
    if mode == "passive":
        assert owner.call(connection.receive, 100) == b""


def test_contract_18_the_owner_can_send_in_on_close_and_it_is_flushed_and_then_close_notify(
    stage: TlsStage, kind: str, side: str
) -> None:
    async def on_close(actor: Any, connection: Any, reason: str) -> None:
        connection.send(reason.encode() + b": ")
        if hasattr(actor, "sleep"):
            await actor.sleep(0.01)
        connection.send(MUCH)

    owner = stage.owner(kind, on_close=on_close)
    _, peer = owner.meet_tls(side, mode="active", **ROOMY)
    peer.sock.sendall(peer.seal(b"and the answer?") + peer.goodbye())
    owner.collect(15)
    owner.expect("on_close", "eof")
    assert peer.receive_to_end() == b"eof: " + MUCH
    owner.hears_nothing()


def test_contract_18_half_open_goes_on_sending_after_the_peers_close_notify(
    stage: TlsStage, kind: str, side: str, version: ssl.TLSVersion
) -> None:
    """RFC 8446, 6.1: close_notify ends one direction."""
    owner = stage.owner(kind)
    context = stage.peer_context(side, version=version)
    connection, peer = owner.meet_tls(side, mode="active", context=context, half_open=True)
    peer.sock.sendall(peer.goodbye())
    owner.expect("on_close", "eof")
    owner.hears_nothing()
    for answer in (b"one", b"two", MUCH[: 1 << 20]):
        owner.begin(connection.send, answer)
        assert peer.receive_exactly(len(answer)) == answer
    owner.call(connection.close)
    assert peer.receive_to_end() == b""
    owner.hears_nothing()


# -- half-close of our own --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["passive", "active"])
def test_contract_12_shutdown_write_sends_close_notify_and_reading_goes_on(
    stage: TlsStage, kind: str, side: str, mode: str, version: ssl.TLSVersion
) -> None:
    owner = stage.owner(kind)
    context = stage.peer_context(side, version=version)
    connection, peer = owner.meet_tls(side, mode=mode, context=context)
    owner.call(connection.send, b"all that I have")
    owner.call(connection.shutdown_write)
    assert peer.receive_to_end() == b"all that I have"
    with pytest.raises(Closed):
        owner.call(connection.send, b"more")
    data = bytes(range(256)) * 1000
    peer.send(data)
    comes_before_the_end(owner, connection, mode, data)
    owner.hears_nothing()
    peer.sock.sendall(peer.seal(b"and mine") + peer.goodbye())
    comes_before_the_end(owner, connection, mode, b"and mine")
    owner.expect("on_close", "eof")
    eventually(lambda: stage.theater.metrics().connections == 0)


def test_contract_12_shutdown_write_comes_after_what_waits_to_be_sent(stage: TlsStage, kind: str, side: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_tls(side, **ROOMY)
    owner.call(connection.send, MUCH)
    owner.call(connection.shutdown_write)
    assert peer.receive_to_end() == MUCH
    peer.send(b"still heard")
    assert owner.call(connection.receive, 100) == b"still heard"


def test_contract_12_shutdown_write_while_data_of_the_peer_is_here_already_loses_none_of_it(
    stage: TlsStage, kind: str, side: str
) -> None:
    """OpenSSL takes data in front of the peer's close_notify for a violation, if it is asked to look for that."""
    owner = stage.owner(kind)
    connection, peer = owner.meet_tls(side, framing="line")
    lines = [b"line %d\n" % number for number in range(1000)]
    peer.sock.sendall(b"".join(peer.seal(line) for line in lines))
    assert owner.call(connection.receive, 100) == lines[0]
    owner.call(connection.shutdown_write)
    assert [owner.call(connection.receive, 100) for _ in lines[1:]] == lines[1:]
    assert peer.receive_to_end() == b""
    owner.hears_nothing()


def test_contract_17_after_our_half_close_a_cut_is_still_tls_truncated(stage: TlsStage, kind: str, side: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_tls(side, mode="active")
    owner.call(connection.shutdown_write)
    assert peer.receive_to_end() == b""
    peer.send(b"half a st")
    peer.sock.shutdown(socket.SHUT_WR)
    assert owner.collect(9) == b"half a st"
    owner.expect("on_close", "tls-truncated")


# -- 13: close, and all other ends -------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["127.0.0.1:0", "[::1]:0", "unix:/path"])
def test_contract_13_close_flushes_what_was_sent_and_says_close_notify(
    stage: TlsStage, kind: str, side: str, where: str, tmp_path: Path
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_tls(side, where.replace("/path", f"{tmp_path}/socket"), **ROOMY)
    owner.call(connection.send, MUCH)
    owner.call(connection.close)  # returns, though the peer has taken nothing
    assert peer.receive_to_end() == MUCH
    assert peer.sock.recv(1) == b"", "and FIN behind it"
    peer.sock.close()
    owner.hears_nothing()
    eventually(lambda: stage.theater.metrics().connections == 0)


def test_contract_13_close_says_close_notify_though_the_peer_sent_what_nobody_read(
    stage: TlsStage, kind: str, side: str
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_tls(side)
    peer.send(b"request" * 1000)
    stage.pass_turns()
    owner.call(connection.send, b"421 no time for that")
    owner.call(connection.close)
    stage.pass_turns()
    peer.send(b"still talking" * 1000)
    assert peer.receive_to_end() == b"421 no time for that"
    peer.sock.close()
    eventually(lambda: stage.theater.metrics().connections == 0)


def test_contract_13_close_of_what_was_decrypted_and_not_received_says_close_notify(
    stage: TlsStage, kind: str, side: str
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_tls(side)
    peer.send(b"x" * 10_000)
    assert owner.call(connection.receive, 1) == b"x"
    owner.call(connection.close)
    assert peer.receive_to_end() == b""


def test_contract_13_linger_timeout_bounds_the_flushing_and_the_stream_ends_as_incomplete(
    stage: TlsStage, kind: str, side: str
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_tls(side, linger_timeout=0.1, **ROOMY)
    owner.call(connection.send, MUCH)
    owner.call(connection.close)
    eventually(lambda: stage.theater.metrics().connections == 0)
    data, end = peer.ending()
    assert end != "close_notify"
    assert len(data) < len(MUCH)


def test_contract_13_abort_sends_rst_and_no_close_notify(stage: TlsStage, kind: str, side: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_tls(side, mode="active")
    owner.call(connection.abort)
    assert peer.ending()[1] == "reset"
    owner.hears_nothing()
    assert stage.theater.metrics().connections == 0


def test_contract_13_no_callback_begins_after_close_though_decrypted_data_is_here(
    stage: TlsStage, kind: str, side: str
) -> None:
    owner = stage.owner(kind, on_data=lambda _actor, connection, _data: connection.close())
    _, peer = owner.meet_tls(side, mode="active", framing="line")
    peer.send(b"one\ntwo\nthree\n")
    owner.expect("on_data", b"one\n")
    assert peer.receive_to_end() == b""
    owner.hears_nothing()


def raise_if_told_to(_actor: Any, connection: Any, data: bytes) -> None:
    if data == b"raise":
        connection.send(b"a last word")
        raise ValueError("a secret of the owner")


def end_by_callback(_owner: TlsOwner, _connection: Any, peer: TlsPeer) -> None:
    peer.send(b"raise")


def end_by_idleness(owner: TlsOwner, connection: Any, _peer: TlsPeer) -> None:
    owner.call(connection.send, b"a last word")
    owner.call(connection.set_options, idle_timeout=0.05)


def end_by_owners_end(owner: TlsOwner, connection: Any, _peer: TlsPeer) -> None:
    owner.call(connection.send, b"a last word")
    owner.ref.stop(timeout=TIMEOUT)


def end_by_close(owner: TlsOwner, connection: Any, _peer: TlsPeer) -> None:
    owner.call(connection.send, b"a last word")
    owner.call(connection.close)


def end_by_close_notify(owner: TlsOwner, connection: Any, peer: TlsPeer) -> None:
    owner.call(connection.send, b"a last word")
    peer.sock.sendall(peer.goodbye())


def end_by_stop_of_its_actor(owner: TlsOwner, connection: Any, _peer: TlsPeer) -> None:
    owner.call(connection.send, b"a last word")
    connection.actor_ref.stop(block=False)


def end_by_long_line(owner: TlsOwner, connection: Any, peer: TlsPeer) -> None:
    owner.call(connection.send, b"a last word")
    owner.call(connection.set_framing, "line", 100)
    peer.send(b"a line that is too long" * 10)


ENDS: dict[str, Callable[[TlsOwner, Any, TlsPeer], None]] = {
    "callback: ValueError": end_by_callback,
    "timeout": end_by_idleness,
    "the owner's end": end_by_owners_end,
    "its own close": end_by_close,
    "eof": end_by_close_notify,
    "shutdown": end_by_stop_of_its_actor,
    "limit: a line of more than 100 bytes": end_by_long_line,
}
QUIET = {"the owner's end", "its own close"}


@pytest.mark.parametrize("reason", ENDS)
def test_contract_13_whatever_ends_it_in_order_the_peer_gets_all_that_was_sent_and_close_notify(
    stage: TlsStage, kind: str, side: str, reason: str, version: ssl.TLSVersion
) -> None:
    stage.foresee_callback_failures()
    told: queue.SimpleQueue[str] = queue.SimpleQueue()
    owner = stage.owner(kind, on_data=raise_if_told_to, on_close=lambda _actor, _connection, why: told.put(why))
    connection, peer = owner.meet_tls(side, mode="active", context=stage.peer_context(side, version=version))
    ENDS[reason](owner, connection, peer)
    assert peer.receive_to_end() == b"a last word"
    if reason not in QUIET:
        assert told.get(timeout=TIMEOUT) == reason
    eventually(lambda: stage.theater.metrics().connections == 0)
    stage.pass_turns()
    assert told.empty()


def test_contract_20_a_drain_lets_owners_end_with_close_notify(
    certificates: Certificates, kind: str, side: str
) -> None:
    def on_drain(_actor: Any) -> None:
        connection.send(b"421 going down")
        connection.close()

    with TlsStage(certificates) as stage:
        owner = stage.owner(kind, on_drain=on_drain)
        connection, peer = owner.meet_tls(side, mode="active")
        stage.theater.request_shutdown(TIMEOUT)
        assert peer.receive_to_end() == b"421 going down"
        assert stage.theater.wait(TIMEOUT)


def test_contract_19_a_shutdown_without_time_resets_and_is_told(
    certificates: Certificates, kind: str, side: str
) -> None:
    with TlsStage(certificates) as stage:
        owner = stage.owner(kind)
        _, peer = owner.meet_tls(side, mode="active")
        stage.theater.request_shutdown(0)
        expect_reset(peer.sock)
        owner.expect("on_drain")
        owner.expect("on_close", "shutdown")


# -- a record that is wrong -------------------------------------------------------------------------------------------


def flipped(record: bytes) -> bytes:
    """A record with one bit of its last byte turned over: its authentication fails."""
    return record[:-1] + bytes([record[-1] ^ 1])


WRONG: dict[str, Callable[[TlsPeer], bytes]] = {
    "a bit turned over": lambda peer: flipped(peer.seal(b"forged")),
    "plaintext": lambda _peer: b"RSET\r\nMAIL FROM:<attacker@example.org>\r\n",
    "a record of nobody's keys": lambda _peer: b"\x17\x03\x03\x00\x30" + bytes(48),
    "a record that is too long": lambda _peer: b"\x17\x03\x03\xff\xff" + bytes(0xFFFF),
    "a ClientHello in plaintext": lambda _peer: b"\x16\x03\x01\x00\x2f\x01\x00\x00\x2b\x03\x03" + bytes(41),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("mode", ["passive", "active"])
def test_contract_16_a_wrong_record_ends_the_connection_after_the_data_before_it_and_nothing_behind_it_is_delivered(
    stage: TlsStage, kind: str, side: str, mode: str, case: str, version: ssl.TLSVersion
) -> None:
    owner = stage.owner(kind)
    context = stage.peer_context(side, version=version)
    connection, peer = owner.meet_tls(side, mode=mode, context=context)
    good = peer.seal(b"good")
    wrong = WRONG[case](peer)
    peer.sock.sendall(good + wrong + peer.seal(b"behind"))
    comes_before_the_end(owner, connection, mode, b"good")
    if mode == "passive":
        with pytest.raises(TlsFailed):
            owner.call(connection.receive, 100)
    heard = owner.expect("on_close")
    assert heard.value.startswith("tls: ")
    assert heard.value.isprintable()
    owner.hears_nothing()
    eventually(lambda: stage.theater.metrics().connections == 0)


def test_contract_16_a_record_that_is_replayed_ends_the_connection(
    stage: TlsStage, kind: str, side: str, version: ssl.TLSVersion
) -> None:
    owner = stage.owner(kind)
    _, peer = owner.meet_tls(side, mode="active", context=stage.peer_context(side, version=version))
    record = peer.seal(b"pay 10")
    peer.sock.sendall(record + record)
    assert owner.collect(6) == b"pay 10"
    assert owner.expect("on_close").value.startswith("tls: ")
    owner.hears_nothing()


def test_contract_16_the_peer_of_a_wrong_record_gets_an_alert(stage: TlsStage, kind: str, side: str) -> None:
    owner = stage.owner(kind)
    _, peer = owner.meet_tls(side, mode="active")
    peer.sock.sendall(flipped(peer.seal(b"forged")))
    assert peer.ending() == (b"", "SSLV3_ALERT_BAD_RECORD_MAC")
    assert owner.expect("on_close").value.startswith("tls: ")
    assert records_of(bytes(peer.seen))


def test_contract_16_a_send_after_the_failure_is_refused_and_nothing_goes_out(
    stage: TlsStage, kind: str, side: str
) -> None:
    kinds: queue.SimpleQueue[str] = queue.SimpleQueue()

    def on_close(_actor: Any, connection: Any, _reason: str) -> None:
        try:
            connection.send(b"a secret")
        except TheaterError as error:
            kinds.put(error.kind)
        else:
            kinds.put("sent")

    owner = stage.owner(kind, on_close=on_close)
    _, peer = owner.meet_tls(side, mode="active")
    peer.sock.sendall(flipped(peer.seal(b"forged")))
    assert kinds.get(timeout=TIMEOUT) == "closed"
    assert peer.ending()[0] == b""


def test_contract_19_one_wrong_record_leaves_the_other_connections_of_the_owner_alone(
    stage: TlsStage, kind: str, side: str
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_tls(side)
    _, broken = owner.meet_tls(side, mode="active")
    broken.sock.sendall(flipped(broken.seal(b"forged")))
    owner.expect("on_close")
    owner.speaks(connection, peer)
