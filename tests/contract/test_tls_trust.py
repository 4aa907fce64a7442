"""Contract 14 and 16, G6: whom a client trusts, whom a server does, and what the other side is told."""

from __future__ import annotations

import ssl
import subprocess
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from tests.peers import eventually, host_and_port
from tests.support import outcome_of
from tests.tls_peer import TlsPeer, records_of
from tests.tls_stage import SIDES, TlsOwner, TlsStage, listening_socket
from theater_tcp.errors import InvalidArgument, TheaterError, TlsFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pykka

    from tests.certificates_fixture import Certificates


@pytest.fixture
def stage(certificates: Certificates) -> Iterator[TlsStage]:
    with TlsStage(certificates) as stage:
        yield stage


@pytest.fixture(params=["loop", "thread"])
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of the owner."""
    return str(request.param)


@pytest.fixture(params=["upgrade", "at once"])
def way(request: pytest.FixtureRequest) -> str:
    """How a connection becomes TLS."""
    return str(request.param)


# -- the runtime is the client ----------------------------------------------------------------------------------------


def call_out(
    owner: TlsOwner, way: str, context: ssl.SSLContext, name: str | None, **tls: Any
) -> tuple[pykka.Future[Any], TlsPeer]:
    """Begin TLS with a server that shows the certificate of ``context``, and verify it as ``name``."""
    stage = owner.stage
    settings = stage.client_tls(auto_handshake=way == "at once", **tls)
    if way == "upgrade":
        connection, peer = owner.meet_plain("client", client_tls=settings)
        peer = TlsPeer(peer.sock, context)
        return owner.begin_upgrade("client", connection, *([name] if name else [])), peer
    listening, address = listening_socket()
    with listening:
        settings = settings.replaced(server_name=name)
        connecting = owner.ref.ask(lambda actor: actor.tcp.connect(address, client_tls=settings), block=False)
        return connecting, TlsPeer(stage.accept_from(listening), context)


GOOD_NAMES = ["localhost", "127.0.0.1", "::1", "[::1]", "mx.example.org", "MX.Example.ORG", "mx.example.org."]


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_contract_14_names_and_addresses_of_the_certificate_are_verified(
    stage: TlsStage, kind: str, way: str, name: str
) -> None:
    owner = stage.owner(kind, without=["on_tls"])
    beginning, peer = call_out(owner, way, stage.peer_context("client"), name)
    peer.handshake()
    outcome_of(beginning)
    owner.hears_nothing()


BAD_NAMES = [
    "other.example.org",
    "example.org",
    "a.mx.example.org",
    "127.0.0.2",
    "::2",
    "[::2]",
    "localhost.localdomain",
]


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.parametrize("name", BAD_NAMES)
def test_contract_16_a_certificate_for_another_name_is_refused_and_the_server_is_told(
    stage: TlsStage, kind: str, way: str, name: str, version: str
) -> None:
    owner = stage.owner(kind)
    beginning, peer = call_out(owner, way, stage.peer_context("client", version=ssl.TLSVersion[version]), name)
    assert peer.refusal() == "SSLV3_ALERT_BAD_CERTIFICATE"
    is_refused(owner, beginning, way, "mismatch")


def is_refused(owner: TlsOwner, beginning: pykka.Future[Any], way: str, word: str) -> None:
    """The handshake failed for a reason with this word in it, once told by the future, and by on_close."""
    with pytest.raises(TlsFailed) as caught:
        outcome_of(beginning)
    reason = str(caught.value)
    assert word in reason
    assert reason.isprintable()
    if way == "upgrade":
        owner.expect("on_close", reason)
    owner.hears_nothing()
    metrics = owner.stage.theater.metrics()
    assert (metrics.handshakes, metrics.handshake_failures) == (0, 1)
    eventually(lambda: owner.stage.theater.metrics().connections == 0)


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.parametrize(
    ("certificate", "alert", "word"),
    [
        ("expired", "SSLV3_ALERT_CERTIFICATE_EXPIRED", "expired"),
        ("untrusted", "TLSV1_ALERT_UNKNOWN_CA", "unable to get local issuer certificate"),
        ("other", "SSLV3_ALERT_BAD_CERTIFICATE", "mismatch"),
        ("client", "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE", "unsuitable certificate purpose"),
    ],
)
def test_contract_16_a_certificate_that_is_expired_untrusted_or_of_another_purpose_is_refused_and_the_server_is_told(
    stage: TlsStage, kind: str, way: str, certificate: str, alert: str, word: str, version: str
) -> None:
    owner = stage.owner(kind)
    files = getattr(stage.certificates, certificate)
    context = stage.peer_context("client", files=files, version=ssl.TLSVersion[version])
    beginning, peer = call_out(owner, way, context, "localhost")
    assert peer.refusal() == alert
    is_refused(owner, beginning, way, word)
    assert records_of(bytes(peer.seen)), "and nothing in plaintext"


@pytest.mark.parametrize("certificate", ["expired", "untrusted", "other"])
def test_contract_G6_skip_verify_takes_any_certificate(stage: TlsStage, kind: str, way: str, certificate: str) -> None:
    owner = stage.owner(kind, without=["on_tls"])
    context = stage.peer_context("client", files=getattr(stage.certificates, certificate))
    beginning, peer = call_out(owner, way, context, "localhost", ca_cert=None, skip_verify=True)
    peer.handshake()
    outcome_of(beginning)


def test_contract_14_connect_verifies_the_host_of_its_address(stage: TlsStage, kind: str) -> None:
    owner = stage.owner(kind)
    listening, address = listening_socket()
    tls = stage.client_tls()
    with listening:
        for host in ("localhost", "127.0.0.1"):
            address = f"{host}:{address.rpartition(':')[2]}"
            connecting = owner.ref.ask(lambda actor: actor.tcp.connect(address, client_tls=tls), block=False)  # noqa: B023
            peer = stage.tls_peer("client", stage.accept_from(listening)).handshake()
            connection = outcome_of(connecting)
            owner.speaks(connection, peer)


def test_contract_14_the_name_of_an_address_goes_to_no_server_as_sni(stage: TlsStage) -> None:
    """RFC 6066, 3: literal addresses are not permitted in server_name."""
    owner = stage.owner()
    connection, peer = owner.meet_plain("client")
    owner.begin_upgrade("client", connection, "127.0.0.1")
    assert peer.pull()
    assert b"127.0.0.1" not in bytes(peer.seen)
    connection, peer = owner.meet_plain("client")
    owner.begin_upgrade("client", connection, "mx.example.org")
    assert peer.pull()
    assert b"mx.example.org" in bytes(peer.seen)


@pytest.mark.parametrize("way", ["upgrade", "at once"])
def test_contract_14_a_name_beyond_ascii_is_asked_for_by_idna_2008(stage: TlsStage, way: str) -> None:
    """RFC 5890: the codec that comes with Python has IDNA 2003, by which this is ``fass.de``, another's host."""
    owner = stage.owner()
    beginning, peer = call_out(owner, way, stage.peer_context("client"), "Faß.de")
    assert peer.pull()
    assert b"xn--fa-hia.de" in bytes(peer.seen)
    peer.sock.close()
    with pytest.raises(TheaterError):
        outcome_of(beginning)


def test_contract_14_connect_to_a_path_needs_a_name_for_tls(stage: TlsStage, kind: str) -> None:
    owner = stage.owner(kind)
    with pytest.raises(InvalidArgument, match="server_name"):
        owner.connect("unix:/nowhere", client_tls=stage.client_tls())


# -- the runtime is the server ----------------------------------------------------------------------------------------


def be_called(owner: TlsOwner, way: str, context: ssl.SSLContext, **tls: Any) -> tuple[Any, TlsPeer]:
    """A client begins TLS with the runtime; the connection is None where the owner is to hear of it later."""
    stage = owner.stage
    settings = stage.server_tls(auto_handshake=way == "at once", **tls)
    if way == "upgrade":
        connection, peer = owner.meet_plain("server", server_tls=settings)
        return owner.begin_upgrade("server", connection), TlsPeer(peer.sock, context)
    return None, TlsPeer(stage.dial(owner.listen(server_tls=settings).address), context)


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.parametrize(
    ("client_auth", "shows", "alert"),
    [
        ("none", None, ""),
        ("optional", None, ""),
        ("optional", "client", ""),
        ("required", "client", ""),
        ("required", None, "SSLV3_ALERT_HANDSHAKE_FAILURE|TLSV13_ALERT_CERTIFICATE_REQUIRED"),
        ("required", "untrusted", "TLSV1_ALERT_UNKNOWN_CA"),
        ("optional", "untrusted", "TLSV1_ALERT_UNKNOWN_CA"),
        ("required", "server", "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE"),
    ],
)
def test_contract_16_a_client_shows_what_it_has_to_or_is_refused_and_told(
    stage: TlsStage, kind: str, way: str, version: str, client_auth: str, shows: str | None, alert: str
) -> None:
    owner = stage.owner(kind, without=["on_tls"])
    files = getattr(stage.certificates, shows) if shows is not None else None
    context = stage.peer_context("server", version=ssl.TLSVersion[version], files=files)
    trust = {} if client_auth == "none" else {"client_ca": stage.certificates.ca}
    beginning, peer = be_called(owner, way, context, client_auth=client_auth, **trust)
    if alert:
        assert peer.refusal() in alert.split("|")
        if way == "upgrade":
            is_refused(owner, beginning, way, "")
        else:
            eventually(lambda: stage.theater.metrics().handshake_failures == 1)
            owner.hears_nothing()
            eventually(lambda: stage.theater.metrics().connections == 0)
        return
    peer.handshake()
    if way == "upgrade":
        outcome_of(beginning)
    else:
        connection = owner.expect("handle_connection").connection
        certificate = owner.call(lambda: connection.tls_info).peer_certificate
        assert (certificate is not None) is (shows is not None)
        assert certificate is None or certificate.names == ("client.example.org",)
    assert stage.theater.metrics().handshakes == 1


def test_contract_16_a_refused_client_of_tls_1_3_that_spoke_at_once_is_not_heard(stage: TlsStage, way: str) -> None:
    """It has its Finished out before the server looks at its certificate, and data may follow at once."""
    owner = stage.owner("loop")
    context = stage.peer_context("server", version=ssl.TLSVersion.TLSv1_3)
    tls: dict[str, Any] = {"client_auth": "required", "client_ca": stage.certificates.ca}
    beginning, peer = be_called(owner, way, context, **tls)
    last = peer.finished()
    peer.sock.sendall(last + peer.seal(b"MAIL FROM:<a@example.org>\r\n"))
    assert peer.ending() == (b"", "TLSV13_ALERT_CERTIFICATE_REQUIRED")
    if way == "upgrade":
        is_refused(owner, beginning, way, "")
    owner.hears_nothing()


OLD = {"server": "TLSV1_ALERT_PROTOCOL_VERSION", "client": "UNSUPPORTED_PROTOCOL"}
"""What a peer with too old a version gets: an alert by our server; our client's hello it can't do with itself."""


@pytest.mark.parametrize("side", SIDES)
def test_contract_16_a_peer_that_speaks_no_version_that_is_new_enough_is_refused_and_told(
    stage: TlsStage, kind: str, side: str
) -> None:
    owner = stage.owner(kind)
    strict: dict[str, Any] = {"auto_handshake": False, "min_version": "1.3"}
    both: dict[str, Any] = {"server_tls": stage.server_tls(**strict), "client_tls": stage.client_tls(**strict)}
    connection, plain = owner.meet_plain(side, **both)
    peer = TlsPeer(plain.sock, stage.peer_context(side, version=ssl.TLSVersion.TLSv1_2))
    upgrading = owner.begin_upgrade(side, connection)
    assert peer.refusal() == OLD[side]
    owner.sees_upgrade_fail(connection, upgrading, TlsFailed)


@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
@pytest.mark.parametrize("side", SIDES)
def test_contract_16_tls_1_0_and_1_1_are_refused(stage: TlsStage, side: str, version: str) -> None:
    owner = stage.owner()
    connection, plain = owner.meet_plain(side)
    context = stage.peer_context(side)
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion[version]
    context.set_ciphers("ALL:@SECLEVEL=0")
    upgrading = owner.begin_upgrade(side, connection)
    assert TlsPeer(plain.sock, context).refusal() == OLD[side]
    owner.sees_upgrade_fail(connection, upgrading, TlsFailed)


# -- renegotiation ----------------------------------------------------------------------------------------------------


@pytest.mark.program("openssl")
def test_contract_14_a_client_of_tls_1_2_that_renegotiates_is_refused(stage: TlsStage) -> None:
    """Whoever may renegotiate can splice a stranger's bytes in front of a session (RFC 5746, 1)."""
    owner = stage.owner("loop", on_data=lambda _actor, connection, data: connection.send(b"heard " + data))
    tls = stage.server_tls()
    host, port = host_and_port(owner.listen(server_tls=tls, framing="line").address)
    command = ["openssl", "s_client", "-tls1_2", "-connect", f"{host}:{port}", "-CAfile", stage.certificates.ca]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
    ) as client:
        try:
            assert client.stdin is not None
            assert client.stdout is not None
            connection = owner.expect("handle_connection").connection
            owner.call(connection.activate)
            owner.call(connection.set_active, "active")
            client.stdin.write(b"before\n")
            owner.expect("on_data", b"before\n")
            said = b""
            while b"heard before" not in said:  # it takes data in the middle of a renegotiation for a violation
                said += client.stdout.read(1000)
            client.stdin.write(b"R\n")
            said += client.stdout.read()
        finally:
            client.kill()
    assert b"RENEGOTIATING" in said
    assert b"no renegotiation" in said
    owner.expect("on_close", "tls: the peer's alert: handshake failure")  # it does not want to go on without
    assert stage.theater.metrics().handshakes == 1


@pytest.mark.program("openssl")
def test_contract_14_a_server_of_tls_1_2_that_asks_to_renegotiate_is_refused(stage: TlsStage) -> None:
    owner = stage.owner("loop")
    listening, address = listening_socket()
    listening.close()
    files = stage.certificates.server
    port = address.rpartition(":")[2]
    command = ["openssl", "s_server", "-tls1_2", "-port", port, "-cert", files.cert, "-key", str(files.key)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
    ) as server:
        try:
            assert server.stdin is not None
            assert server.stdout is not None
            said = b""
            while b"ACCEPT" not in said:
                said += server.stdout.read(1000)
            connection = owner.connect(address, client_tls=stage.client_tls())
            owner.call(connection.send, b"before\n")
            while b"before" not in said:
                said += server.stdout.read(1000)
            server.stdin.write(b"r\n")
            with pytest.raises(TlsFailed, match="handshake failure"):  # it does not want to go on without
                owner.call(connection.receive, 100)
            owner.expect("on_close")
        finally:
            server.kill()
    assert stage.theater.metrics().handshakes == 1


@pytest.mark.program("openssl")
def test_contract_G1_new_keys_in_the_middle_of_a_stream_lose_no_byte(stage: TlsStage) -> None:
    """A client of TLS 1.3 changes its keys and asks for the same (RFC 8446, 4.6.3); the answer is nobody's data."""
    owner = stage.owner("loop", on_data=lambda _actor, connection, data: connection.send(b"heard " + data))
    host, port = host_and_port(owner.listen(server_tls=stage.server_tls(), framing="line").address)
    command = ["openssl", "s_client", "-tls1_3", "-connect", f"{host}:{port}", "-CAfile", stage.certificates.ca]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
    ) as client:
        try:
            assert client.stdin is not None
            assert client.stdout is not None
            connection = owner.expect("handle_connection").connection
            owner.call(connection.activate)
            owner.call(connection.set_active, "active")
            said = b""
            for number in range(5):
                word = b"word %d\n" % number
                client.stdin.write(word)
                owner.expect("on_data", word)
                while b"heard " + word not in said:
                    said += client.stdout.read(1000)
                client.stdin.write(b"K\n")
                while said.count(b"KEYUPDATE") <= number:
                    said += client.stdout.read(1000)
            client.stdin.write(b"Q\n")
            owner.expect("on_close", "eof")
        finally:
            client.kill()
