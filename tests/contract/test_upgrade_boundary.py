"""Contract 15: nothing slips across the boundary between plaintext and TLS, in either direction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.peers import TIMEOUT, receive_exactly, stuff
from tests.support import outcome_of, settled
from tests.tls_peer import records_of, rest_of
from tests.tls_stage import SIDES, TlsStage, upgrade_call
from theater_tcp.errors import (
    PlaintextBeforeTls,
    TlsFailed,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.certificates_fixture import Certificates

MIB = 1 << 20
MUCH = bytes(range(256)) * (8 * MIB // 256)
"""More than the system takes while nobody reads."""

ROOMY: dict[str, Any] = {"write_buffer_limit": 64 * MIB, "write_buffer_hard_limit": 128 * MIB}


@pytest.fixture
def stage(certificates: Certificates) -> Iterator[TlsStage]:
    with TlsStage(certificates) as stage:
        yield stage


@pytest.fixture(params=SIDES)
def side(request: pytest.FixtureRequest) -> str:
    """Which end of TLS the runtime is."""
    return str(request.param)


def test_contract_15_replies_go_out_before_the_handshake_in_plaintext(stage: TlsStage, kind: str, side: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_plain(side)

    async def reply_and_upgrade(_actor: Any) -> None:
        connection.send(b"220 ready\r\n")
        await settled(upgrade_call(side, connection)())

    upgrading = owner.ref.ask(reply_and_upgrade, block=False)
    assert receive_exactly(peer.sock, 11) == b"220 ready\r\n"
    peer.handshake()
    outcome_of(upgrading)
    owner.expect("on_tls")
    owner.speaks(connection, peer)


def test_contract_15_a_large_pending_write_goes_out_whole_in_plaintext_before_the_first_record(
    stage: TlsStage, kind: str, side: str
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_plain(side, **ROOMY)
    owner.call(connection.send, MUCH)
    upgrading = owner.begin_upgrade(side, connection)
    assert stage.theater.metrics().handshakes == 0
    assert receive_exactly(peer.sock, len(MUCH)) == MUCH
    peer.handshake()
    outcome_of(upgrading)
    owner.expect("on_tls")
    owner.speaks(connection, peer)


INJECTED: dict[str, bytes] = {
    "a command": b"NOOP\r\n",
    "a byte": b"\n",
    "a fragment": b"MAIL FROM:<att",
    "NUL": b"\0",
    "an alert record": b"\x15\x03\x03\x00\x02\x02\x28",
    "a record of application data": b"\x17\x03\x03\x00\x05hello",
    "much": bytes(range(1, 256)) * 2000,
}


@pytest.mark.parametrize("case", INJECTED)
@pytest.mark.parametrize("where", ["in the kernel", "in the host"])
def test_contract_15_unread_plaintext_is_an_injection_and_is_never_delivered(
    stage: TlsStage, kind: str, side: str, case: str, where: str
) -> None:
    owner = stage.owner(kind)
    options: dict[str, Any] = {"framing": "line"} if where == "in the host" else {}
    connection, peer = owner.meet_plain(side, **options)
    if where == "in the host":  # what comes with the line is read with it
        peer.sock.sendall(b"STARTTLS\r\n" + INJECTED[case][:1000])
        assert owner.call(connection.receive, 100) == b"STARTTLS\r\n"
    else:
        peer.sock.sendall(INJECTED[case])
        stage.pass_turns()
    owner.call(connection.send, b"220 ready\r\n")
    upgrading = owner.begin_upgrade(side, connection)
    assert owner.sees_upgrade_fail(connection, upgrading, PlaintextBeforeTls) == "plaintext-before-tls"
    assert rest_of(peer.sock) in (b"220 ready\r\n", b"")  # a reset may destroy what was on its way
    metrics = stage.theater.metrics()
    assert (metrics.plaintext_before_tls, metrics.handshake_failures, metrics.handshakes) == (1, 1, 0)


def test_contract_15_the_rest_of_a_chunk_that_a_receive_left_is_unread_too(
    stage: TlsStage, kind: str, side: str
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_plain(side, framing="line")
    peer.sock.sendall(b"STARTTLS and more\r\n")
    assert owner.call(connection.receive, 8) == b"STARTTLS"
    upgrading = owner.begin_upgrade(side, connection)
    owner.sees_upgrade_fail(connection, upgrading, PlaintextBeforeTls)


def test_contract_15_bytes_that_come_while_a_large_reply_is_on_its_way_are_an_injection(
    stage: TlsStage, kind: str, side: str
) -> None:
    """The boundary is where the last byte of plaintext has gone out, not where the call was made."""
    owner = stage.owner(kind)
    connection, peer = owner.meet_plain(side, **ROOMY)
    owner.call(connection.send, MUCH)
    upgrading = owner.begin_upgrade(side, connection)
    peer.sock.sendall(b"NOOP\r\n")
    stage.pass_turns()
    assert MUCH.startswith(rest_of(peer.sock))  # a reset may destroy the last of it
    owner.sees_upgrade_fail(connection, upgrading, PlaintextBeforeTls)


def test_contract_15_an_early_client_hello_goes_to_the_engine(stage: TlsStage, kind: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_plain("server")
    peer.sock.sendall(peer.hello())
    stage.pass_turns()
    upgrading = owner.begin_upgrade("server", connection)
    peer.handshake()
    outcome_of(upgrading)
    owner.expect("on_tls")
    owner.speaks(connection, peer)


@pytest.mark.parametrize("size", [1, 3, 5, 6, 100])
def test_contract_15_the_beginning_of_an_early_client_hello_goes_to_the_engine_and_the_rest_follows(
    stage: TlsStage, kind: str, size: int
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_plain("server", framing="line")
    hello = peer.hello()
    peer.sock.sendall(b"STARTTLS\r\n" + hello[:size])
    assert owner.call(connection.receive, 100) == b"STARTTLS\r\n"
    upgrading = owner.begin_upgrade("server", connection)
    peer.sock.sendall(hello[size:])
    peer.handshake()
    outcome_of(upgrading)
    owner.expect("on_tls")
    peer.send(b"a line\n")
    assert owner.call(connection.receive, 100) == b"a line\n"


@pytest.mark.parametrize("where", ["in the kernel", "in the host"])
def test_contract_15_for_a_client_any_byte_is_an_injection_though_it_looks_like_a_handshake(
    stage: TlsStage, kind: str, where: str
) -> None:
    """A server speaks second: no honest one has sent a byte before the ClientHello (RFC 8446, 4.1.3)."""
    owner = stage.owner(kind)
    connection, peer = owner.meet_plain("client", framing="line")
    forged = b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03"
    peer.sock.sendall((b"220 ready\r\n" if where == "in the host" else b"") + forged)
    stage.pass_turns()
    if where == "in the host":
        assert owner.call(connection.receive, 100) == b"220 ready\r\n"
    upgrading = owner.begin_upgrade("client", connection)
    owner.sees_upgrade_fail(connection, upgrading, PlaintextBeforeTls)
    assert rest_of(peer.sock) == b"", "not even a ClientHello"


@pytest.mark.parametrize("disguised", [b"\x16NOOP\r\n", b"\x16\x03\x01\x00\x06NOOP\r\n", b"\x16" * 100])
def test_contract_15_plaintext_that_begins_as_a_handshake_record_fails_in_the_engine_and_is_never_delivered(
    stage: TlsStage, kind: str, disguised: bytes
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_plain("server", handshake_timeout=0.3)
    peer.sock.sendall(disguised)
    stage.pass_turns()
    upgrading = owner.begin_upgrade("server", connection)
    assert owner.sees_upgrade_fail(connection, upgrading, TlsFailed).startswith("tls: ")
    records_of(rest_of(peer.sock))


@pytest.mark.parametrize("case", ["NOOP\r\n", "EHLO mx.example.org\r\n", "GET / HTTP/1.1\r\n\r\n", "\x00" * 20])
def test_contract_15_plaintext_after_the_upgrade_began_goes_to_the_engine_alone_and_fails_there(
    stage: TlsStage, kind: str, side: str, case: str
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_plain(side)
    upgrading = owner.begin_upgrade(side, connection)
    peer.sock.sendall(case.encode() * 10)
    reason = owner.sees_upgrade_fail(connection, upgrading, TlsFailed)
    assert reason.startswith("tls: ")
    assert case.strip() not in reason
    records_of(rest_of(peer.sock))
    assert stage.theater.metrics().plaintext_before_tls == 0


def test_contract_15_plaintext_between_two_messages_of_the_handshake_fails_in_the_engine(
    stage: TlsStage, kind: str, side: str
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_plain(side)
    upgrading = owner.begin_upgrade(side, connection)
    if side == "client":
        assert peer.pull()
    assert not peer.step()
    first = records_of(peer.take())[0]
    peer.sock.sendall(first + b"RCPT TO:<victim@example.org>\r\n")
    owner.sees_upgrade_fail(connection, upgrading, TlsFailed)


@pytest.mark.parametrize("mode", ["passive", "active", "once", 3])
def test_contract_15_application_data_in_the_last_segment_of_the_handshake_is_delivered(
    stage: TlsStage, kind: str, mode: str | int
) -> None:
    """No event of the socket tells of it any more: it was read with the Finished."""

    def on_tls(_actor: Any, connection: Any) -> None:
        connection.set_active(mode)

    owner = stage.owner(kind, on_tls=on_tls)
    connection, peer = owner.meet_plain("server")
    upgrading = owner.begin_upgrade("server", connection)
    last = peer.finished()
    peer.sock.sendall(last + peer.seal(b"early data"))
    outcome_of(upgrading)
    owner.expect("on_tls")
    if mode == "passive":
        assert owner.call(connection.receive, 100) == b"early data"
    else:
        owner.expect("on_data", b"early data")
    owner.hears_nothing()


def test_contract_15_a_receive_begun_right_after_the_upgrade_gets_data_that_came_with_the_handshake(
    stage: TlsStage, kind: str
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_plain("server")

    async def upgrade_and_receive(_actor: Any) -> bytes:
        await settled(connection.upgrade_to_tls_server())
        return bytes(await settled(connection.receive(100)))

    receiving = owner.ref.ask(upgrade_and_receive, block=False)
    last = peer.finished()
    peer.sock.sendall(last + peer.seal(b"early data"))
    assert outcome_of(receiving) == b"early data"


def test_contract_15_the_first_data_of_a_tls_1_2_or_1_3_server_with_its_last_message_is_delivered(
    stage: TlsStage, kind: str
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_plain("client")
    upgrading = owner.begin_upgrade("client", connection)
    last = peer.finished()  # tickets
    peer.sock.sendall(last + peer.seal(b"220 secure\r\n"))
    outcome_of(upgrading)
    owner.expect("on_tls")
    assert owner.call(connection.receive, 100) == b"220 secure\r\n"


@pytest.mark.parametrize("mode", ["active", "once", 2])
def test_contract_G1_per_epoch_a_stream_that_becomes_tls_between_two_modes_loses_and_mixes_nothing(
    stage: TlsStage, kind: str, side: str, mode: str | int
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_plain(side)
    owner.call(connection.set_active, mode)
    peer.sock.sendall(b"plain")
    assert owner.collect(5) == b"plain"
    owner.call(connection.set_active, "passive")
    owner.upgrade(side, connection, peer)
    peer.send(b"secret")
    owner.call(connection.set_active, mode)
    assert owner.collect(6) == b"secret"
    owner.hears_nothing()


def test_contract_15_what_comes_in_a_flood_right_behind_the_upgrade_is_whole(
    stage: TlsStage, kind: str, side: str
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_plain(side)
    owner.upgrade(side, connection, peer)
    data = bytes(range(256)) * 4096  # 1 MiB
    peer.sock.settimeout(TIMEOUT)
    owner.call(connection.set_active, "active")
    peer.send(data)
    assert owner.collect(len(data)) == data


def test_contract_15_a_peer_that_stuffs_plaintext_at_the_upgrade_is_refused_whatever_its_amount(
    stage: TlsStage, kind: str, side: str
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_plain(side)
    stuff(peer.sock, b"NOOP\r\n" * 1000)
    upgrading = owner.begin_upgrade(side, connection)
    owner.sees_upgrade_fail(connection, upgrading, PlaintextBeforeTls)
