"""Contract 13, 16 and 19 over TLS: close and every other end of ours say close_notify; a wrong record ends it all."""

from __future__ import annotations

import queue
import ssl
from typing import TYPE_CHECKING, Any

import pytest

from tests.peers import TIMEOUT, eventually, expect_reset
from tests.tls_peer import TlsPeer, records_of
from tests.tls_stage import SIDES, TlsOwner, TlsStage
from theater_tcp.errors import TheaterError, TlsFailed

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
        heard = [owner.script.heard.get(timeout=TIMEOUT) for _ in range(2)]
        assert {(one.name, one.value) for one in heard} == {("on_drain", None), ("on_close", "shutdown")}


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
