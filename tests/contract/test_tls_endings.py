"""Contract 17 and 18 over TLS, and half-close: how the peer ends, what is delivered before, and what is told."""

from __future__ import annotations

import queue
import socket
import ssl
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.peers import TIMEOUT, cut, eventually
from tests.support import outcome_of, settled
from tests.tls_stage import SIDES, TlsOwner, TlsStage
from theater_tcp.errors import Closed, NotFound, TheaterError, TlsTruncated

if TYPE_CHECKING:
    from collections.abc import Iterator

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


@pytest.fixture(params=["loop", "thread"])
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of the owner."""
    return str(request.param)


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


@pytest.mark.parametrize("size", [1, 1000, 3000])
def test_contract_12_shutdown_write_while_data_of_the_peer_is_here_already_loses_none_of_it(
    stage: TlsStage, kind: str, side: str, size: int, version: ssl.TLSVersion
) -> None:
    """OpenSSL takes data in front of the peer's close_notify for a violation, if it is asked to look for that."""
    owner = stage.owner(kind)
    connection, peer = owner.meet_tls(side, context=stage.peer_context(side, version=version))
    data = bytes(range(250)) * 40
    peer.sock.sendall(b"".join(peer.seal(data[start : start + 1000]) for start in range(0, len(data), 1000)))
    first = owner.call(connection.receive, size)  # of what was read from the socket with it, some is not decrypted yet
    owner.call(connection.shutdown_write)
    comes_before_the_end(owner, connection, "passive", data[len(first) :])
    assert data.startswith(first)
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
