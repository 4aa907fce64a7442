"""What the two ends of a TLS connection know of each other, and sessions that are taken up again."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import outcome_of
from tests.tls_peer import TlsPeer
from tests.tls_stage import SIDES, TlsOwner, TlsStage, listening_socket
from theater_tcp.errors import TlsFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.certificates_fixture import Certificates

VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}


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


# -- tls_info ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("at_once", [False, True])
def test_tls_info_tells_version_cipher_name_and_the_peers_certificate(
    stage: TlsStage, kind: str, side: str, version: str, at_once: bool
) -> None:
    owner = stage.owner(kind)
    context = stage.peer_context(side, version=VERSIONS[version])
    if not at_once:
        plain, _ = owner.meet_plain(side)
        assert owner.call(lambda: plain.tls_info) is None
    address = "127.0.0.1:0" if side == "server" or not at_once else "localhost:0"
    connection, peer = owner.meet_tls(side, address, at_once=at_once, context=context)
    info = owner.call(lambda: connection.tls_info)
    cipher = peer.tls.cipher()
    assert cipher is not None
    assert (info.version, info.cipher, info.alpn, info.resumed) == (version, cipher[0], None, False)
    assert info.server_name == "localhost"
    if side == "server":
        assert info.peer_certificate is None, "it was not asked for one"
    else:
        facts = info.peer_certificate
        assert set(facts.names) == {"localhost", "127.0.0.1", "::1", "mx.example.org"}
        assert (facts.key, facts.ca) == ("ECDSA P-256", False)
        assert "test CA" in facts.issuer


@pytest.mark.parametrize("offered", [("h2", "smtp"), ("smtp",), (), ("imap",)])
def test_tls_info_tells_the_protocol_that_both_speak(stage: TlsStage, side: str, offered: tuple[str, ...]) -> None:
    owner = stage.owner()
    context = stage.peer_context(side)
    if offered:
        context.set_alpn_protocols(list(offered))
    both: dict[str, Any] = {
        "server_tls": stage.server_tls(auto_handshake=False, alpn=("smtp",)),
        "client_tls": stage.client_tls(auto_handshake=False, alpn=("smtp",)),
    }
    connection, peer = owner.meet_tls(side, context=context, **both)
    assert owner.call(lambda: connection.tls_info).alpn == ("smtp" if "smtp" in offered else None)
    assert peer.tls.selected_alpn_protocol() == ("smtp" if "smtp" in offered else None)


def test_tls_info_tells_the_clients_certificate(stage: TlsStage, kind: str) -> None:
    owner = stage.owner(kind)
    tls = stage.server_tls(auto_handshake=False, client_auth="required", client_ca=stage.certificates.ca)
    context = stage.peer_context("server", files=stage.certificates.client)
    connection, peer = owner.meet_tls("server", context=context, server_tls=tls)
    assert owner.call(lambda: connection.tls_info).peer_certificate.names == ("client.example.org",)
    owner.speaks(connection, peer)


def test_tls_info_on_the_client_with_a_certificate_is_seen_by_the_server(stage: TlsStage, kind: str) -> None:
    owner = stage.owner(kind)
    files = stage.certificates.client
    tls = stage.client_tls(auto_handshake=False, cert=files.cert, key=files.key)
    context = stage.peer_context("client", client_ca=stage.certificates.ca)
    connection, peer = owner.meet_tls("client", context=context, client_tls=tls)
    shown = peer.tls.getpeercert()
    assert shown is not None
    assert shown["subjectAltName"] == (("DNS", "client.example.org"),)
    owner.speaks(connection, peer)


def test_tls_info_is_still_there_in_on_close_and_for_the_next_owner(stage: TlsStage, kind: str, side: str) -> None:
    seen: list[Any] = []
    target = stage.owner(kind, on_close=lambda _actor, connection, _reason: seen.append(connection.tls_info))
    owner = stage.owner(kind)
    connection, peer = owner.meet_tls(side)
    info = owner.call(lambda: connection.tls_info)
    owner.call(connection.transfer, target.ref)
    after = target.expect("handle_connection_transfer").connection
    assert target.call(lambda: after.tls_info) == info
    peer.sock.sendall(peer.goodbye())
    peer.sock.shutdown(socket.SHUT_WR)
    target.expect("on_close", "eof")
    target.call(lambda: None)
    assert seen == [info]


# -- sessions, the runtime as the server -----------------------------------------------------------------------------


def called(owner: TlsOwner, address: str, context: ssl.SSLContext, session: Any, at_once: bool) -> tuple[Any, TlsPeer]:
    """A client with a session connects; its connection and it, after a few words."""
    peer = TlsPeer(owner.stage.dial(address), context, session=session)
    if at_once:
        peer.handshake()
        connection = owner.expect("handle_connection").connection
        owner.call(connection.activate)
    else:
        connection = owner.expect("handle_connection").connection
        owner.call(connection.activate)
        owner.upgrade("server", connection, peer)
    owner.speaks(connection, peer)  # in TLS 1.3 the tickets come with the first data
    return connection, peer


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("client_auth", ["none", "required"])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_that_comes_again_takes_its_session_up_again(
    stage: TlsStage, kind: str, version: str, client_auth: str, at_once: bool
) -> None:
    owner = stage.owner(kind)
    tls = stage.server_tls(auto_handshake=at_once)
    context = stage.peer_context("server", version=VERSIONS[version])
    if client_auth == "required":
        tls = tls.replaced(client_auth="required", client_ca=stage.certificates.ca)
        context.load_cert_chain(stage.certificates.client.cert, stage.certificates.client.key)
    address = owner.listen(server_tls=tls).address
    connection, peer = called(owner, address, context, None, at_once)
    first = owner.call(lambda: connection.tls_info)
    session = peer.tls.session
    owner.call(connection.close)
    connection, peer = called(owner, address, context, session, at_once)
    again = owner.call(lambda: connection.tls_info)
    assert (first.resumed, again.resumed, peer.tls.session_reused) == (False, True, True)
    assert again.peer_certificate == first.peer_certificate
    assert again.server_name == first.server_name == "localhost"
    metrics = stage.theater.metrics()
    assert (metrics.handshakes, metrics.resumed_sessions) == (2, 1)


def test_a_session_of_another_runtime_means_a_full_handshake(stage: TlsStage, certificates: Certificates) -> None:
    owner = stage.owner()
    context = stage.peer_context("server")
    _, peer = called(owner, owner.listen(server_tls=stage.server_tls()).address, context, None, at_once=True)
    with TlsStage(certificates) as other:
        owner = other.owner()
        address = owner.listen(server_tls=other.server_tls()).address
        connection, peer = called(owner, address, context, peer.tls.session, at_once=True)
        assert owner.call(lambda: connection.tls_info).resumed is False


# -- sessions, the runtime as the client -----------------------------------------------------------------------------


class Server:
    """A TLS server that is called again and again, and its words.

    Args:
        stage: where its connections are closed.
        context: what it shows, and its sessions.
    """

    def __init__(self, stage: TlsStage, context: ssl.SSLContext) -> None:
        self.stage = stage
        self.context = context
        self.listening, address = listening_socket()
        self.port = address.rpartition(":")[2]

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.listening.close()

    def call(self, owner: TlsOwner, host: str = "localhost", at_once: bool = True, **tls: Any) -> tuple[Any, TlsPeer]:
        """Let an owner connect, with a few words; its connection, and the server's end."""
        settings = self.stage.client_tls(auto_handshake=at_once, **tls)
        address = f"127.0.0.1:{self.port}"
        if at_once:
            settings = settings.replaced(server_name=host)
        connecting = owner.ref.ask(lambda actor: actor.tcp.connect(address, client_tls=settings), block=False)
        peer = TlsPeer(self.stage.accept_from(self.listening), self.context)
        if at_once:
            peer.handshake()
            connection = outcome_of(connecting)
        else:
            connection = outcome_of(connecting)
            upgrading = owner.begin_upgrade("client", connection, host)
            peer.handshake()
            outcome_of(upgrading)
            owner.expect("on_tls")
        owner.call(connection.send, b"from the runtime")
        assert peer.receive_exactly(16) == b"from the runtime"
        peer.send(b"to the runtime")
        assert owner.call(connection.receive, 100) == b"to the runtime"
        return connection, peer


def resumed(owner: TlsOwner, connection: Any) -> bool:
    """Whether an earlier session was taken up again; the connection is closed with that."""
    again = bool(owner.call(lambda: connection.tls_info).resumed)
    owner.call(connection.close)
    return again


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_connection_to_a_server_that_was_called_before_takes_its_session_up_again(
    stage: TlsStage, kind: str, version: str, at_once: bool
) -> None:
    owner = stage.owner(kind)
    with Server(stage, stage.peer_context("client", version=VERSIONS[version])) as server:
        connection, peer = server.call(owner, at_once=at_once)
        names = owner.call(lambda: connection.tls_info).peer_certificate.names
        assert (resumed(owner, connection), peer.tls.session_reused) == (False, False)
        peer.sock.close()
        stage.pass_turns()
        connection, peer = server.call(owner, at_once=at_once)
        assert owner.call(lambda: connection.tls_info).peer_certificate.names == names
        assert (resumed(owner, connection), peer.tls.session_reused) == (True, True)
    assert stage.theater.metrics().resumed_sessions == 1


def test_a_session_is_not_taken_up_again_under_another_name(stage: TlsStage, kind: str) -> None:
    """What was verified for one name says nothing of another."""
    owner = stage.owner(kind)
    with Server(stage, stage.peer_context("client")) as server:
        connection, peer = server.call(owner, "localhost")
        assert not resumed(owner, connection)
        peer.sock.close()
        stage.pass_turns()
        connection, peer = server.call(owner, "mx.example.org")
        assert not resumed(owner, connection)
        peer.sock.close()
        stage.pass_turns()
        connection, _ = server.call(owner, "localhost")
        assert resumed(owner, connection)


def test_a_session_is_not_taken_up_again_at_another_address(stage: TlsStage) -> None:
    owner = stage.owner()
    context = stage.peer_context("client")
    with Server(stage, context) as server, Server(stage, context) as other:
        connection, peer = server.call(owner)
        assert not resumed(owner, connection)
        peer.sock.close()
        stage.pass_turns()
        connection, _ = other.call(owner)
        assert not resumed(owner, connection)


def test_a_session_with_a_server_that_nobody_verified_does_not_pass_for_verified(stage: TlsStage, kind: str) -> None:
    owner = stage.owner(kind)
    with Server(stage, stage.peer_context("client", files=stage.certificates.untrusted)) as server:
        for again in (False, True):
            connection, peer = server.call(owner, ca_cert=None, skip_verify=True)
            assert resumed(owner, connection) is again
            peer.sock.close()
            stage.pass_turns()
        settings = stage.client_tls(server_name="localhost")
        address = f"127.0.0.1:{server.port}"
        connecting = owner.ref.ask(lambda actor: actor.tcp.connect(address, client_tls=settings), block=False)
        peer = TlsPeer(stage.accept_from(server.listening), server.context)
        assert peer.refusal() == "TLSV1_ALERT_UNKNOWN_CA"
        with pytest.raises(TlsFailed):
            outcome_of(connecting)


def test_a_session_that_the_server_has_forgotten_means_a_full_handshake(stage: TlsStage, kind: str) -> None:
    owner = stage.owner(kind)
    with Server(stage, stage.peer_context("client")) as server:
        for _ in range(3):
            connection, peer = server.call(owner)
            assert not resumed(owner, connection)
            peer.sock.close()
            stage.pass_turns()
            server.context = stage.peer_context("client")


def test_a_ticket_of_tls_1_3_is_used_once(stage: TlsStage) -> None:
    """Who sees a ticket twice can tell that it is the same client (RFC 8446, C.4)."""
    owner = stage.owner()
    context = stage.peer_context("client", version=ssl.TLSVersion.TLSv1_3)
    context.num_tickets = 1
    with Server(stage, context) as server:
        connection, peer = server.call(owner)
        assert not resumed(owner, connection)
        peer.sock.close()
        stage.pass_turns()
        two = [server.call(owner)[0] for _ in range(2)]
        assert [owner.call(lambda: one.tls_info.resumed) for one in two] == [True, False]  # noqa: B023


def test_a_session_is_kept_when_the_server_ends_first(stage: TlsStage, kind: str) -> None:
    owner = stage.owner(kind)
    with Server(stage, stage.peer_context("client")) as server:
        connection, peer = server.call(owner)
        peer.sock.sendall(peer.goodbye())
        peer.sock.shutdown(socket.SHUT_WR)
        owner.expect("on_close", "eof")
        owner.call(lambda: None)
        stage.pass_turns()
        connection, _ = server.call(owner)
        assert resumed(owner, connection)
