"""Contract 3, 20 and 21 where TLS begins with the first byte: who hears of a connection and when, what counts, and
that nobody waits for a peer."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.peers import TIMEOUT, cut, dial, eventually
from tests.support import outcome_of, settled
from tests.tls_peer import TlsPeer, records_of, rest_of
from tests.tls_stage import SIDES, TlsOwner, TlsStage, listening_socket
from theater_tcp import Settings
from theater_tcp.errors import AddressInUse, Closed, InvalidArgument, ShutDown, TheaterError, TlsFailed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.certificates_fixture import Certificates


@pytest.fixture
def stage(certificates: Certificates) -> Iterator[TlsStage]:
    with TlsStage(certificates) as stage:
        yield stage


@pytest.fixture(params=["loop", "thread"])
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of the owner."""
    return str(request.param)


def listen(owner: TlsOwner, address: str = "127.0.0.1:0", **options: Any) -> Any:
    """A listener whose connections are TLS from the first byte."""
    return owner.listen(address, **{**owner.stage.tls_options(auto_handshake=True), **options})


def dial_tls(stage: TlsStage, address: str) -> TlsPeer:
    """A client that has not said anything yet."""
    return stage.tls_peer("server", stage.dial(address))


# -- 3: who hears of it, and when -------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["127.0.0.1:0", "[::1]:0", "unix:/path"])
@pytest.mark.parametrize("side", SIDES)
def test_contract_03_tls_from_the_first_byte_over_every_kind_of_socket(
    stage: TlsStage, kind: str, side: str, where: str, tmp_path: Path
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet_tls(side, where.replace("/path", f"{tmp_path}/socket"), at_once=True)
    owner.speaks(connection, peer)
    owner.call(connection.close)
    assert peer.receive_to_end() == b""
    assert records_of(bytes(peer.seen)), "not one byte of plaintext"
    owner.hears_nothing()


def test_contract_03_the_owner_hears_of_a_connection_when_its_handshake_is_done(stage: TlsStage, kind: str) -> None:
    owner = stage.owner(kind)
    address = listen(owner).address
    first, second = dial_tls(stage, address), dial_tls(stage, address)
    owner.hears_nothing()
    second.handshake()
    connection = owner.expect("handle_connection").connection
    assert owner.call(lambda: connection.tls_info) is not None
    last = first.finished()
    owner.hears_nothing()
    first.sock.sendall(last)
    other = owner.expect("handle_connection").connection
    owner.hears_nothing()
    for handle, peer in ((connection, second), (other, first)):
        owner.call(handle.activate)
        owner.speaks(handle, peer)


def test_contract_03_a_connection_that_is_shaking_hands_is_no_connection_of_its_owner_yet(stage: TlsStage) -> None:
    owner = stage.owner()
    dial_tls(stage, listen(owner).address)
    eventually(lambda: stage.theater.metrics().accepted == 1)
    assert owner.act(lambda actor: actor.connections) == []


def test_contract_03_accept_gives_the_first_that_is_done_and_not_the_first_that_came(
    stage: TlsStage, kind: str
) -> None:
    owner = stage.owner(kind, without=["handle_connection"])
    listener = listen(owner)
    accepting = owner.begin(listener.accept)
    silent, quick = dial_tls(stage, listener.address), dial_tls(stage, listener.address)
    eventually(lambda: stage.theater.metrics().accepted == 2)
    quick.handshake()
    connection = outcome_of(accepting)
    owner.call(connection.activate)
    owner.speaks(connection, quick)
    silent.handshake()
    connection = owner.call(listener.accept)  # it was through before anybody asked
    owner.call(connection.activate)
    owner.speaks(connection, silent)


def test_contract_03_those_that_are_through_are_given_in_turn_and_are_their_owners_then(
    stage: TlsStage, kind: str
) -> None:
    owner = stage.owner(kind, without=["handle_connection"])
    listener = listen(owner)
    accepting = owner.begin(listener.accept)
    peers = [dial_tls(stage, listener.address) for _ in range(3)]
    eventually(lambda: stage.theater.metrics().accepted == 3)
    for number, peer in enumerate(peers, start=1):
        peer.handshake()
        eventually(lambda number=number: stage.theater.metrics().handshakes == number)  # type: ignore[misc]
    handles = [outcome_of(accepting), owner.call(listener.accept), owner.call(listener.accept)]
    for connection, peer in zip(handles, peers, strict=True):
        owner.call(connection.activate)
        owner.speaks(connection, peer)
        owner.call(connection.set_active, "active")
        peer.sock.close()
        owner.expect("on_close", "tls-truncated")


def test_contract_03_those_that_are_through_and_that_nobody_asks_for_are_closed_after_pending_timeout(
    stage: TlsStage, kind: str
) -> None:
    owner = stage.owner(kind, without=["handle_connection"])
    listener = listen(owner, pending_timeout=0.1)
    accepting = owner.begin(listener.accept)
    peers = [dial_tls(stage, listener.address) for _ in range(2)]
    eventually(lambda: stage.theater.metrics().accepted == 2)
    for peer in peers:
        peer.handshake()
    connection = outcome_of(accepting)
    owner.call(connection.activate)
    assert peers[1].receive_to_end() == b""
    owner.speaks(connection, peers[0])
    accepting = owner.begin(listener.accept)
    third = dial_tls(stage, listener.address).handshake()
    connection = outcome_of(accepting)
    owner.call(connection.activate)
    owner.speaks(connection, third)
    owner.hears_nothing()


def test_contract_03_those_that_are_through_and_end_before_anybody_asks_are_not_given_to_anybody(
    stage: TlsStage, kind: str
) -> None:
    owner = stage.owner(kind, without=["handle_connection"])
    listener = listen(owner)
    accepting = owner.begin(listener.accept)
    peers = [dial_tls(stage, listener.address) for _ in range(2)]
    eventually(lambda: stage.theater.metrics().accepted == 2)
    for peer in peers:
        peer.handshake()
    outcome_of(accepting)
    eventually(lambda: stage.theater.metrics().handshakes == 2)
    cut(peers[1].sock)
    eventually(lambda: stage.theater.metrics().connections == 1)
    accepting = owner.begin(listener.accept)
    third = dial_tls(stage, listener.address).handshake()
    connection = outcome_of(accepting)
    owner.call(connection.activate)
    owner.speaks(connection, third)


@pytest.mark.parametrize("mode", ["passive", "active", "once", 2])
def test_contract_03_data_in_the_last_segment_of_the_handshake_waits_for_the_activation(
    stage: TlsStage, kind: str, mode: str | int
) -> None:
    owner = stage.owner(kind)
    peer = dial_tls(stage, listen(owner).address)
    last = peer.finished()
    peer.sock.sendall(last + peer.seal(b"early data"))
    connection = owner.expect("handle_connection").connection
    owner.hears_nothing()
    owner.call(connection.activate)
    owner.hears_nothing()
    owner.call(connection.set_active, mode)
    if mode == "passive":
        assert owner.call(connection.receive, 100) == b"early data"
    else:
        owner.expect("on_data", b"early data")
    owner.hears_nothing()


def test_contract_05_pending_timeout_holds_for_what_an_accept_was_given(stage: TlsStage, kind: str) -> None:
    owner = stage.owner(kind, without=["handle_connection"])
    listener = listen(owner, pending_timeout=0.1)
    accepting = owner.begin(listener.accept)
    peer = dial_tls(stage, listener.address).handshake()
    outcome_of(accepting)
    owner.expect("on_close", "timeout")
    assert peer.receive_to_end() == b""


def test_contract_05_pending_timeout_begins_when_the_handshake_is_done(stage: TlsStage, kind: str) -> None:
    owner = stage.owner(kind)
    peer = dial_tls(stage, listen(owner, pending_timeout=0.2).address)
    threading.Event().wait(0.4)
    peer.handshake()
    owner.expect("handle_connection")
    owner.expect("on_close", "timeout")
    assert peer.receive_to_end() == b""


@pytest.mark.parametrize("end", ["FIN", "RST", "garbage", "a refusal"])
def test_contract_03_the_owner_never_hears_of_a_handshake_that_failed(stage: TlsStage, kind: str, end: str) -> None:
    owner = stage.owner(kind)
    listener = listen(owner)
    peer = dial_tls(stage, listener.address)
    if end == "garbage":
        peer.sock.sendall(b"EHLO mx.example.org\r\n" * 10)
    elif end == "a refusal":
        stranger = stage.tls_peer("server", peer.sock, stage.peer_context("server", ca=stage.certificates.untrusted_ca))
        assert stranger.refusal() == "CERTIFICATE_VERIFY_FAILED"
    else:
        peer.sock.sendall(peer.hello()[:50])
        cut(peer.sock) if end == "RST" else peer.sock.shutdown(socket.SHUT_WR)
    eventually(lambda: stage.theater.metrics().handshake_failures == 1)
    eventually(lambda: stage.theater.metrics().connections == 0)
    owner.hears_nothing()
    dial_tls(stage, listener.address).handshake()
    owner.expect("handle_connection")


def test_contract_03_an_accept_that_waits_is_not_spent_on_a_handshake_that_failed(stage: TlsStage, kind: str) -> None:
    owner = stage.owner(kind, without=["handle_connection"])
    listener = listen(owner)
    accepting = owner.begin(listener.accept)
    for _ in range(3):
        dial_tls(stage, listener.address).sock.sendall(b"no TLS")
    eventually(lambda: stage.theater.metrics().handshake_failures == 3)
    peer = dial_tls(stage, listener.address).handshake()
    connection = outcome_of(accepting)
    owner.call(connection.activate)
    owner.speaks(connection, peer)


def test_contract_03_a_listener_closed_meanwhile_lets_those_who_shake_hands_finish_if_anybody_hears_of_them(
    stage: TlsStage, kind: str
) -> None:
    owner = stage.owner(kind)
    listener = listen(owner)
    peer = dial_tls(stage, listener.address)
    eventually(lambda: stage.theater.metrics().accepted == 1)
    owner.call(listener.close)
    peer.handshake()
    connection = owner.expect("handle_connection").connection
    owner.call(connection.activate)
    owner.speaks(connection, peer)


def test_contract_04_a_listener_closed_meanwhile_ends_its_accept_and_what_was_meant_for_it(
    stage: TlsStage, kind: str
) -> None:
    owner = stage.owner(kind, without=["handle_connection"])
    listener = listen(owner)
    accepting = owner.begin(listener.accept)
    peers = [dial_tls(stage, listener.address) for _ in range(3)]
    eventually(lambda: stage.theater.metrics().accepted == 3)
    for peer in peers[:2]:
        peer.handshake()
    outcome_of(accepting)
    accepting = owner.begin(listener.accept)  # the second, which was through
    outcome_of(accepting)
    accepting = owner.begin(listener.accept)
    stage.pass_turns()
    listener.close() if kind == "thread" else owner.call(listener.close)
    with pytest.raises(Closed):
        outcome_of(accepting)
    assert peers[2].refusal() in ("eof", "reset", "close_notify")
    eventually(lambda: stage.theater.metrics().connections == 2)


def test_contract_G4_the_owners_end_closes_what_is_shaking_hands_for_it_and_no_one_elses(
    stage: TlsStage, kind: str
) -> None:
    ending, other = stage.owner(kind), stage.owner(kind)
    mine = [dial_tls(stage, listen(ending).address) for _ in range(5)]
    theirs = dial_tls(stage, listen(other).address)
    eventually(lambda: stage.theater.metrics().accepted == 6)
    ending.ref.stop(timeout=TIMEOUT)
    for peer in mine:
        assert rest_of(peer.sock) == b""
    theirs.handshake()
    other.expect("handle_connection")
    assert stage.theater.metrics().connections == 1


def test_contract_G4_the_owners_end_during_its_connect_closes_the_connection(stage: TlsStage) -> None:
    owner = stage.owner("loop")
    listening, address = listening_socket()
    with listening:
        options = stage.tls_options(auto_handshake=True)
        connecting = owner.ref.ask(lambda actor: actor.tcp.connect(address, **options), block=False)
        sock = stage.accept_from(listening)
        future = connecting.get(timeout=TIMEOUT)
        stage.pass_turns()
        owner.ref.stop(timeout=TIMEOUT)
        records_of(rest_of(sock))
        with pytest.raises(TheaterError):
            outcome_of(future)
    eventually(lambda: stage.theater.metrics().connections == 0)


def test_contract_20_a_drain_does_not_wait_for_those_who_shake_hands(certificates: Certificates, kind: str) -> None:
    with TlsStage(certificates, Settings(drain_timeout=1000.0)) as stage:
        owner = stage.owner(kind)
        peers = [dial_tls(stage, listen(owner, handshake_timeout=1000.0).address) for _ in range(3)]
        eventually(lambda: stage.theater.metrics().accepted == 3)
        stage.theater.request_shutdown()
        assert stage.theater.wait(TIMEOUT)
        for peer in peers:
            assert rest_of(peer.sock) == b""
        owner.expect("on_drain")
        assert owner.script.heard.empty()


@pytest.mark.parametrize("timeout", [0, 1000.0])
def test_contract_20_a_shutdown_ends_a_connect_that_shakes_hands(
    certificates: Certificates, kind: str, timeout: float
) -> None:
    with TlsStage(certificates) as stage:
        owner = stage.owner(kind)
        listening, address = listening_socket()
        with listening:
            options = stage.tls_options(auto_handshake=True)
            connecting = owner.ref.ask(
                lambda actor: actor.tcp.connect(address, handshake_timeout=1000.0, **options), block=False
            )
            sock = stage.accept_from(listening)
            stage.pass_turns()
            stage.theater.request_shutdown(timeout)
            records_of(rest_of(sock))
            with pytest.raises((ShutDown, Closed)):
                outcome_of(connecting)
            assert stage.theater.wait(TIMEOUT)


def test_contract_02_an_address_in_use_is_told_with_tls_as_without(stage: TlsStage, kind: str) -> None:
    owner = stage.owner(kind)
    address = listen(owner).address
    with pytest.raises(AddressInUse):
        listen(owner, address)


@pytest.mark.parametrize("file", ["cert", "key"])
def test_contract_G6_listen_with_a_wrong_file_is_invalid_in_one_line_and_nothing_listens(
    stage: TlsStage, kind: str, file: str
) -> None:
    owner = stage.owner(kind)
    tls = stage.server_tls().replaced(**{file: "/nowhere/at/all.pem"})
    for auto_handshake in (True, False):
        with pytest.raises(InvalidArgument) as caught:
            owner.listen(server_tls=tls.replaced(auto_handshake=auto_handshake))
        assert "all.pem" in str(caught.value)
        assert str(caught.value).isprintable()
    assert stage.theater.listeners() == []


def test_contract_G6_connect_with_a_wrong_file_is_invalid_and_nobody_is_called(stage: TlsStage, kind: str) -> None:
    owner = stage.owner(kind)
    listening, address = listening_socket()
    with listening:
        for auto_handshake in (True, False):
            tls = stage.client_tls(ca_cert="/nowhere/at/all.pem", auto_handshake=auto_handshake)
            with pytest.raises(InvalidArgument, match=r"all\.pem"):
                owner.connect(address, client_tls=tls)
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):
            listening.accept()


# -- 20 and 21: nobody waits for a peer --------------------------------------------------------------------------------


SILENT = 300


@pytest.mark.parametrize("taker", ["handle_connection", "accept"])
def test_contract_21_stalled_handshakes_delay_nobody_and_are_reclaimed(stage: TlsStage, kind: str, taker: str) -> None:
    owner = stage.owner(kind, without=["handle_connection"] if taker == "accept" else [])
    listener = listen(owner, handshake_timeout=3.0)
    accepting = owner.begin(listener.accept) if taker == "accept" else None
    silent = [dial(listener.address) for _ in range(SILENT)]
    try:
        for number, sock in enumerate(silent):  # some say nothing, some a word, some all but the last
            peer = TlsPeer(sock, stage.peer_context("server"))
            if number % 3:
                sock.sendall(peer.hello()[: 7 if number % 3 == 1 else None])
        peer = dial_tls(stage, listener.address).handshake()
        connection = outcome_of(accepting) if accepting is not None else owner.expect("handle_connection").connection
        owner.call(connection.activate)
        owner.speaks(connection, peer)
        metrics = stage.theater.metrics()
        assert (metrics.handshakes, metrics.handshake_failures) == (1, 0), "served while all the others stalled"
        eventually(lambda: stage.theater.metrics().handshake_failures == SILENT)
        eventually(lambda: stage.theater.metrics().connections == 1)
        assert stage.theater.metrics().timeouts == SILENT
        owner.speaks(connection, peer)
    finally:
        for sock in silent:
            sock.close()


def test_contract_21_a_busy_owner_does_not_keep_others_from_shaking_hands(stage: TlsStage, kind: str) -> None:
    began, go_on = threading.Event(), threading.Event()

    async def busy(actor: Any) -> None:
        began.set()
        await settled(actor.to_thread(go_on.wait, TIMEOUT) if kind != "thread" else go_on.wait(TIMEOUT))

    owner = stage.owner(kind)
    address = listen(owner).address
    busily = owner.ref.ask(busy, block=False)
    assert began.wait(TIMEOUT)
    peers = [dial_tls(stage, address).handshake() for _ in range(10)]
    eventually(lambda: stage.theater.metrics().handshakes == 10)
    go_on.set()
    outcome_of(busily)
    for peer in peers:
        connection = owner.expect("handle_connection").connection
        owner.call(connection.activate)
        owner.speaks(connection, peer)


@pytest.mark.parametrize("by", ["listener", "runtime"])
def test_contract_20_handshakes_count_towards_max_connections_and_their_end_makes_room(
    certificates: Certificates, by: str
) -> None:
    settings = Settings(drain_timeout=0, max_connections=2 if by == "runtime" else 10_000)
    with TlsStage(certificates, settings) as stage:
        owner = stage.owner()
        limits: dict[str, Any] = {"max_connections": 2} if by == "listener" else {}
        listener = listen(owner, handshake_timeout=1000.0, **limits)
        stalled = [dial_tls(stage, listener.address) for _ in range(2)]
        eventually(lambda: stage.theater.metrics().accepted == 2)
        third = dial_tls(stage, listener.address)
        third.sock.sendall(third.hello())
        stage.pass_turns()
        metrics = stage.theater.metrics()
        assert (metrics.accepted, metrics.connections, metrics.handshakes) == (2, 2, 0)
        assert metrics.paused_at_limit >= 1
        stalled[0].sock.close()
        third.handshake()
        connection = owner.expect("handle_connection").connection
        owner.call(connection.activate)
        owner.speaks(connection, third)
        assert stage.theater.metrics().connections == 2


def test_contract_20_a_handshake_that_expires_makes_room(stage: TlsStage) -> None:
    owner = stage.owner()
    listener = listen(owner, handshake_timeout=0.2, max_connections=1)
    dial_tls(stage, listener.address)
    peer = dial_tls(stage, listener.address).handshake()
    connection = owner.expect("handle_connection").connection
    owner.call(connection.activate)
    owner.speaks(connection, peer)


def test_contract_20_at_limit_refuse_counts_handshakes_too(stage: TlsStage) -> None:
    owner = stage.owner()
    listener = listen(owner, handshake_timeout=1000.0, max_connections=1, at_limit="refuse")
    dial_tls(stage, listener.address)
    eventually(lambda: stage.theater.metrics().accepted == 1)
    with pytest.raises(ConnectionResetError):
        stage.dial(listener.address).recv(1)
    assert stage.theater.metrics().refused_at_limit == 1
    owner.hears_nothing()


def test_contract_20_upgrades_that_stall_count_as_the_connections_that_they_are(stage: TlsStage, kind: str) -> None:
    owner = stage.owner(kind)
    options = {**stage.tls_options(auto_handshake=False), "max_connections": 1, "handshake_timeout": 0.2}
    connection, _ = owner.meet(mode="passive", **options)
    address = owner.call(lambda: connection.local_address)
    upgrading = owner.begin_upgrade("server", connection)
    stage.dial(address)
    assert stage.theater.metrics().accepted == 1
    with pytest.raises(TlsFailed):
        outcome_of(upgrading)
    owner.expect("on_close", "tls: handshake timeout")
    owner.expect("handle_connection")  # there is room


@pytest.mark.parametrize("side", SIDES)
def test_contract_21_two_hundred_upgrades_that_stall_delay_nobody_and_are_reclaimed(stage: TlsStage, side: str) -> None:
    owner = stage.owner("loop")
    met = [owner.meet_plain(side, handshake_timeout=2.0) for _ in range(200)]
    for connection, _ in met:
        owner.begin_upgrade(side, connection)
    connection, peer = owner.meet_tls(side)
    owner.speaks(connection, peer)
    assert stage.theater.metrics().handshake_failures == 0
    for _ in met:
        owner.expect("on_close", "tls: handshake timeout")
    eventually(lambda: stage.theater.metrics().connections == 1)
    owner.speaks(connection, peer)
