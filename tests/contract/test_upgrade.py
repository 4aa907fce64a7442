"""Contract 14: an upgrade keeps the connection, its id and its owner, whoever begins it and whatever ends it."""

from __future__ import annotations

import queue
import socket
import ssl
from typing import TYPE_CHECKING, Any

import pykka
import pytest

from tests.peers import TIMEOUT, cut, eventually, receive_exactly
from tests.support import outcome_of, settled
from tests.tls_peer import records_of, rest_of
from tests.tls_stage import SIDES, TlsStage, upgrade_call
from theater_tcp import ConnectionHandle, ServerTls, TcpActor, Theater, errors
from theater_tcp.errors import (
    Closed,
    TheaterError,
    TlsFailed,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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


@pytest.mark.parametrize("where", ["127.0.0.1:0", "[::1]:0", "unix:/path"])
def test_contract_14_an_upgrade_keeps_the_id_the_actor_and_the_owner(
    stage: TlsStage, kind: str, side: str, where: str, tmp_path: Path
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_plain(side, where.replace("/path", f"{tmp_path}/socket"))
    before = connection.id, connection.actor_ref, owner.call(lambda: connection.peer_address)
    core = connection.actor_ref.actor_inbox.actor
    assert owner.call(lambda: connection.tls_info) is None
    owner.call(connection.send, b"in plaintext")
    assert receive_exactly(peer.sock, 12) == b"in plaintext"
    peer.sock.sendall(b"STARTTLS")
    assert owner.call(connection.receive, 100) == b"STARTTLS"

    owner.upgrade(side, connection, peer)
    assert (connection.id, connection.actor_ref, owner.call(lambda: connection.peer_address)) == before
    assert connection.actor_ref.actor_inbox.actor is core
    assert connection.actor_ref in pykka.ActorRegistry.get_all()
    assert owner.call(lambda: connection.tls_info) is not None
    owner.speaks(connection, peer)
    owner.hears_nothing()
    metrics = stage.theater.metrics()
    assert (metrics.handshakes, metrics.handshake_failures, metrics.plaintext_before_tls) == (1, 0, 0)


def test_contract_14_the_epoch_is_0_in_plaintext_and_1_after_the_upgrade(stage: TlsStage, side: str) -> None:
    owner = stage.owner()
    connection, peer = owner.meet_plain(side)
    state = connection.actor_ref.actor_inbox.actor.state
    assert state.epoch == 0
    upgrading = owner.begin_upgrade(side, connection)
    assert state.epoch == 0
    peer.handshake()
    outcome_of(upgrading)
    assert state.epoch == 1


def test_contract_14_every_byte_after_the_reply_is_a_tls_record(stage: TlsStage, side: str) -> None:
    owner = stage.owner()
    connection, peer = owner.meet_plain(side)
    owner.upgrade(side, connection, peer)
    owner.call(connection.send, b"a secret" * 10)
    assert peer.receive_exactly(80) == b"a secret" * 10
    owner.call(connection.close)
    assert peer.receive_to_end() == b""
    assert b"secret" not in peer.seen
    assert records_of(bytes(peer.seen))


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.parametrize("step", ["byte by byte", "record by record"])
def test_contract_14_a_handshake_that_comes_in_crumbs_succeeds(
    stage: TlsStage, kind: str, side: str, version: str, step: str
) -> None:
    owner = stage.owner(kind)
    connection, plain = owner.meet_plain(side)
    peer = stage.tls_peer(side, plain.sock, stage.peer_context(side, version=ssl.TLSVersion[version]))
    peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    upgrading = owner.begin_upgrade(side, connection)
    done = False
    while not done:
        done = peer.step()
        ciphertext = peer.take()
        crumbs = [ciphertext[i : i + 1] for i in range(len(ciphertext))]
        for crumb in crumbs if step == "byte by byte" else records_of(ciphertext):
            peer.sock.sendall(crumb)
            stage.pass_turns(1)
        if not done:
            assert peer.pull()
    outcome_of(upgrading)
    owner.expect("on_tls")
    owner.speaks(connection, peer)


@pytest.mark.parametrize("style", ["on_tls", "await"])
def test_contract_14_a_server_upgrades_out_of_its_callbacks(stage: TlsStage, kind: str, style: str) -> None:
    """An owner of many connections begins the upgrade and hears on_tls; one that waits in a callback awaits it."""

    async def on_data(_actor: Any, connection: Any, data: bytes) -> None:
        if data == b"STARTTLS\r\n":
            connection.set_active("passive")
            connection.send(b"220 go ahead\r\n")
            upgrading = connection.upgrade_to_tls_server()
            if style == "await":
                await settled(upgrading)
                connection.set_active("active")
        else:
            connection.send(b"heard " + data)

    def on_tls(_actor: Any, connection: Any) -> None:
        if style == "on_tls":
            connection.set_active("active")

    owner = stage.owner(kind, on_data=on_data, on_tls=on_tls)
    connection, sock = owner.meet(mode="active", framing="line", **stage.tls_options(auto_handshake=False))
    peer = stage.tls_peer("server", sock)
    sock.sendall(b"NOOP\r\n")
    assert receive_exactly(sock, 12) == b"heard NOOP\r\n"
    sock.sendall(b"STARTTLS\r\n")
    assert receive_exactly(sock, 14) == b"220 go ahead\r\n"
    peer.handshake()
    peer.send(b"QUIT\r\n")
    assert peer.receive_exactly(12) == b"heard QUIT\r\n"
    for name, value in (("on_data", b"NOOP\r\n"), ("on_data", b"STARTTLS\r\n")):
        owner.expect(name, value)
    heard = {owner.expect(name).name for name in (("on_tls", "on_data") if style == "on_tls" else ())}
    if style == "await":  # data was wanted before the mailbox came to on_tls, which of the two is first is open
        heard = {owner.script.heard.get(timeout=TIMEOUT).name for _ in range(2)}
    assert heard == {"on_tls", "on_data"}
    owner.hears_nothing()
    assert connection.actor_ref.is_alive()


def test_contract_14_an_upgrade_can_be_awaited_in_the_callback_that_brings_the_connection(
    stage: TlsStage, kind: str
) -> None:
    received: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    async def greet(_actor: Any, connection: Any) -> None:
        connection.activate()
        await settled(connection.upgrade_to_tls_server())
        received.put(await settled(connection.receive(100)))
        connection.send(b"good to hear")

    owner = stage.owner(kind, handle_connection=greet)
    sock = stage.dial(owner.listen(**stage.tls_options(auto_handshake=False)).address)
    peer = stage.tls_peer("server", sock).handshake()
    peer.send(b"hello")
    assert received.get(timeout=TIMEOUT) == b"hello"
    assert peer.receive_exactly(12) == b"good to hear"
    owner.expect("handle_connection")
    owner.expect("on_tls")


def test_contract_14_an_owner_without_on_tls_misses_nothing_but_the_word(stage: TlsStage, kind: str, side: str) -> None:
    owner = stage.owner(kind, without=["on_tls"])
    connection, peer = owner.meet_plain(side)
    upgrading = owner.begin_upgrade(side, connection)
    peer.handshake()
    outcome_of(upgrading)
    owner.speaks(connection, peer)
    owner.hears_nothing()


def test_contract_14_a_future_that_nobody_looks_at_is_no_unseen_failure(stage: TlsStage, side: str) -> None:
    owner = stage.owner("loop")
    for _ in range(3):
        connection, peer = owner.meet_plain(side)
        owner.act(lambda _actor: upgrade_call(side, connection)() and None)  # noqa: B023
        peer.sock.close()
        assert owner.expect("on_close").value.startswith("tls: ")
    assert not stage.log.errors


def test_contract_14_an_owner_that_waits_in_an_upgrade_is_served_by_others_meanwhile(
    stage: TlsStage, kind: str
) -> None:
    """Only its own mailbox waits; the loop and the other connections go on."""
    waiting, other = stage.owner(kind), stage.owner("loop")

    async def wait_for_tls(_actor: Any, connection: Any) -> None:
        connection.activate()
        await settled(connection.upgrade_to_tls_server())

    waiting.script.hooks["handle_connection"] = wait_for_tls
    sock = stage.dial(waiting.listen(**stage.tls_options(auto_handshake=False)).address)
    waiting.expect("handle_connection")
    connection, peer = other.meet_tls("server")
    other.speaks(connection, peer)
    stage.tls_peer("server", sock).handshake()
    waiting.expect("on_tls")


def test_contract_14_on_tls_that_fails_ends_the_connection_with_close_notify(
    stage: TlsStage, kind: str, side: str
) -> None:
    stage.foresee_callback_failures()

    def on_tls(_actor: Any, connection: Any) -> None:
        connection.send(b"220 secure\r\n")
        raise KeyError("inside")

    owner = stage.owner(kind, on_tls=on_tls)
    connection, peer = owner.meet_plain(side)
    upgrading = owner.begin_upgrade(side, connection)
    peer.handshake()
    outcome_of(upgrading)
    owner.expect("on_tls")
    owner.expect("on_close", "callback: KeyError")
    assert peer.receive_to_end() == b"220 secure\r\n"


# -- 14: what ends it ------------------------------------------------------------------------------------------------


def test_contract_14_the_owners_end_during_a_handshake_closes_the_connection(
    stage: TlsStage, kind: str, side: str
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_plain(side, handshake_timeout=1.0)
    upgrading = owner.begin_upgrade(side, connection)
    stopped = owner.ref.stop(block=False)  # a thread waits in the upgrade until its deadline
    assert outcome_of(stopped) is True
    records_of(rest_of(peer.sock))
    with pytest.raises(TheaterError):
        outcome_of(upgrading)
    eventually(lambda: not connection.actor_ref.is_alive())
    assert stage.theater.metrics().connections == 0


def test_contract_14_a_failed_message_that_ends_the_owner_during_a_handshake_closes_the_connection(
    stage: TlsStage, side: str
) -> None:
    owner = stage.owner("loop")
    connection, peer = owner.meet_plain(side)
    upgrading = owner.begin_upgrade(side, connection)
    owner.ref.tell(lambda _actor: 1 / 0)
    records_of(rest_of(peer.sock))
    with pytest.raises(Closed):
        outcome_of(upgrading)
    eventually(lambda: stage.theater.metrics().connections == 0)


def test_contract_14_stopping_the_connections_actor_during_a_handshake_is_told_as_shutdown(
    stage: TlsStage, kind: str, side: str
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_plain(side)
    upgrading = owner.begin_upgrade(side, connection)
    connection.actor_ref.stop(block=False)
    with pytest.raises(errors.ShutDown):
        outcome_of(upgrading)
    owner.expect("on_close", "shutdown")
    records_of(rest_of(peer.sock))
    owner.hears_nothing()


def test_contract_14_shutdown_during_a_handshake_does_not_wait_for_the_peer(
    certificates: Certificates, kind: str, side: str
) -> None:
    with TlsStage(certificates) as stage:
        owner = stage.owner(kind)
        connection, peer = owner.meet_plain(side, handshake_timeout=1000.0)
        upgrading = owner.begin_upgrade(side, connection)
        stage.theater.request_shutdown(0)
        assert stage.theater.wait(TIMEOUT)
        heard = [owner.script.heard.get(timeout=TIMEOUT) for _ in range(2)]
        assert {(one.name, one.value) for one in heard} == {("on_drain", None), ("on_close", "shutdown")}
        with pytest.raises(errors.ShutDown):
            outcome_of(upgrading)
        records_of(rest_of(peer.sock))


@pytest.mark.parametrize("how", ["FIN", "RST", "FIN inside of a record"])
def test_contract_16_a_peer_that_leaves_during_the_handshake_is_a_failed_handshake(
    stage: TlsStage, kind: str, side: str, how: str
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_plain(side)
    upgrading = owner.begin_upgrade(side, connection)
    if how == "FIN inside of a record":
        peer.sock.sendall(b"\x16\x03\x01\x02")
    cut(peer.sock) if how == "RST" else peer.sock.shutdown(socket.SHUT_WR)
    assert owner.sees_upgrade_fail(connection, upgrading, TlsFailed).startswith("tls: ")
    assert stage.theater.metrics().handshake_failures == 1


def test_contract_16_an_upgrade_after_the_peers_end_of_stream_fails_at_once(
    stage: TlsStage, kind: str, side: str
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_plain(side, half_open=True)
    peer.sock.shutdown(socket.SHUT_WR)
    owner.expect("on_close", "eof")
    upgrading = owner.begin_upgrade(side, connection)
    with pytest.raises(TlsFailed):
        outcome_of(upgrading)
    records_of(rest_of(peer.sock))
    owner.hears_nothing()  # its end was told before
    eventually(lambda: stage.theater.metrics().connections == 0)


def test_contract_13_close_right_after_the_upgrade_began_lets_nothing_of_it_go_on(
    stage: TlsStage, kind: str, side: str
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_plain(side)
    upgrading = owner.begin_upgrade(side, connection)
    owner.during(connection.close)
    with pytest.raises(Closed):
        outcome_of(upgrading)
    try:
        peer.handshake()
    except (AssertionError, OSError):
        pass
    owner.hears_nothing()
    eventually(lambda: stage.theater.metrics().connections == 0)
    assert stage.theater.metrics().handshakes == 0


def test_contract_13_close_before_the_handshake_flushes_the_plaintext_that_was_sent(
    stage: TlsStage, kind: str, side: str
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_plain(side, **ROOMY)
    owner.call(connection.send, MUCH)
    owner.begin_upgrade(side, connection)
    owner.during(connection.close)
    assert rest_of(peer.sock) == MUCH
    owner.hears_nothing()


# -- 14: handover -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target_kind", ["loop", "thread"])
def test_contract_14_a_connection_that_was_handed_over_just_before_is_upgraded_by_its_new_owner(
    stage: TlsStage, kind: str, side: str, target_kind: str
) -> None:
    owner, target = stage.owner(kind), stage.owner(target_kind)
    connection, peer = owner.meet_plain(side)
    peer.sock.sendall(b"last words in plaintext")
    owner.call(connection.transfer, target.ref)
    after = target.expect("handle_connection_transfer").connection
    assert target.call(after.receive, 100) == b"last words in plaintext"
    target.upgrade(side, after, peer)
    target.speaks(after, peer)
    owner.hears_nothing()


@pytest.mark.parametrize("target_kind", ["loop", "thread"])
def test_contract_14_a_connection_that_is_handed_over_just_after_brings_every_decrypted_byte(
    stage: TlsStage, kind: str, side: str, target_kind: str
) -> None:
    target = stage.owner(target_kind)

    def hand_over(_actor: Any, connection: Any) -> None:
        connection.transfer(target.ref)

    owner = stage.owner(kind, on_tls=hand_over)
    connection, peer = owner.meet_plain(side)
    upgrading = owner.begin_upgrade(side, connection)
    last = peer.finished()
    lines = b"".join(b"line %d\n" % number for number in range(2000))
    peer.sock.sendall(last + peer.seal(lines))  # data is inside of the last segment of the handshake
    outcome_of(upgrading)
    owner.expect("on_tls")
    after = target.expect("handle_connection_transfer").connection
    assert after.id == connection.id
    received = b""
    while len(received) < len(lines):
        received += target.call(after.receive, 1000)
    assert received == lines
    assert target.call(lambda: after.tls_info) is not None
    target.speaks(after, peer)
    owner.hears_nothing()
    target.hears_nothing()


def test_contract_14_handover_keeps_what_was_decrypted_and_cut_but_not_handed_over(
    stage: TlsStage, kind: str, side: str
) -> None:
    owner, target = stage.owner(kind), stage.owner("loop")
    connection, peer = owner.meet_tls(side, framing="line")
    peer.send(b"first line\nsecond line\nthe third, unfin")
    assert owner.call(connection.receive, 5) == b"first"
    owner.call(connection.transfer, target.ref)
    after = target.expect("handle_connection_transfer").connection
    assert target.call(after.receive, 100) == b" line\n"
    assert target.call(after.receive, 100) == b"second line\n"
    peer.send(b"ished\n")
    assert target.call(after.receive, 100) == b"the third, unfinished\n"


def test_contract_14_a_handover_in_the_same_turn_as_the_end_of_the_upgrade_tells_the_old_owner_nothing_more(
    stage: TlsStage, side: str
) -> None:
    target = stage.owner("loop")
    owner = stage.owner("loop")
    connection, peer = owner.meet_plain(side)

    async def upgrade_and_leave(_actor: Any) -> None:
        await upgrade_call(side, connection)()
        connection.transfer(target.ref)

    leaving = owner.ref.ask(upgrade_and_leave, block=False)
    peer.handshake()
    outcome_of(leaving)
    after = target.expect("handle_connection_transfer").connection
    target.speaks(after, peer)
    target.hears_nothing()
    owner.hears_nothing()


def test_contract_10_a_transfer_that_was_not_heard_yet_is_heard_before_the_upgrade_that_followed_it(
    certificates: Certificates,
) -> None:
    heard: list[str] = []
    files = certificates.server

    class Keeper(TcpActor):
        def on_start(self) -> None:
            tls = ServerTls(cert=files.cert, key=files.key, auto_handshake=False)
            self.listener = self.tcp.listen("127.0.0.1:0", server_tls=tls)

        def address(self) -> str:
            return self.listener.address

        async def handle_connection(self, connection: ConnectionHandle) -> None:
            connection.transfer(self.actor_ref)
            await self.connections[0].upgrade_to_tls_server()

        def handle_connection_transfer(self, _connection: ConnectionHandle) -> None:
            heard.append("handle_connection_transfer")

        def on_tls(self, connection: ConnectionHandle) -> None:
            heard.append("on_tls")
            connection.set_active("active")

        def on_data(self, connection: ConnectionHandle, data: bytes) -> None:
            connection.send(data)

    with Theater() as theater:
        host, port = theater.spawn(Keeper).proxy().address().get().split(":")
        context = ssl.create_default_context(cafile=certificates.ca)
        with (
            socket.create_connection((host, int(port)), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as peer,
        ):
            peer.sendall(b"x")
            assert peer.recv(1) == b"x"
    assert heard == ["handle_connection_transfer", "on_tls"]
